//! Domains that had mail once and have none now.

use std::net::SocketAddr;
use std::time::Duration;

use hikyaku::demo::responder::{Responder, Zone};

use crate::daemon::Daemon;
use crate::is_full;
use crate::probe::Session;
use crate::sink::{self, Sink};

/// Recipients of one message, each in a domain of its own.
const RECIPIENTS: usize = 100;
/// Resident octets that a domain may cost which nothing but its plan is left of.
const MOST: u64 = 1_000;

#[test]
fn a_domain_that_has_gone_quiet_costs_little_and_is_forgotten_by_the_queue() {
    let domains = if is_full() { 200_000 } else { 2_000 };
    let mut zone = Zone::new();
    for number in 0..domains {
        let (domain, mx) = (format!("d{number}.test"), format!("mx.d{number}.test"));
        zone.mx(&domain, 10, &mx).address(&mx, sink::address(number)).ttl(&domain, 86_400).ttl(&mx, 86_400);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let responder = runtime.block_on(Responder::start(SocketAddr::from(([127, 0, 0, 1], 0)), zone)).unwrap();
    let sink = Sink::start(true);
    let more = format!(
        "[delivery]\ntls = \"none\"\nport = {}\nidle = \"1s\"\nipv6 = false\n\
         [dns]\nallow_networks = [\"127.0.0.0/8\"]\nresolvers = [\"{}\"]\n",
        sink.port,
        responder.address()
    );
    let daemon = Daemon::start(tempfile::tempdir().unwrap(), "connections = 2000", &more);
    let mut session = Session::open(daemon.address);
    let mut submit = |from: usize, to: usize| {
        let all: Vec<String> = (from..to).map(|number| format!("a@d{number}.test")).collect();
        for some in all.chunks(RECIPIENTS) {
            session.submit(some);
        }
    };
    let long = Duration::from_secs(1_800);
    // Buffers, threads and tables have their first sizes after these.
    let first = domains / 20;
    submit(0, first);
    daemon.until("the first ones", long, |_| sink.recipients() == first as u64);
    daemon.until("quiet", long, |daemon| sink.open().0 == 0 && daemon.total("queued") == 0);
    let before = daemon.memory();

    submit(first, domains);
    let took = daemon.until("all delivered", long, |_| sink.recipients() == domains as u64);
    daemon.until("quiet", long, |daemon| sink.open().0 == 0 && daemon.total("queued") == 0);
    let known = daemon.memory();
    println!("{domains} domains had a message each, in {took:.1?}; sites in the queue now: {}", sites(&daemon));

    let forgotten = daemon.until("the sweep", Duration::from_secs(90), |daemon| sites(daemon) == 0);
    let plans = daemon.metric("hikyaku_dns_cache_entries");
    assert!(plans <= 200_000.0 && plans >= domains as f64 * 0.9, "{plans} plans are kept for their day");
    let after = daemon.memory();
    let each = |memory: u64| memory.saturating_sub(before) / (domains - first) as u64;
    println!(
        "resident: {} MB before, {} MB quiet ({} octets a domain), {} MB {forgotten:.1?} later with {plans} plans \
         remembered ({} octets a domain)",
        before >> 20,
        known >> 20,
        each(known),
        after >> 20,
        each(after)
    );
    // Of a few thousand domains the daemon's own memory would be most.
    assert!(!is_full() || each(after) <= MOST, "{} octets", each(after));
}

fn sites(daemon: &Daemon) -> u64 {
    daemon.metric("hikyaku_queue_sites") as u64
}
