//! Orders and flushes meet what is queued: every place of the queue is gone through, a lock at a time.
//!
//! Under a lock entries are asked only what they know themselves; those that may match are taken out, and what their
//! envelopes say is read afterwards. Those that do not match after all find their way back.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use crate::bounce::dsn::Action as Notification;
use crate::clock::UnixTime;
use crate::message::{Phase, Report};
use crate::smtp::status::Status;
use crate::spool::{Event, RecipientEvent};
use crate::state::{Action, Order, OrderId, PlaceError, Request, Selection};

use super::engine::Engine;
use super::entry::{Entry, Marks};
use super::matcher::{Matcher, Whereabouts};
use super::notice::Notice;
use super::orders::Standing;
use super::settle::deferral;
use super::site::Site;
use super::top::Fate;
use super::view::{Flushed, OrderView, Placed, Undone};

/// Entries admitted or given up between two looks at others.
const BATCH: usize = 1_024;

impl Engine {
    /// Makes an order stand and applies it to what is queued. Blocks on the disk.
    pub fn place(self: &Arc<Self>, request: Request) -> Result<Placed, PlaceError> {
        if let Action::Move { source } = &request.action
            && self.source_named(source).is_none()
        {
            return Err(PlaceError::Source(source.clone()));
        }
        let before = if request.is_once() { self.bound()? } else { self.spool.frontier() };
        let order = self.orders.book.place(request, self.clock.wall(), before)?;
        self.orders.reread();
        self.locate(&Matcher::new(&order.selection));
        let counts = self.count(&order.selection);
        tracing::info!(order = %order.id, action = order.action.as_str(), selection = %order.selection,
            reason = %order.reason, by = %order.by, "an order was placed");
        self.tell_order(&order, order.action.as_str());
        let standing = self.orders.standing();
        let Some(standing) = standing.iter().find(|standing| standing.order.id == order.id) else {
            return Ok(Placed { order: (*order).clone(), counts, ended: 0, unknown: 0 });
        };
        let ended = self.apply(standing);
        let unknown = if order.action.is_final() { self.unknown(standing) } else { 0 };
        if order.is_once() {
            self.finish_once(order.id);
        }
        Ok(Placed { order: (*order).clone(), counts, ended, unknown })
    }

    /// Ends an order; what it kept goes on. Blocks on the disk.
    pub fn undo(self: &Arc<Self>, id: OrderId) -> io::Result<Option<Undone>> {
        let Some(order) = self.orders.book.end(&[id])?.pop() else { return Ok(None) };
        tracing::info!(order = %id, action = order.action.as_str(), "an order was undone");
        self.tell_order(&order, "undo");
        self.orders.reread();
        let released = self.release(&order);
        Ok(Some(Undone { order: (*order).clone(), released }))
    }

    fn release(self: &Arc<Self>, order: &Order) -> usize {
        let _outing = self.outings.begin();
        let entries = self.freed_by(order, self.orders.release(order.id));
        let released = entries.len();
        self.admit_in_batches(entries);
        released
    }

    /// The orders that stand.
    pub fn order_views(&self) -> Vec<OrderView> {
        let standing = self.orders.standing();
        let view = |standing: &Arc<Standing>| OrderView {
            order: (*standing.order).clone(),
            parked: self.orders.parked(standing.order.id),
            scheduled: None,
            is_source_missing: self.is_source_missing(&standing.order),
        };
        standing.iter().map(view).collect()
    }

    /// Whether an order moves to a source that there is no more; it takes effect again when there is.
    fn is_source_missing(&self, order: &Order) -> bool {
        matches!(&order.action, Action::Move { source } if self.source_named(source).is_none())
    }

    /// Tells of orders that have no effect by this configuration.
    pub fn tell_missing_sources(&self) {
        for standing in self.orders.standing().iter() {
            if let Action::Move { source } = &standing.order.action
                && self.is_source_missing(&standing.order)
            {
                tracing::warn!(order = %standing.order.id, %source,
                    "an order moves mail to a source that is not configured: it has no effect");
            }
        }
    }

    /// Applies an order to what is queued; tells how many recipients it ended.
    pub fn apply(self: &Arc<Self>, standing: &Arc<Standing>) -> usize {
        let _outing = self.outings.begin();
        self.locate(&standing.matcher);
        let mut homeless = Vec::new();
        for site in self.all_sites() {
            self.sweep_site(&site, std::slice::from_ref(standing), &mut homeless);
        }
        if !standing.order.action.is_final() {
            // Judged again on their way; those that wait for their time are judged when it has come.
            self.admit_in_batches(homeless);
            return 0;
        }
        let mut candidates = homeless;
        candidates.extend(self.take_waiting(&|entry, at| standing.may_concern(entry, at)));
        let parked = self.orders.extract(|_, entry| self.with_whereabouts(entry, |at| standing.may_concern(entry, at)));
        candidates.extend(parked);
        let held = self.held.extract(|entry, _| self.with_whereabouts(entry, |at| standing.may_concern(entry, at)));
        let (doomed, spared) = self.part(standing, candidates);
        let (held_doomed, held_spared): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|(entry, _)| self.is_confirmed(standing, entry));
        for (entry, hold) in held_spared {
            self.held.add([entry], hold);
        }
        let doomed: Vec<Entry> = doomed.into_iter().chain(held_doomed.into_iter().map(|(entry, _)| entry)).collect();
        let ended = doomed.len();
        self.give_up(standing, doomed);
        self.put_back(spared);
        ended
    }

    fn is_confirmed(&self, standing: &Standing, entry: &Entry) -> bool {
        self.confirm(&standing.matcher, entry).unwrap_or(false)
    }

    fn part(&self, standing: &Standing, candidates: Vec<Entry>) -> (Vec<Entry>, Vec<Entry>) {
        candidates.into_iter().partition(|entry| self.is_confirmed(standing, entry))
    }

    /// Takes ready entries of a site that one of these orders may be about.
    fn sweep_site(self: &Arc<Self>, site: &Arc<Site>, orders: &[Arc<Standing>], homeless: &mut Vec<Entry>) {
        site.with(self, self.clock.now(), |_, state, _| {
            for path in state.paths.iter_mut().flatten() {
                let source = self.source(path.key.source).map(|source| source.name.clone());
                let at = Whereabouts { site: Some(&site.name), source: source.as_deref() };
                let stays = |entry: &Entry| !orders.iter().any(|standing| standing.may_concern(entry, at));
                path.ready.extract(stays, homeless);
            }
        });
    }

    /// The orders changed while entries were on their way to a site: those that may be concerned go the way again.
    pub fn sweep_again(self: &Arc<Self>, site: &Arc<Site>) {
        let _outing = self.outings.begin();
        let mut homeless = Vec::new();
        self.sweep_site(site, &self.orders.standing(), &mut homeless);
        self.admit_in_batches(homeless);
    }

    /// Takes entries that wait for their time or for a look-up.
    fn take_waiting(&self, is_taken: &impl Fn(&Entry, Whereabouts<'_>) -> bool) -> Vec<Entry> {
        let mut taken = Vec::new();
        for shard in self.timers.shards() {
            shard.extract(|entry| self.with_whereabouts(entry, |at| is_taken(entry, at)), &mut taken);
        }
        let mut waiting = 0;
        self.domains.for_each(|domain| {
            let mut state = domain.state.lock();
            let site = state.route.as_ref().map(|route| route.site.name.clone());
            let at = Whereabouts { site: site.as_deref(), source: None };
            let before = taken.len();
            taken.extend(state.waiting.extract_if(.., |entry| is_taken(entry, at)));
            waiting += taken.len() - before;
        });
        self.waiting_for_dns.fetch_sub(waiting, std::sync::atomic::Ordering::Relaxed);
        taken
    }

    /// Entries that were taken out and are not meant: to the timers, or on their way if their time has come.
    fn put_back(self: &Arc<Self>, entries: Vec<Entry>) {
        let wall = self.clock.wall();
        let (now, later): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.due <= wall);
        self.schedule_spared(later);
        self.admit_in_batches(now);
    }

    fn admit_in_batches(self: &Arc<Self>, mut entries: Vec<Entry>) {
        // Runs of one domain go together.
        entries.sort_by(|a, b| a.domain.name.cmp(&b.domain.name).then(a.due.cmp(&b.due)));
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            self.admit_all(entries.by_ref().take(BATCH).collect());
        }
    }

    /// Ends recipients by an order: without a DSN, or with one.
    pub fn give_up(self: &Arc<Self>, standing: &Standing, mut entries: Vec<Entry>) {
        entries.sort_by_key(|entry| (entry.id.0, entry.recipient));
        if standing.order.action == Action::Bounce {
            return self.bounce(entries, standing);
        }
        for run in entries.chunk_by(|a, b| a.id == b.id) {
            let Some(first) = run.first() else { continue };
            if self.journal.is_on() {
                // A finished message cannot be read any more.
                let envelope = self.envelope_of(first.id);
                for entry in run {
                    self.tell_deleted(entry, envelope.as_deref(), entry.domain.site().as_deref(), &standing.order);
                }
            }
            let event = |entry: &Entry| RecipientEvent { recipient: entry.recipient, event: Event::Deleted };
            self.spool.record(first.id, &run.iter().map(event).collect::<Vec<_>>());
            for entry in run {
                if entry.marks.has(Marks::IN_DOUBT) {
                    self.doubts.remove(entry.id, entry.recipient);
                }
                self.replies.forget(entry);
                self.count_out(&entry.flow, 1);
                self.meters.deleted.increment(1);
                self.top.decided(&entry.flow.tenant, Fate::Deleted);
            }
        }
    }

    /// Has deferred recipients tried now, and ends the back-off of their sites; `held` also those held in doubt or as
    /// damaged. Blocks on the disk if only envelopes tell who matches.
    pub fn flush(self: &Arc<Self>, selection: &Selection, held: bool) -> Flushed {
        let _outing = self.outings.begin();
        let matcher = Matcher::new(selection);
        self.locate(&matcher);
        let mut taken = self.take_waiting(&|entry, at| matcher.may_match(entry, at));
        let (mut flushed, wall) = (Flushed::default(), self.clock.wall());
        let is_meant = |entry: &Entry| self.confirm(&matcher, entry).unwrap_or(false);
        let (mut meant, others): (Vec<_>, Vec<_>) = taken.drain(..).partition(is_meant);
        flushed.scheduled = meant.len();
        if held {
            let may_match = |entry: &Entry| self.with_whereabouts(entry, |at| matcher.may_match(entry, at));
            let (freed, kept): (Vec<_>, Vec<_>) =
                self.held.extract(|entry, _| may_match(entry)).into_iter().partition(|(entry, _)| is_meant(entry));
            for (entry, hold) in kept {
                self.held.add([entry], hold);
            }
            flushed.held = freed.len();
            meant.extend(freed.into_iter().map(|(mut entry, _)| {
                entry.release(wall);
                entry
            }));
        }
        for entry in &mut meant {
            entry.due = entry.due.min(wall);
        }
        self.put_back(others);
        // An order can keep any of them: they are looked for afterwards.
        let tried: Option<HashSet<_>> =
            (!self.orders.is_empty()).then(|| meant.iter().map(|entry| (entry.id, entry.recipient)).collect());
        self.admit_in_batches(meant);
        flushed.kept = tried.map_or(0, |tried| self.count_kept(&tried));
        for site in self.all_sites() {
            flushed.sites += usize::from(site.end_back_off(self, &matcher));
        }
        flushed
    }

    /// Orders end whose time is over, and those that are done. May block on the disk.
    pub fn tend_orders(self: &Arc<Self>) {
        if self.orders.is_empty() {
            return;
        }
        self.tend_once();
        let over = self.orders.book.end_over(self.clock.wall());
        if over.is_empty() {
            return;
        }
        self.orders.reread();
        for order in over {
            let released = self.release(&order);
            tracing::info!(order = %order.id, action = order.action.as_str(), released, "an order's time is over");
            self.tell_order(&order, "over");
        }
        self.save_orders();
    }

    /// The dead among the suspended expire, and delays that last are reported.
    pub fn age_suspended(self: &Arc<Self>) {
        if self.orders.is_empty() {
            return;
        }
        let _outing = self.outings.begin();
        let standing = self.orders.standing();
        let (dead_before, wall) = (self.dead_before(), self.clock.wall());
        let late = wall.0.saturating_sub(u32::try_from(self.settings().delay_after.as_secs()).unwrap_or(u32::MAX));
        let is_dead = |entry: &Entry| entry.ages_from() < dead_before;
        let is_late = |entry: &Entry| entry.is_owed_delay() && entry.ages_from() <= UnixTime(late);
        let suspends = |id: OrderId| {
            standing.iter().any(|standing| standing.order.id == id && standing.order.action == Action::Suspend)
        };
        let aged = self.orders.extract(|id, entry| (is_dead(entry) || is_late(entry)) && suspends(id));
        let (dead, mut late): (Vec<_>, Vec<_>) = aged.into_iter().partition(is_dead);
        self.expire(dead);
        late.sort_by_key(|entry| (entry.id.0, entry.recipient));
        let mut late = late.into_iter().peekable();
        while let Some(first) = late.next() {
            let id = first.id;
            let mut subjects = Vec::new();
            let mut next = Some(first);
            while let Some(entry) = next {
                // RFC 3463, 3.5: X.4.5, the closest that there is to a stop by ourselves.
                let text = "suspended by the operator of this mail system";
                let report = Report::local(Phase::Queue, Status::new(4, 4, 5), text);
                subjects.push((deferral(&entry, true), entry, report));
                next = late.next_if(|entry| entry.id == id);
            }
            let subjects = subjects.into_iter().map(|(event, entry, report)| (entry, event, report)).collect();
            Notice { id, action: Notification::Delayed, subjects }.begin(self);
        }
    }
}

impl Site {
    /// Ends the back-off of paths from which something that matches waits, or of all if the site itself is meant.
    fn end_back_off(self: &Arc<Self>, engine: &Arc<Engine>, matcher: &Matcher) -> bool {
        self.with(engine, engine.clock.now(), |context, state, out| {
            let places = 0..u32::try_from(state.paths.len()).unwrap_or(u32::MAX);
            let mut has_ended = false;
            for place in places {
                let Some(path) = state.path(place) else { continue };
                let source = engine.source(path.key.source).map(|source| source.name.clone());
                let at = Whereabouts { site: Some(&self.name), source: source.as_deref() };
                if path.pause.is_none() || !path.ready.iter().any(|entry| matcher.may_match(entry, at)) {
                    continue;
                }
                path.pause = None;
                has_ended = true;
                state.set_cause(place, None);
                state.pump(context, place, out);
            }
            has_ended
        })
    }
}
