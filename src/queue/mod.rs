//! The queue: what is to be tried, when, and by which connection.
//!
//! Recipients enter by [`Queue::put`] (after the spool has synced them) and are taken by delivery connections through a
//! [`Slot`]. What became of them comes back through [`Slot::report`].

pub mod settings;
pub mod source;
pub mod view;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::dns::Plan;
use crate::message::{Envelope, MessageId, Outcome};
use crate::spool::Recovered;

pub use settings::Settings;
pub use source::{Egress, EgressPool, Source};
pub use view::{EntryView, Filter, View};

/// What `delivery` implements and the daemon hands to the queue.
pub trait Courier: Send + Sync + 'static {
    /// Starts a connection task that delivers `first` and whatever the slot then gives. Must not block.
    fn dispatch(&self, slot: Slot, first: Assignment);
}

/// Why no more recipients are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueFull {
    /// The tenant has as many recipients queued as it may: 452 4.3.1.
    #[error("the tenant's share of the queue is full")]
    Tenant,
    /// The queue holds as many recipients as it may: 452 4.3.1.
    #[error("the queue is full")]
    Queue,
    /// Shutting down: 421 4.3.2.
    #[error("the queue is being closed")]
    Closing,
}

/// The queue's handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    queued: AtomicUsize,
    in_flight: AtomicUsize,
    is_stopping: AtomicBool,
}

impl Queue {
    /// Whether `recipients` more of `tenant` may be accepted.
    pub fn room(&self, _tenant: &str, recipients: usize) -> Result<(), QueueFull> {
        if self.inner.is_stopping.load(Ordering::Relaxed) {
            return Err(QueueFull::Closing);
        }
        if self.inner.queued.load(Ordering::Relaxed).saturating_add(recipients) > self.inner.settings.capacity {
            return Err(QueueFull::Queue);
        }
        Ok(())
    }

    /// Takes over a message that the spool has accepted.
    pub fn put(&self, _id: MessageId, envelope: &Arc<Envelope>) {
        self.inner.queued.fetch_add(envelope.recipients.len(), Ordering::Relaxed);
    }

    /// Takes over what is left of a message that the spool found at the start.
    pub fn recover(&self, message: Recovered) {
        self.inner.queued.fetch_add(message.pending.len(), Ordering::Relaxed);
    }

    /// Gives no more work to connections; what is in flight is finished.
    pub fn stop_dispatch(&self) {
        self.inner.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Assignments not yet reported, and DSNs not yet on stable storage.
    pub fn in_flight(&self) -> usize {
        self.inner.in_flight.load(Ordering::Relaxed)
    }

    /// Counts for people.
    pub fn view(&self) -> View {
        View::default()
    }

    /// Entries that match, up to the filter's limit.
    pub fn list(&self, _filter: &Filter) -> Vec<EntryView> {
        Vec::new()
    }
}

/// One transaction's work: recipients of one message in one domain. Given back uncharged when dropped.
#[derive(Debug)]
pub struct Assignment {
    id: MessageId,
    domain: Arc<str>,
    recipients: Vec<u32>,
    in_doubt: Option<SocketAddr>,
}

impl Assignment {
    /// The message.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// The recipients' domain, lower case.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Indexes into the envelope's recipients.
    pub fn recipients(&self) -> &[u32] {
        &self.recipients
    }

    /// An earlier attempt at this address has no outcome: try it there first.
    pub fn in_doubt(&self) -> Option<SocketAddr> {
        self.in_doubt
    }
}

/// Permission to have one connection to an MX set; returned when dropped.
#[derive(Debug)]
pub struct Slot {
    plan: Arc<Plan>,
    source: Arc<Source>,
}

impl Slot {
    /// Where to connect.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// From where.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The next work, if there is some with all its permits now. None also when the connection is to end or wait.
    pub fn try_take(&mut self) -> Option<Assignment> {
        None
    }

    /// The next work; waits up to `idle` for it. None: close the connection.
    pub async fn take(&mut self, idle: Duration) -> Option<Assignment> {
        tokio::time::sleep(idle).await;
        None
    }

    /// What became of an assignment: one outcome for each of its recipients, in their order.
    pub fn report(&self, _assignment: Assignment, _outcomes: Vec<Outcome>) {}

    /// Returns an assignment that was not tried.
    pub fn give_back(&self, _assignment: Assignment) {}

    /// Greeting and EHLO are done: the back-off ends.
    pub fn connected(&self) {}

    /// No MX host could be talked to: charges the MX set with a back-off and `assignment` with an attempt.
    pub fn connection_failed(&self, _assignment: Assignment, _outcome: Outcome) {}
}
