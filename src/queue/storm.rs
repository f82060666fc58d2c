//! Noticing a mass deferral: a site that sends most of what it gets back.
//!
//! What it deferred must not return all at once, so such deferrals are given more jitter.

use std::time::{Duration, Instant};

/// Outcomes are looked at over this long.
const SPAN: Duration = Duration::from_secs(30);
/// So few deferrals are no storm.
const LEAST: u32 = 100;

/// Outcomes of the present and the last span.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Storm {
    since: Option<Instant>,
    present: Counts,
    last: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    all: u32,
    deferred: u32,
}

impl Storm {
    /// Counts outcomes; true while most of many recent ones are deferrals.
    pub fn count(&mut self, all: u32, deferred: u32, now: Instant) -> bool {
        let age = self.since.map(|since| now.saturating_duration_since(since));
        if age.is_none_or(|age| age >= SPAN) {
            self.last = if age.is_some_and(|age| age < SPAN * 2) { self.present } else { Counts::default() };
            self.present = Counts::default();
            self.since = Some(now);
        }
        self.present.all = self.present.all.saturating_add(all);
        self.present.deferred = self.present.deferred.saturating_add(deferred);
        let deferred = self.present.deferred.saturating_add(self.last.deferred);
        let all = self.present.all.saturating_add(self.last.all);
        deferred >= LEAST && deferred > all / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_deferrals_in_a_row_are_a_storm_and_it_passes() {
        let now = Instant::now();
        let mut storm = Storm::default();

        assert!(!storm.count(99, 99, now));
        assert!(storm.count(1, 1, now));
        assert!(!storm.count(300, 0, now + Duration::from_secs(31)));
        assert!(!storm.count(1, 1, now + Duration::from_secs(120)));
    }

    #[test]
    fn a_few_deferrals_among_many_deliveries_are_none() {
        let mut storm = Storm::default();

        assert!(!storm.count(1_000, 400, Instant::now()));
    }
}
