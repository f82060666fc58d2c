//! `hikyaku run`: the daemon in the foreground, until SIGTERM or SIGINT.
//!
//! The first signal drains: accepting ends, transactions that are under way finish within `delivery.drain`, the spool
//! is synced and closed. A second one ends at once with exit code 1, which is safe: the spool is made for it. SIGHUP reads
//! the configuration file again, as `hikyaku reload` does.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

use super::check::DEFAULT_CONFIG;
use super::confine::confine;
use super::exit::{self, Exit, Failure};
use super::notify::{self, notify};
use super::privileges;
use crate::admin::{Left, ReloadRefused, Reloaded};
use crate::audit::Audit;
use crate::config::{Config, LogFormat, Logging};
use crate::daemon::{Attachment, Daemon, SetLogFilter, Sockets, mask};
use crate::mask::Mask;
use crate::panics;

/// Requests for a reload that wait while one is under way; more wait at their end.
const RELOADS: usize = 4;
/// [`Exit::Problem`], for an end that runs no destructors.
const EXIT_BY_SECOND_SIGNAL: i32 = 1;

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

impl Run {
    pub(super) fn execute(self) -> exit::Result {
        let config = Config::load(&self.config).map_err(Failure::usage)?;
        // Its key is read before the daemon's user is; it may be theirs all the same.
        let user = privileges::daemon_user(&config).map_or(0, |(user, _)| user);
        let mask = mask(&config, user).map_err(anyhow::Error::from).map_err(Failure::usage)?;
        let set_log_filter = start_log(&config.log, mask)?;
        panics::log_panics();
        raise_descriptor_limit();
        // While there is one thread: what was handed over is in the environment, and rights are those of a thread.
        let sockets = Sockets::inherit(&config).map_err(Failure::usage)?;
        privileges::give_up(&config).map_err(Failure::usage)?;
        let is_confined = confine(&self.config, &config).map_err(Failure::usage)?;
        let runtime = runtime(config.threads)?;
        let result = runtime.block_on(serve(&self.config, is_confined, sockets, config, set_log_filter));
        // Look-ups that still block are of no use to anybody.
        runtime.shutdown_background();
        result
    }
}

async fn serve(
    file: &Path,
    is_confined: bool,
    sockets: Sockets,
    config: Config,
    set_log_filter: SetLogFilter,
) -> exit::Result {
    let mut signals = Signals::catch()?;
    let (reload, mut requests) = mpsc::channel(RELOADS);
    let attachment = Attachment { reload, set_log_filter };
    let mut daemon = Daemon::start_on(sockets, config, Some(attachment)).await.map_err(Failure::usage)?;
    tell_systemd(&notify::ready("Accepting messages"));
    let _watchdog = daemon.watchdog(notify::watchdog(), || tell_systemd(notify::WATCHDOG))?;
    loop {
        // One reload after the other; signals that come during one are one more.
        let asked = tokio::select! {
            biased;
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => None,
            Some(asked) = requests.recv() => Some(asked),
        };
        // A reload that is ended by the stop has changed nothing; who asked for it is told that we are stopping.
        let answer = tokio::select! {
            answer = reloaded(&mut daemon, file) => answer.map_err(|refused| explained(refused, is_confined)),
            () = signals.termination() => break,
        };
        match asked {
            // Who asked may have gone; the log tells it anyway.
            Some(asked) => drop(asked.send(answer)),
            // What the admin interface asks for it records itself.
            None => note_reload(daemon.audit().clone(), answer).await,
        }
    }
    // Who asks from now on is told that we are stopping.
    drop(requests);
    drain(daemon, signals).await
}

/// Puts a reload that a signal asked for on record.
async fn note_reload(audit: Audit, answer: Result<Reloaded, ReloadRefused>) {
    let told = match answer {
        Ok(reloaded) => json!({ "by": "SIGHUP", "result": reloaded }),
        Err(ReloadRefused::File(error) | ReloadRefused::Unavailable(error)) => {
            json!({ "by": "SIGHUP", "error": error })
        }
    };
    let _ = tokio::task::spawn_blocking(move || audit.note("reload", told)).await;
}

/// Has the daemon read its file again; tells systemd.
async fn reloaded(daemon: &mut Daemon, file: &Path) -> Result<Reloaded, ReloadRefused> {
    tell_systemd(&notify::reloading());
    let result = daemon.reload_file(file).await;
    let status = match &result {
        Ok(done) if done.needs_restart.is_empty() => "Accepting messages; configuration reloaded",
        Ok(_) => "Accepting messages; configuration reloaded, but part of it needs a restart",
        Err(_) => "Accepting messages; the configuration file could not be used: see the log",
    };
    tell_systemd(&notify::ready(status));
    result.map_err(|error| (&error).into())
}

/// A daemon that is confined may be refused what its user could read: then that is said.
fn explained(refused: ReloadRefused, is_confined: bool) -> ReloadRefused {
    let denied = format!("(os error {})", rustix::io::Errno::ACCESS.raw_os_error());
    let explained = |text: String| match is_confined && text.contains(&denied) {
        true => {
            format!("{text}; the daemon reaches the folders that it started with (`sandbox`): restart it to add one")
        }
        false => text,
    };
    match refused {
        ReloadRefused::File(text) => ReloadRefused::File(explained(text)),
        ReloadRefused::Unavailable(text) => ReloadRefused::Unavailable(explained(text)),
    }
}

/// Stops within `delivery.drain`, or at once by a second signal.
async fn drain(daemon: Daemon, mut signals: Signals) -> exit::Result {
    let grace = daemon.config().delivery.drain.0;
    let left = daemon.remains();
    let (sessions, connections, in_flight) = (left.sessions(), left.connections(), left.in_flight());
    let status = format!("Draining: {connections} connections, {sessions} sessions");
    tell_systemd(&notify::stopping(&status, grace));
    let grace_seconds = grace.as_secs();
    tracing::info!(grace_seconds, sessions, connections, in_flight, "draining; a second signal ends at once");
    tokio::select! {
        () = daemon.stop(grace) => Ok(Exit::Ok),
        () = signals.termination() => {
            tracing::warn!(
                sessions = left.sessions(),
                connections = left.connections(),
                in_flight = left.in_flight(),
                "ended by a second signal before the drain was done; what was in flight is in doubt"
            );
            // Without destructors: they would write out and sync what the disk may take long for. The spool is made for it.
            std::process::exit(EXIT_BY_SECOND_SIGNAL)
        }
    }
}

/// Nothing depends on systemd's hearing us, but an operator who waits for it should know why it does not.
fn tell_systemd(state: &str) {
    if let Err(error) = notify(state) {
        tracing::warn!(%error, state, "systemd cannot be told");
    }
}

/// The soft limit is low for programs that use `select`; this one may use all descriptors it is allowed.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open descriptors stays as it is");
    }
}

/// A runtime with so many threads; 0: one a core.
pub(super) fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    Ok(builder.enable_all().thread_name("hikyaku").build().context("cannot start the runtime")?)
}

/// Standard error, with addresses masked. What is written at once is an event.
struct Masked(Mask);

impl Write for Masked {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if self.0.is_none() {
            return io::stderr().write(event);
        }
        io::stderr().write_all(self.0.text(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Sends the daemon's log to standard error; gives what changes its filter.
pub(super) fn start_log(settings: &Logging, mask: Mask) -> Result<SetLogFilter, Failure> {
    let filter = EnvFilter::try_new(&settings.filter)
        .with_context(|| format!("log.filter: {:?} is not a filter", settings.filter))
        .map_err(Failure::usage)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || Masked(mask.clone()));
    match settings.format {
        LogFormat::Text => {
            let log = log.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = log.reload_handle();
            log.try_init().map(|()| setter(handle))
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_filter_reloading();
            let handle = log.reload_handle();
            log.try_init().map(|()| setter(handle))
        }
    }
    .map_err(|error| anyhow::anyhow!("cannot start the log: {error}").into())
}

/// What is not a filter never comes here: the configuration has been checked.
fn setter<S: 'static>(handle: Handle<EnvFilter, S>) -> SetLogFilter {
    Box::new(move |filter| {
        let changed = EnvFilter::try_new(filter).map_err(|error| error.to_string());
        let changed = changed.and_then(|filter| handle.reload(filter).map_err(|error| error.to_string()));
        if let Err(error) = changed {
            tracing::error!(error, filter, "the log's filter stays as it is");
        }
    })
}

/// The signals that the daemon listens to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on they do not kill.
    pub(super) fn catch() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or SIGINT.
    pub(super) async fn termination(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
