//! HTTP/1.1 servers with bounds: so many connections, so long for a handshake, a request's head and its body, so much memory for each.
//!
//! What is bounded here is what a broken or hostile client could take from the daemon (descriptors, memory, tasks) and from other
//! clients ([`Seats`]). Who may come, what is answered, and how long a connection may take in all, is for whoever listens.

mod seats;

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::panics::Bulkhead;
use crate::tls::{Acceptor, TlsStream};

pub use seats::{Answering, Seat, Seats};

/// After a failed accept (no descriptors left): else the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What clients of one listener may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections that are served at once.
    pub connections: usize,
    /// For a handshake or a request's head; also how long a connection may sit idle.
    pub head_timeout: Duration,
    /// Octets of memory for a request's head; hyper's least is 8 KiB.
    pub head_size: usize,
    /// For a request's body.
    pub body_timeout: Duration,
    /// Octets of the largest body.
    pub largest_body: usize,
    /// A body is read up to here, though it is refused as too large: a client that is cut off while it sends sees no answer.
    pub most_read: usize,
}

/// Where clients come in, and what becomes of them. Dropped when it takes no more.
pub trait Door: Sync {
    /// One that has come.
    type Connection;

    /// As the log names it.
    const NAME: &'static str;

    /// The next one.
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Self::Connection>>;

    /// Whether it is served at all.
    fn admits(&self, _connection: &Self::Connection) -> bool {
        true
    }

    /// Serves it to its end. After `stop` only what has been asked is still answered.
    fn serve(
        &self,
        connection: Self::Connection,
        seat: Seat,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static;
}

/// Serves who comes until `stop`, so many at once; requests that are being answered then are finished.
pub async fn accept<D: Door>(door: D, connections: usize, wall: &Bulkhead, stop: CancellationToken) {
    let seats = Seats::new(connections);
    let mut served = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = served.join_next() => continue,
            accepted = poll_fn(|context| door.poll_accept(context)) => accepted,
        };
        match accepted {
            Ok(connection) if door.admits(&connection) => {
                let Some(seat) = stop.run_until_cancelled(seats.take()).await else { break };
                served.spawn(wall.run(door.serve(connection, seat, stop.clone())));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "{} cannot accept a connection", D::NAME);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Its address is free for another one while requests are finished.
    drop(door);
    while served.join_next().await.is_some() {}
}

/// Does the handshake. None: it failed, took too long, or the seat was lost; what a client does to its own concerns nobody else.
pub async fn secured<S>(
    stream: S,
    tls: &Acceptor,
    bounds: &Bounds,
    seat: &Seat,
    stop: &CancellationToken,
) -> Option<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let secured = tokio::select! {
        secured = tokio::time::timeout(bounds.head_timeout, tls.accept(stream)) => secured,
        () = seat.lost() => return None,
        () = stop.cancelled() => return None,
    };
    secured.ok()?.ok().map(|(stream, _)| stream)
}

/// Has `service` answer what comes over a connection until that ends, or its seat is lost; after `stop` what has been asked.
/// What a client does to its own connection concerns nobody else.
pub async fn converse<S, V, B>(stream: S, service: V, bounds: &Bounds, seat: &Seat, stop: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
    V: Service<Request<Incoming>, Response = Response<B>, Error = SeatLost>,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_timeout)
        .max_buf_size(bounds.head_size)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = seat.lost() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Ends a connection whose seat somebody else has got.
#[derive(Debug, thiserror::Error)]
#[error("the seat of the connection is lost")]
pub struct SeatLost;

/// Why there is no body.
#[derive(Debug)]
pub enum NoBody {
    /// It has more octets than any request needs.
    TooLarge,
    /// It did not come in time.
    Stalled,
    /// It broke off.
    Broken(Box<dyn Error + Send + Sync>),
}

/// A whole body, which is small.
pub async fn collected(body: Incoming, bounds: &Bounds) -> Result<Bytes, NoBody> {
    let body = Limited::new(body, bounds.most_read).collect();
    match tokio::time::timeout(bounds.body_timeout, body).await {
        Ok(Ok(body)) => Some(body.to_bytes()).filter(|body| body.len() <= bounds.largest_body).ok_or(NoBody::TooLarge),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(NoBody::TooLarge),
        Ok(Err(error)) => Err(NoBody::Broken(error)),
        Err(_) => Err(NoBody::Stalled),
    }
}
