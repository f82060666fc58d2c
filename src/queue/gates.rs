//! Windows of connections that sites share: the global one and one for each egress source.
//!
//! A site that finds one full queues up at it; each release wakes one site. The last tenth of a window is for sites that
//! have no connection at all: those whose connections are stuck cannot keep it from everyone else.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use crate::limit::budget::{Allowance, Budget};
use crate::limit::window::Window;

use super::dues::{Dues, Whose};
use super::engine::Engine;
use super::entry::MOST_SOURCES;
use super::rare::Rare;
use super::rules::{Of, Rules};
use super::settings::Settings;
use super::site::Site;
use super::source::Source;

/// Where a site waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turnstile {
    /// At the gate of this source; none: at the global one.
    pub source: Option<u16>,
    /// Among the sites that had no connection.
    pub is_fresh: bool,
}

/// A shared window and who waits for it, and what may pass in time.
#[derive(Debug)]
pub(super) struct Gate {
    pub window: Window,
    /// Set by [`Gate::allow`].
    pub budget: Rare<Budget>,
    source: Option<u16>,
    /// Sites without connections.
    fresh: Waiters,
    /// Sites that have some and want more.
    others: Waiters,
}

/// Sites that wait.
#[derive(Debug, Default)]
struct Waiters {
    sites: Mutex<VecDeque<Weak<Site>>>,
    /// Length of `sites`, to be looked at without its lock.
    len: AtomicUsize,
}

impl Waiters {
    fn push(&self, site: &Arc<Site>) {
        self.sites.lock().push_back(Arc::downgrade(site));
        self.len.fetch_add(1, Ordering::AcqRel);
    }

    fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Takes the first; one that is forgotten is not worth a place.
    fn pop(&self) -> Option<Weak<Site>> {
        let site = self.sites.lock().pop_front()?;
        self.len.fetch_sub(1, Ordering::AcqRel);
        Some(site)
    }
}

/// All shared windows.
#[derive(Debug)]
pub(super) struct Gates {
    global: Gate,
    /// By index; made for each index when its source is first known, never taken away.
    sources: Box<[OnceLock<Box<Gate>>]>,
    /// Connections that were told to make way for a waiting site and have not ended yet.
    asked: AtomicUsize,
    /// Sites that had connections without work when they came here.
    idle: Mutex<VecDeque<Weak<Site>>>,
}

/// The ceiling of a source without a limit of its own.
const NO_LIMIT: u32 = u32::MAX;
/// Sites that are asked for an idle connection at one refusal.
const PATIENCE: usize = 16;

/// The ceiling of a window; none: it has none of its own.
pub(super) fn ceiling_of(window: &Window) -> Option<u32> {
    Some(window.ceiling()).filter(|ceiling| *ceiling != NO_LIMIT)
}

impl Gate {
    fn new(ceiling: u32, source: Option<u16>) -> Self {
        let (fresh, others) = Default::default();
        Self { window: Window::new(ceiling), budget: Rare::new(None), source, fresh, others }
    }

    /// Sets what may pass in time; what was used up stays so.
    fn allow(&self, allowance: &Allowance, now: Instant) {
        let budget = match self.budget.load().as_deref() {
            Some(before) if before.is_of(allowance) => return,
            Some(before) => before.followed_by(allowance, now),
            None => Budget::new(allowance, now),
        };
        self.budget.store(budget.map(Arc::new));
    }

    /// Places that a site must leave to others.
    pub fn spare(&self, is_fresh: bool) -> u32 {
        match self.window.ceiling() {
            _ if is_fresh => 0,
            // A source without a limit has nothing to keep.
            0 | 1 | NO_LIMIT => 0,
            ceiling => (ceiling / 10).max(1),
        }
    }

    fn waiters(&self) -> usize {
        self.fresh.len() + self.others.len()
    }

    fn wake(&self, engine: &Arc<Engine>, now: Instant) {
        for (waiters, is_fresh) in [(&self.fresh, true), (&self.others, false)] {
            let spare = self.spare(is_fresh);
            while waiters.len() > 0 && self.window.look_leaving(spare) {
                let Some(site) = waiters.pop() else { break };
                if let Some(site) = site.upgrade() {
                    site.on_gate(engine, now, Turnstile { source: self.source, is_fresh });
                }
            }
        }
    }
}

impl Gates {
    /// The windows and budgets of the settings.
    pub fn new(settings: &Settings, now: Instant) -> Self {
        let gates = Self {
            global: Gate::new(settings.connections, None),
            sources: (0..=MOST_SOURCES).map(|_| OnceLock::new()).collect(),
            asked: AtomicUsize::new(0),
            idle: Mutex::default(),
        };
        gates.limit_all(settings, now);
        for (source, index) in settings.egress.sources.iter().zip(0..) {
            gates.limit(index, source, source.connections, &settings.rules, now);
        }
        gates
    }

    /// Has the budgets owe what they did before the start.
    pub fn take_up(&self, dues: &Dues, settings: &Settings, now: Instant) {
        dues.settle(self.global.budget.load().as_deref(), now, || Whose::Everything);
        for (source, index) in settings.egress.sources.iter().zip(0..) {
            let budget = self.of(index).and_then(|gate| gate.budget.load_full());
            dues.settle(budget.as_deref(), now, || Whose::Source((*source.name).into()));
        }
    }

    /// Sets what holds for everything.
    pub fn limit_all(&self, settings: &Settings, now: Instant) {
        self.global.window.set_ceiling(settings.connections);
        self.global.allow(&settings.allowance, now);
    }

    /// Sets what holds for a source.
    pub fn limit(&self, index: u16, source: &Source, connections: Option<u32>, rules: &Rules, now: Instant) {
        let ceiling = connections.unwrap_or(NO_LIMIT);
        if let Some(gate) = self.sources.get(usize::from(index)) {
            let gate = gate.get_or_init(|| Box::new(Gate::new(ceiling, Some(index))));
            gate.window.set_ceiling(ceiling);
            gate.allow(&rules.ceiling(Of::Source(&source.name)).allowance(), now);
        }
    }

    /// Connections from a source.
    pub fn used(&self, source: u16) -> u32 {
        self.of(source).map_or(0, |gate| gate.window.used())
    }

    /// Wakes sites that wait at any gate, as far as there is room. No lock may be held.
    pub fn wake_all(&self, engine: &Arc<Engine>, now: Instant) {
        self.global.wake(engine, now);
        for gate in self.sources.iter().filter_map(OnceLock::get) {
            gate.wake(engine, now);
        }
    }

    /// The window of everything.
    pub fn global(&self) -> &Gate {
        &self.global
    }

    /// The window of a source.
    pub fn of(&self, source: u16) -> Option<&Gate> {
        self.sources.get(usize::from(source)).and_then(OnceLock::get).map(Box::as_ref)
    }

    /// Gives the places of one connection back.
    pub fn release(&self, source: u16) {
        self.global.window.release();
        if let Some(gate) = self.of(source) {
            gate.window.release();
        }
    }

    /// Wakes sites that wait, as far as there is room. No lock may be held.
    pub fn wake(&self, source: u16, engine: &Arc<Engine>, now: Instant) {
        self.global.wake(engine, now);
        if let Some(gate) = self.of(source) {
            gate.wake(engine, now);
        }
    }

    /// Queues a site up at a gate; wakes it at once if there is room meanwhile.
    pub fn join(&self, at: Turnstile, site: &Arc<Site>, engine: &Arc<Engine>) {
        let gate = at.source.and_then(|source| self.of(source)).unwrap_or(&self.global);
        if at.is_fresh {
            gate.fresh.push(site)
        } else {
            gate.others.push(site)
        }
        // A release between the refusal and the line above found nobody to wake.
        gate.wake(engine, engine.clock.now());
        if gate.waiters() > 0 {
            self.reclaim(at.source, engine);
        }
    }

    /// Lists a site that has connections without work; it marks itself as listed.
    pub fn list_idle(&self, site: &Arc<Site>) {
        self.idle.lock().push_back(Arc::downgrade(site));
    }

    /// Takes forgotten sites off the list. While no ceiling is met nobody else does, and each keeps its memory until then.
    pub fn forget(&self) {
        let mut idle = self.idle.lock();
        idle.retain(|site| site.strong_count() > 0);
        let room = idle.len() * 2;
        idle.shrink_to(room);
    }

    /// How many sites are listed, the forgotten ones among them.
    #[cfg(test)]
    pub fn listed(&self) -> usize {
        self.idle.lock().len()
    }

    /// Has some site end a connection without work.
    fn reclaim(&self, source: Option<u16>, engine: &Arc<Engine>) {
        for _ in 0..PATIENCE {
            let Some(listed) = self.idle.lock().pop_front() else { return };
            let Some(site) = listed.upgrade() else { continue };
            let (has_found, has_more) = site.reclaim_idle(engine, source);
            if has_more {
                self.list_idle(&site);
            }
            if has_found {
                return;
            }
        }
    }

    /// Whether a busy connection from this source is to make way for a site that waits; it must then tell when it has
    /// ended ([`Gates::made_way`]). One is asked for each site that waits.
    pub fn ask(&self, source: u16) -> bool {
        let waiting = self.global.waiters() + self.of(source).map_or(0, Gate::waiters);
        let one_more = |asked: usize| (asked < waiting).then_some(asked + 1);
        waiting > 0 && self.asked.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).is_ok()
    }

    /// A connection that was asked has ended.
    pub fn made_way(&self) {
        self.asked.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether sites wait for a connection that this source, or everything, may have.
    pub fn are_contended(&self, source: u16) -> bool {
        self.global.waiters() > 0 || self.of(source).is_some_and(|gate| gate.waiters() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_that_is_forgotten_leaves_the_list_of_those_with_idle_connections() {
        let now = Instant::now();
        let gates = Gates::new(&Settings::default(), now);
        let [kept, forgotten] = ["kept.test", "forgotten.test"]
            .map(|name| Arc::new(Site::new(Arc::from(name), Arc::default(), &Rules::default(), 0, now)));
        gates.list_idle(&forgotten);
        gates.list_idle(&kept);

        drop(forgotten);
        gates.forget();

        assert_eq!(gates.listed(), 1);
        assert_eq!(Arc::weak_count(&kept), 1);
    }
}
