//! A stream of mail for one strict receiver: as soon as fewer than some are on their way to it, more are submitted.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::JoinSet;

use super::content::{Maker, Shape};
use super::load::{Connection, LoadError, PATIENCE, PAUSE, Tried, envelope};
use super::strict::Strict;

/// Between two looks at how many are on their way.
const LOOK: Duration = Duration::from_millis(5);

/// What is submitted.
#[derive(Clone, Copy, Debug)]
pub struct Feed {
    /// The submission listener.
    pub server: SocketAddr,
    /// Messages that are to be on their way.
    pub backlog: u64,
    /// Over so many connections at most.
    pub connections: u32,
    /// Octets of a content, about.
    pub size: usize,
}

/// How much was submitted.
#[derive(Debug, Default)]
pub struct Fed {
    /// Messages submitted.
    pub submitted: AtomicU64,
    /// Messages begun.
    begun: AtomicU32,
}

/// Submits until it is dropped, or until the daemon refuses.
pub async fn feed(feed: Feed, strict: &Arc<Strict>, fed: &Arc<Fed>) -> Result<Infallible, LoadError> {
    let maker = Arc::new(Maker::new(Shape::Even { domains: vec![strict.domain().to_owned()], size: feed.size }));
    let mut connections = JoinSet::new();
    for _ in 0..feed.connections.max(1) {
        connections.spawn(work(feed, Arc::clone(&maker), Arc::clone(strict), Arc::clone(fed)));
    }
    match connections.join_next().await {
        Some(Ok(Err(error))) => Err(error),
        Some(Ok(Ok(never))) => match never {},
        Some(Err(error)) => Err(io::Error::other(error).into()),
        None => Err(io::Error::from(io::ErrorKind::NotConnected).into()),
    }
}

async fn work(feed: Feed, maker: Arc<Maker>, strict: Arc<Strict>, fed: Arc<Fed>) -> Result<Infallible, LoadError> {
    let mut connection = None;
    let mut content = BytesMut::new();
    loop {
        let counts = strict.counts();
        if u64::from(fed.begun.load(Ordering::Relaxed)) >= counts.accepted + feed.backlog {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let number = fed.begun.fetch_add(1, Ordering::Relaxed);
        content.clear();
        maker.write(number, &mut content);
        let envelope = envelope(number, &maker.forward_path(number), content.len());
        content.extend_from_slice(b".\r\n");
        connection = deliver(feed.server, connection, (number, &envelope, &content)).await?;
        fed.submitted.fetch_add(1, Ordering::Relaxed);
    }
}

/// Submits one message, for as long as it takes; the connection, if it may be used for another.
async fn deliver(
    server: SocketAddr,
    mut connection: Option<Connection>,
    (number, envelope, content): (u32, &str, &[u8]),
) -> Result<Option<Connection>, LoadError> {
    for attempt in 0.. {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(server).await?,
        };
        match open.transact(number, envelope, content, || {}).await {
            Ok(Tried::Accepted(_)) => return Ok(Some(open)),
            // It may have been taken: a second one would be a duplicate of our own making.
            Ok(Tried::Unknown) => break,
            // One that was idle for long has been closed.
            Err(error @ LoadError::Connection(_)) if attempt == PATIENCE => return Err(error),
            Ok(Tried::Deferred(reply)) if attempt == PATIENCE => return Err(LoadError::Refused { number, reply }),
            Ok(Tried::Deferred(_)) | Err(LoadError::Connection(_)) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
