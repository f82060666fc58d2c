//! Looking at the queue for people and for the gauges: short locks, one site, bucket or domain at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clock::UnixTime;
use crate::message::{Envelope, Recipient};

use super::engine::Engine;
use super::entry::{Entry, Marks, hash_of};
use super::held::Hold;
use super::in_hand::Taken;
use super::path::Path;
use super::settle::{describe, describe_failure};
use super::site::Site;
use super::view::{BUSY, DNS, EntryView, Filter, IN_FLIGHT, OverdueView, SiteView, TIMER, TenantView, View};

/// How long past its time an entry is overdue, in seconds.
const OVERDUE_AFTER: u32 = 60;

/// Entries past their time, by cause.
#[derive(Debug, Default)]
struct Overdue(HashMap<&'static str, usize>);

impl Overdue {
    fn add(&mut self, cause: &'static str, entries: usize) {
        if entries > 0 {
            *self.0.entry(cause).or_default() += entries;
        }
    }
}

impl Engine {
    /// Everything but what is scheduled at each site: enough for the gauges.
    pub fn look(&self) -> View {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let mut view = View::default();
        let mut overdue = Overdue::default();
        let late = UnixTime(wall.0.saturating_sub(OVERDUE_AFTER));
        let mut oldest = wall;
        for site in self.all_sites() {
            overdue.add(IN_FLIGHT, site.stuck(now, self.settings().longest_attempt));
            let seen = site.look(now, wall, late, &mut overdue, &mut oldest);
            view.totals.ready += seen.ready;
            view.totals.in_flight += seen.in_flight;
            view.totals.connections += seen.connections;
            view.sites.push(seen);
        }
        for shard in self.timers.shards() {
            let seen = shard.look(late);
            view.totals.scheduled += seen.entries;
            overdue.add(TIMER, seen.late);
            oldest = oldest.min(seen.oldest.unwrap_or(oldest));
        }
        view.totals.held = Hold::ALL.into_iter().map(|hold| self.held.count(hold)).sum();
        view.totals.queued = self.queued.load(Ordering::Relaxed);
        view.totals.waiting_for_dns = self.waiting_for_dns.load(Ordering::Relaxed);
        if view.totals.waiting_for_dns > 0 {
            self.domains.for_each(|domain| {
                let state = domain.state.lock();
                overdue.add(DNS, state.waiting.iter().filter(|entry| entry.due < late).count());
            });
        }
        view.totals.oldest_seconds = wall.0.saturating_sub(oldest.0);
        let causes = overdue.0.into_iter();
        view.overdue = causes.map(|(cause, entries)| OverdueView { cause, entries }).collect();
        view
    }

    /// Counts for people.
    pub fn view(&self) -> View {
        let mut view = self.look();
        let mut scheduled: HashMap<Arc<str>, usize> = HashMap::new();
        self.domains.for_each(|domain| {
            let count = domain.scheduled.load(Ordering::Relaxed);
            if count > 0 {
                // A domain whose plan has never been known stands for itself.
                let route = domain.state.lock().route.clone();
                let site = route.map_or_else(|| domain.name.clone(), |route| route.site.name.clone());
                *scheduled.entry(site).or_default() += usize::try_from(count).unwrap_or_default();
            }
        });
        for site in &mut view.sites {
            site.scheduled = scheduled.remove(&*site.site).unwrap_or_default();
        }
        let others = scheduled.into_iter();
        view.sites.extend(others.map(|(site, scheduled)| SiteView {
            site: site.to_string(),
            scheduled,
            ..SiteView::default()
        }));
        let has_something = |site: &SiteView| site.ready + site.scheduled + site.in_flight + site.connections > 0;
        view.sites.retain(|site| has_something(site) || site.back_off_seconds.is_some());
        view.sites.sort_by_key(|site| std::cmp::Reverse(site.ready + site.scheduled));
        let tenants = self.tenants.all().into_iter();
        view.tenants = tenants
            .map(|tenant| TenantView { tenant: tenant.name.to_string(), queued: tenant.queued.load(Ordering::Relaxed) })
            .filter(|tenant| tenant.queued > 0)
            .collect();
        view.tenants.sort_by_key(|tenant| std::cmp::Reverse(tenant.queued));
        view
    }

    /// Entries that match: held ones first, then site by site those that are ready or being tried, those whose DSN is
    /// being stored, those that wait for a look-up, and scheduled ones.
    pub fn list(&self, filter: &Filter) -> Vec<EntryView> {
        let mut found = Vec::new();
        self.held.for_each(|entry, hold| {
            if found.len() < filter.limit && filter.site.is_none() && filter.wants(entry) {
                found.push(self.show(entry, hold.as_str(), None, || None));
            }
            found.len() < filter.limit
        });
        for site in self.all_sites() {
            if filter.site.as_deref().is_some_and(|name| *name != *site.name) {
                continue;
            }
            // Both under one hold of the lock: what is drawn meanwhile is not overlooked.
            let taken: Vec<Taken> = {
                let state = site.state.lock();
                for path in state.paths.iter().flatten() {
                    let wanted = path.ready.iter().filter(|entry| filter.wants(entry));
                    let wanted = wanted.take(filter.limit.saturating_sub(found.len()));
                    let paused = || path.pause.as_ref().map(|pause| describe(&pause.reason));
                    found.extend(wanted.map(|entry| self.show(entry, "ready", Some(&site.name), paused)));
                }
                let taken = state.paths.iter().flatten().flat_map(|path| path.in_hand.iter());
                taken.filter(|taken| filter.may_want(taken) && found.len() < filter.limit).cloned().collect()
            };
            self.list_taken(&taken, "in-flight", Some(&site.name), filter, &mut found);
        }
        if filter.site.is_none() {
            let taken: Vec<Taken> =
                self.storing.lock().iter().filter(|taken| filter.may_want(taken)).cloned().collect();
            self.list_taken(&taken, "storing-dsn", None, filter, &mut found);
        }
        self.domains.for_each(|domain| {
            let state = domain.state.lock();
            let waiting = state.waiting.iter().filter(|entry| filter.site.is_none() && filter.wants(entry));
            let wanted = waiting.take(filter.limit.saturating_sub(found.len()));
            let failure = || state.failure.as_deref().map(describe_failure);
            found.extend(wanted.map(|entry| self.show(entry, "waiting-for-dns", None, failure)));
        });
        for shard in self.timers.shards() {
            shard.for_each(|entry| {
                if found.len() < filter.limit && filter.wants(entry) {
                    let (route, failure) = {
                        let state = entry.domain.state.lock();
                        (state.route.clone(), state.failure.clone())
                    };
                    let site = route.as_ref().map(|route| &route.site.name);
                    if filter.site.as_deref().is_none_or(|name| site.is_some_and(|site| *name == **site)) {
                        let failure = || failure.as_deref().map(describe_failure);
                        found.push(self.show(entry, "scheduled", site, failure));
                    }
                }
                found.len() < filter.limit
            });
        }
        found
    }

    /// Recipients in hand that match. What the queue does not know of them is in the spool, which may read its disk for
    /// it; what has been finished meanwhile is left out.
    fn list_taken(
        &self,
        taken: &[Taken],
        state: &'static str,
        site: Option<&Arc<str>>,
        filter: &Filter,
        found: &mut Vec<EntryView>,
    ) {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        for taken in taken {
            if found.len() >= filter.limit {
                return;
            }
            let pending = self.spool.pending(taken.id);
            let Ok(message) = self.spool.load(taken.id) else { continue };
            let taken_for = u32::try_from(now.saturating_duration_since(taken.since).as_secs()).unwrap_or(u32::MAX);
            let since = Some(wall.0.saturating_sub(taken_for));
            let shown = taken.recipients.as_slice().iter().filter_map(|index| {
                let pending = pending.iter().find(|pending| pending.recipient == *index)?;
                let recipient = message.envelope.recipients.get(usize::try_from(*index).ok()?)?;
                let in_doubt = self.doubts.find(taken.id, *index).is_some();
                filter.wants_recipient(&message.envelope, recipient, in_doubt).then(|| EntryView {
                    message_id: taken.id.to_string(),
                    recipient: *index,
                    domain: recipient.forward_path.domain().to_lowercase(),
                    site: site.map(ToString::to_string),
                    tenant: message.envelope.tenant.to_string(),
                    campaign: message.envelope.campaign.to_string(),
                    state,
                    since,
                    in_doubt,
                    mx_address: pending.in_doubt.map(|address| address.to_string()),
                    last_reply: self.replies.of_recipient(taken.id, *index).map(|reply| describe(&reply)),
                    attempts: pending.attempts,
                    accepted: message.envelope.accepted_at.0,
                    due: pending.due.0,
                })
            });
            found.extend(shown.take(filter.limit.saturating_sub(found.len())));
        }
    }

    /// `otherwise` says what holds up entries that were not deferred themselves, or what for is forgotten.
    fn show(
        &self,
        entry: &Entry,
        state: &'static str,
        site: Option<&Arc<str>>,
        otherwise: impl FnOnce() -> Option<String>,
    ) -> EntryView {
        let in_doubt = entry.marks.has(Marks::IN_DOUBT);
        let mx_address = in_doubt.then(|| self.doubts.find(entry.id, entry.recipient)).flatten();
        EntryView {
            message_id: entry.id.to_string(),
            recipient: entry.recipient,
            domain: entry.domain.name.to_string(),
            site: site.map(ToString::to_string),
            tenant: entry.flow.tenant.name.to_string(),
            campaign: entry.flow.campaign.to_string(),
            state,
            since: None,
            in_doubt,
            mx_address: mx_address.map(|address| address.to_string()),
            last_reply: self.replies.of(entry).map(|reply| describe(&reply)).or_else(otherwise),
            attempts: entry.attempts,
            accepted: entry.accepted.0,
            due: entry.due.0,
        }
    }
}

impl Filter {
    fn wants(&self, entry: &Entry) -> bool {
        self.domain.as_deref().is_none_or(|domain| *domain == *entry.domain.name)
            && self.recipient.as_deref().is_none_or(|path| hash_of(path) == entry.hash)
            && self.message.is_none_or(|id| id == entry.id)
            && self.tenant.as_deref().is_none_or(|tenant| *tenant == *entry.flow.tenant.name)
            && (!self.in_doubt || entry.marks.has(Marks::IN_DOUBT))
    }

    /// As far as can be told without the spool.
    fn may_want(&self, taken: &Taken) -> bool {
        self.message.is_none_or(|id| id == taken.id)
    }

    fn wants_recipient(&self, envelope: &Envelope, recipient: &Recipient, in_doubt: bool) -> bool {
        self.domain.as_deref().is_none_or(|domain| domain.eq_ignore_ascii_case(recipient.forward_path.domain()))
            && self.recipient.as_deref().is_none_or(|path| path == recipient.forward_path.as_str())
            && self.tenant.as_deref().is_none_or(|tenant| *tenant == *envelope.tenant)
            && (!self.in_doubt || in_doubt)
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
        overdue: &mut Overdue,
        oldest: &mut UnixTime,
    ) -> SiteView {
        let mut seen = SiteView { site: self.name.to_string(), ..SiteView::default() };
        let state = self.state.lock();
        let mut oldest_due = wall;
        for path in state.paths.iter().flatten() {
            path.look(now, &mut seen);
            overdue.add(path.cause.map_or(BUSY, super::path::Cause::as_str), path.ready.due_before(late));
            if let Some((due, accepted)) = path.ready.oldest() {
                oldest_due = oldest_due.min(due);
                *oldest = (*oldest).min(accepted);
            }
        }
        seen.oldest_seconds = wall.0.saturating_sub(oldest_due.0);
        seen.last_reply = state.last_reply.as_deref().map(describe);
        seen
    }
}

impl Path {
    fn look(&self, now: Instant, seen: &mut SiteView) {
        seen.ready += self.ready.len();
        seen.in_flight += usize::try_from(self.in_flight).unwrap_or_default();
        seen.connections += usize::try_from(self.connections).unwrap_or_default();
        seen.idle_connections += self.idle.len();
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
