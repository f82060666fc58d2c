//! Connections at the same time: as many as the rate needs, up to what the receiver was found to allow.
//!
//! A refusal tells the limit exactly. Without one, more connections are worth it only while they carry more: when replies
//! slow down and the throughput stays, the last step is taken back.

use super::change::{Change, Changes, What};
use super::time::{MINUTE, SECOND, Time};

/// Enough for a message each and one in reserve.
pub(super) const FIRST: u32 = 2;
/// Before it is tried whether the limit has risen; doubled by each refusal.
const GAP: Time = 2 * MINUTE;
const LONGEST_GAP: Time = 60 * MINUTE;
/// Replies that take so many times the least seen are queued for at the receiver,
const SLOW: f64 = 1.6;
/// unless the throughput grew by as much as this.
const GAIN: f64 = 1.05;
/// The receiver may not know yet that a connection has ended.
const ENDING: Time = 2 * SECOND;
/// which explains one refusal in so long,
const EXCUSED: Time = MINUTE;
/// or of so many connections that have ended: where each carries few messages, one of them follows on the other's heels often.
const EXCUSED_ENDS: u32 = 50;
/// Connections in a row that end in place of a greeting: beside others that stand, so many are refused ones;
const CUT_OFF: u8 = 3;
/// alone, so many are more than an accident, and a pause begins that doubles: a receiver that is tried at once again each time
/// may count the tries.
const CUT_OFF_ALONE: u8 = 8;
/// Longer than that nobody is left alone.
const LONGEST_PAUSE: Time = 30 * MINUTE;

/// What the last ticks saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Work waits, less went than the rate allows, and every connection was in use.
    pub is_short: bool,
    /// Messages a second.
    pub throughput: f64,
    /// Mean latency of replies in seconds, if there were any.
    pub latency: Option<f64>,
    /// Connections that the rate needs.
    pub need: u32,
    /// What an operator and the configuration allow: nothing is learnt about more.
    pub most: u32,
}

/// The regulator.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    pub limit: u32,
    /// What the receiver was found to allow; 0: not known.
    pub hat: u32,
    pub gap: Time,
    pub next_probe: Time,
    /// The least latency seen, in seconds; 0: none.
    pub base: f32,
    /// The limit before the last step, and the throughput then.
    step: Option<(u32, f32)>,
    /// When a connection ended last.
    pub ended: Time,
    /// When a refusal was last put down to one that had just ended,
    excused: Time,
    /// and how many have ended since.
    ends: u32,
    /// No new connection before this: even the first was refused.
    pub open_after: Time,
    /// First connections refused in a row.
    alone: u8,
    /// Connections that ended in place of a greeting, in a row.
    cut_off: u8,
    /// What the receiver was known to allow when a change was told last; 0: nothing.
    told: u32,
}

impl Connections {
    pub fn new() -> Self {
        Self {
            limit: FIRST,
            hat: 0,
            gap: GAP,
            next_probe: 0,
            base: 0.0,
            step: None,
            ended: 0,
            excused: 0,
            ends: 0,
            open_after: 0,
            alone: 0,
            cut_off: 0,
            told: 0,
        }
    }

    /// Goes on with what is known.
    pub fn wake(&mut self, (limit, hat): (u32, u32), gap: Time, next_probe: Time, base: f32) {
        let least = if hat == 0 { FIRST } else { FIRST.min(hat) };
        (self.limit, self.hat, self.told, self.gap) = (limit.max(least), hat, hat, gap);
        (self.next_probe, self.base) = (next_probe, base);
    }

    /// Goes on with what an operator gives, the receiver allowing `hat` (0: not known).
    pub fn set(&mut self, limit: u32, hat: u32, now: Time) {
        (self.limit, self.hat, self.told) = (limit.max(1), hat, hat);
        (self.step, self.open_after, self.alone, self.cut_off) = (None, 0, 0, 0);
        self.next_probe = now + self.gap;
    }

    /// A connection has ended.
    pub fn closed(&mut self, now: Time) {
        self.ended = now;
        self.ends = self.ends.saturating_add(1);
    }

    /// A connection was refused while `others` were open or being opened.
    pub fn refused(&mut self, others: u32, reply: &str, now: Time, out: &mut Changes) {
        if others == 0 {
            self.pause(now);
        }
        let found = others.max(1);
        let has_ended = now.saturating_sub(self.ended) < ENDING;
        let is_rare = now.saturating_sub(self.excused) > EXCUSED || self.ends >= EXCUSED_ENDS;
        if has_ended && found + 1 == self.hat && is_rare {
            (self.excused, self.ends) = (now, 0);
            self.open_after = now + SECOND;
            return;
        }
        let was_probe = self.hat != 0 && found >= self.hat;
        self.gap = if was_probe { (self.gap * 2).min(LONGEST_GAP) } else { GAP };
        self.next_probe = now + self.gap;
        self.step = None;
        let reason = format!("connections {found}: the receiver refused connection {} ({reply})", others + 1);
        self.change(found.min(self.limit), reason, out);
        (self.hat, self.told) = (found, found);
    }

    /// Nobody answered, though others are connected; `is_frequent`: most of many attempts end like that.
    pub fn timed_out(&mut self, others: u32, is_frequent: bool, reply: &str, out: &mut Changes) {
        let fewer = (self.limit - self.limit.div_ceil(4)).max(others).max(1);
        if is_frequent && fewer < self.limit {
            self.step = None;
            let reason = format!("connections {fewer}: most new ones fail while {others} are open ({reply})");
            self.change(fewer, reason, out);
        }
    }

    /// The first connection failed, with none beside it: a pause that doubles.
    pub fn pause(&mut self, now: Time) {
        self.open_after = now + ((5 * SECOND) << self.alone.min(8)).min(LONGEST_PAUSE);
        self.alone = self.alone.saturating_add(1);
    }

    /// A connection ended in place of a greeting while `others` were open or being opened, and some were open if `has_open`;
    /// whether it is taken for a refusal.
    pub fn cut_off(&mut self, others: u32, has_open: bool, reply: &str, now: Time, out: &mut Changes) -> bool {
        self.cut_off = self.cut_off.saturating_add(1);
        if has_open {
            let is_refusal = self.cut_off >= CUT_OFF;
            if is_refusal {
                self.cut_off = 0;
                self.refused(others, reply, now, out);
            }
            return is_refusal;
        }
        let Some(times) = self.cut_off.checked_sub(CUT_OFF_ALONE) else { return false };
        // One that was begun before the pause does not lengthen it.
        if now >= self.open_after {
            self.open_after = now + (MINUTE << times.min(5)).min(LONGEST_PAUSE);
        }
        true
    }

    /// A connection is open, beside `others` that are.
    pub fn opened(&mut self, others: u32, now: Time, out: &mut Changes) {
        (self.alone, self.cut_off) = (0, 0);
        if self.hat != 0 && others + 1 > self.hat {
            let reason = format!("connections {}: the receiver took one more than it did before", others + 1);
            self.hat = others + 1;
            (self.gap, self.next_probe) = (GAP, now + 10 * SECOND);
            self.change(self.limit.max(self.hat), reason, out);
        }
    }

    /// Looked at every ten seconds of work.
    pub fn tick(&mut self, load: Load, now: Time, out: &mut Changes) {
        let latency = load.latency.unwrap_or_default();
        if load.latency.is_some() && (self.base == 0.0 || latency < f64::from(self.base)) {
            self.base = narrow(latency);
        }
        if let Some((limit, throughput)) = self.step.take()
            && latency > SLOW * f64::from(self.base)
            && load.throughput < GAIN * f64::from(throughput)
        {
            let reason = format!(
                "connections {limit}: {} carried no more, and replies took {latency:.2} s instead of {:.2} s",
                self.limit, self.base
            );
            self.hat = limit;
            self.gap = (self.gap * 2).min(LONGEST_GAP);
            self.next_probe = now + self.gap;
            return self.change(limit, reason, out);
        }
        if !load.is_short || load.need <= self.limit {
            return;
        }
        let is_probe = self.hat != 0 && self.limit >= self.hat;
        if is_probe && now < self.next_probe {
            return;
        }
        let most = if self.hat == 0 { u32::MAX } else { self.hat.saturating_add(u32::from(is_probe)) };
        let more = self.limit.saturating_add((self.limit / 2).max(1)).min(load.need).min(most).min(load.most);
        if more > self.limit {
            self.step = Some((self.limit, narrow(load.throughput)));
            let what = if is_probe { "one more is tried" } else { "work waits, and the rate needs more" };
            self.change(more, format!("connections {more}: {what}"), out);
        }
    }

    fn change(&mut self, to: u32, reason: String, out: &mut Changes) {
        let from = std::mem::replace(&mut self.limit, to);
        if from != to {
            let limit_before = (self.told > 0).then(|| f64::from(self.told));
            let (from, to) = (Some(f64::from(from)), Some(f64::from(to)));
            out.push(Change { what: What::Connections, from, to, limit_before, reason });
            self.told = self.hat;
        }
    }
}

/// Half the octets are enough for what is only compared.
#[allow(clippy::cast_possible_truncation)]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}
