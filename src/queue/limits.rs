//! Limits as operators see and steer them: what is learnt at each path, what has changed, pins, undoing and forgetting.
//!
//! A pin is on stable storage before it holds. Then every path in memory goes by it at once, under its site's lock;
//! one that is made later asks for it (`permits`).

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dns::Transport;
use crate::limit::controller::{Change, Changes, Controller, Learnt, Phase, What};
use crate::state::{Pin, PinError, PinRequest, Pinned};

use super::engine::Engine;
use super::learning::Told;
use super::limit_views::{ChangeView, Forgotten, PathFilter, PathLimits, PinView, Repinned, Reset, UndoError, Unpin};
use super::origin::Origin;
use super::path::Wait;
use super::site::{Context, Outbox, Site, SiteState};

/// Which pins there may be.
const PINNED: [Pinned; 3] = [Pinned::Rate, Pinned::Connections, Pinned::MessagesPerConnection];
/// What an operator did is worth keeping.
const HAS_NEWS: bool = true;
/// The source of a change that is about every one.
const EVERY: &str = "*";

/// Paths that learn, counted.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// By phase, as [`Phase::ALL`].
    pub phases: [usize; Phase::ALL.len()],
    /// After a refusal.
    pub paused: usize,
    /// Because the receiver refuses us as such.
    pub resting: usize,
    /// Messages a minute that are allowed at sites with a rate that is in use, all sources together.
    pub rates: HashMap<Arc<str>, u64>,
}

impl Engine {
    /// Counts paths that learn.
    pub fn count_paths(&self, now: Instant) -> Census {
        let mut census = Census::default();
        for site in self.all_sites() {
            let state = site.state.lock();
            for controller in state.origins.iter().filter_map(|origin| origin.controller.as_deref()) {
                for (count, phase) in census.phases.iter_mut().zip(Phase::ALL) {
                    *count += usize::from(phase == controller.phase());
                }
                if !controller.is_at_work() {
                    continue;
                }
                let view = controller.view(now);
                census.resting += usize::from(view.is_resting);
                census.paused += usize::from(view.paused_until.is_some() && !view.is_resting);
                if let Some(rate) = view.value(What::Rate, now) {
                    *census.rates.entry(site.name.clone()).or_default() += whole(rate);
                }
            }
        }
        census
    }

    /// Learnt limits, those first that were used or changed last.
    pub fn path_limits(&self, filter: &PathFilter) -> Vec<PathLimits> {
        let site = filter.site.as_deref().map(|site| self.site_called(site));
        let is_wanted = |source: &str, name: &str| {
            filter.source.as_deref().is_none_or(|wanted| wanted == source)
                && site.as_deref().is_none_or(|wanted| wanted == name)
        };
        let mut last: HashMap<(Arc<str>, Arc<str>), Told> = HashMap::new();
        for told in self.learning.history() {
            last.entry((told.source.clone(), told.site.clone())).or_insert(told);
        }
        let now = self.clock.now();
        let mut found = Vec::new();
        let mut seen: HashSet<(Arc<str>, Arc<str>)> = HashSet::new();
        for site in self.all_sites() {
            let state = site.state.lock();
            for origin in &state.origins {
                let Some(source) = self.source(origin.source).map(|source| source.name.clone()) else { continue };
                if origin.controller.is_some() && is_wanted(&source, &site.name) {
                    found.extend(self.path_limits_of((&source, &site.name), origin, true, now));
                    seen.insert((source, site.name.clone()));
                }
            }
        }
        for (source, name, octets) in self.learning.store.all() {
            let key = (Arc::from(source), Arc::from(name));
            if seen.contains(&key) || !is_wanted(&key.0, &key.1) {
                continue;
            }
            let Some(index) = self.source_named(&key.0) else { continue };
            // Whether it is a relay is of no account to what has learnt something.
            let limits = self.limits_of(&key.1);
            let Some(origin) = self.make_origin(index, (&key.1, &limits), Transport::Smtp, now) else { continue };
            let Some(mut view) = self.path_limits_of((&key.0, &key.1), &origin, false, now) else { continue };
            let learnt = Learnt::decode(&octets);
            view.active_at = learnt.map_or(0, |learnt| learnt.at.as_secs());
            found.push(view);
        }
        found.extend(self.pinned_only(&found, &is_wanted, now));
        for view in &mut found {
            let key = (Arc::from(view.source.as_str()), Arc::from(view.site.as_str()));
            view.last_change = last.get(&key).map(ChangeView::of);
            let changed = view.last_change.as_ref().map_or(0, |change| change.at);
            view.active_at = view.active_at.max(changed);
        }
        found.sort_by(|a, b| {
            b.active_at.cmp(&a.active_at).then_with(|| (&a.site, &a.source).cmp(&(&b.site, &b.source)))
        });
        found.truncate(filter.limit);
        found
    }

    /// Paths of which there is nothing but a pin: from each source that is pinned, or, as [`EVERY`], from all of them.
    fn pinned_only(
        &self,
        found: &[PathLimits],
        is_wanted: &dyn Fn(&str, &str) -> bool,
        now: Instant,
    ) -> Vec<PathLimits> {
        let mut named: HashSet<(Option<Box<str>>, Box<str>)> = HashSet::new();
        let pins = self.learning.pins.all();
        let views = pins.iter().filter_map(|pin| {
            let (source, site) = (pin.source.as_deref(), &*pin.site);
            let is_told =
                found.iter().any(|path| path.site == *site && source.is_none_or(|source| source == path.source));
            let is_new = named.insert((pin.source.clone(), pin.site.clone()));
            if is_told || !is_new || !is_wanted(source.unwrap_or(EVERY), site) {
                return None;
            }
            // What is the same for each source is seen at any of them.
            let index = source.map_or(Some(0), |source| self.source_named(source))?;
            let origin = self.make_origin(index, (site, &self.limits_of(site)), Transport::Smtp, now)?;
            self.path_limits_of((source.unwrap_or(EVERY), site), &origin, false, now)
        });
        views.collect()
    }

    fn path_limits_of(
        &self,
        (source, site): (&str, &str),
        origin: &Origin,
        is_in_memory: bool,
        now: Instant,
    ) -> Option<PathLimits> {
        let controller = origin.controller.as_deref()?;
        let view = controller.view(now);
        let pins = PINNED.iter().filter_map(|limit| self.learning.pins.find(source, site, *limit));
        let used_connections = origin.connections.used();
        let is_active = used_connections > 0 || controller.is_at_work();
        Some(PathLimits {
            source: source.to_owned(),
            site: site.to_owned(),
            is_in_memory,
            phase: view.phase.as_str(),
            rate_per_minute: view.value(What::Rate, now),
            limit_per_minute: view.limit_per_minute,
            connections: view.connections,
            used_connections,
            connection_limit: view.connection_limit,
            messages_per_connection: view.messages_per_connection,
            hourly_cap: view.hourly_cap,
            paused_seconds: view.paused_until.map(|until| until.saturating_duration_since(now).as_secs_f64()),
            is_resting: view.is_resting,
            pins: pins.map(|pin| PinView::of(&pin)).collect(),
            last_change: None,
            active_at: if is_active { u64::from(self.clock.wall().0) } else { 0 },
        })
    }

    /// Changes since the start, the newest first.
    pub fn limit_changes(&self, filter: &PathFilter) -> Vec<ChangeView> {
        let site = filter.site.as_deref().map(|site| self.site_called(site));
        let is_wanted = |told: &&Told| {
            filter.source.as_deref().is_none_or(|wanted| *wanted == *told.source || *told.source == *EVERY)
                && site.as_deref().is_none_or(|wanted| *wanted == *told.site)
        };
        let history = self.learning.history();
        history.iter().filter(is_wanted).take(filter.limit).map(ChangeView::of).collect()
    }

    /// Sets a pin at a site. Blocks on the disk.
    pub fn pin(self: &Arc<Self>, mut request: PinRequest) -> Result<Repinned, PinError> {
        if !self.settings().learning.is_on {
            return Err(PinError::NotLearnt);
        }
        if let Some(source) = request.source.as_deref().filter(|source| self.source_named(source).is_none()) {
            return Err(PinError::Source(source.into()));
        }
        request.site = self.site_called(&request.site).into();
        let pin = self.learning.pins.place(request, self.clock.wall())?;
        let reason = pin.describe();
        let (paths, mut told) = self.obey_pins(&pin.site, &[&pin], &reason);
        if told.is_empty() {
            told.push(self.tell_pin(&pin, pin.most.or(pin.least), reason));
        }
        let changes = told.iter().map(ChangeView::of).collect();
        Ok(Repinned { site: pin.site.to_string(), pins: vec![PinView::of(&pin)], paths, changes })
    }

    /// Ends pins; what was learnt holds again. Blocks on the disk.
    pub fn unpin(self: &Arc<Self>, request: &Unpin) -> io::Result<Repinned> {
        let site = if self.is_pinned(&request.site) { request.site.clone() } else { self.site_called(&request.site) };
        let ended = self.learning.pins.end(&site, request.source.as_deref(), request.limit)?;
        let reason = format!("unpinned by {}", request.by);
        let about: Vec<&Pin> = ended.iter().map(Arc::as_ref).collect();
        let (paths, mut told) = self.obey_pins(&site, &about, &reason);
        if told.is_empty() {
            told.extend(about.iter().map(|pin| self.tell_pin(pin, None, reason.clone())));
        }
        let changes = told.iter().map(ChangeView::of).collect();
        Ok(Repinned { site, pins: about.into_iter().map(PinView::of).collect(), paths, changes })
    }

    /// Tells of a pin where no path is in memory.
    fn tell_pin(&self, pin: &Pin, to: Option<f64>, reason: String) -> Told {
        let source = Arc::from(pin.source.as_deref().unwrap_or(EVERY));
        let change = Change { what: pin.limit.what(), from: None, to, limit_before: None, reason };
        self.tell_change(&Arc::from(&*pin.site), source, change, true)
    }

    /// Has the paths of a site go by the pins that stand now, `about` having changed.
    fn obey_pins(self: &Arc<Self>, site: &str, about: &[&Pin], reason: &str) -> (usize, Vec<Told>) {
        let concerns = |pin: &&&Pin, name: &str| pin.source.as_deref().is_none_or(|source| source == name);
        let mut paths = 0;
        let mut told = Vec::new();
        for site in self.find_sites(&[site]) {
            let changes = site.operate(self, HAS_NEWS, |name, _, controller, now| {
                let about: Vec<What> =
                    about.iter().filter(|pin| concerns(pin, name)).map(|pin| pin.limit.what()).collect();
                if about.is_empty() {
                    return None;
                }
                let before = controller.view(now);
                controller.set_orders(self.learning.pins.orders(name, &site.name));
                let after = controller.view(now);
                let change = |what: What| Change {
                    what,
                    from: before.value(what, now),
                    to: after.value(what, now),
                    limit_before: before.measured(what),
                    reason: reason.to_owned(),
                };
                Some(about.into_iter().map(change).collect())
            });
            paths += changes.len();
            told.extend(self.tell_operated(&site, changes, true));
        }
        (paths, told)
    }

    fn tell_operated(&self, site: &Site, changes: Vec<(Arc<str>, Changes)>, is_pin: bool) -> Vec<Told> {
        let each = changes
            .into_iter()
            .flat_map(|(source, changes)| changes.into_iter().map(move |change| (source.clone(), change)));
        each.map(|(source, change)| self.tell_change(&site.name, source, change, is_pin)).collect()
    }

    /// Takes a learnt change back: the limit is what it was before, and is learnt from there on.
    pub fn undo_change(self: &Arc<Self>, id: u32, by: &str) -> Result<Vec<ChangeView>, UndoError> {
        let history = self.learning.history();
        let undone = history.iter().find(|told| told.id == id).ok_or(UndoError::Unknown(id))?;
        let Told { source, site, change, .. } = undone;
        if undone.is_pin {
            return Err(UndoError::Pin(id));
        }
        if change.what == What::Breaker && change.to.is_none() {
            return Err(UndoError::Over(id));
        }
        if undone.is_undone {
            return Err(UndoError::Done(id));
        }
        let reason = format!("undone by {by}, change {id}: {}", change.reason);
        let mut told = Vec::new();
        for site in self.find_sites(&[site]) {
            let changes = site.operate(self, HAS_NEWS, |name, _, controller, now| {
                let before = (change.from, change.limit_before);
                (*name == **source).then(|| controller.set(change.what, before, reason.clone(), now))
            });
            told.extend(self.tell_operated(&site, changes, false));
        }
        if told.is_empty() {
            return Err(UndoError::Unused { source_name: source.to_string(), site: site.to_string() });
        }
        self.learning.note_undone(id);
        self.save_learnt();
        Ok(told.iter().map(ChangeView::of).collect())
    }

    /// Forgets what was learnt. Blocks on the disk.
    pub fn reset_limits(self: &Arc<Self>, request: &Reset) -> io::Result<Forgotten> {
        let site = self.site_called(&request.site);
        let is_wanted = |name: &str| request.source.as_deref().is_none_or(|wanted| wanted == name);
        let reason = format!("reset by {}", request.by);
        let mut forgotten = Forgotten { site, ..Forgotten::default() };
        for site in self.find_sites(&[&forgotten.site]) {
            // What is forgotten altogether is not to be kept again.
            let changes = site.operate(self, request.limit.is_some(), |name, is_relay, controller, now| {
                if !is_wanted(name) {
                    return None;
                }
                let parent = self.within.of(&site.name);
                let start = self.settings().learning.start(&site.name, parent.as_deref(), is_relay);
                let all = request.limit.map_or_else(|| What::ALL.to_vec(), |what| vec![what]);
                Some(all.into_iter().flat_map(|what| controller.reset(what, start, reason.clone(), now)).collect())
            });
            forgotten.paths += changes.len();
            let real = changes.into_iter().map(|(source, mut changes)| {
                changes.retain(|change| change.from != change.to);
                (source, changes)
            });
            let told = self.tell_operated(&site, real.collect(), false);
            forgotten.changes.extend(told.iter().map(ChangeView::of));
        }
        forgotten.kept = self.forget_kept(&forgotten.site, is_wanted, request.limit)?;
        self.save_learnt();
        Ok(forgotten)
    }

    /// Forgets what is kept over a restart; what is in memory is kept again as it is now.
    fn forget_kept(&self, site: &str, is_wanted: impl Fn(&str) -> bool, limit: Option<What>) -> io::Result<usize> {
        let mut forgotten = 0;
        let stored = self.learning.store.all();
        for (source, name, octets) in stored.into_iter().filter(|(source, name, _)| *name == site && is_wanted(source))
        {
            forgotten += 1;
            match (limit, Learnt::decode(&octets)) {
                (Some(what), Ok(mut learnt)) => {
                    learnt.forget(what);
                    self.learning.store.put([(source, name, learnt.encode())].into_iter())?;
                }
                _ => self.learning.store.remove(&source, &name)?,
            }
        }
        Ok(forgotten)
    }

    /// The name of the site that is meant: that of a site, or of a domain whose mail goes to one, as far as that is known.
    pub fn site_called(&self, name: &str) -> String {
        self.site_known(name).unwrap_or_else(|| plain(name))
    }

    /// The same if that is known without a look-up.
    fn site_known(&self, name: &str) -> Option<String> {
        if !self.find_sites(&[name]).is_empty() {
            return Some(name.to_owned());
        }
        let lower = plain(name);
        let plan = if lower.contains('.') { self.planner().plan_without_dns(&lower) } else { None };
        plan.map(|plan| plan.site.to_string())
    }

    /// The site that is meant, which is looked up if need be: a name that means nothing is not taken for a site.
    pub async fn site_meant(&self, name: &str) -> Result<String, PinError> {
        if name.is_empty() {
            return Err(PinError::Site);
        }
        if let Some(site) = self.site_known(name) {
            return Ok(site);
        }
        let lower = plain(name);
        if self.is_heard_of(&lower) {
            return Ok(lower);
        }
        let nowhere = |why: &str| PinError::Nowhere(lower.as_str().into(), why.into());
        if !is_domain(&lower) {
            return Err(nowhere("it is no domain"));
        }
        let (_, planned) = self.plan(&lower).await;
        planned.map(|plan| plan.site.to_string()).map_err(|failure| nowhere(&failure.text))
    }

    /// The site where something is pinned that is meant: also one that no mail goes to any more.
    pub async fn pinned_site(&self, name: &str) -> Result<String, PinError> {
        let lower = plain(name);
        if let Some(pinned) = [name, &lower].into_iter().find(|name| self.is_pinned(name)) {
            return Ok(pinned.to_owned());
        }
        self.site_meant(name).await
    }

    fn is_pinned(&self, site: &str) -> bool {
        self.learning.pins.all().iter().any(|pin| *pin.site == *site)
    }

    /// Whether a site of this name has been learnt about, is in the provider map, or is pinned.
    fn is_heard_of(&self, site: &str) -> bool {
        self.planner().knows_provider(site)
            || self.is_pinned(site)
            || self.learning.store.all().iter().any(|(_, learnt, _)| learnt == site)
    }
}

impl Site {
    /// Has `act` do something to controllers of the site, each with its source's name and whether it is a relay's; gives
    /// what has changed by source, without those that `act` let be. `has_news`: it is to be kept.
    fn operate(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        has_news: bool,
        mut act: impl FnMut(&str, bool, &mut Controller, Instant) -> Option<Changes>,
    ) -> Vec<(Arc<str>, Changes)> {
        self.with(engine, engine.clock.now(), |context, state, out| {
            let mut changed = Vec::new();
            for index in state.origins.iter().map(|origin| origin.source).collect::<Vec<_>>() {
                let Some(name) = engine.source(index).map(|source| source.name.clone()) else { continue };
                let Some(origin) = state.origin_mut(index) else { continue };
                let is_relay = origin.is_relay;
                let Some(controller) = &mut origin.controller else { continue };
                if let Some(changes) = act(&name, is_relay, controller, context.now) {
                    origin.has_news = has_news;
                    changed.push((name, changes));
                    state.watch_controller(index, out);
                }
            }
            state.go_on(context, out);
            changed
        })
    }
}

/// A domain as it is looked up.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_lowercase()
}

fn is_domain(name: &str) -> bool {
    let is_label = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || "-_".contains(c));
    name.contains('.') && name.split('.').all(is_label)
}

/// The whole part; rates that no machine reaches are cut.
fn whole(rate: f64) -> u64 {
    Duration::try_from_secs_f64(rate).map_or(u64::from(u32::MAX), |whole| whole.as_secs().min(u32::MAX.into()))
}

impl SiteState {
    /// Limits may have changed: what waits for them looks again.
    fn go_on(&mut self, context: &Context<'_>, out: &mut Outbox) {
        self.resume(context, Wait::Throttled, out);
        self.resume(context, Wait::Starved, out);
    }
}
