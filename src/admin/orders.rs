//! Operators' orders: placing, listing and undoing them, and having deferred mail tried now.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::State;
use super::error::Refusal;
use super::guard::{Peer, Trail};
use super::limits::who;
use super::queue_view::Selected;
use crate::queue::{Counts, Flushed, OrderView, Placed, Undone};
use crate::state::{OrderId, PlaceError, Request, Selection};

/// What is to be tried now: the body of `/v1/queue/flush`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Flush {
    /// Which recipients.
    pub selection: Selection,
    /// Also those that are held as damaged or in doubt.
    pub held: bool,
}

/// The orders that stand.
pub(super) async fn list(Shared(state): Shared<State>) -> Result<Json<Vec<OrderView>>, Refusal> {
    Ok(Json(tokio::task::spawn_blocking(move || state.queue.orders_in_full()).await?))
}

/// One of them.
pub(super) async fn show(Shared(state): Shared<State>, id: Id) -> Result<Json<OrderView>, Refusal> {
    let id = parse(id)?;
    let orders = tokio::task::spawn_blocking(move || state.queue.orders_in_full()).await?;
    let found = orders.into_iter().find(|view| view.order.id == id);
    found.map(Json).ok_or_else(|| no_such_order(id))
}

/// Places one; the answer comes when it stands and has been applied to what is queued.
pub(super) async fn place(
    Shared(state): Shared<State>,
    Extension(peer): Extension<Peer>,
    request: Result<Json<Request>, JsonRejection>,
) -> Result<Json<Placed>, Refusal> {
    let Json(request) = request?;
    let by = if peer.token.is_some() { who(&request.by, peer)?.into() } else { request.by };
    let request = Request { by, ..request };
    Ok(Json(tokio::task::spawn_blocking(move || state.queue.place(request)).await??))
}

/// Ends one.
pub(super) async fn undo(
    Shared(state): Shared<State>,
    Extension(trail): Extension<Trail>,
    id: Id,
) -> Result<Json<Undone>, Refusal> {
    let id = parse(id)?;
    let undone = tokio::task::spawn_blocking(move || state.queue.undo(id)).await?;
    let undone = undone.map_err(PlaceError::Store)?;
    if let Some(undone) = &undone {
        trail.before(&undone.order);
    }
    undone.map(Json).ok_or_else(|| no_such_order(id))
}

/// Counts recipients that match, by where they are.
pub(super) async fn count(
    Shared(state): Shared<State>,
    selection: Result<Query<Selected>, QueryRejection>,
) -> Result<Json<Counts>, Refusal> {
    let selection = selection?.0.checked()?;
    Ok(Json(tokio::task::spawn_blocking(move || state.queue.count(&selection)).await?))
}

/// Has deferred recipients tried now.
pub(super) async fn flush(
    Shared(state): Shared<State>,
    Extension(trail): Extension<Trail>,
    flush: Result<Json<Flush>, JsonRejection>,
) -> Result<Json<Flushed>, Refusal> {
    let Json(Flush { selection, held }) = flush?;
    let selection = selection.checked()?;
    let flush = move || {
        trail.before(&state.queue.count(&selection));
        state.queue.flush(&selection, held)
    };
    Ok(Json(tokio::task::spawn_blocking(flush).await?))
}

type Id = Result<Path<String>, PathRejection>;

fn parse(id: Id) -> Result<OrderId, Refusal> {
    let Path(id) = id?;
    let wrong = |_| Refusal::new(StatusCode::BAD_REQUEST, format!("{id:?} is not the id of an order"), LISTED);
    id.parse().map(OrderId).map_err(wrong)
}

const LISTED: &str = "`hikyaku orders` lists those that stand";

fn no_such_order(id: OrderId) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("no order {id} stands"), LISTED)
}

impl From<PlaceError> for Refusal {
    fn from(error: PlaceError) -> Self {
        let (status, hint) = match &error {
            PlaceError::Selection(_) | PlaceError::Text(_) | PlaceError::Seconds => {
                (StatusCode::BAD_REQUEST, "nothing was changed")
            }
            PlaceError::Source(_) => (StatusCode::BAD_REQUEST, "egress sources are [[source]] in the configuration"),
            PlaceError::TooMany => (StatusCode::CONFLICT, "`hikyaku orders undo ID` ends one"),
            PlaceError::TooManyOnce => {
                (StatusCode::CONFLICT, "`hikyaku orders` lists them; `hikyaku queue list` shows what is in flight")
            }
            PlaceError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "see `hikyaku spool stat`, and try again"),
        };
        Self::new(status, error.to_string(), hint)
    }
}
