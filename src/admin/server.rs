//! HTTP servers with bounds: so many connections, so long for a request's head and body, so long for a connection.
//!
//! Bodies that are longer than memory is large ([`is_streamed`], [`Streamed`]) are not collected, and their connections go on as long as
//! pieces move ([`Pace`]). Whatever works on them is waited for when the client has gone ([`Works`]).
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
use tokio_util::task::TaskTracker;

use super::endpoints::{is_streamed, router};
use super::guard::{Peer, identify};
use super::stream::Pace;
use super::{AdminSocket, LARGEST_BODY, State, error};
use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::seats::{Seat, Seats};
use crate::tls::Acceptor;

/// Connections a listener serves at once.
const CONNECTIONS: usize = 64;
/// For a request's head; also how long a connection may sit idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For a request's body, which is small: a client that does not send it is not one of ours.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// A body is read up to here, though it is refused as too large: a client that is cut off while it sends sees no answer.
const MOST_READ: usize = 1 << 20;
/// For everything on one connection; where something streams, between two pieces of it.
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

/// Work for a client that is finished, and recorded, whether or not the client is still there. Goes with each request.
#[derive(Clone, Debug, Default)]
pub(super) struct Works(TaskTracker);

impl Works {
    /// Has the connection's task wait for it.
    pub fn begin(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(work);
    }
}

/// Goes with an answer that comes piece by piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streamed;

/// What requests of one connection share.
#[derive(Clone, Debug)]
struct Hold {
    seat: Arc<Seat>,
    pace: Pace,
    works: Works,
}

async fn converse<S>(stream: S, router: Router, seat: Seat, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let hold = Hold { seat: Arc::new(seat), pace: Pace::new(CONNECTION_TIMEOUT), works: Works::default() };
    talk(stream, router, &hold, stop).await;
    // The connection is closed: what it was for sees that, and ends.
    hold.works.0.close();
    hold.works.0.wait().await;
}

async fn talk<S>(stream: S, router: Router, hold: &Hold, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn({
        let hold = hold.clone();
        move |request| answer(request, router.clone(), hold.clone())
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
            () = hold.seat.lost() => {}
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    };
    // What a client does to its own connection concerns nobody else: neither its errors nor its time-out are logged.
    tokio::select! {
        () = finished => {}
        () = hold.pace.over() => {}
    }
}

/// Ends a connection whose seat somebody else has got.
#[derive(Debug, thiserror::Error)]
#[error("the seat of the connection is lost")]
struct SeatLost;

/// Takes the whole request within its time, if it is not one that streams, and keeps the connection's seat while it is answered.
async fn answer(request: Request<Incoming>, router: Router, hold: Hold) -> Result<Response, SeatLost> {
    let Hold { seat, pace, works } = hold;
    let (mut head, body) = request.into_parts();
    let body = if is_streamed(&head.method, head.uri.path()) {
        let pace = pace.clone();
        Body::new(body.map_frame(move |frame| {
            pace.moved();
            frame
        }))
    } else {
        match collected(body).await {
            Ok(body) => body,
            Err(refusal) => return Ok(refusal.into_response()),
        }
    };
    let answering = seat.answer().ok_or(SeatLost)?;
    head.extensions.insert(works);
    let called = TowerToHyperService::new(router).call(Request::from_parts(head, body));
    let response = called.await.unwrap_or_else(|never: Infallible| match never {});
    let pace = response.extensions().get::<Streamed>().map(|Streamed| pace);
    // Until it has been handed over.
    let keep = move |frame| {
        let _ = &answering;
        if let Some(pace) = &pace {
            pace.moved();
        }
        frame
    };
    Ok(response.map(|body| Body::new(body.map_frame(keep))))
}

/// A whole body, which is small.
async fn collected(body: Incoming) -> Result<Body, error::Refusal> {
    let body = Limited::new(body, MOST_READ).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Some(body.to_bytes()).filter(|body| body.len() <= LARGEST_BODY),
        Ok(Err(error)) if error.is::<LengthLimitError>() => None,
        Ok(Err(error)) => return Err(error::unread(&*error)),
        Err(_) => return Err(error::stalled(BODY_TIMEOUT)),
    };
    body.map(Body::from).ok_or_else(|| error::too_large(LARGEST_BODY))
}
