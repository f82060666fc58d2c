//! The only place that reads time.
//!
//! Wall time is derived from the monotonic clock since the start of the process, so a step of the system clock neither
//! expires a queue at once nor stops it. [`Clock`] is cheap to clone and passed down by constructor.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01 UTC. Kept in 32 bits in queue entries: good until 2106.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u32);

impl UnixTime {
    /// This time moved by `by`, saturating at both ends; fractions of a second are dropped.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u32::try_from(by.as_secs()).unwrap_or(u32::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(u64::from(self.0.saturating_sub(earlier.0)))
    }
}

/// A source of monotonic and wall time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    wall_at_origin: Duration,
    /// It is the runtime's time that passes, not the system's.
    is_of_runtime: bool,
}

impl Clock {
    /// A clock that takes the system's wall time once, now.
    pub fn system() -> Self {
        let wall_at_origin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { origin: Instant::now(), wall_at_origin, is_of_runtime: false }
    }

    /// The same, but its time passes as that of the Tokio runtime that it is asked in: where a test has paused that, days
    /// pass in no time. Not for threads outside a runtime.
    pub fn of_runtime() -> Self {
        let system = Self::system();
        Self { origin: tokio::time::Instant::now().into_std(), is_of_runtime: true, ..system }
    }

    /// Monotonic time.
    pub fn now(&self) -> Instant {
        if self.is_of_runtime { tokio::time::Instant::now().into_std() } else { Instant::now() }
    }

    /// Wall time with full precision, as the time since 1970-01-01 UTC.
    pub fn wall_precise(&self) -> Duration {
        self.wall_at_origin + self.now().saturating_duration_since(self.origin)
    }

    /// The wall time of a monotonic time, as the time since 1970-01-01 UTC.
    pub fn wall_at(&self, at: Instant) -> Duration {
        let after = at.checked_duration_since(self.origin).map(|since| self.wall_at_origin + since);
        after.unwrap_or_else(|| self.wall_at_origin.saturating_sub(self.origin.saturating_duration_since(at)))
    }

    /// Wall time in whole seconds.
    pub fn wall(&self) -> UnixTime {
        UnixTime(u32::try_from(self.wall_precise().as_secs()).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_of_the_runtime_stands_still_and_jumps_with_it() {
        let (clock, system) = (Clock::of_runtime(), Clock::system());
        let (now, wall) = (clock.now(), clock.wall());

        tokio::time::sleep(Duration::from_secs(7 * 86_400)).await;

        assert_eq!(clock.now() - now, Duration::from_secs(7 * 86_400));
        assert_eq!(clock.wall().since(wall), Duration::from_secs(7 * 86_400));
        assert!(system.wall().since(wall) < Duration::from_secs(3_600));
    }
}
