//! The pace of messages: GCRA (ITU-T I.371) whose rate may change between any two of them.

use super::time::{SECOND, Time, from_seconds};

/// A connection that has to be opened first must not cost the messages of that time.
const BURST: Time = SECOND / 2;
/// For receivers that mind: work is handed out in steps of a timer tick and more.
const TIGHT: Time = SECOND / 20;

/// The theoretical arrival time of the next message.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    arrival: Time,
    /// The receiver was found to mind bursts.
    pub is_tight: bool,
}

impl Pace {
    /// Whether one may pass now at `rate` a second; if not, when.
    pub fn look(&self, rate: f64, now: Time) -> Result<(), Time> {
        let interval = interval(rate);
        let earliest =
            (self.arrival.max(now) + interval).saturating_sub(interval.max(if self.is_tight { TIGHT } else { BURST }));
        if earliest <= now { Ok(()) } else { Err(earliest) }
    }

    /// One passes.
    pub fn commit(&mut self, rate: f64, now: Time) {
        self.arrival = self.arrival.max(now).saturating_add(interval(rate));
    }

    /// One did not pass after all.
    pub fn refund(&mut self, rate: f64) {
        self.arrival = self.arrival.saturating_sub(interval(rate));
    }

    /// Nothing is owed.
    pub fn forget(&mut self) {
        self.arrival = 0;
    }

    /// The rate has changed: what is owed at the old one is forgotten but for one message at the new one.
    pub fn slow_down(&mut self, rate: f64, now: Time) {
        self.arrival = self.arrival.min(now + interval(rate));
    }
}

fn interval(rate: f64) -> Time {
    from_seconds(1.0 / rate.max(1e-6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_half_a_second_and_the_mean_is_the_rate() {
        let mut pace = Pace::default();
        let mut passed = Vec::new();

        for at in (0..10 * SECOND).step_by(10_000_000) {
            while pace.look(50.0, at).is_ok() {
                pace.commit(50.0, at);
                passed.push(at);
            }
        }

        assert_eq!(passed.iter().filter(|at| **at == 0).count(), 25);
        assert!((520..=530).contains(&passed.len()), "{}", passed.len());
    }

    #[test]
    fn slow_rates_pass_one_at_a_time() {
        let mut pace = Pace::default();
        pace.commit(0.1, 0);

        assert_eq!(pace.look(0.1, SECOND), Err(10 * SECOND));
        pace.refund(0.1);
        assert_eq!(pace.look(0.1, SECOND), Ok(()));
    }
}
