//! Metrics: a registry that modules take their handles from, rendered for Prometheus.
//!
//! Each daemon has its own [`Registry`]; handles are made once by the module that increments them and kept. Names are
//! `hikyaku_<subsystem>_<noun>_<unit>`; label values come from bounded sets only.

use std::sync::Arc;

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Upper bounds of every histogram of seconds: from a cache hit to a stalled disk.
const SECONDS: [f64; 14] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0, 600.0];
/// Upper bounds of histograms of counts.
const COUNTS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// One daemon's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
            .set_buckets(&COUNTS)?
            .build_recorder();
        let handle = recorder.handle();
        Ok(Self { recorder: Arc::new(recorder), handle })
    }

    /// A counter; `name` ends in `_total`.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.describe_counter(KeyName::from_const_str(name), None, SharedString::const_str(help));
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// A value that goes up and down.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.describe_gauge(KeyName::from_const_str(name), None, SharedString::const_str(help));
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// A distribution; of seconds if `name` ends in `_seconds`, else of counts.
    pub fn histogram(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Histogram {
        self.recorder.describe_histogram(KeyName::from_const_str(name), None, SharedString::const_str(help));
        self.recorder.register_histogram(&key(name, labels), &METADATA)
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds what histograms have collected; to be called every few seconds, else their memory grows.
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
}
