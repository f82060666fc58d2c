//! What is counted of users.

use std::sync::atomic::{AtomicU64, Ordering};

use ::metrics::Counter;

use super::sasl::Mechanism;
use crate::metrics::Registry;
use crate::trusted::watched::Gauges;

/// How an attempt went, as the metric `hikyaku_auth_attempts_total` counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Result {
    /// They came in.
    Accepted,
    /// A wrong password, proof or certificate; or they wanted to act as somebody else.
    Wrong,
    /// Nobody has that name.
    Unknown,
    /// The user is disabled; what they showed was right.
    Disabled,
    /// The user may not come from there; what they showed was right.
    Network,
    /// Too many had failed before.
    Held,
    /// Too many were waiting.
    Busy,
    /// The exchange broke the rules or was given up.
    Malformed,
}

impl Result {
    const ALL: [Self; 8] = [
        Self::Accepted,
        Self::Wrong,
        Self::Unknown,
        Self::Disabled,
        Self::Network,
        Self::Held,
        Self::Busy,
        Self::Malformed,
    ];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Wrong => "wrong",
            Self::Unknown => "unknown",
            Self::Disabled => "disabled",
            Self::Network => "network",
            Self::Held => "held",
            Self::Busy => "busy",
            Self::Malformed => "malformed",
        }
    }
}

/// Handles, made once.
#[derive(Debug)]
pub struct Metrics {
    attempts: Vec<Vec<Counter>>,
    hashes_total: Counter,
    hashes: AtomicU64,
    /// Passwords found right without a hash.
    pub cache_hits: Counter,
    /// Reverse-paths and From fields that are not the user's and went on, the policy being to allow them.
    pub foreign_senders: Counter,
}

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &Registry) -> Self {
        let counter = |name, help| registry.counter(name, help, &[]);
        let attempt = |mechanism: Mechanism, result: Result| {
            let labels = [("mechanism", mechanism.as_str()), ("result", result.as_str())];
            registry.counter("hikyaku_auth_attempts_total", "Authentications by mechanism and result.", &labels)
        };
        let of = |mechanism| Result::ALL.into_iter().map(|result| attempt(mechanism, result)).collect();
        Self {
            attempts: Mechanism::ALL.into_iter().map(of).collect(),
            hashes_total: counter("hikyaku_auth_hashes_total", "Argon2id hashes worked out."),
            hashes: AtomicU64::new(0),
            cache_hits: counter("hikyaku_auth_cache_hits_total", "Passwords found right without a hash."),
            foreign_senders: counter(
                "hikyaku_auth_foreign_senders_total",
                "Reverse-paths and From fields that were not the user's, and were allowed.",
            ),
        }
    }

    /// Counts an attempt.
    pub fn attempt(&self, mechanism: Mechanism, result: Result) {
        let counters = self.attempts.get(mechanism.index());
        let at = Result::ALL.iter().position(|other| *other == result).unwrap_or_default();
        if let Some(counter) = counters.and_then(|counters| counters.get(at)) {
            counter.increment(1);
        }
    }

    /// A hash is worked out.
    pub(super) fn hash(&self) {
        self.hashes.fetch_add(1, Ordering::Relaxed);
        self.hashes_total.increment(1);
    }

    pub(super) fn hashes(&self) -> u64 {
        self.hashes.load(Ordering::Relaxed)
    }
}

/// Registers what is told of the file.
pub(super) fn gauges(registry: &Registry) -> Gauges {
    let valid = "1: the users file as it is now is in force, or there is none; 0: it has a mistake.";
    Gauges {
        entries: registry.gauge("hikyaku_users", "Users in force.", &[]),
        is_valid: registry.gauge("hikyaku_users_file_valid", valid, &[]),
    }
}
