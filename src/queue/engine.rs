//! The parts of a queue, and the way of an entry between them.
//!
//! put, recover → [`Engine::admit`] → its domain (a plan is looked up) → its site (ready) → an assignment → an outcome:
//! finished, or the timers → [`Engine::admit`] again.
//!
//! Locks, held for a few microseconds: parts of the tables, a domain, a site, a timer shard. On the way of an entry never
//! two at once, save a seat under its site. The sweep takes sites under the table of sites, a listing takes domains under
//! a timer shard, the end of a back-off takes domains under their site; nobody takes them the other way round.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, UnixTime};
use crate::dkim::Signer;
use crate::dns::{Plan, Planner};
use crate::feedback::Feedback;
use crate::journal::Journal;
use crate::message::{Envelope, MessageId, Recipient};
use crate::metrics::Registry;
use crate::pulse::Pulse;
use crate::spool::{Event, Pending, RecipientEvent, Recovered, Spool};
use crate::state;

use super::assignment::Assignment;
use super::domain::Domains;
use super::doubts::Doubts;
use super::dues::{Dues, Spent, Whose};
use super::entry::{Entry, Marks};
use super::flow::{Flow, Tenant, Tenants};
use super::gates::Gates;
use super::held::{Held, Hold};
use super::in_hand::InHand;
use super::learning::Learning;
use super::lookup::Lookups;
use super::meters::Meters;
use super::orders::Orders;
use super::passage::Passages;
use super::replies::Replies;
use super::salvage::{Blame, Walls};
use super::settings::{InDoubt, Limits, Settings};
use super::site::Site;
use super::slot::Slot;
use super::source::{Chooser, Source};
use super::tally::Flowing;
use super::timers::Timers;
use super::top::Top;
use super::unread::Unread;
use super::warmup::Warmups;
use super::within::Within;
use super::{Courier, QueueFull};

/// DSNs being made and stored at the same time: enough to fill a group commit.
const NOTICES: usize = 64;

type Sites = HashMap<Arc<str>, Arc<Site>, foldhash::fast::RandomState>;

/// Everything behind a [`super::Queue`].
pub(super) struct Engine {
    /// Replaced as a whole by a reload; read through [`Engine::settings`].
    settings: ArcSwap<Settings>,
    pub spool: Spool,
    /// Replaced by a reload; read through [`Engine::planner`].
    planner: ArcSwap<Planner>,
    pub clock: Clock,
    pub tenants: Tenants,
    pub domains: Domains,
    /// By name; written when a plan leads to a new site and by the sweep.
    sites: Mutex<Sites>,
    /// Limits of sites that have none of their own; replaced by a reload.
    limits: ArcSwap<Limits>,
    pub timers: Timers,
    /// Beats after each round of the upkeep.
    pub upkeep: Pulse,
    pub gates: Gates,
    /// Replaced by a reload.
    pub sources: ArcSwap<Chooser>,
    pub doubts: Doubts,
    pub held: Held,
    pub orders: Orders,
    /// Messages that are being stored and put.
    pub arrivals: Passages,
    /// Entries between two places.
    pub outings: Passages,
    pub replies: Replies,
    pub lookups: Lookups,
    pub meters: Meters,
    pub journal: Journal,
    /// Who gets no mail, and what refusals come to; none: everybody does.
    pub feedback: Option<Feedback>,
    /// Signs DSNs; none: they go unsigned.
    pub signer: Option<Signer>,
    pub unread: Unread,
    pub walls: Walls,
    pub top: Top,
    pub learning: Learning,
    pub warmups: Warmups,
    pub within: Arc<Within>,
    /// Apart from `dues`, which tenants hold: it holds the spool's storage.
    pub spent: Spent,
    pub dues: Arc<Dues>,
    /// Unfinished recipients.
    pub queued: AtomicUsize,
    /// Entries that wait for a look-up.
    pub waiting_for_dns: AtomicUsize,
    /// Assignments out, and DSNs not yet stored.
    pub in_flight: AtomicUsize,
    /// The courier is there and we are not stopping.
    is_dispatching: AtomicBool,
    is_stopping: AtomicBool,
    runtime: OnceLock<Runtime>,
    /// Look-ups, DSNs and timers; awaited by the task that [`super::Queue::start`] returns.
    pub tasks: TaskTracker,
    pub stopped: CancellationToken,
    pub notices: Arc<Semaphore>,
    /// Recipients whose DSN is being made or stored.
    pub storing: Mutex<InHand>,
    /// A stop came before a DSN could be stored: the next start finds its recipients as they were. Set once.
    pub has_left_notices: AtomicBool,
    /// What came and went, for rates.
    pub flowing: Flowing,
    /// When it was made.
    pub started: Instant,
}

struct Runtime {
    handle: Handle,
    courier: Arc<dyn Courier>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("queued", &self.queued)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An empty queue.
    pub fn new(
        mut settings: Settings,
        spool: Spool,
        orders: state::Orders,
        planner: Arc<Planner>,
        clock: Clock,
        registry: &Registry,
    ) -> Self {
        let within = Arc::<Within>::default();
        settings.rules = settings.rules.at(&within);
        let engine = Self {
            tenants: Tenants::default(),
            domains: Domains::new(settings.shards),
            sites: Mutex::default(),
            limits: ArcSwap::from_pointee(settings.limits.clone()),
            timers: Timers::new(settings.shards),
            upkeep: Pulse::default(),
            gates: Gates::new(&settings, clock.now()),
            sources: ArcSwap::from_pointee(Chooser::new(&settings.egress)),
            doubts: Doubts::default(),
            held: Held::default(),
            orders: Orders::new(orders),
            arrivals: Passages::default(),
            outings: Passages::default(),
            replies: Replies::default(),
            lookups: Lookups::new(settings.lookups),
            meters: Meters::new(registry),
            journal: Journal::off(),
            feedback: None,
            signer: None,
            unread: Unread::default(),
            walls: Walls::new(registry),
            top: Top::new(registry),
            learning: Learning::default(),
            warmups: Warmups::new(within.clone(), registry),
            within,
            spent: Spent::default(),
            dues: Arc::default(),
            queued: AtomicUsize::new(0),
            waiting_for_dns: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            is_dispatching: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            runtime: OnceLock::new(),
            tasks: TaskTracker::new(),
            stopped: CancellationToken::new(),
            notices: Arc::new(Semaphore::new(NOTICES)),
            storing: Mutex::default(),
            has_left_notices: AtomicBool::new(false),
            flowing: Flowing::default(),
            started: clock.now(),
            settings: ArcSwap::from_pointee(settings),
            spool,
            planner: ArcSwap::new(planner),
            clock,
        };
        engine.reload_warmups(clock.now());
        engine
    }

    /// What holds now. Not to be kept across an await.
    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Who makes delivery plans now.
    pub fn planner(&self) -> Guard<Arc<Planner>> {
        self.planner.load()
    }

    /// Whether work is handed out.
    pub fn is_dispatching(&self) -> bool {
        self.is_dispatching.load(Ordering::Relaxed)
    }

    /// Where tasks run, once started.
    pub fn handle(&self) -> Option<&Handle> {
        self.runtime.get().map(|runtime| &runtime.handle)
    }

    /// Begins to hand out work.
    pub fn start(self: &Arc<Self>, courier: Arc<dyn Courier>) {
        let _ = self.runtime.set(Runtime { handle: Handle::current(), courier });
        self.meters.show_ceilings(self.settings().capacity, self.settings().connections);
        self.tell_ended_while_down();
        self.tell_missing_sources();
        if !self.is_stopping.load(Ordering::Acquire) {
            self.is_dispatching.store(true, Ordering::Release);
        }
        self.lookups.kick(self);
        for site in self.all_sites() {
            site.wake_all(self, self.clock.now());
        }
    }

    /// Hands out nothing more; connections without work end.
    pub fn stop(self: &Arc<Self>) {
        self.is_stopping.store(true, Ordering::Release);
        self.is_dispatching.store(false, Ordering::Release);
        self.stopped.cancel();
        for site in self.all_sites() {
            site.end_all_idle(self, self.clock.now());
        }
    }

    /// Whether `recipients` more of any tenant may be accepted.
    pub fn room_in_all(&self, recipients: usize) -> Result<(), QueueFull> {
        let queued = self.queued.load(Ordering::Relaxed);
        if queued.saturating_add(recipients) > self.settings().capacity { Err(QueueFull::Queue) } else { Ok(()) }
    }

    /// Whether `recipients` more of `tenant` may be accepted. A stop does not matter: what is being submitted then is
    /// stored and waits for the next start.
    pub fn room(&self, tenant: &str, recipients: usize) -> Result<(), QueueFull> {
        self.room_in_all(recipients)?;
        let (queued, capacity) = match self.tenants.find(tenant) {
            Some(tenant) => (tenant.queued.load(Ordering::Relaxed), tenant.capacity()),
            None => (0, self.settings().tenant_capacity(tenant)),
        };
        if queued.saturating_add(recipients) > capacity { Err(QueueFull::Tenant) } else { Ok(()) }
    }

    /// The tenant of this name.
    pub fn tenant(&self, name: &str) -> Arc<Tenant> {
        self.tenants.intern(name, || self.settings(), |name| self.sources.load().pool(name), || self.clock.now())
    }

    /// The flow of a message of `tenant`.
    fn flow(&self, tenant: &Arc<Tenant>, envelope: &Envelope) -> Arc<Flow> {
        let sender = match &envelope.reverse_path {
            crate::smtp::address::ReversePath::Mailbox(address) => self.sources.load().pool_of_sender(address.domain()),
            crate::smtp::address::ReversePath::Null => None,
        };
        let key = (envelope.lane, &*envelope.campaign, sender);
        tenant.flow(key, &self.settings().rules, &self.tenants.hasher, self.clock.now())
    }

    /// The flow of an accepted message.
    pub fn flow_of(&self, envelope: &Envelope) -> Arc<Flow> {
        self.flow(&self.tenant(&envelope.tenant), envelope)
    }

    /// Counts recipients in.
    pub fn count_in(&self, tenant: &Tenant, recipients: usize) {
        tenant.queued.fetch_add(recipients, Ordering::Relaxed);
        self.queued.fetch_add(recipients, Ordering::Relaxed);
    }

    /// Counts finished recipients out.
    pub fn count_out(&self, flow: &Flow, recipients: usize) {
        flow.tenant.queued.fetch_sub(recipients, Ordering::Relaxed);
        self.queued.fetch_sub(recipients, Ordering::Relaxed);
    }

    /// Takes entries out of the way of the others, unfinished.
    pub fn hold(self: &Arc<Self>, entries: Vec<Entry>, hold: Hold) {
        for entry in &entries {
            tracing::error!(message_id = %entry.id, recipient = entry.recipient, reason = hold.as_str(), "held");
        }
        self.tell_held(&entries, hold.as_str(), None);
        self.held.add(entries, hold);
    }

    /// Takes over a message that the spool has, whatever is queued.
    pub fn put(self: &Arc<Self>, id: MessageId, envelope: &Envelope) {
        let tenant = self.tenant(&envelope.tenant);
        self.count_in(&tenant, envelope.recipients.len());
        self.put_counted(id, envelope, &tenant);
    }

    /// The same for a message whose recipients are counted in. It is ours already, whatever happens here.
    pub fn put_counted(self: &Arc<Self>, id: MessageId, envelope: &Envelope, tenant: &Arc<Tenant>) {
        if let Err(panic) = self.walls.inlet.call(|| self.put_entries(id, envelope, tenant)) {
            self.salvage(
                (0..).zip(&envelope.recipients).map(|(index, _)| (id, index)).collect(),
                Blame::Certain,
                panic,
            );
        }
    }

    fn put_entries(self: &Arc<Self>, id: MessageId, envelope: &Envelope, tenant: &Arc<Tenant>) {
        let flow = self.flow(tenant, envelope);
        let entry = |recipient: (&Recipient, u32)| {
            Entry::new(id, envelope, recipient, self.domains.intern(recipient.0.forward_path.domain()), flow.clone())
        };
        let mut entries: Vec<Entry> = envelope.recipients.iter().zip(0..).map(entry).collect();
        self.leave_out_suppressed(envelope, &mut entries);
        if entries.len() > 1 {
            // Recipients of one domain together; stable, so in the order of RCPT.
            entries.sort_by(|a, b| a.domain.name.cmp(&b.domain.name));
        }
        self.admit_all(entries);
    }

    /// Takes over what is left of a message that the spool had at the start.
    pub fn recover_safely(self: &Arc<Self>, message: &Recovered) {
        if let Err(panic) = self.walls.inlet.call(|| self.recover(message)) {
            let keys = message.pending.iter().map(|pending| (message.id, pending.recipient)).collect();
            self.salvage(keys, Blame::Certain, panic);
        }
    }

    fn recover(self: &Arc<Self>, message: &Recovered) {
        let envelope = &message.envelope;
        let flow = self.flow_of(envelope);
        let wall = self.clock.wall();
        let in_doubt = self.settings().in_doubt(&envelope.tenant);
        let (mut now, mut later, mut held, mut assumed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for pending in &message.pending {
            let Some(entry) = self.entry_of(message.id, envelope, &flow, pending) else { continue };
            if let Some(address) = pending.in_doubt
                && in_doubt == InDoubt::AssumeDelivered
            {
                self.tell_assumed(message, pending, address);
                assumed.push(RecipientEvent { recipient: pending.recipient, event: Event::Delivered });
                continue;
            }
            self.count_in(&flow.tenant, 1);
            if let Some(address) = pending.in_doubt {
                self.doubts.insert(message.id, pending.recipient, address);
            }
            let is_due = entry.due <= wall || pending.in_doubt.is_some();
            if let Some(order) = self.doom_of(&entry) {
                self.give_up(&order, vec![entry]);
            } else if pending.in_doubt.is_some() && in_doubt == InDoubt::Hold {
                held.push(entry);
            } else if is_due {
                now.push(entry);
            } else {
                later.push(entry);
            }
        }
        if !assumed.is_empty() {
            tracing::warn!(message_id = %message.id, recipients = assumed.len(), "in doubt: assumed to be delivered");
            self.meters.assumed.increment(u64::try_from(assumed.len()).unwrap_or(u64::MAX));
            self.spool.record(message.id, &assumed);
        }
        self.hold(held, Hold::InDoubt);
        self.timers.schedule(later.into_iter());
        now.sort_by(|a: &Entry, b: &Entry| a.domain.name.cmp(&b.domain.name));
        self.admit_all(now);
    }

    /// The entry of a recipient that the spool knows.
    pub fn entry_of(&self, id: MessageId, envelope: &Envelope, flow: &Arc<Flow>, pending: &Pending) -> Option<Entry> {
        let recipient = envelope.recipients.get(usize::try_from(pending.recipient).ok()?)?;
        // Later than any retry can be: the clock was ahead when that was noted, or the schedule longer.
        let due = match pending.attempts {
            0 => pending.due,
            attempts => pending.due.min(self.settings().retry.latest(attempts, self.clock.wall())),
        };
        let domain = self.domains.intern(recipient.forward_path.domain());
        let fresh = Entry::new(id, envelope, (recipient, pending.recipient), domain, flow.clone());
        let marks = fresh
            .marks
            .with(Marks::IN_DOUBT, pending.in_doubt.is_some())
            .with(Marks::DELAY_REPORTED, pending.delay_reported);
        Some(Entry { due, attempts: pending.attempts, marks, ..fresh })
    }

    /// The site that a plan leads to.
    pub fn site_of(&self, plan: &Plan, now: Instant) -> Arc<Site> {
        self.within.note(plan);
        let mut sites = self.sites.lock();
        if let Some(site) = sites.get(&*plan.site) {
            return site.clone();
        }
        let name = plan.site.clone();
        let limits = self.limits_of(&name);
        let shard = usize::try_from(sites.hasher().hash_one(&*name) >> 32).unwrap_or_default();
        let site = Arc::new(Site::new(name.clone(), limits, &self.settings().rules, shard, now));
        self.dues.settle(site.state.lock().budget.as_deref(), now, || Whose::Site((*name).into()));
        sites.insert(name, site.clone());
        site
    }

    /// What a site of this name is offered.
    pub fn limits_of(&self, site: &str) -> Arc<Limits> {
        let general = self.limits.load_full();
        let own = self.settings().rules.limits(site, &general);
        // Most sites are as all others: they share one value.
        if own == *general { general } else { Arc::new(own) }
    }

    /// Replaces what is read at each use.
    pub fn replace(&self, mut settings: Settings, sources: Chooser) {
        settings.rules = settings.rules.at(&self.within);
        self.limits.store(Arc::new(settings.limits.clone()));
        self.sources.store(Arc::new(sources));
        self.settings.store(Arc::new(settings));
    }

    /// Has `planner` make plans, and domains forget theirs.
    pub fn replan(&self, planner: Arc<Planner>) {
        self.planner.store(planner);
        self.domains.for_each(|domain| {
            let mut state = domain.state.lock();
            (state.route, state.failure) = (None, None);
        });
    }

    /// Every site.
    pub fn all_sites(&self) -> Vec<Arc<Site>> {
        self.sites.lock().values().cloned().collect()
    }

    /// Those of these names that there are.
    pub fn find_sites(&self, names: &[&str]) -> Vec<Arc<Site>> {
        let sites = self.sites.lock();
        names.iter().filter_map(|name| sites.get(*name).cloned()).collect()
    }

    /// Forgets sites that nothing refers to and that have nothing to remember; tells how many are left.
    pub fn sweep_sites(&self, now: Instant) -> usize {
        let mut sites = self.sites.lock();
        // A count of one under the table's lock: nobody else can be about to use it.
        sites.retain(|_, site| !(site.state.lock().sweep(now) && Arc::strong_count(site) == 1));
        // After a wave the table must not keep its size; half as much again spares the next one some growth.
        let room = sites.len() * 2;
        sites.shrink_to(room);
        sites.len()
    }

    /// Starts a connection.
    pub fn dispatch(&self, slot: Slot, first: Assignment) {
        // Without a courier both are dropped: the work goes back, the permits are returned.
        if let Some(runtime) = self.runtime.get() {
            // Recovery runs in a thread of its own, outside of any runtime. Not entered twice: Tokio forbids it where this
            // is reached by the drop of a task at the end of the runtime.
            let _inside = Handle::try_current().is_err().then(|| runtime.handle.enter());
            runtime.courier.dispatch(slot, first);
        }
    }

    /// Entries accepted before this have expired.
    pub fn dead_before(&self) -> UnixTime {
        self.settings().retry.dead_before(self.clock.wall())
    }

    /// The source of this index; none: a reload took it away.
    pub fn source(&self, index: u16) -> Option<Arc<Source>> {
        self.sources.load().source(index).cloned()
    }
}
