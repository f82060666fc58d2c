//! Errors of the admin interface: JSON that says what is wrong and what to do.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::state::SelectionError;

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A refused request.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    problem: Problem,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status, problem: Problem { error: error.into(), hint: Some(hint.into()) } }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.problem)).into_response()
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            rejection.body_text(),
            "filters are domain, site, tenant, campaign, lane, source, sender, recipient, message, in_doubt (true or false), limit",
        )
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(
            rejection.status(),
            rejection.body_text(),
            "the body is JSON; `hikyaku --json` shows the fields there are",
        )
    }
}

impl From<SelectionError> for Refusal {
    fn from(error: SelectionError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string(), "`hikyaku queue list` shows the values that there are")
    }
}

/// A blocking look-up that could not be finished: the daemon is going down.
impl From<tokio::task::JoinError> for Refusal {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the look-up failed: {error}"), "see the daemon's log")
    }
}

pub(super) async fn no_such_path(uri: Uri) -> Refusal {
    let paths = "the paths are listed in docs/cli.md; /v1/status is one";
    Refusal::new(StatusCode::NOT_FOUND, format!("nothing at {}", uri.path()), paths)
}

pub(super) async fn no_such_metrics_path(uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("nothing at {}", uri.path()), "metrics are at /metrics")
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not possible on {}", uri.path()),
        "GET shows, POST and DELETE change",
    )
}
