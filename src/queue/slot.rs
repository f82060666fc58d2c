//! A slot: permission to have one connection of a path, and the way by which it gets work and reports.
//!
//! The connection pulls: [`Slot::try_take`] for what may go at once, [`Slot::take`] to wait. While it waits, its
//! [`Seat`] stands among the idle ones of the path and work is laid on it directly. Dropping a slot, in whatever state,
//! returns its permits and any work that was laid on its seat.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::Sleep;

use crate::dns::Plan;
use crate::dns::security::Assurance;
use crate::limit::controller::End;
use crate::message::{Outcome, Phase, Report};
use crate::panics::Panic;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

use super::apply::Leaving;
use super::assignment::Assignment;
use super::engine::Engine;
use super::path::{Cause, Path, Wait};
use super::pump::TURN;
use super::site::{Context, Site};
use super::source::Source;
use super::watch::Watch;

/// How a receiver ended a connection when another message was to begin.
#[derive(Clone, Copy, Debug)]
pub enum HungUp<'a> {
    /// Without a reply.
    Silently,
    /// By a reply that does not say why.
    Saying(&'a Reply),
    /// By one that says that the connection has carried enough.
    UsedUp(&'a Reply),
}

/// Permission to have one connection to an MX set; returned when dropped.
#[derive(Debug)]
pub struct Slot {
    engine: Arc<Engine>,
    site: Arc<Site>,
    path: u32,
    plan: Arc<Plan>,
    assurance: Assurance,
    source: Arc<Source>,
    source_index: u16,
    seat: Arc<Seat>,
    /// Greeting and EHLO are over, well or not.
    is_settled: AtomicBool,
    /// Something was reported.
    has_worked: AtomicBool,
    /// It counts among the established ones.
    is_open: AtomicBool,
    /// The receiver ended it when the next message was to begin, with this reply, and whether that said that it has carried
    /// enough.
    hung_up: OnceLock<(Option<String>, bool)>,
    /// When it was begun.
    begun: Instant,
    /// It was told to make way for another path.
    is_yielding: bool,
    /// It was told to make way for another site.
    has_made_way: bool,
    /// It is one too many since a limit was lowered; its seat has of which.
    is_leaving: bool,
    /// Wakes at the end of an idle time; kept and re-armed late, since most waits are short.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Where work is laid for a connection that waits.
#[derive(Debug)]
pub(super) struct Seat {
    state: Mutex<SeatState>,
    /// Messages given out over this connection.
    messages: AtomicU32,
    /// Their recipients.
    recipients: AtomicU32,
    /// What the connection does; for people.
    pub watch: Arc<Watch>,
}

#[derive(Debug, Default)]
struct SeatState {
    assignment: Option<Assignment>,
    waker: Option<Waker>,
    is_ended: bool,
    /// It was ended for another path of its site, which counts on it.
    is_owed: bool,
    /// It ends because a limit was lowered.
    leaving: Option<Leaving>,
}

impl Seat {
    fn new(now: Instant) -> Self {
        let (messages, recipients) = Default::default();
        Self { state: Mutex::default(), messages, recipients, watch: Arc::new(Watch::new(now)) }
    }

    /// Counts what is given to its connection.
    pub fn count(&self, assignment: &mut Assignment) {
        let recipients = u32::try_from(assignment.recipients().len()).unwrap_or(u32::MAX);
        assignment.number(self.messages.fetch_add(1, Ordering::Relaxed) + 1);
        self.recipients.fetch_add(recipients, Ordering::Relaxed);
    }

    /// Messages and recipients given to its connection.
    pub fn sent(&self) -> (u32, u32) {
        (self.messages.load(Ordering::Relaxed), self.recipients.load(Ordering::Relaxed))
    }

    /// Lays work on it. It stands among the idle ones, so nothing lies there yet.
    pub fn offer(&self, mut assignment: Assignment, wake: &mut Vec<Waker>) {
        self.count(&mut assignment);
        let mut state = self.state.lock();
        state.assignment = Some(assignment);
        wake.extend(state.waker.take());
    }

    /// Tells its connection to end; `is_owed` if the site counts it among those that make way.
    pub fn end(&self, is_owed: bool, wake: &mut Vec<Waker>) {
        let mut state = self.state.lock();
        state.is_ended = true;
        state.is_owed = is_owed;
        wake.extend(state.waker.take());
    }

    /// Tells its connection to end, since a limit was lowered or its source changed.
    pub fn dismiss(&self, leaving: Option<Leaving>, wake: &mut Vec<Waker>) {
        self.state.lock().leaving = leaving;
        self.end(false, wake);
    }

    fn leaving(&self) -> Option<Leaving> {
        self.state.lock().leaving
    }

    fn poll(&self, task: &TaskContext<'_>) -> Poll<Option<Assignment>> {
        let mut state = self.state.lock();
        if let Some(assignment) = state.assignment.take() {
            return Poll::Ready(Some(assignment));
        }
        if state.is_ended {
            return Poll::Ready(None);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(task.waker()),
            none => *none = Some(task.waker().clone()),
        }
        Poll::Pending
    }

    fn take(&self) -> Option<Assignment> {
        let mut state = self.state.lock();
        state.waker = None;
        state.assignment.take()
    }

    fn is_ended(&self) -> bool {
        self.state.lock().is_ended
    }

    fn is_owed(&self) -> bool {
        self.state.lock().is_owed
    }
}

/// How a connection asks for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// Before the reply to its last one.
    Ahead,
    /// For what may go at once.
    Now,
    /// For what comes.
    Wait,
}

/// What a connection finds when it asks for work.
enum Found {
    Work(Assignment),
    End,
    Nothing,
}

impl Slot {
    /// A slot of `path`, whose permits the caller has taken, for a connection that begins with `first`.
    pub(super) fn new(
        context: &Context<'_>,
        place: u32,
        path: &mut Path,
        source: Arc<Source>,
        first: &mut Assignment,
    ) -> Self {
        let seat = Arc::new(Seat::new(context.now));
        seat.count(first);
        path.seats.push(seat.clone());
        Self {
            engine: context.engine.clone(),
            site: context.site.clone(),
            path: place,
            plan: path.plan.clone(),
            assurance: path.key.assurance,
            source,
            source_index: path.key.source,
            seat,
            is_settled: AtomicBool::new(false),
            has_worked: AtomicBool::new(false),
            is_open: AtomicBool::new(false),
            hung_up: OnceLock::new(),
            begun: context.now,
            is_yielding: false,
            has_made_way: false,
            is_leaving: false,
            alarm: None,
        }
    }

    /// Where to connect.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// What its messages ask for.
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// From where.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// What the connection does, to be kept up to date by its task.
    pub fn watch(&self) -> Arc<Watch> {
        self.seat.watch.clone()
    }

    /// The next work, if there is some with all its permits now. None also when the connection is to end or wait.
    pub fn try_take(&mut self) -> Option<Assignment> {
        self.try_as(Asks::Now)
    }

    /// The same before the reply to the work before has come: none where a refusal of that may change what is allowed.
    pub fn try_take_ahead(&mut self) -> Option<Assignment> {
        self.try_as(Asks::Ahead)
    }

    fn try_as(&mut self, asks: Asks) -> Option<Assignment> {
        match self.look(asks) {
            Found::Work(assignment) => Some(assignment),
            Found::End | Found::Nothing => None,
        }
    }

    /// The next work; waits up to `idle` for it. None: close the connection.
    ///
    /// Cancel-safe: work that was laid down before the future is dropped comes with the next call.
    pub async fn take(&mut self, idle: Duration) -> Option<Assignment> {
        match self.look(Asks::Wait) {
            Found::Work(assignment) => return Some(assignment),
            Found::End => return None,
            Found::Nothing => {}
        }
        let until = self.engine.clock.now() + idle;
        let Self { site, path, seat, alarm, .. } = self;
        let mut standing = Standing { site, path: *path, seat, is_over: false };
        let work = poll_fn(|task| match standing.seat.poll(task) {
            Poll::Ready(work) => Poll::Ready(work),
            Poll::Pending => poll_idle(alarm, until, task),
        })
        .await;
        match work {
            // Who laid it down has taken the seat out of the idle ones.
            Some(work) => {
                standing.is_over = true;
                Some(work)
            }
            None => standing.leave(),
        }
    }

    /// Looks for work. Who waits for it has the seat stand among the idle ones when nothing was found.
    fn look(&mut self, asks: Asks) -> Found {
        if let Some(assignment) = self.seat.take() {
            return Found::Work(assignment);
        }
        let (messages, recipients) = self.seat.sent();
        let is_over = self.is_yielding || self.has_made_way || self.seat.is_ended();
        if is_over || !self.engine.is_dispatching() || self.is_outdated() || self.is_surplus() {
            return Found::End;
        }
        if messages >= TURN && self.engine.gates.ask(self.source_index) {
            self.has_made_way = true;
            return Found::End;
        }
        let now = self.engine.clock.now();
        let (place, source, seat) = (self.path, self.source_index, &self.seat);
        let is_contended = self.engine.gates.are_contended(self.source_index);
        let found = self.site.with(&self.engine, now, |context, state, out| {
            let Some(take) = state.take_for(context, source, (messages, recipients)) else {
                return (false, Found::End);
            };
            if state.must_yield(place, messages) {
                state.ending += 1;
                return (true, Found::End);
            }
            if asks == Asks::Ahead && !state.controller(source).is_none_or(|it| it.may_look_ahead(context.now)) {
                return (false, Found::Nothing);
            }
            if let Some(mut assignment) = state.draw_now(context, place, take, out) {
                seat.count(&mut assignment);
                return (false, Found::Work(assignment));
            }
            if asks != Asks::Wait {
                return (false, Found::Nothing);
            }
            let Some(path) = state.path(place) else { return (false, Found::End) };
            if !context.engine.is_dispatching() {
                // Looked at again under the lock: whoever stops the queue ends the idle ones after this.
                return (false, Found::End);
            }
            if path.ready.is_empty() && is_contended {
                // Other sites want the place more than an idle connection does.
                return (false, Found::End);
            }
            path.idle.push(seat.clone());
            let busy = path.connections.saturating_sub(u32::try_from(path.idle.len()).unwrap_or(u32::MAX));
            path.want = busy.max(1);
            state.idle += 1;
            out.has_idle = !std::mem::replace(&mut state.is_listed, true);
            if state.path(place).is_some_and(|path| !path.ready.is_empty()) {
                state.mark(place, Wait::Throttled, false);
                state.resume(context, Wait::Throttled, out);
            }
            (false, Found::Nothing)
        });
        self.is_yielding |= found.0;
        found.1
    }

    /// A reload changed its source, or took it away.
    fn is_outdated(&self) -> bool {
        !self.engine.sources.load().source(self.source_index).is_some_and(|source| Arc::ptr_eq(source, &self.source))
    }

    /// Whether this connection is one too many since a limit was lowered.
    fn is_surplus(&mut self) -> bool {
        if self.is_leaving {
            return true;
        }
        let leaving = Leaving::claim(&self.site, &self.engine.gates, self.source_index);
        if leaving.is_some() {
            self.seat.state.lock().leaving = leaving;
            self.is_leaving = true;
        }
        self.is_leaving
    }

    /// What became of an assignment: one outcome for each of its recipients, in their order.
    pub fn report(&self, assignment: Assignment, outcomes: Vec<Outcome>) {
        self.has_worked.store(true, Ordering::Relaxed);
        self.seat.watch.note_message();
        assignment.report(outcomes);
    }

    /// The assignment's message is damaged: its recipients are held.
    pub fn hold_damaged(&self, assignment: Assignment) {
        self.has_worked.store(true, Ordering::Relaxed);
        assignment.hold_damaged();
    }

    /// A panic is blamed on the assignment's message: its recipients are held too.
    pub fn hold_panicked(&self, assignment: Assignment, panic: &Panic) {
        self.has_worked.store(true, Ordering::Relaxed);
        Assignment::salvage(vec![assignment], panic);
    }

    /// Returns an assignment that was not tried.
    pub fn give_back(&self, assignment: Assignment) {
        drop(assignment);
    }

    /// Greeting and EHLO are done: the back-off ends.
    pub fn connected(&self) {
        if self.is_settled.swap(true, Ordering::Relaxed) {
            return;
        }
        let now = self.engine.clock.now();
        self.site.with(&self.engine, now, |context, state, out| {
            if let Some(origin) = state.origin_mut(self.source_index) {
                self.is_open.store(true, Ordering::Relaxed);
                let others = origin.established;
                origin.established += 1;
                let took = now.saturating_duration_since(self.begun);
                state.learn_connection(self.source_index, out, |controller| controller.opened(others, took, now));
            }
            let Some(path) = state.path(self.path) else { return };
            path.opening = path.opening.saturating_sub(1);
            if path.pause.take_if(|pause| pause.is_ended_by_opening()).is_some() {
                state.set_cause(self.path, None);
                state.pump(context, self.path, out);
            }
        });
    }

    /// The receiver ended the connection when a message was to begin: it may have carried enough.
    pub fn hung_up(&self, how: HungUp<'_>) {
        let (reply, is_used_up) = match how {
            HungUp::Silently => (None, false),
            HungUp::Saying(reply) => (Some(reply), false),
            HungUp::UsedUp(reply) => (Some(reply), true),
        };
        // A connection ends once.
        let _first = self.hung_up.set((reply.map(super::settle::said), is_used_up));
    }

    /// No MX host could be talked to: charges the MX set with a back-off and `assignment` with an attempt.
    pub fn connection_failed(&self, assignment: Assignment, outcome: Outcome) {
        let now = self.engine.clock.now();
        let is_first = !self.is_settled.swap(true, Ordering::Relaxed);
        let reason = Arc::new(outcome.report().clone());
        self.engine.top.connection_failed(&self.site);
        self.site.with(&self.engine, now, |_, state, _| {
            state.last_reply = Some(reason.clone());
            if let Some(path) = state.path(self.path) {
                path.opening = path.opening.saturating_sub(u32::from(is_first));
                path.fail(reason, self.engine.settings().back_off, now);
            }
        });
        let outcomes = vec![outcome; assignment.recipients().len()];
        assignment.report(outcomes);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // It may be dropped by a panic in the site itself; a second one would end the process.
        if self.engine.walls.outcomes.call(|| self.leave()).is_err() {
            self.site.revive(&self.engine, self.engine.clock.now());
        }
        // Work that was laid on the seat meanwhile is given back here, without a lock.
        drop(self.seat.take());
    }
}

impl Slot {
    /// Returns its permits.
    fn leave(&self) {
        let now = self.engine.clock.now();
        let (place, seat) = (self.path, &self.seat);
        let was_settled = self.is_settled.load(Ordering::Relaxed);
        let was_ending = self.is_yielding || seat.is_owed();
        // Its task ended without a word, or by a panic: without a pause it would go round for ever, or through all that
        // waits here.
        let is_wreck = thread::panicking() || !(was_settled || self.has_worked.load(Ordering::Relaxed));
        self.site.connections.release();
        if self.has_made_way {
            self.engine.gates.made_way();
        }
        self.engine.gates.release(self.source_index);
        if let Some(leaving) = self.seat.leaving() {
            leaving.gone(&self.site, &self.engine.gates, self.source_index);
        }
        // Sites that wait come before this one.
        self.engine.gates.wake(self.source_index, &self.engine, now);
        self.site.with(&self.engine, now, |context, state, out| {
            state.leave_idle(place, seat);
            state.ending = state.ending.saturating_sub(usize::from(was_ending));
            if let Some(origin) = state.origin_mut(self.source_index) {
                origin.connections.release();
                origin.established = origin.established.saturating_sub(u32::from(self.is_open.load(Ordering::Relaxed)));
                // The one that was cut off was counted, and had not begun.
                let (count, _) = seat.sent();
                let before = count.saturating_sub(1);
                state.learn_connection(self.source_index, out, |controller| match self.hung_up.get() {
                    Some((Some(reply), true)) => controller.used_up(count, reply, now),
                    Some((reply, _)) => controller.closed(Some(End { count: before, reply: reply.as_deref() }), now),
                    None => controller.closed(None, now),
                });
            }
            let Some(path) = state.path(place) else { return };
            path.connections = path.connections.saturating_sub(1);
            path.seats.retain(|other| !Arc::ptr_eq(other, seat));
            path.opening = path.opening.saturating_sub(u32::from(!was_settled));
            if is_wreck {
                path.fail(Arc::new(silent()), context.engine.settings().back_off, now);
            } else if !was_settled && let Some(pause) = &mut path.pause {
                pause.is_probed = false;
            }
            // Its own work competes with that of starved paths for the place that came free.
            let needs_one = path.connections < path.want.max(1) && path.idle.is_empty();
            let is_paused = path.cause == Some(Cause::BackOff);
            if is_paused {
                state.set_cause(place, None);
            }
            if needs_one || is_paused {
                state.mark(place, Wait::Starved, false);
            }
            state.forget_unused(place, now);
            state.resume(context, Wait::Starved, out);
        });
    }
}

fn silent() -> Report {
    Report::local(Phase::Connect, Status::new(4, 3, 0), "the connection's task ended")
}

/// A seat among the idle ones; leaves them when dropped.
struct Standing<'a> {
    site: &'a Arc<Site>,
    path: u32,
    seat: &'a Arc<Seat>,
    is_over: bool,
}

impl Standing<'_> {
    /// Leaves; work that was laid down meanwhile is returned.
    fn leave(&mut self) -> Option<Assignment> {
        self.is_over = true;
        let (place, seat) = (self.path, self.seat);
        self.site.state.lock().leave_idle(place, seat);
        seat.take()
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.site.state.lock().leave_idle(self.path, self.seat);
        }
    }
}

impl super::site::SiteState {
    /// Takes a seat out of the idle ones, if it is still there.
    fn leave_idle(&mut self, place: u32, seat: &Arc<Seat>) {
        let Some(path) = self.path(place) else { return };
        if let Some(at) = path.idle.iter().rposition(|idle| Arc::ptr_eq(idle, seat)) {
            path.idle.remove(at);
            self.idle -= 1;
        }
    }
}

/// Ready at `until`. The timer may be set for an earlier time by a wait before; it is moved only when it fires.
fn poll_idle(
    alarm: &mut Option<Pin<Box<Sleep>>>,
    until: Instant,
    task: &mut TaskContext<'_>,
) -> Poll<Option<Assignment>> {
    let deadline = tokio::time::Instant::from_std(until);
    let alarm = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
    loop {
        if alarm.deadline() > deadline {
            alarm.as_mut().reset(deadline);
        }
        if alarm.as_mut().poll(task).is_pending() {
            return Poll::Pending;
        }
        if alarm.deadline() >= deadline {
            return Poll::Ready(None);
        }
        alarm.as_mut().reset(deadline);
    }
}
