//! The sender: an event loop on a virtual clock that has connections and sends over them what the driver allows.
//!
//! Events: a connection is open or failed, a reply has come, something to send has come, a wait is over, a tick is due.
//! After each of them everything is sent that may go.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::chance::Chance;
use super::driver::{Driver, Hand, hidden};
use super::line::{Lines, Message};
use super::measure::{Measure, Run};
use super::profile::Profile;
use super::receiver::{Knock, Receiver, Verdict};
use super::signal::Signals;
use super::{NEVER, Time, nanos};
use crate::limit::controller::{Answer, Failure, MOST_GUESSES, Refused, Signal};

/// A driver without a limit has as many connections as it likes, but not as many as fit into memory.
const MOST_CONNECTIONS: u32 = 2000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Opened(usize),
    Failed(usize),
    Reply(usize),
    Arrival,
    Wake,
    Tick,
    Sample,
}

#[derive(Debug)]
struct Connection {
    /// Messages sent over it.
    count: u32,
    began: Time,
    /// What became of the attempt to open it.
    knock: Knock,
    /// The message that is out, when it was sent and what is said to it.
    out: Option<(Message, Time, Verdict)>,
}

/// The world of one run.
pub(super) struct Sender<'a> {
    profile: &'a Profile,
    seed: u64,
    receiver: Receiver,
    signals: Signals,
    hand: Hand,
    chance: Chance,
    lines: Lines,
    origin: Instant,
    now: Time,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    /// Orders events of the same time.
    number: u64,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Open without work, the one used last at the end.
    idle: Vec<usize>,
    open: u32,
    opening: u32,
    /// The next wake-up and the next arrival that have an event.
    wake: Time,
    arrival: Time,
    /// A tick has an event.
    is_ticking: bool,
    measure: Measure,
}

impl<'a> Sender<'a> {
    pub fn new(profile: &'a Profile, driver: Driver, seed: u64, origin: Instant) -> Self {
        let mut chance = Chance::new(seed);
        let hand = Hand::new(&driver, u32::try_from(seed & 0xffff_ffff).unwrap_or_default(), origin);
        let lines = Lines::new(profile, &mut chance);
        let measure = Measure::new(profile, &driver, lines.names());
        Self {
            profile,
            seed,
            receiver: Receiver::new(profile.receiver.clone()),
            signals: Signals::default(),
            hand,
            chance,
            lines,
            origin,
            now: 0,
            events: BinaryHeap::new(),
            number: 0,
            connections: Vec::new(),
            free: Vec::new(),
            idle: Vec::new(),
            open: 0,
            opening: 0,
            wake: NEVER,
            arrival: NEVER,
            is_ticking: false,
            measure,
        }
    }

    pub fn run(mut self) -> Run {
        let end = nanos(self.profile.duration.0);
        self.push(0, Event::Sample);
        self.pump();
        while let Some(Reverse((at, _, event))) = self.events.pop()
            && at <= end
        {
            self.now = at;
            self.on(event);
            if event != Event::Sample {
                self.pump();
            }
        }
        let learnt = self.hand.view(self.at());
        let kept =
            self.hand.controller().map(|controller| controller.learnt(self.origin + Duration::from_nanos(self.now)));
        self.measure.finish(self.profile, &self.receiver, self.seed, learnt, kept)
    }

    fn at(&self) -> Instant {
        self.origin + Duration::from_nanos(self.now)
    }

    fn push(&mut self, at: Time, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Opened(place) => self.on_opened(place),
            Event::Failed(place) => self.on_failed(place),
            Event::Reply(place) => self.on_reply(place),
            Event::Arrival => self.arrival = NEVER,
            Event::Wake if self.wake <= self.now => self.wake = NEVER,
            Event::Wake => {}
            Event::Tick => {
                let (at, is_waiting) = (self.at(), self.lines.has_work());
                if let Some(controller) = self.hand.controller() {
                    let changes = controller.tick(is_waiting, at);
                    self.measure.changed(self.now, changes);
                }
                self.is_ticking = false;
                self.arm_tick();
            }
            Event::Sample => {
                let (hidden, at) = (self.receiver.rate_at(self.now), self.at());
                self.measure.sample(self.now, hidden, self.hand.view(at), self.open + self.opening);
                self.push(self.now + self.measure.interval(), Event::Sample);
            }
        }
    }

    fn arm_tick(&mut self) {
        if self.is_ticking {
            return;
        }
        if let Some(next) = self.hand.controller().and_then(|controller| controller.next_tick()) {
            let next = nanos(next.saturating_duration_since(self.origin)).max(self.now + 1);
            self.is_ticking = true;
            self.push(next, Event::Tick);
        }
    }

    fn on_opened(&mut self, place: usize) {
        let Some(Some(connection)) = self.connections.get(place) else { return };
        let took = Duration::from_nanos(self.now - connection.began);
        self.opening -= 1;
        let (others, at) = (self.open, self.at());
        self.open += 1;
        if let Some(controller) = self.hand.controller() {
            let changes = controller.opened(others, took, at);
            self.measure.changed(self.now, changes);
        }
        self.idle.push(place);
    }

    fn on_failed(&mut self, place: usize) {
        let Some(connection) = self.connections.get_mut(place).and_then(Option::take) else { return };
        self.free.push(place);
        self.opening -= 1;
        let (failure, reply) = match connection.knock {
            Knock::TooMany => (Failure::TooMany, super::receiver::TOO_MANY),
            Knock::Silence => (Failure::Timeout, "no answer for 30 s"),
            Knock::Dead | Knock::Open => (Failure::Network, "connection refused"),
        };
        if failure == Failure::TooMany {
            self.measure.throttled(self.now);
        }
        let took = Duration::from_nanos(self.now - connection.began);
        let (others, at) = (self.open + self.opening, self.at());
        if let Some(controller) = self.hand.controller() {
            let heard = controller.refused(&Refused { failure, reply, others, open: self.open, took }, at);
            self.measure.changed(self.now, heard.changes);
        }
    }

    fn on_reply(&mut self, place: usize) {
        let at = self.at();
        let Some(Some(connection)) = self.connections.get_mut(place) else { return };
        let count = connection.count;
        let Some((message, sent, verdict)) = connection.out.take() else { return };
        let signal = self.signals.of(verdict.reply);
        // Without a controller only what plainly is about the message is.
        let mut is_throttle = signal != Signal::Neutral && (signal != Signal::Unknown || verdict.is_closed);
        if let Some(controller) = self.hand.controller() {
            let latency = Duration::from_nanos(self.now - sent);
            let Verdict { reply, is_closed, .. } = verdict;
            let answer = Answer { signal, reply, count, is_closed, latency, rest: None };
            let heard = controller.replied(&answer, self.open, at);
            is_throttle = heard.is_throttle;
            self.measure.changed(self.now, heard.changes);
        }
        if verdict.is_throttle {
            self.measure.throttled(self.now);
        }
        match signal {
            Signal::Accepted => self.measure.accepted(self.now, message),
            // Permanent.
            _ if verdict.reply.starts_with('5') => {}
            _ if !is_throttle => self.lines.defer(message, self.now, &mut self.chance),
            _ if signal.is_guess() && message.guesses >= MOST_GUESSES => {
                self.lines.defer(message, self.now, &mut self.chance);
            }
            _ => self.lines.back(Message { guesses: message.guesses + u8::from(signal.is_guess()), ..message }),
        }
        let (most, limit) = match self.hand.controller() {
            Some(controller) => (controller.messages_per_connection(at), controller.connection_limit(at)),
            None => (None, MOST_CONNECTIONS),
        };
        if verdict.is_closed || most.is_some_and(|most| count >= most) || self.open > limit {
            self.close(place);
        } else {
            self.idle.push(place);
        }
    }

    fn close(&mut self, place: usize) {
        if let Some(slot) = self.connections.get_mut(place) {
            *slot = None;
        }
        self.free.push(place);
        self.open -= 1;
        self.receiver.closed();
        let at = self.at();
        if let Some(controller) = self.hand.controller() {
            let changes = controller.closed(None, at);
            self.measure.changed(self.now, changes);
        }
    }

    /// Sends all that may go, and opens what connections it is worth.
    fn pump(&mut self) {
        self.lines.arrive(self.now);
        while self.lines.has_work() {
            let at = self.at();
            if let Err(until) = self.hand.may_send(self.now, at) {
                self.wake_at(until);
                break;
            }
            match self.idle.pop() {
                Some(place) => self.send(place, at),
                None if !self.open(at) => break,
                None => {}
            }
        }
        let next = self.lines.next_arrival();
        if next < self.arrival {
            self.arrival = next;
            self.push(next.max(self.now), Event::Arrival);
        }
    }

    fn wake_at(&mut self, until: Option<Instant>) {
        let Some(until) = until else { return };
        let until = nanos(until.saturating_duration_since(self.origin)).max(self.now + 1);
        if until < self.wake {
            self.wake = until;
            self.push(until, Event::Wake);
        }
    }

    fn send(&mut self, place: usize, at: Instant) {
        let Some(message) = self.lines.draw(self.now) else { return };
        let Some(Some(connection)) = self.connections.get_mut(place) else { return };
        let before = connection.count;
        let verdict = match self.lines.is_refused(message.tenant) {
            true => self.receiver.refuse_content(self.now, &mut self.chance),
            false => self.receiver.message(before, message.first, self.now, &mut self.chance),
        };
        connection.count += 1;
        connection.out = Some((message, self.now, verdict));
        self.hand.send(hidden(self.profile, self.receiver.rate_at(self.now)), self.now, at);
        self.measure.sent(self.now, before + 1);
        self.push(verdict.at, Event::Reply(place));
        self.arm_tick();
    }

    /// Opens a connection if it may; whether to look for more.
    fn open(&mut self, at: Instant) -> bool {
        let all = self.open + self.opening;
        if usize::try_from(self.opening).unwrap_or(usize::MAX) >= self.lines.waiting() {
            return false;
        }
        match self.hand.controller() {
            Some(controller) => {
                if let Err(wait) = controller.may_open(all, at) {
                    self.wake_at(wait.until);
                    return false;
                }
                controller.opening(at);
            }
            None if all >= MOST_CONNECTIONS || self.opening >= 20 => return false,
            None => {}
        }
        let (knock, takes) = self.receiver.knock(&mut self.chance);
        let connection = Connection { count: 0, began: self.now, knock, out: None };
        let place = self.free.pop().unwrap_or(self.connections.len());
        match self.connections.get_mut(place) {
            Some(slot) => *slot = Some(connection),
            None => self.connections.push(Some(connection)),
        }
        self.opening += 1;
        self.measure.opening(self.now, self.open + self.opening);
        let event = if knock == Knock::Open { Event::Opened(place) } else { Event::Failed(place) };
        self.push(self.now + takes, event);
        self.arm_tick();
        true
    }
}
