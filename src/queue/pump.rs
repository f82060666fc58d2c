//! Deciding who is served next at a site: ready entries meet idle connections, permits and new connections.
//!
//! Rules, in order:
//! 1. an idle connection of the path takes the work, the one used last first;
//! 2. a new connection is opened when the path has fewer than its work is worth (`Path::grow`) and every permit is
//!    there: windows (global, source, site, both), the rate of new connections, the message rate, no back-off;
//! 3. a path that gets no place in a window has an idle connection of another path of the site ended, or a busy one
//!    (see [`SiteState::must_yield`]), and waits among the starved;
//! 4. a path that meets a message rate waits among the throttled until the rate has room;
//! 5. a tenant or a campaign whose purse is empty is away from the path until its time; with nobody else there, the path waits.
//!
//! Both kinds of waiting paths are served in the order of their best tenants' virtual times: a tenant that floods a
//! thousand MX sets of one provider does not hold up one that has a single message for another of them.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::MutexGuard;

use crate::dns::Planned;
use crate::limit::permit::{Refusal, Scope};

use super::assignment::Assignment;
use super::engine::Engine;
use super::gates::Turnstile;
use super::path::{Cause, GROWTH, Path, PathKey, Wait};
use super::permits::{Denied, Stop};
use super::ready::Take;
use super::site::{Alarm, Context, Outbox, Site, SiteState};
use super::slot::{Seat, Slot};

/// Messages that a connection may send before it makes way for an MX set, or a site, that has none.
pub(super) const TURN: u32 = 20;

/// What became of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was handed out.
    Served,
    /// Nothing to do for this path now.
    Rest,
    /// A limit refused: the path is to wait in this order.
    Refused(Wait, Reach),
}

/// How far a refusal reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Every path of the site would be refused.
    Site,
    /// Paths from other sources may be served.
    Source,
}

impl Site {
    /// Does something under the lock, and afterwards what it collected.
    pub fn with<T>(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        now: Instant,
        act: impl FnOnce(&Context<'_>, &mut SiteState, &mut Outbox) -> T,
    ) -> T {
        let context = Context { engine, site: self, now };
        let mut out = Outbox::default();
        let mut state: MutexGuard<'_, SiteState> = self.state.lock();
        let result = act(&context, &mut state, &mut out);
        let has_entries = !out.homeless.is_empty() || !out.expired.is_empty();
        // Before others can see that they are here no more.
        let _outing = has_entries.then(|| engine.outings.begin());
        drop(state);
        out.flush(engine, self);
        result
    }

    /// Alarms that are due.
    pub fn on_alarm(self: &Arc<Self>, engine: &Arc<Engine>, now: Instant) {
        self.with(engine, now, |context, state, out| state.on_alarm(context, out));
    }

    /// A place in a shared window may be free.
    pub fn on_gate(self: &Arc<Self>, engine: &Arc<Engine>, now: Instant, gate: Turnstile) {
        self.with(engine, now, |context, state, out| {
            state.gates.retain(|waited| *waited != gate);
            state.resume(context, Wait::Starved, out);
        });
    }
}

impl SiteState {
    /// Work has come to a path, or a connection without work.
    pub fn pump(&mut self, context: &Context<'_>, place: u32, out: &mut Outbox) {
        if self.throttled_paths() > 0 {
            self.mark(place, Wait::Throttled, false);
            self.resume(context, Wait::Throttled, out);
            return;
        }
        if self.path(place).map(|path| path.key.source).is_some_and(|source| self.has_warming(source)) {
            self.mark(place, Wait::Warming, false);
            self.resume(context, Wait::Warming, out);
            return;
        }
        loop {
            match self.step(context, place, out) {
                Step::Served => {}
                Step::Rest => return,
                Step::Refused(wait, _) => return self.mark(place, wait, false),
            }
        }
    }

    /// Serves waiting paths in turn until a limit refuses.
    pub fn resume(&mut self, context: &Context<'_>, wait: Wait, out: &mut Outbox) {
        // A refusal for one source says nothing about paths from others: those are looked at as well.
        let (mut refused, mut full) = (Vec::new(), Vec::new());
        while let Some(place) = self.unmark(wait) {
            let Some(source) = self.path(place).map(|path| path.key.source) else { continue };
            if full.contains(&source) {
                refused.push(place);
                continue;
            }
            self.set_cause(place, None);
            match self.step(context, place, out) {
                Step::Served => self.mark(place, wait, false),
                Step::Rest => {}
                Step::Refused(next, Reach::Site) if next == wait => {
                    self.mark(place, next, true);
                    break;
                }
                Step::Refused(next, _) if next != wait => self.mark(place, next, false),
                Step::Refused(..) => {
                    full.push(source);
                    refused.push(place);
                }
            }
            if !full.is_empty() && !self.has_waiting_beside(wait, &full) {
                break;
            }
        }
        for place in refused {
            self.mark(place, wait, false);
        }
    }

    /// Hands out one batch of a path, if it may.
    fn step(&mut self, context: &Context<'_>, place: u32, out: &mut Outbox) -> Step {
        let step = self.try_step(context, place, out);
        self.pass_turn(context, place, step);
        step
    }

    fn try_step(&mut self, context: &Context<'_>, place: u32, out: &mut Outbox) -> Step {
        let Some(path) = self.path(place) else { return Step::Rest };
        if path.ready.is_empty() {
            self.unwait(place);
            self.set_cause(place, None);
            return Step::Rest;
        }
        if !context.engine.is_dispatching() {
            self.set_cause(place, Some(Cause::Courier));
            return Step::Rest;
        }
        if let Some(step) = self.keep_to_warmup(context, place, out) {
            return step;
        }
        let Some(path) = self.path(place) else { return Step::Rest };
        if path.idle.is_empty() { self.open(context, place, out) } else { self.hand(context, place, out) }
    }

    /// Gives a batch to an idle connection.
    fn hand(&mut self, context: &Context<'_>, place: u32, out: &mut Outbox) -> Step {
        let Some(path) = self.path(place) else { return Step::Rest };
        let source = path.key.source;
        let sent = path.idle.last().map_or((0, 0), |seat| seat.sent());
        let Some(take) = self.take_for(context, source, sent) else {
            // It has sent as many recipients as it may.
            if let Some(seat) = self.path(place).and_then(|path| path.idle.pop()) {
                self.idle -= 1;
                seat.end(false, &mut out.wake);
            }
            return Step::Served;
        };
        if let Err(stop) = self.admit(context, source) {
            return self.throttle(place, stop, out);
        }
        let Some(assignment) = self.draw(context, place, take, out) else {
            self.refund(&context.engine.gates, source, context.now);
            return self.starve(place, out);
        };
        self.watch_controller(source, out);
        self.set_cause(place, None);
        match self.path(place).and_then(|path| path.idle.pop()) {
            Some(seat) => {
                self.idle -= 1;
                seat.offer(assignment, &mut out.wake);
            }
            None => out.undone.push(assignment),
        }
        Step::Served
    }

    /// Opens a connection with a batch, if the work is worth one more and it may.
    fn open(&mut self, context: &Context<'_>, place: u32, out: &mut Outbox) -> Step {
        let Some(path) = self.path(place) else { return Step::Rest };
        if path.connections >= path.want {
            let source = path.key.source;
            self.note_shortage(source, context.now);
            self.watch_growth(context, place, out);
            return Step::Rest;
        }
        if let Some(pause) = &path.pause {
            let (until, is_probed) = (pause.until, pause.is_probed);
            if until > context.now || is_probed {
                if path.cause != Some(Cause::BackOff) && until > context.now {
                    self.arm(until, place, Alarm::BackOff, out);
                }
                self.set_cause(place, Some(Cause::BackOff));
                return Step::Rest;
            }
        }
        if path.plan.valid_until <= context.now {
            self.refresh(place, out);
            return Step::Rest;
        }
        let source = path.key.source;
        let Some(origin) = context.engine.source(source) else {
            // A reload took it away: its work finds another.
            self.evict(place, out);
            return Step::Rest;
        };
        let transport = path.plan.transport;
        self.ensure_origin(context, source, transport);
        if self.has_enough(place, source, context.now) {
            self.note_shortage(source, context.now);
            self.arm_growth(context, place, out);
            return Step::Rest;
        }
        match self.acquire(context, source) {
            Ok(()) => {}
            Err(Denied::Place(refusal)) => return self.refuse(context, place, refusal, out),
            Err(Denied::Opening(stop)) => return self.delay(context, place, stop, out),
            Err(Denied::Message(stop)) => return self.throttle(place, stop, out),
        }
        let first = self.take_for(context, source, (0, 0)).and_then(|take| self.draw(context, place, take, out));
        let Some(mut first) = first else {
            self.release(context, source);
            return self.starve(place, out);
        };
        self.set_cause(place, None);
        self.watch_controller(source, out);
        let Some(path) = self.path(place) else {
            out.undone.push(first);
            return Step::Rest;
        };
        path.connections += 1;
        path.opening += 1;
        if let Some(pause) = &mut path.pause {
            pause.is_probed = true;
        }
        let slot = Slot::new(context, place, path, origin, &mut first);
        out.dispatch.push((slot, first));
        Step::Served
    }

    /// A new connection must not go by a plan whose time is over: has it looked up again.
    fn refresh(&mut self, place: u32, out: &mut Outbox) {
        self.set_cause(place, Some(Cause::Dns));
        if let Some(path) = self.path(place)
            && !std::mem::replace(&mut path.is_refreshing, true)
        {
            out.refresh.push((place, path.plan.domain.clone()));
        }
    }

    /// Whether a path has a connection, and its source as many at the site as are worth having.
    fn has_enough(&mut self, place: u32, source: u16, now: Instant) -> bool {
        let has_some = self.path(place).is_some_and(|path| path.connections > 0);
        has_some && self.origin_mut(source).is_some_and(|origin| origin.connections.used() >= origin.worth(now))
    }

    /// Work waits, and every connection of its path is busy: its source's controller is told, which may be what keeps it from
    /// having more.
    fn note_shortage(&mut self, source: u16, now: Instant) {
        let Some(origin) = self.origin_mut(source) else { return };
        let used = origin.connections.used();
        if let Some(controller) = &mut origin.controller {
            controller.short_of_connections(used, now);
        }
    }

    /// No new connection for now.
    fn delay(&mut self, context: &Context<'_>, place: u32, stop: Stop, out: &mut Outbox) -> Step {
        let Some(until) = stop.until() else {
            let source = self.path(place).map_or(0, |path| path.key.source);
            return self.starve_for_place(context, place, (Scope::SourceSite, source), out);
        };
        let cause = match stop {
            Stop::Learnt(wait) => Cause::Learnt(wait.cause),
            // No warm-up is asked about a connection alone.
            Stop::Budget(_) | Stop::Warmup(_) => Cause::ConnectionRate,
        };
        self.set_cause(place, Some(cause));
        if self.opening_alarm.is_none_or(|alarm| until < alarm) {
            self.opening_alarm = Some(until);
            self.arm(until, place, Alarm::ConnectionRate, out);
        }
        Step::Refused(Wait::Starved, if stop.is_of_source() { Reach::Source } else { Reach::Site })
    }

    /// A window had no place for a new connection: what the path waits for now.
    fn refuse(&mut self, context: &Context<'_>, place: u32, refusal: Refusal, out: &mut Outbox) -> Step {
        let source = self.path(place).map_or(0, |path| path.key.source);
        self.starve_for_place(context, place, (refusal.scope, source), out)
    }

    fn starve_for_place(
        &mut self,
        context: &Context<'_>,
        place: u32,
        (scope, source): (Scope, u16),
        out: &mut Outbox,
    ) -> Step {
        self.set_cause(place, Some(Cause::Connections));
        let is_of_source = matches!(scope, Scope::Source | Scope::SourceSite);
        self.end_idle(place, is_of_source.then_some(source), out);
        if matches!(scope, Scope::Source | Scope::Global) {
            let source = (scope == Scope::Source).then_some(source);
            let gate = Turnstile { source, is_fresh: context.site.connections.used() == 0 };
            if !self.gates.contains(&gate) {
                self.gates.push(gate);
                out.gates.push(gate);
            }
        }
        Step::Refused(Wait::Starved, if is_of_source { Reach::Source } else { Reach::Site })
    }

    /// No message may go for now.
    fn throttle(&mut self, place: u32, stop: Stop, out: &mut Outbox) -> Step {
        let cause = match stop {
            Stop::Learnt(wait) => Cause::Learnt(wait.cause),
            Stop::Budget(_) => Cause::Rate,
            Stop::Warmup(halted) => return self.halt(place, halted, out),
        };
        self.set_cause(place, Some(cause));
        if let Some(until) = stop.until()
            && self.rate_alarm.is_none_or(|alarm| until < alarm)
        {
            self.rate_alarm = Some(until);
            self.arm(until, place, Alarm::Rate, out);
        }
        Step::Refused(Wait::Throttled, if stop.is_of_source() { Reach::Source } else { Reach::Site })
    }

    /// Nothing could be drawn: whoever has work there is away, because a purse is empty.
    fn starve(&mut self, place: u32, out: &mut Outbox) -> Step {
        let Some(path) = self.path(place) else { return Step::Rest };
        let Some(until) = path.ready.next_recall() else { return Step::Rest };
        let is_sooner = path.purse_alarm.is_none_or(|alarm| until < alarm);
        if is_sooner {
            path.purse_alarm = Some(until);
        }
        self.unwait(place);
        self.set_cause(place, Some(Cause::Budget));
        if is_sooner {
            self.arm(until, place, Alarm::Purse, out);
        }
        Step::Rest
    }

    /// Ends an idle connection of another path (from `source`, if that matters), for a hungry one.
    fn end_idle(&mut self, hungry: u32, source: Option<u16>, out: &mut Outbox) {
        if self.idle == 0 || self.ending >= self.hungry {
            return;
        }
        if let Some(seat) = self.take_idle(hungry, source) {
            self.ending += 1;
            seat.end(true, &mut out.wake);
        }
    }

    /// Takes the connection that has been idle longest out of a path other than `except`.
    fn take_idle(&mut self, except: u32, source: Option<u16>) -> Option<Arc<Seat>> {
        let others = self.paths.iter_mut().enumerate().filter(|(at, _)| u32::try_from(*at) != Ok(except));
        let mut paths = others.filter_map(|(_, path)| path.as_deref_mut());
        let seat = paths.find_map(|path| {
            let fits = source.is_none_or(|source| path.key.source == source);
            (fits && !path.idle.is_empty()).then(|| path.idle.remove(0))
        });
        self.idle -= usize::from(seat.is_some());
        seat
    }

    /// Whether a busy connection of `place`, which has sent `sent` messages, is to make way for a hungry path that is
    /// owed more: one without a connection, or one with fewer of them.
    pub fn must_yield(&mut self, place: u32, sent: u32) -> bool {
        if self.hungry <= self.ending {
            return false;
        }
        let Some((owed, hungry)) = self.first_waiting(Wait::Starved) else { return false };
        let Some(others) = self.path(hungry).map(|path| path.connections) else { return false };
        let Some(own) = self.path(place) else { return false };
        let served = own.ready.best().map_or(u64::MAX, |best| best.time);
        if hungry == place || owed > served {
            return false;
        }
        if others == 0 { sent >= TURN || owed < served } else { others + 1 < own.connections }
    }

    /// Has growth looked at while work waits.
    pub fn watch_growth(&mut self, context: &Context<'_>, place: u32, out: &mut Outbox) {
        let most = context.site.limits.load().connections;
        if self.path(place).is_some_and(|path| path.want < most) {
            self.arm_growth(context, place, out);
        }
    }

    /// The same however many it wants: what it is allowed may have become more by then.
    fn arm_growth(&mut self, context: &Context<'_>, place: u32, out: &mut Outbox) {
        if let Some(path) = self.path(place)
            && !path.has_growth_alarm
        {
            path.has_growth_alarm = true;
            self.arm(context.now + GROWTH, place, Alarm::Growth, out);
        }
    }

    fn on_alarm(&mut self, context: &Context<'_>, out: &mut Outbox) {
        self.wake = None;
        while let Some(Reverse((at, place, alarm))) = self.alarms.peek().copied() {
            if at > context.now {
                if self.wake.is_none_or(|wake| at < wake) {
                    self.wake = Some(at);
                    out.alarm = Some(at);
                }
                return;
            }
            self.alarms.pop();
            match alarm {
                Alarm::Rate => {
                    if self.rate_alarm.is_some_and(|alarm| alarm <= at) {
                        self.rate_alarm = None;
                    }
                    self.resume(context, Wait::Throttled, out);
                }
                Alarm::Purse => {
                    if let Some(path) = self.path(place) {
                        path.purse_alarm = None;
                        path.ready.recall(context.now);
                    }
                    self.set_cause(place, None);
                    self.pump(context, place, out);
                }
                Alarm::ConnectionRate => {
                    if self.opening_alarm.is_some_and(|alarm| alarm <= at) {
                        self.opening_alarm = None;
                    }
                    self.resume(context, Wait::Starved, out);
                }
                Alarm::Warmup => self.on_warmup(context, at, out),
                Alarm::Learning => self.look_at_controller(context, place, out),
                Alarm::BackOff => {
                    self.rehome(place, context.now, out);
                    self.set_cause(place, None);
                    self.pump(context, place, out);
                }
                Alarm::Growth => self.on_growth(context, place, out),
            }
        }
    }

    fn on_growth(&mut self, context: &Context<'_>, place: u32, out: &mut Outbox) {
        let Some(source) = self.path(place).map(|path| path.key.source) else { return };
        let worth = self.origin_mut(source).map_or(u32::MAX, |origin| origin.worth(context.now));
        let most = context.site.limits.load().connections.min(worth);
        let Some(path) = self.path(place) else { return };
        path.has_growth_alarm = false;
        if path.ready.best().is_none() {
            path.served = 0;
            return;
        }
        path.grow(most);
        self.pump(context, place, out);
        // One that waits for a warm-up, often for hours, is looked at when that has room.
        let is_warming = |path: &Path| matches!(path.waits, Some((Wait::Warming, _)));
        let grows = |path: &mut Path| !path.ready.is_empty() && path.pause.is_none() && !is_warming(path);
        if self.path(place).is_some_and(grows) {
            self.watch_growth(context, place, out);
        }
    }

    /// Draws for a busy connection, if no path waits for a rate and it has room.
    pub fn draw_now(&mut self, context: &Context<'_>, place: u32, take: Take, out: &mut Outbox) -> Option<Assignment> {
        let path = self.path(place)?;
        if path.ready.is_empty() || !context.engine.is_dispatching() {
            return None;
        }
        let source = path.key.source;
        if self.throttled_paths() > 0 || self.has_warming(source) || self.admit(context, source).is_err() {
            return None;
        }
        let assignment = self.draw(context, place, take, out);
        match assignment {
            Some(_) => self.watch_controller(source, out),
            None => {
                self.refund(&context.engine.gates, source, context.now);
                self.starve(place, out);
            }
        }
        assignment
    }
}

impl Site {
    /// The plan of a path has been looked up again.
    pub fn on_refresh(self: &Arc<Self>, engine: &Arc<Engine>, place: u32, planned: Planned) {
        let now = engine.clock.now();
        self.with(engine, now, |context, state, out| {
            state.set_cause(place, None);
            let Some(path) = state.path(place) else { return };
            path.is_refreshing = false;
            match planned {
                Ok(plan) if PathKey::new(&plan, path.key.source, path.key.assurance) == path.key => path.plan = plan,
                _ => path.ready.extract(|_| false, &mut out.homeless),
            }
            state.pump(context, place, out);
        });
    }

    /// Ends one idle connection, from `source` if that matters, for another site; tells whether there was one, and
    /// whether there are more.
    pub fn reclaim_idle(self: &Arc<Self>, engine: &Arc<Engine>, source: Option<u16>) -> (bool, bool) {
        let now = engine.clock.now();
        self.with(engine, now, |_, state, out| {
            let found = state.take_idle(u32::MAX, source);
            let has_found = found.is_some();
            if let Some(seat) = found {
                seat.end(false, &mut out.wake);
            }
            state.is_listed = state.idle > 0;
            (has_found, state.is_listed)
        })
    }

    /// Dispatch has begun: serves every path.
    pub fn wake_all(self: &Arc<Self>, engine: &Arc<Engine>, now: Instant) {
        self.with(engine, now, |context, state, out| {
            for place in 0..u32::try_from(state.paths.len()).unwrap_or(u32::MAX) {
                state.set_cause(place, None);
                state.pump(context, place, out);
            }
        });
    }

    /// Dispatch has stopped: connections without work end.
    pub fn end_all_idle(self: &Arc<Self>, engine: &Arc<Engine>, now: Instant) {
        self.with(engine, now, |_, state, out| {
            state.idle = 0;
            for seat in state.paths.iter_mut().flatten().flat_map(|path| path.idle.drain(..)) {
                seat.end(false, &mut out.wake);
            }
        });
    }
}
