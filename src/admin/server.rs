//! The servers of the admin interface and of the metrics, both for few and known clients.
//!
//! Bodies that are longer than memory is large ([`is_streamed`], [`Streamed`]) are not collected, and their connections go on as long as
//! pieces move ([`Pace`]). Whatever works on them is waited for when the client has gone ([`Works`]).

use std::convert::Infallible;
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
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::endpoints::{is_streamed, router};
use super::guard::{Peer, identify};
use super::stream::Pace;
use super::{AdminSocket, LARGEST_BODY, State, error};
use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::tls::Acceptor;
use crate::web::{self, Bounds, NoBody, Seat, SeatLost};

/// What one listener's clients may take: one that does not send a small body within seconds is none of ours.
const BOUNDS: Bounds = Bounds {
    connections: 64,
    head_timeout: Duration::from_secs(5),
    head_size: 16 << 10,
    body_timeout: Duration::from_secs(5),
    largest_body: LARGEST_BODY,
    most_read: 1 << 20,
};
/// For everything on one connection; where something streams, between two pieces of it.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);

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
    web::accept(Gate { listener, router }, BOUNDS.connections, &wall, stop).await;
}

/// Where clients come in.
struct Gate<L> {
    listener: L,
    router: Router,
}

impl<L: Listen> web::Door for Gate<L> {
    type Connection = L::Stream;

    const NAME: &'static str = "admin interface";

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<L::Stream>> {
        self.listener.poll(context)
    }

    fn serve(
        &self,
        stream: L::Stream,
        seat: Seat,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let router = self.router.clone().layer(Extension(L::peer(&stream)));
        begin(stream, self.listener.tls(), router, seat, stop)
    }
}

/// The handshake, if there is one, and then everything else.
async fn begin<S>(stream: S, tls: Option<Arc<Acceptor>>, router: Router, seat: Seat, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = tls else { return converse(stream, router, seat, stop).await };
    if let Some(stream) = web::secured(stream, &tls, &BOUNDS, &seat, &stop).await {
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
    tokio::select! {
        () = web::converse(stream, service, &BOUNDS, &hold.seat, &stop) => {}
        () = hold.pace.over() => {}
    }
}

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
    web::collected(body, &BOUNDS).await.map(Body::from).map_err(|none| match none {
        NoBody::TooLarge => error::too_large(BOUNDS.largest_body),
        NoBody::Stalled => error::stalled(BOUNDS.body_timeout),
        NoBody::Broken(error) => error::unread(&*error),
    })
}
