//! HTTP servers with bounds: so many connections, so long for a request's head and body, so long for a connection.
//!
//! Both listeners are for few and known clients. What is bounded here is what a broken or hostile one could take from
//! the daemon (descriptors, memory, tasks) and from the others ([`Seats`]).

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::header;
use axum::middleware::{from_fn_with_state, map_response_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::endpoints::router;
use super::guard::{Peer, identify};
use super::seats::{Seat, Seats};
use super::{AdminSocket, LARGEST_BODY, State, error};
use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::tls::Acceptor;

/// Connections a listener serves at once.
const CONNECTIONS: usize = 64;
/// For a request's head; also how long a connection may sit idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For a request's body, which is small: a client that does not send it is not one of ours.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// A body is read up to here, though it is refused as too large: a client that is cut off while it sends sees no answer.
const MOST_READ: usize = 1 << 20;
/// For everything on one connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// Memory for a request's head.
const HEAD_SIZE: usize = 16 << 10;
/// After a failed accept (no descriptors left): else the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the admin interface until `stop`; requests that are being answered then are finished.
pub async fn serve_unix(socket: AdminSocket, state: State, stop: CancellationToken) {
    let wall = state.wall.clone();
    serve(socket, router(state), wall, stop).await;
}

/// A TCP listener of the admin interface.
#[derive(Debug)]
pub struct TcpDoor {
    /// Bound.
    pub listener: TcpListener,
    /// Does the handshakes; none: it is spoken in clear, which only loopback is for. Replaced by reloads.
    pub tls: Arc<ArcSwapOption<Acceptor>>,
}

/// Serves the admin interface over TCP, to who shows a token, until `stop`.
pub async fn serve_tcp(door: TcpDoor, state: State, stop: CancellationToken) {
    let (wall, tokens) = (state.wall.clone(), state.tokens.clone());
    let router = router(state).layer(from_fn_with_state(tokens, identify));
    serve(door, router, wall, stop).await;
}

/// Serves `/metrics` in Prometheus' text format until `stop`.
pub async fn serve_metrics(listener: TcpListener, registry: Registry, stop: CancellationToken) {
    let wall = Bulkhead::new(&registry, "admin");
    let router = Router::new()
        .route("/metrics", get(metrics))
        .fallback(error::no_such_metrics_path)
        .method_not_allowed_fallback(error::no_such_method)
        .with_state(registry);
    serve(listener, router, wall, stop).await;
}

async fn metrics(Shared(registry): Shared<Registry>) -> Result<impl IntoResponse, error::Refusal> {
    let text = tokio::task::spawn_blocking(move || registry.render()).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

/// What both kinds of listener have in common.
trait Listen: Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn peer(stream: &Self::Stream) -> Peer;

    fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;

    /// What the next connection begins with, if it is under TLS.
    fn tls(&self) -> Option<Arc<Acceptor>> {
        None
    }
}

impl Listen for AdminSocket {
    type Stream = UnixStream;

    fn peer(stream: &UnixStream) -> Peer {
        Peer { user: stream.peer_cred().ok().map(|credentials| credentials.uid()), ..Peer::default() }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.listener.poll_accept(context).map_ok(|(stream, _)| stream)
    }
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    fn peer(stream: &TcpStream) -> Peer {
        Peer::over_tcp(stream.peer_addr().ok())
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        self.poll_accept(context).map_ok(|(stream, _)| stream)
    }
}

impl Listen for TcpDoor {
    type Stream = TcpStream;

    fn peer(stream: &TcpStream) -> Peer {
        TcpListener::peer(stream)
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        Listen::poll(&self.listener, context)
    }

    fn tls(&self) -> Option<Arc<Acceptor>> {
        self.tls.load_full()
    }
}

async fn serve<L: Listen>(listener: L, router: Router, wall: Bulkhead, stop: CancellationToken) {
    let router = router.layer(map_response_with_state(wall.clone(), error::count_panic));
    let seats = Seats::new(CONNECTIONS);
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            stream = poll_fn(|context| listener.poll(context)) => stream,
        };
        match stream {
            Ok(stream) => {
                let Some(seat) = stop.run_until_cancelled(seats.take()).await else { break };
                let router = router.clone().layer(Extension(L::peer(&stream)));
                let conversation = begin(stream, listener.tls(), router, seat, stop.clone());
                connections.spawn(wall.run(conversation));
            }
            Err(error) => {
                tracing::warn!(%error, "admin interface cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Its name is free for another one while requests are finished.
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// The handshake, if there is one, and then everything else.
async fn begin<S>(stream: S, tls: Option<Arc<Acceptor>>, router: Router, seat: Seat, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = tls else { return converse(stream, router, seat, stop).await };
    let secured = tokio::select! {
        secured = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)) => secured,
        () = seat.lost() => return,
        () = stop.cancelled() => return,
    };
    // What a client does to its own handshake concerns nobody else.
    if let Ok(Ok((stream, _))) = secured {
        converse(stream, router, seat, stop).await;
    }
}

async fn converse<S>(stream: S, router: Router, seat: Seat, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let seat = Arc::new(seat);
    let service = service_fn({
        let seat = seat.clone();
        move |request| answer(request, router.clone(), seat.clone())
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let finished = async {
        tokio::select! {
            _ = connection.as_mut() => {}
            () = seat.lost() => {}
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    };
    // What a client does to its own connection concerns nobody else: neither its errors nor its time-out are logged.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, finished).await;
}

/// Ends a connection whose seat somebody else has got.
#[derive(Debug, thiserror::Error)]
#[error("the seat of the connection is lost")]
struct SeatLost;

/// Takes the whole request within its time, and keeps the connection's seat while it is answered.
async fn answer(request: Request<Incoming>, router: Router, seat: Arc<Seat>) -> Result<Response, SeatLost> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MOST_READ).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Some(body.to_bytes()).filter(|body| body.len() <= LARGEST_BODY),
        Ok(Err(error)) if error.is::<LengthLimitError>() => None,
        Ok(Err(error)) => return Ok(error::unread(&*error).into_response()),
        Err(_) => return Ok(error::stalled(BODY_TIMEOUT).into_response()),
    };
    let Some(body) = body else { return Ok(error::too_large(LARGEST_BODY).into_response()) };
    let answering = seat.answer().ok_or(SeatLost)?;
    let called = TowerToHyperService::new(router).call(Request::from_parts(head, Body::from(body)));
    let response = called.await.unwrap_or_else(|never: Infallible| match never {});
    // Until it has been handed over.
    let keep = move |frame| {
        let _ = &answering;
        frame
    };
    Ok(response.map(|body| Body::new(body.map_frame(keep))))
}
