//! The rate: measure it when the receiver refuses, hold just below it, and seldom probe above it.
//!
//! | phase | rate | ends by |
//! |---|---|---|
//! | start | grows by half every 10 s of full use | a refusal: the limit is what was taken in the last minute |
//! | hold | a little below the measured limit | a refusal: the limit fell; the time of the next probe |
//! | probe | one step above the measured limit | a refusal: it holds; a minute without: it rose, the next step is larger |
//!
//! What is measured: a receiver that counts by the minute, by the clock's or the last one, has taken at most as many
//! messages in our last minute as its limit when it refuses, so that count is an upper bound, and exact for one kind. For
//! a bucket that was empty at the last refusal too, what was taken in between over that time is exact.

use super::change::{Change, Changes, PerMinute, What};
use super::settings::LEAST_RATE;
use super::time::{HOUR, MINUTE, SECOND, Time, from_seconds, seconds};

/// Two messages a second are nothing that a receiver minds, and a hundred a second are reached within two minutes.
pub(super) const FIRST: f64 = 2.0;
/// Growth of the start, every tick.
const GROWTH: f64 = 1.5;
/// The same above this rate, where several messages are on their way when the first one is refused.
const SLOWER_GROWTH: f64 = 1.3;
const FAST: f64 = 10.0;
/// Behind a refusal: what the receiver counts has to leave its window first.
const CAREFUL: f64 = 0.95;
/// Held later.
const SHARE: f64 = 0.985;
/// How long a refusal's careful rate lasts.
const SETTLE: Time = MINUTE;
/// The first step of a probe, and the least and the largest.
const STEP: f32 = 0.05;
const LEAST_STEP: f32 = 0.02;
const LARGEST_STEP: f32 = 0.5;
/// Steps from this on are a climb: what is above the old limit is unknown ground.
const CLIMB: f32 = 0.2;
/// A step has held when a whole minute saw it.
const HELD: Time = 70 * SECOND;
/// A climb goes on sooner.
const CLIMBED: Time = 30 * SECOND;
/// The longest time that a step has to hold is four times that.
const MOST_PATIENCE: u8 = 2;
/// A message a second: with fewer of them each refusal weighs more.
const FEW: f64 = 1.0;
/// Before the first probe, and the bounds of its growth: a probe costs about one refusal, which a thousand messages pay.
const GAP: Time = 2 * MINUTE;
const LEAST_LONGEST_GAP: Time = 8 * MINUTE;
const LONGEST_GAP: Time = 60 * MINUTE;
const MESSAGES_A_PROBE: f64 = 1000.0;
/// A limit that is so much away from what it was has moved.
const MOVED: f64 = 0.15;
/// Where a probe may cost a rest of half an hour.
const WARY_GAP: Time = 2 * HOUR;
/// The same after one that held.
const WARY_HELD_GAP: Time = 30 * MINUTE;
/// A refusal so soon after another tells the rate between them.
const RECENT: Time = 3 * MINUTE;
/// No count by the minute refuses for longer.
const MINUTE_IS_OVER: Time = 70 * SECOND;

/// How the rate came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No limit is known yet.
    Start,
    /// Below the known limit.
    Hold,
    /// Above the known limit.
    Probe,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 3] = [Self::Start, Self::Hold, Self::Probe];

    /// As metrics and tables show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Hold => "hold",
            Self::Probe => "probe",
        }
    }
}

/// What was taken in the last minute and in this minute of the clock, at a refusal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub last: u32,
    pub of_clock: u32,
}

/// What the last ticks saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// The allowance was used up.
    pub is_used: bool,
    /// Messages that counted, a second, in the last half minute.
    pub taken: f64,
    /// Some replies may have been refusals that do not say so.
    pub is_doubtful: bool,
    /// Refusals are expensive here.
    pub is_wary: bool,
    /// What an operator and the configuration allow: nothing is learnt about more.
    pub most: f64,
}

/// The regulator.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    pub phase: Phase,
    /// Messages a second.
    pub rate: f64,
    /// The measured limit; 0: none.
    pub hat: f64,
    pub step: f32,
    pub gap: Time,
    since: Time,
    pub next_probe: Time,
    /// The last refusal; 0: none.
    refused: Time,
    /// Taken in that clock minute before it.
    of_clock: u32,
    /// Taken since.
    pub taken: u32,
    /// The limit before the gate was shut.
    before: f64,
    /// The limit when the gap was set last: probes that lead nowhere are made more and more seldom.
    anchor: f64,
    /// How often in a row a probe held that was refused later: a bucket paid for it. Probes last longer then.
    patience: u8,
    /// A probe held since the last refusal.
    has_held: bool,
    /// Until then the receiver may count what went before a restart, and no count of ours bounds its limit.
    pub blind_until: Time,
    /// Refusals in a row below the limit that was measured by the one before.
    pub in_a_row: u8,
    /// The limit when a change was told last.
    told: f64,
}

impl Rate {
    pub fn new(now: Time) -> Self {
        Self {
            phase: Phase::Start,
            rate: FIRST,
            hat: 0.0,
            step: STEP,
            gap: GAP,
            since: now,
            next_probe: now,
            refused: 0,
            of_clock: 0,
            taken: 0,
            before: 0.0,
            anchor: 0.0,
            patience: 0,
            has_held: false,
            blind_until: 0,
            in_a_row: 0,
            told: 0.0,
        }
    }

    /// Goes on with what is known: settled, and not long after a refusal.
    pub fn wake(&mut self, phase: Phase, rate: f64, hat: f64, gap: Time, next_probe: Time) {
        (self.phase, self.hat, self.gap, self.next_probe) = (phase, hat, gap, next_probe.max(self.since + SETTLE));
        (self.anchor, self.before, self.told) = (hat, hat, hat);
        self.rate = if rate > 0.0 { rate.max(LEAST_RATE) } else { FIRST };
    }

    /// Goes on with a rate that an operator gives, below this limit, or without one (0): held, or grown from there.
    pub fn set(&mut self, rate: f64, hat: f64, now: Time) {
        (self.rate, self.since, self.step, self.has_held) = (rate.max(LEAST_RATE), now, STEP, false);
        self.hat = hat;
        if hat > 0.0 && rate.is_finite() {
            (self.phase, self.next_probe) = (Phase::Hold, now + self.gap + SETTLE);
        } else {
            (self.phase, self.hat) = (Phase::Start, 0.0);
        }
        (self.anchor, self.before, self.told) = (self.hat, self.hat, self.hat);
    }

    /// Whether nothing has been learnt, and hardly anything asked for.
    pub fn is_blank(&self) -> bool {
        self.phase == Phase::Start
            && self.hat == 0.0
            && self.refused == 0
            && !(self.rate > FIRST && self.rate.is_finite())
    }

    /// A refusal while the gate was open.
    pub fn refused(&mut self, taken: Taken, is_wary: bool, reply: &str, now: Time, out: &mut Changes) {
        let from = self.rate;
        // Where it began without a limit, a minute may not be over, and what went was all that it takes.
        let span = if self.rate.is_finite() { 60.0 } else { seconds(now.saturating_sub(self.since)).clamp(1.0, 60.0) };
        let measured = f64::from(taken.last) / span;
        let how = match self.phase {
            Phase::Start if taken.last < 3 || self.is_blind(now) => {
                self.note(taken, now);
                if !self.rate.is_finite() {
                    self.rate = FIRST;
                    return self.tell(
                        from,
                        format!("a first rate, refused before anything was measured ({reply})"),
                        out,
                    );
                }
                self.rate = (self.rate / 2.0).max(LEAST_RATE);
                return self.tell(from, format!("half of it, refused before anything was measured ({reply})"), out);
            }
            Phase::Start => {
                (self.hat, self.step) = (measured, CLIMB);
                "taken in the minute before"
            }
            Phase::Probe => self.probe_refused(measured),
            Phase::Hold if is_wary => self.hold_refused_warily(taken),
            Phase::Hold if self.is_blind(now) => "known from before a restart, behind which no count is whole yet",
            Phase::Hold => self.hold_refused(measured, taken, now),
        };
        self.space(from);
        if is_wary {
            (self.step, self.gap) = (LEAST_STEP, WARY_GAP);
        }
        self.hat = self.hat.max(LEAST_RATE);
        (self.phase, self.since, self.before) = (Phase::Hold, now, self.hat);
        self.rate = (CAREFUL * self.hat).max(LEAST_RATE);
        self.next_probe = now + self.gap + SETTLE;
        self.note(taken, now);
        self.tell(from, format!("{CAREFUL} x {} {how} ({reply})", PerMinute(self.hat)), out);
    }

    fn note(&mut self, taken: Taken, now: Time) {
        let of_clock = if self.is_blind(now) { 0 } else { taken.of_clock };
        (self.refused, self.of_clock, self.taken) = (now, of_clock, 0);
    }

    /// Whether a restart is so near that no count is whole.
    pub fn is_blind(&self, now: Time) -> bool {
        now < self.blind_until
    }

    /// Whether it has been refused since it began.
    pub fn has_been_refused(&self) -> bool {
        self.refused != 0
    }

    /// The time until the next probe after a refusal: short where the limit has just moved, else twice the one before.
    fn space(&mut self, rate: f64) {
        let longest = from_seconds(MESSAGES_A_PROBE / rate).clamp(LEAST_LONGEST_GAP, LONGEST_GAP);
        let has_moved = (self.hat - self.anchor).abs() > MOVED * self.anchor;
        if has_moved {
            self.patience = 0;
        } else if self.has_held {
            self.patience = (self.patience + 1).min(MOST_PATIENCE);
        }
        self.has_held = false;
        if self.phase == Phase::Probe || has_moved {
            self.gap = if has_moved { GAP } else { (self.gap * 2).min(longest) };
            self.anchor = self.hat;
        }
    }

    fn probe_refused(&mut self, measured: f64) -> &'static str {
        if self.step >= CLIMB {
            self.hat = measured.clamp(self.hat, self.rate);
            self.step = STEP;
            return "taken in the minute before";
        }
        self.hat = self.hat.min(measured);
        self.step = (self.step / 2.0).max(LEAST_STEP);
        "held, a probe above it was refused"
    }

    /// Another refusal may cost half an hour: rather too low than too high.
    fn hold_refused_warily(&mut self, taken: Taken) -> &'static str {
        let of_clock = f64::from(taken.of_clock) / 60.0;
        self.hat = of_clock.clamp(self.rate / 2.0, self.rate * 0.95);
        "taken in this minute, and no more while refusals are expensive"
    }

    fn hold_refused(&mut self, measured: f64, taken: Taken, now: Time) -> &'static str {
        let old = self.hat;
        let span = now.saturating_sub(self.refused);
        self.step = STEP;
        let mut how = "after a refusal at a rate that had held";
        self.hat *= 0.9;
        self.in_a_row = if span < RECENT { self.in_a_row.saturating_add(1) } else { 0 };
        if span < RECENT {
            let is_other_minute = now / MINUTE != self.refused / MINUTE;
            let near = taken.of_clock.abs_diff(self.of_clock) <= (taken.of_clock / 100).max(1);
            let is_likely = taken.of_clock >= 15 && f64::from(taken.of_clock) / 60.0 > old / 2.0;
            if is_other_minute && near && is_likely {
                self.hat = f64::from(taken.of_clock) / 60.0;
                how = "taken in each of two clock minutes";
            } else if span >= 8 * SECOND && self.taken >= 8 {
                self.hat = (f64::from(self.taken) / seconds(span)).clamp(old * 0.4, old * 0.97);
                how = "taken between two refusals";
            }
        }
        if measured < self.hat {
            self.hat = measured.max(old / 4.0);
            how = "taken in the minute before";
        }
        how
    }

    /// A refusal of the message that tried.
    pub fn still_refused(&mut self, taken: Taken, shut: Time, now: Time) {
        self.note(taken, now);
        if self.phase == Phase::Start {
            return;
        }
        let measured = f64::from(taken.last) / 60.0;
        self.hat = match now.saturating_sub(shut) < MINUTE_IS_OVER && !self.is_blind(now) {
            true => self.hat.min(measured).max(self.before / 4.0),
            false => self.before,
        };
        self.rate = (CAREFUL * self.hat).max(LEAST_RATE);
    }

    /// The gate has opened.
    pub fn gate_opened(&mut self, reply: &str, now: Time, out: &mut Changes) {
        // The rate that was told last.
        let from = CAREFUL * self.before;
        self.since = now;
        if self.phase == Phase::Start {
            return;
        }
        self.next_probe = self.next_probe.max(now + self.gap + SETTLE);
        let hat = PerMinute(self.hat);
        self.tell(from, format!("{CAREFUL} x {hat} taken in the minute of the last refusal ({reply})"), out);
    }

    /// The breaker has closed: half, and up again slowly.
    pub fn resume(&mut self, now: Time) {
        if !self.rate.is_finite() {
            self.rate = FIRST;
        }
        if self.hat == 0.0 {
            (self.hat, self.rate) = (self.rate, self.rate / 2.0);
        }
        self.hat = (self.hat * 0.95).max(LEAST_RATE);
        self.rate = (self.hat * 0.5).max(LEAST_RATE);
        (self.phase, self.since, self.gap, self.step) = (Phase::Hold, now, WARY_GAP, LEAST_STEP);
        self.next_probe = now + WARY_GAP;
    }

    /// Looked at every ten seconds of work.
    pub fn tick(&mut self, usage: Usage, reply: &str, now: Time, out: &mut Changes) {
        let Usage { taken, is_doubtful, is_wary, most, .. } = usage;
        // Whatever is used then is less than it.
        let is_used = usage.is_used && self.rate <= most;
        let (from, aim) = (self.rate, SHARE * self.hat);
        let age = now.saturating_sub(self.since);
        let how = match self.phase {
            Phase::Start if is_used && self.rate.is_finite() => {
                let growth = if self.rate < FAST { GROWTH } else { SLOWER_GROWTH };
                self.rate = (self.rate * growth).min(most);
                let more = (self.rate / from - 1.0) * 100.0;
                format!("{more:.0} % more, no limit is known yet and all of it was used")
            }
            Phase::Hold if age >= SETTLE && self.rate < aim => {
                self.since = now;
                self.rate = if self.rate < 0.9 * aim { (self.rate + 0.1 * aim).min(aim) } else { aim };
                format!("{SHARE} x {}, measured when the receiver said: {reply}", PerMinute(self.hat))
            }
            Phase::Hold if is_used && now >= self.next_probe && self.hat > 0.0 && self.hat < most => {
                (self.phase, self.since) = (Phase::Probe, now);
                self.rate = (self.hat * (1.0 + f64::from(self.step))).min(most);
                format!("probe {:.0} % above {}, measured when: {reply}", self.step * 100.0, PerMinute(self.hat))
            }
            Phase::Probe if !is_used => {
                self.since = self.since.max(now.saturating_sub(HELD / 2));
                return;
            }
            Phase::Probe if age >= self.long_enough() => {
                let held = self.rate;
                if is_doubtful && taken < self.hat * (1.0 + f64::from(self.step) / 2.0) {
                    return self.fruitless(from, now, out);
                }
                self.hat = held.min(1.02 * taken).max(self.hat);
                self.step = (self.step * 2.0).min(LARGEST_STEP);
                (self.since, self.has_held) = (now, true);
                if is_wary {
                    self.phase = Phase::Hold;
                    self.next_probe = now + WARY_HELD_GAP;
                    self.rate = SHARE * self.hat;
                    let how = format!("{SHARE} x {} that held, refusals are expensive here", PerMinute(self.hat));
                    return self.tell(from, how, out);
                }
                if self.hat >= most {
                    self.phase = Phase::Hold;
                    self.rate = most;
                    let how = format!("{} held, and no more is allowed", PerMinute(held));
                    return self.tell(from, how, out);
                }
                self.rate = (self.hat * (1.0 + f64::from(self.step))).min(most);
                format!("the limit is higher: {} held, {:.0} % more is tried", PerMinute(held), self.step * 100.0)
            }
            _ => return,
        };
        self.tell(from, how, out);
    }

    /// How long a step has to hold.
    fn long_enough(&self) -> Time {
        let is_beyond = self.hat > self.anchor * (1.0 + MOVED);
        if self.step >= CLIMB && (is_beyond || self.patience == 0) {
            CLIMBED
        } else if self.step >= 2.0 * STEP && self.hat > FEW {
            HELD
        } else {
            HELD << self.patience
        }
    }

    /// A probe after which no more is taken: what does not say so were refusals.
    fn fruitless(&mut self, from: f64, now: Time, out: &mut Changes) {
        self.step = (self.step / 2.0).max(LEAST_STEP);
        self.space(from);
        (self.phase, self.since) = (Phase::Hold, now);
        self.rate = CAREFUL * self.hat;
        self.next_probe = now + self.gap + SETTLE;
        self.tell(from, format!("{CAREFUL} x {}, above which no more was taken", PerMinute(self.hat)), out);
    }

    fn tell(&mut self, from: f64, how: String, out: &mut Changes) {
        if (from - self.rate).abs() < 0.001 * from {
            return;
        }
        let reason = format!("rate {} = {how}", PerMinute(self.rate));
        let told = |rate: f64| rate.is_finite().then_some(rate * 60.0);
        let before = std::mem::replace(&mut self.told, self.hat);
        let limit_before = (before > 0.0).then_some(before * 60.0);
        out.push(Change { what: What::Rate, from: told(from), to: told(self.rate), limit_before, reason });
    }
}
