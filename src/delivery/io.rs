//! The octets of one connection, in clear or in TLS: vectored writes that read meanwhile, reads, and the deadline.
//!
//! Every wait ends at the deadline. A write that cannot go on reads what the receiver has to say, so that neither side
//! waits for the other for ever.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::deadline::Deadline;
use super::session::Lost;
use crate::message::{Encryption, Proof};

/// Octets asked of the kernel at once; replies are short.
const READ_SIZE: usize = 2048;

/// A connection to a receiver.
#[derive(Debug)]
pub enum Stream {
    /// In clear.
    Plain(TcpStream),
    /// After STARTTLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn poll_write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(context, slices),
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(context),
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, room: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        let length = room.len();
        room.resize(length + READ_SIZE, 0);
        let mut buffer = ReadBuf::new(room.get_mut(length..).unwrap_or_default());
        let result = match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, &mut buffer),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(context, &mut buffer),
        };
        let read = buffer.filled().len();
        room.truncate(length + read);
        result.map_ok(|()| read)
    }
}

/// What happened first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// So many octets went out.
    Wrote(usize),
    /// The receiver sent something, or FIN (0).
    Read(usize),
}

/// A connection with its deadline.
#[derive(Debug)]
pub struct Io {
    stream: Stream,
    deadline: Deadline,
}

impl Io {
    /// Wraps a connection; no wait will be shorter than `tick`.
    pub fn new(stream: Stream, tick: Duration) -> Self {
        Self { stream, deadline: Deadline::new(tick) }
    }

    /// The connection in clear, to be secured; none if it already is.
    pub fn into_plain(self) -> Option<TcpStream> {
        match self.stream {
            Stream::Plain(stream) => Some(stream),
            Stream::Tls(_) => None,
        }
    }

    /// How the connection is encrypted, if it is; `proof` is what the handshake has shown.
    pub fn tls(&self, proof: Proof) -> Option<Encryption> {
        let Stream::Tls(stream) = &self.stream else { return None };
        let session = stream.get_ref().1;
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            // No other one is compiled in.
            _ => "TLS",
        };
        let suite = session.negotiated_cipher_suite();
        let cipher = suite.and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
        Some(Encryption { version, cipher, proof })
    }

    /// The wait that begins now ends after `timeout`.
    pub fn set_deadline(&mut self, timeout: Duration) {
        self.deadline.set(timeout);
    }

    /// Writes some of `slices`, or reads into `room` while that is not possible.
    pub async fn turn(&mut self, slices: &[IoSlice<'_>], room: &mut Vec<u8>) -> Result<Turn, Lost> {
        poll_fn(|context| {
            match self.stream.poll_write(context, slices) {
                Poll::Ready(Ok(written)) => return Poll::Ready(Ok(Turn::Wrote(written))),
                // A receiver that refuses content and closes resets the connection: its reply may still be here.
                Poll::Ready(Err(error)) => match self.stream.poll_read(context, room) {
                    Poll::Ready(Ok(read @ 1..)) => return Poll::Ready(Ok(Turn::Read(read))),
                    _ => return Poll::Ready(Err(lost(&error))),
                },
                Poll::Pending => {}
            }
            if let Poll::Ready(result) = self.stream.poll_read(context, room) {
                return Poll::Ready(result.map(Turn::Read).map_err(|error| lost(&error)));
            }
            self.deadline.poll(context).map(|()| Err(Lost::TimedOut))
        })
        .await
    }

    /// Waits for octets of the receiver; FIN is a loss.
    pub async fn read(&mut self, room: &mut Vec<u8>) -> Result<(), Lost> {
        let read = poll_fn(|context| {
            if let Poll::Ready(result) = self.stream.poll_read(context, room) {
                return Poll::Ready(result.map_err(|error| lost(&error)));
            }
            self.deadline.poll(context).map(|()| Err(Lost::TimedOut))
        });
        if read.await? == 0 { Err(Lost::Closed) } else { Ok(()) }
    }

    /// Writes all of `octets`; what the receiver says meanwhile goes into `room`.
    pub async fn write(&mut self, mut octets: &[u8], room: &mut Vec<u8>) -> Result<(), Lost> {
        while !octets.is_empty() {
            match self.turn(&[IoSlice::new(octets)], room).await? {
                Turn::Wrote(0) | Turn::Read(0) => return Err(Lost::Closed),
                Turn::Wrote(written) => octets = octets.get(written..).unwrap_or_default(),
                Turn::Read(_) => {}
            }
        }
        self.flush().await
    }

    /// Hands everything to the kernel: TLS keeps records back.
    pub async fn flush(&mut self) -> Result<(), Lost> {
        if matches!(self.stream, Stream::Plain(_)) {
            return Ok(());
        }
        poll_fn(|context| {
            if let Poll::Ready(result) = self.stream.poll_flush(context) {
                return Poll::Ready(result.map_err(|error| lost(&error)));
            }
            self.deadline.poll(context).map(|()| Err(Lost::TimedOut))
        })
        .await
    }

    /// Whether the receiver closes within `wait`. What it says before goes into `room`; then it does not close now, unless
    /// `is_over`: then it is not listened to any more.
    pub async fn closes(&mut self, wait: Duration, room: &mut Vec<u8>, is_over: bool) -> bool {
        let closing = poll_fn(|context| {
            loop {
                match ready!(self.stream.poll_read(context, room)) {
                    Ok(1..) if is_over => room.clear(),
                    Ok(1..) => return Poll::Ready(false),
                    Ok(0) | Err(_) => return Poll::Ready(true),
                }
            }
        });
        tokio::time::timeout(wait, closing).await.unwrap_or(false)
    }

    /// Resolves when an idle receiver sends anything or closes; what it sent matters no more.
    pub async fn spoke(&mut self) {
        let mut room = Vec::new();
        poll_fn(|context| self.poll_spoke(context, &mut room)).await;
    }

    /// Whether the receiver has already sent something (now in `room`) or closed.
    pub async fn has_spoken(&mut self, room: &mut Vec<u8>) -> bool {
        poll_fn(|context| Poll::Ready(self.poll_spoke(context, room).is_ready())).await
    }

    fn poll_spoke(&mut self, context: &mut Context<'_>, room: &mut Vec<u8>) -> Poll<()> {
        ready!(self.stream.poll_read(context, room)).ok();
        Poll::Ready(())
    }
}

fn lost(error: &io::Error) -> Lost {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Lost::Closed,
        _ => Lost::Broken(error.to_string()),
    }
}
