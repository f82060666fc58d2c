//! The gate: what stops every connection at once after a refusal, and finds out with one message at a time whether the
//! receiver takes mail again.
//!
//! | state | ends by |
//! |---|---|
//! | open | a refusal: shut, a pause begins |
//! | paused | its time |
//! | half open | one message goes; its reply opens the gate or begins a longer pause |

use super::time::{HOUR, MINUTE, NEVER, SECOND, Time, next_whole};

/// Pauses after the refusals in a row; the second one is for the next clock minute, see [`pause`].
const PAUSES: [Time; 10] = [
    2 * SECOND,
    4 * SECOND,
    10 * SECOND,
    20 * SECOND,
    MINUTE,
    2 * MINUTE,
    4 * MINUTE,
    8 * MINUTE,
    15 * MINUTE,
    15 * MINUTE,
];
/// The end of a clock minute is waited for if it is as near as this: a count by the clock minute begins anew there.
const NEAR: Time = 8 * SECOND;
/// Behind a minute's or an hour's end: clocks differ.
const BEHIND: Time = SECOND / 4;
/// A message through the gate whose end nobody reported is not waited for longer.
const LOST: Time = 10 * MINUTE;

/// Open, paused or half open.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    /// Nothing goes before this.
    pub until: Time,
    /// When it was shut; [`NEVER`]: it is open.
    pub since: Time,
    /// When the message that tries was sent; [`NEVER`]: none is out.
    out: Time,
    /// Refusals since it was shut, those left out that were on their way.
    pub tries: u8,
    /// It was shut by the breaker.
    pub is_breaker: bool,
}

/// What stands at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Open,
    Paused,
    /// The message that tries is out.
    Tried,
    /// A message may try.
    HalfOpen,
}

impl Gate {
    pub fn new() -> Self {
        Self { until: 0, since: NEVER, out: NEVER, tries: 0, is_breaker: false }
    }

    pub fn is_shut(&self) -> bool {
        self.since != NEVER
    }

    pub fn standing(&self, now: Time) -> Standing {
        if !self.is_shut() {
            Standing::Open
        } else if now < self.until {
            Standing::Paused
        } else if self.out != NEVER && now < self.out.saturating_add(LOST) {
            Standing::Tried
        } else {
            Standing::HalfOpen
        }
    }

    /// A message goes.
    pub fn sent(&mut self, now: Time) {
        if self.is_shut() {
            self.out = now;
        }
    }

    /// The message that tried did not go after all.
    pub fn unsent(&mut self) {
        self.out = NEVER;
    }

    /// Whether a message that was sent at `sent` is the one that tries; latencies are a little inexact.
    pub fn is_trial(&self, sent: Time) -> bool {
        self.out != NEVER && sent.saturating_add(SECOND / 20) >= self.out
    }

    /// A refusal shuts it, or keeps it shut: a longer pause begins. `factor` spreads pauses, near 1.
    pub fn shut(&mut self, now: Time, factor: f64) {
        if !self.is_shut() {
            (self.since, self.tries) = (now, 0);
        }
        self.until = pause(self.tries, now, factor);
        self.tries = self.tries.saturating_add(1);
        self.out = NEVER;
    }

    /// Shuts it for the breaker's time.
    pub fn rest(&mut self, now: Time, until: Time) {
        self.since = now;
        (self.until, self.out, self.is_breaker) = (until, NEVER, true);
    }

    pub fn open(&mut self) {
        *self = Self { until: 0, ..Self::new() };
    }
}

/// The end of the pause after `tries` refusals in a row before this one.
///
/// Counts begin anew at the end of a clock minute, or hour: a pause that reaches over such an end stops behind it.
fn pause(tries: u8, now: Time, factor: f64) -> Time {
    let length = PAUSES.get(usize::from(tries)).or(PAUSES.last()).copied().unwrap_or(MINUTE);
    let minute = next_whole(now, MINUTE) + BEHIND;
    let plain = now + super::time::from_seconds(super::time::seconds(length) * factor);
    match tries {
        0 if minute - now <= NEAR => minute,
        0 => plain,
        1 => minute.max(plain),
        2..6 => plain,
        // Longer than any count by the minute lasts: the next likely end is the hour's.
        _ => plain.min((next_whole(now, HOUR) + SECOND).max(now + MINUTE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_at_a_time_goes_through_a_shut_gate() {
        let mut gate = Gate::new();
        gate.shut(20 * SECOND, 1.0);

        assert_eq!(gate.standing(21 * SECOND), Standing::Paused);
        assert_eq!(gate.standing(22 * SECOND), Standing::HalfOpen);
        gate.sent(22 * SECOND);
        assert_eq!(gate.standing(23 * SECOND), Standing::Tried);
        assert!(gate.is_trial(22 * SECOND) && !gate.is_trial(19 * SECOND));
        gate.shut(23 * SECOND, 1.0);
        assert_eq!(gate.standing(59 * SECOND), Standing::Paused, "until the next clock minute");
        assert_eq!(gate.standing(61 * SECOND), Standing::HalfOpen);
        gate.open();
        assert_eq!(gate.standing(61 * SECOND), Standing::Open);
    }

    #[test]
    fn a_message_whose_end_nobody_told_is_not_waited_for_without_end() {
        let mut gate = Gate::new();
        gate.shut(0, 1.0);
        gate.sent(5 * SECOND);

        assert_eq!(gate.standing(6 * SECOND + LOST), Standing::HalfOpen);
    }

    #[test]
    fn long_pauses_stop_behind_the_hour() {
        assert_eq!(pause(8, 55 * MINUTE, 1.0), HOUR + SECOND);
        assert_eq!(pause(8, 10 * MINUTE, 1.0), 25 * MINUTE);
    }
}
