//! Bodies that are longer than memory is large: taken and given piece by piece, between connections and threads that block.
//!
//! The end of a body is a piece of its own: whoever goes away without it has broken off, which is an error at the other side and
//! never a body that is shorter.

use std::io::{self, BufRead, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pieces that wait: enough that neither side waits for the other's every step.
const WAITING: usize = 8;

/// A piece of a body.
#[derive(Debug)]
pub enum Piece {
    /// What comes next.
    Octets(Bytes),
    /// Nothing comes after it.
    End,
}

/// Where pieces are put; whoever puts them waits while eight of them have not been taken.
pub type Inlet = mpsc::Sender<io::Result<Piece>>;

/// Where they come out: as lines for a thread that blocks, or as the body of a request or an answer.
#[derive(Debug)]
pub struct Outlet {
    pieces: mpsc::Receiver<io::Result<Piece>>,
    current: Bytes,
    is_over: bool,
}

/// Both ends of a body.
pub fn pipe() -> (Inlet, Outlet) {
    let (inlet, pieces) = mpsc::channel(WAITING);
    (inlet, Outlet { pieces, current: Bytes::new(), is_over: false })
}

fn broken_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off before its end")
}

impl Outlet {
    /// What comes next; none: the end.
    fn took(&mut self, piece: Option<io::Result<Piece>>) -> Option<io::Result<Bytes>> {
        match piece.unwrap_or_else(|| Err(broken_off())) {
            Ok(Piece::Octets(octets)) => Some(Ok(octets)),
            Ok(Piece::End) => {
                self.is_over = true;
                None
            }
            Err(error) => {
                self.is_over = true;
                Some(Err(error))
            }
        }
    }
}

impl Read for Outlet {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut octets = self.fill_buf()?;
        let read = octets.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

/// For threads outside of the runtime.
impl BufRead for Outlet {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.is_over {
            let piece = self.pieces.blocking_recv();
            if let Some(octets) = self.took(piece) {
                self.current = octets?;
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, taken: usize) {
        self.current.advance(taken.min(self.current.len()));
    }
}

impl Body for Outlet {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let outlet = self.get_mut();
        if outlet.is_over {
            return Poll::Ready(None);
        }
        outlet.pieces.poll_recv(context).map(|piece| outlet.took(piece).map(|octets| octets.map(Frame::data)))
    }
}

/// Hands a body on until its end, until it breaks off, or until `stop`: then it ends with an error.
pub(super) async fn pump(mut body: axum::body::Body, inlet: Inlet, stop: CancellationToken) {
    loop {
        let frame = tokio::select! {
            () = stop.cancelled() => Some(Err(io::Error::other("the daemon is being stopped"))),
            () = inlet.closed() => return,
            frame = body.frame() => frame.map(|frame| frame.map_err(io::Error::other)),
        };
        let piece = match frame {
            None => Ok(Piece::End),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(octets) => Ok(Piece::Octets(octets)),
                // Trailer fields (RFC 9110, 6.5), which mean nothing here.
                Err(_) => continue,
            },
            Some(Err(error)) => Err(error),
        };
        let is_last = !matches!(piece, Ok(Piece::Octets(_)));
        if inlet.send(piece).await.is_err() || is_last {
            return;
        }
    }
}

/// Until when a connection may go on. Cheap to clone: whoever moves a piece of a stream over it says so.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    end: Arc<Mutex<Instant>>,
    timeout: Duration,
}

impl Pace {
    /// Goes on for so long, and as long again after each piece.
    pub fn new(timeout: Duration) -> Self {
        Self { end: Arc::new(Mutex::new(Instant::now() + timeout)), timeout }
    }

    /// A piece has moved.
    pub fn moved(&self) {
        *self.end.lock() = Instant::now() + self.timeout;
    }

    /// Resolves when the time is over.
    pub async fn over(&self) {
        loop {
            let end = *self.end.lock();
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_were_cut_and_a_body_that_breaks_off_is_an_error() {
        let (inlet, mut outlet) = pipe();
        for part in ["ann@exam", "", "ple.com\nbob", "@example.com\nca"] {
            inlet.blocking_send(Ok(Piece::Octets(part.into()))).unwrap();
        }
        drop(inlet);
        let mut lines = (&mut outlet).lines();

        assert_eq!(lines.next().unwrap().unwrap(), "ann@example.com");
        assert_eq!(lines.next().unwrap().unwrap(), "bob@example.com");
        assert_eq!(lines.next().unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_body_ends_where_its_end_was_put_and_nowhere_else() {
        let (inlet, outlet) = pipe();
        inlet.send(Ok(Piece::Octets("ab".into()))).await.unwrap();
        inlet.send(Ok(Piece::End)).await.unwrap();
        let (cut, short) = pipe();
        cut.send(Ok(Piece::Octets("ab".into()))).await.unwrap();
        drop(cut);

        assert_eq!(outlet.collect().await.unwrap().to_bytes(), "ab");
        assert!(short.collect().await.is_err());
    }

    #[tokio::test]
    async fn what_is_pumped_ends_with_an_error_when_the_daemon_stops() {
        let (_held, body) = pipe();
        let (inlet, outlet) = pipe();
        let stop = CancellationToken::new();
        stop.cancel();

        pump(axum::body::Body::new(body), inlet, stop).await;

        let error = outlet.collect().await.unwrap_err();
        assert!(error.to_string().contains("stopped"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_goes_on_for_as_long_as_pieces_move() {
        let pace = Pace::new(Duration::from_secs(10));
        let begun = Instant::now();
        let moving = pace.clone();
        let mover = tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                moving.moved();
            }
        });

        pace.over().await;

        assert_eq!(begun.elapsed(), Duration::from_secs(55));
        mover.await.unwrap();
    }
}
