//! Warm-ups: where each stands, and having one pause or go on.

use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::State;
use super::error::Refusal;
use super::guard::{Peer, Trail};
use super::limits::who;
use crate::queue::warmup_views::{SteerError, Steering, WarmupFilter, WarmupView};
use crate::state::{PinError, check_text};

/// A pause is no longer than this: who wants to end a warm-up takes it out of the configuration.
pub const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Which ones.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    source: Option<String>,
    provider: Option<String>,
}

/// Which warm-up pauses or goes on: the body of `/v1/warmup/pause` and `/v1/warmup/resume`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SteerRequest {
    /// Of this egress source.
    pub source: String,
    /// At this provider.
    pub provider: String,
    /// It pauses so long; absent: until it is resumed. Not for the resumption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Why.
    pub reason: String,
    /// Who asks.
    pub by: String,
}

/// Where each stands.
pub(super) async fn list(
    Shared(state): Shared<State>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Vec<WarmupView>>, Refusal> {
    let wrong = |rejection: QueryRejection| {
        Refusal::new(StatusCode::BAD_REQUEST, rejection.body_text(), "filters are source, provider")
    };
    let Query(Asked { source, provider }) = asked.map_err(wrong)?;
    let filter = WarmupFilter { source, provider };
    let is_narrow = filter.source.is_some() || filter.provider.is_some();
    let (found, known) = tokio::task::spawn_blocking(move || {
        let found = state.queue.warmups(&filter);
        let known =
            if found.is_empty() && is_narrow { state.queue.warmups(&WarmupFilter::default()) } else { Vec::new() };
        (found, known)
    })
    .await?;
    if found.is_empty() && is_narrow { Err(unknown(&known)) } else { Ok(Json(found)) }
}

/// Nothing is as it was asked for: tells what there is.
fn unknown(known: &[WarmupView]) -> Refusal {
    /// Plans that are named.
    const NAMED: usize = 20;
    let names = known.iter().take(NAMED).map(|plan| format!("{} at {}", plan.source, plan.provider));
    let more = known.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    let hint = match known {
        [] => "none is configured: [[warmup]]".to_owned(),
        _ => format!("there are: {}{more}", names.collect::<Vec<_>>().join(", ")),
    };
    Refusal::new(StatusCode::NOT_FOUND, "there is no such warm-up", hint)
}

/// Has one pause; the answer comes when that is on stable storage and holds.
pub(super) async fn pause(
    Shared(state): Shared<State>,
    Extension(peer): Extension<Peer>,
    Extension(trail): Extension<Trail>,
    request: Result<Json<SteerRequest>, JsonRejection>,
) -> Result<Json<WarmupView>, Refusal> {
    let Json(request) = request?;
    let lasts = request.seconds.map(Duration::from_secs);
    if lasts.is_some_and(|lasts| lasts.is_zero() || lasts > LONGEST) {
        let allowed = format!("seconds is 1 to {}", LONGEST.as_secs());
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "so long no warm-up pauses", allowed));
    }
    steer(state, (peer, trail), request, Some(lasts)).await
}

/// Has one go on.
pub(super) async fn resume(
    Shared(state): Shared<State>,
    Extension(peer): Extension<Peer>,
    Extension(trail): Extension<Trail>,
    request: Result<Json<SteerRequest>, JsonRejection>,
) -> Result<Json<WarmupView>, Refusal> {
    let Json(request) = request?;
    steer(state, (peer, trail), request, None).await
}

async fn steer(
    state: State,
    (peer, trail): (Peer, Trail),
    request: SteerRequest,
    pause: Option<Option<Duration>>,
) -> Result<Json<WarmupView>, Refusal> {
    let SteerRequest { source, provider, reason, by, .. } = request;
    check_text("reason", &reason).map_err(PinError::Text)?;
    let steering = Steering { source, provider, pause, by: who(&by, peer)?, reason };
    let steer = move || {
        let (source, provider) = (Some(steering.source.clone()), Some(steering.provider.clone()));
        trail.before(&state.queue.warmups(&WarmupFilter { source, provider }));
        state.queue.steer_warmup(&steering)
    };
    Ok(Json(tokio::task::spawn_blocking(steer).await??))
}

impl From<SteerError> for Refusal {
    fn from(error: SteerError) -> Self {
        let (status, hint) = match &error {
            SteerError::Unknown(..) => (StatusCode::NOT_FOUND, "`hikyaku warmup show` lists them"),
            SteerError::NotPaused(..) => (StatusCode::CONFLICT, "nothing was changed"),
            SteerError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "see `hikyaku spool stat`, and try again"),
        };
        Self::new(status, error.to_string(), hint)
    }
}
