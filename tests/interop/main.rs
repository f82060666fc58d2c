//! Messages from swaks, Python's smtplib and Postfix's smtp-source, through a daemon and the MX look-ups of a local DNS
//! server, to Debian's Exim, Debian's Postfix and smtp-sink: every arrival is what was sent, to whom and from whom.
//!
//! The peers come as packages that are unpacked, not installed. Needs root and apt-get; without, it prints SKIPPED and
//! why, and fails for that in continuous integration unless tests/skips.txt lists it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![allow(clippy::cast_possible_wrap, missing_docs)]

mod arrivals;
mod auth;
mod campaign;
#[path = "../common/daemon.rs"]
mod daemon;
mod packages;
mod receivers;
mod senders;
#[path = "../common/signed_zone.rs"]
mod signed_zone;
#[path = "../common/skip.rs"]
mod skip;
mod tls;
mod wire;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use arrivals::Arrival;
use hikyaku::config::units::Span;
use hikyaku::config::{Config, TlsMode};
use hikyaku::daemon::Daemon;
use hikyaku::demo::responder::{Responder, Zone};
use receivers::{DOMAINS, Receivers, SENDERS, SINK};
use wire::Relay;

const PACKAGES: [&str; 4] = ["exim4-daemon-light", "exim4-base", "postfix", "libnss-wrapper"];
const PATIENCE: Duration = Duration::from_secs(30);

/// What the case needs, or what is missing.
fn prepare(root: &Path) -> Result<(), String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    if !status.lines().any(|line| line.starts_with("Uid:\t0\t")) {
        return Err("Exim and Postfix must be started by root".to_owned());
    }
    packages::run(Command::new("python3").args(["-c", "import smtplib"]))?;
    packages::run(Command::new("swaks").arg("--version"))?;
    packages::unpack(root, "interop-packages", &PACKAGES)
}

fn zone(receivers: &Receivers) -> Zone {
    let mut zone = Zone::new();
    let indexes = DOMAINS.into_iter().zip(0..).chain([(SINK, 4), (SENDERS, 0)]);
    for (domain, index) in indexes {
        let host = format!("mx.{domain}");
        zone.mx(domain, 10, &host).address(&host, receivers.address(index));
    }
    zone
}

fn config(folder: &Path, port: u16, resolver: SocketAddr) -> Config {
    let second = Span(Duration::from_secs(1));
    let mut config = daemon::config(folder);
    config.retry.schedule = vec![second];
    config.delivery.port = port;
    config.delivery.tls = TlsMode::None;
    // Postfix's processes end with their connection, and see the changed table then.
    config.delivery.idle = Span(Duration::from_millis(300));
    config.dns.resolvers = vec![resolver];
    config
}

/// Everything that runs.
struct Stage {
    runtime: tokio::runtime::Runtime,
    daemon: Daemon,
    _responder: Responder,
    receivers: Receivers,
    relay: Relay,
}

impl Stage {
    fn start(folder: &Path) -> Self {
        let receivers = Receivers::start(folder);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (responder, daemon) = runtime.block_on(async {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let responder = Responder::start(at, zone(&receivers)).await.unwrap();
            let daemon = Daemon::start(config(folder, receivers.port, responder.address())).await.unwrap();
            (responder, daemon)
        });
        let relay = Relay::start(daemon.submission_addresses()[0]);
        Self { runtime, daemon, _responder: responder, receivers, relay }
    }

    /// All arrivals, once they are enough or time is over.
    fn arrivals(&self, is_enough: impl Fn(&[Arrival]) -> bool) -> Vec<Arrival> {
        let begun = Instant::now();
        loop {
            let arrivals: Vec<_> = self.receivers.folders().iter().flat_map(|folder| arrivals::read(folder)).collect();
            if is_enough(&arrivals) || begun.elapsed() > PATIENCE {
                return arrivals;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn queued(&self) -> usize {
        self.daemon.queue().view().totals.queued
    }
}

#[test]
fn every_peer_gets_what_was_sent_and_refusals_are_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    if let Err(reason) = prepare(&folder.path().join("root")) {
        return skip::skip("every_peer_gets_what_was_sent_and_refusals_are_reported_once", &reason);
    }
    let stage = Stage::start(folder.path());
    let contents = folder.path().join("contents");
    std::fs::create_dir(&contents).unwrap();

    senders::python(stage.relay.address, &contents);
    senders::swaks(stage.relay.address, &contents);
    senders::smtp_source(stage.relay.address, &folder.path().join("root"));

    let sent = stage.relay.sent();
    let of_kind = |kind: &str| sent.iter().filter(|sent| sent.recipient.starts_with(kind)).count();
    let (bad, later) = (of_kind("bad"), of_kind("later"));
    assert!(bad >= 50 && later >= 50, "{bad} {later}");
    let prompt = sent.len() - bad - later;
    let is_dsn = |arrival: &Arrival| arrival.recipient.ends_with(SENDERS);
    let mail = |arrivals: &[Arrival]| arrivals.iter().filter(|arrival| !is_dsn(arrival)).count();
    let early = stage.arrivals(|arrivals| mail(arrivals) >= prompt && reported(arrivals).len() >= bad);
    assert!(early.iter().all(|arrival| !arrival.recipient.starts_with("later")), "not before the receivers let them");
    stage.receivers.open();
    stage.arrivals(|arrivals| mail(arrivals) >= sent.len() - bad && stage.queued() == 0);
    stage.arrivals(|_| stage.receivers.are_idle());
    // Only now all duplicates are there too.
    let arrivals = stage.arrivals(|_| true);

    let (dsns, mail): (Vec<_>, Vec<_>) = arrivals.into_iter().partition(is_dsn);
    let expected = sent.iter().filter(|sent| !sent.recipient.starts_with("bad")).cloned().collect();
    assert_same(expected, mail, &stage);
    assert!(dsns.iter().all(|dsn| dsn.reverse_path.is_empty()), "DSNs come from nobody");
    let refused = sent.iter().filter(|sent| sent.recipient.starts_with("bad"));
    let mut refused: Vec<_> = refused.map(|sent| (sent.reverse_path.clone(), sent.recipient.clone())).collect();
    refused.sort();
    assert_eq!(reported(&dsns), refused);
    stage.runtime.block_on(stage.daemon.stop(Duration::from_secs(5)));
}

/// Who was told about which recipient, once for each time.
fn reported(arrivals: &[Arrival]) -> Vec<(String, String)> {
    let mut reported = Vec::new();
    for dsn in arrivals.iter().filter(|arrival| arrival.recipient.ends_with(SENDERS)) {
        let text = String::from_utf8_lossy(&dsn.content);
        let finals = text.lines().filter_map(|line| line.strip_prefix("Final-Recipient: rfc822;"));
        reported.extend(finals.map(|recipient| (dsn.recipient.clone(), recipient.trim().to_owned())));
    }
    reported.sort();
    reported
}

/// The same arrivals the same number of times; else which ones differ, and how.
fn assert_same(expected: Vec<Arrival>, found: Vec<Arrival>, stage: &Stage) {
    let mut balance: BTreeMap<Arrival, i32> = BTreeMap::new();
    expected.into_iter().for_each(|arrival| *balance.entry(arrival).or_default() += 1);
    found.into_iter().for_each(|arrival| *balance.entry(arrival).or_default() -= 1);
    let wrong: Vec<String> = balance.iter().filter(|(_, count)| **count != 0).map(|(a, n)| describe(a, *n)).collect();
    if !wrong.is_empty() {
        let some = wrong.iter().take(12).cloned().collect::<String>();
        panic!("{} differences (+ did not come, - was not sent):\n{some}\n{}", wrong.len(), stage.receivers.logs());
    }
}

fn describe(arrival: &Arrival, count: i32) -> String {
    let Arrival { recipient, reverse_path, content } = arrival;
    let (length, end) = (content.len(), &content[content.len().saturating_sub(60)..]);
    let start = &content[..length.min(120)];
    format!("{count:+} <{reverse_path}> <{recipient}> {length} {} ... {}\n", start.escape_ascii(), end.escape_ascii())
}
