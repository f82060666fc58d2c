//! Distributions of durations that many tasks add to: log-linear buckets, 3 % wide, without locks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets per power of two: each is at most 1/32 of its value wide.
const STEPS: u64 = 32;
const STEP_BITS: u32 = 5;
/// Up to 2^40 us, which is twelve days.
const BUCKETS: usize = 36 * 32;

/// A distribution of durations.
#[derive(Debug)]
pub struct Latencies {
    buckets: Vec<AtomicU64>,
    longest: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), longest: AtomicU64::new(0) }
    }
}

impl Latencies {
    /// Adds one duration.
    pub fn add(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.buckets.get(bucket_of(micros)).or(self.buckets.last());
        if let Some(bucket) = bucket {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.longest.fetch_max(micros, Ordering::Relaxed);
    }

    /// The duration that `percent` of all do not exceed; none if nothing was added.
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let longest = self.longest.load(Ordering::Relaxed);
        let mut left = share_of(total, percent);
        for (index, count) in counts.iter().enumerate() {
            if *count >= left {
                return Some(Duration::from_micros(highest_in(index).min(longest)));
            }
            left -= count;
        }
        Some(Duration::from_micros(longest))
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.longest.load(Ordering::Relaxed))
    }
}

/// How many of `total` are `percent` of it: at least one, rounded up.
fn share_of(total: u64, percent: f64) -> u64 {
    // Ten thousandths: exact for every percentage that is asked for.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let parts = (percent.clamp(0.0, 100.0) * 100.0).round() as u64;
    (u128::from(total) * u128::from(parts)).div_ceil(10_000).try_into().unwrap_or(total).max(1)
}

fn bucket_of(micros: u64) -> usize {
    let bucket = if micros < STEPS {
        micros
    } else {
        let shift = 63 - micros.leading_zeros() - STEP_BITS;
        u64::from(shift) * STEPS + (micros >> shift)
    };
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

fn highest_in(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_at_most_a_thirty_second_wide() {
        for micros in (0..200).chain([1_000, 12_345, 999_999, 1 << 33, (1 << 39) + 7]) {
            let high = highest_in(bucket_of(micros));

            assert!(high >= micros && high - micros <= micros / 32 + 1, "{micros}: {high}");
            assert_eq!(bucket_of(high), bucket_of(micros), "{micros}");
        }
    }

    #[test]
    fn percentiles_of_a_known_distribution() {
        let latencies = Latencies::default();
        for millis in 1..=100 {
            latencies.add(Duration::from_millis(millis));
        }

        let median = latencies.percentile(50.0).unwrap().as_secs_f64();
        assert!((0.050..0.052).contains(&median), "{median}");
        assert_eq!(latencies.percentile(100.0), Some(Duration::from_millis(100)));
        assert_eq!(Latencies::default().percentile(50.0), None);
    }
}
