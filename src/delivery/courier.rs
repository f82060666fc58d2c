//! The courier that the queue dispatches to: a task per connection, drained at shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;

use super::work::{NotRecorded, Unreadable, Work};
use super::{Error, Settings, Shared, deliver};
use crate::clock::Clock;
use crate::dns::Plan;
use crate::message::{Message, MessageId, Outcome};
use crate::metrics::Registry;
use crate::queue::{Assignment, Courier, Slot, Source, Watch};
use crate::spool::{LoadError, Spool};

/// Delivers what the queue dispatches.
#[derive(Debug)]
pub struct Deliverer {
    /// Of connections to come; replaced by [`Deliverer::apply`].
    shared: ArcSwap<Shared>,
    spool: Spool,
    /// Owns the connection tasks; [`Deliverer::drain`] waits for them.
    tasks: TaskTracker,
}

impl Deliverer {
    /// Built once for a daemon.
    pub fn new(settings: Settings, spool: Spool, clock: Clock, registry: &Registry) -> Result<Arc<Self>, Error> {
        let shared = Shared::new(settings, clock, registry)?;
        Ok(Arc::new(Self { shared: ArcSwap::new(shared), spool, tasks: TaskTracker::new() }))
    }

    /// Has connections to come go by other settings.
    pub fn apply(&self, settings: Settings) {
        self.shared.store(Arc::new(self.shared.load().followed_by(settings)));
    }

    /// Connections that are open or being opened.
    pub fn connections(&self) -> usize {
        self.tasks.len()
    }

    /// Waits for the connections to end, which they do once the queue gives no more work. What is open after `within`
    /// stays in doubt by its attempt record; false if there is any.
    pub async fn drain(&self, within: Duration) -> bool {
        self.tasks.close();
        let is_done = tokio::time::timeout(within, self.tasks.wait()).await.is_ok();
        if !is_done {
            tracing::warn!(connections = self.tasks.len(), "connections still open at the end of the drain");
        }
        is_done
    }
}

impl Courier for Deliverer {
    fn dispatch(&self, slot: Slot, first: Assignment) {
        let shared = self.shared.load_full();
        let work = Errand { slot, spool: self.spool.clone(), shared: Arc::clone(&shared) };
        self.tasks.spawn(deliver(shared, work, first));
    }
}

/// A slot with the spool that holds its messages.
struct Errand {
    slot: Slot,
    spool: Spool,
    shared: Arc<Shared>,
}

impl Work for Errand {
    type Ticket = Assignment;

    fn plan(&self) -> &Arc<Plan> {
        self.slot.plan()
    }

    fn source(&self) -> &Arc<Source> {
        self.slot.source()
    }

    fn watch(&self) -> Option<Arc<Watch>> {
        Some(self.slot.watch())
    }

    fn try_take(&mut self) -> Option<Assignment> {
        self.slot.try_take()
    }

    async fn take(&mut self, idle: Duration) -> Option<Assignment> {
        self.slot.take(idle).await
    }

    async fn load(&self, id: MessageId) -> Result<Message, Unreadable> {
        if let Some(message) = self.spool.cached(id) {
            self.shared.meters.from_memory.increment(1);
            return Ok(message);
        }
        self.shared.meters.from_disk.increment(1);
        // A disk that stalls must not stop the runtime.
        let spool = self.spool.clone();
        let failed = |error: &dyn std::fmt::Display| Unreadable::Failed(error.to_string().into());
        let loading = tokio::task::spawn_blocking(move || spool.load(id));
        loading.await.map_err(|error| failed(&error))?.map_err(|error| match error {
            LoadError::Damaged => Unreadable::Damaged,
            LoadError::Unknown | LoadError::Io(_) => failed(&error),
        })
    }

    async fn attempt(&self, id: MessageId, recipients: &[u32], mx: SocketAddr) -> Result<(), NotRecorded> {
        self.spool.attempt(id, recipients, mx).await.map_err(|_| NotRecorded)
    }

    fn report(&self, ticket: Assignment, outcomes: Vec<Outcome>) {
        self.slot.report(ticket, outcomes);
    }

    fn hold_damaged(&self, ticket: Assignment) {
        self.slot.hold_damaged(ticket);
    }

    fn give_back(&self, ticket: Assignment) {
        self.slot.give_back(ticket);
    }

    fn connected(&self) {
        self.slot.connected();
    }

    fn connection_failed(&self, ticket: Assignment, outcome: Outcome) {
        self.slot.connection_failed(ticket, outcome);
    }
}
