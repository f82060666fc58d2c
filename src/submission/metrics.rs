//! The submission side's metrics; one set for all listeners of a daemon.

use ::metrics::{Counter, Gauge, Histogram};

use super::refusal::Cause;
use crate::metrics::Registry;

/// Handles, made once.
#[derive(Debug)]
pub struct Metrics {
    /// Sessions that are open.
    pub sessions: Gauge,
    /// Sessions begun.
    pub sessions_total: Counter,
    /// Messages accepted.
    pub messages_total: Counter,
    /// Reports about messages of ours that have come in.
    pub returned_total: Counter,
    /// Recipients of accepted messages.
    pub recipients_total: Counter,
    /// Octets of content of accepted messages, as received.
    pub bytes_total: Counter,
    /// From the end of data to the 250.
    pub end_of_data_seconds: Histogram,
    rejected: Vec<Counter>,
    /// TLS 1.2, TLS 1.3, failed.
    handshakes: [Counter; 3],
}

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &Registry) -> Self {
        let counter = |name, help| registry.counter(name, help, &[]);
        let rejected = |cause: &Cause| {
            let help = "Commands, messages and connections refused, by cause.";
            registry.counter("hikyaku_submission_rejected_total", help, &[("cause", cause.as_str())])
        };
        let handshakes = |result| {
            let help = "TLS handshakes of submission sessions, by the version agreed, or failed.";
            registry.counter("hikyaku_submission_tls_handshakes_total", help, &[("result", result)])
        };
        Self {
            handshakes: ["TLSv1.2", "TLSv1.3", "failed"].map(handshakes),
            sessions: registry.gauge("hikyaku_submission_sessions", "Open submission sessions.", &[]),
            sessions_total: counter("hikyaku_submission_sessions_total", "Submission sessions begun."),
            messages_total: counter("hikyaku_submission_messages_total", "Messages accepted."),
            returned_total: counter(
                "hikyaku_feedback_reports_total",
                "Reports about messages of ours that have come in.",
            ),
            recipients_total: counter("hikyaku_submission_recipients_total", "Recipients of accepted messages."),
            bytes_total: counter("hikyaku_submission_bytes_total", "Octets of content of accepted messages."),
            end_of_data_seconds: registry.histogram(
                "hikyaku_submission_end_of_data_seconds",
                "From the end of data to the 250.",
                &[],
            ),
            rejected: Cause::ALL.iter().map(rejected).collect(),
        }
    }

    /// Counts a handshake by the version agreed; none: it failed.
    pub fn count_handshake(&self, version: Option<&str>) {
        let [older, newer, failed] = &self.handshakes;
        let counter = match version {
            Some("TLSv1.2") => older,
            Some(_) => newer,
            None => failed,
        };
        counter.increment(1);
    }

    /// Counts a refusal.
    pub fn count(&self, cause: Cause) {
        if let Some(counter) = self.rejected.get(cause as usize) {
            counter.increment(1);
        }
    }
}
