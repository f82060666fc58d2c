//! Feedback: what is done about refusals, and about what comes back; and who therefore gets no mail.
//!
//! [`Feedback`] is one handle for everybody: submission asks it at RCPT, the queue when a message arrives, delivery right before a
//! transaction ([`Feedback::asks`]); the queue tells it what receivers refused ([`Feedback::refused`]), which by the [`policy`] becomes an
//! entry of the suppression list. It makes the reverse-paths to which everything about one recipient comes back (`returns`), and knows
//! what comes in to one.
//!
//! Nobody who delivers waits for the disk: entries that follow from refusals are written by one thread, the `clerk`, a few
//! milliseconds later, many with one sync. A crash before that loses them; the next refusal of the same address makes them again.
//!
//! Not here: reading what comes back (`inbound`), and the list itself (`state::suppression`).

mod asker;
mod clerk;
mod full;
mod meters;
mod naming;
pub mod policy;
mod returns;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;

use crate::bounce::token::day_of;
use crate::clock::{Clock, UnixTime};
use crate::journal::{Event, Journal, Rejection};
use crate::message::{Envelope, Lane, MessageId, Phase};
use crate::metrics::Registry;
use crate::reply;
use crate::smtp::address::{Address, ReversePath};
use crate::state::Note;
use crate::state::suppression::{Entry, MailboxHash, Reason, Suppressed, Suppression, Target};

pub use asker::{Asker, describe};
pub use clerk::Clerk;
use full::Full;
use meters::Meters;
pub use naming::Naming;
pub use policy::{Action, Origin, Policy};
pub use returns::{NotOurs, Place};

/// Entries that wait to be written: a disk that hangs for a minute while every second message of 2,000 a second bounces. More are
/// counted and left to the next refusal.
const WAITING: usize = 1 << 16;

/// What a receiver refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Of which message.
    pub id: MessageId,
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// Who.
    pub recipient: &'a Address,
    /// What it is about.
    pub verdict: &'a reply::Verdict,
    /// At which step.
    pub step: Phase,
    /// It is not tried again.
    pub is_final: bool,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Feedback {
    shared: Arc<Shared>,
}

struct Shared {
    list: Suppression,
    /// Replaced by a reload.
    policy: ArcSwap<Policy>,
    /// On which days which mailboxes were full; written down by the clerk.
    full: Mutex<Full>,
    clerk: Sender<clerk::Order>,
    /// Orders on their way to it: sent here, taken there.
    waiting: AtomicUsize,
    journal: Journal,
    /// Where reports go that have come in and are in the spool.
    reports: UnboundedSender<MessageId>,
    clock: Clock,
    meters: Meters,
}

impl std::fmt::Debug for Feedback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feedback").field("policy", &self.shared.policy).finish_non_exhaustive()
    }
}

impl Feedback {
    /// By the policy, with the thread that writes for it. `note` keeps on which days mailboxes were full; `reports` gets the id of each
    /// report that [`Feedback::received`] tells of. Blocks on the disk.
    pub fn start(
        (list, policy): (Suppression, Policy),
        note: Note,
        journal: Journal,
        reports: UnboundedSender<MessageId>,
        clock: Clock,
        registry: &Registry,
    ) -> std::io::Result<(Self, Clerk)> {
        // One with a bound would take all its room at once.
        let (clerk, orders) = std::sync::mpsc::channel();
        let full = note.read().map_or_else(Full::default, |content| Full::restore(&content));
        let shared = Shared {
            list,
            policy: ArcSwap::from_pointee(policy),
            full: Mutex::new(full),
            clerk,
            waiting: AtomicUsize::new(0),
            journal,
            reports,
            clock,
            meters: Meters::new(registry),
        };
        let feedback = Self { shared: Arc::new(shared) };
        let clerk = Clerk::start(feedback.clone(), orders, note, registry)?;
        Ok((feedback, clerk))
    }

    /// Goes by another policy from now on.
    pub fn apply(&self, policy: Policy) {
        self.shared.policy.store(Arc::new(policy));
    }

    /// What holds now.
    pub fn policy(&self) -> Arc<Policy> {
        self.shared.policy.load_full()
    }

    /// The list.
    pub fn list(&self) -> &Suppression {
        &self.shared.list
    }

    /// Looks up recipients of one message.
    pub fn asks(&self, envelope: &Envelope) -> Asker<'_> {
        Asker::new(self, &envelope.tenant, &envelope.class, envelope.lane)
    }

    /// What stands against a recipient that a client names, before more is known of the message than its tenant (empty: not even that)
    /// and the most urgent lane that it may have. Tells the journal of it.
    pub fn rejected(
        &self,
        (tenant, lane): (&str, Lane),
        from: &ReversePath,
        to: &Address,
        client: IpAddr,
    ) -> Option<Suppressed> {
        let suppressed = Asker::new(self, tenant, "", lane).suppressed(to)?;
        self.shared.meters.suppressed(suppressed.reason);
        let (text, reason) = (&*describe(&suppressed), suppressed.reason.as_str());
        let rejection = Rejection { tenant, reverse_path: from.as_str(), recipient: to, client, reason, text };
        self.shared.journal.tell(&Event::Rejected(rejection));
        Some(suppressed)
    }

    /// Whether a client is told of suppressed recipients, at RCPT or by a DSN; else they are taken and left out.
    pub fn tells(&self) -> bool {
        self.shared.policy.load().rejects
    }

    /// Whether a tenant is told of failures by DSNs.
    pub fn sends_dsns(&self, tenant: &str) -> bool {
        self.shared.policy.load().sends_dsns(tenant)
    }

    /// A receiver has refused a recipient: does what the policy says. Waits for nothing.
    pub fn refused(&self, refused: &Refused<'_>) {
        let policy = self.shared.policy.load();
        let Refused { id, envelope, recipient, verdict, step, is_final } = *refused;
        let origin = if step == Phase::Dns { Origin::Dns } else { Origin::Receiver };
        let now = self.shared.clock.wall();
        let (reason, until) = match policy.action(verdict, origin) {
            Action::Suppress(lasting) if is_final => (Reason::HardBounce, lasting.map(|lasting| now.plus(lasting))),
            Action::Count => match self.count(self.shared.list.hash(recipient), &policy, now) {
                Some(until) => (Reason::MailboxFull, Some(until)),
                None => return,
            },
            Action::Suppress(_) | Action::Nothing => return,
        };
        let entry = Entry {
            target: Target::Address(recipient.clone()),
            scope: policy.scope_of(reason, &envelope.tenant, &envelope.class),
            reason,
            source: id.to_string().into(),
            added: now,
            until,
        };
        self.order(entry);
    }

    /// A mailbox did not take mail today though it may again: until when it gets none, if that has been so too often.
    pub fn count(&self, mailbox: MailboxHash, policy: &Policy, now: UnixTime) -> Option<UnixTime> {
        let is_enough = self.shared.full.lock().note(mailbox.0, day_of(now), policy.full.within_days, policy.full.days);
        is_enough.then(|| now.plus(policy.full.lasting))
    }

    fn order(&self, entry: Entry) {
        let Shared { clerk, waiting, meters, .. } = &*self.shared;
        let has_room = waiting.fetch_add(1, Ordering::Relaxed) < WAITING;
        if !has_room || clerk.send(clerk::Order::Add(entry)).is_err() {
            waiting.fetch_sub(1, Ordering::Relaxed);
            meters.missed.increment(1);
        }
    }

    /// A report has come in and is in the spool; it is read soon.
    pub fn received(&self, id: MessageId) {
        self.shared.meters.pending.increment(1.0);
        // At a stop nobody reads any more: the next start finds it in the spool.
        let _ = self.shared.reports.send(id);
    }

    /// A report that was told of is done, or left to the next start.
    pub fn done(&self) {
        self.shared.meters.pending.decrement(1.0);
    }
}
