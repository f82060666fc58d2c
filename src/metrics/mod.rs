//! Metrics: a registry that modules take their handles from, rendered for Prometheus.
//!
//! Each daemon has its own [`Registry`]; handles are made once by the module that increments them and kept. Names are
//! `hikyaku_<subsystem>_<noun>_<unit>`; label values come from bounded sets only: from ours, or from a table of rows
//! ([`bounded`]) where they are not ours. Everything is registered at the start with its zero values, so that an alert
//! can tell what is zero from what is absent. `docs/metrics.md` lists them all, and a test holds it to that.

pub mod bounded;
mod distribution;
pub mod process;
pub mod sheet;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::Mutex;

use bounded::Bounded;
pub use distribution::LIFE;
use distribution::{BYTES, COUNTS, Distributions, SECONDS};
use sheet::Sheet;

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// One daemon's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    /// Counters and gauges.
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    own: Arc<Own>,
}

/// What the exporter does not do, or not as cheaply.
#[derive(Debug, Default)]
struct Own {
    distributions: Distributions,
    /// By name, then by labels as they are written.
    totals: Mutex<BTreeMap<&'static str, Totals>>,
    tables: Mutex<Vec<Arc<Bounded>>>,
    sheets: Mutex<Vec<Arc<Sheet>>>,
    /// Panics caught in all tasks, for who cannot ask the exporter.
    panics: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Totals {
    help: &'static str,
    series: BTreeMap<String, Arc<Total>>,
}

/// A counter of what is not whole, such as seconds, kept by somebody else and shown here.
#[derive(Debug, Default)]
pub struct Total(AtomicU64);

impl Total {
    /// It has come to `value`; it never falls.
    pub fn raise(&self, value: f64) {
        // Numbers that are not negative are in the order of their bits.
        if value > 0.0 {
            self.0.fetch_max(value.to_bits(), Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        Ok(Self { recorder: Arc::new(recorder), handle, own: Arc::default() })
    }

    /// A counter; `name` ends in `_total`.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.describe_counter(KeyName::from_const_str(name), None, SharedString::const_str(help));
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// The count of panics in all tasks together; raised by who catches one.
    pub fn panics(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.own.panics)
    }

    /// A counter of fractions; `name` ends in `_total`.
    pub fn total(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Arc<Total> {
        let mut totals = self.own.totals.lock();
        let family = totals.entry(name).or_insert_with(|| Totals { help, series: BTreeMap::new() });
        family.series.entry(text::labels(labels)).or_default().clone()
    }

    /// A value that goes up and down.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.describe_gauge(KeyName::from_const_str(name), None, SharedString::const_str(help));
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// A distribution; of seconds if `name` ends in `_seconds`, of octets if in `_bytes`, else of counts.
    pub fn histogram(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Histogram {
        let bounds = match name.rsplit('_').next() {
            Some("seconds") => SECONDS,
            Some("bytes") => BYTES,
            _ => COUNTS,
        };
        self.histogram_with(name, help, labels, bounds)
    }

    /// A distribution over buckets with these upper bounds, the least first.
    pub fn histogram_with(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        bounds: &'static [f64],
    ) -> Histogram {
        Histogram::from_arc(self.own.distributions.series(name, help, labels, bounds))
    }

    /// Shows a table with the rest.
    pub fn add(&self, table: Arc<Bounded>) {
        self.own.tables.lock().push(table);
    }

    /// Shows a sheet with the rest.
    pub fn add_sheet(&self, sheet: Arc<Sheet>) {
        self.own.sheets.lock().push(sheet);
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        let mut out = self.handle.render();
        for (name, family) in self.own.totals.lock().iter() {
            text::head(&mut out, name, family.help, "counter");
            for (labels, total) in &family.series {
                let value = f64::from_bits(total.0.load(Ordering::Relaxed));
                text::line(&mut out, name, labels, &value.to_string());
            }
        }
        self.own.distributions.render(&mut out);
        for table in self.own.tables.lock().iter() {
            table.render(&mut out);
        }
        for sheet in self.own.sheets.lock().iter() {
            sheet.render(&mut out);
        }
        out
    }

    /// Has the exporter publish what was registered since the last time; to be called every few seconds.
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_registries_do_not_share_counts() {
        let (a, b) = (Registry::new().unwrap(), Registry::new().unwrap());

        a.counter("hikyaku_test_things_total", "Things.", &[("kind", "x")]).increment(2);
        b.counter("hikyaku_test_things_total", "Things.", &[("kind", "x")]).increment(5);

        assert!(a.render().contains("hikyaku_test_things_total{kind=\"x\"} 2"));
        assert!(b.render().contains("hikyaku_test_things_total{kind=\"x\"} 5"));
    }

    #[test]
    fn a_total_never_falls() {
        let registry = Registry::new().unwrap();
        let total = registry.total("hikyaku_test_seconds_total", "Things.", &[("mode", "user")]);

        [2.5, 1.0, -3.0].into_iter().for_each(|value| total.raise(value));

        assert!(registry.render().contains("hikyaku_test_seconds_total{mode=\"user\"} 2.5\n"));
    }
}
