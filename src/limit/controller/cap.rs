//! Counts by the clock hour: a receiver that refuses until the hour is over has a cap, which is paced from then on.

use super::change::{Change, Changes, What};
use super::time::{HOUR, MINUTE, Time, seconds};

/// A gate shut for as long as this, and open again right behind an hour's end, was shut by a count of the hour: counts by
/// the minute do not last, and 1 end in 12 would be one by chance.
const LONG: Time = 5 * MINUTE;
/// How far behind the hour's end the message goes that finds the gate open.
const CLOSE: Time = MINUTE;
/// Held below the cap: messages on their way count too.
const SHARE: f64 = 0.99;

/// The learnt cap, and what this hour has used of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Cap {
    /// Messages a clock hour; 0: none is known.
    pub most: u32,
    hour: u32,
    used: u32,
    /// Of the hour before.
    used_before: u32,
}

impl Cap {
    /// A cap that is known already; 0: none.
    pub fn known(most: u32) -> Self {
        Self { most, ..Self::default() }
    }

    fn turn(&mut self, now: Time) {
        let hour = u32::try_from(now / HOUR).unwrap_or(u32::MAX);
        if hour != self.hour {
            self.used_before = if hour == self.hour.wrapping_add(1) { self.used } else { 0 };
            (self.hour, self.used) = (hour, 0);
        }
    }

    /// One goes.
    pub fn add(&mut self, now: Time) {
        self.turn(now);
        self.used = self.used.saturating_add(1);
    }

    /// One did not count.
    pub fn remove(&mut self) {
        self.used = self.used.saturating_sub(1);
    }

    /// The rate that spreads what is left over what is left of the hour. Err: nothing is left until then.
    pub fn pace(&mut self, now: Time) -> Result<f64, Time> {
        if self.most == 0 {
            return Ok(f64::INFINITY);
        }
        self.turn(now);
        let end = (now / HOUR + 1) * HOUR;
        let left = f64::from(self.most) * SHARE - f64::from(self.used);
        if left < 1.0 { Err(end) } else { Ok(left / seconds(end - now).max(1.0)) }
    }

    /// The gate has opened, having been shut since `since`; `is_first` if the first message since the hour's end opened it.
    pub fn gate_opened(&mut self, since: Time, now: Time, cause: &str, out: &mut Changes) {
        self.turn(now);
        let is_behind = now % HOUR < CLOSE && since / HOUR != now / HOUR;
        if !is_behind || now.saturating_sub(since) < LONG || self.used_before == 0 {
            return;
        }
        let most = self.used_before;
        if self.most != 0 && most >= self.most {
            return;
        }
        let reason = format!(
            "{most} messages an hour: refused from that count on ({cause}) until the clock hour was over; what is left \
             is spread over the hour"
        );
        let from = (self.most != 0).then_some(f64::from(self.most));
        out.push(Change { what: What::Cap, from, to: Some(f64::from(most)), limit_before: None, reason });
        self.most = most;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_that_opens_behind_the_hour_tells_the_cap() {
        let (mut cap, mut out) = (Cap::default(), Vec::new());
        (0..3000).for_each(|_| cap.add(MINUTE));

        cap.add(HOUR + MINUTE / 60);
        cap.gate_opened(2 * MINUTE, HOUR + MINUTE / 60, "421 4.7.28 unusual rate of mail", &mut out);

        assert_eq!((cap.most, out.len()), (3000, 1));
        let pace = cap.pace(HOUR + 30 * MINUTE).unwrap();
        assert!((pace * 1800.0 - 2969.0).abs() < 1.0, "{pace}");
    }

    #[test]
    fn a_short_pause_over_the_hour_is_no_cap() {
        let (mut cap, mut out) = (Cap::default(), Vec::new());
        (0..100).for_each(|_| cap.add(HOUR - MINUTE));

        cap.gate_opened(HOUR - MINUTE, HOUR + 1, "421", &mut out);

        assert_eq!((cap.most, out.len()), (0, 0));
    }

    #[test]
    fn a_used_up_cap_waits_for_the_hour() {
        let mut cap = Cap { most: 10, ..Cap::default() };
        (0..9).for_each(|_| cap.add(MINUTE));

        assert_eq!(cap.pace(2 * MINUTE), Err(HOUR));
        assert!(cap.pace(HOUR + MINUTE).is_ok());
    }
}
