//! The way of an entry whose time has come: its domain, a plan, its site, a line of its path.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::dns::{Planned, Planner};

use super::domain::{Domain, Route};
use super::engine::Engine;
use super::entry::Entry;
use super::site::Site;

/// Entries put to a site under one hold of its lock.
const BATCH: usize = 256;

impl Engine {
    /// Entries whose time has come: to their site, or to wait for a plan. Runs of one domain go together.
    pub fn admit_all(self: &Arc<Self>, entries: Vec<Entry>) {
        let mut entries = entries.into_iter().peekable();
        while let Some(first) = entries.next() {
            let domain = first.domain.clone();
            let mut run = vec![first];
            while run.len() < BATCH
                && let Some(next) = entries.next_if(|next| Arc::ptr_eq(&next.domain, &domain))
            {
                run.push(next);
            }
            self.admit(&domain, run);
        }
    }

    /// Entries of one domain whose time has come.
    pub fn admit(self: &Arc<Self>, domain: &Arc<Domain>, entries: Vec<Entry>) {
        let now = self.clock.now();
        let mut state = domain.state.lock();
        if let Some(route) = state.current(now) {
            let route = route.clone();
            drop(state);
            self.make_ready(&route, entries, now);
            return;
        }
        if state.is_looked_up {
            self.waiting_for_dns.fetch_add(entries.len(), Ordering::Relaxed);
            state.waiting.extend(entries);
            return;
        }
        drop(state);
        let planner = self.planner();
        if let Some(planned) = planner.cached(&domain.name) {
            self.follow(domain, &planner, planned, entries, now);
            return;
        }
        self.waiting_for_dns.fetch_add(entries.len(), Ordering::Relaxed);
        let mut state = domain.state.lock();
        state.waiting.extend(entries);
        if !std::mem::replace(&mut state.is_looked_up, true) {
            drop(state);
            self.lookups.ask(self, domain);
        }
    }

    /// Entries of a domain go where its plan says, if `planner`, who made it, is still asked.
    pub fn follow(
        self: &Arc<Self>,
        domain: &Arc<Domain>,
        planner: &Arc<Planner>,
        planned: Planned,
        entries: Vec<Entry>,
        now: Instant,
    ) {
        match planned {
            Ok(plan) => {
                let site = self.site_of(&plan, now);
                let route = Route { plan, site };
                let mut state = domain.state.lock();
                // Looked at under the lock: a reload replaces the planner, then has each domain forget its route.
                if !Arc::ptr_eq(&self.planner(), planner) {
                    drop(state);
                    return self.admit(domain, entries);
                }
                state.route = Some(route.clone());
                state.failure = None;
                drop(state);
                let mut entries = entries.into_iter().peekable();
                while entries.peek().is_some() {
                    self.make_ready(&route, entries.by_ref().take(BATCH).collect(), now);
                }
            }
            Err(failure) => {
                domain.state.lock().failure = Some(failure.clone());
                self.fail_by_dns(entries, &failure);
            }
        }
    }

    fn make_ready(self: &Arc<Self>, route: &Route, entries: Vec<Entry>, now: Instant) {
        let version = self.orders.version();
        if self.orders.is_empty() {
            let (wall, sources) = (self.clock.wall(), self.sources.load());
            let choose = |mut entry: Entry| {
                let chosen = sources.choose(&entry, wall, &self.gates);
                let source = self.divert(&mut entry, chosen, &route.site.name, wall);
                (entry, source)
            };
            self.push_ready(route, entries.into_iter().map(choose), now);
        } else {
            let entries = self.obey(route, entries);
            self.push_ready(route, entries.into_iter(), now);
        }
        if self.orders.version() != version {
            self.sweep_again(&route.site);
        }
    }

    /// Entries become ready, each on the path from its source.
    fn push_ready(self: &Arc<Self>, route: &Route, entries: impl Iterator<Item = (Entry, u16)>, now: Instant) {
        route.site.with(self, now, |context, state, out| {
            let (mut last, mut has_overflow) = (None, false);
            for (entry, source) in entries {
                has_overflow |= entry.marks.meant().is_some();
                let place = state.path_of(&route.plan, source, entry.marks.assurance());
                out.homeless.extend(state.push(place, entry));
                if last.is_some_and(|last| last != place) {
                    state.pump(context, last.unwrap_or(place), out);
                }
                last = Some(place);
            }
            if let Some(place) = last {
                state.pump(context, place, out);
            }
            if has_overflow {
                state.await_warmups(context, out);
            }
        });
    }

    /// Looks up the plan of a path again. Where the same path still is the way, it goes on; else its entries find
    /// their way anew.
    pub fn refresh(self: &Arc<Self>, site: &Arc<Site>, place: u32, domain: Arc<str>) {
        if let Some(planned) = self.planner().cached(&domain) {
            return site.on_refresh(self, place, planned);
        }
        let Some(handle) = self.handle() else { return };
        let (engine, site) = (self.clone(), site.clone());
        let look_up = async move {
            let asked = engine.walls.lookups.run(async {
                tokio::select! {
                    (_, planned) = engine.plan(&domain) => Some(planned),
                    () = engine.stopped.cancelled() => None,
                }
            });
            let planned = match asked.await {
                Ok(planned) => planned,
                Err(panic) => Some(engine.failed_lookup(&panic)),
            };
            if let Some(planned) = planned
                && engine.walls.lookups.call(|| site.on_refresh(&engine, place, planned)).is_err()
            {
                site.revive(&engine, engine.clock.now());
            }
        };
        self.tasks.spawn_on(look_up, handle);
    }

    /// The plan of a domain, and who made it: whoever is asked at the end of the look-up.
    pub async fn plan(&self, domain: &str) -> (Arc<Planner>, Planned) {
        loop {
            let planner = self.planner().clone();
            let planned = planner.plan(domain).await;
            if Arc::ptr_eq(&self.planner(), &planner) {
                return (planner, planned);
            }
        }
    }
}
