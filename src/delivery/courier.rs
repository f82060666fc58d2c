//! The courier that the queue dispatches to: a task per connection, drained at shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::carried::{Carried, Wreck};
use super::work::{NotRecorded, Unreadable, Work};
use super::{Error, Settings, Shared, deliver};
use crate::clock::Clock;
use crate::dns::Plan;
use crate::dns::security::Assurance;
use crate::message::{Message, MessageId, Outcome};
use crate::metrics::Registry;
use crate::panics::Panic;
use crate::queue::{Assignment, Courier, HungUp, Slot, Source, Watch};
use crate::spool::{LoadError, Spool};

/// Delivers what the queue dispatches.
#[derive(Debug)]
pub struct Deliverer {
    /// Of connections to come; replaced by [`Deliverer::apply`].
    shared: ArcSwap<Shared>,
    spool: Spool,
    /// Owns the connection tasks; [`Deliverer::drain`] waits for them.
    tasks: TaskTracker,
    /// Where they run.
    runtime: Handle,
}

impl Deliverer {
    /// Built once for a daemon, on the runtime that its connections are to run on.
    pub fn new(settings: Settings, spool: Spool, clock: Clock, registry: &Registry) -> Result<Arc<Self>, Error> {
        let shared = Shared::new(settings, clock, registry)?;
        Ok(Arc::new(Self {
            shared: ArcSwap::new(shared),
            spool,
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        }))
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
        let wreck = Arc::new(Wreck::default());
        let first = Carried::new(first, 0, &wreck);
        let work = Errand { slot, spool: self.spool.clone(), shared: Arc::clone(&shared), drawn: 1, wreck };
        let wreck = work.wreck.clone();
        let delivery = shared.wall.clone().run(deliver(shared, work, first));
        let task = async move {
            if let Err(panic) = delivery.await {
                wreck.salvage(&panic);
            }
        };
        // Not where we are: that may be a session's runtime.
        self.tasks.spawn_on(task, &self.runtime);
    }
}

/// A slot with the spool that holds its messages.
struct Errand {
    slot: Slot,
    spool: Spool,
    shared: Arc<Shared>,
    /// Assignments drawn.
    drawn: u32,
    wreck: Arc<Wreck>,
}

impl Errand {
    fn carry(&mut self, assignment: Assignment) -> Carried {
        let number = self.drawn;
        self.drawn = self.drawn.saturating_add(1);
        Carried::new(assignment, number, &self.wreck)
    }
}

impl Work for Errand {
    type Ticket = Carried;

    fn plan(&self) -> &Arc<Plan> {
        self.slot.plan()
    }

    fn assurance(&self) -> Assurance {
        self.slot.assurance()
    }

    fn source(&self) -> &Arc<Source> {
        self.slot.source()
    }

    fn watch(&self) -> Option<Arc<Watch>> {
        Some(self.slot.watch())
    }

    fn try_take(&mut self) -> Option<Carried> {
        let assignment = self.slot.try_take()?;
        Some(self.carry(assignment))
    }

    fn try_take_ahead(&mut self) -> Option<Carried> {
        let assignment = self.slot.try_take_ahead()?;
        Some(self.carry(assignment))
    }

    async fn take(&mut self, idle: Duration) -> Option<Carried> {
        let assignment = self.slot.take(idle).await?;
        Some(self.carry(assignment))
    }

    async fn load(&self, id: MessageId) -> Result<Message, Unreadable> {
        if let Some(message) = self.spool.cached(id) {
            self.shared.meters.from_memory.increment(1);
            return Ok(message);
        }
        self.shared.meters.from_disk.increment(1);
        // A disk that stalls must not stop the runtime.
        let (spool, wall) = (self.spool.clone(), self.shared.wall.clone());
        let failed = |error: &dyn std::fmt::Display| Unreadable::Failed(error.to_string().into());
        let loading = tokio::task::spawn_blocking(move || wall.call(|| spool.load(id)));
        let loaded = loading.await.map_err(|error| failed(&error))?.map_err(Unreadable::Panicked)?;
        loaded.map_err(|error| match error {
            LoadError::Damaged => Unreadable::Damaged,
            LoadError::Unknown | LoadError::Io(_) => failed(&error),
        })
    }

    async fn attempt(&self, id: MessageId, recipients: &[u32], mx: SocketAddr) -> Result<(), NotRecorded> {
        self.spool.attempt(id, recipients, mx).await.map_err(|_| NotRecorded)
    }

    fn report(&self, ticket: Carried, outcomes: Vec<Outcome>) {
        if let Some(assignment) = ticket.into_assignment() {
            self.slot.report(assignment, outcomes);
        }
    }

    fn hold_damaged(&self, ticket: Carried, panic: Option<&Panic>) {
        match (ticket.into_assignment(), panic) {
            (Some(assignment), None) => self.slot.hold_damaged(assignment),
            (Some(assignment), Some(panic)) => self.slot.hold_panicked(assignment, panic),
            (None, _) => {}
        }
    }

    fn give_back(&self, ticket: Carried) {
        if let Some(assignment) = ticket.into_assignment() {
            self.slot.give_back(assignment);
        }
    }

    fn connected(&self) {
        self.slot.connected();
    }

    fn hung_up(&self, how: HungUp<'_>) {
        self.slot.hung_up(how);
    }

    fn connection_failed(&self, ticket: Carried, outcome: Outcome) {
        if let Some(assignment) = ticket.into_assignment() {
            self.slot.connection_failed(assignment, outcome);
        }
    }
}
