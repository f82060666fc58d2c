//! The queue: what is to be tried, when, and by which connection.
//!
//! Recipients enter by [`Reservation::put`] (after the spool has synced them) and are taken by delivery connections through a
//! [`Slot`]. What became of them comes back through [`Slot::report`]. The queue decides on retry times, expiry and DSNs
//! and tells the spool; it knows nothing of sockets.
//!
//! An entry (one recipient) is in one of these places:
//!
//! | place | waits for | leaves when |
//! |---|---|---|
//! | a bucket of the timers | its time | the second begins |
//! | its domain | a delivery plan | the look-up ends |
//! | a line of its path, at its site | a connection with all permits | it is drawn, or its time is over |
//! | an [`Assignment`] | an outcome | it is reported; dropped: back to its line |
//! | a notice | the spool to store a DSN with its outcome | stored |
//! | the parked ones of an order | the end of the order | it has ended, or the order is one to suspend and its time is over |
//! | the held ones | an operator: its message is damaged, or in doubt | it is flushed, or an order ends it |

mod ages;
mod apply;
mod assignment;
mod domain;
mod doubts;
mod dues;
mod engine;
mod entry;
mod explain;
mod feedback;
mod figures;
mod flow;
mod gates;
mod held;
mod in_force;
mod in_hand;
mod inspect;
mod kept;
pub mod learning;
pub mod limit_views;
mod limits;
mod line;
mod look;
mod lookup;
mod matcher;
mod meters;
mod notice;
mod once;
mod orders;
mod origin;
mod overflow;
mod passage;
mod path;
mod permits;
mod pump;
mod purse;
mod rare;
mod ready;
mod replies;
mod reservation;
pub mod rules;
mod salvage;
mod schedule;
pub mod settings;
mod settle;
mod site;
mod slot;
pub mod source;
mod storm;
mod sweep;
mod tally;
mod timers;
mod told;
mod top;
mod unknown;
mod unread;
mod upkeep;
pub mod view;
mod visit;
mod waiting;
pub mod warmup;
mod warmup_store;
mod warmup_turns;
pub mod warmup_views;
pub mod watch;
mod way;
mod within;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::dkim::Signer;
use crate::dns::Planner;
use crate::feedback::Feedback;
use crate::journal::Journal;
use crate::message::{Envelope, MessageId};
use crate::metrics::Registry;
use crate::pulse::Pulse;
use crate::spool::{Recovered, Spool};
use crate::state::{LearntStore, Note, OrderId, Orders, PinError, PinRequest, Pins, PlaceError, Request, Selection};

pub use assignment::Assignment;
use engine::Engine;
use limit_views::{
    ChangeView, ExplainError, Explained, Forgotten, PathFilter, PathLimits, Question, Repinned, Reset, UndoError, Unpin,
};
pub use passage::Passage;
pub use reservation::Reservation;
pub use settings::Settings;
pub use slot::{HungUp, Slot};
pub use source::{Egress, EgressPool, Source};
pub use view::{Counts, EntryView, Filter, Flushed, OrderView, Placed, Undone, View};
use warmup_views::{SteerError, Steering, WarmupFilter, WarmupView};
pub use watch::{Doing, Watch};

/// What `delivery` implements and the daemon hands to the queue.
pub trait Courier: Send + Sync + 'static {
    /// Starts a connection task that delivers `first` and whatever the slot then gives. Must not block. Called on
    /// whatever runtime its cause runs on, that of a session for example.
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
}

/// The queue's handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    engine: Arc<Engine>,
}

impl Queue {
    /// An empty queue. Nothing is handed out before [`Queue::start`].
    pub fn new(
        settings: Settings,
        spool: Spool,
        orders: Orders,
        planner: Arc<Planner>,
        clock: Clock,
        registry: &Registry,
    ) -> Self {
        Self { engine: Arc::new(Engine::new(settings, spool, orders, planner, clock, registry)) }
    }

    /// The same with a journal that is told everything; to be asked for before the queue is shared.
    pub fn with_journal(mut self, journal: Journal) -> Self {
        if let Some(engine) = Arc::get_mut(&mut self.engine) {
            engine.journal = journal;
        }
        self
    }

    /// The same with those left out who get no mail, and with refusals told; to be asked for before the queue is shared.
    pub fn with_feedback(mut self, feedback: Feedback) -> Self {
        if let Some(engine) = Arc::get_mut(&mut self.engine) {
            engine.feedback = Some(feedback);
        }
        self
    }

    /// The same with its own messages signed; to be asked for before the queue is shared.
    pub fn with_signer(mut self, signer: Signer) -> Self {
        if let Some(engine) = Arc::get_mut(&mut self.engine) {
            engine.signer = Some(signer);
        }
        self
    }

    /// The same with what was learnt before; to be asked for before the queue is shared.
    pub fn with_learnt(mut self, store: LearntStore) -> Self {
        if let Some(engine) = Arc::get_mut(&mut self.engine) {
            engine.learning.store = store;
        }
        self
    }

    /// The same with what operators have set; to be asked for before the queue is shared.
    pub fn with_pins(mut self, pins: Pins) -> Self {
        if let Some(engine) = Arc::get_mut(&mut self.engine) {
            engine.learning.pins = pins;
        }
        self
    }

    /// What is learnt at each path, those first that were used or changed last. Takes many short locks, and blocks on the disk.
    pub fn path_limits(&self, filter: &PathFilter) -> Vec<PathLimits> {
        self.engine.path_limits(filter)
    }

    /// Changes of limits since the start, the newest first, at most a thousand.
    pub fn limit_changes(&self, filter: &PathFilter) -> Vec<ChangeView> {
        self.engine.limit_changes(filter)
    }

    /// The limits of mail for an address, each with who set it and its room now; asks for the delivery plan of its domain.
    pub async fn explain(&self, question: &Question) -> Result<Explained, ExplainError> {
        self.engine.explain(question).await
    }

    /// The site that an operator means: one by its name, or that of a domain, which is looked up if need be.
    pub async fn site_meant(&self, name: &str) -> Result<String, PinError> {
        self.engine.site_meant(name).await
    }

    /// The same among sites where something is pinned, whatever has become of them.
    pub async fn pinned_site(&self, name: &str) -> Result<String, PinError> {
        self.engine.pinned_site(name).await
    }

    /// Whether there is an egress source of this name.
    pub fn has_source(&self, name: &str) -> bool {
        self.engine.source_named(name).is_some()
    }

    /// Sets a pin: bounds of a learnt limit. Blocks on the disk.
    pub fn pin(&self, request: PinRequest) -> Result<Repinned, PinError> {
        self.engine.pin(request)
    }

    /// Ends pins. Blocks on the disk.
    pub fn unpin(&self, request: &Unpin) -> io::Result<Repinned> {
        self.engine.unpin(request)
    }

    /// Takes a learnt change back. Blocks on the disk.
    pub fn undo_change(&self, id: u32, by: &str) -> Result<Vec<ChangeView>, UndoError> {
        self.engine.undo_change(id, by)
    }

    /// Forgets what was learnt. Blocks on the disk.
    pub fn reset_limits(&self, request: &Reset) -> io::Result<Forgotten> {
        self.engine.reset_limits(request)
    }

    /// The same with what was used up of budgets before; to be asked for before the queue is shared. Blocks on the disk.
    pub fn with_spent(mut self, store: Note) -> Self {
        if let Some(engine) = Arc::get_mut(&mut self.engine) {
            let now = engine.clock.now();
            engine.dues = Arc::new(dues::Dues::new(&store, now, engine.clock.wall_at(now)));
            engine.spent = dues::Spent::new(store);
            engine.tenants.dues = engine.dues.clone();
            engine.gates.take_up(&engine.dues, &engine.settings(), now);
            // From here on a kill is seen.
            engine.save_dues(false);
        }
        self
    }

    /// The same with where warm-ups were before; to be asked for before the queue is shared. Blocks on the disk.
    pub fn with_warmups(mut self, store: Note) -> Self {
        if let Some(engine) = Arc::get_mut(&mut self.engine) {
            engine.recall_warmups(store);
        }
        self
    }

    /// Where each warm-up stands. Takes many short locks.
    pub fn warmups(&self, filter: &WarmupFilter) -> Vec<WarmupView> {
        self.engine.warmup_views(filter)
    }

    /// Has a warm-up pause, or go on. Blocks on the disk.
    pub fn steer_warmup(&self, request: &Steering) -> Result<WarmupView, SteerError> {
        self.engine.steer_warmup(request)
    }

    /// At the stop, when nothing is sent any more: keeps what has been learnt since the last time, what is used up of budgets, and
    /// where warm-ups are. Blocks on the disk.
    pub fn save_all(&self) {
        self.engine.save_learnt();
        self.engine.save_dues(true);
        self.engine.save_warmups(true);
    }

    /// Tells the journal of a message that the spool has accepted, to be put into the queue next. `client`: who
    /// submitted it, unless it is our own.
    pub fn tell_received(
        &self,
        id: MessageId,
        envelope: &Envelope,
        size: u64,
        client: Option<IpAddr>,
        user: Option<&str>,
        dkim: &str,
    ) {
        self.engine.tell_received(id, envelope, size, client, user, dkim);
    }

    /// Begins to hand work to `courier`. The task ends some time after [`Queue::stop_dispatch`]: when DSNs that were
    /// being made are stored.
    pub fn start(&self, courier: Arc<dyn Courier>) -> JoinHandle<()> {
        let engine = self.engine.clone();
        engine.start(courier);
        for shard in 0..engine.timers.shards().len() {
            engine.tasks.spawn(upkeep::tick(engine.clone(), shard));
        }
        engine.tasks.spawn(upkeep::run(engine.clone()));
        tokio::spawn(async move {
            engine.stopped.cancelled().await;
            engine.tasks.close();
            engine.tasks.wait().await;
        })
    }

    /// Whether there is room for `recipients` more of `tenant`: a hint, since others may take it meanwhile.
    pub fn room(&self, tenant: &str, recipients: usize) -> Result<(), QueueFull> {
        self.engine.room(tenant, recipients)
    }

    /// The same where the tenant is not known yet.
    pub fn room_in_all(&self, recipients: usize) -> Result<(), QueueFull> {
        self.engine.room_in_all(recipients)
    }

    /// Takes room for `recipients` of `tenant`, which are counted as queued from now on.
    pub fn reserve(&self, tenant: &str, recipients: usize) -> Result<Reservation, QueueFull> {
        Reservation::take(&self.engine, tenant, recipients)
    }

    /// A message arrives: held from before it has its identity until it is put, or will never be. An order to delete or
    /// bounce waits for it, and then is about it.
    pub fn arrival(&self) -> Passage {
        self.engine.arrivals.begin()
    }

    /// Takes over a message that the spool has accepted, whether or not there is room; see [`Reservation::put`].
    pub fn put(&self, id: MessageId, envelope: &Arc<Envelope>) {
        self.engine.put(id, envelope);
    }

    /// Takes over what is left of a message that the spool found at the start.
    pub fn recover(&self, message: Recovered) {
        self.engine.recover_safely(&message);
    }

    /// Gives no more work to connections; what is in flight is finished.
    pub fn stop_dispatch(&self) {
        self.engine.stop();
    }

    /// Waits for the DSNs that are being made to be stored. Dispatch must have stopped and connections ended: what they
    /// report makes DSNs.
    pub async fn settled(&self) {
        self.engine.tasks.close();
        self.engine.tasks.wait().await;
    }

    /// Beats after each round of the upkeep, every few seconds until [`Queue::is_stopped`].
    pub fn upkeep(&self) -> Pulse {
        self.engine.upkeep.clone()
    }

    /// One pulse a shard of the timers; each beats every 10 s at least until [`Queue::is_stopped`].
    pub fn timers(&self) -> impl Iterator<Item = Pulse> {
        self.engine.timers.shards().iter().map(|shard| shard.pulse.clone())
    }

    /// Whether nothing more is handed out.
    pub fn is_stopped(&self) -> bool {
        self.engine.stopped.is_cancelled()
    }

    /// Assignments not yet reported, and DSNs not yet on stable storage.
    pub fn in_flight(&self) -> usize {
        self.engine.in_flight.load(Ordering::Acquire)
    }

    /// The last thing before the spool is closed: orders to delete or bounce that waited for attempts end with these. Blocks on
    /// the disk.
    pub fn finish_orders(&self) {
        self.engine.finish_all_once();
    }

    /// Goes by other settings from now on, without cutting a connection. With `planner`, every domain is looked up anew. Takes
    /// many short locks and time in proportion to what is ready.
    pub fn apply(&self, settings: Settings, planner: Option<Arc<Planner>>) {
        self.engine.reconfigure(settings, planner);
    }

    /// Who makes delivery plans now.
    pub fn planner(&self) -> Arc<Planner> {
        self.engine.planner().clone()
    }

    /// Messages of which recipients are being tried. Takes many short locks.
    pub fn in_hand(&self) -> Vec<MessageId> {
        self.engine.in_hand()
    }

    /// Counts for people. Takes many short locks: not for the hot path.
    pub fn view(&self) -> View {
        self.engine.view()
    }

    /// The daemon's work in numbers, with the sites that hold most up. Takes many short locks.
    pub fn outline(&self) -> view::Outline {
        self.engine.outline()
    }

    /// Everything about the site of this name, or the one that mail of this domain goes to. Takes many short locks.
    pub fn inspect(&self, name: &str) -> Option<view::SiteDetail> {
        self.engine.inspect(name)
    }

    /// Connections by source and MX set, and the sources. Takes many short locks.
    pub fn pools(&self) -> view::Pools {
        self.engine.pools()
    }

    /// Entries that match, up to the filter's limit. Takes many short locks, and may block on the disk.
    pub fn list(&self, filter: &Filter) -> Vec<EntryView> {
        self.engine.list(filter)
    }

    /// How many recipients match, by where they are.
    pub fn count(&self, selection: &Selection) -> Counts {
        self.engine.locate(&matcher::Matcher::new(selection));
        self.engine.count(selection)
    }

    /// Makes an order stand and applies it to what is queued. Blocks on the disk, for seconds if a million recipients
    /// are moved.
    pub fn place(&self, request: Request) -> Result<Placed, PlaceError> {
        self.engine.place(request)
    }

    /// Ends an order; what it kept goes on. None: there is no such order. Blocks on the disk.
    pub fn undo(&self, id: OrderId) -> io::Result<Option<Undone>> {
        self.engine.undo(id)
    }

    /// The orders that stand, the oldest first.
    pub fn orders(&self) -> Vec<OrderView> {
        self.engine.order_views()
    }

    /// The same with how much scheduled mail each is about. Takes many short locks.
    pub fn orders_in_full(&self) -> Vec<OrderView> {
        self.engine.orders_in_full()
    }

    /// Has deferred recipients tried now, and ends the back-off of their sites; `held`: also those held as damaged or in
    /// doubt. May block on the disk.
    pub fn flush(&self, selection: &Selection, held: bool) -> Flushed {
        self.engine.flush(selection, held)
    }
}
