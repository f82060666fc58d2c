//! Histograms with fixed bounds, counted as they are recorded.
//!
//! The exporter keeps every sample until somebody folds it: a clock read and 16 bytes each. Here a record is one
//! addition to a bucket and one to the sum, both atomic, and the memory is that of the buckets. Values that are not
//! finite are dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::metrics::HistogramFn;
use parking_lot::Mutex;

use super::text;

/// Upper bounds of every histogram of seconds, from a cache hit to a stalled disk.
pub(super) const SECONDS: &[f64] =
    &[0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0, 600.0];
/// Upper bounds of histograms of counts.
pub(super) const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// Upper bounds of histograms of octets: a small message to the largest batch, 4 MiB.
pub(super) const BYTES: &[f64] =
    &[1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];
/// Upper bounds for the life of a message, which is kept in whole seconds: to the five days after which most give up.
pub const LIFE: &[f64] =
    &[0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0, 172_800.0, 432_000.0];

/// One series.
#[derive(Debug)]
pub(super) struct Distribution {
    bounds: &'static [f64],
    /// One for each bound, and one for what lies above them; not added up.
    buckets: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl Distribution {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }
}

impl HistogramFn for Distribution {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        if !value.is_finite() || count == 0 {
            return;
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(u64::from(count), Ordering::Relaxed);
        }
        let more = value * f64::from(count);
        if more != 0.0 {
            let add = |bits| Some((f64::from_bits(bits) + more).to_bits());
            let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }
}

/// Every series of every name.
#[derive(Debug, Default)]
pub(super) struct Distributions {
    families: Mutex<BTreeMap<&'static str, Family>>,
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    /// By their labels as they are written.
    series: BTreeMap<String, Arc<Distribution>>,
}

impl Distributions {
    /// The series of this name with these labels.
    pub fn series(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        bounds: &'static [f64],
    ) -> Arc<Distribution> {
        let mut families = self.families.lock();
        let family = families.entry(name).or_insert_with(|| Family { help, series: BTreeMap::new() });
        let make = || Arc::new(Distribution::new(bounds));
        family.series.entry(text::labels(labels)).or_insert_with(make).clone()
    }

    /// Appends all of them.
    pub fn render(&self, out: &mut String) {
        for (name, family) in self.families.lock().iter() {
            text::head(out, name, family.help, "histogram");
            for (labels, series) in &family.series {
                let separator = if labels.is_empty() { "" } else { "," };
                let mut count = 0;
                let bounds = series.bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
                for (bucket, bound) in series.buckets.iter().zip(bounds) {
                    count += bucket.load(Ordering::Relaxed);
                    let labels = format!("{labels}{separator}le=\"{bound}\"");
                    text::line(out, &format!("{name}_bucket"), &labels, &count.to_string());
                }
                let sum = f64::from_bits(series.sum.load(Ordering::Relaxed));
                text::line(out, &format!("{name}_sum"), labels, &sum.to_string());
                text::line(out, &format!("{name}_count"), labels, &count.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_the_first_bucket_that_holds_it_and_all_above() {
        let all = Distributions::default();
        let series = all.series("hikyaku_x_seconds", "X.", &[("lane", "bulk")], &[1.0, 2.0]);

        [0.5, 1.0, 1.5].into_iter().for_each(|value| series.record(value));
        series.record_many(3.0, 2);
        series.record(f64::NAN);

        let mut text = String::new();
        all.render(&mut text);
        let expected = "# HELP hikyaku_x_seconds X.\n# TYPE hikyaku_x_seconds histogram\n\
            hikyaku_x_seconds_bucket{lane=\"bulk\",le=\"1\"} 2\n\
            hikyaku_x_seconds_bucket{lane=\"bulk\",le=\"2\"} 3\n\
            hikyaku_x_seconds_bucket{lane=\"bulk\",le=\"+Inf\"} 5\n\
            hikyaku_x_seconds_sum{lane=\"bulk\"} 9\n\
            hikyaku_x_seconds_count{lane=\"bulk\"} 5\n";
        assert_eq!(text, expected);
    }
}
