//! Time inside the controller: nanoseconds since 1970, so that clock minutes and hours are seen and a state takes 8
//! octets a time. It comes from an [`Instant`] and the wall time of one of them, told when the controller is made.

use std::time::{Duration, Instant};

/// Nanoseconds since 1970-01-01 UTC.
pub(super) type Time = u64;

/// Nanoseconds of a second.
pub(super) const SECOND: Time = 1_000_000_000;
/// Of a minute.
pub(super) const MINUTE: Time = 60 * SECOND;
/// Of an hour.
pub(super) const HOUR: Time = 60 * MINUTE;
/// Of a day.
pub(super) const DAY: Time = 24 * HOUR;
/// No time at all: nothing is waited for.
pub(super) const NEVER: Time = u64::MAX;

/// One moment in both ways of telling it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch {
    at: Instant,
    wall: Time,
}

impl Epoch {
    /// The moment `at`, when it was `wall` since 1970.
    pub fn new(at: Instant, wall: Duration) -> Self {
        Self { at, wall: nanos(wall) }
    }

    /// An instant as time. None lies before the controller was made.
    pub fn time(&self, at: Instant) -> Time {
        self.wall.saturating_add(nanos(at.saturating_duration_since(self.at)))
    }

    /// A time as an instant; None for [`NEVER`].
    pub fn instant(&self, time: Time) -> Option<Instant> {
        if time == NEVER {
            return None;
        }
        self.at.checked_add(Duration::from_nanos(time.saturating_sub(self.wall)))
    }
}

/// A duration in nanoseconds; those of centuries are cut.
pub(super) fn nanos(duration: Duration) -> Time {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX >> 2)
}

/// Seconds as a number to calculate with.
#[allow(clippy::cast_precision_loss)]
pub(super) fn seconds(time: Time) -> f64 {
    time as f64 / 1e9
}

/// Back from seconds; nothing below zero, and at most some centuries.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn from_seconds(seconds: f64) -> Time {
    (seconds.clamp(0.0, 9e9) * 1e9) as Time
}

/// The whole part, within what 32 bits hold.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn whole(value: f64) -> u32 {
    value.clamp(0.0, f64::from(u32::MAX)) as u32
}

/// The next time that is a whole number of `unit`.
pub(super) fn next_whole(now: Time, unit: Time) -> Time {
    (now / unit + 1) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_and_times_turn_into_each_other() {
        let now = Instant::now();
        let epoch = Epoch::new(now, Duration::from_secs(90));
        let later = now + Duration::from_millis(1500);

        assert_eq!(epoch.time(later), 91_500_000_000);
        assert_eq!(epoch.instant(91_500_000_000), Some(later));
        assert_eq!((epoch.instant(NEVER), epoch.instant(0)), (None, Some(now)));
        assert_eq!(next_whole(91_500_000_000, MINUTE), 120 * SECOND);
        assert_eq!(from_seconds(-1.0), 0);
    }
}
