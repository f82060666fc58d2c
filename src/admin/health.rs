//! Health, readiness and the daemon at a glance.

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;

use super::error::Refusal;
use super::{State, Status};

/// Answers while the process can answer at all.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Whether messages are accepted now.
pub(super) async fn ready(Shared(state): Shared<State>) -> Result<&'static str, Refusal> {
    match not_ready(&state) {
        None => Ok("ready\n"),
        Some(reason) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason, "`hikyaku spool stat` tells more")),
    }
}

pub(super) async fn status(Shared(state): Shared<State>) -> Json<Status> {
    Json(Status {
        hostname: state.hostname.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: state.started.elapsed().as_secs(),
        not_ready: not_ready(&state),
    })
}

fn not_ready(_state: &State) -> Option<String> {
    None
}
