//! A listener on port 0 with a real spool in a temporary directory and a queue that delivers nothing, and a client for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hikyaku::clock::Clock;
use hikyaku::dns::{self, Planner};
use hikyaku::log::disk::Disk;
use hikyaku::log::storage::{Entry, Space, Storage, StorageFile};
use hikyaku::message::MessageId;
use hikyaku::metrics::Registry;
use hikyaku::queue::{self, Queue};
use hikyaku::spool::{self, Attempts, Spool};
use hikyaku::state::Orders;
use hikyaku::submission::{Door, Leftover, Services, Settings, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running listener.
pub struct Server {
    pub address: SocketAddr,
    pub spool: Spool,
    pub queue: Queue,
    pub registry: Registry,
    pub stop: CancellationToken,
    pub storage: Arc<Faulty>,
    pub running: JoinHandle<()>,
    _root: tempfile::TempDir,
}

impl Server {
    pub async fn start(settings: Settings) -> Self {
        Self::with_queue(settings, queue::Settings::default()).await
    }

    pub async fn with_queue(settings: Settings, queue: queue::Settings) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (clock, registry) = (Clock::system(), Registry::new().unwrap());
        let storage = Arc::new(Faulty::new(Disk::new(root.path().join("spool"))));
        let (spool, recovery) = Spool::open(spool_settings(), storage.clone(), clock, &registry).unwrap();
        recovery.run(&mut |_| {});
        let resolvers = vec!["127.0.0.1:1".parse().unwrap()];
        let planner = Planner::new(dns::Settings { resolvers, ..dns::Settings::default() }, clock, &registry).unwrap();
        let orders = Orders::open(storage.clone(), clock.wall()).unwrap();
        let queue = Queue::new(queue, spool.clone(), orders, Arc::new(planner), clock, &registry);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let services = Services::new(spool.clone(), queue.clone(), clock, "mx.test".into(), &registry);
        let stop = CancellationToken::new();
        let running = tokio::spawn(serve(listener, Door::new(settings, services), Leftover::IsToldToGo, stop.clone()));
        Self { address, spool, queue, registry, stop, storage, running, _root: root }
    }

    /// A client that has read the greeting.
    pub async fn client(&self) -> Client {
        let mut client = Client::connect(self.address).await;
        let greeting = client.reply().await;
        assert!(greeting.starts_with("220 "), "{greeting}");
        client
    }

    /// A client that has said EHLO.
    pub async fn ready(&self) -> Client {
        let mut client = self.client().await;
        client.command("EHLO client.test").await;
        client
    }

    /// The value of a metric without labels, or with exactly these.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.registry.render();
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until no session is open.
    pub async fn idle(&self) {
        let begun = Instant::now();
        while self.metric("hikyaku_submission_sessions") > 0.0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "sessions are left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The stored content, without the fields added on top.
    pub fn content(&self, id: MessageId) -> Vec<u8> {
        let message = self.spool.load(id).unwrap();
        let mut content = Vec::new();
        loop {
            let chunk = message.content.chunk(content.len() as u64, 1 << 20).unwrap();
            if chunk.is_empty() {
                return content;
            }
            content.extend_from_slice(&chunk);
        }
    }
}

fn spool_settings() -> spool::Settings {
    spool::Settings {
        path: "unused".into(),
        segment_size: 16 << 20,
        reserve: 1 << 20,
        sync: true,
        attempts: Attempts::Write,
        deadline: Duration::from_secs(60),
        cache: 0,
        keys: hikyaku::spool::Keys::default(),
    }
}

/// Takes the first reply, all its lines, out of what was read; none: it has not all come yet.
pub fn first_reply(buffer: &mut Vec<u8>) -> Option<String> {
    let text = String::from_utf8(buffer.clone()).unwrap();
    let mut end = 0;
    for line in text.split_inclusive("\r\n").filter(|line| line.ends_with("\r\n")) {
        end += line.len();
        if line.as_bytes()[3] == b' ' {
            buffer.drain(..end);
            return Some(text[..end].to_owned());
        }
    }
    None
}

/// A client that sends what it is told and reads replies.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).await.unwrap())
    }

    pub fn of(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub async fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.stream.write_all(octets.as_ref()).await.unwrap();
    }

    /// One reply, all its lines; empty when the connection is closed.
    pub async fn reply(&mut self) -> String {
        loop {
            if let Some(reply) = first_reply(&mut self.buffer) {
                return reply;
            }
            let read = tokio::time::timeout(Duration::from_secs(30), self.stream.read_buf(&mut self.buffer)).await;
            if read.expect("a reply within 30 s").unwrap_or_default() == 0 {
                return String::new();
            }
        }
    }

    pub async fn command(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.reply().await
    }

    /// MAIL, RCPT and DATA in one write; their replies.
    pub async fn envelope(&mut self) -> [String; 3] {
        self.send("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n").await;
        [self.reply().await, self.reply().await, self.reply().await]
    }

    /// Sends a message by DATA; the last reply.
    pub async fn submit(&mut self, content: &[u8]) -> String {
        let replies = self.envelope().await;
        assert!(replies[2].starts_with("354"), "{replies:?}");
        self.send(stuffed(content)).await;
        self.reply().await
    }
}

/// Dot-stuffed, with the end of data.
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 16);
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// The id in `250 2.0.0 Ok: queued as ...`.
pub fn id_of(reply: &str) -> MessageId {
    assert!(reply.starts_with("250 2.0.0 "), "{reply}");
    reply.trim_end().rsplit(' ').next().unwrap().parse().unwrap()
}

/// A disk that fails or fills on demand.
#[derive(Debug)]
pub struct Faulty {
    disk: Disk,
    /// Every sync fails.
    pub fails: Arc<AtomicBool>,
    /// No content can have a file of its own.
    pub spills_fail: AtomicBool,
    /// Hardly any space is free.
    pub is_full: AtomicBool,
}

impl Faulty {
    fn new(disk: Disk) -> Self {
        Self { disk, fails: Arc::default(), spills_fail: AtomicBool::new(false), is_full: AtomicBool::new(false) }
    }

    fn wrap(&self, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(FaultyFile { file, fails: Arc::clone(&self.fails) })
    }

    fn check(&self) -> io::Result<()> {
        failure(&self.fails)
    }
}

fn failure(fails: &AtomicBool) -> io::Result<()> {
    if fails.load(Ordering::SeqCst) { Err(io::Error::other("broken on demand")) } else { Ok(()) }
}

impl Storage for Faulty {
    fn claim(&self, directories: &[&str]) -> io::Result<()> {
        self.disk.claim(directories)
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.check()?;
        if name.starts_with("spill/") {
            failure(&self.spills_fail)?;
        }
        self.disk.create(name).map(|file| self.wrap(file))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.disk.open(name).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn list(&self, directory: &str) -> io::Result<Vec<Entry>> {
        self.disk.list(directory)
    }
    fn sync_dir(&self, directory: &str) -> io::Result<()> {
        self.check()?;
        self.disk.sync_dir(directory)
    }
    fn space(&self) -> io::Result<Space> {
        let space = self.disk.space()?;
        Ok(Space { free: if self.is_full.load(Ordering::SeqCst) { 1_000 } else { space.total }, ..space })
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: Arc<dyn StorageFile>,
    fails: Arc<AtomicBool>,
}

impl StorageFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, parts: &[io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_at(parts, offset)
    }
    fn fill_zero(&self, length: u64) -> io::Result<()> {
        self.file.fill_zero(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        failure(&self.fails)?;
        self.file.sync_data()
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn as_file(&self) -> Option<Arc<std::fs::File>> {
        self.file.as_file()
    }
}
