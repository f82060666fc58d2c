//! The demonstration's client: submits every message over real SMTP, as an ordinary client does.
//!
//! Each connection sends MAIL, RCPT and DATA in one write, then the content, and waits for the reply to the final dot
//! before its next message. A 4xx is retried after a pause; a connection that breaks after the final dot leaves that
//! message in an unknown state, which is counted and not repeated, so that the demonstration makes no duplicate itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;

use super::content::{self, Maker, Shape};
use super::ledger::Ledger;

/// For each reply; the daemon answers in milliseconds unless its disk stalls.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Before a message that got a 4xx is tried again.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// 4xx replies in a row to one message until the load gives up: a minute of them.
pub(super) const PATIENCE: u32 = 600;

/// What is to be submitted.
#[derive(Clone, Debug)]
pub struct Load {
    /// The submission listener.
    pub server: SocketAddr,
    /// How many messages.
    pub messages: u32,
    /// Over so many connections.
    pub connections: u32,
    /// To whom, and of what size.
    pub shape: Shape,
}

/// How it went, beside what the ledger knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Submitted {
    /// From the first connection to the last 250.
    pub took: Duration,
    /// 4xx replies that were followed by another try.
    pub retries: u64,
    /// Messages whose final dot was sent and not answered.
    pub unknown: u64,
}

/// Why not everything could be submitted.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A connection could not be made or broke before the final dot.
    #[error("the submission listener cannot be talked to: {0}")]
    Connection(#[from] io::Error),
    /// A permanent or unexpected reply, or a temporary one for too long.
    #[error("message {number} was not accepted: {reply}")]
    Refused {
        /// The message.
        number: u32,
        /// What was said.
        reply: String,
    },
}

#[derive(Debug)]
struct Shared {
    load: Load,
    ledger: Arc<Ledger>,
    maker: Maker,
    next: AtomicU32,
    retries: AtomicU64,
    unknown: AtomicU64,
}

/// Submits everything; ends with the first error.
pub async fn submit(load: Load, ledger: &Arc<Ledger>) -> Result<Submitted, LoadError> {
    let started = Instant::now();
    let count = load.connections;
    let shared = Arc::new(Shared {
        maker: Maker::new(load.shape.clone()),
        load,
        ledger: Arc::clone(ledger),
        next: AtomicU32::new(0),
        retries: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
    });
    let mut connections = JoinSet::new();
    for _ in 0..count {
        connections.spawn(work(Arc::clone(&shared)));
    }
    while let Some(ended) = connections.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    Ok(Submitted {
        took: started.elapsed(),
        retries: shared.retries.load(Ordering::Relaxed),
        unknown: shared.unknown.load(Ordering::Relaxed),
    })
}

/// What one try came to.
pub(super) enum Tried {
    /// So long after the content began to leave.
    Accepted(Duration),
    Deferred(String),
    /// The final dot was sent; no reply came.
    Unknown,
}

async fn work(shared: Arc<Shared>) -> Result<(), LoadError> {
    let mut connection = None;
    let mut content = BytesMut::new();
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= shared.load.messages {
            break;
        }
        content.clear();
        shared.maker.write(number, &mut content);
        let size = content.len();
        content.extend_from_slice(b".\r\n");
        for attempt in 0.. {
            let open = match &mut connection {
                Some(open) => open,
                None => connection.insert(Connection::open(shared.load.server).await?),
            };
            let envelope = envelope(number, &shared.maker.forward_path(number), size);
            let tried = open.transact(number, &envelope, &content, || shared.ledger.note_sent(number, size));
            let reply = match tried.await? {
                Tried::Accepted(after) => {
                    shared.ledger.note_acknowledged(number, after);
                    break;
                }
                Tried::Unknown => {
                    shared.unknown.fetch_add(1, Ordering::Relaxed);
                    connection = None;
                    break;
                }
                Tried::Deferred(reply) => reply,
            };
            if attempt == PATIENCE {
                return Err(LoadError::Refused { number, reply });
            }
            // After an error the dialog is ended: no state of it is relied on.
            connection = None;
            shared.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }
    match connection {
        Some(mut connection) => Ok(connection.writer.write_all(b"QUIT\r\n").await?),
        None => Ok(()),
    }
}

/// The commands of a mail transaction before its content.
pub(super) fn envelope(number: u32, forward_path: &str, size: usize) -> String {
    let reverse_path = content::reverse_path(number);
    format!("MAIL FROM:<{reverse_path}> SIZE={size}\r\nRCPT TO:<{forward_path}>\r\nDATA\r\n")
}

/// A connection to the submission listener.
pub(super) struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    line: String,
}

impl Connection {
    pub(super) async fn open(server: SocketAddr) -> Result<Self, LoadError> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let mut connection = Self { reader: BufReader::with_capacity(2_048, reader), writer, line: String::new() };
        connection.reply().await?;
        connection.writer.write_all(b"EHLO demo.test\r\n").await?;
        connection.reply().await?;
        Ok(connection)
    }

    /// One mail transaction; `content` ends with the final dot, and `on_content` is called before it leaves.
    pub(super) async fn transact(
        &mut self,
        number: u32,
        envelope: &str,
        content: &[u8],
        on_content: impl FnOnce(),
    ) -> Result<Tried, LoadError> {
        self.writer.write_all(envelope.as_bytes()).await?;
        for _ in 0..3 {
            match self.reply().await? {
                '2' | '3' => {}
                _ => return self.refused(number),
            }
        }
        on_content();
        let sent = Instant::now();
        self.writer.write_all(content).await?;
        match self.reply().await {
            Ok('2') => Ok(Tried::Accepted(sent.elapsed())),
            Ok(_) => self.refused(number),
            Err(_) => Ok(Tried::Unknown),
        }
    }

    /// The last line was not a success.
    fn refused(&self, number: u32) -> Result<Tried, LoadError> {
        let reply = self.line.trim_end().to_owned();
        match reply.chars().next() {
            Some('4') => Ok(Tried::Deferred(reply)),
            _ => Err(LoadError::Refused { number, reply }),
        }
    }

    /// The first digit of the next reply; its last line is kept.
    async fn reply(&mut self) -> io::Result<char> {
        loop {
            self.line.clear();
            let read = self.reader.read_line(&mut self.line);
            let read = tokio::time::timeout(REPLY_TIMEOUT, read).await??;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.line.as_bytes().get(3) != Some(&b'-') {
                return Ok(self.line.chars().next().unwrap_or('0'));
            }
        }
    }
}
