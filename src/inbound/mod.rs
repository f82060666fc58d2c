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

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::bounce::parse::{Parsed, Parser};
use crate::bounce::token::day_of;
use crate::clock::{Clock, UnixTime};
use crate::feedback::{Action, Feedback, Naming, Place, Policy};
use crate::journal::{self, Event, Journal, Origin};
use crate::message::{Message, MessageId};
use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::provider::Map;
use crate::queue::Queue;
use crate::reply::LazyClassifier;
use crate::smtp::address::Address;
use crate::spool::{Event as Ending, LoadError, RecipientEvent, Spool};
use crate::state::suppression::{Entry, Reason, Target};

pub use case::{Case, Consequence, Evidence};
use meters::Meters;

/// Reports that are done together, at most, and octets of them in memory: each look into the journal reads all of its last days, so that
/// many must share one.
const AT_ONCE: usize = 8_192;
const HELD: u64 = 64 << 20;
/// How long a few reports wait for more, at least, and at most: as long as the last of them took.
const GATHER: Duration = Duration::from_millis(250);
const GATHER_MOST: Duration = Duration::from_secs(60);
/// How long a disk rests that has not taken something.
const REST: Duration = Duration::from_secs(5);
/// Octets of a report in which an address of ours is looked for, and which is taken apart: a returned message may be as large as any.
const MOST_READ: usize = 8 << 20;
/// Reads what comes back. Cheap to clone.
#[derive(Clone)]
pub struct Inbox {
    spool: Spool,
    queue: Queue,
    feedback: Feedback,
    journal: Journal,
    naming: Naming,
    /// Replaced by a reload.
    reader: Arc<ArcSwap<Reader>>,
    clock: Clock,
    meters: Arc<Meters>,
    wall: Bulkhead,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("naming", &self.naming).finish_non_exhaustive()
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

/// What is left of an attempt.
#[derive(Default)]
struct Left {
    /// They are to be tried again, after a rest.
    again: Vec<MessageId>,
    /// They were too many to be held at once.
    rest: Vec<MessageId>,
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
    /// What reads reports.
    pub fn new(
        (spool, queue, feedback): (Spool, Queue, Feedback),
        (journal, naming): (Journal, Naming),
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
            naming,
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
        let mut gather = GATHER;
        loop {
            let Some(Some(first)) = stop.run_until_cancelled(reports.recv()).await else { return };
            if stop.run_until_cancelled(tokio::time::sleep(gather)).await.is_none() {
                return;
            }
            let begun = self.clock.now();
            let mut ids = vec![first];
            while ids.len() < AT_ONCE {
                let Ok(id) = reports.try_recv() else { break };
                ids.push(id);
            }
            let count = ids.len();
            // To its end: the disk must be left alone by then.
            self.settle(ids, &stop).await;
            (0..count).for_each(|_| self.feedback.done());
            gather = self.clock.now().duration_since(begun).clamp(GATHER, GATHER_MOST);
        }
    }

    /// Does these; tries again what the disk does not take.
    async fn settle(&self, ids: Vec<MessageId>, stop: &CancellationToken) {
        let mut left = ids;
        while !left.is_empty() {
            let (own, ids) = (self.clone(), left.clone());
            let handle = tokio::runtime::Handle::current();
            let work = move || own.wall.clone().call(|| own.attempt(&ids, &handle));
            let mut may_go_on = false;
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(Left { again, mut rest })) => {
                    may_go_on = !rest.is_empty();
                    rest.extend(again);
                    left = rest;
                }
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
            let rest = if may_go_on || left.is_empty() { Duration::ZERO } else { REST };
            if stop.run_until_cancelled(tokio::time::sleep(rest)).await.is_none() {
                return;
            }
        }
    }

    /// Does what can be done of these.
    fn attempt(&self, ids: &[MessageId], handle: &tokio::runtime::Handle) -> Left {
        let (mut again, mut rest) = (Vec::new(), Vec::new());
        let (mut reports, mut held) = (Vec::new(), 0);
        for id in ids {
            if held >= HELD {
                rest.push(*id);
                continue;
            }
            match self.read(*id) {
                Ok(report) => {
                    held += report.as_ref().map_or(0, |report| report.message.content.len());
                    reports.extend(report);
                }
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
            return Left { again, rest };
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
        Left { again, rest }
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
        let octets = message.content.beginning(MOST_READ)?;
        let parsed = self.reader.load().parse(&delivered(&message, &octets));
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
    fn origins(&self, done: &[Done<'_>]) -> HashMap<MessageId, Vec<Origin>> {
        let messages = done.iter().filter_map(|done| done.case.about(&done.report.parsed)).collect();
        // A Message-ID has no day that can be believed: as far back as tokens are.
        let today = day_of(self.clock.wall());
        let oldest = today.saturating_sub(self.feedback.policy().token_days);
        let day = |done: &Done<'_>| done.case.token.map_or(oldest, |token| token.day);
        self.naming.origins(&messages, done.iter().map(day).min().unwrap_or(oldest))
    }

    /// Which of a message's recipients a case is about.
    fn origin_of<'o>(&self, done: &Done<'_>, known: &'o [Origin]) -> Option<&'o Origin> {
        match done.case.mailbox() {
            Some(mailbox) => self.naming.of_mailbox(known, mailbox),
            // Nobody says which, unless there was one only.
            None => {
                if let [only] = known {
                    Some(only)
                } else {
                    None
                }
            }
        }
    }

    /// Entries by hash get the addresses that the journal has.
    fn name(&self, done: &mut [Done<'_>], origins: &[Option<&Origin>]) {
        let made: Vec<_> =
            done.iter().zip(origins).filter_map(|(done, origin)| Some((done.entry.as_ref()?, *origin))).collect();
        let named = self.naming.name(&made, self.clock.wall());
        let cases = done.iter_mut().filter(|done| done.entry.is_some()).map(|done| &mut done.case);
        for (case, address) in cases.zip(named) {
            case.address = address.or(case.address.take());
        }
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
        // As it was given, rather than as the report spells it: searches go by that.
        let address = of_journal.as_ref().filter(|_| !self.journal.is_masked()).or(case.address.as_ref());
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

/// A content with the field that final delivery puts on top (RFC 5321, 4.4): whether a machine has written it is told by its
/// reverse-path first of all. That is no part of what it quotes.
fn delivered(message: &Message, content: &[u8]) -> Vec<u8> {
    let mut octets = format!("Return-Path: <{}>\r\n", message.envelope.reverse_path.as_str()).into_bytes();
    octets.extend_from_slice(content);
    octets
}

/// That a recipient of a report is done.
fn ending(recipient: u32) -> [RecipientEvent; 1] {
    [RecipientEvent { recipient, event: Ending::Delivered }]
}
