//! A rate: the generic cell rate algorithm (GCRA, ITU-T I.371) on one atomic.
//!
//! The whole state is the theoretical arrival time of the next cell, so it can be looked at without being consumed,
//! committed by compare-and-swap and refunded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So many per period, with a bounded burst.
#[derive(Debug)]
pub struct Rate {
    origin: Instant,
    /// Nanoseconds between two units.
    interval: u64,
    /// How far the theoretical arrival time may lie ahead of now, in nanoseconds.
    tolerance: u64,
    /// Theoretical arrival time in nanoseconds since `origin`; written by commit and refund.
    arrival: AtomicU64,
}

impl Rate {
    /// `count` per `per`, at most half a second's worth of them (one at least) in one burst.
    ///
    /// `origin` is any time not after the first use.
    pub fn new(count: u32, per: Duration, origin: Instant) -> Self {
        let (interval, tolerance) = pace(count, per);
        Self { origin, interval, tolerance, arrival: AtomicU64::new(0) }
    }

    /// Goes on as `count` per `per`. What is owed now stays owed, in units: they count at the new pace.
    pub fn change(&mut self, count: u32, per: Duration, now: Instant) {
        let (interval, tolerance) = pace(count, per);
        let now = self.since_origin(now);
        let owed = self.arrival.get_mut().saturating_sub(now);
        let owed = u128::from(owed) * u128::from(interval) / u128::from(self.interval);
        *self.arrival.get_mut() = now.saturating_add(u64::try_from(owed).unwrap_or(u64::MAX >> 2));
        (self.interval, self.tolerance) = (interval, tolerance);
    }

    /// Whether `units` may pass now; if not, when.
    pub fn look(&self, units: u32, now: Instant) -> Result<(), Instant> {
        self.after(self.arrival.load(Ordering::Relaxed), units, now).map(|_| ())
    }

    /// Lets `units` pass now; if they may not, tells when.
    pub fn commit(&self, units: u32, now: Instant) -> Result<(), Instant> {
        let mut arrival = self.arrival.load(Ordering::Relaxed);
        loop {
            let next = self.after(arrival, units, now)?;
            match self.arrival.compare_exchange_weak(arrival, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(found) => arrival = found,
            }
        }
    }

    /// Takes back a commit whose units did not pass after all.
    pub fn refund(&self, units: u32) {
        let cost = self.interval.saturating_mul(u64::from(units));
        let back = |arrival: u64| Some(arrival.saturating_sub(cost));
        let _ = self.arrival.fetch_update(Ordering::AcqRel, Ordering::Relaxed, back);
    }

    /// Whether nothing passed for so long that this is as good as new.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.arrival.load(Ordering::Relaxed) <= self.since_origin(now)
    }

    /// The arrival time after `units` more. A number of units above the burst may pass when nothing is owed.
    fn after(&self, arrival: u64, units: u32, now: Instant) -> Result<u64, Instant> {
        let now = self.since_origin(now);
        let cost = self.interval.saturating_mul(u64::from(units));
        let next = arrival.max(now).saturating_add(cost);
        let earliest = next.saturating_sub(self.tolerance.max(cost));
        if earliest <= now {
            return Ok(next);
        }
        Err(self.origin + Duration::from_nanos(earliest))
    }

    fn since_origin(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.origin))
    }
}

/// Work is handed out in steps of a timer tick and more, so a rate needs some burst to be reached; half a second's
/// worth is what receivers that count by the minute do not notice.
const BURST: Duration = Duration::from_millis(500);

/// Nanoseconds between two units, and how far they may run ahead.
fn pace(count: u32, per: Duration) -> (u64, u64) {
    let interval = nanos(per).checked_div(u64::from(count)).unwrap_or(u64::MAX >> 2).max(1);
    (interval, interval.max(nanos(BURST)))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(rate: &Rate, origin: Instant, millis: u64, step: u64) -> usize {
        (0..millis)
            .step_by(usize::try_from(step).unwrap())
            .filter(|at| rate.commit(1, origin + Duration::from_millis(*at)).is_ok())
            .count()
    }

    #[test]
    fn long_run_is_the_rate_plus_one_burst() {
        let origin = Instant::now();
        let rate = Rate::new(100, Duration::from_secs(1), origin);

        let count = passed(&rate, origin, 10_000, 1);

        assert!((1_000..=1_050).contains(&count), "{count}");
    }

    #[test]
    fn a_slow_rate_lets_one_pass_at_once_and_names_the_time_of_the_next() {
        let origin = Instant::now();
        let rate = Rate::new(6, Duration::from_secs(60), origin);

        assert_eq!(rate.commit(1, origin), Ok(()));
        assert_eq!(rate.commit(1, origin), Err(origin + Duration::from_secs(10)));
        assert_eq!(rate.commit(1, origin + Duration::from_secs(10)), Ok(()));
    }

    #[test]
    fn looking_consumes_nothing_and_a_refund_restores() {
        let origin = Instant::now();
        let rate = Rate::new(1, Duration::from_secs(1), origin);

        assert_eq!(rate.look(1, origin), Ok(()));
        assert_eq!(rate.commit(1, origin), Ok(()));
        assert!(rate.look(1, origin).is_err());
        rate.refund(1);
        assert_eq!(rate.commit(1, origin), Ok(()));
    }

    #[test]
    fn a_changed_rate_goes_on_from_what_is_owed() {
        let origin = Instant::now();
        let mut rate = Rate::new(60, Duration::from_secs(60), origin);
        assert_eq!(rate.commit(1, origin), Ok(()));

        rate.change(6, Duration::from_secs(60), origin);

        assert_eq!(rate.commit(1, origin), Err(origin + Duration::from_secs(10)), "one unit is owed");
        rate.change(600, Duration::from_secs(60), origin);
        assert_eq!(rate.commit(1, origin + Duration::from_millis(100)), Ok(()));
    }

    #[test]
    fn more_units_than_the_burst_pass_when_nothing_is_owed() {
        let origin = Instant::now();
        let rate = Rate::new(1, Duration::from_secs(1), origin);

        assert_eq!(rate.commit(5, origin), Ok(()));
        assert_eq!(rate.commit(1, origin), Err(origin + Duration::from_secs(5)));
    }

    #[test]
    fn a_count_of_zero_stops_everything_without_a_panic() {
        let origin = Instant::now();
        let rate = Rate::new(0, Duration::from_secs(1), origin);

        assert_eq!(rate.commit(1, origin), Ok(()), "one is always the burst");
        assert!(rate.commit(1, origin + Duration::from_secs(86_400)).is_err());
    }
}
