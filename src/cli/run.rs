//! `hikyaku run`: the daemon in the foreground, until SIGTERM or SIGINT.
//!
//! The first signal drains: accepting ends, transactions that are under way finish within `delivery.drain`, the spool
//! is synced and closed. A second one ends at once, which is safe: the spool is made for it. SIGHUP changes nothing.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::check::DEFAULT_CONFIG;
use super::exit::{self, Exit, Failure};
use super::notify::{self, notify};
use crate::config::{Config, LogFormat, Logging};
use crate::daemon::Daemon;
use crate::panics;

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
        start_log(&config.log)?;
        panics::log_panics();
        raise_descriptor_limit();
        let runtime = runtime(config.threads)?;
        let result = runtime.block_on(serve(config));
        // Look-ups that still block are of no use to anybody.
        runtime.shutdown_background();
        result
    }
}

async fn serve(config: Config) -> exit::Result {
    let mut signals = Signals::catch()?;
    let grace = config.delivery.drain.0;
    let daemon = Daemon::start(config).await.map_err(Failure::usage)?;
    tell_systemd(notify::READY);
    signals.termination().await;
    tell_systemd(notify::STOPPING);
    tracing::info!(grace_seconds = grace.as_secs(), "draining; a second signal ends at once");
    tokio::select! {
        () = daemon.stop(grace) => Ok(Exit::Ok),
        () = signals.termination() => {
            tracing::warn!("ended by a second signal before the drain was done");
            Ok(Exit::Problem)
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

/// Sends the daemon's log to standard error.
pub(super) fn start_log(settings: &Logging) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&settings.filter)
        .with_context(|| format!("log.filter: {:?} is not a filter", settings.filter))
        .map_err(Failure::usage)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}").into())
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
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    tracing::warn!("SIGHUP changes nothing: restart the daemon for a new configuration");
                }
            }
        }
    }
}
