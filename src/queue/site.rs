//! A site: the provider, MX set or domain that limits apply to. Ready entries and connections meet here.
//!
//! A site has one short lock. Under it entries are put and drawn, and connections are counted; everything that calls
//! out (starting a connection, waking a task, arming a timer, a DSN) is collected in an [`Outbox`] and done after the
//! lock is released. Who is served next is decided in `pump`.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::dns::Plan;
use crate::dns::security::Assurance;
use crate::limit::budget::Budget;
use crate::limit::controller::Change;
use crate::limit::turns::Turns;
use crate::limit::window::Window;
use crate::message::Report;
use crate::metrics::bounded::Place;

use super::assignment::Assignment;
use super::engine::Engine;
use super::entry::Entry;
use super::gates::Turnstile;
use super::origin::Origin;
use super::path::{Cause, Path, PathKey, Wait};
use super::purse::Purses;
use super::ready::{Account, Take};
use super::rules::Rules;
use super::settings::Limits;
use super::slot::Slot;
use super::storm::Storm;
use super::tally::Sayings;
use super::waiting::Waiting;
use super::warmup::Pass;

type State = foldhash::fast::RandomState;

/// A provider, MX set or domain.
#[derive(Debug)]
pub(super) struct Site {
    pub name: Arc<str>,
    /// Written by a reload.
    pub limits: ArcSwap<Limits>,
    /// Which timer wakes it.
    pub shard: usize,
    /// Connections from all sources.
    pub connections: Window,
    /// Where its outcomes are counted.
    pub place: Place,
    /// Held briefly, never across an await, never together with another site; domains are locked under it, never it under a
    /// domain.
    pub state: Mutex<SiteState>,
}

/// What happens to a path later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// A back-off ends.
    BackOff,
    /// A tenant or a campaign that was away comes back.
    Purse,
    /// Is it worth more connections?
    Growth,
    /// The site's message rate has room again.
    Rate,
    /// The site's rate of new connections has room again.
    ConnectionRate,
    /// The warm-up of a source may have room again.
    Warmup,
    /// A controller's next look is due; of the source that stands in the path's place.
    Learning,
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
    /// Paths that wait for a message rate.
    pub throttled: Waiting,
    /// Paths that wait for the warm-up of their source.
    pub warming: Waiting,
    /// How many paths wait for a connection, for a message rate, and for a warm-up, by source.
    waiting_paths: [Vec<u32>; 3],
    /// Paths whose cause is [`Cause::Connections`].
    pub hungry: usize,
    /// Connections that were told to end for a hungry path, and have not ended yet.
    pub ending: usize,
    /// Connections without work.
    pub idle: usize,
    /// What the site is sent in time.
    pub budget: Option<Box<Budget>>,
    /// The site's turns at rates that sites share.
    pub turns: Turns,
    /// Sources that it is sent to from, by their index.
    pub origins: Vec<Origin>,
    /// What tenants may send to it.
    pub purses: Purses,
    /// What happens later, the earliest first.
    pub alarms: BinaryHeap<Reverse<(Instant, u32, Alarm)>>,
    /// The earliest alarm that the timers know of.
    pub wake: Option<Instant>,
    /// When the next alarm for a message rate goes off.
    pub rate_alarm: Option<Instant>,
    /// When the next alarm for new connections goes off.
    pub opening_alarm: Option<Instant>,
    /// When the next alarm for a warm-up goes off.
    pub warmup_alarm: Option<Instant>,
    /// The queues of shared windows in which it stands.
    pub gates: Vec<Turnstile>,
    /// It stands in the list of sites with connections without work.
    pub is_listed: bool,
    /// Recent outcomes.
    pub storm: Storm,
    /// The last reply that was not a success.
    pub last_reply: Option<Arc<Report>>,
    /// Kinds of replies that were none.
    pub sayings: Sayings,
    /// Recipients that were delivered, deferred and bounced since the site was met.
    pub outcomes: [u64; 3],
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
    /// Join these queues of shared windows.
    pub gates: Vec<Turnstile>,
    /// What controllers of these sources have changed.
    pub changes: Vec<(u16, Change)>,
}

/// What a decision under the lock rests on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub engine: &'a Arc<Engine>,
    pub site: &'a Arc<Site>,
    pub now: Instant,
}

impl Site {
    /// A site without work.
    pub fn new(name: Arc<str>, limits: Arc<Limits>, rules: &Rules, shard: usize, now: Instant) -> Self {
        let budget = Budget::new(&limits.allowance, now).map(Box::new);
        let purses = Purses::new(&name, rules);
        Self {
            name,
            shard,
            connections: Window::new(limits.connections),
            place: Place::default(),
            state: Mutex::new(SiteState::new(budget, purses)),
            limits: ArcSwap::new(limits),
        }
    }
}

impl SiteState {
    fn new(budget: Option<Box<Budget>>, purses: Purses) -> Self {
        Self {
            paths: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::default(),
            accounts: HashMap::default(),
            now: 0,
            starved: Waiting::default(),
            throttled: Waiting::default(),
            warming: Waiting::default(),
            waiting_paths: Default::default(),
            hungry: 0,
            ending: 0,
            idle: 0,
            budget,
            turns: Turns::default(),
            origins: Vec::new(),
            purses,
            alarms: BinaryHeap::new(),
            wake: None,
            rate_alarm: None,
            opening_alarm: None,
            warmup_alarm: None,
            gates: Vec::new(),
            is_listed: false,
            storm: Storm::default(),
            last_reply: None,
            sayings: Sayings::default(),
            outcomes: [0; 3],
        }
    }

    /// The path at `place`.
    pub fn path(&mut self, place: u32) -> Option<&mut Path> {
        self.paths.get_mut(index(place)).and_then(Option::as_deref_mut)
    }

    /// The path of `plan` from `source`, for messages that ask for so much.
    pub fn path_of(&mut self, plan: &Arc<Plan>, source: u16, assurance: Assurance) -> u32 {
        // Most sites have one path, and most entries come with the plan that it has.
        if let Some(path) = self.path(0)
            && Arc::ptr_eq(&path.plan, plan)
            && path.key.source == source
            && path.key.assurance == assurance
        {
            return 0;
        }
        let key = PathKey::new(plan, source, assurance);
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

    /// Draws the next batch of a path. The caller has the permits, save those of tenants and campaigns.
    pub fn draw(&mut self, context: &Context<'_>, place: u32, take: Take, out: &mut Outbox) -> Option<Assignment> {
        let Self { paths, now, purses, .. } = self;
        let path = paths.get_mut(index(place)).and_then(Option::as_deref_mut)?;
        let entries = path.ready.pop(take, purses, now, &mut out.expired)?;
        path.in_flight = path.in_flight.saturating_add(1);
        path.served = path.served.saturating_add(1);
        let source = path.key.source;
        let octets = entries.first().and_then(|entry| self.charge(context, source, &entry.flow, entry.id));
        let path = self.path(place)?;
        Assignment::new(context, place, (entries, octets), &mut path.in_hand)
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
            let source = path.key.source;
            self.count_waiting(wait, source, true);
        }
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
        let Some(path) = self.path(place) else { return };
        if let Some((wait, _)) = path.waits.take() {
            let source = path.key.source;
            self.count_waiting(wait, source, false);
        }
    }

    fn count_waiting(&mut self, wait: Wait, source: u16, is_more: bool) {
        let [starved, throttled, warming] = &mut self.waiting_paths;
        let counts = match wait {
            Wait::Starved => starved,
            Wait::Throttled => throttled,
            Wait::Warming => warming,
        };
        let source = usize::from(source);
        if is_more {
            let len = counts.len().max(source + 1);
            counts.resize(len, 0);
        }
        if let Some(count) = counts.get_mut(source) {
            *count = if is_more { *count + 1 } else { *count - 1 };
        }
    }

    /// How many paths wait for a message rate.
    pub fn throttled_paths(&self) -> u32 {
        let [_, throttled, _] = &self.waiting_paths;
        throttled.iter().sum()
    }

    /// Whether a path waits for the warm-up of this source.
    pub fn has_warming(&self, source: u16) -> bool {
        let [.., warming] = &self.waiting_paths;
        warming.get(usize::from(source)).is_some_and(|count| *count > 0)
    }

    /// Whether paths from other sources than these wait for the same.
    pub fn has_waiting_beside(&self, wait: Wait, sources: &[u16]) -> bool {
        let [starved, throttled, warming] = &self.waiting_paths;
        let counts = match wait {
            Wait::Starved => starved,
            Wait::Throttled => throttled,
            Wait::Warming => warming,
        };
        counts.iter().zip(0..).any(|(count, source)| *count > 0 && !sources.contains(&source))
    }

    fn order(&mut self, wait: Wait) -> &mut Waiting {
        match wait {
            Wait::Starved => &mut self.starved,
            Wait::Throttled => &mut self.throttled,
            Wait::Warming => &mut self.warming,
        }
    }

    /// Entries of a path whose domains may have moved find their path anew. The domain of the path's own plan is looked up
    /// before a connection is opened; the others are so only here.
    pub fn rehome(&mut self, place: u32, now: Instant, out: &mut Outbox) {
        let Some(path) = self.path(place) else { return };
        let own = path.plan.domain.clone();
        // Entries of one domain mostly follow each other.
        let last = Cell::new((0, true));
        let stays = |entry: &Entry| {
            let domain = Arc::as_ptr(&entry.domain).addr();
            if last.get().0 != domain {
                last.set((domain, entry.domain.name == own || entry.domain.state.lock().current(now).is_some()));
            }
            last.get().1
        };
        path.ready.extract(stays, &mut out.homeless);
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
            if let Some((wait, _)) = path.waits {
                let source = path.key.source;
                self.count_waiting(wait, source, false);
                if wait == Wait::Warming && !self.has_warming(source) {
                    self.origin(source).and_then(|origin| origin.warmup.as_ref()).into_iter().for_each(Pass::leave);
                }
            }
            self.free.push(place);
        }
        if self.by_key.is_empty() {
            // Many a site has had one message and waits for the sweep: its tables need not.
            (self.paths, self.free, self.by_key) = Default::default();
        }
    }

    /// Forgets paths without work and tenants that owe nothing. True if nothing is left to remember.
    pub fn sweep(&mut self, now: Instant) -> bool {
        for place in 0..u32::try_from(self.paths.len()).unwrap_or(u32::MAX) {
            self.forget_unused(place, now);
        }
        self.origins.retain(|origin| !origin.is_unused(now));
        self.purses.sweep(now);
        if self.throttled_paths() == 0 {
            // Nobody waits for them: they are for others.
            self.turns = Turns::default();
        }
        // A controller that still works is looked at by an alarm.
        if self.paths.iter().any(Option::is_some) || !self.origins.is_empty() {
            return false;
        }
        (self.paths, self.free, self.by_key) = Default::default();
        (self.accounts, self.now) = Default::default();
        (self.starved, self.throttled, self.warming, self.waiting_paths) = Default::default();
        self.alarms = BinaryHeap::new();
        (self.rate_alarm, self.opening_alarm, self.warmup_alarm) = (None, None, None);
        let is_idle = |budget: &Budget| budget.is_idle(now);
        self.purses.is_empty() && self.budget.as_deref().is_none_or(is_idle)
    }
}

impl Outbox {
    /// Does what was collected. No lock may be held.
    pub fn flush(self, engine: &Arc<Engine>, site: &Arc<Site>) {
        if let Some(at) = self.alarm {
            engine.timers.alarm(site, at);
        }
        for (source, change) in self.changes {
            engine.tell_learnt(&site.name, source, change);
        }
        if self.has_idle {
            engine.gates.list_idle(site);
        }
        for gate in self.gates {
            engine.gates.join(gate, site, engine);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::domain::{Domains, Route};
    use super::super::entry::Marks;
    use super::super::flow::Tenants;
    use super::super::settings::Settings;
    use super::*;
    use crate::clock::UnixTime;
    use crate::dns::{MxProof, TlsPolicy, Transport};
    use crate::message::{Lane, MessageId};

    #[test]
    fn entries_of_domains_whose_plans_are_over_leave_the_path_at_the_end_of_its_back_off() {
        let now = Instant::now();
        let (domains, tenants, settings) = (Domains::new(1), Tenants::default(), Arc::new(Settings::default()));
        let site = Arc::new(Site::new(Arc::from("mx.test"), Arc::default(), &settings.rules, 0, now));
        let tenant = tenants.intern("t", || &settings, |_| None, || now);
        let flow = tenant.flow((Lane::Normal, "", None), &settings.rules, &tenants.hasher, now);
        let plan = |domain: &str, left: Duration| {
            Arc::new(Plan {
                domain: Arc::from(domain),
                site: Arc::from("mx.test"),
                parent: None,
                mx_set: Arc::from("mx.test"),
                hosts: Box::default(),
                port: 25,
                transport: Transport::Smtp,
                tls: TlsPolicy::Opportunistic,
                security: None,
                mx_proof: MxProof::None,
                valid_until: now + left,
            })
        };
        let (over, good) = (Duration::ZERO, Duration::from_secs(60));
        let place = site.state.lock().path_of(&plan("own.test", over), 0, Assurance::Usual);
        for (number, (name, left)) in (0..).zip([("own.test", over), ("moved.test", over), ("other.test", good)]) {
            let domain = domains.intern(name);
            domain.state.lock().route = Some(Route { plan: plan(name, left), site: site.clone() });
            let entry = Entry {
                id: MessageId(number),
                domain,
                flow: flow.clone(),
                hash: 0,
                sender: 0,
                sender_domain: 0,
                recipient: 0,
                due: UnixTime(0),
                accepted: UnixTime(0),
                attempts: 0,
                marks: Marks::default(),
            };
            assert!(site.state.lock().push(place, entry).is_none());
        }
        let mut out = Outbox::default();

        site.state.lock().rehome(place, now, &mut out);

        assert_eq!(out.homeless.iter().map(|entry| &*entry.domain.name).collect::<Vec<_>>(), ["moved.test"]);
        assert_eq!(site.state.lock().path(place).map(|path| path.ready.len()), Some(2));
    }
}
