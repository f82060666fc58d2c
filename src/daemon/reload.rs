//! Taking on another configuration while mail goes through.
//!
//! Two phases: everything that can fail is made first (addresses are bound, resolvers set up); then all of it is put into
//! use, which cannot fail. So a reload happens or it does not. No connection is cut by it: what runs goes on under what it
//! was begun with where a change cannot reach it, and `docs/configuration.md` tells which options that is so of.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, AdminSocket, ReloadRefused, Reloaded, tokens};
use crate::config;
use crate::config::changes::Change;
use crate::config::{Config, ConfigError};
use crate::dkim::Ring;
use crate::dns::Planner;
use crate::dns::network::is_local;
use crate::metrics::Registry;
use crate::reply::LazyClassifier;
use crate::submission;
use crate::users;

use super::certificates::Acceptors;
use super::doors::Prepared;
use super::watchdog::beating;
use super::{Daemon, Error, accounts, desk, hostname, settings};

/// How long the file is read at most.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file cannot be read or used.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// It asks for something that cannot be had.
    #[error(transparent)]
    Unavailable(#[from] Error),
}

impl From<&ReloadError> for ReloadRefused {
    fn from(error: &ReloadError) -> Self {
        match error {
            ReloadError::File(error) => Self::File(error.to_string()),
            ReloadError::Unavailable(error) => Self::Unavailable(error.to_string()),
        }
    }
}

/// Changes what the log shows; there is one log a process, so the daemon is given this.
pub type SetLogFilter = Box<dyn Fn(&str) + Send + Sync>;

/// How reloads went.
#[derive(Debug)]
pub(super) struct Meters {
    ok: Counter,
    failed: Counter,
    success: Gauge,
    timestamp: Gauge,
}

impl Meters {
    /// The start counts as a success.
    pub fn new(registry: &Registry) -> Self {
        let reloads = |result| {
            let help = "Reloads of the configuration, by result; one that failed changed nothing.";
            registry.counter("hikyaku_config_reloads_total", help, &[("result", result)])
        };
        let success = "1: the configuration file was good when it was read last, at the start or by a reload.";
        let timestamp = "When the configuration that holds was read.";
        let meters = Self {
            ok: reloads("ok"),
            failed: reloads("failed"),
            success: registry.gauge("hikyaku_config_last_reload_success", success, &[]),
            timestamp: registry.gauge("hikyaku_config_last_reload_timestamp_seconds", timestamp, &[]),
        };
        meters.read();
        meters
    }

    fn read(&self) {
        self.success.set(1.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.timestamp.set(now.as_secs_f64());
    }

    fn failed(&self) {
        self.failed.increment(1);
        self.success.set(0.0);
    }
}

/// A server of the admin interface or of the metrics, which another one may replace.
#[derive(Debug)]
pub(super) struct Server<Place> {
    pub place: Place,
    /// Its socket is that of a socket unit: it can be had only at a start.
    pub is_shared: bool,
    pub stop: CancellationToken,
}

/// What becomes of a server.
enum Next<Bound> {
    Stays,
    Ends,
    Is(Bound),
}

/// What was read: the configuration, and what it names.
pub(super) struct Files {
    pub config: Config,
    pub classifier: LazyClassifier,
    pub acceptors: Acceptors,
    /// The keys that sign.
    pub ring: Arc<Ring>,
}

/// Everything that can fail, made.
struct Preparation {
    doors: Prepared,
    admin: Next<AdminSocket>,
    desks: Vec<desk::Place>,
    clicks: Vec<desk::Place>,
    metrics: Next<TcpListener>,
    planner: Option<Arc<Planner>>,
    hostname: Arc<str>,
    /// None: the file and what is made of it stay.
    users: Option<users::Prepared>,
    tokens: Option<tokens::Prepared>,
}

impl Daemon {
    /// Reads `file` and takes it on; tells in the log and the metrics how that went. Dropped before it is done, it has
    /// changed nothing.
    pub async fn reload_file(&mut self, file: &Path) -> Result<Reloaded, ReloadError> {
        let reloaded = match self.load(file).await {
            Ok(files) => self.take_on(files).await.map_err(ReloadError::from),
            Err(error) => Err(error.into()),
        };
        match reloaded {
            Ok((changed, needs_restart)) => {
                self.reloads.ok.increment(1);
                self.reloads.read();
                *self.control.reload_failure.lock() = None;
                for Change { key, old, new } in &changed {
                    info!(key, old, new, "changed by the reload");
                }
                for Change { key, old, new } in &needs_restart {
                    warn!(key, old, new, "holds only after a restart");
                }
                let (changes, left) = (changed.len(), needs_restart.len());
                info!(file = %file.display(), changed = changes, needs_restart = left, "configuration reloaded");
                let all = |changes: Vec<Change>| changes.into_iter().map(shown).collect();
                let (changed, needs_restart) = (all(changed), all(needs_restart));
                let warnings = foreign_addresses(&self.config);
                warnings.iter().for_each(|warning| warn!(warning, "this configuration does not fit this machine"));
                Ok(Reloaded { file: file.display().to_string(), changed, needs_restart, warnings })
            }
            Err(error) => {
                self.reloads.failed();
                *self.control.reload_failure.lock() = Some(error.to_string());
                error!(%error, "the configuration was not reloaded; the one before holds");
                Err(error)
            }
        }
    }

    /// Reads the files where it holds nobody up: their disk may hang.
    async fn load(&mut self, file: &Path) -> Result<Files, ConfigError> {
        let failed = |error| ConfigError::Read { path: file.to_owned(), error };
        let silent = || failed(io::Error::new(io::ErrorKind::TimedOut, "its disk does not answer"));
        if self.reading.as_ref().is_some_and(|reading| !reading.is_finished()) {
            return Err(silent());
        }
        let (path, before) = (file.to_owned(), self.acceptors.load_full());
        let reading = move || read(Config::load(&path)?, Some(&before), &path);
        let reading = self.reading.insert(tokio::task::spawn_blocking(reading));
        let read = tokio::time::timeout(READ_TIMEOUT, reading).await.map_err(|_| silent())?;
        self.reading = None;
        read.map_err(|error| failed(error.into()))?
    }

    /// Takes on another configuration; gives what changed, and what would but needs a restart. On an error nothing has
    /// changed.
    pub async fn reload(&mut self, config: Config) -> Result<(Vec<Change>, Vec<Change>), Error> {
        let files = read(config, Some(&self.acceptors.load()), Path::new(""))?;
        self.take_on(files).await
    }

    async fn take_on(&mut self, files: Files) -> Result<(Vec<Change>, Vec<Change>), Error> {
        let Files { config, classifier, acceptors, ring } = files;
        // A bad one leaves the one before in force, and is told by `status`, as between reloads.
        let (users, tokens, audit) = (self.users.clone(), self.tokens.clone(), self.audit.clone());
        let _ = tokio::task::spawn_blocking(move || accounts::look(&users, &tokens, &audit)).await;
        let changes = self.config.changes(&config);
        let (needs_restart, mut changed): (Vec<_>, Vec<_>) = changes.into_iter().partition(Change::needs_restart);
        changed.extend(self.reread(&config, &classifier, &acceptors, &ring));
        if changed.is_empty() {
            return Ok((changed, needs_restart));
        }
        let config = config.without_restart(&self.config);
        let preparation = self.prepare(&config, acceptors.of_listeners()).await?;
        self.signer.prepare(&ring).map_err(Error::Thread)?;
        self.signer.apply(ring);
        self.classifier = classifier;
        self.commit(preparation, config, &acceptors);
        self.acceptors.store(Arc::new(acceptors));
        Ok((changed, needs_restart))
    }

    /// Files that say something else than when they were read before, while the options that name them are the same.
    fn reread(
        &self,
        config: &Config,
        classifier: &LazyClassifier,
        acceptors: &Acceptors,
        ring: &Ring,
    ) -> impl Iterator<Item = Change> {
        let own = &self.config;
        let has_rules = own.replies == config.replies && !classifier.is_as(&self.classifier);
        let has_keys = own.dkim == config.dkim && !ring.has_keys_of(&self.signer.ring());
        let is_same_tls = (&own.listeners, &own.certificates) == (&config.listeners, &config.certificates);
        let has_authorities = is_same_tls && !acceptors.is_as(&self.acceptors.load());
        let rules = format!("\"{}\", ", config.replies.rules.display());
        let change = |key: &str, of: &str, (before, now): (&str, &str)| {
            let (old, new) = (Some(format!("{of}{before}")), Some(format!("{of}{now}")));
            Change { key: key.to_owned(), old, new }
        };
        let (one, many) = (("as it was read before", "as it is now"), ("as they were read before", "as they are now"));
        let found = [
            has_rules.then(|| change("replies.rules", &rules, one)),
            has_keys.then(|| change("dkim", "the key files, ", many)),
            has_authorities.then(|| change("listener.client_ca", "the files, ", many)),
        ];
        found.into_iter().flatten()
    }

    /// Makes everything that can fail. What of it is not used is closed again.
    async fn prepare(&self, config: &Config, tls: Vec<Option<submission::Tls>>) -> Result<Preparation, Error> {
        let hostname = hostname(config);
        let rules = settings::dns(config, &hostname, self.sts.clone())?;
        let planner = self.queue.planner();
        let planner = match planner.is_as(&rules) {
            true => None,
            false => Some(Arc::new(planner.followed_by(rules, &self.registry)?)),
        };
        let users = match self.config.users == config.users {
            true => None,
            false => Some(accounts::prepare(config).await?),
        };
        let is_same = |one: &config::Admin, other: &config::Admin| {
            (&one.tokens, &one.networks) == (&other.tokens, &other.networks)
        };
        let tokens = match is_same(&self.config.admin, &config.admin) {
            true => None,
            false => Some(accounts::prepare_tokens(config).await?),
        };
        let (admin, metrics) = (self.prepare_admin(config)?, self.prepare_metrics(config).await?);
        let (doors, (desks, clicks)) = (self.doors.prepare(config, tls)?, self.prepare_desks(config)?);
        Ok(Preparation { doors, admin, desks, clicks, metrics, planner, hostname, users, tokens })
    }

    fn prepare_admin(&self, config: &Config) -> Result<Next<AdminSocket>, Error> {
        let path = &config.admin.socket;
        if self.admin.as_ref().map_or(path.as_os_str().is_empty(), |server| server.place == *path) {
            return Ok(Next::Stays);
        }
        if path.as_os_str().is_empty() {
            return Ok(Next::Ends);
        }
        let socket = admin::bind_unix(path).map_err(|error| Error::Socket { path: path.clone(), error })?;
        Ok(Next::Is(socket))
    }

    async fn prepare_metrics(&self, config: &Config) -> Result<Next<TcpListener>, Error> {
        let address = config.metrics.address;
        match (&self.metrics, config.metrics.enabled) {
            (None, false) => return Ok(Next::Stays),
            (Some(_), true) if self.config.metrics.address == address => return Ok(Next::Stays),
            (Some(server), _) if server.is_shared => {
                return Err(Error::HandedOver { key: "metrics.address", address: server.place });
            }
            (Some(_), false) => return Ok(Next::Ends),
            (_, true) => {}
        }
        let listener = TcpListener::bind(address).await.map_err(|error| Error::Listen { address, error })?;
        Ok(Next::Is(listener))
    }

    /// Puts everything into use.
    fn commit(&mut self, preparation: Preparation, config: Config, acceptors: &Acceptors) {
        let Preparation { doors, admin, desks, clicks, metrics, planner, hostname, users, tokens } = preparation;
        if let Some(tokens) = tokens {
            self.tokens.apply(tokens);
        }
        if let Some(users) = users {
            self.users.apply(users);
        }
        *self.control.hostname.lock() = hostname.clone();
        self.spool.apply(settings::spool(&config));
        self.tls_reports.tally().apply(settings::reporter(&config));
        self.returns.apply(&config, &self.classifier);
        let tally = self.tls_reports.tally();
        self.deliverer.apply(settings::delivery(&config, &self.classifier, tally, Some(&self.returns.feedback)));
        let queue = settings::queue(&config, &hostname, self.threads, &self.classifier);
        self.queue.apply(queue, planner);
        self.doors.commit(doors, &config, &hostname);
        self.commit_admin(admin);
        self.commit_desks(desks, acceptors.of_admin());
        self.unsubscribe.apply(settings::unsubscribe(&config));
        self.commit_clicks(clicks, acceptors.of_unsubscribe());
        self.commit_metrics(metrics);
        if let Some(set) = &self.set_log_filter
            && config.log.filter != self.config.log.filter
        {
            set(&config.log.filter);
        }
        self.config = config;
    }

    fn commit_admin(&mut self, next: Next<AdminSocket>) {
        match next {
            Next::Stays => {}
            Next::Ends => self.end_admin(),
            Next::Is(socket) => {
                self.end_admin();
                self.serve_admin(socket);
            }
        }
    }

    /// Requests that are being answered, this reload perhaps among them, are finished.
    fn end_admin(&mut self) {
        if let Some(server) = self.admin.take() {
            server.stop.cancel();
        }
    }

    /// Serves the admin interface on a socket.
    pub(super) fn serve_admin(&mut self, socket: AdminSocket) {
        let stop = self.stop_watching.child_token();
        let place = socket.path().to_owned();
        let serve = admin::serve_unix(socket, self.admin_state(), stop.clone());
        self.watchers.spawn(beating(self.parts.accept_loop(), serve));
        self.admin = Some(Server { place, is_shared: false, stop });
    }

    fn commit_metrics(&mut self, next: Next<TcpListener>) {
        if matches!(next, Next::Stays) {
            return;
        }
        if let Some(server) = self.metrics.take() {
            server.stop.cancel();
        }
        if let Next::Is(listener) = next {
            self.serve_metrics(listener, false);
        }
    }

    /// Serves the metrics on a listener, which may have been handed over at the start.
    pub(super) fn serve_metrics(&mut self, listener: TcpListener, is_shared: bool) {
        let Ok(place) = listener.local_addr() else { return };
        let stop = self.stop_watching.child_token();
        let serve = admin::serve_metrics(listener, self.registry.clone(), stop.clone());
        self.watchers.spawn(beating(self.parts.accept_loop(), serve));
        self.metrics = Some(Server { place, is_shared, stop });
    }
}

/// A configuration, of the file `path`, with what it names. Blocks on the disk.
pub(super) fn read(config: Config, before: Option<&Acceptors>, path: &Path) -> Result<Files, ConfigError> {
    let failed = |error| ConfigError::Certificate { path: path.to_owned(), error };
    let classifier = config.replies.classifier()?;
    let acceptors = Acceptors::of(&config, before).map_err(failed)?;
    let ring = Arc::new(config.ring()?);
    Ok(Files { config, classifier, acceptors, ring })
}

/// Egress addresses that this machine does not have.
fn foreign_addresses(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    for source in &config.sources {
        for address in source.ipv4.map(IpAddr::from).into_iter().chain(source.ipv6.map(IpAddr::from)) {
            if !is_local(address) {
                let name = &source.name;
                found.push(format!("source {name}: {address} is no address of this machine: no mail leaves from it"));
            }
        }
    }
    found
}

fn shown(change: Change) -> admin::Change {
    let Change { key, old, new } = change;
    admin::Change { key, old, new }
}
