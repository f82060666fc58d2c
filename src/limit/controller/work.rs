//! A path at work: the regulators, the gate and what the last minute was like. See the module above for its use.

use std::time::{Duration, Instant};

use super::busy::{Busy, QUIET};
use super::cap::Cap;
use super::change::{Cause, Change, Changes, Wait, What};
use super::connections::{Connections, Load};
use super::evidence::{Answer, End, Failure, Heard, Refused, Signal};
use super::gate::{Gate, Standing};
use super::messages::Messages;
use super::pace::Pace;
use super::rate::{Phase, Rate, Taken, Usage};
use super::settings::{Ceilings, Orders};
use super::strains::Strains;
use super::time::{self, DAY, Epoch, HOUR, MINUTE, SECOND, Time, nanos, seconds};

/// Between two looks at a busy path.
const TICK: Time = 10 * SECOND;
/// The first rest of the breaker. Blocks of half an hour are the usual ones, and a try during them may restart them.
const REST: Time = 31 * MINUTE;
const LONGEST_REST: Time = 4 * HOUR;
/// A path of which nothing has been learnt is quiet after this.
const SOON_QUIET: Time = 15 * SECOND;
/// So much of the allowance in use makes it what limits us.
const USED: f64 = 0.85;
/// So much of it, when most messages had to wait for the pace.
const STRETCHED: f64 = 0.4;
/// Below this it is something else that does.
const SHORT: f64 = 0.95;
/// Where refusals are expensive, tries are counted over some minutes: the next one comes when this one is forgotten.
const WARY_PAUSE: Time = 5 * MINUTE + 5 * SECOND;
/// Refusals in a row below a rate that was just measured.
const MINDS_BURSTS: u8 = 3;
/// Stands for a reply that is forgotten, since the path was quiet or the daemon restarted.
const EARLIER: &str = "what it said is forgotten since a quiet time or a restart";
/// Longer replies are cut for reasons.
const REPLY: usize = 160;

/// A path at work.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub epoch: Epoch,
    pub ceilings: Ceilings,
    pub orders: Orders,
    pub rate: Rate,
    pub pace: Pace,
    pub gate: Gate,
    pub connections: Connections,
    pub messages: Messages,
    pub strains: Strains,
    pub cap: Cap,
    /// When the breaker tripped last.
    pub tripped: Time,
    /// How often in the last day; more than 0: refusals are expensive here.
    pub trips: u8,
    /// Rests in a row that were too short.
    pub rests: u8,
    /// Paces new connections.
    openings: Pace,
    in_flight: u32,
    /// When the receiver refuses, it says so, or closes the connection: other replies are about something else.
    pub is_outspoken: bool,
    /// It has refused in words that do not say why.
    pub is_opaque: bool,
    /// State of the pauses' jitter.
    pub seed: u32,
    /// The reply that the learnt rate comes from.
    pub reply: Option<Box<str>>,
    busy: Busy,
}

impl Work {
    /// One that knows nothing.
    pub fn new(ceilings: Ceilings, orders: Option<Orders>, seed: u32, epoch: Epoch, now: Instant) -> Self {
        Self {
            epoch,
            ceilings,
            orders: orders.unwrap_or_default(),
            rate: Rate::new(epoch.time(now)),
            pace: Pace::default(),
            gate: Gate::new(),
            connections: Connections::new(),
            messages: Messages::default(),
            strains: Strains::default(),
            cap: Cap::default(),
            tripped: 0,
            trips: 0,
            rests: 0,
            openings: Pace::default(),
            in_flight: 0,
            is_outspoken: false,
            is_opaque: false,
            seed,
            reply: None,
            busy: Busy::new(epoch.time(now)),
        }
    }

    /// Whether a message may go now.
    pub fn may_send(&mut self, now: Instant) -> Result<(), Wait> {
        let now = self.epoch.time(now);
        let wait = |epoch: &Epoch, cause, until| Wait { cause, until: epoch.instant(until) };
        match self.gate.standing(now) {
            Standing::Open | Standing::HalfOpen => {}
            Standing::Paused => {
                let cause = if self.gate.is_breaker { Cause::Breaker } else { Cause::Pause };
                return Err(wait(&self.epoch, cause, self.gate.until));
            }
            Standing::Tried => return Err(Wait { cause: Cause::Gate, until: None }),
        }
        let limit = match self.cap.pace(now) {
            Ok(spread) => self.allowed().min(spread),
            Err(until) => return Err(wait(&self.epoch, Cause::Cap, until)),
        };
        if let Err(until) = self.pace.look(self.attempts(limit), now) {
            self.busy.paced += 1;
            return Err(wait(&self.epoch, Cause::Rate, until));
        }
        let most = time::whole((limit * 60.5).ceil());
        let busy = &mut self.busy;
        if busy.counts.total(now) < most.max(1) {
            return Ok(());
        }
        Err(wait(&self.epoch, Cause::Rate, busy.counts.below(most.max(1), now)))
    }

    /// A message goes, as [`Self::may_send`] allowed.
    pub fn send(&mut self, now: Instant) {
        let now = self.epoch.time(now);
        let limit = self.allowed().min(self.cap.pace(now).unwrap_or(f64::INFINITY));
        self.pace.commit(self.attempts(limit), now);
        self.gate.sent(now);
        self.cap.add(now);
        self.in_flight += 1;
        let busy = &mut self.busy;
        busy.counts.add(now);
        busy.attempts += 1;
        busy.sent = now;
    }

    /// It did not go after all: there was none, or the connection was lost before the receiver saw it.
    pub fn unsent(&mut self, now: Instant) {
        let now = self.epoch.time(now);
        self.pace.refund(self.attempts(self.allowed()));
        self.gate.unsent();
        self.cap.remove();
        self.in_flight = self.in_flight.saturating_sub(1);
        self.busy.counts.remove(now, now);
        self.busy.attempts = self.busy.attempts.saturating_sub(1);
    }

    /// Whether the next message may be sent before the reply to the one before it has come.
    pub fn may_look_ahead(&self, now: Instant) -> bool {
        self.gate.standing(self.epoch.time(now)) == Standing::Open && self.rate.phase != Phase::Probe
    }

    /// The reply to a message; `open` connections are established, its own included.
    pub fn replied(&mut self, answer: &Answer<'_>, open: u32, now: Instant) -> Heard {
        let now = self.epoch.time(now);
        let sent = now.saturating_sub(nanos(answer.latency));
        let mut out = Changes::new();
        let is_throttle = self.heard(answer, open, (sent, now), &mut out);
        Heard { changes: out, is_throttle }
    }

    /// Takes in a reply; whether it is a refusal because of a limit.
    fn heard(&mut self, answer: &Answer<'_>, open: u32, (sent, now): (Time, Time), out: &mut Changes) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        let busy = &mut self.busy;
        if answer.signal == Signal::Accepted {
            busy.accepted(answer.latency);
            self.strains.accepted();
            self.rate.taken = self.rate.taken.saturating_add(1);
            if self.gate.is_trial(sent) {
                self.gate_opened(now, out);
            }
            return false;
        }
        busy.counts.remove(sent, now);
        self.cap.remove();
        match answer.signal {
            Signal::Accepted => return false,
            Signal::Neutral => {
                busy.neutral += 1;
                if self.gate.is_trial(sent) {
                    self.gate_opened(now, out);
                }
                return false;
            }
            Signal::Unknown => {
                let is_alarm = busy.unknown(self.is_outspoken, self.rate.phase == Phase::Hold, self.trips > 0);
                self.is_outspoken |= answer.is_closed;
                let is_trial = self.gate.is_trial(sent);
                // What was on its way when the gate was shut is refused for the same reason as what shut it.
                let is_silent = self.gate.is_shut() && !self.is_outspoken;
                if !(answer.is_closed || is_alarm || is_silent) {
                    if is_trial {
                        self.gate_opened(now, out);
                    }
                    // Where that is how limits are told, it is the likelier reason, too few for anything else.
                    return self.is_opaque;
                }
                self.is_opaque = true;
                self.throttled(answer, sent, now, out);
            }
            // While the gate is shut no other reason is likelier than the one that shut it.
            Signal::Strained if !self.gate.is_shut() && !self.strains.felt(now) => return false,
            Signal::Strained => self.throttled(answer, sent, now, out),
            Signal::Rate => {
                self.is_outspoken = true;
                self.throttled(answer, sent, now, out);
            }
            Signal::MessagesPerConnection => {
                self.messages.refused(answer.count, cut(answer.reply), now, out);
                self.gate.unsent();
            }
            Signal::Connections => {
                self.connections.refused(open.saturating_sub(1), cut(answer.reply), now, out);
                self.gate.unsent();
            }
            Signal::Reputation => self.trip(answer.reply, answer.rest, now, out),
        }
        true
    }

    fn gate_opened(&mut self, now: Time, out: &mut Changes) {
        let (since, was_breaker) = (self.gate.since, self.gate.is_breaker);
        self.gate.open();
        let reply = self.reply.as_deref().unwrap_or_default();
        if was_breaker {
            self.rate.resume(now);
            let reason = format!("closed: a message was accepted again; it had tripped by: {reply}");
            let from = Some(seconds(now - since));
            out.push(Change { what: What::Breaker, from, to: None, limit_before: None, reason });
        } else {
            self.cap.gate_opened(since, now, reply, out);
            self.rate.gate_opened(reply, now, out);
        }
        self.pace.slow_down(self.attempts(self.allowed()), now);
    }

    /// A refusal because of the rate.
    fn throttled(&mut self, answer: &Answer<'_>, sent: Time, now: Time, out: &mut Changes) {
        let busy = &mut self.busy;
        busy.calm();
        if self.gate.is_shut() && !self.gate.is_trial(sent) {
            // It was on its way when the gate was shut.
            return;
        }
        // Those that were sent after this one are counted still, and will be refused too.
        let later = time::whole(self.rate.rate * answer.latency.as_secs_f64());
        let less = |count: u32| count.saturating_sub(later.min(self.in_flight));
        let is_blind_again = self.rate.is_blind(now) && self.rate.has_been_refused();
        let taken = Taken { last: less(busy.counts.total(now)), of_clock: less(busy.counts.of_clock_minute(now)) };
        if self.gate.is_shut() {
            self.rate.still_refused(taken, self.gate.since, now);
        } else {
            let reply = cut(answer.reply);
            self.rate.refused(taken, self.trips > 0, reply, now, out);
            // A rate that is refused however low it is minds how it comes.
            self.pace.is_tight |= self.rate.in_a_row >= MINDS_BURSTS;
            self.reply = Some(reply.into());
        }
        let factor = self.jitter();
        self.gate.shut(now, factor);
        if self.trips > 0 {
            self.gate.until = self.gate.until.max(now + WARY_PAUSE);
        }
        if is_blind_again {
            self.gate.until = self.gate.until.max(self.rate.blind_until);
        }
        if let Some(rest) = answer.rest {
            self.gate.until = self.gate.until.max(now + nanos(rest));
        }
    }

    /// We as such are refused: a rest.
    fn trip(&mut self, reply: &str, rest: Option<Duration>, now: Time, out: &mut Changes) {
        if self.gate.is_breaker && now < self.gate.until {
            return;
        }
        // A block that had ended is as long as the one before; one that had not is longer than thought.
        self.rests = if self.gate.is_breaker { self.rests.saturating_add(1).min(8) } else { 0 };
        self.trips = self.trips.saturating_add(1);
        self.tripped = now;
        let usual = (REST << self.rests).min(LONGEST_REST);
        // Only ever longer: a try before its end may restart a block.
        let spread = time::from_seconds(seconds(usual) * (self.jitter() - 0.9) / 4.0);
        let rest = rest.map_or(usual, nanos).saturating_add(spread);
        self.gate.rest(now, now + rest);
        let reply = cut(reply);
        self.reply = Some(reply.into());
        let reason = format!("the site rests for {} min: the receiver refuses us ({reply})", rest / MINUTE);
        let to = Some(seconds(rest));
        out.push(Change { what: What::Breaker, from: None, to, limit_before: None, reason });
    }

    /// Whether nothing has gone for so long that only what was learnt is worth keeping.
    pub fn is_quiet(&self, is_waiting: bool, now: Instant) -> bool {
        let now = self.epoch.time(now);
        // A gate that has been half open for so long tells nothing any more.
        let is_free = !self.gate.is_shut() || now > self.gate.until.saturating_add(QUIET);
        let is_free = is_free && now >= self.connections.open_after;
        // Most sites get a message now and then: nothing has been learnt of them, and the memory is worth more.
        let is_blank = self.rate.is_blank() && self.connections.hat == 0 && self.messages.limit == 0 && self.trips == 0;
        let patience = if is_blank { SOON_QUIET } else { QUIET };
        !is_waiting && is_free && self.in_flight == 0 && now.saturating_sub(self.busy.sent) > patience
    }

    /// Between 0.9 and 1.1.
    fn jitter(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        0.9 + f64::from(self.seed >> 8) / f64::from(1 << 24) * 0.2
    }

    /// Whether one more connection may be opened beside `open` that are open or being opened.
    pub fn may_open(&mut self, open: u32, now: Instant) -> Result<(), Wait> {
        let time = self.epoch.time(now);
        let wait = |cause, until| Err(Wait { cause, until });
        if let Standing::Paused = self.gate.standing(time)
            && self.gate.is_breaker
        {
            return wait(Cause::Breaker, self.epoch.instant(self.gate.until));
        }
        if open >= self.connection_limit() {
            self.busy.was_full = true;
            return wait(Cause::Connections, None);
        }
        if open >= self.need() {
            return wait(Cause::Connections, None);
        }
        if time < self.connections.open_after {
            return wait(Cause::Openings, self.epoch.instant(self.connections.open_after));
        }
        match self.openings_a_second().map(|rate| self.openings.look(rate, time)) {
            Some(Err(until)) => wait(Cause::Openings, self.epoch.instant(until)),
            _ => Ok(()),
        }
    }

    /// Work waits while `open` connections, all that there are, are busy.
    pub fn short_of_connections(&mut self, open: u32, now: Instant) {
        if !self.busy.was_full && open >= self.connection_limit() && self.may_send(now).is_ok() {
            self.busy.was_full = true;
        }
    }

    /// A connection is being opened, as [`Self::may_open`] allowed.
    pub fn opening(&mut self, now: Instant) {
        let time = self.epoch.time(now);
        if let Some(rate) = self.openings_a_second() {
            self.openings.commit(rate, time);
        }
    }

    /// A connection is open after `took`, beside `others` that are open too.
    pub fn opened(&mut self, others: u32, took: Duration, now: Instant) -> Changes {
        let mut out = Changes::new();
        self.busy.opened(took);
        self.connections.opened(others, self.epoch.time(now), &mut out);
        out
    }

    /// A connection did not come about.
    pub fn refused(&mut self, refused: &Refused<'_>, now: Instant) -> Heard {
        let now = self.epoch.time(now);
        let mut out = Changes::new();
        let reply = cut(refused.reply);
        let busy = &mut self.busy;
        let is_timeout = refused.failure == Failure::Timeout;
        let is_frequent = refused.failure != Failure::TooMany && busy.failed(refused.took, is_timeout);
        let (connections, others) = (&mut self.connections, refused.others);
        let is_throttle = match refused.failure {
            Failure::Unsaid if refused.open == 0 => false,
            // Beside connections that stand, one that is refused without a reason is one too many.
            Failure::TooMany | Failure::Unsaid => {
                connections.refused(others, reply, now, &mut out);
                true
            }
            Failure::Closed => connections.cut_off(others, refused.open > 0, reply, now, &mut out),
            Failure::Reputation => {
                self.trip(refused.reply, None, now, &mut out);
                true
            }
            Failure::Timeout => {
                connections.timed_out(others, is_frequent, reply, &mut out);
                false
            }
            Failure::Network => false,
        };
        Heard { changes: out, is_throttle }
    }

    /// A connection has ended; `end`: the receiver ended it, not saying why.
    pub fn closed(&mut self, end: Option<End<'_>>, now: Instant) -> Changes {
        let now = self.epoch.time(now);
        let mut out = Changes::new();
        self.connections.closed(now);
        // What throttles by closing tells no count by it.
        if let Some(End { count, reply }) = end.filter(|_| !self.strains.is_usual) {
            self.messages.ended(count, reply.map(cut), now, &mut out);
        }
        out
    }

    /// The same, said by `reply` to message number `count`.
    pub fn used_up(&mut self, count: u32, reply: &str, now: Instant) -> Changes {
        let now = self.epoch.time(now);
        let mut out = Changes::new();
        self.connections.closed(now);
        self.messages.refused(count, cut(reply), now, &mut out);
        out
    }

    /// When the next tick is due.
    pub fn next_tick(&self) -> Option<Instant> {
        self.epoch.instant(self.busy.ticked + TICK)
    }

    /// Ten seconds of work are over, or more; `is_waiting`: there is work that could go at once.
    pub fn tick(&mut self, is_waiting: bool, now: Instant) -> Changes {
        let now = self.epoch.time(now);
        let mut out = Changes::new();
        let allowed = self.attempts(self.allowed());
        let busy = &mut self.busy;
        let span = seconds(now.saturating_sub(busy.ticked)).max(0.1);
        let throughput = f64::from(busy.attempts) / span;
        let was_full = busy.was_full;
        let was_paced = busy.paced > busy.attempts / 2;
        let is_doubtful = busy.has_unknown() && !self.is_outspoken;
        let latency = busy.turn(self.rate.phase != Phase::Probe, now);
        let taken = f64::from(busy.counts.of_last(60, now)) / 30.0;
        self.messages.tick(now, &mut out);
        if self.trips > 0 && now.saturating_sub(self.tripped) > DAY {
            self.trips = 0;
        }
        if self.gate.is_shut() {
            return out;
        }
        // Of few messages one may fall into the next tick.
        let is_used = throughput + if is_waiting { 1.0 / span } else { 0.0 } >= USED * allowed;
        // Few connections that open slowly send in bursts, which the pace stretches.
        let is_used = is_used || is_waiting && was_paced && throughput >= STRETCHED * allowed;
        let reply = self.reply.as_deref().unwrap_or(EARLIER);
        let usage = Usage { is_used, taken, is_doubtful, is_wary: self.trips > 0, most: self.most_rate() };
        self.rate.tick(usage, reply, now, &mut out);
        let is_growing = self.rate.phase == Phase::Start;
        let is_short = is_waiting && was_full && (throughput < SHORT * allowed || is_growing);
        let load = Load { is_short, throughput, latency, need: self.need(), most: self.most_connections() };
        self.connections.tick(load, now, &mut out);
        out
    }

    /// Messages a second, learnt and within an operator's bounds.
    pub fn allowed(&self) -> f64 {
        self.orders.rate.clamp(self.rate.rate)
    }

    /// What an operator and the configuration leave of any rate.
    fn most_rate(&self) -> f64 {
        let pinned = self.orders.rate.clamp(f64::INFINITY);
        self.ceilings.rate.map_or(pinned, |most| pinned.min(most))
    }

    /// The same of connections.
    fn most_connections(&self) -> u32 {
        time::whole(self.orders.connections.clamp(f64::INFINITY)).min(self.ceilings.connections)
    }

    /// The pace of attempts at which `limit` messages a second count, within the ceiling.
    fn attempts(&self, limit: f64) -> f64 {
        let rate = limit / (1.0 - self.busy.idle_share);
        self.ceilings.rate.map_or(rate, |most| rate.min(most))
    }

    fn openings_a_second(&self) -> Option<f64> {
        let most = self.ceilings.openings_per_minute;
        (most > 0).then(|| f64::from(most) / 60.0)
    }

    /// Connections allowed at the same time, whatever they are worth.
    pub fn connection_limit(&self) -> u32 {
        self.learnt_connections().min(self.ceilings.connections).max(1)
    }

    /// The same before the ceiling.
    pub fn learnt_connections(&self) -> u32 {
        time::whole(self.orders.connections.clamp(f64::from(self.connections.limit)))
    }

    /// Connections that the rate is worth (Little's law), with half as many again in reserve.
    fn need(&self) -> u32 {
        let rate = self.attempts(self.allowed());
        if !rate.is_finite() {
            return u32::MAX;
        }
        let opening = self.busy.opening;
        let latency = if self.busy.latency == 0.0 { 0.2 } else { self.busy.latency };
        let each = self.messages_per_connection().map_or(0.0, |most| opening / f64::from(most));
        time::whole(2.0 + 1.5 * rate * (latency + 0.05) + 1.2 * rate * each)
    }

    /// What is owed at an old ceiling is not waited for at the new one.
    pub fn forget_owed(&mut self) {
        self.pace.forget();
        self.openings.forget();
    }

    /// Connections that are worth having now, open and opening ones together.
    pub fn worth(&self) -> u32 {
        self.need().min(self.connection_limit())
    }

    /// Messages that one connection may carry.
    pub fn messages_per_connection(&self) -> Option<u32> {
        let learnt = if self.messages.limit == 0 { u32::MAX } else { self.messages.limit };
        let bounded = time::whole(self.orders.messages_per_connection.clamp(f64::from(learnt)));
        let ceiling = self.ceilings.messages_per_connection;
        let most = if ceiling == 0 { bounded } else { bounded.min(ceiling) };
        (most != u32::MAX).then_some(most.max(1))
    }
}

/// As much of a reply as a reason quotes.
fn cut(reply: &str) -> &str {
    let end = reply.char_indices().nth(REPLY).map_or(reply.len(), |(at, _)| at);
    reply.get(..end).unwrap_or(reply)
}
