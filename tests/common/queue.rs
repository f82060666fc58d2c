//! A queue on a real spool with static routes, and a courier that follows a script instead of opening connections.

#![allow(dead_code, reason = "each test file uses a part")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hikyaku::clock::{Clock, UnixTime};
use hikyaku::demo::responder::{Responder, Zone};
use hikyaku::dns::security::Assurance;
use hikyaku::dns::settings::{Host, NextHop, Route};
use hikyaku::dns::{self, Planner};
use hikyaku::log::disk::Disk;
use hikyaku::log::storage::Storage;
use hikyaku::message::{Content, Envelope, MessageId, Outcome, Phase, Recipient, Report};
use hikyaku::metrics::Registry;
use hikyaku::queue::{Assignment, Courier, Queue, Settings, Slot};
use hikyaku::smtp::address::ReversePath;
use hikyaku::smtp::reply::Reply;
use hikyaku::smtp::status::Status;
use hikyaku::spool::{Attempts, NewMessage, Spool};
use hikyaku::state::Orders;
use parking_lot::Mutex;

/// What a receiver does.
#[derive(Clone)]
pub struct Receiver {
    /// From dispatch to EHLO.
    pub connect: Duration,
    /// For each transaction.
    pub transaction: Duration,
    /// The connection fails.
    pub is_down: bool,
    /// Connections past this are refused at the greeting; 0: none are.
    pub most: usize,
    /// Its messages are found damaged.
    pub is_damaged: bool,
    /// Waits for ever in the middle of a transaction.
    pub is_stalled: bool,
    /// How long a connection waits for more work.
    pub idle: Duration,
    /// What it says about a recipient.
    pub outcome: Arc<dyn Fn(MessageId, u32) -> Outcome + Send + Sync>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            connect: Duration::ZERO,
            transaction: Duration::ZERO,
            is_down: false,
            most: 0,
            is_damaged: false,
            is_stalled: false,
            idle: Duration::from_millis(200),
            outcome: Arc::new(|_, _| delivered()),
        }
    }
}

/// What a courier did with one recipient.
#[derive(Clone, Debug)]
pub struct Done {
    pub id: MessageId,
    pub recipient: u32,
    pub domain: String,
    pub source: Arc<str>,
    pub in_doubt: Option<SocketAddr>,
    /// Counts transactions.
    pub transaction: usize,
    /// Counts connections.
    pub connection: usize,
    /// What the connection is asked for.
    pub assurance: Assurance,
    pub at: Instant,
    pub outcome: Outcome,
}

/// A courier that plays receivers, by domain.
#[derive(Default)]
pub struct Script {
    pub receivers: Mutex<Vec<(String, Receiver)>>,
    pub done: Mutex<Vec<Done>>,
    pub dispatched: AtomicUsize,
    pub transactions: AtomicUsize,
    pub most_open: AtomicUsize,
    pub open: AtomicUsize,
}

impl Script {
    fn receiver(&self, domain: &str) -> Receiver {
        let receivers = self.receivers.lock();
        receivers
            .iter()
            .rev()
            .find(|(name, _)| name == domain || name == "*")
            .map(|(_, r)| r.clone())
            .unwrap_or_default()
    }

    pub fn set(&self, domain: &str, receiver: Receiver) {
        self.receivers.lock().push((domain.to_owned(), receiver));
    }

    async fn connection(self: Arc<Self>, slot: &mut Slot, first: Assignment, connection: usize) {
        let receiver = self.receiver(first.domain());
        tokio::time::sleep(receiver.connect).await;
        if receiver.is_down {
            let failed = Report::local(Phase::Connect, Status::new(4, 4, 1), "no route to host");
            return slot.connection_failed(first, Outcome::Deferred(failed));
        }
        if receiver.most > 0 && self.open.load(Ordering::Relaxed) > receiver.most {
            let reply = Reply { code: 421, status: Some(Status::new(4, 7, 0)), text: "Too many connections".into() };
            let report = Report::local(Phase::Greeting, Status::new(4, 7, 0), "");
            return slot.connection_failed(first, Outcome::Deferred(Report { reply, ..report }));
        }
        slot.connected();
        let mut next = Some(first);
        while let Some(assignment) = next {
            let receiver = self.receiver(assignment.domain());
            if receiver.is_stalled {
                std::future::pending::<()>().await;
            }
            if receiver.transaction > Duration::ZERO {
                tokio::time::sleep(receiver.transaction).await;
            }
            if receiver.is_damaged {
                slot.hold_damaged(assignment);
                next = slot.take(receiver.idle).await;
                continue;
            }
            let id = assignment.id();
            let outcomes: Vec<Outcome> = assignment.recipients().iter().map(|r| (receiver.outcome)(id, *r)).collect();
            let transaction = self.transactions.fetch_add(1, Ordering::Relaxed);
            self.done.lock().extend(assignment.recipients().iter().zip(&outcomes).map(|(recipient, outcome)| Done {
                id,
                recipient: *recipient,
                domain: assignment.domain().to_owned(),
                source: slot.source().name.clone(),
                in_doubt: assignment.in_doubt(),
                transaction,
                connection,
                assurance: slot.assurance(),
                at: tokio::time::Instant::now().into_std(),
                outcome: outcome.clone(),
            }));
            slot.report(assignment, outcomes);
            next = slot.try_take();
            if next.is_none() {
                next = slot.take(receiver.idle).await;
            }
        }
    }
}

pub struct Player(pub Arc<Script>);

impl Courier for Player {
    fn dispatch(&self, mut slot: Slot, first: Assignment) {
        let script = self.0.clone();
        let connection = script.dispatched.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let open = script.open.fetch_add(1, Ordering::Relaxed) + 1;
            script.most_open.fetch_max(open, Ordering::Relaxed);
            script.clone().connection(&mut slot, first, connection).await;
            // Counted down before the slot's permits return, else the next connection could be counted beside this one.
            script.open.fetch_sub(1, Ordering::Relaxed);
            drop(slot);
        });
    }
}

/// A queue with everything around it.
pub struct Stage {
    pub queue: Queue,
    pub spool: Spool,
    pub script: Arc<Script>,
    pub clock: Clock,
    pub registry: Registry,
    folder: tempfile::TempDir,
    responder: Option<Responder>,
}

/// Each domain `dN.test` is a site of its own, `*.big.test` are MX sets of one address, and `ownN.big.test` are sites within that.
pub fn planner(clock: Clock, registry: &Registry, wide: u16) -> Arc<Planner> {
    let hop = |address: Ipv4Addr| NextHop::Smtp { host: Host::Address(IpAddr::V4(address)), port: Some(2525) };
    let mut routes: Vec<Route> = (0..200_u8)
        .map(|n| Route { pattern: format!("d{n}.test"), next_hop: hop(Ipv4Addr::new(127, 0, 1, n)) })
        .collect();
    // Every `N.wide.test` is a domain and a site of its own.
    routes.extend((0..wide).map(|n| {
        let [high, low] = n.to_be_bytes();
        Route { pattern: format!("{n}.wide.test"), next_hop: hop(Ipv4Addr::new(127, 3, high, low)) }
    }));
    routes.push(Route { pattern: "*.big.test".into(), next_hop: hop(Ipv4Addr::new(127, 0, 2, 1)) });
    let settings = dns::settings::Settings {
        resolvers: vec!["127.0.0.1:9".parse().unwrap()],
        timeout: Duration::from_millis(100),
        attempts: 1,
        routes,
        own_sites: (0..4).map(|n| format!("own{n}.big.test")).collect(),
        ..Default::default()
    };
    Arc::new(Planner::new(settings, clock, registry).unwrap())
}

pub fn spool_settings() -> hikyaku::spool::Settings {
    hikyaku::spool::Settings {
        path: "unused".into(),
        segment_size: 1 << 20,
        reserve: 0,
        sync: false,
        attempts: Attempts::Write,
        deadline: Duration::from_secs(60),
        cache: 16 << 20,
        keys: hikyaku::spool::Keys::default(),
    }
}

impl Stage {
    /// Not started yet.
    pub fn new(settings: Settings) -> Self {
        let (clock, registry) = (Clock::system(), Registry::new().unwrap());
        let planner = planner(clock, &registry, 0);
        Self::with_planner(settings, clock, registry, planner, None)
    }

    /// In the time of the runtime, which the test has paused.
    pub fn in_runtime_time(settings: Settings) -> Self {
        let (clock, registry) = (Clock::of_runtime(), Registry::new().unwrap());
        let planner = planner(clock, &registry, 0);
        Self::with_planner(settings, clock, registry, planner, None)
    }

    /// With so many domains `N.wide.test` more, each a site of its own.
    pub fn wide(settings: Settings, wide: u16) -> Self {
        let (clock, registry) = (Clock::system(), Registry::new().unwrap());
        let planner = planner(clock, &registry, wide);
        Self::with_planner(settings, clock, registry, planner, None)
    }

    /// With MX look-ups in a zone instead of static routes.
    pub async fn in_zone(settings: Settings, fill: impl FnOnce(&mut Zone)) -> Self {
        let (clock, registry) = (Clock::system(), Registry::new().unwrap());
        let mut zone = Zone::new();
        fill(&mut zone);
        let responder = Responder::start(SocketAddr::from(([127, 0, 0, 1], 0)), zone).await.unwrap();
        let settings_of_dns = dns::settings::Settings { resolvers: vec![responder.address()], ..Default::default() };
        let planner = Arc::new(Planner::new(settings_of_dns, clock, &registry).unwrap());
        Self::with_planner(settings, clock, registry, planner, Some(responder))
    }

    /// A reload that has every domain of the zone looked up anew.
    pub fn forget_plans(&self, settings: Settings) {
        let resolvers = self.responder.iter().map(Responder::address).collect();
        let of_dns = dns::settings::Settings { resolvers, ..Default::default() };
        self.queue.apply(settings, Some(Arc::new(Planner::new(of_dns, self.clock, &self.registry).unwrap())));
    }

    fn with_planner(
        settings: Settings,
        clock: Clock,
        registry: Registry,
        planner: Arc<Planner>,
        responder: Option<Responder>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::new(folder.path().join("spool")));
        let (spool, recovery) = Spool::open(spool_settings(), disk.clone(), clock, &registry).unwrap();
        recovery.run(&mut |_| {});
        let spent = hikyaku::state::Note::of_spent(disk.clone());
        let warmups = hikyaku::state::Note::of_warmups(disk.clone());
        let orders = Orders::open(disk, clock.wall()).unwrap();
        let queue = Queue::new(settings, spool.clone(), orders, planner, clock, &registry).with_spent(spent);
        let queue = queue.with_warmups(warmups);
        Self { queue, spool, script: Arc::default(), clock, registry, folder, responder }
    }

    /// Started, on another storage and with what is there; contents are not kept in memory.
    pub fn on(settings: Settings, storage: impl FnOnce(&Path) -> Arc<dyn Storage>) -> Self {
        let (clock, registry, folder) = (Clock::system(), Registry::new().unwrap(), tempfile::tempdir().unwrap());
        let planner = planner(clock, &registry, 0);
        let uncached = hikyaku::spool::Settings { cache: 0, ..spool_settings() };
        let storage = storage(&folder.path().join("spool"));
        let (spool, recovery) = Spool::open(uncached, storage.clone(), clock, &registry).unwrap();
        let orders = Orders::open(storage, clock.wall()).unwrap();
        let queue = Queue::new(settings, spool.clone(), orders, planner, clock, &registry);
        let stage = Self { queue, spool, script: Arc::default(), clock, registry, folder, responder: None };
        stage.start();
        recovery.run(&mut |recovered| stage.queue.recover(recovered));
        stage
    }

    /// The next start on the same spool, with what it recovers.
    pub fn again(self, settings: Settings) -> Self {
        self.again_at(settings, Clock::system())
    }

    /// The same by this clock.
    pub fn again_at(self, settings: Settings, clock: Clock) -> Self {
        self.queue.stop_dispatch();
        self.queue.save_all();
        self.killed_at(settings, clock)
    }

    /// The next start, by this clock, where nothing was kept at the stop.
    pub fn killed_at(self, settings: Settings, clock: Clock) -> Self {
        self.queue.stop_dispatch();
        self.spool.close_blocking();
        let Self { queue, spool, folder, .. } = self;
        drop((queue, spool));
        let registry = Registry::new().unwrap();
        let planner = planner(clock, &registry, 0);
        let (disk, recovery) = {
            let begun = Instant::now();
            loop {
                // The lock goes with the last task that has the old one.
                let disk = Arc::new(Disk::new(folder.path().join("spool")));
                match Spool::open(spool_settings(), disk.clone(), clock, &registry) {
                    Ok(opened) => break (disk, opened),
                    Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "{error}"),
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let (spool, recovery) = recovery;
        let spent = hikyaku::state::Note::of_spent(disk.clone());
        let warmups = hikyaku::state::Note::of_warmups(disk.clone());
        let orders = Orders::open(disk, clock.wall()).unwrap();
        let queue = Queue::new(settings, spool.clone(), orders, planner, clock, &registry).with_spent(spent);
        let queue = queue.with_warmups(warmups);
        let stage = Self { queue, spool, script: Arc::default(), clock, registry, folder, responder: None };
        stage.start();
        recovery.run(&mut |recovered| stage.queue.recover(recovered));
        stage
    }

    /// Changes octets in the spool's segments.
    pub fn damage(&self, from: &[u8], to: &[u8]) {
        let mut directories = vec![self.folder.path().join("spool")];
        while let Some(directory) = directories.pop() {
            for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                // One that is made ahead may have got another name meanwhile.
                let Ok(octets) = std::fs::read(&path) else { continue };
                if let Some(at) = octets.windows(from.len()).position(|w| w == from) {
                    let file = std::fs::File::options().write(true).open(&path).unwrap();
                    std::os::unix::fs::FileExt::write_all_at(&file, to, at as u64).unwrap();
                }
            }
        }
    }

    pub fn started(settings: Settings) -> Self {
        let stage = Self::new(settings);
        stage.start();
        stage
    }

    pub fn start(&self) -> tokio::task::JoinHandle<()> {
        self.queue.start(Arc::new(Player(self.script.clone())))
    }

    /// An envelope to recipients, accepted now.
    pub fn envelope(&self, to: &[&str]) -> Envelope {
        let recipient = |path: &&str| Recipient::new(path.parse().unwrap());
        Envelope::new(
            ReversePath::Mailbox("sender@d199.test".parse().unwrap()),
            to.iter().map(recipient).collect(),
            self.clock.wall(),
        )
    }

    /// Puts a message that the spool does not know: enough where no DSN is made.
    pub fn put(&self, envelope: Envelope) -> MessageId {
        let id = self.spool.next_id();
        self.queue.put(id, &Arc::new(envelope));
        id
    }

    /// Accepts a message into the spool, then puts it.
    pub async fn submit(&self, envelope: Envelope) -> MessageId {
        self.submit_as(self.spool.next_id(), envelope).await
    }

    /// The same under an identity that the test knows before.
    pub async fn submit_as(&self, id: MessageId, envelope: Envelope) -> MessageId {
        let content = Bytes::from_static(b"From: a@b.test\r\nSubject: x\r\n\r\nHello\r\n");
        self.submit_content(id, envelope, content).await
    }

    /// The same with this content.
    pub async fn submit_content(&self, id: MessageId, envelope: Envelope, content: Bytes) -> MessageId {
        let (envelope, content) = (Arc::new(envelope), Content::Memory(content));
        let message = NewMessage { id, envelope: envelope.clone(), content, ended_at: Instant::now() };
        self.spool.accept(message).await.unwrap();
        self.queue.put(id, &envelope);
        id
    }

    /// This many seconds ago.
    pub fn ago(&self, seconds: u32) -> UnixTime {
        UnixTime(self.clock.wall().0 - seconds)
    }

    /// Waits until nothing is queued and the spool has released every message.
    pub async fn until_empty(&self) {
        self.until("an empty queue", |stage| stage.queue.view().totals.queued == 0).await;
        self.until("an empty spool", |stage| stage.spool.stat().messages == 0).await;
        self.until("nothing in flight", |stage| stage.queue.in_flight() == 0).await;
    }

    pub fn done(&self) -> Vec<Done> {
        self.script.done.lock().clone()
    }

    /// Waits until `is_so`, at most ten seconds.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < Duration::from_secs(10), "not within 10 s: {what}; {:?}", self.queue.view());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn until_done(&self, count: usize) {
        self.until(&format!("{count} outcomes"), |stage| stage.script.done.lock().len() >= count).await;
    }
}

fn report(code: u16, status: Status, text: &str) -> Report {
    let reply = Reply { code, status: Some(status), text: text.into() };
    Report { reply, ..Report::local(Phase::EndOfData, status, "") }
}

pub fn delivered() -> Outcome {
    Outcome::Delivered(report(250, Status::new(2, 0, 0), "ok"))
}

pub fn deferred(text: &str) -> Outcome {
    Outcome::Deferred(report(451, Status::new(4, 3, 0), text))
}

pub fn bounced(text: &str) -> Outcome {
    Outcome::Bounced(report(550, Status::new(5, 1, 1), text))
}
