//! Who asks, and whether they may: over TCP by their token, on the socket by the mode of its file. Every change is recorded
//! before it is made, and with its outcome before it is answered ([`crate::audit`]).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;

use super::endpoints::is_streamed;
use super::error::{Refusal, too_large};
use super::server::Streamed;
use super::tokens::{Refused, Token, Tokens};
use super::veil::veiled;
use super::{LARGEST_BODY, Problem, Role, State};
use crate::audit::{Audit, Event, Kind};
use crate::mask::Mask;
use crate::unseen::is_unseen;

/// Why a change is made, where its body has no place for that.
const REASON: &str = "hikyaku-reason";
/// Octets of it at most.
const LONGEST_REASON: usize = 500;

/// Who is at the other end; goes with each request.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// On the socket: as the kernel tells it (SO_PEERCRED); none: it does not.
    pub user: Option<u32>,
    /// Over TCP.
    pub address: Option<SocketAddr>,
    /// What they have shown, over TCP.
    pub token: Option<Arc<Token>>,
}

impl Peer {
    /// Somebody over TCP. Who comes by IPv4 to a socket for both families is known by that address, in records too.
    pub fn over_tcp(address: Option<SocketAddr>) -> Self {
        let address = address.map(|address| match address.ip().to_canonical() {
            ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
            IpAddr::V6(_) => address,
        });
        Self { address, ..Self::default() }
    }

    /// What is known of them beside what they say.
    pub fn known(&self) -> Option<String> {
        let token = self.token.as_ref().map(|token| format!("token {}", token.name));
        token.or_else(|| self.user.map(|user| format!("uid {user}")))
    }

    /// What they may do. Whoever can open the socket may do everything; over TCP nothing is done without a token.
    fn role(&self) -> Option<Role> {
        match (&self.token, self.address) {
            (Some(token), _) => Some(token.role),
            (None, None) => Some(Role::Admin),
            (None, Some(_)) => None,
        }
    }
}

/// What one endpoint asks of who uses it.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    needs: Role,
    action: Option<&'static str>,
    tokens: Tokens,
    audit: Audit,
    mask: Mask,
}

/// Goes with an answer that is for who asked alone: what the audit log says of it instead.
#[derive(Clone, Debug)]
pub(super) struct Unrecorded(pub String);

/// The outcome of a change that goes on after its answer has begun: whoever answers so has it recorded here, once. Goes with its
/// request.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    guard: Guard,
    asked: Event,
    user: Option<u32>,
    of: u64,
}

impl Ledger {
    /// Records it: what it came to, or what went wrong.
    pub async fn close(self, outcome: Result<(), String>, after: Value) -> io::Result<()> {
        let outcome = outcome.err().unwrap_or_else(|| "ok".to_owned());
        self.record(outcome, Value::Null, after).await
    }

    async fn record(self, outcome: String, before: Value, after: Value) -> io::Result<()> {
        let Self { guard, asked, user, of } = self;
        // What was asked for is in the record that this one is about.
        let done = Event { kind: Kind::Done, of: Some(of), outcome, before, after, parameters: Value::Null, ..asked };
        guard.record(done, user).await.map(|_| ())
    }
}

/// What a change finds before it is made, for its record; goes with its request.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail(Arc<Mutex<Value>>);

impl Trail {
    /// What there is before.
    pub fn before(&self, what: &impl Serialize) {
        let text = serde_json::to_vec(what).unwrap_or_default();
        *self.0.lock() = Event::answer(&text);
    }
}

impl Guard {
    pub(super) fn new(state: &State, needs: Role, action: Option<&'static str>) -> Self {
        Self { needs, action, tokens: state.tokens.clone(), audit: state.audit.clone(), mask: state.mask.clone() }
    }
}

/// Lets through who may use the endpoint; a change goes on record.
pub(super) async fn guard(Shared(guard): Shared<Guard>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    let (role, mask) = (peer.role(), guard.mask.clone());
    let may = role.is_some_and(|role| role >= guard.needs);
    let response = match guard.action {
        None if may => next.run(request).await,
        None => guard.refuse(&peer).into_response(),
        Some(action) => {
            // Who asked may go away meanwhile: what was begun is finished and recorded all the same.
            let change = tokio::spawn(guard.change(action, peer, may, request, next));
            change.await.unwrap_or_else(|error| Refusal::from(error).into_response())
        }
    };
    veiled(&mask, role, response).await
}

impl Guard {
    fn refuse(&self, peer: &Peer) -> Refusal {
        let needs = self.needs;
        if let Some(address) = peer.address {
            self.tokens.refused(Refused::Role, address.ip(), peer.token.as_deref().map(|token| &*token.name));
        }
        let (name, role) = match &peer.token {
            Some(token) => (&*token.name, token.role.as_str()),
            None => ("", "none"),
        };
        let told = format!("this needs the role {needs}; token {name:?} has {role}");
        Refusal::new(StatusCode::FORBIDDEN, told, "`hikyaku token add NAME --role ROLE` makes another")
    }

    async fn change(self, action: &'static str, peer: Peer, may: bool, request: Request, next: Next) -> Response {
        let (mut head, body) = request.into_parts();
        let (body, stream) = if is_streamed(&head.method, head.uri.path()) {
            (Bytes::new(), Some(body))
        } else {
            // It is in memory already, and no longer than this.
            let Ok(body) = to_bytes(body, LARGEST_BODY).await else { return too_large(LARGEST_BODY).into_response() };
            (body, None)
        };
        if let Err(refusal) = reason(&head) {
            return refusal.into_response();
        }
        let asked = event_of(action, &peer, &head, &body);
        if !may {
            let refusal = self.refuse(&peer);
            let outcome = "403: the role is too low".to_owned();
            let told = Event { kind: Kind::Refused, outcome, parameters: Event::answer(&body), ..asked };
            // It is refused in any case; that it is not on record is told by the log, the metrics and `status`.
            if self.audit.has_room_for_refusal() {
                let _ = self.record(told, peer.user).await;
            }
            return refusal.into_response();
        }
        let of = match self.record(asked.clone(), peer.user).await {
            Ok(sequence) => sequence,
            Err(error) => {
                let told = format!("the audit log cannot be written: {error}");
                let hint = "nothing was changed; see to its disk (`admin.audit`, docs/admin.md)";
                return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, told, hint).into_response();
            }
        };
        let (trail, ledger) = (Trail::default(), Ledger { guard: self, asked, user: peer.user, of });
        head.extensions.insert(trail.clone());
        head.extensions.insert(ledger.clone());
        let response = next.run(Request::from_parts(head, stream.unwrap_or_else(|| Body::from(body)))).await;
        if response.extensions().get::<Streamed>().is_some() {
            return response;
        }
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        let (outcome, after) = match (head.status.is_success(), head.extensions.get::<Unrecorded>()) {
            (true, None) => ("ok".to_owned(), Event::answer(&body)),
            (true, Some(Unrecorded(told))) => (format!("ok: {told}"), Value::Null),
            (false, _) => (format!("{}: {}", head.status.as_u16(), error_of(&body)), Value::Null),
        };
        let before = trail.0.lock().take();
        if let Err(error) = ledger.record(outcome, before, after).await {
            let told = format!(
                "it was done ({}), but its outcome could not be written to the audit log: {error}",
                head.status
            );
            let hint = "that it was begun is on record; see to the disk of `admin.audit`";
            return Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, told, hint).into_response();
        }
        Response::from_parts(head, Body::from(body))
    }

    /// Writes a record where it holds nobody up; whose name a user id is may have to be asked for, too.
    async fn record(&self, mut event: Event, user: Option<u32>) -> io::Result<u64> {
        let audit = self.audit.clone();
        let write = move || {
            if let Some(user) = user {
                let named = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(user)).ok().flatten();
                event.who = named.map_or_else(|| format!("uid {user}"), |named| format!("uid {user} ({})", named.name));
            }
            audit.write(&event)
        };
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }
}

/// What is asked for, as it goes on record before it is done.
fn event_of(action: &'static str, peer: &Peer, head: &Parts, body: &[u8]) -> Event {
    let parameters = match body {
        [] => Value::Null,
        body => serde_json::from_slice(body).unwrap_or_else(|_| serde_json::json!({ "octets": body.len() })),
    };
    let said = parameters.get("reason").and_then(Value::as_str).filter(|reason| !reason.is_empty());
    Event {
        kind: Kind::Begun,
        who: peer.known().unwrap_or_else(|| "unknown".to_owned()),
        role: peer.role().map_or("none", Role::as_str),
        from: peer.address.map_or_else(|| "socket".to_owned(), |address| address.to_string()),
        action: action.to_owned(),
        request: format!("{} {}", head.method, head.uri),
        reason: said.or(reason(head).ok()).unwrap_or_default().to_owned(),
        parameters,
        ..Event::default()
    }
}

/// Why the change is made, as the header field says it.
fn reason(head: &Parts) -> Result<&str, Refusal> {
    let octets = head.headers.get(REASON).map(HeaderValue::as_bytes).unwrap_or_default();
    let text = std::str::from_utf8(octets).ok();
    let is_right = |text: &&str| text.len() <= LONGEST_REASON && !text.contains(is_unseen);
    text.filter(is_right).ok_or_else(|| {
        let told = format!(
            "{REASON}: allowed are up to {LONGEST_REASON} octets of UTF-8 without characters that are not seen"
        );
        Refusal::new(StatusCode::BAD_REQUEST, told, "whoever reads the audit log must see all of it")
    })
}

/// What a refusal says is wrong.
fn error_of(body: &[u8]) -> String {
    serde_json::from_slice::<Problem>(body).map(|problem| problem.error).unwrap_or_default()
}

/// Lets through who shows a token, over TCP.
pub(super) async fn identify(Shared(tokens): Shared<Tokens>, mut request: Request, next: Next) -> Response {
    let mut peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    let Some(address) = peer.address else {
        let told = "it is not known where the request comes from";
        return Refusal::new(StatusCode::FORBIDDEN, told, "this is a bug").into_response();
    };
    let client = address.ip();
    match tokens.prove(bearer(request.headers()), client) {
        Ok(token) => peer.token = Some(token),
        Err((refused, wait)) => {
            tokens.refused(refused, client, None);
            return denied(refused, client, wait.as_secs() + 1);
        }
    }
    request.extensions_mut().insert(peer);
    next.run(request).await
}

/// RFC 6750, 2.1. Two are none: which of them counts would be a guess.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (scheme, secret) = all.next()?.to_str().ok()?.split_once(' ')?;
    let is_one = all.next().is_none() && scheme.eq_ignore_ascii_case("bearer");
    Some(secret.trim()).filter(|secret| is_one && !secret.is_empty())
}

fn denied(refused: Refused, client: IpAddr, seconds: u64) -> Response {
    let (status, error, hint) = match refused {
        Refused::Missing => (
            StatusCode::UNAUTHORIZED,
            "this needs a token".to_owned(),
            "send `Authorization: Bearer TOKEN`; `hikyaku token add` makes one",
        ),
        Refused::Wrong => {
            (StatusCode::UNAUTHORIZED, "nobody has this token".to_owned(), "`hikyaku token list` lists those there are")
        }
        Refused::Held => (
            StatusCode::TOO_MANY_REQUESTS,
            format!("too many wrong tokens came from {client}: nothing is looked at for {seconds} s"),
            "the socket on the daemon's machine is not held",
        ),
        Refused::Network | Refused::Role => (
            StatusCode::FORBIDDEN,
            format!("nobody may come from {client}, or not with this token"),
            "`admin.networks` and the token's own networks say from where",
        ),
    };
    let mut response = Refusal::new(status, error, hint).into_response();
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hikyaku\""));
    }
    if refused == Refused::Held {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_by_ipv4_to_a_socket_for_both_families_is_known_by_that_address() {
        let known = |address: &str| Peer::over_tcp(Some(address.parse().unwrap())).address.unwrap().to_string();

        assert_eq!(known("[::ffff:192.0.2.1]:8025"), "192.0.2.1:8025");
        assert_eq!(known("[2001:db8::1]:8025"), "[2001:db8::1]:8025");
    }

    #[test]
    fn a_token_is_read_from_one_bearer_field_only() {
        let headers = |fields: &[&str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(field).unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };

        assert_eq!(headers(&["Bearer x"]).as_deref(), Some("x"));
        assert_eq!(headers(&["bEARER  x "]).as_deref(), Some("x"));
        for none in [&[][..], &["Bearer x", "Bearer x"], &["Basic x"], &["Bearer"], &["Bearer "], &["x"]] {
            assert_eq!(headers(none), None, "{none:?}");
        }
    }
}
