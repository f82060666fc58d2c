//! What a session is spoken over: the socket, or TLS on it.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::tls::{Acceptor, Secured, TlsStream};

/// A handshake takes a client two round trips; RFC 5321 has no time-out for it.
const HANDSHAKE_MOST: Duration = Duration::from_secs(30);

/// A connection with a client.
#[derive(Debug)]
pub(super) enum Wire {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// A handshake failed.
    Broken,
}

impl Wire {
    /// The handshake, in place of clear text. Afterwards it is under TLS or broken.
    pub async fn secure(&mut self, acceptor: &Acceptor) -> io::Result<Secured> {
        let Self::Clear(stream) = std::mem::replace(self, Self::Broken) else { return Err(broken()) };
        let handshake = tokio::time::timeout(HANDSHAKE_MOST, acceptor.accept(stream));
        let (stream, secured) = handshake.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        *self = Self::Tls(Box::new(stream));
        Ok(secured)
    }

    /// Appends what comes; nothing was read if it is dropped.
    pub async fn read(&mut self, input: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read_buf(input).await,
            Self::Tls(stream) => stream.read_buf(input).await,
            Self::Broken => Err(broken()),
        }
    }

    /// What the socket takes without waiting; under TLS nothing, since records would have to wait with it.
    pub fn try_write(&self, output: &[u8]) -> usize {
        match self {
            Self::Clear(stream) => stream.try_write(output).unwrap_or_default(),
            Self::Tls(_) | Self::Broken => 0,
        }
    }

    /// Writes everything.
    pub async fn write(&mut self, output: &[u8]) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.write_all(output).await,
            Self::Tls(stream) => {
                stream.write_all(output).await?;
                stream.flush().await
            }
            Self::Broken => Err(broken()),
        }
    }

    /// Tells the client that nothing more comes, then reads until it closes, throwing away what it says.
    pub async fn shut(&mut self) -> io::Result<()> {
        let mut sink = Vec::with_capacity(4_096);
        match self {
            Self::Clear(stream) => stream.shutdown().await?,
            Self::Tls(stream) => stream.shutdown().await?,
            Self::Broken => return Ok(()),
        }
        while self.read(&mut sink).await? > 0 {
            sink.clear();
        }
        Ok(())
    }
}

fn broken() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
