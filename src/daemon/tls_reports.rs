//! TLS reports: once a day, to each domain that asks for them, how sessions with its MX hosts went (RFC 8460).
//!
//! A day's reports go out over the first hours of the next one, at a time of each domain's own. A report by mail is a message of our own
//! in the queue; whether it arrives is the queue's matter. What was counted is written down every minute.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use ::metrics::Counter;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, UnixTime};
use crate::config::Config;
use crate::dkim::{Signatures, Signer};
use crate::dns;
use crate::log::disk::Disk;
use crate::message::{Content, Envelope, Kind, Lane, Notify, Recipient, TlsWish};
use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::queue::Queue;
use crate::smtp::address::{Address, ReversePath};
use crate::spool::{NewMessage, Spool};
use crate::state::Note;
use crate::tlsrpt::record::{Destination, destinations};
use crate::tlsrpt::report::Report;
use crate::tlsrpt::{Failure as SessionFailure, Kind as PolicyKind, Policy, Tally};

use super::settings;

/// A day's reports go out over so much of the next one (RFC 8460, 4.1 wants them not to come all at midnight).
const SPREAD: Duration = Duration::from_secs(4 * 3_600);
/// How often it is looked whether a report is due, and what was counted is written down.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Reports of one look: a look-up each.
const AT_ONCE: usize = 200;
/// When a domain is looked at again of which nobody could tell whether it wants a report, or whose report failed, in seconds.
const RETRY: u32 = 3_600;
/// Media type of a report over HTTPS.
const GZIP: &str = "application/tlsrpt+gzip";

/// Makes and sends reports. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsReports {
    tally: Tally,
    /// A day's reports are spread over so much of the next day.
    spread: Duration,
    spool: Spool,
    queue: Queue,
    signer: Signer,
    clock: Clock,
    meters: Arc<Meters>,
}

struct Meters {
    sent: Counter,
    unwanted: Counter,
    failed: Counter,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meters").finish_non_exhaustive()
    }
}

/// Why a report is not on its way.
enum Failure {
    /// It may be later.
    Later(String),
    /// It never will.
    Never(String),
}

impl TlsReports {
    /// Reports of what `tally` counts.
    pub fn new(
        tally: Tally,
        spread: Duration,
        parts: (Spool, Queue, Signer),
        clock: Clock,
        registry: &Registry,
    ) -> Self {
        let reports = |result| {
            let help =
                "TLS reports (RFC 8460) that were due: sent (queued, or posted), unwanted by the domain, failed.";
            registry.counter("hikyaku_tls_reports_total", help, &[("result", result)])
        };
        let meters = Meters { sent: reports("sent"), unwanted: reports("unwanted"), failed: reports("failed") };
        let (spool, queue, signer) = parts;
        Self { tally, spread, spool, queue, signer, clock, meters: Arc::new(meters) }
    }

    /// Where sessions are counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Sends what is due.
    pub async fn look(&self) {
        if !self.tally.is_on() {
            return;
        }
        let by = self.tally.reporter();
        let spread = u32::try_from(self.spread.as_secs()).unwrap_or(u32::MAX);
        for (day, domain, counts) in self.tally.due(AT_ONCE, |domain, day| turn(domain, day, spread)) {
            let report = Report { domain: &domain, day, counts: &counts, by: &by };
            match self.report(&report).await {
                Ok(true) => self.meters.sent.increment(1),
                Ok(false) => self.meters.unwanted.increment(1),
                Err(Failure::Later(why)) => {
                    tracing::info!(%domain, why, "a TLS report is put off");
                    self.tally.postpone(day, &domain, self.clock.wall().0.saturating_add(RETRY));
                    continue;
                }
                Err(Failure::Never(why)) => {
                    tracing::warn!(%domain, why, "a TLS report cannot be sent");
                    self.meters.failed.increment(1);
                }
            }
            self.tally.done(day, &domain);
        }
    }

    /// Sends one report to all who want it; false: nobody does.
    async fn report(&self, report: &Report<'_>) -> Result<bool, Failure> {
        let planner = self.queue.planner();
        let records = planner.texts(&format!("_smtp._tls.{}", report.domain)).await;
        let wanted = destinations(&records.map_err(|why| Failure::Later(format!("looking up who wants it: {why}")))?);
        let mut is_sent = false;
        let mut last = None;
        for destination in &wanted {
            let sent = match destination {
                Destination::Mail(to) => self.mail(report, to).await,
                Destination::Https(uri) => {
                    let body = report.compressed().map_err(|error| Failure::Never(error.to_string()))?;
                    let posted = planner.post(uri, GZIP, Bytes::from(body)).await;
                    posted.map_err(|why| Failure::Later(format!("POST to {uri}: {why}")))
                }
            };
            match sent {
                Ok(()) => is_sent = true,
                Err(failure) => last = Some(failure),
            }
        }
        match last {
            // Whoever has it must not get it twice.
            Some(Failure::Later(why) | Failure::Never(why)) if is_sent => {
                tracing::info!(domain = report.domain, why, "a TLS report does not reach everybody who wants it");
                Ok(true)
            }
            Some(failure) => Err(failure),
            None => Ok(is_sent),
        }
    }

    /// Puts a report into the queue.
    async fn mail(&self, report: &Report<'_>, to: &str) -> Result<(), Failure> {
        let never = |why: &dyn std::fmt::Display| Failure::Never(format!("{to}: {why}"));
        let to_address: Address = to.parse().map_err(|error| never(&error))?;
        if !to.is_ascii() {
            return Err(never(&"the address is not in ASCII"));
        }
        let from = report.by.from.parse().map_err(|error| never(&error))?;
        let now = self.clock.wall();
        let content = report.message(to, now).map_err(|error| never(&error))?;
        let (content, signatures) = self.signed(content.into(), now).await?;
        let recipient = Recipient { forward_path: to_address, notify: Notify::NEVER, orcpt: None };
        let envelope = Arc::new(Envelope {
            lane: Lane::Bulk,
            // RFC 8460, 3: the policy that is reported about must not hold it up; and it is counted by nobody.
            tls: TlsWish::Waived,
            kind: Kind::TlsReport,
            ..Envelope::new(ReversePath::Mailbox(from), vec![recipient], now)
        });
        let later = |why: &dyn std::fmt::Display| Failure::Later(why.to_string());
        let _arrival = self.queue.arrival();
        let room = self.queue.reserve(&envelope.tenant, 1).map_err(|error| later(&error))?;
        let (id, size) = (self.spool.next_id(), content.len() as u64);
        let (ended_at, content) = (self.clock.now(), Content::Memory(content));
        let message = NewMessage { id, envelope: envelope.clone(), content, ended_at };
        self.spool.accept(message).await.map_err(|error| later(&error))?;
        self.queue.tell_received(id, &envelope, size, None, None, signatures.as_str());
        room.put(id, &envelope);
        Ok(())
    }

    /// Signing takes a while.
    async fn signed(&self, content: Bytes, now: UnixTime) -> Result<(Bytes, Signatures), Failure> {
        let signer = self.signer.clone();
        let signing = tokio::task::spawn_blocking(move || signer.sign_own(content, now));
        let signed = signing.await.map_err(|error| Failure::Later(error.to_string()))?;
        signed.map_err(|error| Failure::Later(error.to_string()))
    }

    /// Writes down what was counted, if that has changed. Blocks on the disk.
    pub(super) fn write_down(&self, note: &Note) {
        let Some(content) = self.tally.changes() else { return };
        if let Err(error) = note.replace(&content) {
            tracing::warn!(%error, "how TLS sessions went cannot be written down");
            self.tally.not_kept();
        }
    }

    /// Sends and writes down until `stop`: beside each other, since a host that a report is posted to can take its time.
    pub(super) async fn run(self, note: Note, registry: Registry, stop: CancellationToken) {
        let wall = Bulkhead::new(&registry, "tls-reports");
        tokio::join!(self.send(&wall, &stop), self.keep(&note, &wall, &stop));
    }

    async fn send(&self, wall: &Bulkhead, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let own = self.clone();
            let looking = wall.clone().run(async move { own.look().await });
            if let Some(Err(panic)) = stop.run_until_cancelled(looking).await {
                tracing::error!(%panic, "sending TLS reports");
            }
        }
    }

    async fn keep(&self, note: &Note, wall: &Bulkhead, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let (own, note, behind) = (self.clone(), note.clone(), wall.clone());
            let _written = tokio::task::spawn_blocking(move || behind.call(|| own.write_down(&note))).await;
        }
    }
}

/// MTA-STS policies in a file of the state; failures to have them are counted.
#[derive(Debug)]
pub(super) struct KeptPolicies(Note, Tally);

impl KeptPolicies {
    /// Kept in `note`; failures go to `tally`.
    pub fn new(note: Note, tally: Tally) -> Self {
        Self(note, tally)
    }
}

impl dns::Keeper for KeptPolicies {
    fn read(&self) -> Option<Vec<u8>> {
        self.0.read()
    }

    fn replace(&self, content: &[u8]) -> std::io::Result<()> {
        self.0.replace(content)
    }

    fn failed(&self, domain: &str, result: &'static str, why: &str) {
        let policy = Policy { kind: PolicyKind::Sts, lines: Vec::new(), hosts: Vec::new() };
        let (sending_ip, mx_host, receiving_ip) = (None, None, None);
        let (result, reason) = (result.to_owned(), Some(why.to_owned()));
        self.1.count(domain, policy, Some(SessionFailure { result, sending_ip, mx_host, receiving_ip, reason }));
    }
}

/// Where it is written down how TLS goes, what counts it, and what keeps MTA-STS policies. Blocks on the disk.
pub(super) fn begin(
    config: &Config,
    disk: &Arc<Disk>,
    clock: Clock,
    registry: &Registry,
) -> (Note, Tally, Arc<KeptPolicies>) {
    let note = Note::of_tls_reports(disk.clone());
    let tally = tally(config, &note, clock, registry);
    let policies = Arc::new(KeptPolicies::new(Note::of_sts(disk.clone()), tally.clone()));
    (note, tally, policies)
}

/// Reports over the first hours of each day.
pub(super) fn of(tally: Tally, parts: (Spool, Queue, Signer), clock: Clock, registry: &Registry) -> TlsReports {
    TlsReports::new(tally, SPREAD, parts, clock, registry)
}

/// Counts TLS sessions if reports are made, and has what was counted before.
fn tally(config: &Config, note: &Note, clock: Clock, registry: &Registry) -> Tally {
    let tally = Tally::new(clock, registry);
    tally.apply(settings::reporter(config));
    if let Some(content) = note.read() {
        tally.restore(&content);
    }
    tally
}

/// How long after a day's end its report goes, in seconds: the same at each look, other for each domain and day.
fn turn(domain: &str, day: u32, spread: u32) -> u32 {
    let mut hasher = DefaultHasher::new();
    (domain, day).hash(&mut hasher);
    u32::try_from(hasher.finish() % u64::from(spread.max(1))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_spread_over_the_hours_and_keep_their_turn() {
        let turns: Vec<u32> = (0..1_000).map(|number| turn(&format!("{number}.test"), 20_000, 14_400)).collect();

        let early = turns.iter().filter(|turn| **turn < 7_200).count();
        assert!(turns.iter().all(|turn| *turn < 14_400) && (400..600).contains(&early), "{early}");
        assert_eq!(turn("7.test", 20_000, 14_400), turns[7]);
        assert_eq!(turn("a.test", 20_000, 0), 0);
    }
}
