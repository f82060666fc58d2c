//! The listener: connections with bounds on their number, their time and what they send, since everybody may connect.
//!
//! Who comes when all seats are taken gets that of the connection that has been quiet for longest ([`Seats`]); connections
//! that stall keep nobody out.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Unsubscribe;
use super::link::Fault;
use super::page::Page;
use super::rates;
use super::scribe::{NotStored, Order, Scribe};
use super::wish::Wish;
use crate::seats::{Answering, Seat, Seats};
use crate::tls::Acceptor;

/// Connections that one listener serves at once.
const CONNECTIONS: usize = 1_024;
/// For a handshake, a request's head or its body, each; also how long a connection may sit idle.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For everything on one connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Memory for a request's head, hyper's least.
const HEAD_SIZE: usize = 8 << 10;
/// Octets of the largest body; what is asked for takes 26, or a few hundred as multipart/form-data.
const LARGEST_BODY: usize = 4 << 10;
/// A body is read up to here, though it is refused as too large: a client that is cut off while it sends sees no answer.
const MOST_READ: usize = 64 << 10;
/// After a failed accept (no descriptors left): else the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often addresses that have been quiet are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// Where links are answered.
#[derive(Debug)]
pub struct Door {
    /// Bound.
    pub listener: TcpListener,
    /// Does the handshakes; none: it is spoken in clear, to a proxy on this machine. Replaced by reloads.
    pub tls: Arc<ArcSwapOption<Acceptor>>,
}

/// Ends a connection whose seat somebody else has got.
#[derive(Debug, thiserror::Error)]
#[error("the seat of the connection is lost")]
struct SeatLost;

/// Answers until `stop`; requests that are being answered then are finished.
pub async fn serve(door: Door, unsubscribe: Unsubscribe, stop: CancellationToken) {
    let wall = unsubscribe.0.wall.clone();
    let (scribe, work) = Scribe::new(unsubscribe.clone());
    // Ends when the last connection has, with the scribe.
    let accepting = accept(door, unsubscribe, scribe, stop);
    let _ = tokio::join!(accepting, wall.run(work));
}

async fn accept(door: Door, unsubscribe: Unsubscribe, scribe: Scribe, stop: CancellationToken) {
    let Door { listener, tls } = door;
    let inner = &unsubscribe.0;
    let seats = Seats::new(CONNECTIONS);
    let mut connections = JoinSet::new();
    let mut forget = tokio::time::interval(FORGET);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            _ = forget.tick() => {
                inner.rates.forget();
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = peer.ip().to_canonical();
                let is_proxy = rates::is_proxy(peer, &inner.links.load().settings.proxy_networks);
                if !is_proxy && !inner.rates.takes_connection(peer) {
                    inner.metrics.connections_refused.increment(1);
                    continue;
                }
                let Some(seat) = stop.run_until_cancelled(seats.take()).await else { break };
                let visitor =
                    Visitor { unsubscribe: unsubscribe.clone(), scribe: scribe.clone(), peer, seat: Arc::new(seat) };
                connections.spawn(inner.wall.run(visitor.begin(stream, tls.load_full(), stop.clone())));
            }
            Err(error) => {
                tracing::warn!(%error, "the listener of [unsubscribe] cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The address is free for another one while requests are finished.
    drop((listener, scribe));
    while connections.join_next().await.is_some() {}
}

/// Who has connected, and what answers.
#[derive(Clone)]
struct Visitor {
    unsubscribe: Unsubscribe,
    scribe: Scribe,
    peer: IpAddr,
    seat: Arc<Seat>,
}

impl Visitor {
    /// The handshake, if there is one, and then everything else. What a client does to its own connection concerns nobody else.
    async fn begin(self, stream: TcpStream, tls: Option<Arc<Acceptor>>, stop: CancellationToken) {
        let Some(tls) = tls else { return self.converse(stream, stop).await };
        let secured = tokio::select! {
            secured = tokio::time::timeout(TIMEOUT, tls.accept(stream)) => secured,
            () = self.seat.lost() => return,
            () = stop.cancelled() => return,
        };
        if let Ok(Ok((stream, _))) = secured {
            self.converse(stream, stop).await;
        }
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, stop: CancellationToken) {
        let seat = Arc::clone(&self.seat);
        let service = service_fn(move |request| {
            let visitor = self.clone();
            async move { visitor.answer(request).await }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(TIMEOUT)
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
        let _ = tokio::time::timeout(CONNECTION_TIMEOUT, finished).await;
    }

    /// Takes the whole request within its time, and keeps the connection's seat while it is answered.
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Answer>, SeatLost> {
        let (head, body) = request.into_parts();
        let body = tokio::time::timeout(TIMEOUT, Limited::new(body, MOST_READ).collect()).await;
        let answering = self.seat.answer().ok_or(SeatLost)?;
        let inner = &self.unsubscribe.0;
        let begun = inner.clock.now();
        let body = match body {
            Ok(Ok(body)) => Some(body.to_bytes()).filter(|body| body.len() <= LARGEST_BODY).ok_or(Page::TooLarge),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Page::TooLarge),
            // Where it broke off nobody is there to be answered.
            Ok(Err(_)) | Err(_) => Err(Page::Late),
        };
        let page = self.decide(&head, body).await;
        inner.metrics.count(page.outcome(), inner.clock.now().duration_since(begun));
        Ok(page.response().map(|text| Answer { text: Full::new(Bytes::from(text)), _answering: answering }))
    }

    async fn decide(&self, head: &Parts, body: Result<Bytes, Page>) -> Page {
        let inner = &self.unsubscribe.0;
        let links = inner.links.load_full();
        let client = rates::client(self.peer, &head.headers, &links.settings.proxy_networks);
        if !inner.rates.takes_request(client) {
            return Page::TooMany;
        }
        let body = match body {
            Ok(body) => body,
            Err(page) => return page,
        };
        match head.method {
            Method::OPTIONS => return Page::Options,
            Method::GET | Method::HEAD | Method::POST => {}
            _ => return Page::Method,
        }
        let claim = match links.read(head.uri.path(), inner.clock.wall()) {
            Ok(claim) => claim,
            Err(Fault::Unknown) => return Page::Unknown,
            Err(Fault::Expired) => return Page::Expired,
        };
        let about = claim.about.clone();
        if head.method != Method::POST {
            return Page::Ask(about);
        }
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let Some(wish) = Wish::read(kind, &body) else { return Page::NoWish };
        match (self.scribe.take_off(Order { claim, wish, client }).await, wish) {
            (Ok(()), Wish::OneClick) => Page::OneClick,
            (Ok(()), Wish::Page) => Page::Done(about),
            (Err(NotStored), _) => Page::Failed,
        }
    }
}

/// The body of an answer. The connection keeps its seat until it has been handed over.
struct Answer {
    text: Full<Bytes>,
    _answering: Answering,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.text).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.text.size_hint()
    }
}
