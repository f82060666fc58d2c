//! The listener: connections with bounds on their number, their time and what they send, since everybody may connect.
//!
//! Who comes when all seats are taken gets that of the connection that has been quiet for longest ([`Seats`](crate::web::Seats)); connections
//! that stall keep nobody out.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Unsubscribe;
use super::link::Fault;
use super::page::Page;
use super::scribe::{NotStored, Order, Scribe};
use super::wish::Wish;
use super::{naming, rates};
use crate::tls::Acceptor;
use crate::web::{self, Answering, Bounds, NoBody, Seat, SeatLost};

/// What one listener's clients may take; a body that asks for something has 26 octets, or a few hundred as multipart/form-data.
const BOUNDS: Bounds = Bounds {
    connections: 1_024,
    head_timeout: Duration::from_secs(10),
    head_size: 8 << 10,
    body_timeout: Duration::from_secs(10),
    largest_body: 4 << 10,
    most_read: 64 << 10,
};
/// For everything on one connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
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

/// Answers until `stop`; requests that are being answered then are finished.
pub async fn serve(door: Door, unsubscribe: Unsubscribe, stop: CancellationToken) {
    let wall = unsubscribe.0.wall.clone();
    let (sender, fresh) = mpsc::channel(naming::WAITING);
    let (scribe, work) = Scribe::new(unsubscribe.clone(), sender);
    let naming = unsubscribe.clone().name(fresh, stop.clone());
    let forgetting = stop.clone().run_until_cancelled_owned(forget(unsubscribe.clone()));
    // The work ends when the last connection has, with the scribe.
    let accepting = web::accept(Gate { door, unsubscribe, scribe }, BOUNDS.connections, &wall, stop);
    let _ = tokio::join!(accepting, wall.run(work), wall.run(naming), forgetting);
}

async fn forget(unsubscribe: Unsubscribe) {
    loop {
        tokio::time::sleep(FORGET).await;
        unsubscribe.0.rates.forget();
    }
}

/// Where visitors come in.
struct Gate {
    door: Door,
    unsubscribe: Unsubscribe,
    scribe: Scribe,
}

impl web::Door for Gate {
    type Connection = (TcpStream, SocketAddr);

    const NAME: &'static str = "the listener of [unsubscribe]";

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Self::Connection>> {
        self.door.listener.poll_accept(context)
    }

    fn admits(&self, (_, peer): &Self::Connection) -> bool {
        let (inner, peer) = (&self.unsubscribe.0, peer.ip().to_canonical());
        let is_proxy = rates::is_proxy(peer, &inner.links.load().settings.proxy_networks);
        let is_admitted = is_proxy || inner.rates.takes_connection(peer);
        if !is_admitted {
            inner.metrics.connections_refused.increment(1);
        }
        is_admitted
    }

    fn serve(
        &self,
        (stream, peer): Self::Connection,
        seat: Seat,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (unsubscribe, scribe) = (self.unsubscribe.clone(), self.scribe.clone());
        let visitor = Visitor { unsubscribe, scribe, peer: peer.ip().to_canonical(), seat: Arc::new(seat) };
        visitor.begin(stream, self.door.tls.load_full(), stop)
    }
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
    /// The handshake, if there is one, and then everything else.
    async fn begin(self, stream: TcpStream, tls: Option<Arc<Acceptor>>, stop: CancellationToken) {
        let Some(tls) = tls else { return self.converse(stream, stop).await };
        if let Some(stream) = web::secured(stream, &tls, &BOUNDS, &self.seat, &stop).await {
            self.converse(stream, stop).await;
        }
    }

    async fn converse(self, stream: impl AsyncRead + AsyncWrite + Unpin, stop: CancellationToken) {
        let seat = Arc::clone(&self.seat);
        let service = service_fn(move |request| {
            let visitor = self.clone();
            async move { visitor.answer(request).await }
        });
        let conversation = web::converse(stream, service, &BOUNDS, &seat, &stop);
        let _ = tokio::time::timeout(CONNECTION_TIMEOUT, conversation).await;
    }

    /// Takes the whole request within its time, and keeps the connection's seat while it is answered.
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Answer>, SeatLost> {
        let (head, body) = request.into_parts();
        let body = web::collected(body, &BOUNDS).await;
        let answering = self.seat.answer().ok_or(SeatLost)?;
        let inner = &self.unsubscribe.0;
        let begun = inner.clock.now();
        let page = self.decide(&head, body).await;
        inner.metrics.count(page.outcome(), inner.clock.now().duration_since(begun));
        Ok(page.response().map(|text| Answer { text: Full::new(Bytes::from(text)), _answering: answering }))
    }

    async fn decide(&self, head: &Parts, body: Result<Bytes, NoBody>) -> Page {
        let inner = &self.unsubscribe.0;
        let links = inner.links.load_full();
        let client = rates::client(self.peer, &head.headers, &links.settings.proxy_networks);
        if !inner.rates.takes_request(client) {
            return Page::TooMany;
        }
        let body = match body {
            Ok(body) => body,
            Err(NoBody::TooLarge) => return Page::TooLarge,
            // Where it broke off nobody is there to be answered.
            Err(NoBody::Stalled | NoBody::Broken(_)) => return Page::Late,
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
