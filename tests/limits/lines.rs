//! Who is served next at a path that is at its limit.

use std::collections::HashMap;
use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use hikyaku::demo::responder::{Responder, Zone};
use hikyaku::message::Lane;

use crate::daemon::Daemon;
use crate::is_full;
use crate::letter::Client;
use crate::sink::{Arrival, Sink};
use crate::stock::{Letter, fill};

/// Messages a second that the path is allowed.
const RATE: usize = 100;
const LONG: Duration = Duration::from_secs(600);

/// A daemon that delivers `far.test` to a sink, on a spool that was filled.
fn daemon(sink: &Sink, limits: &str, letters: impl Iterator<Item = Letter<'static>>) -> Daemon {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), letters);
    let more = format!(
        "[delivery]\ntls = \"none\"\n[dns]\nallow_networks = [\"127.0.0.0/8\"]\n\
         [[route]]\ndomain = \"far.test\"\nnext_hop = \"smtp://{}\"\n",
        sink.address
    );
    Daemon::start(folder, limits, &more)
}

fn letter(tenant: &'static str, campaign: &'static str, lane: Lane) -> Letter<'static> {
    Letter { tenant, campaign, lane, to: "a@far.test" }
}

/// A message and what was there when its 250 came.
struct Sent {
    from: String,
    taken: usize,
    at: Instant,
}

/// Submits `count` messages, one every `pause`, and waits until the last one has arrived.
fn submit(daemon: &Daemon, sink: &Sink, (name, header): (&str, &str), count: usize, pause: Duration) -> Vec<Sent> {
    let mut client = Client::open(daemon.address);
    let mut sent = Vec::new();
    for number in 0..count {
        let from = format!("{name}{number}@client.test");
        client.submit(&from, "a@far.test", header);
        sent.push(Sent { from, taken: sink.taken(), at: Instant::now() });
        thread::sleep(pause);
    }
    daemon.until("all of them arrived", LONG, |_| {
        sink.arrivals().iter().filter(|arrival| arrival.from.starts_with(name)).count() == count
    });
    sent
}

/// Of each how many others arrived between its 250 and itself, and how long that took; both sorted.
fn waits(sent: &[Sent], arrivals: &[Arrival]) -> (Vec<usize>, Vec<Duration>) {
    let found: HashMap<&str, usize> =
        arrivals.iter().enumerate().map(|(place, arrival)| (&*arrival.from, place)).collect();
    let places = sent.iter().map(|one| (one, found[&*one.from]));
    let mut overtaken: Vec<usize> = places.clone().map(|(one, place)| place.saturating_sub(one.taken)).collect();
    let mut took: Vec<Duration> =
        places.map(|(one, place)| arrivals[place].at.saturating_duration_since(one.at)).collect();
    overtaken.sort_unstable();
    took.sort_unstable();
    (overtaken, took)
}

/// Jain's index of fairness: 1 when all are equal.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), share| (sum + share, squares + share * share));
    sum * sum / (shares.len() as f64 * squares)
}

/// What each of five tenants has among the first arrivals.
fn shares(arrivals: &[Arrival]) -> Vec<f64> {
    let tenant = |n: usize| format!("t{n}@client.test");
    (0..5).map(|n| arrivals.iter().filter(|arrival| arrival.from == tenant(n)).count() as f64).collect()
}

/// Five tenants of which each has more than its share of `first` messages, one of them ten times as much.
fn five(first: usize) -> impl Iterator<Item = Letter<'static>> {
    let own = [first / 4, first / 3, first / 2, first, first * 2];
    let tenants = ["t0", "t1", "t2", "t3", "t4"];
    // The largest come first.
    tenants
        .into_iter()
        .zip(own)
        .rev()
        .flat_map(|(tenant, count)| (0..count).map(move |_| letter(tenant, "", Lane::Bulk)))
}

#[test]
fn urgent_mail_overtakes_bulk_mail_however_much_there_is() {
    let bulk = if is_full() { 1_000_000 } else { 20_000 };
    let urgent = 25;
    let sink = Sink::taking();
    let limits = format!("site_rate = \"{RATE}/s\"\nsite_connections = 5");
    let begun = Instant::now();
    let campaigns = ["spring", "summer", "autumn", "winter"];
    let daemon = daemon(&sink, &limits, (0..bulk).map(|n| letter("shop", campaigns[n % 4], Lane::Bulk)));
    println!("{bulk} bulk messages on disk, and a daemon on them, after {:.1?}", begun.elapsed());
    daemon.until("all of them queued", LONG, |daemon| {
        let totals = daemon.totals();
        let ready = totals["ready"].as_u64().unwrap() as usize;
        ready + sink.taken() + 50 >= bulk
    });
    daemon.until("the path at its limit", LONG, |_| sink.taken() > 2 * RATE);
    println!("{} MB resident", daemon.memory() >> 20);

    let header = "X-Hikyaku-Tenant: shop\r\nX-Hikyaku-Lane: urgent\r\n";
    let sent = submit(&daemon, &sink, ("urgent", header), urgent, Duration::from_millis(150));

    let (overtaken, took) = waits(&sent, &sink.arrivals());
    println!(
        "{urgent} urgent messages beside {bulk} of bulk at {RATE} a second: behind {} at most, {} in the median; from the 250 \
         to the receipt {:.0?} at most, {:.0?} in the median",
        overtaken[urgent - 1],
        overtaken[urgent / 2],
        took[urgent - 1],
        took[urgent / 2]
    );
    assert!(overtaken[urgent - 1] <= 2 * RATE, "{overtaken:?}: more than two seconds' worth went before");
}

#[test]
fn a_light_tenant_does_not_wait_behind_a_flood_at_a_path_at_its_limit() {
    let light = 100;
    let sink = Sink::taking();
    let limits = format!("site_rate = \"{RATE}/s\"\nsite_connections = 5");
    let daemon = daemon(&sink, &limits, (0..20_000).map(|_| letter("flood", "", Lane::Bulk)));
    daemon.until("the path at its limit", LONG, |_| sink.taken() > 2 * RATE);

    let header = "X-Hikyaku-Tenant: light\r\nX-Hikyaku-Lane: bulk\r\n";
    let sent = submit(&daemon, &sink, ("light", header), light, Duration::from_millis(50));

    let (overtaken, took) = waits(&sent, &sink.arrivals());
    let p99 = light * 99 / 100 - 1;
    println!("a light tenant at {RATE} a second: p99 behind {} of the flood, {:.0?}", overtaken[p99], took[p99]);
    assert!(overtaken[p99] <= 5 * RATE, "{overtaken:?}: more than five seconds' worth went before");
}

#[test]
fn equal_tenants_share_a_configured_rate_equally() {
    let first = 5 * RATE;
    let sink = Sink::taking();
    let limits = format!("site_rate = \"{RATE}/s\"\nsite_connections = 5");
    let daemon = daemon(&sink, &limits, five(first));

    daemon.until("enough arrived", LONG, |_| sink.taken() >= first);

    let shares = shares(&sink.arrivals()[..first]);
    println!("shares of {first} at a configured rate: {shares:?}, Jain's index {:.4}", jain(&shares));
    assert!(jain(&shares) >= 0.95, "{shares:?}");
}

#[test]
fn equal_tenants_share_a_learnt_rate_equally() {
    let first = 5 * RATE;
    let sink = Sink::taking();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut zone = Zone::new();
    zone.mx("far.test", 10, "mx.far.test").address("mx.far.test", [127, 0, 0, 1]);
    let responder = runtime.block_on(Responder::start(([127, 0, 0, 1], 0).into(), zone)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), five(first));
    let mut more = String::new();
    write!(more, "[delivery]\ntls = \"none\"\nport = {}\n", sink.address.port()).unwrap();
    write!(more, "[dns]\nresolvers = [\"{}\"]\nallow_networks = [\"127.0.0.0/8\"]\n", responder.address()).unwrap();

    let daemon = Daemon::start(folder, "first_rate = \"50/s\"", &more);
    daemon.until("enough arrived", LONG, |_| sink.taken() >= first);

    let arrivals = sink.arrivals();
    let took = arrivals[first - 1].at.saturating_duration_since(arrivals[0].at);
    let shares = shares(&arrivals[..first]);
    println!("shares of {first} in {took:.1?} at a learnt rate: {shares:?}, Jain's index {:.4}", jain(&shares));
    assert!(took > Duration::from_secs(4), "{took:?}: the rate limited nothing");
    assert!(jain(&shares) >= 0.95, "{shares:?}");
}
