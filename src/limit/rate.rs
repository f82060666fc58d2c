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
    /// Never more than `count` in any `per`, evenly spread: in one burst at most half a second's worth of them, or a
    /// twentieth of the period if that is less; one at least.
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
    pub fn refund(&self, units: u64) {
        let cost = self.interval.saturating_mul(units);
        let back = |arrival: u64| Some(arrival.saturating_sub(cost));
        let _ = self.arrival.fetch_update(Ordering::AcqRel, Ordering::Relaxed, back);
    }

    /// Takes `units` ahead of time, for one of several that wait for this rate; they may pass at the time that is told. So each
    /// has its turn, in the order in which they asked.
    pub fn reserve(&self, units: u32, now: Instant) -> Instant {
        let (now, cost) = (self.since_origin(now), self.interval.saturating_mul(u64::from(units)));
        let next = |arrival: u64| arrival.max(now).saturating_add(cost).min(u64::MAX >> 2);
        let before = self.arrival.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |arrival| Some(next(arrival)));
        let due = next(before.unwrap_or_else(|arrival| arrival)).saturating_sub(self.tolerance.max(cost));
        self.origin + Duration::from_nanos(due.max(now))
    }

    /// Units that are worth a turn of their own: those of ten milliseconds, one at least.
    pub fn turn(&self) -> u32 {
        u32::try_from(TURN / self.interval).unwrap_or(u32::MAX).max(1)
    }

    /// Lets `units` pass, whether or not there is room: what is too much is owed, and nothing passes until it is paid.
    pub fn charge(&self, units: u64, now: Instant) {
        let (now, cost) = (self.since_origin(now), self.interval.saturating_mul(units));
        let next = |arrival: u64| Some(arrival.max(now).saturating_add(cost).min(u64::MAX >> 2));
        let _ = self.arrival.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next);
    }

    /// How many units may pass now.
    pub fn room(&self, now: Instant) -> u64 {
        let ahead = self.arrival.load(Ordering::Relaxed).saturating_sub(self.since_origin(now));
        match self.tolerance.checked_sub(ahead) {
            Some(left) => (left / self.interval).max(u64::from(ahead == 0)),
            None => 0,
        }
    }

    /// For how long units that passed are still owed: to be kept over a restart.
    pub fn owed(&self, now: Instant) -> Duration {
        self.owed_without(0, now)
    }

    /// The same without the last `units`.
    pub fn owed_without(&self, units: u64, now: Instant) -> Duration {
        let arrival = self.arrival.load(Ordering::Relaxed).saturating_sub(self.interval.saturating_mul(units));
        Duration::from_nanos(arrival.saturating_sub(self.since_origin(now)))
    }

    /// Has as much passed at `at`, the end of a time of which nothing is known, as may at once; unless even then there was no room.
    pub fn exhaust(&self, at: Instant, now: Instant) {
        let burst = Duration::from_nanos(self.tolerance.max(self.interval));
        let owed = nanos((at + burst).saturating_duration_since(now));
        let paid = self.since_origin(now).saturating_add(owed);
        let exhausted = |arrival: u64| self.after(arrival, 1, now).is_ok().then(|| arrival.max(paid));
        let _ = self.arrival.fetch_update(Ordering::AcqRel, Ordering::Relaxed, exhausted);
    }

    /// Takes up what was [`Rate::owed`] before a restart.
    pub fn owe(&self, owed: Duration, now: Instant) {
        self.arrival.store(self.since_origin(now).saturating_add(nanos(owed)), Ordering::Relaxed);
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
/// Which part of a period a burst may be.
const PART: u32 = 20;
/// Ten milliseconds: so often somebody who waits is woken at most.
const TURN: u64 = 10_000_000;

/// Nanoseconds between two units, and how far they may run ahead. With a burst, units are a little further apart than
/// `per / count`: else the burst would come on top of the count.
fn pace(count: u32, per: Duration) -> (u64, u64) {
    let even = nanos(per).checked_div(u64::from(count)).unwrap_or(u64::MAX >> 2).max(1);
    let burst = nanos(BURST.min(per / PART));
    if burst <= even {
        return (even, even);
    }
    ((nanos(per) + burst) / (u64::from(count) + 1) + 1, burst)
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

        assert!((950..=1_000).contains(&count), "{count}");
    }

    #[test]
    fn no_period_has_more_than_the_count() {
        let origin = Instant::now();
        for (count, per) in [(300, 60), (50, 1), (1_000, 1), (3, 1), (100_000, 3_600)] {
            let (rate, per) = (Rate::new(count, Duration::from_secs(per), origin), Duration::from_secs(per));
            let step = Duration::from_micros(500).max(per / count / 40);
            let mut passed: Vec<Instant> = Vec::new();

            let mut now = origin;
            while passed.len() < usize::try_from(count).unwrap() * 2 {
                passed.extend(std::iter::repeat_with(|| rate.commit(1, now)).take_while(Result::is_ok).map(|_| now));
                now += step;
            }

            let most = usize::try_from(count).unwrap();
            let windows = passed.windows(most + 1).filter(|window| window[most] - window[0] < per).count();
            assert_eq!(windows, 0, "{count} per {per:?}");
            assert!(now - origin < per * 2 + per / 8, "{count} per {per:?} is reached");
        }
    }

    #[test]
    fn those_that_wait_are_told_times_of_their_own() {
        let origin = Instant::now();
        let rate = Rate::new(60, Duration::from_secs(60), origin);
        assert_eq!(rate.commit(1, origin), Ok(()));

        let times: Vec<Instant> = (0..3).map(|_| rate.reserve(1, origin)).collect();

        assert_eq!(times, [1, 2, 3].map(|seconds| origin + Duration::from_secs(seconds)));
        assert_eq!(rate.look(1, origin), Err(origin + Duration::from_secs(4)));
        assert_eq!((rate.turn(), Rate::new(10_000, Duration::from_secs(1), origin).turn() / 10), (1, 9));
    }

    #[test]
    fn what_is_charged_beyond_the_rate_is_owed_and_can_be_taken_over() {
        let origin = Instant::now();
        let rate = Rate::new(1_000, Duration::from_secs(1), origin);
        rate.charge(5_000, origin);

        let after = Rate::new(1_000, Duration::from_secs(1), origin);
        after.owe(rate.owed(origin), origin);

        assert!(rate.look(1, origin + Duration::from_secs(4)).is_err());
        assert!(after.look(1, origin + Duration::from_secs(4)).is_err());
        assert_eq!((after.look(1, origin + Duration::from_secs(6)), rate.room(origin)), (Ok(()), 0));
    }

    #[test]
    fn after_a_time_of_which_nothing_is_known_no_more_passes_than_if_all_had_been_used() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let rate = || Rate::new(360, Duration::from_secs(3_600), start);
        let (free, full, late) = (rate(), rate(), rate());
        full.owe(Duration::from_secs(7), start);

        free.exhaust(start, start);
        full.exhaust(start, start);
        late.exhaust(start, later(60));

        assert_eq!(free.look(1, start), Err(later(10)));
        assert_eq!(full.look(1, start), Err(later(7)), "what there was no room for has not passed");
        assert_eq!(late.look(1, later(60)), Ok(()));
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
