//! The daemon at a glance: what it does, and, first of all, whether anything is wrong and what to look at next.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State as Shared;
use serde::Serialize;

use super::error::Refusal;
use super::health::not_ready;
use super::trouble::{Signs, troubles};
use super::{State, Status};
use crate::dns::network::is_local;
use crate::metrics::process::Usage;
use crate::queue::view::SourceAddresses;
use crate::spool::Stat;

/// What the process takes from its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Resident memory in octets; 0 where the system does not say.
    pub memory: u64,
    /// Open descriptors; 0 where the system does not say.
    pub descriptors: u64,
    /// Descriptors that may be open.
    pub most_descriptors: Option<u64>,
}

impl Process {
    fn look() -> Self {
        let usage = Usage::look();
        Self {
            memory: usage.resident.unwrap_or(0),
            descriptors: usage.descriptors.unwrap_or(0),
            most_descriptors: usage.most_descriptors,
        }
    }
}

/// The daemon at a glance.
pub(super) async fn status(Shared(state): Shared<State>) -> Result<Json<Status>, Refusal> {
    let look = move || {
        // Addresses come and go with interfaces: asked of the kernel at each look, a bind each.
        let (outline, spool, process) = (state.queue.outline(), state.spool.stat(), Process::look());
        let (not_ready, audit) = (not_ready(&state), state.audit.state());
        let signs = Signs {
            not_ready: not_ready.as_ref(),
            is_recovery_failed: state.spool.recovery_failure().is_some(),
            still: state.still.all(),
            journal: state.journal.health(),
            reload_failure: state.control.reload_failure.lock().clone(),
            certificates: state.control.certificates.lock().clone(),
            foreign: foreign_addresses(&outline.sources),
            users: state.users.error(),
            tokens: state.tokens.error(),
            audit: audit.clone(),
            panics: state.panics.load(Ordering::Relaxed),
        };
        let is_stopping = state.stopping.is_cancelled();
        Status {
            hostname: state.control.hostname.lock().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: state.started.elapsed().as_secs(),
            state: state_of(is_stopping, &spool),
            problems: troubles(&signs, &outline, &spool, &process),
            not_ready: not_ready.map(|not_ready| not_ready.reason),
            draining: state.control.draining(),
            queue: outline.totals,
            outline,
            spool,
            process,
            audit,
        }
    };
    Ok(Json(tokio::task::spawn_blocking(look).await?))
}

/// Addresses that sources should have and this machine has not, by source.
fn foreign_addresses(sources: &[SourceAddresses]) -> Vec<(String, IpAddr)> {
    let all =
        sources.iter().flat_map(|source| source.addresses.iter().map(|address| (source.source.clone(), *address)));
    all.filter(|(_, address)| !is_local(*address)).collect()
}

fn state_of(is_stopping: bool, spool: &Stat) -> &'static str {
    match (is_stopping, spool.fault || spool.full, spool.recovering) {
        (true, _, _) => "draining",
        (_, true, _) => "refusing",
        (_, _, true) => "recovering",
        _ => "accepting",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_others_are_told_with_their_source() {
        let source = |name: &str, addresses: &[&str]| SourceAddresses {
            source: name.to_owned(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };

        let found = foreign_addresses(&[source("a", &["127.0.0.1", "192.0.2.1"]), source("b", &[])]);

        assert_eq!(found, [("a".to_owned(), "192.0.2.1".parse().unwrap())]);
    }

    #[test]
    fn the_state_says_what_a_client_would_meet() {
        let spool = |recovering, full| Stat { recovering, full, ..Stat::default() };

        assert_eq!(state_of(true, &spool(true, true)), "draining");
        assert_eq!(state_of(false, &spool(true, true)), "refusing");
        assert_eq!(state_of(false, &spool(true, false)), "recovering");
        assert_eq!(state_of(false, &spool(false, false)), "accepting");
    }

    #[test]
    fn the_process_can_be_seen() {
        let process = Process::look();

        assert!(process.memory > 1 << 20 && process.descriptors > 2, "{process:?}");
    }
}
