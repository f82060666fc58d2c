//! What delivery counts, and how long it takes.

use ::metrics::{Counter, Histogram};

use std::time::Instant;

use rustls::ProtocolVersion;

use super::opening::Failure;
use super::tls::Fault;
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
    /// Messages that were still in memory when they were to be sent.
    pub from_memory: Counter,
    /// Messages that had to be read.
    pub from_disk: Counter,
    /// From the SYN to the connection.
    pub connect_seconds: Histogram,
    /// From the commands of a transaction, or from the end of data that they followed, to its last reply.
    pub transaction_seconds: Histogram,
    greeting_seconds: Histogram,
    ehlo_seconds: Histogram,
    handshake_seconds: Histogram,
    handshakes: [(ProtocolVersion, Counter); 2],
    failed_handshakes: Counter,
    faults: [Counter; Fault::ALL.len()],
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
        let loads = |from| {
            let help = "Messages that were fetched to be sent, by where they were.";
            registry.counter("hikyaku_delivery_loads_total", help, &[("from", from)])
        };
        let handshakes = |result, version| {
            let help = "TLS handshakes with MX hosts, by result and version of the protocol.";
            let labels = [("result", result), ("version", version)];
            registry.counter("hikyaku_delivery_tls_handshakes_total", help, &labels)
        };
        Self {
            attempts: count("hikyaku_delivery_attempts_total", "Recipients to whom content was sent."),
            connections: count("hikyaku_delivery_connections_total", "Connections to MX hosts that were opened."),
            from_memory: loads("memory"),
            from_disk: loads("disk"),
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
            transaction_seconds: registry.histogram(
                "hikyaku_delivery_transaction_seconds",
                "Time from the commands of a transaction to its last reply.",
                &[],
            ),
            greeting_seconds: registry.histogram(
                "hikyaku_delivery_greeting_seconds",
                "Time from the connection to the greeting.",
                &[],
            ),
            ehlo_seconds: registry.histogram(
                "hikyaku_delivery_ehlo_seconds",
                "Time from EHLO, or EHLO and HELO, to the reply.",
                &[],
            ),
            handshake_seconds: registry.histogram(
                "hikyaku_delivery_tls_handshake_seconds",
                "Time of a TLS handshake that succeeded.",
                &[],
            ),
            handshakes: [
                (ProtocolVersion::TLSv1_2, handshakes("success", "1.2")),
                (ProtocolVersion::TLSv1_3, handshakes("success", "1.3")),
            ],
            failed_handshakes: handshakes("failure", "none"),
            faults: Fault::ALL.map(|fault| {
                let help = "Failures of TLS with MX hosts, by reason; where TLS is no must the mail went on.";
                registry.counter("hikyaku_tls_failures_total", help, &[("reason", fault.as_str())])
            }),
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

    /// TLS failed, or would have under the policy that is tested.
    pub fn tls_failed(&self, fault: Fault) {
        let position = Fault::ALL.iter().position(|&known| known == fault).unwrap_or_default();
        if let Some(counter) = self.faults.get(position) {
            counter.increment(1);
        }
    }

    /// A handshake that began at `since` ended at `now`, with this version if it succeeded.
    pub fn shook_hands(&self, since: Instant, now: Instant, version: Option<ProtocolVersion>) {
        let counter = version.and_then(|version| self.handshakes.iter().find(|(own, _)| *own == version));
        match counter {
            Some((_, counter)) => {
                counter.increment(1);
                self.handshake_seconds.record(now.saturating_duration_since(since));
            }
            None => self.failed_handshakes.increment(1),
        }
    }

    /// An opening got past `phase`, in which it had been since `since`.
    pub fn passed(&self, phase: Phase, since: Instant, now: Instant) {
        let histogram = match phase {
            Phase::Greeting => &self.greeting_seconds,
            Phase::Ehlo => &self.ehlo_seconds,
            _ => return,
        };
        histogram.record(now.saturating_duration_since(since));
    }

    /// A transaction's outcomes.
    pub fn settled(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            match outcome {
                Outcome::Delivered(_) => self.delivered.increment(1),
                Outcome::Deferred(_) => self.deferred.increment(1),
                Outcome::Bounced(_) | Outcome::Expired(_) => self.bounced.increment(1),
                // Nothing was tried.
                Outcome::Suppressed(_) => {}
            }
        }
    }
}
