//! One spool, the daemons that lived on it one after the other, and what is true in the end.

use std::fmt;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::client::{self, Numbers};
use super::daemon::{self, Daemon, Fault, LOOK};
use super::ledger::Ledger;
use super::sink::Sink;

/// Connections of the load of a kill at a random time, and of a case under strace.
const CONNECTIONS: u32 = 8;
const FEW_CONNECTIONS: u32 = 2;
/// Messages of one run under strace: more than a segment.
const FEW: u32 = 60;
/// How long a run with a fault may go on after its load.
const GRACE: Duration = Duration::from_secs(3);
/// Progress is promised within 60 s after a fault ends.
const PROGRESS: Duration = Duration::from_secs(60);
/// Connections to one site: what can wait for the reply to an end of data.
const SITE_CONNECTIONS: u64 = 20;
/// Outcomes reach the kernel within 5 ms; this machine may be late ten times over.
const UNWRITTEN: Duration = Duration::from_millis(50);

/// A spool and its logs.
#[derive(Debug)]
pub struct Case {
    name: String,
    folder: TempDir,
    ledger: Arc<Ledger>,
    _sink: Sink,
    numbers: Arc<Numbers>,
    /// Bound of the duplicates, summed over the kills.
    bound: u64,
    deaths: u64,
    early_deaths: u64,
}

/// How a case ended, if it did not fail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ending {
    pub accepted: u64,
    pub unknown: u64,
    pub refused: u64,
    pub doubts: u64,
    pub duplicates: u64,
    /// Daemons that the fault ended when they had listened.
    pub deaths: u64,
    /// Daemons that the fault ended before.
    pub early_deaths: u64,
}

impl Case {
    pub fn new(name: &str, seed: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Arc::new(Ledger::default());
        let sink = Sink::start(Arc::clone(&ledger));
        daemon::configure(folder.path(), sink.address);
        let numbers = Numbers::from(seed * 100);
        Self { name: name.to_owned(), folder, ledger, _sink: sink, numbers, bound: 0, deaths: 0, early_deaths: 0 }
    }

    /// Starts a daemon, loads it, and kills it after `moment`.
    pub fn run_and_kill(&mut self, moment: Duration) {
        let (daemon, address) = Daemon::start(self.folder.path(), None, &self.ledger);
        let address = address.unwrap_or_else(|| panic!("{}: the daemon does not start", self.name));
        let clients = client::start(CONNECTIONS, address, &self.numbers, u32::MAX, &self.ledger);
        thread::sleep(moment);
        assert!(daemon.kill(), "{}: the daemon ended by itself", self.name);
        self.count_kill();
        clients.into_iter().for_each(|client| client.join().unwrap());
    }

    /// Starts a daemon with a fault, loads it, and kills it if it outlives the load.
    pub fn run_with(&mut self, fault: &Fault<'_>) {
        let from_start = Some(fault).filter(|fault| !fault.spares_start);
        let (mut daemon, address) = Daemon::start(self.folder.path(), from_start, &self.ledger);
        if let Some(address) = address {
            if fault.spares_start {
                daemon.attach(fault);
            }
            let end = self.numbers.next() + FEW;
            let clients = client::start(FEW_CONNECTIONS, address, &self.numbers, end, &self.ledger);
            clients.into_iter().for_each(|client| client.join().unwrap());
            let end = Instant::now() + GRACE;
            while daemon.is_running() && !self.ledger.is_settled() && Instant::now() < end {
                thread::sleep(LOOK);
            }
        }
        match (daemon.kill(), address) {
            (true, _) => {}
            (false, Some(_)) => self.deaths += 1,
            (false, None) => self.early_deaths += 1,
        }
        self.count_kill();
    }

    fn count_kill(&mut self) {
        let now = Instant::now();
        self.bound += SITE_CONNECTIONS + self.ledger.arrivals_between(now - UNWRITTEN, now);
    }

    /// A start that nothing disturbs, until nothing is left to do; then the check.
    pub fn finish(self) -> Ending {
        let (daemon, address) = Daemon::start(self.folder.path(), None, &self.ledger);
        assert!(address.is_some(), "{}: the daemon does not start", self.name);
        let stopped = daemon.drain(PROGRESS);
        let verdict = self.ledger.verdict();
        assert!(verdict.is_clean(), "{}: {verdict:#?}", self.name);
        let status = stopped.unwrap_or_else(|failure| panic!("{}: {failure}", self.name));
        assert_eq!(status.code(), Some(0), "{}: stopped in good order", self.name);
        assert!(verdict.duplicates <= self.bound, "{}: {} > {}", self.name, verdict.duplicates, self.bound);
        self.check_spool();
        Ending {
            accepted: verdict.accepted,
            unknown: verdict.unknown,
            refused: verdict.refused,
            doubts: verdict.doubts,
            duplicates: verdict.duplicates,
            deaths: self.deaths,
            early_deaths: self.early_deaths,
        }
    }

    /// What is on disk is sound and empty, by the segments alone.
    fn check_spool(&self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        let spool = self.folder.path().join("spool");
        let output = command.args(["spool", "check", "--full-scan", "--json", "--spool"]).arg(spool).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success() && report["messages"] == 0, "{}: {report}", self.name);
    }
}

impl Ending {
    /// Of several cases.
    pub fn sum(endings: &[Self]) -> Self {
        endings.iter().fold(Self::default(), |sum, ending| Self {
            accepted: sum.accepted + ending.accepted,
            unknown: sum.unknown + ending.unknown,
            refused: sum.refused + ending.refused,
            doubts: sum.doubts + ending.doubts,
            duplicates: sum.duplicates + ending.duplicates,
            deaths: sum.deaths + ending.deaths,
            early_deaths: sum.early_deaths + ending.early_deaths,
        })
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, unknown, refused, doubts, duplicates, deaths, early_deaths } = self;
        write!(
            f,
            "{accepted} messages acknowledged, {unknown} unanswered, {refused} refused; lost 0; {duplicates} arrivals \
             repeated, all among {doubts} named in doubt; the fault ended {deaths} daemons, and {early_deaths} \
             before they listened"
        )
    }
}
