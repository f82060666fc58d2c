//! What comes back: reports that were taken in are read, acted on, told and passed on.
//!
//! A report is a message in the spool ([`Kind::Returned`](crate::message::Kind::Returned)) from before its 250 until it is done. [`Inbox::run`] gets the ids of those
//! that have come in, and at the start of those that were left, and takes many at a time:
//!
//! 1. each is read and taken apart, and `case` says what it comes to;
//! 2. entries go on the suppression list, all with one sync;
//! 3. the journal is asked, once for all, which recipient each is about and where that message went;
//! 4. the event is told; where the tenant wants it the report is put into the queue for the message's reverse-path, in one record with
//!    the end of the report itself.
//!
//! So a crash repeats what was not done; entries that are there already stay as they are. What the list does not take is tried again,
//! until it is taken: mail goes on meanwhile.

mod case;
mod meters;
mod passing;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::bounce::parse::{Parsed, Parser};
use crate::bounce::token::day_of;
use crate::clock::{Clock, UnixTime};
use crate::feedback::{Action, Feedback, Place, Policy};
use crate::journal::{self, Event, Journal, Origin};
use crate::message::{Message, MessageId};
use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::provider::Map;
use crate::queue::Queue;
use crate::reply::LazyClassifier;
use crate::smtp::address::Address;
use crate::spool::{Event as Ending, LoadError, RecipientEvent, Spool};
use crate::state::suppression::{Change, Entry, Reason, Target};

pub use case::{Case, Consequence, Evidence};
use meters::Meters;

/// Reports that are done together.
const AT_ONCE: usize = 512;
/// How long a few reports wait for more: each look into the journal reads all of its last days.
const GATHER: Duration = Duration::from_millis(250);
/// How long a disk rests that has not taken something.
const REST: Duration = Duration::from_secs(5);
/// Octets of a report in which an address of ours is looked for, and which is taken apart: a returned message may be as large as any.
const MOST_READ: usize = 8 << 20;
/// Seconds of a day.
const DAY: u32 = 86_400;

/// Reads what comes back. Cheap to clone.
#[derive(Clone)]
pub struct Inbox {
    spool: Spool,
    queue: Queue,
    feedback: Feedback,
    journal: Journal,
    /// The journal's folder; none: there is none.
    folder: Option<Arc<PathBuf>>,
    /// Replaced by a reload.
    reader: Arc<ArcSwap<Reader>>,
    clock: Clock,
    meters: Arc<Meters>,
    wall: Bulkhead,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Takes reports apart; made when the first one comes.
#[derive(Default)]
struct Reader {
    classifier: LazyClassifier,
    parser: OnceLock<Option<Parser>>,
}

impl Reader {
    fn parse(&self, octets: &[u8]) -> Parsed {
        let make = || Map::built_in().ok().map(|providers| Parser::new(self.classifier.get(), providers));
        self.parser.get_or_init(make).as_ref().map(|parser| parser.parse(octets)).unwrap_or_default()
    }
}

/// A report that was read.
struct Read {
    message: Message,
    octets: Bytes,
    parsed: Parsed,
    /// The recipients that are not done.
    recipients: Vec<u32>,
}

/// One recipient's case, with what it made of the list.
struct Done<'a> {
    report: &'a Read,
    recipient: u32,
    place: Option<Place>,
    case: Case<'a>,
    entry: Option<Entry>,
}

impl Inbox {
    /// What reads reports. `folder` is the journal's.
    pub fn new(
        (spool, queue, feedback): (Spool, Queue, Feedback),
        (journal, folder): (Journal, Option<PathBuf>),
        classifier: &LazyClassifier,
        clock: Clock,
        registry: &Registry,
    ) -> Self {
        let reader = Reader { classifier: classifier.clone(), ..Reader::default() };
        Self {
            spool,
            queue,
            feedback,
            journal,
            folder: folder.map(Arc::new),
            reader: Arc::new(ArcSwap::from_pointee(reader)),
            clock,
            meters: Arc::new(Meters::new(registry)),
            wall: Bulkhead::new(registry, "inbound"),
        }
    }

    /// Goes by these rules about replies from now on.
    pub fn apply(&self, classifier: &LazyClassifier) {
        if !self.reader.load().classifier.is_as(classifier) {
            self.reader.store(Arc::new(Reader { classifier: classifier.clone(), ..Reader::default() }));
        }
    }

    /// Reads what comes, until `stop`; what is left then is in the spool for the next start.
    pub async fn run(self, mut reports: UnboundedReceiver<MessageId>, stop: CancellationToken) {
        loop {
            let Some(Some(first)) = stop.run_until_cancelled(reports.recv()).await else { return };
            if stop.run_until_cancelled(tokio::time::sleep(GATHER)).await.is_none() {
                return;
            }
            let mut ids = vec![first];
            while ids.len() < AT_ONCE {
                let Ok(id) = reports.try_recv() else { break };
                ids.push(id);
            }
            let count = ids.len();
            // To its end: the disk must be left alone by then.
            self.settle(ids, &stop).await;
            (0..count).for_each(|_| self.feedback.done());
        }
    }

    /// Does these; tries again what the disk does not take.
    async fn settle(&self, ids: Vec<MessageId>, stop: &CancellationToken) {
        let mut left = ids;
        while !left.is_empty() {
            let (own, ids) = (self.clone(), left.clone());
            let handle = tokio::runtime::Handle::current();
            let work = move || own.wall.clone().call(|| own.attempt(&ids, &handle));
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(again)) => left = again,
                // One of them makes the program panic: each by itself, and that one is left to the next start.
                _ if left.len() > 1 => {
                    for id in std::mem::take(&mut left) {
                        Box::pin(self.settle(vec![id], stop)).await;
                    }
                }
                _ => {
                    tracing::error!(report = ?left, "a report makes the program panic; it stays in the spool");
                    return;
                }
            }
            if !left.is_empty() && stop.run_until_cancelled(tokio::time::sleep(REST)).await.is_none() {
                return;
            }
        }
    }

    /// Does what can be done of these; gives those that are to be tried again.
    fn attempt(&self, ids: &[MessageId], handle: &tokio::runtime::Handle) -> Vec<MessageId> {
        let mut again = Vec::new();
        let mut reports = Vec::with_capacity(ids.len());
        for id in ids {
            match self.read(*id) {
                Ok(report) => reports.extend(report),
                Err(error) => {
                    tracing::warn!(report = %id, %error, "a report cannot be read now");
                    again.push(*id);
                }
            }
        }
        let (now, policy) = (self.clock.wall(), self.feedback.policy());
        let mut done: Vec<Done<'_>> = reports.iter().flat_map(|report| self.cases(report, &policy, now)).collect();
        let entries: Vec<Entry> = done.iter().filter_map(|done| done.entry.clone()).collect();
        if !entries.is_empty() && self.feedback.add(entries).is_err() {
            again.extend(reports.iter().map(|report| report.message.id));
            return again;
        }
        let origins = self.origins(&done);
        let origin = |done: &Done<'_>| {
            let about = done.case.about(&done.report.parsed)?;
            self.origin_of(done, origins.get(&about)?)
        };
        let origins: Vec<Option<&Origin>> = done.iter().map(origin).collect();
        self.name(&mut done, &origins);
        for (done, origin) in done.iter().zip(origins) {
            match handle.block_on(self.pass_on(done, origin, &policy)) {
                Ok(passed_on) => self.tell(done, origin, passed_on),
                Err(error) => {
                    tracing::warn!(report = %done.report.message.id, %error, "a report cannot be passed on now");
                    again.push(done.report.message.id);
                }
            }
        }
        again.sort_unstable();
        again.dedup();
        again
    }

    /// A report with what is in it; none: it is done, or will never be read.
    fn read(&self, id: MessageId) -> io::Result<Option<Read>> {
        let recipients: Vec<u32> = self.spool.pending(id).iter().map(|pending| pending.recipient).collect();
        let message = match self.spool.load(id) {
            Ok(message) if !recipients.is_empty() => message,
            Ok(_) | Err(LoadError::Unknown) => return Ok(None),
            Err(LoadError::Damaged) => {
                self.meters.damaged.increment(1);
                tracing::error!(report = %id, "a report is damaged, and nothing comes of it; it stays in the spool");
                return Ok(None);
            }
            Err(LoadError::Io(error)) => return Err(error),
        };
        let octets = whole(&message)?;
        let parsed = self.reader.load().parse(&octets);
        self.meters.read(parsed.kind);
        Ok(Some(Read { message, octets, parsed, recipients }))
    }

    /// What a report comes to for each address that it came to.
    fn cases<'a>(&self, report: &'a Read, policy: &Policy, now: UnixTime) -> Vec<Done<'a>> {
        let mut cases = Vec::new();
        for recipient in &report.recipients {
            let envelope = &report.message.envelope;
            let index = usize::try_from(*recipient).unwrap_or(usize::MAX);
            let place = envelope.recipients.get(index).and_then(|to| self.feedback.place(&to.forward_path, now).ok());
            let quoted = || self.feedback.find_token(&report.octets, now);
            let case = case::case(&report.parsed, place.clone(), quoted, &self.feedback, policy);
            self.meters.evidence(case.evidence);
            let entry = self.entry(&case, report.message.id, policy, now);
            cases.push(Done { report, recipient: *recipient, place, case, entry });
        }
        cases
    }

    /// The entry that follows from a case.
    fn entry(&self, case: &Case<'_>, report: MessageId, policy: &Policy, now: UnixTime) -> Option<Entry> {
        let Consequence::Suppress(reason, action) = case.consequence else { return None };
        let mailbox = case.mailbox()?;
        let tenant = case.tenant.as_deref()?;
        let (reason, until) = match action {
            Action::Nothing => return None,
            Action::Count => (Reason::MailboxFull, Some(self.feedback.count(mailbox, policy, now)?)),
            Action::Suppress(lasting) => (reason, lasting.map(|lasting| now.plus(lasting))),
        };
        let target = case.address.clone().map_or(Target::Hash(mailbox), Target::Address);
        let scope = policy.scope_of(reason, tenant, "");
        Some(Entry { target, scope, reason, source: format!("report {report}").into(), added: now, until })
    }

    /// What the journal has of the messages that reports are about.
    fn origins(&self, done: &[Done<'_>]) -> std::collections::HashMap<MessageId, Vec<Origin>> {
        let Some(folder) = &self.folder else { return Default::default() };
        let messages: HashSet<MessageId> =
            done.iter().filter_map(|done| done.case.about(&done.report.parsed)).collect();
        if messages.is_empty() {
            return Default::default();
        }
        // A Message-ID has no day that can be believed: as far back as tokens are.
        let today = day_of(self.clock.wall());
        let oldest = today.saturating_sub(self.feedback.policy().token_days);
        let day = |done: &Done<'_>| done.case.token.map_or(oldest, |token| token.day);
        let since = done.iter().map(day).min().unwrap_or(oldest);
        let found = journal::origins(folder, &messages, UnixTime(u32::from(since).saturating_mul(DAY)));
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, "the journal cannot be asked what reports are about");
            Default::default()
        })
    }

    /// Which of a message's recipients a case is about.
    fn origin_of<'o>(&self, done: &Done<'_>, known: &'o [Origin]) -> Option<&'o Origin> {
        let Some(token) = &done.case.token else {
            // Nobody says which, unless there was one only.
            return if let [only] = known { Some(only) } else { None };
        };
        let is_it = |origin: &&Origin| {
            let address: Option<Address> = origin.recipient.parse().ok();
            address.is_some_and(|address| self.feedback.list().hash(&address).0 == token.mailbox)
        };
        let only = if let [only] = known { Some(only) } else { None };
        known.iter().find(is_it).or_else(|| only.filter(|_| self.journal.is_masked()))
    }

    /// Entries by hash get the addresses that the journal has, all with one sync. Nothing is lost if they cannot.
    fn name(&self, done: &mut [Done<'_>], origins: &[Option<&Origin>]) {
        if self.journal.is_masked() {
            return;
        }
        let mut changes = Vec::new();
        for (done, origin) in done.iter_mut().zip(origins) {
            let Some(address) = origin.and_then(|origin| origin.recipient.parse::<Address>().ok()) else { continue };
            let Some(entry) = done.entry.as_ref().and_then(|made| self.by_hash(made)) else { continue };
            let (target, scope) = (entry.target.clone(), entry.scope.clone());
            changes.push(Change::Remove { target, scope });
            changes.push(Change::Add(Entry { target: Target::Address(address.clone()), ..entry }));
            done.case.address = Some(address);
        }
        if !changes.is_empty()
            && let Err(error) = self.feedback.list().apply(&changes, self.clock.wall())
        {
            tracing::warn!(%error, "suppressed recipients are known by their hashes only");
        }
    }

    /// What stands where a report has made an entry, if it is one by hash: what stood before may say more.
    fn by_hash(&self, made: &Entry) -> Option<Entry> {
        let Entry { target: target @ Target::Hash(_), scope, .. } = made else { return None };
        let stands = self.feedback.list().entry(target, scope, self.clock.wall()).ok().flatten();
        stands.filter(|entry| matches!(entry.target, Target::Hash(_)))
    }

    fn tell(&self, done: &Done<'_>, origin: Option<&Origin>, passed_on: Option<MessageId>) {
        let Done { report, case, entry, .. } = done;
        let parsed = &report.parsed;
        let about = case.about(parsed);
        let action = match (&entry, case.consequence) {
            (Some(_), _) => "suppressed",
            (None, Consequence::Suppress(_, Action::Count)) => "counted",
            (None, _) => "none",
        };
        self.meters.action(action);
        let of_journal = origin.and_then(|origin| origin.recipient.parse::<Address>().ok());
        let address = case.address.as_ref().or(of_journal.as_ref());
        // Where addresses are masked the journal has no address that could be masked once more.
        let masked = origin.filter(|_| self.journal.is_masked()).map(|origin| (origin.recipient.as_str(), ""));
        let recipient = address.map(|address| (address.as_str(), address.domain())).or(masked);
        let verdict = case.reported.and_then(|reported| reported.verdict.as_ref());
        let status = case.reported.and_then(|reported| reported.status).map(|status| status.to_string());
        self.journal.tell(&Event::Report(journal::Report {
            what: parsed.kind.as_str(),
            id: report.message.id,
            evidence: case.evidence.as_str(),
            action,
            about,
            tenant: case.tenant.as_deref().unwrap_or_default(),
            recipient,
            hash: &case.mailbox().map(|hash| hash.to_string()).unwrap_or_default(),
            quoted_id: parsed.message_id.as_deref().unwrap_or_default(),
            refusal: verdict.map(|verdict| journal::Refusal {
                class: verdict.class.as_str(),
                rule: &verdict.rule,
                permanent: case.reported.is_some_and(crate::bounce::parse::Recipient::is_permanent),
                list: None,
            }),
            reply_code: case.reported.map_or(0, |reported| reported.reply_code),
            status: status.as_deref().unwrap_or_default(),
            remote_mta: case.reported.and_then(|reported| reported.remote_mta.as_deref()).unwrap_or_default(),
            diagnostic: case.reported.map_or("", |reported| reported.diagnostic.as_str()),
            feedback_type: parsed.feedback_type.as_deref().unwrap_or_default(),
            origin,
            passed_on,
        }));
    }
}

/// That a recipient of a report is done.
fn ending(recipient: u32) -> [RecipientEvent; 1] {
    [RecipientEvent { recipient, event: Ending::Delivered }]
}

/// As much of a message as is taken apart.
fn whole(message: &Message) -> io::Result<Bytes> {
    let most = usize::try_from(message.content.len()).unwrap_or(usize::MAX).min(MOST_READ);
    message.content.chunk(0, most)
}
