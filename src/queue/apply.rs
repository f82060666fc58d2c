//! Changed settings take effect while work goes on.
//!
//! What is read at each use is replaced first; then domains, tenants and sites, which hold parts of it, are gone through.
//! Whoever makes one of these reads the settings under the lock of their table, so none is missed. Connections are never
//! cut: those that may not go on end after the message that they carry, idle ones at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::dns::{Plan, Planner};
use crate::limit::budget::Budget;
use crate::message::MessageId;

use super::engine::Engine;
use super::flow::Tenant;
use super::gates::Gates;
use super::origin::Bounds;
use super::path::Wait;
use super::rules::Of;
use super::settings::{Limits, Settings};
use super::site::{Context, Outbox, Site, SiteState};
use super::source::Chooser;

/// What sites need to know of a change.
struct Change {
    /// Tenants by their key.
    tenants: HashMap<usize, Arc<Tenant>>,
    /// Before the change.
    sources: Arc<Chooser>,
    /// Plans are made by other rules.
    is_replanned: bool,
    /// Ready entries may belong elsewhere: they find their way again.
    is_rerouted: bool,
}

/// A limit that was lowered, because of which a connection ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Leaving {
    /// The site's.
    Site,
    /// The source's.
    Source,
    /// That of everything.
    Global,
}

impl Leaving {
    /// Whether a connection at `site` from `source` is one too many; it then counts as leaving until [`Leaving::gone`].
    pub fn claim(site: &Site, gates: &Gates, source: u16) -> Option<Self> {
        if site.connections.leave() {
            return Some(Self::Site);
        }
        if gates.of(source).is_some_and(|gate| gate.window.leave()) {
            return Some(Self::Source);
        }
        gates.global().window.leave().then_some(Self::Global)
    }

    /// The connection has given its places back.
    pub fn gone(self, site: &Site, gates: &Gates, source: u16) {
        match self {
            Self::Site => site.connections.left(),
            Self::Source => gates.of(source).into_iter().for_each(|gate| gate.window.left()),
            Self::Global => gates.global().window.left(),
        }
    }
}

impl Engine {
    /// Goes by `settings` from now on, save what is fixed at the start: the number of shards. With `planner`, every domain is
    /// looked up anew. What is ready finds its way again if that may be another one.
    pub fn reconfigure(self: &Arc<Self>, mut settings: Settings, planner: Option<Arc<Planner>>) {
        settings.shards = self.settings().shards;
        let is_rerouted = planner.is_some() || !settings.leaves_as(&self.settings());
        let now = self.clock.now();
        self.gates.limit_all(&settings, now);
        let sources = self.sources.load().followed_by(&settings.egress, |source| self.gates.used(source) > 0);
        for (index, source, connections) in sources.sources() {
            self.gates.limit(index, source, connections, &settings.rules, now);
        }
        let before = self.sources.load_full();
        self.replace(settings, sources);
        self.reload_warmups(now);
        let is_replanned = planner.is_some();
        if let Some(planner) = planner {
            self.replan(planner);
        }
        {
            let (settings, sources) = (self.settings(), self.sources.load());
            self.tenants.apply(&settings, |name| sources.pool(name), now);
        }
        let tenants = self.tenants.all().into_iter().map(|tenant| (tenant.key, tenant)).collect();
        let change = Change { tenants, sources: before, is_replanned, is_rerouted };
        for site in self.all_sites() {
            site.apply(self, &change, now);
        }
        self.gates.wake_all(self, now);
        self.tell_missing_sources();
    }
}

impl Engine {
    /// Messages of which recipients are being tried.
    pub fn in_hand(&self) -> Vec<MessageId> {
        let mut ids = Vec::new();
        for site in self.all_sites() {
            let state = site.state.lock();
            ids.extend(state.paths.iter().flatten().flat_map(|path| path.in_hand.iter()).map(|taken| taken.id));
        }
        ids.sort_unstable_by_key(|id| id.0);
        ids.dedup();
        ids
    }
}

impl Site {
    /// Goes by changed limits, sources and plans.
    fn apply(self: &Arc<Self>, engine: &Arc<Engine>, change: &Change, now: Instant) {
        let limits = engine.limits_of(&self.name);
        let before = self.limits.swap(limits.clone());
        self.connections.set_ceiling(limits.connections);
        self.with(engine, now, |context, state, out| {
            if *before != *limits {
                state.limit(&limits, now);
            }
            state.follow_rules(context, &change.tenants);
            for place in state.places() {
                if change.is_replanned {
                    state.outdate(place, now);
                }
                if change.is_rerouted {
                    state.evict(place, out);
                }
                if let Some(path) = state.path(place) {
                    path.ready.reweigh(|key| change.tenants.get(&key).map(|tenant| tenant.weight()));
                    path.ready.recall_all();
                }
            }
            state.end_surplus(context, change, out);
            state.resume(context, Wait::Throttled, out);
            state.resume(context, Wait::Starved, out);
            state.resume(context, Wait::Warming, out);
            for place in state.places() {
                state.pump(context, place, out);
            }
        });
    }
}

impl SiteState {
    fn places(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.paths.len()).unwrap_or(u32::MAX)
    }

    /// Goes on under other limits: what was used up of the old rates stays used up.
    fn limit(&mut self, limits: &Limits, now: Instant) {
        self.budget = match &self.budget {
            Some(before) => before.followed_by(&limits.allowance, now),
            None => Budget::new(&limits.allowance, now),
        }
        .map(Box::new);
        for path in self.paths.iter_mut().flatten() {
            path.want = path.want.min(limits.connections).max(1);
        }
    }

    /// Goes by other rules for sources and tenants.
    fn follow_rules(&mut self, context: &Context<'_>, tenants: &HashMap<usize, Arc<Tenant>>) {
        let Context { engine, site, now } = *context;
        let rules = engine.settings().rules.clone();
        for origin in &mut self.origins {
            if let Some(source) = engine.source(origin.source) {
                let site_limits = site.limits.load();
                let bounds = Bounds {
                    site: &site_limits,
                    both: rules.ceiling(Of::SourceSite(&source.name, &site.name)),
                    source: rules.ceiling(Of::Source(&source.name)),
                };
                origin.apply(&bounds, now);
                origin.warmup = engine.pass(origin.source, &site.name);
            }
        }
        self.purses.apply(&site.name, &rules, tenants, now);
        // An alarm set for an old rate may be far away; the next refusal sets one for the new.
        (self.rate_alarm, self.opening_alarm, self.warmup_alarm) = (None, None, None);
    }

    /// The plan of a path has been made by other rules than those that hold now.
    fn outdate(&mut self, place: u32, now: Instant) {
        if let Some(path) = self.path(place) {
            path.plan = Arc::new(Plan { valid_until: now, ..(*path.plan).clone() });
        }
    }

    /// Has the ready entries of a path find their way anew.
    pub fn evict(&mut self, place: u32, out: &mut Outbox) {
        self.unwait(place);
        self.set_cause(place, None);
        if let Some(path) = self.path(place) {
            path.ready.extract(|_| false, &mut out.homeless);
        }
    }

    /// Ends idle connections that are too many, and those of sources that have changed.
    fn end_surplus(&mut self, context: &Context<'_>, change: &Change, out: &mut Outbox) {
        let Context { engine, site, .. } = *context;
        let sources = engine.sources.load();
        let mut ended = 0;
        for path in self.paths.iter_mut().flatten() {
            let source = path.key.source;
            let is_as_before = sources.is_as_in(&change.sources, source);
            path.idle.retain(|seat| {
                let leaving = if is_as_before { Leaving::claim(site, &engine.gates, source) } else { None };
                let stays = is_as_before && leaving.is_none();
                if !stays {
                    ended += 1;
                    seat.dismiss(leaving, &mut out.wake);
                }
                stays
            });
        }
        self.idle -= ended;
    }
}
