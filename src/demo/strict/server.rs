//! A strict receiver's sockets.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::{Dialog, Next, Strict};
use crate::simulate::Time;
use crate::simulate::receiver::Knock;

/// A session that says nothing for this long is closed (RFC 5321, 4.5.3.2.7).
const IDLE: Duration = Duration::from_secs(300);
/// How long the other side has to close after we did. What it has sent ahead is read meanwhile: unread octets would have the
/// system reset the connection, and the last reply be lost with it.
const FAREWELL: Duration = Duration::from_secs(2);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const READ_SIZE: usize = 16 << 10;

/// Serves a listener until it is dropped, with its sessions.
pub async fn listen(strict: Arc<Strict>, listener: TcpListener) -> Infallible {
    let mut sessions = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let strict = Arc::clone(&strict);
                sessions.spawn(async move {
                    // What the other side does to a connection is its own affair here.
                    let _ended = serve(&strict, stream).await;
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
        while sessions.try_join_next().is_some() {}
    }
}

/// A connection that counts as open.
struct Open<'a>(&'a Strict);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// One connection, from its attempt to its end.
async fn serve(strict: &Strict, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (knock, at) = strict.knock(now(strict));
    let open = (knock == Knock::Open).then(|| Open(strict));
    wait(strict, at).await;
    match knock {
        Knock::Dead | Knock::Silence => return Ok(()),
        Knock::TooMany => {
            stream.write_all(Dialog::refusal().as_bytes()).await?;
            return farewell(stream).await;
        }
        Knock::Open => {}
    }
    let mut replies = Dialog::greeting(strict).into_bytes();
    let (mut dialog, mut input) = (Dialog::default(), BytesMut::with_capacity(READ_SIZE));
    loop {
        let next = dialog.step(&mut input, &mut replies, strict, now(strict));
        if !replies.is_empty() {
            stream.write_all(&replies).await?;
            replies.clear();
        }
        match next {
            Next::Wait(until) => wait(strict, until).await,
            Next::Close => break,
            Next::Read => {
                input.reserve(READ_SIZE);
                if timeout(IDLE, stream.read_buf(&mut input)).await?? == 0 {
                    return Ok(());
                }
            }
        }
    }
    drop(open);
    farewell(stream).await
}

/// Closes in a way by which the last reply arrives.
async fn farewell(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    let drained = async {
        while stream.read(&mut rest).await? > 0 {}
        Ok(())
    };
    timeout(FAREWELL, drained).await.unwrap_or(Ok(()))
}

fn now(strict: &Strict) -> Time {
    strict.time(Instant::now())
}

async fn wait(strict: &Strict, until: Time) {
    let until = strict.instant(until);
    if until > Instant::now() {
        sleep_until(until.into()).await;
    }
}
