//! Errors of the admin interface: JSON that says what is wrong and what to do.

use std::time::Duration;

use axum::Json;
use axum::extract::State as Shared;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use crate::panics::Bulkhead;
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
    /// A look-up panicked.
    is_panic: bool,
}

/// Goes with a response until [`count_panic`] sees it.
#[derive(Clone, Copy, Debug)]
struct Panicked;

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status, problem: Problem { error: error.into(), hint: Some(hint.into()) }, is_panic: false }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.problem)).into_response();
        if self.is_panic {
            response.extensions_mut().insert(Panicked);
        }
        response
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

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text(), "a path is UTF-8, its octets escaped by `%`")
    }
}

impl From<SelectionError> for Refusal {
    fn from(error: SelectionError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string(), "`hikyaku queue list` shows the values that there are")
    }
}

/// A blocking look-up that could not be finished: it panicked, or the daemon is going down.
impl From<JoinError> for Refusal {
    fn from(error: JoinError) -> Self {
        let told = format!("the look-up failed: {error}");
        let refusal = Self::new(StatusCode::INTERNAL_SERVER_ERROR, told, "see the daemon's log");
        Self { is_panic: error.is_panic(), ..refusal }
    }
}

/// Counts the panic that a response tells of, if it does.
pub(super) async fn count_panic(Shared(wall): Shared<Bulkhead>, response: Response) -> Response {
    if response.extensions().get::<Panicked>().is_some() {
        wall.note();
    }
    response
}

/// A body that broke off.
pub(super) fn unread(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"), "nothing was changed")
}

/// A body of more octets than any request needs.
pub(super) fn too_large(largest: usize) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {largest} octets"), "nothing was changed")
}

/// A body that did not come in time.
pub(super) fn stalled(within: Duration) -> Refusal {
    let told = format!("the body did not come within {} s", within.as_secs());
    Refusal::new(StatusCode::REQUEST_TIMEOUT, told, "nothing was changed")
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
