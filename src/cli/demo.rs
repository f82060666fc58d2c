//! `hikyaku demo`: a daemon between receivers of different character and a load, and the proof that nothing was lost.
//!
//! Everything is in this process, on loopback and in a folder of its own that is removed at the end. The parts are in
//! [`crate::demo`]; here they are put together.

mod stay;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::exit::{self, Exit, Failure};
use super::run::{Signals, runtime, start_log};
use super::table::{octets, thousands};
use super::{out, print_json};
use crate::config::units::{ByteSize, Span};
use crate::config::{Config, Logging};
use crate::daemon::Daemon;
use crate::demo::content::Shape;
use crate::demo::folder::Folder;
use crate::demo::ledger::Ledger;
use crate::demo::load::{self, Load, Submitted};
use crate::demo::progress;
use crate::demo::receivers::Receivers;
use crate::demo::report::Report;
use crate::demo::responder::{Responder, Zone};
use crate::demo::sites::{LIMITED_ADDRESS, LIMITED_DOMAIN, SITES};
use crate::mask::Mask;

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// How many messages
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    messages: u32,
    /// Over how many connections they are submitted
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Stay up afterwards until Ctrl-C, to try the other commands on it, and show how a receiver's limits are learnt
    #[arg(long)]
    keep: bool,
    /// Where the temporary spool is made; /dev/shm is no disk [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What the daemon logs to standard error, as log.filter in the configuration
    #[arg(long, value_name = "FILTER", default_value = "error")]
    log: String,
    /// Print the result as JSON, and nothing else to standard output
    #[arg(long)]
    json: bool,
}

/// Without any progress for this long, what is still open is counted as lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the ledger.
const LOOK: Duration = Duration::from_millis(50);
/// For the daemon's stop.
const GRACE: Duration = Duration::from_secs(10);
/// A content's size on average, with its record.
const MEAN_SIZE: u64 = 14_000;

impl Demo {
    pub(super) fn execute(self) -> exit::Result {
        let _ = start_log(&Logging { filter: self.log.clone(), ..Logging::default() }, Mask::None)?;
        let runtime = runtime(0)?;
        let result = runtime.block_on(self.interruptible());
        runtime.shutdown_background();
        result
    }

    /// A signal ends it at any time, and the folder is removed all the same.
    async fn interruptible(self) -> exit::Result {
        let mut signals = Signals::catch()?;
        let folder =
            Folder::make(self.dir.as_deref()).context("cannot make a temporary folder").map_err(Failure::usage)?;
        require_room(folder.path(), self.messages).map_err(Failure::usage)?;
        let mut stage = Stage::build(&folder, self.messages).await?;
        let mut result = tokio::select! {
            result = self.play(&stage) => result,
            () = signals.termination() => Err(anyhow::anyhow!("interrupted").into()),
        };
        if self.keep && result.is_ok() {
            result = tokio::select! {
                ended = self.stay(&mut stage) => ended,
                () = signals.termination() => result,
            };
            if !stage.receivers.limited.counts().is_sound() {
                result = Ok(Exit::Problem);
            }
        }
        stage.clear().await;
        result
    }

    /// Stays up; ends only by an error.
    async fn stay(&self, stage: &mut Stage) -> exit::Result {
        let limited = &stage.receivers.limited;
        let (rules, domain) = (limited.rules(), limited.domain());
        self.say(&format!(
            "\nStill running; Ctrl-C ends it. From now on limits are learnt, and there is always mail for {domain},\nwhich \
             takes {} messages a minute over {} connections. The daemon finds out:\n  {program} limits show\n  \
             {program} limits history\n",
            rules.rate_per_minute,
            rules.connections,
            program = program(),
        ))?;
        match stay::stay(stage, self.json).await? {}
    }

    async fn play(&self, stage: &Stage) -> exit::Result {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.say(&format!(
            "{} messages of 1-100 KB over {} connections,\nto {} receivers on 127.77.0.x port {}; {cores} cores\n",
            thousands(u64::from(self.messages)),
            self.connections,
            SITES.len(),
            stage.receivers.port(),
        ))?;
        if self.keep {
            let commands = commands(&program(), stage.daemon.admin_socket());
            self.say(&format!("While it runs, try in another terminal:\n{commands}\n"))?;
        }
        let submitted = tokio::select! {
            submitted = self.submit_and_wait(stage) => submitted?,
            never = progress::show(Arc::clone(&stage.ledger), self.messages) => match never {},
        };
        let left = stage.settled().await;
        let receivers = stage.receivers.sites.iter().map(AsRef::as_ref);
        let report = Report::new(&stage.ledger, submitted, receivers, left);
        if self.json {
            print_json(&report.json())?;
        } else {
            out::line(&report)?;
        }
        if !report.is_success() {
            out::remark_line(format_args!("open: {:?} ...", stage.ledger.open(10)));
            return Ok(Exit::Problem);
        }
        if self.keep {
            let commands = commands(&program(), stage.daemon.admin_socket());
            self.say(&format!("Try next, in another terminal:\n{commands}"))?;
        } else {
            self.say(&format!("Next, `{} demo --keep` stays up for the other commands.", program()))?;
        }
        Ok(Exit::Ok)
    }

    /// Tells people something that is not the result.
    fn say(&self, text: &str) -> std::io::Result<()> {
        if self.json {
            out::remark_line(text);
            return Ok(());
        }
        out::line(text)
    }

    async fn submit_and_wait(&self, stage: &Stage) -> anyhow::Result<Submitted> {
        let Some(&server) = stage.daemon.submission_addresses().first() else { bail!("the daemon does not listen") };
        let load = Load { server, messages: self.messages, connections: self.connections, shape: Shape::Mixed };
        let submitted = load::submit(load, &stage.ledger).await?;
        stage.drained().await;
        Ok(submitted)
    }
}

/// Everything that runs during a demonstration.
struct Stage {
    ledger: Arc<Ledger>,
    receivers: Receivers,
    responder: Responder,
    daemon: Daemon,
}

impl Stage {
    async fn build(folder: &Folder, messages: u32) -> Result<Self, Failure> {
        let ledger = Arc::new(Ledger::new(messages));
        let receivers = Receivers::start(&ledger, messages).await.context("the receivers cannot be started")?;
        let responder = Responder::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), zone()).await;
        let responder = responder.context("the DNS responder cannot be started")?;
        let daemon = Daemon::start(config(folder.path(), &receivers, &responder)?).await?;
        Ok(Self { ledger, receivers, responder, daemon })
    }

    /// Waits until nothing is open, or nothing has happened for too long.
    async fn drained(&self) {
        let (mut before, mut since) = (self.ledger.tally(), Instant::now());
        while before.open > 0 && since.elapsed() < PATIENCE {
            tokio::time::sleep(LOOK).await;
            let now = self.ledger.tally();
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
    }

    /// Recipients left in the queue; waits a little, since the last receiver's 250 is seen by the daemon a moment later.
    async fn settled(&self) -> u64 {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let queued = self.daemon.queue().view().totals.queued;
            if queued == 0 || Instant::now() > end {
                return queued as u64;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn clear(self) {
        self.daemon.stop(GRACE).await;
        self.receivers.stop().await;
        drop(self.responder);
    }
}

/// An MX host of its own for every domain.
fn zone() -> Zone {
    let mut zone = Zone::new();
    let sites = SITES.iter().map(|site| (site.domain, site.address)).chain([(LIMITED_DOMAIN, LIMITED_ADDRESS)]);
    for (domain, address) in sites {
        let host = format!("mx.{domain}");
        zone.mx(domain, 10, &host).address(&host, address);
    }
    zone
}

/// What differs from the defaults, and only for the demonstration: loopback, short retries, everything in one folder.
fn config(folder: &Path, receivers: &Receivers, responder: &Responder) -> anyhow::Result<Config> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = Config { hostname: "demo.hikyaku.test".to_owned(), ..Config::default() };
    for listener in &mut config.listeners {
        listener.address = any_port;
        listener.tenant = "demo".to_owned();
    }
    config.spool.path = folder.join("spool");
    config.journal.path = folder.join("journal");
    config.spool.reserve = ByteSize(64 << 20);
    config.retry.schedule = [2, 3, 5].map(|seconds| Span(Duration::from_secs(seconds))).to_vec();
    config.delivery.port = receivers.port();
    // A campaign of seconds is over before anything is learnt, and learning begins slowly. What stays up learns (`stay`).
    config.limits.learn = false;
    config.dns.resolvers = vec![responder.address()];
    config.dns.allow_networks = vec!["127.77.0.0/24".parse()?];
    config.admin.socket = folder.join("admin.sock");
    config.metrics.address = any_port;
    Ok(config)
}

/// The daemon refuses mail below 5 % of free disk; better said before than found out.
fn require_room(folder: &Path, messages: u32) -> anyhow::Result<()> {
    let disk = rustix::fs::statvfs(folder).context("cannot look at the temporary folder's disk")?;
    let (free, whole) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
    let needed = u64::from(messages) * MEAN_SIZE * 2 + (256 << 20) + whole / 20;
    if free < needed {
        bail!(
            "{} has {} free and {} may be needed; choose another disk with --dir, or fewer --messages",
            folder.display(),
            octets(free),
            octets(needed)
        );
    }
    Ok(())
}

/// How this program was called; in a fresh clone it is not found by its name alone.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "hikyaku".to_owned())
}

fn commands(program: &str, socket: Option<&Path>) -> String {
    let socket = socket.map(|socket| socket.display().to_string()).unwrap_or_default();
    let lines = [
        "status",
        "sites",
        "queue list --domain greylisting.test",
        "message show ID      # one of that list",
        "message find --domain slow.test",
        "journal search --limit 10",
        "spool check",
    ];
    let commands: Vec<String> = lines.iter().map(|line| format!("  {program} {line}")).collect();
    format!("  export HIKYAKU_SOCKET={socket}\n{}", commands.join("\n"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Arguments;

    #[test]
    fn every_command_that_is_suggested_exists() {
        let text = commands("target/release/hikyaku", Some(Path::new("/tmp/demo/admin.sock")));

        assert!(text.starts_with("  export HIKYAKU_SOCKET=/tmp/demo/admin.sock\n"), "{text}");
        for line in text.lines().skip(1) {
            let words = line.split('#').next().unwrap().replace("ID", "0000000000001");
            assert!(line.starts_with("  target/release/hikyaku "), "{line}");
            Arguments::try_parse_from(words.split_whitespace()).unwrap();
        }
    }
}
