//! Health, readiness and the spool in numbers.

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;

use super::error::Refusal;
use super::{Places, State};
use crate::spool::{AcceptError, Stat};

/// Why messages are better sent elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotReady {
    /// For people.
    pub reason: String,
    /// It is that recovery failed.
    pub is_recovery: bool,
}

impl NotReady {
    fn because(reason: impl Into<String>) -> Option<Self> {
        Some(Self { reason: reason.into(), is_recovery: false })
    }
}

/// Answers while the process can answer at all.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Whether messages are welcome now.
pub(super) async fn ready(Shared(state): Shared<State>) -> Result<&'static str, Refusal> {
    match not_ready(&state) {
        None => Ok("ready\n"),
        Some(NotReady { reason, .. }) => {
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason, "`hikyaku spool stat` tells more"))
        }
    }
}

/// The spool in numbers.
pub(super) async fn spool(Shared(state): Shared<State>) -> Result<Json<Stat>, Refusal> {
    Ok(Json(tokio::task::spawn_blocking(move || state.spool.stat()).await?))
}

/// Where the daemon's files are.
pub(super) async fn places(Shared(state): Shared<State>) -> Json<Places> {
    Json(state.places)
}

/// Why messages are better sent elsewhere.
pub(super) fn not_ready(state: &State) -> Option<NotReady> {
    if state.stopping.is_cancelled() {
        return NotReady::because(match state.control.draining() {
            Some(left) => format!(
                "draining for {} more seconds: {} transactions and DSNs, {} connections, {} sessions are left; new \
                 connections are refused",
                left.seconds_left, left.in_flight, left.connections, left.sessions
            ),
            None => "stopping: new connections are refused, what is under way is finished".to_owned(),
        });
    }
    reason(state.spool.recovery_failure().as_deref(), state.spool.health())
}

fn reason(recovery_failure: Option<&str>, health: Result<(), AcceptError>) -> Option<NotReady> {
    NotReady::because(match health {
        Ok(()) => {
            let failure = recovery_failure?;
            let reason =
                format!("recovery failed: {failure}; messages of earlier starts wait on disk: restart when it is well");
            return Some(NotReady { reason, is_recovery: true });
        }
        Err(AcceptError::Full) => "the spool's disk is at its reserve: submissions get 452, delivery goes on",
        Err(AcceptError::Closed) => "the spool has failed, as the log tells, or is being closed: submissions get 421",
        Err(AcceptError::Aborted | AcceptError::Unknown) => "the spool cannot be written",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_recovery_is_told_with_what_to_do_while_messages_are_still_accepted() {
        let told = reason(Some("cannot read segment 7"), Ok(())).unwrap();

        let text = &told.reason;
        assert!(text.contains("recovery failed: cannot read segment 7") && text.contains("restart"), "{text}");
        assert!(told.is_recovery);
        assert_eq!(reason(None, Ok(())), None);
    }

    #[test]
    fn what_refuses_messages_now_is_told_first() {
        let told = reason(Some("cannot read segment 7"), Err(AcceptError::Full)).unwrap();

        assert!(told.reason.contains("452") && !told.reason.contains("recovery"), "{told:?}");
        assert!(!told.is_recovery);
    }
}
