//! Every endpoint, with the role that it needs: one that is not listed here does not exist, and none can be listed
//! without saying who may use it.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, post};

use super::guard::{Guard, guard};
use super::{
    Role, State, control, error, health, limits, message_view, orders, overview, queue_view, reveal, suppression,
    tls_reports, warmup,
};

/// The body of a POST to it is taken as it comes.
const STREAMED: &str = "/v1/suppression/import";

/// One endpoint, classified.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Of HTTP.
    pub method: Method,
    /// With placeholders in braces.
    pub path: &'static str,
    /// The least role that may use it.
    pub needs: Role,
    /// What the audit log calls the change that it makes; none: it changes nothing.
    pub action: Option<&'static str>,
    route: MethodRouter<State>,
}

/// What changes nothing: every role may look.
fn shows<H, T>(path: &'static str, handler: H) -> Endpoint
where
    H: Handler<T, State>,
    T: 'static,
{
    Endpoint { method: Method::GET, path, needs: Role::Viewer, action: None, route: get(handler) }
}

/// What changes something.
fn changes<H, T>(path: &'static str, action: &'static str, needs: Role, handler: H) -> Endpoint
where
    H: Handler<T, State>,
    T: 'static,
{
    Endpoint { method: Method::POST, path, needs, action: Some(action), route: post(handler) }
}

/// What ends something.
fn ends<H, T>(path: &'static str, action: &'static str, needs: Role, handler: H) -> Endpoint
where
    H: Handler<T, State>,
    T: 'static,
{
    Endpoint { method: Method::DELETE, path, needs, action: Some(action), route: delete(handler) }
}

/// All of them.
pub fn endpoints() -> Vec<Endpoint> {
    use Role::{Admin, Operator};
    vec![
        shows("/healthz", health::alive),
        shows("/readyz", health::ready),
        shows("/v1/status", overview::status),
        shows("/v1/spool", health::spool),
        shows("/v1/places", health::places),
        shows("/v1/message/{id}", message_view::message),
        shows("/v1/queue", queue_view::view),
        shows("/v1/queue/site", queue_view::site),
        shows("/v1/pools", queue_view::pools),
        shows("/v1/queue/entries", queue_view::entries),
        shows("/v1/queue/count", orders::count),
        shows("/v1/orders", orders::list),
        shows("/v1/orders/{id}", orders::show),
        shows("/v1/limits", limits::list),
        shows("/v1/limits/history", limits::history),
        shows("/v1/limits/explain", limits::explain),
        shows("/v1/tls/report", tls_reports::list),
        shows("/v1/warmup", warmup::list),
        shows("/v1/suppression", suppression::list),
        shows("/v1/suppression/show", suppression::show),
        shows("/v1/suppression/stats", suppression::stats),
        changes("/v1/reload", "reload", Operator, control::reload),
        changes("/v1/queue/flush", "queue.flush", Operator, orders::flush),
        changes("/v1/orders", "order.place", Operator, orders::place),
        ends("/v1/orders/{id}", "order.undo", Operator, orders::undo),
        changes("/v1/limits/pin", "limits.pin", Operator, limits::pin),
        changes("/v1/limits/unpin", "limits.unpin", Operator, limits::unpin),
        changes("/v1/limits/reset", "limits.reset", Operator, limits::reset),
        changes("/v1/limits/undo", "limits.undo", Operator, limits::undo),
        changes("/v1/warmup/pause", "warmup.pause", Operator, warmup::pause),
        changes("/v1/warmup/resume", "warmup.resume", Operator, warmup::resume),
        changes("/v1/suppression/add", "suppression.add", Operator, suppression::add),
        changes("/v1/suppression/remove", "suppression.remove", Operator, suppression::remove),
        changes(STREAMED, "suppression.import", Admin, suppression::import),
        changes("/v1/suppression/export", "suppression.export", Admin, suppression::export),
        changes("/v1/reveal", "reveal", Admin, reveal::reveal),
    ]
}

/// Whether the body of such a request is taken as it comes, by an endpoint that reads it piece by piece.
pub(super) fn is_streamed(method: &Method, path: &str) -> bool {
    method == Method::POST && path == STREAMED
}

/// Whatever is asked by HTTP.
pub(super) fn router(state: State) -> Router {
    let mut router = Router::new();
    for Endpoint { path, needs, action, route, .. } in endpoints() {
        let own = Guard::new(&state, needs, action);
        router = router.route(path, route.route_layer(from_fn_with_state(own, guard)));
    }
    router.fallback(error::no_such_path).method_not_allowed_fallback(error::no_such_method).with_state(state)
}
