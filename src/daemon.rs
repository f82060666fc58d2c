//! The composition root: builds every part from the configuration, starts its tasks and owns the order of the stop.
//!
//! [`Daemon::start`] returns when mail can be submitted, however much is queued: recovery goes on beside it.
//! [`Daemon::stop`] ends accepting first, then lets transactions finish within a grace, then closes the spool.

mod gauges;
mod settings;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::Config;
use crate::config::names::is_host_name;
use crate::delivery::Deliverer;
use crate::dns::Planner;
use crate::journal::{self, Journal};
use crate::log::disk::Disk;
use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::queue::{Courier, Queue};
use crate::spool::{Recovered, Recovery, RecoveryReport, Spool};
use crate::state::Orders;
use crate::{admin, delivery, dns, spool, state, submission};

pub use settings::is_local;

/// Histograms collect samples until somebody folds them; every few seconds is what the exporter's authors advise.
const UPKEEP: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted; as many as a burst of clients may open at once.
const LISTEN_BACKLOG: u32 = 4096;
/// How long a stop waits for the journal's disk, which may hang.
const JOURNAL_GRACE: Duration = Duration::from_secs(5);
/// Lines of log about recipients in doubt: one transaction at each of 2,000 connections, and 5 ms of outcomes.
const MAX_NAMED_DOUBTS: usize = 20_000;

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener cannot be bound.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The admin socket cannot be bound.
    #[error("cannot make the admin socket {}: {error}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The spool cannot be opened.
    #[error(transparent)]
    Spool(#[from] spool::OpenError),
    /// The orders of an earlier run cannot be taken up.
    #[error(transparent)]
    Orders(#[from] state::OpenError),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// A route is wrong.
    #[error("route: {0}")]
    Route(#[from] dns::settings::NextHopError),
    /// Resolvers cannot be set up.
    #[error(transparent)]
    Dns(#[from] dns::Error),
    /// The client side of TLS cannot be set up.
    #[error(transparent)]
    Delivery(#[from] delivery::Error),
    /// Histograms have no buckets.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// A task of the daemon itself cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    spool: Spool,
    queue: Queue,
    journal: Journal,
    deliverer: Arc<Deliverer>,
    registry: Registry,
    /// Ends accepting.
    stop_submission: CancellationToken,
    submissions: JoinSet<()>,
    /// Ends what watches: admin, metrics, upkeep.
    stop_watching: CancellationToken,
    watchers: JoinSet<()>,
    recovery: Option<thread::JoinHandle<()>>,
    submission_addresses: Vec<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    admin_socket: Option<PathBuf>,
}

impl Daemon {
    /// Builds and starts every part; must be called on a Tokio runtime.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let clock = Clock::system();
        let registry = Registry::new()?;
        let hostname = hostname(&config);
        let threads = tokio::runtime::Handle::current().metrics().num_workers();

        let listeners = bind_all(&config)?;
        let disk = Arc::new(Disk::new(&config.spool.path));
        let (spool, recovery) = Spool::open(settings::spool(&config), disk.clone(), clock, &registry)?;
        let orders = Orders::open(disk, clock.wall())?;
        let planner = Arc::new(Planner::new(settings::dns(&config, &hostname)?, clock, &registry)?);
        let queue_settings = settings::queue(&config, &hostname, threads);
        let journal = match config.journal.enabled {
            true => Journal::open(settings::journal(&config), spool.next_id().start(), clock, &registry)?,
            false => Journal::off(),
        };
        let queue =
            Queue::new(queue_settings, spool.clone(), orders, planner, clock, &registry).with_journal(journal.clone());
        let deliverer = Deliverer::new(settings::delivery(&config), spool.clone(), clock, &registry)?;
        let mut watchers = JoinSet::new();
        let scheduler = queue.start(deliverer.clone() as Arc<dyn Courier>);
        watchers.spawn(async move {
            if let Err(failure) = scheduler.await {
                error!(%failure, "the queue's scheduler ended");
            }
        });

        let mut daemon = Self {
            spool,
            queue,
            journal,
            deliverer,
            registry,
            stop_submission: CancellationToken::new(),
            submissions: JoinSet::new(),
            stop_watching: CancellationToken::new(),
            watchers,
            recovery: None,
            submission_addresses: Vec::new(),
            metrics_address: None,
            admin_socket: None,
        };
        daemon.recovery = Some(daemon.recover(recovery)?);
        daemon.watch(&config, &hostname).await?;
        daemon.accept(&config, listeners, clock, &hostname)?;
        Ok(daemon)
    }

    /// Where mail can be submitted, in the order of the configuration.
    pub fn submission_addresses(&self) -> &[SocketAddr] {
        &self.submission_addresses
    }

    /// Where Prometheus can scrape.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Where the command line reaches it.
    pub fn admin_socket(&self) -> Option<&Path> {
        self.admin_socket.as_deref()
    }

    /// What is to be delivered.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The spool.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Its metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Reads what an earlier run left, on a thread of its own: it takes seconds for a million recipients.
    fn recover(&self, recovery: Recovery) -> Result<thread::JoinHandle<()>, Error> {
        let (queue, spool) = (self.queue.clone(), self.spool.clone());
        let help = "1: messages of earlier starts were not all raised; restart when the disk is well.";
        let failed_gauge = self.registry.gauge("hikyaku_spool_recovery_failed", help, &[]);
        failed_gauge.set(0.0);
        let wall = Bulkhead::new(&self.registry, "recovery");
        let run = move || {
            let started = Instant::now();
            let mut messages = 0_u64;
            let mut named = 0;
            let ran = wall.call(|| {
                recovery.run(&mut |recovered| {
                    messages += 1;
                    // Before they can be tried again.
                    name_doubts(&recovered, &mut named);
                    queue.recover(recovered);
                })
            });
            let report = ran.unwrap_or_else(|panic| {
                spool.recovery_panicked(&panic);
                RecoveryReport::default()
            });
            let seconds = started.elapsed().as_secs_f64();
            info!(messages, in_doubt = report.in_doubt, seconds, "recovered");
            if report.damaged > 0 {
                warn!(damaged = report.damaged, "damaged records are in quarantine");
            }
            if let Some(failure) = spool.recovery_failure() {
                error!(failure, "what could not be read stays on disk, for the next start");
                failed_gauge.set(1.0);
            }
        };
        thread::Builder::new().name("recovery".to_owned()).spawn(run).map_err(Error::Thread)
    }

    async fn watch(&mut self, config: &Config, hostname: &Arc<str>) -> Result<(), Error> {
        if !config.admin.socket.as_os_str().is_empty() {
            let path = config.admin.socket.clone();
            let socket = admin::bind_unix(&path).map_err(|error| Error::Socket { path: path.clone(), error })?;
            let state = admin::State {
                hostname: hostname.clone(),
                started: Instant::now(),
                spool: self.spool.clone(),
                queue: self.queue.clone(),
                wall: Bulkhead::new(&self.registry, "admin"),
                stopping: self.stop_submission.clone(),
            };
            self.watchers.spawn(admin::serve_unix(socket, state, self.stop_watching.clone()));
            self.admin_socket = Some(path);
        }
        if config.metrics.enabled {
            let address = config.metrics.address;
            let listen = |error| Error::Listen { address, error };
            let listener = TcpListener::bind(address).await.map_err(listen)?;
            self.metrics_address = Some(listener.local_addr().map_err(listen)?);
            self.watchers.spawn(admin::serve_metrics(listener, self.registry.clone(), self.stop_watching.clone()));
        }
        let gauges = gauges::SpoolGauges::new(&self.registry);
        self.watchers.spawn(upkeep(self.registry.clone(), self.spool.clone(), gauges, self.stop_watching.clone()));
        Ok(())
    }

    fn accept(
        &mut self,
        config: &Config,
        listeners: Vec<TcpListener>,
        clock: Clock,
        hostname: &Arc<str>,
    ) -> Result<(), Error> {
        let services =
            submission::Services::new(self.spool.clone(), self.queue.clone(), clock, hostname.clone(), &self.registry);
        for (listener, section) in listeners.into_iter().zip(&config.listeners) {
            let listen = |error| Error::Listen { address: section.address, error };
            let address = listener.local_addr().map_err(listen)?;
            info!(%address, tenant = section.tenant, "listening for submissions");
            self.submission_addresses.push(address);
            let settings = Arc::new(settings::submission(config, section));
            let stop = self.stop_submission.clone();
            self.submissions.spawn(submission::serve(listener, settings, services.clone(), stop));
        }
        Ok(())
    }

    /// Ends accepting, lets what is under way finish within `grace`, and closes the spool.
    pub async fn stop(mut self, grace: Duration) {
        let end = Instant::now() + grace;
        let left = || end.saturating_duration_since(Instant::now());
        self.stop_submission.cancel();
        self.queue.stop_dispatch();
        if tokio::time::timeout(left(), async { while self.submissions.join_next().await.is_some() {} }).await.is_err()
        {
            warn!("submission sessions did not end in time");
        }
        self.submissions.shutdown().await;
        self.deliverer.drain(left()).await;
        // Until its DSN is stored a delivered recipient counts as unfinished, and would be sent to again.
        if tokio::time::timeout(left(), self.queue.settled()).await.is_err() {
            warn!(
                in_flight = self.queue.in_flight(),
                "DSNs were not stored in time; what they report will be tried again"
            );
        }
        self.spool.close().await;
        let journal = self.journal.clone();
        let closed = tokio::task::spawn_blocking(move || journal.close());
        if !matches!(tokio::time::timeout(JOURNAL_GRACE, closed).await, Ok(Ok(()))) {
            warn!("the journal's disk did not take the last events in time");
        }
        self.stop_watching.cancel();
        self.watchers.shutdown().await;
        if let Some(recovery) = self.recovery.take().filter(thread::JoinHandle::is_finished)
            && recovery.join().is_err()
        {
            error!("the recovery thread panicked");
        }
        info!(in_flight = self.queue.in_flight(), "stopped");
    }
}

/// Sets the spool's gauges and folds histograms until `stop`.
async fn upkeep(registry: Registry, spool: Spool, gauges: gauges::SpoolGauges, stop: CancellationToken) {
    let wall = Bulkhead::new(&registry, "gauges");
    loop {
        let (spool, behind) = (spool.clone(), wall.clone());
        // Asks the file system for its free space, which may block.
        if let Ok(Ok(stat)) = tokio::task::spawn_blocking(move || behind.call(|| spool.stat())).await {
            gauges.show(&stat);
        }
        if stop.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_none() {
            return;
        }
        let _ = wall.call(|| registry.run_upkeep());
    }
}

/// Logs recipients whose last attempt has no outcome: these, and no others, may come twice.
fn name_doubts(recovered: &Recovered, named: &mut usize) {
    for pending in &recovered.pending {
        let Some(mx_address) = pending.in_doubt else { continue };
        *named += 1;
        if *named > MAX_NAMED_DOUBTS {
            continue;
        }
        let index = usize::try_from(pending.recipient).unwrap_or(usize::MAX);
        let Some(recipient) = recovered.envelope.recipients.get(index) else { continue };
        let recipient = recipient.forward_path.as_str();
        warn!(message_id = %recovered.id, recipient, %mx_address, "in doubt: the receiver may have it already");
        if *named == MAX_NAMED_DOUBTS {
            warn!(MAX_NAMED_DOUBTS, "more may be in doubt: `hikyaku queue list --in-doubt` lists them");
        }
    }
}

/// Binds before anything else is built, so that a second daemon fails at once and the addresses of port 0 are known.
fn bind_all(config: &Config) -> Result<Vec<TcpListener>, Error> {
    let bind = |address: SocketAddr| -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(LISTEN_BACKLOG)
    };
    let addresses = config.listeners.iter().map(|listener| listener.address);
    addresses.map(|address| bind(address).map_err(|error| Error::Listen { address, error })).collect()
}

/// The configured name, else the system's.
fn hostname(config: &Config) -> Arc<str> {
    if !config.hostname.is_empty() {
        return Arc::from(config.hostname.to_lowercase());
    }
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy().to_lowercase();
    Arc::from(if is_host_name(&name) { name.as_str() } else { "localhost" })
}
