//! The composition root: builds every part from the configuration, starts its tasks and owns the order of the stop.
//!
//! [`Daemon::start`] returns when mail can be submitted, however much is queued: recovery goes on beside it.
//! [`Daemon::stop`] ends accepting first, then lets transactions finish within a grace, then closes the spool.

mod accounts;
mod assembly;
mod certificates;
mod desk;
mod doors;
mod drain;
mod error;
mod feedback;
mod front;
mod gauges;
mod limits;
mod reload;
mod settings;
mod sockets;
mod suppression;
mod tls_reports;
mod watchdog;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::names::is_host_name;
use crate::config::{Config, ConfigError};
use crate::delivery::Deliverer;
use crate::dkim::{Ring, Signer};
use crate::dns::Planner;
use crate::journal::Journal;
use crate::mask::Mask;
use crate::message;
use crate::metrics::Registry;
use crate::metrics::process::Process;
use crate::panics::Bulkhead;
use crate::queue::{Courier, Queue};
use crate::reply::LazyClassifier;
use crate::spool::{Recovered, Recovery, RecoveryReport, Spool};
use crate::state::Note;
use crate::state::suppression::Suppression;
use crate::unsubscribe::Unsubscribe;
use crate::users::Users;
use crate::{admin, submission};

use assembly::State;
use certificates::Acceptors;
use doors::Doors;
pub use drain::Remains;
pub use error::Error;
use feedback::Returns;
use front::Front;
pub use limits::site_limits;
pub use reload::{ReloadError, SetLogFilter};
pub use settings::{dns as dns_settings, is_local, mask};
use sockets::Listening;
pub use sockets::Sockets;
use tls_reports::KeptPolicies;
pub use tls_reports::TlsReports;
pub use watchdog::Watchdog;
use watchdog::{Part, Parts, Sign};

/// Gauges are at most this old; every few seconds is also what the exporter's authors advise for its upkeep.
const UPKEEP: Duration = Duration::from_secs(5);
/// Lines of log about recipients in doubt: one transaction at each of 2,000 connections, and 5 ms of outcomes.
const MAX_NAMED_DOUBTS: usize = 20_000;

/// What a process gives to the one daemon that it runs from a file.
pub struct Attachment {
    /// Where requests for a reload go; whoever reads them calls [`Daemon::reload_file`].
    pub reload: mpsc::Sender<admin::Reload>,
    /// Changes what the log shows.
    pub set_log_filter: SetLogFilter,
}

/// A running daemon.
pub struct Daemon {
    /// What holds now, options that need a restart being those of the start.
    config: Config,
    clock: Clock,
    /// Of the runtime.
    threads: usize,
    spool: Spool,
    queue: Queue,
    journal: Journal,
    mask: Mask,
    deliverer: Arc<Deliverer>,
    /// Has the keys that hold.
    signer: Signer,
    registry: Registry,
    /// Who may authenticate.
    users: Users,
    /// Where it is written down what they have sent.
    sent: Note,
    /// Who may use the admin interface over TCP.
    tokens: admin::Tokens,
    /// What was changed, and by whom.
    audit: Audit,
    /// What tells what refusals mean.
    classifier: LazyClassifier,
    /// What listeners, and the admin interface, prove their names by.
    acceptors: Arc<ArcSwap<Acceptors>>,
    /// Who gets no mail.
    suppression: Suppression,
    /// What is done about refusals and reports.
    returns: Returns,
    /// Keeps MTA-STS policies.
    sts: Arc<KeptPolicies>,
    /// Tells domains how TLS with them goes.
    tls_reports: TlsReports,
    /// Where it is written down how it went.
    tls_note: Note,
    doors: Doors,
    control: admin::Control,
    started: Instant,
    set_log_filter: Option<SetLogFilter>,
    reloads: reload::Meters,
    /// The file being read for a reload, perhaps one that was given up.
    reading: Option<tokio::task::JoinHandle<Result<reload::Files, ConfigError>>>,
    /// What the watchdog is to look at.
    parts: Parts,
    /// Ends what watches: admin, metrics, upkeep.
    stop_watching: CancellationToken,
    watchers: JoinSet<()>,
    recovery: Option<thread::JoinHandle<()>>,
    metrics: Option<reload::Server<SocketAddr>>,
    admin: Option<reload::Server<PathBuf>>,
    /// The same over TCP.
    desks: Vec<desk::Desk>,
    /// Links by which recipients take themselves off.
    unsubscribe: Unsubscribe,
    /// Where they are answered, and who does.
    clicks: Vec<desk::Desk>,
    clicking: JoinSet<()>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("doors", &self.doors).field("metrics", &self.metrics).finish_non_exhaustive()
    }
}

impl Daemon {
    /// Builds and starts every part; must be called on a Tokio runtime.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let sockets = Sockets::bind(&config)?;
        Self::start_on(sockets, config, None).await
    }

    /// The same on sockets that are bound already, for a process that can have it reload its file.
    pub async fn start_on(sockets: Sockets, config: Config, attachment: Option<Attachment>) -> Result<Self, Error> {
        let (reload, set_log_filter) = attachment.map(|given| (given.reload, given.set_log_filter)).unzip();
        let clock = Clock::system();
        let registry = Registry::new()?;
        let hostname = hostname(&config);
        let threads = tokio::runtime::Handle::current().metrics().num_workers();

        // Whatever another process or a damaged file can spoil comes before the log makes its first segments.
        let reload::Files { config, classifier, acceptors, ring } =
            reload::read(config, None, Path::new("configuration"))?;
        let accounts = accounts::prepare(&config).await?;
        let tokens = admin::Tokens::new(accounts::prepare_tokens(&config).await?, clock, &registry)?;
        let front = Front::start()?;
        let bound = doors::bound(sockets.listeners, &config, acceptors.of_listeners(), &front)?;
        let State { disk, claimed, pins, orders, audit, suppression } =
            State::take_up(&config, clock, &registry).await?;
        let sent = Note::of_allowances(disk.clone());
        let users = accounts::begin(accounts, &sent, clock, &registry)?;
        let (tls_note, tally, sts) = tls_reports::begin(&config, &disk, clock, &registry);
        let watched = Watched::bind(&config, sockets.metrics, (sockets.admin, sockets.unsubscribe))?;
        let planner = Arc::new(Planner::new(settings::dns(&config, &hostname, sts.clone())?, clock, &registry)?);
        let (journal, mask) = settings::open_journal(&config, claimed.start(), clock, &registry)?;
        let signer = signer(ring, clock, &registry)?;
        let (spool, recovery) = claimed.open(&registry)?;
        let queue_settings = settings::queue(&config, &hostname, threads, &classifier);
        let returns = Returns::start(&config, &disk, (&suppression, &journal), clock, &registry);
        let returns = or_abandon(&spool, returns).await?;
        let queue = Queue::new(queue_settings, spool.clone(), orders, planner, clock, &registry).with_pins(pins);
        let queue = assembly::queue(queue, (&journal, &returns.feedback, &signer), &config.spool.path, disk).await;
        let delivery = settings::delivery(&config, &classifier, &tally, Some(&returns.feedback));
        let deliverer = Deliverer::new(delivery, spool.clone(), clock, &registry).map_err(Error::from);
        let deliverer = or_abandon(&spool, deliverer).await?;
        let watchers = scheduling(&queue, &deliverer);
        let links = settings::unsubscribe(&config);
        let unsubscribe = assembly::unsubscribe(links, (&suppression, &journal, &returns), clock, &registry);
        let services = submission::Services::new(spool.clone(), queue.clone(), clock, hostname.clone(), &registry);
        let services = assembly::services(services, (&users, &signer, &returns.feedback, &unsubscribe));
        let tls_reports = tls_reports::of(tally, (spool.clone(), queue.clone(), signer.clone()), clock, &registry);
        let (parts, control) = (Parts::default(), admin::Control::new(hostname.clone(), reload));
        let daemon = Self {
            clock,
            threads,
            spool,
            queue,
            journal,
            mask,
            deliverer,
            signer,
            doors: Doors::new(services, front, parts.clone()),
            parts,
            control,
            started: Instant::now(),
            set_log_filter,
            reloads: reload::Meters::new(&registry),
            reading: None,
            classifier,
            acceptors: Arc::new(ArcSwap::from_pointee(acceptors)),
            users,
            sent,
            tokens,
            audit,
            suppression,
            returns,
            sts,
            tls_reports,
            tls_note,
            registry,
            stop_watching: CancellationToken::new(),
            watchers,
            recovery: None,
            metrics: None,
            admin: None,
            desks: Vec::new(),
            unsubscribe,
            clicks: Vec::new(),
            clicking: JoinSet::new(),
            config,
        };
        daemon.set_going(recovery, watched, bound, &hostname, clock).await
    }

    /// Begins to recover, to be watched and to listen.
    async fn set_going(
        mut self,
        recovery: Recovery,
        watched: Watched,
        bound: doors::Prepared,
        hostname: &Arc<str>,
        clock: Clock,
    ) -> Result<Self, Error> {
        self.recovery = Some(or_abandon(&self.spool, self.recover(recovery)).await?);
        self.watch(watched, clock);
        self.watch_users();
        let (parts, stop) = ((&self.spool, &self.queue), self.doors.stop.clone());
        self.returns.read(parts, &self.journal, &self.classifier, (clock, &self.registry), stop);
        self.doors.commit(bound, &self.config, hostname);
        self.note_parts();
        Ok(self)
    }

    /// Where mail can be submitted, in the order of the configuration.
    pub fn submission_addresses(&self) -> Vec<SocketAddr> {
        self.doors.addresses()
    }

    /// Where Prometheus can scrape.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(|server| server.place)
    }

    /// Where the command line reaches it.
    pub fn admin_socket(&self) -> Option<&Path> {
        self.admin.as_ref().map(|server| server.place.as_path())
    }

    /// What it goes by, options that need a restart being those of the start.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What is to be delivered.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The spool.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Who gets no mail.
    pub fn suppression(&self) -> &Suppression {
        &self.suppression
    }

    /// What was changed, and by whom.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Its metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Reads what an earlier run left, on a thread of its own: it takes seconds for a million recipients.
    fn recover(&self, recovery: Recovery) -> Result<thread::JoinHandle<()>, Error> {
        let (queue, spool, feedback) = (self.queue.clone(), self.spool.clone(), self.returns.feedback.clone());
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
                    match recovered.envelope.kind {
                        message::Kind::Returned => feedback.received(recovered.id),
                        _ => queue.recover(recovered),
                    }
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

    fn watch(&mut self, watched: Watched, clock: Clock) {
        if let Some(socket) = watched.admin {
            self.serve_admin(socket);
        }
        let acceptors = self.acceptors.load_full();
        self.commit_desks(watched.desks, acceptors.of_admin());
        self.commit_clicks(watched.clicks, acceptors.of_unsubscribe());
        if let Some((listener, is_shared)) = watched.metrics {
            self.serve_metrics(listener, is_shared);
        }
        let (held, troubles) = (Arc::clone(&self.acceptors), Arc::clone(&self.control.certificates));
        let watch = certificates::Watch::new(held, troubles, clock, &self.registry);
        self.watchers.spawn(watch.run(self.stop_watching.clone()));
        let gauges = gauges::SpoolGauges::new(&self.registry, self.config.spool.reserve);
        let main = tokio::runtime::Handle::current().metrics();
        let runtimes = [("main", main), ("front", self.doors.runtime().metrics())];
        let process = Arc::new(Process::new(&self.registry, self.started, clock.wall_precise(), &runtimes));
        let (registry, spool, stop) = (self.registry.clone(), self.spool.clone(), self.stop_watching.clone());
        self.watchers.spawn(suppression::keep(self.suppression.clone(), clock, registry.clone(), stop.clone()));
        self.watchers.spawn(upkeep(registry, spool, gauges, process, clock, stop));
    }

    /// Looks at the users file, and writes down what users have sent; reports how TLS goes.
    fn watch_users(&mut self) {
        let note = self.sent.clone();
        let (users, tokens, audit) = (self.users.clone(), self.tokens.clone(), self.audit.clone());
        let (registry, stop) = (self.registry.clone(), self.stop_watching.clone());
        self.watchers.spawn(accounts::watch(users, tokens, audit, note, registry.clone(), stop.clone()));
        self.watchers.spawn(self.tls_reports.clone().run(self.tls_note.clone(), registry, stop));
    }

    /// Everything but the accept loops that the watchdog is to look at.
    fn note_parts(&mut self) {
        for runtime in [&tokio::runtime::Handle::current(), self.doors.runtime()] {
            Part::workers(runtime).for_each(|part| self.parts.add(part));
        }
        for (name, pulse) in self.queue.timers().map(|pulse| ("timers", pulse)).chain([("queue", self.queue.upkeep())])
        {
            let queue = self.queue.clone();
            self.parts.add(Part::beating(name, pulse, move || queue.is_stopped()));
        }
        let spool = self.spool.clone();
        self.parts.add(Part::disk("commit", move || {
            let (pulse, has_work) = spool.committing();
            Sign { mark: pulse.mark(), is_due: has_work || pulse.is_at_work() }
        }));
        let spool = self.spool.clone();
        self.parts.add(Part::disk("write", move || {
            let pulse = spool.writing();
            Sign { mark: pulse.mark(), is_due: pulse.is_at_work() }
        }));
    }

    /// Starts to watch whether every part moves; while all do, `feed` is called at least twice in `timeout`, if there is
    /// one. Only one watches a daemon.
    pub fn watchdog(&self, timeout: Option<Duration>, feed: impl FnMut() + Send + 'static) -> Result<Watchdog, Error> {
        Watchdog::start(self.parts.clone(), &self.registry, timeout, feed).map_err(Error::Thread)
    }

    /// What the admin interface shows.
    fn admin_state(&self) -> admin::State {
        let (spool, journal) = (settings::absolute(&self.config.spool.path), settings::journal_folder(&self.config));
        admin::State {
            clock: self.clock,
            control: self.control.clone(),
            places: admin::Places { spool, journal },
            started: self.started,
            spool: self.spool.clone(),
            queue: self.queue.clone(),
            journal: self.journal.clone(),
            mask: self.mask.clone(),
            users: self.users.clone(),
            tokens: self.tokens.clone(),
            audit: self.audit.clone(),
            suppression: self.suppression.clone(),
            searches: Arc::new(Semaphore::new(admin::SEARCHES)),
            tally: self.tls_reports.tally().clone(),
            panics: self.registry.panics(),
            still: self.parts.still.clone(),
            wall: Bulkhead::new(&self.registry, "admin"),
            stopping: self.doors.stop.clone(),
        }
    }
}

/// The sockets that the daemon is watched by, bound.
struct Watched {
    admin: Option<admin::AdminSocket>,
    desks: Vec<desk::Place>,
    clicks: Vec<desk::Place>,
    /// And whether it was handed over.
    metrics: Option<(TcpListener, bool)>,
}

impl Watched {
    fn bind(
        config: &Config,
        metrics: Option<Listening>,
        (desks, clicks): (Vec<Listening>, Vec<Listening>),
    ) -> Result<Self, Error> {
        let path = config.admin.socket.clone();
        let admin = match path.as_os_str().is_empty() {
            true => None,
            false => Some(admin::bind_unix(&path).map_err(|error| Error::Socket { path, error })?),
        };
        let address = config.metrics.address;
        let taken = |Listening { socket, is_shared }| Ok((TcpListener::from_std(socket)?, is_shared));
        let metrics = metrics.map(taken).transpose();
        let metrics = metrics.map_err(|error| Error::Listen { address, error })?;
        let desks = desk::Place::all_bound(desks, &config.admin.listen)?;
        let clicks = desk::Place::all_bound(clicks, &config.unsubscribe.listen)?;
        Ok(Self { admin, desks, clicks, metrics })
    }
}

/// What signs messages, on as many threads as there are cores.
fn signer(ring: Arc<Ring>, clock: Clock, registry: &Registry) -> Result<Signer, Error> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let signer = Signer::new(cores, clock, registry);
    signer.prepare(&ring).map_err(Error::Thread)?;
    signer.apply(ring);
    Ok(signer)
}

/// Has the queue deliver; the task that is given tells if it ends before its time.
fn scheduling(queue: &Queue, deliverer: &Arc<Deliverer>) -> JoinSet<()> {
    let scheduler = queue.start(deliverer.clone() as Arc<dyn Courier>);
    let mut watchers = JoinSet::new();
    watchers.spawn(async move {
        if let Err(failure) = scheduler.await {
            error!(%failure, "the queue's scheduler ended");
        }
    });
    watchers
}

/// A start that fails takes the segments of a spool that is open already with it.
async fn or_abandon<T>(spool: &Spool, result: Result<T, Error>) -> Result<T, Error> {
    if result.is_err() {
        spool.abandon().await;
    }
    result
}

/// Sets the gauges of the spool and of the process, and has the exporter do its upkeep, until `stop`.
async fn upkeep(
    registry: Registry,
    spool: Spool,
    gauges: gauges::SpoolGauges,
    process: Arc<Process>,
    clock: Clock,
    stop: CancellationToken,
) {
    let wall = Bulkhead::new(&registry, "gauges");
    loop {
        let behind = wall.clone();
        let (spool, process) = (spool.clone(), Arc::clone(&process));
        // Asks the file system for its free space, and reads /proc: both may block.
        let look = move || {
            process.show(clock.now());
            spool.stat()
        };
        if let Ok(Ok(stat)) = tokio::task::spawn_blocking(move || behind.call(look)).await {
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

/// The configured name, else the system's.
pub fn hostname(config: &Config) -> Arc<str> {
    if !config.hostname.is_empty() {
        return Arc::from(config.hostname.to_lowercase());
    }
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy().to_lowercase();
    Arc::from(if is_host_name(&name) { name.as_str() } else { "localhost" })
}
