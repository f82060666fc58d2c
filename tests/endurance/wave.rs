//! Everything that is queued is due in the same second.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hikyaku::clock::{Clock, UnixTime};
use hikyaku::log::disk::Disk;
use hikyaku::message::{Content, Envelope, Recipient};
use hikyaku::metrics::Registry;
use hikyaku::smtp::address::ReversePath;
use hikyaku::spool::{Attempts, Event, NewMessage, RecipientEvent, Settings, Spool};

use crate::daemon::Daemon;
use crate::is_full;
use crate::probe::Probe;
use crate::sink::{self, Sink};

/// Recipients of one message, each in another domain.
const RECIPIENTS: usize = 10;
/// Messages a second and connections that one domain is offered.
const RATE: u32 = 10;
/// Half a second's worth may go at once (`limit::rate`).
const BURST: u32 = RATE / 2;
const SITE_CONNECTIONS: usize = 3;

/// Fills a spool with messages that were all deferred once; gives the second in which all are due.
fn prepare(folder: &Path, messages: usize, domains: usize, notice: Duration) -> UnixTime {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (clock, registry) = (Clock::system(), Registry::new().unwrap());
    let settings = Settings {
        path: "unused".into(),
        segment_size: 64 << 20,
        reserve: 0,
        sync: false,
        attempts: Attempts::Write,
        deadline: Duration::from_secs(600),
        cache: 1 << 20,
        keys: hikyaku::spool::Keys::default(),
    };
    let disk = Arc::new(Disk::new(folder.join("spool")));
    let (spool, recovery) = Spool::open(settings, disk, clock, &registry).unwrap();
    recovery.run(&mut |_| {});
    let accept = |number: usize| {
        let recipient = |index: usize| {
            Recipient::new(format!("a{number}@d{}.test", (number * RECIPIENTS + index) % domains).parse().unwrap())
        };
        let envelope =
            Arc::new(Envelope::new(ReversePath::Null, (0..RECIPIENTS).map(recipient).collect(), clock.wall()));
        let content = Content::Memory(format!("Subject: {number}\r\n\r\nHello.\r\n").into_bytes().into());
        let (id, spool) = (spool.next_id(), spool.clone());
        let message = NewMessage { id, envelope, content, ended_at: Instant::now() };
        async move {
            spool.accept(message).await.unwrap();
            id
        }
    };
    let mut ids = Vec::with_capacity(messages);
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..messages {
            if tasks.len() >= 1_000 {
                ids.push(tasks.join_next().await.unwrap().unwrap());
            }
            tasks.spawn(accept(number));
        }
        ids.extend(tasks.join_all().await);
    });
    let due = clock.wall().plus(notice);
    let deferred = Event::Deferred { attempts: 1, due, delay_reported: false };
    let events: Vec<_> =
        (0..).take(RECIPIENTS).map(|recipient| RecipientEvent { recipient, event: deferred.clone() }).collect();
    for id in ids {
        spool.record(id, &events);
    }
    spool.close_blocking();
    due
}

#[test]
fn a_queue_that_is_due_at_once_stays_within_every_limit_and_leaves() {
    let (messages, domains, connections, notice) =
        if is_full() { (100_000, 10_000, 2_000, 30) } else { (2_000, 500, 200, 6) };
    let folder = tempfile::tempdir().unwrap();
    let recipients = messages * RECIPIENTS;
    let due = prepare(folder.path(), messages, domains, Duration::from_secs(notice));
    let sink = Sink::start(true);
    let routes: String = (0..domains)
        .map(|number| {
            let address = sink::address(number);
            format!("[[route]]\ndomain = \"d{number}.test\"\nnext_hop = \"smtp://{address}:{}\"\n", sink.port)
        })
        .collect();
    let limits =
        format!("connections = {connections}\nsite_connections = {SITE_CONNECTIONS}\nsite_rate = \"{RATE}/s\"");
    let more = format!(
        "[delivery]\ntls = \"none\"\n[dns]\nallow_networks = [\"127.0.0.0/8\"]\n\
         [[route]]\ndomain = \"discard.test\"\nnext_hop = \"discard\"\n{routes}\
         [[limits.rule]]\nsite = \"discard\"\nrate = \"1000000/s\"\n"
    );
    let daemon = Daemon::start(folder, &limits, &more);
    daemon.until("recovery", Duration::from_secs(60), |daemon| daemon.total("scheduled") == recipients as u64);
    assert_eq!(sink.recipients(), 0, "the machine is too slow for the notice: all was due before it was raised");
    println!("{recipients} scheduled in {domains} domains: {} MB resident", daemon.memory() >> 20);
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(due.0));
    let quiet = Probe::start(daemon.address);
    std::thread::sleep(at.duration_since(SystemTime::now()).unwrap_or_default());
    quiet.end("before the wave");

    let probe = Probe::start(daemon.address);
    let long = Duration::from_secs(if is_full() { 1_800 } else { 120 });
    let admitted = daemon.until("all ready", long, |daemon| daemon.total("scheduled") == 0);
    println!("all in the lines of their sites after {admitted:.2?}, {} MB resident", daemon.memory() >> 20);
    let left = daemon.until("an empty queue", long, |_| sink.recipients() == recipients as u64);
    println!("all gone after {left:.2?} more: {:.0} a second", recipients as f64 / (admitted + left).as_secs_f64());
    probe.end("in the wave");

    let (_, most_open) = sink.open();
    println!("{most_open} connections at once, of {connections}");
    assert!(most_open <= connections);
    // When the permission for each of a domain's messages is given at the earliest.
    for seen in sink.seen() {
        assert!(seen.most_open <= SITE_CONNECTIONS, "{}", seen.most_open);
        assert_eq!(seen.arrivals.len(), recipients / domains);
        for (number, arrival) in (0..).zip(&seen.arrivals) {
            let earliest = at + Duration::from_secs(1) * (number + 1_u32).saturating_sub(BURST) / RATE;
            // The clocks of two processes, of which one may be slewed.
            assert!(*arrival + Duration::from_millis(5) >= earliest, "message {number} of a domain came too early");
        }
    }
    daemon.until("an empty spool", Duration::from_secs(30), |daemon| daemon.total("queued") == 0);
    println!("{} MB resident at the end", daemon.memory() >> 20);
    assert!(daemon.memory() < if is_full() { 500 << 20 } else { 200 << 20 });
}
