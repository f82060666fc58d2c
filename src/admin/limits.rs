//! Limits that are learnt: looking at them and their changes, pinning, undoing and forgetting.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::State;
use super::error::Refusal;
use super::guard::{Peer, Trail};
use crate::limit::controller::What;
use crate::queue::limit_views::{
    ChangeView, ExplainError, Explained, Forgotten, PathFilter, PathLimits, PinView, Question, Repinned, Reset,
    UndoError, Unpin,
};
use crate::smtp::address::Address;
use crate::state::{PinError, PinRequest, Pinned, PlaceError, check_text};

/// Paths listed when nothing is said.
const DEFAULT_LIMIT: usize = 1_000;
/// Paths listed at most.
const MOST: usize = 100_000;

/// Which paths or changes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    site: Option<String>,
    source: Option<String>,
    limit: Option<usize>,
}

type Filtered = Result<Query<Asked>, QueryRejection>;

/// Which pins end: the body of `/v1/limits/unpin`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnpinRequest {
    /// Of this site, or the one that mail of this domain goes to.
    pub site: String,
    /// From this source; absent: every one.
    pub source: Option<String>,
    /// Of this limit; absent: all.
    pub limit: Option<Pinned>,
    /// Who asks.
    pub by: String,
}

/// What is forgotten: the body of `/v1/limits/reset`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResetRequest {
    /// Of this site, or the one that mail of this domain goes to.
    pub site: String,
    /// From this source; absent: each.
    pub source: Option<String>,
    /// `rate`, `connections`, `messages-per-connection`, `breaker` or `hourly-cap`; absent: everything.
    pub limit: Option<String>,
    /// Who asks.
    pub by: String,
}

/// Which change is taken back: the body of `/v1/limits/undo`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndoRequest {
    /// Its id.
    pub id: u32,
    /// Who asks.
    #[serde(default)]
    pub by: String,
}

fn filter(asked: Filtered) -> Result<PathFilter, Refusal> {
    let wrong = |rejection: QueryRejection| {
        Refusal::new(StatusCode::BAD_REQUEST, rejection.body_text(), "filters are site, source, limit")
    };
    let Query(Asked { site, source, limit }) = asked.map_err(wrong)?;
    if limit == Some(0) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "limit is 0", "limit is 1 or more"));
    }
    Ok(PathFilter { site, source, limit: limit.unwrap_or(DEFAULT_LIMIT).min(MOST) })
}

/// What is learnt at each path.
pub(super) async fn list(Shared(state): Shared<State>, asked: Filtered) -> Result<Json<Vec<PathLimits>>, Refusal> {
    let filter = filter(asked)?;
    if let Some(source) = filter.source.as_deref().filter(|source| !state.queue.has_source(source)) {
        return Err(PinError::Source(source.into()).into());
    }
    Ok(Json(tokio::task::spawn_blocking(move || state.queue.path_limits(&filter)).await?))
}

/// What has changed.
pub(super) async fn history(Shared(state): Shared<State>, asked: Filtered) -> Result<Json<Vec<ChangeView>>, Refusal> {
    let filter = filter(asked)?;
    Ok(Json(tokio::task::spawn_blocking(move || state.queue.limit_changes(&filter)).await?))
}

/// Which mail is asked about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    address: String,
    tenant: Option<String>,
    campaign: Option<String>,
    source: Option<String>,
}

/// Every limit of mail for an address.
pub(super) async fn explain(
    Shared(state): Shared<State>,
    about: Result<Query<About>, QueryRejection>,
) -> Result<Json<Explained>, Refusal> {
    let bad = |error: String, hint: &str| Refusal::new(StatusCode::BAD_REQUEST, error, hint);
    let wrong =
        |rejection: QueryRejection| bad(rejection.body_text(), "say address; tenant, campaign and source may be added");
    let Query(About { address, tenant, campaign, source }) = about.map_err(wrong)?;
    let domain = match Address::of_path(&address) {
        Ok(address) => address.domain().to_owned(),
        Err(text) if is_host_name(text) => text.trim_end_matches('.').to_lowercase(),
        Err(text) => return Err(bad(format!("{text:?} is no address"), "it is local-part@domain, or a domain")),
    };
    let question = Question { domain, tenant, campaign, source };
    state.queue.explain(&question).await.map(Json).map_err(|error| {
        let (status, hint) = match &error {
            ExplainError::Campaign => (StatusCode::BAD_REQUEST, "say tenant, too"),
            ExplainError::Source(_) => (StatusCode::BAD_REQUEST, "egress sources are [[source]] in the configuration"),
            ExplainError::Plan(..) => (StatusCode::NOT_FOUND, "`hikyaku status` tells whether DNS answers"),
        };
        Refusal::new(status, error.to_string(), hint)
    })
}

fn is_host_name(text: &str) -> bool {
    let is_label =
        |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    text.contains('.') && text.trim_end_matches('.').split('.').all(is_label)
}

/// Sets a pin; the answer comes when it stands and holds.
pub(super) async fn pin(
    Shared(state): Shared<State>,
    Extension(peer): Extension<Peer>,
    Extension(trail): Extension<Trail>,
    request: Result<Json<PinRequest>, JsonRejection>,
) -> Result<Json<Repinned>, Refusal> {
    let Json(request) = request?;
    let site = state.queue.site_meant(&request.site).await?.into();
    let request = PinRequest { by: who(&request.by, peer)?.into(), site, ..request };
    let pin = move || {
        trail.before(&pins_of(&state, &request.site));
        state.queue.pin(request)
    };
    Ok(Json(tokio::task::spawn_blocking(pin).await??))
}

/// Ends pins.
pub(super) async fn unpin(
    Shared(state): Shared<State>,
    Extension(peer): Extension<Peer>,
    Extension(trail): Extension<Trail>,
    request: Result<Json<UnpinRequest>, JsonRejection>,
) -> Result<Json<Repinned>, Refusal> {
    let Json(UnpinRequest { site, source, limit, by }) = request?;
    let site = state.queue.pinned_site(&named(site)?).await?;
    let request = Unpin { site, source, limit, by: who(&by, peer)? };
    let unpin = move || {
        trail.before(&pins_of(&state, &request.site));
        state.queue.unpin(&request)
    };
    let ended = tokio::task::spawn_blocking(unpin).await?.map_err(PinError::Store)?;
    if ended.pins.is_empty() {
        let told = format!("no such limit is pinned at {:?}", ended.site);
        return Err(Refusal::new(StatusCode::NOT_FOUND, told, "`hikyaku limits show` tells which are"));
    }
    Ok(Json(ended))
}

/// Forgets what was learnt.
pub(super) async fn reset(
    Shared(state): Shared<State>,
    Extension(peer): Extension<Peer>,
    Extension(trail): Extension<Trail>,
    request: Result<Json<ResetRequest>, JsonRejection>,
) -> Result<Json<Forgotten>, Refusal> {
    let Json(ResetRequest { site, source, limit, by }) = request?;
    let limit = limit.map(|name| What::named(&name).ok_or(name)).transpose().map_err(|name| {
        let known = What::ALL.map(What::as_str).join(", ");
        Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("{name:?} is no limit that is learnt"),
            format!("they are {known}"),
        )
    })?;
    let site = named(site)?;
    let site = state.queue.site_meant(&site).await.unwrap_or(site);
    let request = Reset { site, source, limit, by: who(&by, peer)? };
    let reset = move || {
        trail.before(&paths_of(&state, &request.site, request.source.clone()));
        state.queue.reset_limits(&request)
    };
    let forgotten = tokio::task::spawn_blocking(reset).await?.map_err(PinError::Store)?;
    if forgotten.paths == 0 && forgotten.kept == 0 {
        let told = format!("nothing is learnt about {:?}", forgotten.site);
        return Err(Refusal::new(StatusCode::NOT_FOUND, told, "`hikyaku limits show` tells where something is"));
    }
    Ok(Json(forgotten))
}

/// Takes a change back.
pub(super) async fn undo(
    Shared(state): Shared<State>,
    Extension(peer): Extension<Peer>,
    Extension(trail): Extension<Trail>,
    request: Result<Json<UndoRequest>, JsonRejection>,
) -> Result<Json<Vec<ChangeView>>, Refusal> {
    let Json(UndoRequest { id, by }) = request?;
    let by = who(&by, peer)?;
    let undo = move || {
        let all = PathFilter { site: None, source: None, limit: MOST };
        if let Some(change) = state.queue.limit_changes(&all).into_iter().find(|change| change.id == id) {
            trail.before(&change);
        }
        state.queue.undo_change(id, &by)
    };
    Ok(Json(tokio::task::spawn_blocking(undo).await??))
}

/// What is known of the paths of a site.
fn paths_of(state: &State, site: &str, source: Option<String>) -> Vec<PathLimits> {
    state.queue.path_limits(&PathFilter { site: Some(site.to_owned()), source, limit: DEFAULT_LIMIT })
}

/// What is pinned at a site, each pin once.
fn pins_of(state: &State, site: &str) -> Vec<PinView> {
    let mut found: Vec<PinView> = Vec::new();
    for pin in paths_of(state, site, None).into_iter().flat_map(|path| path.pins) {
        if !found.contains(&pin) {
            found.push(pin);
        }
    }
    found
}

fn named(site: String) -> Result<String, Refusal> {
    let nameless = || Refusal::from(PinError::Site);
    Some(site).filter(|site| !site.is_empty()).ok_or_else(nameless)
}

/// Who asks: as he calls himself, and as the kernel or his token knows him.
pub(super) fn who(by: &str, peer: Peer) -> Result<String, Refusal> {
    check_text("by", by).map_err(PinError::Text)?;
    let Some(known) = peer.known() else { return Ok(by.to_owned()) };
    // Who has no name calls himself so.
    Ok(if by.is_empty() || by == known { known } else { format!("{by} ({known})") })
}

impl From<PinError> for Refusal {
    fn from(error: PinError) -> Self {
        let (status, hint) = match &error {
            PinError::Text(PlaceError::Store(_)) | PinError::Store(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "see `hikyaku spool stat`, and try again")
            }
            PinError::Source(_) => (StatusCode::BAD_REQUEST, "egress sources are [[source]] in the configuration"),
            PinError::Nowhere(..) => (
                StatusCode::NOT_FOUND,
                "say a domain that mail can be sent to, or a site as `hikyaku sites` and `limits explain` name it",
            ),
            PinError::NotLearnt => (StatusCode::CONFLICT, "write a rule: [[limits.rule]] in the configuration"),
            PinError::TooMany => (StatusCode::CONFLICT, "`hikyaku limits unpin SITE` ends some"),
            PinError::Text(_) | PinError::Site | PinError::Bounds | PinError::Value(_) | PinError::Order(..) => {
                (StatusCode::BAD_REQUEST, "nothing was changed")
            }
        };
        Self::new(status, error.to_string(), hint)
    }
}

impl From<UndoError> for Refusal {
    fn from(error: UndoError) -> Self {
        let (status, hint) = match &error {
            UndoError::Unknown(_) => {
                (StatusCode::NOT_FOUND, "`hikyaku limits history` lists the last thousand since the daemon started")
            }
            UndoError::Pin(_) => (StatusCode::CONFLICT, "`hikyaku limits unpin SITE` ends it"),
            UndoError::Over(_) | UndoError::Done(_) => (StatusCode::CONFLICT, "there is nothing to take back"),
            UndoError::Unused { .. } => {
                (StatusCode::CONFLICT, "`hikyaku limits reset SITE` forgets it, `hikyaku limits pin SITE` sets another")
            }
        };
        Self::new(status, error.to_string(), hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_told_once() {
        let told = |by, user| who(by, Peer { user, ..Peer::default() }).ok();

        assert_eq!(told("ops", Some(7)).as_deref(), Some("ops (uid 7)"));
        assert_eq!([told("uid 7", Some(7)), told("", Some(7))].map(Option::unwrap), ["uid 7", "uid 7"]);
        assert_eq!([told("uid 8", Some(7)), told("ops", None)].map(Option::unwrap), ["uid 8 (uid 7)", "ops"]);
    }
}
