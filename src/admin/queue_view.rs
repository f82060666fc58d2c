//! The queue as people see it: counts by site and tenant, and single entries by filter.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use serde::Deserialize;

use super::State;
use super::error::Refusal;
use crate::queue::view::{Pools, SiteDetail};
use crate::queue::{EntryView, Filter, View};
use crate::state::{Selection, SelectionError};

/// Entries listed when nothing is said.
const DEFAULT_LIMIT: usize = 100;
/// Entries listed at most: an answer stays below what the client reads.
const MOST: usize = 100_000;

/// A selection in a query string.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Selected {
    domain: Option<Box<str>>,
    site: Option<Box<str>>,
    tenant: Option<Box<str>>,
    campaign: Option<Box<str>>,
    lane: Option<Box<str>>,
    source: Option<Box<str>>,
    sender: Option<Box<str>>,
    recipient: Option<Box<str>>,
    message: Option<Box<str>>,
    in_doubt: bool,
    limit: Option<usize>,
}

impl Selected {
    /// The selection, if it makes sense.
    pub(super) fn checked(self) -> Result<Selection, SelectionError> {
        let Self { domain, site, tenant, campaign, lane, source, sender, recipient, message, .. } = self;
        Selection { domain, site, tenant, campaign, lane, source, sender, recipient, message }.checked()
    }
}

/// Counts by site and tenant.
pub(super) async fn view(Shared(state): Shared<State>) -> Result<Json<View>, Refusal> {
    // Walks every shard: short locks, but many of them.
    Ok(Json(tokio::task::spawn_blocking(move || state.queue.view()).await?))
}

/// Which site.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SiteName {
    name: String,
}

/// One site in detail.
pub(super) async fn site(
    Shared(state): Shared<State>,
    parameters: Result<Query<SiteName>, QueryRejection>,
) -> Result<Json<SiteDetail>, Refusal> {
    let wrong = |rejection: QueryRejection| {
        Refusal::new(StatusCode::BAD_REQUEST, rejection.body_text(), "name is that of a site or domain")
    };
    let Query(SiteName { name }) = parameters.map_err(wrong)?;
    let wanted = name.clone();
    let detail = tokio::task::spawn_blocking(move || state.queue.inspect(&wanted)).await?;
    let hint = "`hikyaku sites` lists those with mail or connections; a domain's name is good as well";
    let unknown =
        || Refusal::new(StatusCode::NOT_FOUND, format!("nothing is known of a site or domain {name:?}"), hint);
    detail.map(Json).ok_or_else(unknown)
}

/// Connections by source and MX set.
pub(super) async fn pools(Shared(state): Shared<State>) -> Result<Json<Pools>, Refusal> {
    Ok(Json(tokio::task::spawn_blocking(move || state.queue.pools()).await?))
}

/// Queued recipients that match.
pub(super) async fn entries(
    Shared(state): Shared<State>,
    parameters: Result<Query<Selected>, QueryRejection>,
) -> Result<Json<Vec<EntryView>>, Refusal> {
    let Query(selected) = parameters?;
    let (in_doubt, limit) = (selected.in_doubt, selected.limit);
    if limit == Some(0) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "limit is 0", "limit is 1 or more; /v1/queue counts"));
    }
    let limit = limit.unwrap_or(DEFAULT_LIMIT).min(MOST);
    let selection = selected.checked()?;
    let filter = Filter { selection, in_doubt, limit };
    Ok(Json(tokio::task::spawn_blocking(move || state.queue.list(&filter)).await?))
}
