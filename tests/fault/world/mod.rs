//! One spool, the daemons that lived on it one after the other, and what is true in the end.

pub mod client;
pub mod daemon;
pub mod doubts;
pub mod options;
pub mod sink;
pub mod strace;
pub mod usage;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::checker::{Checker, Verdict};
use client::{Load, Numbers, Plan};
use daemon::{Daemon, LOOK, Launch};
use options::Options;
use sink::Sink;
use strace::Fault;
use usage::Usage;

/// Connections of an ordinary load, and of one under strace.
const CONNECTIONS: u32 = 8;
const FEW_CONNECTIONS: u32 = 2;
/// Messages of one run under strace: more than a segment.
const FEW: u32 = 60;
/// How long a run with a fault may go on after its load.
const GRACE: Duration = Duration::from_secs(3);
/// Progress is promised within 60 s after a fault ends.
pub const PROGRESS: Duration = Duration::from_secs(60);
/// Connections to one site: what can wait for the reply to an end of data.
pub const SITE_CONNECTIONS: u64 = 20;
/// Outcomes reach the kernel within 5 ms; this machine may be late ten times over.
const UNWRITTEN: Duration = Duration::from_millis(50);

/// What a daemon may use.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Resident memory in octets.
    pub memory: u64,
    pub descriptors: u64,
}

impl Default for Caps {
    /// The program, 16 MiB of cache, and some hundred sessions with a content of at most 256 KiB each in memory; and their
    /// descriptors beside those to one site and of the runtime.
    fn default() -> Self {
        Self { memory: 256 << 20, descriptors: 400 }
    }
}

/// A spool and its logs.
#[derive(Debug)]
pub struct World {
    pub name: String,
    folder: TempDir,
    /// As the configuration file has them.
    pub options: Options,
    pub checker: Arc<Checker>,
    pub sink: Sink,
    pub numbers: Arc<Numbers>,
    pub caps: Caps,
    /// How long the last daemon may go without a message leaving the spool.
    pub patience: Duration,
    /// Duplicates that nobody announced are within the bound, too: the attempts were not synced and the power was cut.
    pub spares_unannounced: bool,
    used: Usage,
    /// Bound of the duplicates, summed over the crashes.
    bound: u64,
    deaths: u64,
    early_deaths: u64,
}

/// How worlds ended.
#[derive(Debug, Default)]
pub struct Ending {
    pub accepted: u64,
    pub unknown: u64,
    pub refused: u64,
    pub doubts: u64,
    pub duplicates: u64,
    /// Duplicates that were not announced.
    pub unpredicted: u64,
    pub lost: u64,
    pub broken: u64,
    /// Daemons that the fault ended when they had listened.
    pub deaths: u64,
    /// Daemons that the fault ended before.
    pub early_deaths: u64,
    pub used: Usage,
    /// Promises that were broken.
    pub failures: Vec<String>,
}

impl World {
    pub fn new(name: &str, numbers: Arc<Numbers>) -> Self {
        Self::with(name, numbers, |_| {})
    }

    /// With options of its own.
    pub fn with(name: &str, numbers: Arc<Numbers>, change: impl FnOnce(&mut Options)) -> Self {
        let checker = Arc::new(Checker::default());
        let sink = Sink::start(Arc::clone(&checker));
        Self::around(name, numbers, checker, sink, change)
    }

    /// Around a sink that is there.
    pub fn around(
        name: &str,
        numbers: Arc<Numbers>,
        checker: Arc<Checker>,
        sink: Sink,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new(folder.path(), sink.address);
        change(&mut options);
        options.write(&folder.path().join("config.toml"));
        Self {
            name: name.to_owned(),
            folder,
            options,
            checker,
            sink,
            numbers,
            caps: Caps::default(),
            patience: PROGRESS,
            spares_unannounced: false,
            used: Usage::default(),
            bound: 0,
            deaths: 0,
            early_deaths: 0,
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn file(&self) -> PathBuf {
        self.folder().join("config.toml")
    }

    /// Where the spool is, or the disk that it is on.
    pub fn spool(&self) -> PathBuf {
        self.folder().join("spool")
    }

    /// Starts a daemon that must come up.
    pub fn start(&self) -> (Daemon, SocketAddr) {
        self.launch(&Launch::default())
    }

    pub fn launch(&self, launch: &Launch<'_>) -> (Daemon, SocketAddr) {
        let (daemon, address) = Daemon::start(self.folder(), launch, &self.checker);
        (daemon, address.unwrap_or_else(|| panic!("{}: the daemon does not start", self.name)))
    }

    pub fn load(&self, plan: &Plan, server: SocketAddr) -> Load {
        Load::start(plan, server, &self.checker)
    }

    /// A load of its numbers without end.
    pub fn endless_load(&self, server: SocketAddr) -> Load {
        self.load(&Plan::endless(CONNECTIONS, &self.numbers), server)
    }

    /// Waits until `is_so`; false after the time in which progress is promised.
    pub fn until(&self, is_so: impl FnMut() -> bool) -> bool {
        self.until_for(PROGRESS, is_so)
    }

    /// Waits until `is_so`, at most for `limit`.
    pub fn until_for(&self, limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if is_so() {
                return true;
            }
            thread::sleep(LOOK);
        }
        false
    }

    /// Starts a daemon, loads it, and kills it after `moment`.
    pub fn run_and_kill(&mut self, moment: Duration) {
        let (daemon, address) = self.start();
        let clients = self.endless_load(address);
        thread::sleep(moment);
        assert!(self.kill(daemon), "{}: the daemon ended by itself", self.name);
        clients.join();
    }

    /// Kills a daemon; whether it still ran.
    pub fn kill(&mut self, daemon: Daemon) -> bool {
        self.cut(daemon, UNWRITTEN)
    }

    /// Ends a daemon in a way that loses the outcomes of its last `unkept`; whether it still ran.
    pub fn cut(&mut self, daemon: Daemon, unkept: Duration) -> bool {
        let (was_running, used) = daemon.kill();
        self.used = self.used.most(used);
        let now = Instant::now();
        self.bound += SITE_CONNECTIONS + self.checker.arrivals_between(now - unkept, now);
        was_running
    }

    /// Starts a daemon with a fault, loads it, and kills it if it outlives the load.
    pub fn run_with(&mut self, fault: &Fault<'_>) {
        let launch = Launch { fault: Some(fault).filter(|fault| !fault.spares_start), ..Launch::default() };
        let (mut daemon, address) = Daemon::start(self.folder(), &launch, &self.checker);
        if let Some(address) = address {
            if fault.spares_start {
                daemon.attach(fault);
            }
            self.load(&Plan::of(FEW, FEW_CONNECTIONS, &self.numbers), address).join();
            let end = Instant::now() + GRACE;
            while daemon.is_running() && !self.checker.is_settled() && Instant::now() < end {
                thread::sleep(LOOK);
            }
        }
        match (self.kill(daemon), address) {
            (true, _) => {}
            (false, Some(_)) => self.deaths += 1,
            (false, None) => self.early_deaths += 1,
        }
    }

    /// So many duplicates more are within the bound.
    pub fn allow_duplicates(&mut self, count: u64) {
        self.bound += count;
    }

    /// What a daemon that was stopped has used.
    pub fn count_usage(&mut self, used: Usage) {
        self.used = self.used.most(used);
    }

    /// A start that nothing disturbs, until nothing is left to do; then the check.
    pub fn finish(self) -> Ending {
        let (daemon, _) = self.start();
        self.finish_with(daemon)
    }

    /// The same, and something before its files are removed.
    pub fn finish_and(self, last: impl FnOnce()) -> Ending {
        let (daemon, _) = self.start();
        let (ending, _folder) = self.conclude(daemon);
        last();
        ending
    }

    /// The check, after a daemon to which nothing happens any more has done all there is to do.
    pub fn finish_with(self, daemon: Daemon) -> Ending {
        self.conclude(daemon).0
    }

    fn conclude(mut self, daemon: Daemon) -> (Ending, TempDir) {
        let (stopped, used) = daemon.drain(self.patience);
        self.count_usage(used);
        let mut failures = Vec::new();
        match stopped {
            Err(failure) => failures.push(format!("{}: {failure}", self.name)),
            Ok(status) if status.code() != Some(0) => failures.push(format!("{}: stopped: {status}", self.name)),
            Ok(_) => failures.extend(self.spool_failure()),
        }
        let verdict = self.checker.verdict();
        let faults = [("lost", &verdict.lost), ("phantom", &verdict.phantoms), ("altered", &verdict.altered)];
        let mut told = |what: &str, all: &[String]| {
            let some = all.iter().take(5).collect::<Vec<_>>();
            if !some.is_empty() {
                failures.push(format!("{}: {} {what}, {some:#?}", self.name, all.len()));
            }
        };
        faults.iter().for_each(|(what, all)| told(what, all));
        told("panics", &verdict.panics);
        if !self.spares_unannounced {
            told("not announced", &verdict.unannounced);
        }
        if verdict.duplicates > self.bound {
            failures.push(format!("{}: {} duplicates, bound {}", self.name, verdict.duplicates, self.bound));
        }
        if self.used.memory > self.caps.memory || self.used.descriptors > self.caps.descriptors {
            failures.push(format!("{}: {:?} exceeds {:?}", self.name, self.used, self.caps));
        }
        (self.ending(&verdict, failures), self.folder)
    }

    fn ending(&self, verdict: &Verdict, failures: Vec<String>) -> Ending {
        Ending {
            accepted: verdict.accepted,
            unknown: verdict.unknown,
            refused: verdict.refused,
            doubts: verdict.doubts,
            duplicates: verdict.duplicates,
            unpredicted: verdict.unpredicted,
            lost: verdict.lost.len() as u64,
            broken: verdict.broken,
            deaths: self.deaths,
            early_deaths: self.early_deaths,
            used: self.used,
            failures,
        }
    }

    /// What is on disk is sound and empty, by the segments alone.
    fn spool_failure(&self) -> Option<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.args(["spool", "check", "--full-scan", "--json", "--config"]).arg(self.folder().join("config.toml"));
        let output = command.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let is_good = output.status.success() && report["messages"] == 0;
        (!is_good).then(|| format!("{}: the spool: {report}", self.name))
    }
}

impl Ending {
    /// Of a case that panicked.
    pub fn of_panic(number: usize, panic: &Box<dyn std::any::Any + Send>) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Self { failures: vec![format!("case {number}: {text}")], ..Self::default() }
    }

    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.doubts += other.doubts;
        self.duplicates += other.duplicates;
        self.unpredicted += other.unpredicted;
        self.lost += other.lost;
        self.broken += other.broken;
        self.deaths += other.deaths;
        self.early_deaths += other.early_deaths;
        self.used = self.used.most(other.used);
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, unknown, refused, doubts, deaths, early_deaths, used, .. } = self;
        write!(f, "{accepted} messages acknowledged, {unknown} unanswered, {refused} refused")?;
        if *doubts > 0 {
            write!(f, ", {doubts} recipients named in doubt")?;
        }
        if deaths + early_deaths > 0 {
            write!(f, ", {deaths} daemons ended by the fault and {early_deaths} before they listened")?;
        }
        write!(f, "; at most {} MiB and {} descriptors", used.memory >> 20, used.descriptors)
    }
}
