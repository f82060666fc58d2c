//! TLS reports as they would be sent now.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::State;
use super::error::Refusal;

/// Of which domain; none: of all.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    domain: Option<String>,
}

/// A report for each day and domain that is not reported yet, in the form of RFC 8460, 4.4.
pub(super) async fn list(
    Shared(state): Shared<State>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Vec<Value>>, Refusal> {
    let wrong =
        |rejection: QueryRejection| Refusal::new(StatusCode::BAD_REQUEST, rejection.body_text(), "a filter is domain");
    let Query(Asked { domain }) = asked.map_err(wrong)?;
    let domain = domain.map(|domain| domain.trim_end_matches('.').to_lowercase());
    Ok(Json(tokio::task::spawn_blocking(move || state.tally.pending(domain.as_deref())).await?))
}
