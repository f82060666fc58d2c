//! Looking at the queue for people and for the gauges: short locks, one site, bucket or domain at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clock::UnixTime;
use crate::dns::PlanFailure;
use crate::state::Action;

use super::ages::Ages;
use super::engine::Engine;
use super::entry::Entry;
use super::held::Hold;
use super::matcher::Whereabouts;
use super::path::Path;
use super::settle::{describe, describe_failure};
use super::site::Site;
use super::top::Fate;
use super::view::{BUSY, DNS, IN_FLIGHT, OrderView, OverdueView, SiteView, TIMER, TenantView, View};

/// Questions about scheduled entries that a listing of orders asks at most: a second of work, a slice under a lock.
const MOST_QUESTIONS: usize = 50_000_000;

/// How long past its time an entry is overdue, in seconds.
const OVERDUE_AFTER: u32 = 60;

/// Entries by cause.
#[derive(Debug, Default)]
struct Tally(HashMap<&'static str, usize>);

impl Tally {
    fn add(&mut self, cause: &'static str, entries: usize) {
        if entries > 0 {
            *self.0.entry(cause).or_default() += entries;
        }
    }

    fn into_views(self) -> Vec<OverdueView> {
        self.0.into_iter().map(|(cause, entries)| OverdueView { cause, entries }).collect()
    }
}

/// Entries that wait, and those of them that are past their time, by cause.
#[derive(Debug, Default)]
struct Causes {
    waiting: Tally,
    overdue: Tally,
}

impl Engine {
    /// Everything but what is scheduled at each site: enough for the gauges.
    pub fn look(&self) -> View {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let mut view = View::default();
        let mut causes = Causes::default();
        let late = UnixTime(wall.0.saturating_sub(OVERDUE_AFTER));
        let mut oldest = wall;
        for site in self.all_sites() {
            causes.overdue.add(IN_FLIGHT, site.stuck(now, self.settings().longest_attempt));
            let seen = site.look(now, wall, late, &mut causes, &mut oldest);
            view.totals.ready += seen.ready;
            view.totals.in_flight += seen.in_flight;
            view.totals.connections += seen.connections;
            view.sites.push(seen);
        }
        for shard in self.timers.shards() {
            let seen = shard.look(late);
            view.totals.scheduled += seen.entries;
            causes.overdue.add(TIMER, seen.late);
            oldest = oldest.min(seen.oldest.unwrap_or(oldest));
        }
        self.held.for_each(|entry, _| {
            oldest = oldest.min(entry.accepted);
            true
        });
        self.orders.for_each_parked(|_, entry| {
            oldest = oldest.min(entry.accepted);
            true
        });
        view.totals.held = Hold::ALL.into_iter().map(|hold| self.held.count(hold)).sum();
        for order in self.order_views() {
            match order.order.action {
                Action::Hold => view.totals.held += order.parked,
                _ => view.totals.suspended += order.parked,
            }
        }
        view.totals.queued = self.queued.load(Ordering::Relaxed);
        view.totals.waiting_for_dns = self.waiting_for_dns.load(Ordering::Relaxed);
        causes.waiting.add(DNS, view.totals.waiting_for_dns);
        if view.totals.waiting_for_dns > 0 {
            self.domains.for_each(|domain| {
                let state = domain.state.lock();
                causes.overdue.add(DNS, state.waiting.iter().filter(|entry| entry.due < late).count());
            });
        }
        view.totals.oldest_seconds = wall.0.saturating_sub(oldest.0);
        view.overdue = causes.overdue.into_views();
        view.waiting = causes.waiting.into_views();
        view
    }

    /// Counts for people, with every age: that walks all that is scheduled, a slice under a lock.
    pub fn view(&self) -> View {
        let mut ages = Ages::default();
        for shard in self.timers.shards() {
            shard.for_each(|entry| {
                ages.add(entry);
                true
            });
        }
        self.view_with(ages)
    }

    /// The same, but sites and tenants are only as old as what they have beside scheduled mail.
    pub fn view_without_scheduled_ages(&self) -> View {
        self.view_with(Ages::default())
    }

    fn view_with(&self, mut ages: Ages) -> View {
        let mut view = self.look();
        let mut scheduled: HashMap<Arc<str>, Scheduled> = HashMap::new();
        self.domains.for_each(|domain| {
            let count = domain.scheduled.load(Ordering::Relaxed);
            if count > 0 {
                let (route, failure) = {
                    let state = domain.state.lock();
                    (state.route.clone(), state.failure.clone())
                };
                // A domain whose plan has never been known stands for itself.
                let site = route.map_or_else(|| domain.name.clone(), |route| route.site.name.clone());
                let found = scheduled.entry(site).or_default();
                found.entries += usize::try_from(count).unwrap_or_default();
                found.failure = found.failure.take().or(failure);
            }
        });
        for site in &mut view.sites {
            site.scheduled = scheduled.remove(&*site.site).unwrap_or_default().entries;
        }
        let others = scheduled.into_iter();
        view.sites.extend(others.map(|(site, scheduled)| SiteView {
            site: site.to_string(),
            scheduled: scheduled.entries,
            last_reply: scheduled.failure.as_deref().map(describe_failure),
            ..SiteView::default()
        }));
        self.add_kept(&mut view.sites);
        let ages = self.complete(&mut ages);
        for site in &mut view.sites {
            site.age_seconds =
                ages.by_site.get(&*site.site).map_or(0, |oldest| self.clock.wall().0.saturating_sub(oldest.0));
            view.totals.oldest_seconds = view.totals.oldest_seconds.max(site.age_seconds);
        }
        let has_something =
            |site: &SiteView| site.ready + site.scheduled + site.kept + site.in_flight + site.connections > 0;
        view.sites.retain(|site| has_something(site) || site.back_off_seconds.is_some());
        view.sites.sort_by_key(|site| std::cmp::Reverse(site.ready + site.scheduled));
        let tenants = self.tenants.all().into_iter();
        view.tenants = tenants
            .filter(|tenant| tenant.queued.load(Ordering::Relaxed) > 0 || tenant.fates.has_any())
            .map(|tenant| TenantView {
                tenant: tenant.name.to_string(),
                queued: tenant.queued.load(Ordering::Relaxed),
                age_seconds: ages
                    .of_tenant(&tenant.name)
                    .map_or(0, |oldest| self.clock.wall().0.saturating_sub(oldest.0)),
                delivered: tenant.fates.of(Fate::Delivered),
                deferred: tenant.fates.of(Fate::Deferred),
                bounced: tenant.fates.of(Fate::Bounced).saturating_add(tenant.fates.of(Fate::Expired)),
            })
            .collect();
        view.tenants.sort_by_key(|tenant| std::cmp::Reverse(tenant.queued));
        view
    }
}

/// What is scheduled at a site.
#[derive(Default)]
struct Scheduled {
    entries: usize,
    /// Why one of its domains has no plan.
    failure: Option<Arc<PlanFailure>>,
}

impl Engine {
    /// The orders that stand, each with how much scheduled mail it is about, unless that takes too many questions.
    pub fn orders_in_full(&self) -> Vec<OrderView> {
        let (standing, mut views) = (self.orders.standing(), self.order_views());
        let mut scheduled = 0_usize;
        self.domains.for_each(|domain| {
            scheduled += usize::try_from(domain.scheduled.load(Ordering::Relaxed)).unwrap_or_default();
        });
        if scheduled.saturating_mul(standing.len()) > MOST_QUESTIONS {
            return views;
        }
        let asks = standing.iter().any(|order| order.matcher.asks_site() || order.matcher.asks_source());
        let mut counts: Vec<_> = standing.iter().map(|standing| (standing.order.id, 0)).collect();
        let mut count = |entry: &Entry, at: Whereabouts<'_>| {
            for (standing, (_, count)) in standing.iter().zip(&mut counts) {
                *count += usize::from(standing.may_concern(entry, at));
            }
        };
        for shard in self.timers.shards().iter().filter(|_| !standing.is_empty()) {
            shard.for_each(|entry| {
                match asks {
                    true => self.with_whereabouts(entry, |at| count(entry, at)),
                    false => count(entry, Whereabouts::default()),
                }
                true
            });
        }
        for view in &mut views {
            view.scheduled = counts.iter().find(|(id, _)| *id == view.order.id).map(|(_, count)| *count);
        }
        views
    }
}

impl Site {
    /// Recipients that have been tried for longer than any attempt may last.
    fn stuck(&self, now: Instant, longest: Duration) -> usize {
        let state = self.state.lock();
        let taken = state.paths.iter().flatten().flat_map(|path| path.in_hand.iter());
        let stuck = taken.filter(|taken| now.saturating_duration_since(taken.since) > longest);
        stuck.map(|taken| taken.recipients.as_slice().len()).sum()
    }

    fn look(
        &self,
        now: Instant,
        wall: UnixTime,
        late: UnixTime,
        causes: &mut Causes,
        oldest: &mut UnixTime,
    ) -> SiteView {
        let mut seen = SiteView { site: self.name.to_string(), ..SiteView::default() };
        let state = self.state.lock();
        let mut oldest_due = wall;
        for path in state.paths.iter().flatten() {
            path.look(now, &mut seen);
            let cause = path.cause.map_or(BUSY, super::path::Cause::as_str);
            causes.waiting.add(cause, path.ready.len());
            causes.overdue.add(cause, path.ready.due_before(late));
            if let Some((due, accepted)) = path.ready.oldest() {
                oldest_due = oldest_due.min(due);
                *oldest = (*oldest).min(accepted);
            }
        }
        seen.oldest_seconds = wall.0.saturating_sub(oldest_due.0);
        seen.last_reply = state.last_reply.as_deref().map(describe);
        [seen.delivered, seen.deferred, seen.bounced] = state.outcomes;
        seen
    }
}

impl Path {
    pub(super) fn look(&self, now: Instant, seen: &mut SiteView) {
        seen.ready += self.ready.len();
        seen.in_flight += usize::try_from(self.in_flight).unwrap_or_default();
        seen.connections += usize::try_from(self.connections).unwrap_or_default();
        seen.idle_connections += self.idle.len();
        seen.opening_connections += usize::try_from(self.opening).unwrap_or_default();
        if let Some(pause) = self.pause.as_ref().filter(|pause| pause.until > now) {
            let left = pause.until.saturating_duration_since(now).as_secs() + 1;
            if seen.back_off_seconds.is_none_or(|seconds| seconds < left) {
                seen.back_off_seconds = Some(left);
                seen.back_off_reason = Some(describe(&pause.reason));
            }
        }
        if !self.ready.is_empty() && seen.waiting_for.is_none() {
            seen.waiting_for = self.cause.map(super::path::Cause::as_str);
        }
    }
}
