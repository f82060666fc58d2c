//! What delivery counts.

use ::metrics::{Counter, Histogram};

use super::opening::Failure;
use crate::message::{Outcome, Phase};
use crate::metrics::Registry;

const FAILING_PHASES: [Phase; 4] = [Phase::Connect, Phase::Greeting, Phase::Ehlo, Phase::StartTls];

/// Handles of delivery's metrics, made once.
#[derive(Clone)]
pub struct Meters {
    /// Recipients whose end of data was about to leave.
    pub attempts: Counter,
    /// Connections on which transactions could begin.
    pub connections: Counter,
    /// Such connections secured by TLS.
    pub tls: Counter,
    /// Transactions begun.
    pub transactions: Counter,
    /// Transactions begun ahead, behind the content of another.
    pub look_aheads: Counter,
    /// From the SYN to the connection.
    pub connect_seconds: Histogram,
    /// From the end of data to its reply.
    pub reply_seconds: Histogram,
    failures: [Counter; 4],
    delivered: Counter,
    deferred: Counter,
    bounced: Counter,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meters").finish_non_exhaustive()
    }
}

impl Meters {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let count = |name, help| registry.counter(name, help, &[]);
        let failure = |phase: Phase| {
            let help = "Connections to MX hosts that could not be used, by phase.";
            registry.counter("hikyaku_delivery_connection_failures_total", help, &[("phase", phase.as_str())])
        };
        let outcome = |outcome| {
            let help = "Recipients of finished transactions, by what the receiver made of them.";
            registry.counter("hikyaku_delivery_recipients_total", help, &[("outcome", outcome)])
        };
        Self {
            attempts: count("hikyaku_delivery_attempts_total", "Recipients to whom content was sent."),
            connections: count("hikyaku_delivery_connections_total", "Connections to MX hosts that were opened."),
            tls: count("hikyaku_delivery_tls_connections_total", "Opened connections that were secured by TLS."),
            transactions: count("hikyaku_delivery_transactions_total", "Mail transactions that were begun."),
            look_aheads: count(
                "hikyaku_delivery_look_aheads_total",
                "Transactions begun in the same write as the content before.",
            ),
            connect_seconds: registry.histogram(
                "hikyaku_delivery_connect_seconds",
                "Time to connect to an MX host.",
                &[],
            ),
            reply_seconds: registry.histogram(
                "hikyaku_delivery_reply_seconds",
                "Time from the end of data to its reply.",
                &[],
            ),
            failures: FAILING_PHASES.map(failure),
            delivered: outcome("delivered"),
            deferred: outcome("deferred"),
            bounced: outcome("bounced"),
        }
    }

    /// A connection failed.
    pub fn failed(&self, failure: &Failure) {
        let position = FAILING_PHASES.iter().position(|&phase| phase == failure.phase).unwrap_or_default();
        if let Some(counter) = self.failures.get(position) {
            counter.increment(1);
        }
    }

    /// A transaction's outcomes.
    pub fn settled(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            match outcome {
                Outcome::Delivered(_) => self.delivered.increment(1),
                Outcome::Deferred(_) => self.deferred.increment(1),
                Outcome::Bounced(_) | Outcome::Expired(_) => self.bounced.increment(1),
            }
        }
    }
}
