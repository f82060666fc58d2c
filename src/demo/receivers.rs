//! The demonstration's receivers: one SMTP server for each site, all on one port of different loopback addresses. One more
//! limits what it takes ([`super::strict`]).
//!
//! [`Receivers::start`] binds and serves until it is stopped. They share the machine with the daemon that they take
//! mail from, so a session is one task with one buffer and answers a pipelined group with one write.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::latency::Latencies;
use super::ledger::Ledger;
use super::session::{Flow, Session};
use super::sites::{self, Character, LIMITED_ADDRESS, LIMITED_DOMAIN, SITES, Site};
use super::strict::{self, Strict};

/// A session that says nothing for this long is closed; RFC 5321, 4.5.3.2.7 asks for five minutes.
const IDLE: Duration = Duration::from_secs(300);
const READ_SIZE: usize = 64 << 10;
/// Ports tried until one is free on every address.
const PORT_ATTEMPTS: usize = 50;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One site's server, shared by its sessions.
#[derive(Debug)]
pub struct Receiver {
    /// What it is.
    pub site: Site,
    /// What it did.
    pub counts: Counts,
    /// From submission to arrival here.
    pub arrived: Latencies,
    pub(super) ledger: Arc<Ledger>,
    /// By message number: milliseconds (plus one) of the first try; 0: not tried yet.
    first_tries: Vec<AtomicU32>,
    open: AtomicUsize,
}

/// What a receiver did; only counted up.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections taken.
    pub connections: AtomicU64,
    /// Connections refused with 421.
    pub refused_connections: AtomicU64,
    /// Messages taken.
    pub delivered: AtomicU64,
    /// Recipients or messages turned away for now.
    pub deferred: AtomicU64,
    /// Recipients turned away for good.
    pub refused: AtomicU64,
}

impl Counts {
    pub(super) fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Receiver {
    /// A receiver that enters what it takes into `ledger`; `messages` are expected at most.
    pub fn new(site: Site, ledger: Arc<Ledger>, messages: u32) -> Self {
        let has_memory = matches!(site.character, Character::Greylisting { .. } | Character::Moody { .. });
        let first_tries = if has_memory { (0..messages).map(|_| AtomicU32::new(0)).collect() } else { Vec::new() };
        Self {
            site,
            counts: Counts::default(),
            arrived: Latencies::default(),
            ledger,
            first_tries,
            open: AtomicUsize::new(0),
        }
    }

    /// How long ago message `number` was first tried here; none: this is the first time.
    pub(super) fn since_first_try(&self, number: u32) -> Option<Duration> {
        let first = self.first_tries.get(usize::try_from(number).ok()?)?;
        let now = u32::try_from(self.ledger.elapsed().as_millis()).unwrap_or(u32::MAX).saturating_add(1);
        let before = first.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire).err()?;
        Some(Duration::from_millis(u64::from(now.saturating_sub(before))))
    }
}

/// Every site's server.
#[derive(Debug)]
pub struct Receivers {
    /// One for each of [`SITES`], in their order.
    pub sites: Vec<Arc<Receiver>>,
    /// The one that limits.
    pub limited: Arc<Strict>,
    port: u16,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Receivers {
    /// Binds every address on one free port and serves; `messages` are expected at most.
    pub async fn start(ledger: &Arc<Ledger>, messages: u32) -> io::Result<Self> {
        let mut addresses = SITES.map(|site| site.address).to_vec();
        addresses.push(LIMITED_ADDRESS);
        let (port, mut listeners) = bind(&addresses).await?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let limited = Arc::new(Strict::new(sites::limited(), LIMITED_DOMAIN, Instant::now(), 1, 1));
        if let Some(listener) = listeners.pop() {
            let (limited, stop) = (Arc::clone(&limited), stop.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    never = strict::listen(limited, listener) => match never {},
                }
            });
        }
        let mut sites = Vec::new();
        for (site, listener) in SITES.iter().zip(listeners) {
            let receiver = Arc::new(Receiver::new(*site, Arc::clone(ledger), messages));
            sites.push(Arc::clone(&receiver));
            tasks.spawn(listen(receiver, listener, stop.clone(), tasks.clone()));
        }
        Ok(Self { sites, limited, port, stop, tasks })
    }

    /// The port that all of them listen on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes listeners and sessions.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// One port that is free on every address, with listeners there.
pub async fn bind(addresses: &[Ipv4Addr]) -> io::Result<(u16, Vec<TcpListener>)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_ATTEMPTS {
        let first = TcpListener::bind((Ipv4Addr::new(127, 77, 0, 0), 0)).await?;
        let port = first.local_addr()?.port();
        drop(first);
        match bind_port(addresses, port).await {
            Ok(listeners) => return Ok((port, listeners)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn bind_port(addresses: &[Ipv4Addr], port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(TcpListener::bind(SocketAddr::from((*address, port))).await?);
    }
    Ok(listeners)
}

/// Serves one listener until `stop`; sessions are among `tasks`.
pub async fn listen(receiver: Arc<Receiver>, listener: TcpListener, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => drop(tasks.spawn(serve(Arc::clone(&receiver), stream, stop.clone()))),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// One session, until it ends or `stop`.
async fn serve(receiver: Arc<Receiver>, stream: TcpStream, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        // What the other side does to a connection is its own affair here.
        _ = converse(&receiver, stream) => {}
    }
}

/// Counts a connection as open while it lives.
struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn converse(receiver: &Receiver, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let others = receiver.open.fetch_add(1, Ordering::AcqRel);
    let _open = Open(&receiver.open);
    if matches!(receiver.site.character, Character::FewConnections { most, .. } if others >= most) {
        Counts::add(&receiver.counts.refused_connections);
        return stream.write_all(b"421 4.7.0 too many connections from your address\r\n").await;
    }
    Counts::add(&receiver.counts.connections);
    let mut session = Session::default();
    let mut input = BytesMut::with_capacity(READ_SIZE);
    let mut replies = format!("220 mx.{} ESMTP demonstration\r\n", receiver.site.domain).into_bytes();
    loop {
        if !replies.is_empty() {
            let delay = receiver.site.character.delay();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            stream.write_all(&replies).await?;
            replies.clear();
        }
        input.reserve(READ_SIZE);
        let read = tokio::time::timeout(IDLE, stream.read_buf(&mut input)).await??;
        if read == 0 {
            return Ok(());
        }
        if session.feed(&mut input, &mut replies, receiver) == Flow::Close {
            return stream.write_all(&replies).await;
        }
    }
}
