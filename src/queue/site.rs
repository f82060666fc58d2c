//! A site: the provider, MX set or domain that limits apply to. Ready entries and connections meet here.
//!
//! A site has one short lock. Under it entries are put and drawn, and connections are counted; everything that calls
//! out (starting a connection, waking a task, arming a timer, a DSN) is collected in an [`Outbox`] and done after the
//! lock is released. Who is served next is decided in `pump`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;

use crate::dns::Plan;
use crate::limit::rate::Rate;
use crate::limit::window::Window;
use crate::message::Report;

use super::assignment::Assignment;
use super::engine::Engine;
use super::entry::Entry;
use super::path::{Cause, Path, PathKey, Wait};
use super::ready::{Account, Take};
use super::settings::Limits;
use super::slot::Slot;
use super::storm::Storm;
use super::waiting::Waiting;

type State = foldhash::fast::RandomState;

/// A provider, MX set or domain.
#[derive(Debug)]
pub(super) struct Site {
    pub name: Arc<str>,
    pub limits: Arc<Limits>,
    /// Which timer wakes it.
    pub shard: usize,
    /// Connections from all sources.
    pub connections: Window,
    /// Held briefly, never across an await, never together with another site or a domain.
    pub state: Mutex<SiteState>,
}

/// What happens to a path later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// A back-off ends.
    BackOff,
    /// Is it worth more connections?
    Growth,
    /// The site's message rate has room again.
    Rate,
    /// The site's rate of new connections has room again.
    ConnectionRate,
}

/// What changes about a site.
#[derive(Debug)]
pub(super) struct SiteState {
    pub paths: Vec<Option<Box<Path>>>,
    free: Vec<u32>,
    by_key: HashMap<PathKey, u32, State>,
    /// Tenants' virtual times; forgotten when they lie behind `now` and nobody is ready.
    accounts: HashMap<usize, Account, State>,
    /// The virtual time of the tenant served last.
    pub now: u64,
    /// Paths that wait for a connection.
    pub starved: Waiting,
    /// Paths that wait for the message rate.
    pub throttled: Waiting,
    /// How many paths wait for the message rate.
    pub throttled_paths: usize,
    /// Paths whose cause is [`Cause::Connections`].
    pub hungry: usize,
    /// Connections that were told to end for a hungry path, and have not ended yet.
    pub ending: usize,
    /// Connections without work.
    pub idle: usize,
    /// Messages.
    pub rate: Option<Rate>,
    /// New connections.
    pub openings: Option<Rate>,
    /// Connections by source.
    pub per_source: HashMap<u16, Window, State>,
    /// What happens later, the earliest first.
    pub alarms: BinaryHeap<Reverse<(Instant, u32, Alarm)>>,
    /// The earliest alarm that the timers know of.
    pub wake: Option<Instant>,
    /// An alarm for the message rate is set.
    pub has_rate_alarm: bool,
    /// An alarm for the rate of new connections is set.
    pub has_opening_alarm: bool,
    /// It stands in the queue of a window that other sites share.
    pub is_at_gate: bool,
    /// It stands in the list of sites with connections without work.
    pub is_listed: bool,
    /// Recent outcomes.
    pub storm: Storm,
    /// The last reply that was not a success.
    pub last_reply: Option<Arc<Report>>,
}

/// What is done after a site's lock is released.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub dispatch: Vec<(Slot, Assignment)>,
    pub wake: Vec<Waker>,
    pub expired: Vec<Entry>,
    /// Entries to find their path anew.
    pub homeless: Vec<Entry>,
    /// Dropping these takes the lock.
    pub undone: Vec<Assignment>,
    pub alarm: Option<Instant>,
    /// Paths whose plan is over, with the domain to look up.
    pub refresh: Vec<(u32, Arc<str>)>,
    /// The site has connections without work and is to be listed as such.
    pub has_idle: bool,
    /// Join the queue of this source's gate, or of the global one.
    pub gate: Option<Option<u16>>,
}

/// What a decision under the lock rests on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub engine: &'a Arc<Engine>,
    pub site: &'a Arc<Site>,
    pub now: Instant,
    pub take: Take,
}

impl Site {
    /// A site without work.
    pub fn new(name: Arc<str>, limits: Arc<Limits>, shard: usize, now: Instant) -> Self {
        let rate = limits.rate.map(|rate| Rate::new(rate.count, rate.per, now));
        let minute = std::time::Duration::from_secs(60);
        let openings = limits.connections_per_minute.map(|count| Rate::new(count, minute, now));
        Self {
            name,
            shard,
            connections: Window::new(limits.connections),
            state: Mutex::new(SiteState::new(rate, openings)),
            limits,
        }
    }
}

impl SiteState {
    fn new(rate: Option<Rate>, openings: Option<Rate>) -> Self {
        Self {
            paths: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::default(),
            accounts: HashMap::default(),
            now: 0,
            starved: Waiting::default(),
            throttled: Waiting::default(),
            throttled_paths: 0,
            hungry: 0,
            ending: 0,
            idle: 0,
            rate,
            openings,
            per_source: HashMap::default(),
            alarms: BinaryHeap::new(),
            wake: None,
            has_rate_alarm: false,
            has_opening_alarm: false,
            is_at_gate: false,
            is_listed: false,
            storm: Storm::default(),
            last_reply: None,
        }
    }

    /// The path at `place`.
    pub fn path(&mut self, place: u32) -> Option<&mut Path> {
        self.paths.get_mut(index(place)).and_then(Option::as_deref_mut)
    }

    /// The path of `plan` from `source`.
    pub fn path_of(&mut self, plan: &Arc<Plan>, source: u16) -> u32 {
        let key = PathKey::new(plan, source);
        if let Some(place) = self.by_key.get(&key).copied() {
            if let Some(path) = self.path(place)
                && path.plan.valid_until < plan.valid_until
            {
                path.plan = plan.clone();
            }
            return place;
        }
        let path = Some(Box::new(Path::new(key.clone(), plan.clone())));
        let place = match self.free.pop() {
            Some(place) => {
                if let Some(slot) = self.paths.get_mut(index(place)) {
                    *slot = path;
                }
                place
            }
            None => {
                self.paths.push(path);
                u32::try_from(self.paths.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_key.insert(key, place);
        place
    }

    /// Adds a ready entry to a path; gives it back if there is no such path.
    pub fn push(&mut self, place: u32, entry: Entry) -> Option<Entry> {
        let key = entry.flow.tenant.key;
        let Self { paths, accounts, now, .. } = self;
        let Some(path) = paths.get_mut(index(place)).and_then(Option::as_deref_mut) else { return Some(entry) };
        path.ready.push(entry, *now, || accounts.entry(key).or_default().clone());
        None
    }

    /// Draws the next batch of a path. The caller has the permits.
    pub fn draw(&mut self, context: &Context<'_>, place: u32, out: &mut Outbox) -> Option<Assignment> {
        let Self { paths, now, .. } = self;
        let path = paths.get_mut(index(place)).and_then(Option::as_deref_mut)?;
        let entries = path.ready.pop(context.take, now, &mut out.expired)?;
        path.in_flight = path.in_flight.saturating_add(1);
        path.served = path.served.saturating_add(1);
        Assignment::new(context, place, entries, &mut path.in_hand)
    }

    /// Notes what a path waits for.
    pub fn set_cause(&mut self, place: u32, cause: Option<Cause>) {
        let Some(path) = self.path(place) else { return };
        let before = std::mem::replace(&mut path.cause, cause);
        self.hungry += usize::from(cause == Some(Cause::Connections));
        self.hungry -= usize::from(before == Some(Cause::Connections));
    }

    /// Puts a path into one of the orders of waiting ones; in front if it keeps its turn.
    pub fn mark(&mut self, place: u32, wait: Wait, keeps_turn: bool) {
        let Some(path) = self.path(place) else { return };
        let Some(best) = path.ready.best() else { return };
        if path.waits == Some((wait, best.tenant)) {
            return;
        }
        self.unwait(place);
        if let Some(path) = self.path(place) {
            path.waits = Some((wait, best.tenant));
        }
        self.throttled_paths += usize::from(wait == Wait::Throttled);
        self.order(wait).push(best, place, keeps_turn);
    }

    /// Takes the path whose turn it is out of one of the orders.
    pub fn unmark(&mut self, wait: Wait) -> Option<u32> {
        loop {
            let (tenant, place) = self.order(wait).pop()?;
            // Older marks of the same path stay until they come up; only the last one counts.
            if self.path(place).is_some_and(|path| path.waits == Some((wait, tenant))) {
                self.unwait(place);
                return Some(place);
            }
        }
    }

    /// The path whose turn it is, with its virtual time.
    pub fn first_waiting(&mut self, wait: Wait) -> Option<(u64, u32)> {
        loop {
            let (time, tenant, place) = self.order(wait).peek()?;
            if self.path(place).is_some_and(|path| path.waits == Some((wait, tenant))) {
                return Some((time, place));
            }
            self.order(wait).pop();
        }
    }

    /// A path waits no longer.
    pub fn unwait(&mut self, place: u32) {
        let before = self.path(place).and_then(|path| path.waits.take());
        self.throttled_paths -= usize::from(matches!(before, Some((Wait::Throttled, _))));
    }

    fn order(&mut self, wait: Wait) -> &mut Waiting {
        match wait {
            Wait::Starved => &mut self.starved,
            Wait::Throttled => &mut self.throttled,
        }
    }

    /// Has an alarm go off at `at`.
    pub fn arm(&mut self, at: Instant, place: u32, alarm: Alarm, out: &mut Outbox) {
        self.alarms.push(Reverse((at, place, alarm)));
        if self.wake.is_none_or(|wake| at < wake) {
            self.wake = Some(at);
            out.alarm = Some(at);
        }
    }

    /// Forgets a path that has neither work nor connections.
    pub fn forget_unused(&mut self, place: u32, now: Instant) {
        let Some(slot) = self.paths.get_mut(index(place)) else { return };
        if slot.as_deref().is_some_and(|path| path.is_unused(now))
            && let Some(path) = slot.take()
        {
            self.by_key.remove(&path.key);
            self.hungry -= usize::from(path.cause == Some(Cause::Connections));
            self.throttled_paths -= usize::from(matches!(path.waits, Some((Wait::Throttled, _))));
            self.free.push(place);
        }
    }

    /// Forgets paths without work and tenants that owe nothing. True if nothing is left to remember.
    pub fn sweep(&mut self, now: Instant) -> bool {
        for place in 0..u32::try_from(self.paths.len()).unwrap_or(u32::MAX) {
            self.forget_unused(place, now);
        }
        self.per_source.retain(|_, window| window.used() > 0);
        if self.paths.iter().any(Option::is_some) {
            return false;
        }
        (self.paths, self.free, self.by_key) = Default::default();
        (self.accounts, self.now) = Default::default();
        (self.starved, self.throttled, self.throttled_paths) = Default::default();
        self.alarms = BinaryHeap::new();
        (self.has_rate_alarm, self.has_opening_alarm) = (false, false);
        self.per_source = HashMap::default();
        [&self.rate, &self.openings].into_iter().flatten().all(|rate| rate.is_idle(now))
    }
}

impl Outbox {
    /// Does what was collected. No lock may be held.
    pub fn flush(self, engine: &Arc<Engine>, site: &Arc<Site>) {
        if let Some(at) = self.alarm {
            engine.timers.alarm(site, at);
        }
        if self.has_idle {
            engine.gates.list_idle(site);
        }
        if let Some(source) = self.gate {
            engine.gates.join(source, site, engine);
        }
        for (place, domain) in self.refresh {
            engine.refresh(site, place, domain);
        }
        drop(self.undone);
        for waker in self.wake {
            waker.wake();
        }
        for (slot, first) in self.dispatch {
            engine.dispatch(slot, first);
        }
        if !self.expired.is_empty() {
            engine.expire(self.expired);
        }
        if !self.homeless.is_empty() {
            engine.admit_all(self.homeless);
        }
    }
}

/// A place in a vector.
pub(super) fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}
