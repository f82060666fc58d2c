//! `hikyaku spool`: the state of the spool, asked of the daemon (`stat`) or read from the disk (`check`).
//!
//! `check` needs no daemon and disturbs none. What a daemon writes meanwhile may be counted as an unfinished write.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::DEFAULT_CONFIG;
use super::client::ClientError;
use super::exit::{Exit, Failure};
use super::patience::patiently;
use super::places::{Named, Socket};
use super::table::{octets, plain, thousands};
use super::{Remote, exit, out, print_json};
use crate::config::Config;
use crate::log::disk::Disk;
use crate::spool::{self, CheckError, CheckReport, KeyId, Keys};
use crate::state::{Orders, Pins};
use crate::trusted::key;

/// How often a check begins again before its error is told.
const LOOKS: usize = 20;

/// Sub-commands of `spool`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Spool {
    /// Show the spool in numbers: the running daemon's, or what is on disk if no daemon answers
    Stat(Show),
    /// Keys that encrypt what is in the spool
    #[command(subcommand)]
    Key(Key),
    /// Read unfinished messages on disk, record and content, and say what is damaged; with --full-scan every record
    Check(Check),
}

/// Sub-commands of `spool key`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Key {
    /// Make a key file, of mode 0600; an existing one is left alone. Its path goes first into spool.key_files
    Generate {
        /// The file to make
        file: PathBuf,
    },
}

impl Key {
    fn execute(self) -> exit::Result {
        let Self::Generate { file } = self;
        let secret = key::generate(&file).map_err(anyhow::Error::from).map_err(Failure::usage)?;
        out::write(format!("key {} in {}\n", KeyId::of(&secret), file.display()).as_bytes())?;
        out::remark_line(format_args!(
            "keep a copy where the spool is not: without it, what was encrypted with it cannot be read"
        ));
        Ok(Exit::Ok)
    }
}

/// Where the spool is.
#[derive(Debug, clap::Args)]
struct Place {
    /// The spool's directory, to be read itself [default: spool.path of the configuration]
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// The configuration that names the directory [default: /etc/hikyaku/config.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "spool")]
    config: Option<PathBuf>,
    /// A key that the spool may be encrypted with; may be given more than once [default: spool.key_files of the
    /// configuration]
    #[arg(long = "key-file", value_name = "FILE")]
    key_files: Vec<PathBuf>,
}

impl Place {
    /// The keys that were named; else those of the configuration, if there is one that can be read.
    fn keys(&self) -> Result<Keys, Failure> {
        let mut files = self.key_files.clone();
        if files.is_empty() {
            let config = Config::load(self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG)));
            files = config.map(|config| config.spool.key_files).unwrap_or_default();
        }
        let secrets: Result<Vec<_>, _> = files.iter().map(|path| key::read(path)).collect();
        let secrets = secrets.map_err(anyhow::Error::from).map_err(Failure::usage)?;
        Ok(Keys::new(secrets, false))
    }

    fn named<'a>(&'a self, socket: Option<&'a Path>) -> Named<'a> {
        Named { place: self.spool.as_deref(), config: self.config.as_deref(), socket }
    }
}

/// Options of `spool check`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    place: Place,
    /// Read the segments themselves, finished messages and outcomes too; otherwise checkpoint and indexes say where the
    /// unfinished messages are, and only these are read
    #[arg(long)]
    full_scan: bool,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

/// Options of `spool stat`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    place: Place,
}

impl Spool {
    pub(super) async fn execute(self) -> exit::Result {
        match self {
            Self::Stat(show) => show.execute().await,
            Self::Check(check) => check.execute().await,
            Self::Key(key) => key.execute(),
        }
    }
}

impl Check {
    async fn execute(self) -> exit::Result {
        let named = self.place.named(self.socket.socket.as_deref());
        let path = named.find(|config| config.spool.path, |places| Some(places.spool)).await?;
        let is_full_scan = self.full_scan;
        let (looked_at, keys) = (path.clone(), self.place.keys()?);
        // On a thread of its own, so that something moves on the terminal meanwhile.
        let looking = tokio::task::spawn_blocking(move || look(&looked_at, is_full_scan, &keys));
        let report = patiently("reading the spool", looking).await?;
        let report = report.with_context(|| path.display().to_string()).map_err(Failure::usage)?;
        let orders = Orders::check(&Disk::new(&path)).err().map(|error| error.of_spool(&path));
        let pins = Pins::check(&Disk::new(&path)).err().map(|error| error.of_spool(&path));
        let findings = Findings { report, orders, pins };
        if self.json {
            print_json(&findings)?;
        } else {
            out::write(findings.lines().as_bytes())?;
        }
        Ok(if findings.is_sound() { Exit::Ok } else { Exit::Problem })
    }
}

/// A daemon that works beside it deletes segments; when one goes while it is being read, the check begins again.
fn look(path: &Path, is_full_scan: bool, keys: &Keys) -> Result<CheckReport, CheckError> {
    let has_lost_a_segment =
        |error: &CheckError| matches!(error, CheckError::Read(error) if error.kind() == ErrorKind::NotFound);
    for _ in 0..LOOKS {
        match spool::check(path, is_full_scan, keys.clone()) {
            Err(error) if has_lost_a_segment(&error) && path.exists() => {}
            result => return result,
        }
    }
    spool::check(path, is_full_scan, keys.clone())
}

/// Everything that a check found.
#[derive(Serialize)]
struct Findings {
    #[serde(flatten)]
    report: CheckReport,
    /// Why no daemon could take up the operators' orders.
    orders: Option<String>,
    /// The same of the pins of limits.
    pins: Option<String>,
}

impl Findings {
    fn is_sound(&self) -> bool {
        self.report.is_sound() && self.orders.is_none() && self.pins.is_none()
    }

    fn lines(&self) -> String {
        let mut out = found(&self.report);
        let mut line = |text: &str| out.push_str(&format!("{text}\n"));
        for damaged in self.orders.iter().chain(&self.pins) {
            line(&format!("DAMAGED: {}", plain(damaged)));
        }
        line(if self.is_sound() { "sound" } else { "what is damaged is kept, never deleted" });
        out
    }
}

fn found(report: &CheckReport) -> String {
    let mut out = format!(
        "{} messages with {} unfinished recipients ({} in doubt)\n{} records read\n{} segments, {} by their index, {} by the \
         checkpoint\n",
        thousands(report.messages),
        thousands(report.recipients),
        thousands(report.in_doubt),
        thousands(report.records),
        thousands(report.segments),
        thousands(report.indexed),
        thousands(report.covered)
    );
    let mut line = |text: String| out.push_str(&format!("{text}\n"));
    for region in &report.tail {
        line(format!("unfinished write: segment {:016x}, octets {} to {}", region.segment, region.from, region.to));
    }
    for region in &report.damaged {
        line(format!("DAMAGED: segment {:016x}, octets {} to {}", region.segment, region.from, region.to));
    }
    for id in &report.damaged_messages {
        line(format!("DAMAGED: the content of message {id}"));
    }
    for segment in &report.unreadable_segments {
        line(format!("DAMAGED: segment {segment:016x} cannot be read at all"));
    }
    for file in &report.quarantined {
        line(format!("DAMAGED before: quarantine/{file}"));
    }
    out
}

/// The daemon's answer; fields as in [`crate::spool::Stat`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Stat {
    segments: u64,
    octets: u64,
    live_octets: u64,
    messages: u64,
    batches: u64,
    damaged: u64,
    tail: u64,
    copied: u64,
    deleted: u64,
    recovering: bool,
    full: bool,
    fault: bool,
    free: u64,
}

impl Show {
    async fn execute(self) -> exit::Result {
        let answer: Value = match &self.place.spool {
            // Which daemon's it is, if any's, is not known.
            Some(path) => {
                let stat = spool::stat(path, self.place.keys()?)
                    .with_context(|| path.display().to_string())
                    .map_err(Failure::usage)?;
                out::remark_line(format_args!("read from {} without its lock", path.display()));
                serde_json::to_value(stat)?
            }
            None => match self.remote.get("/v1/spool").await {
                Err(error @ ClientError::Unreachable { .. }) => {
                    let path = self.place.named(None).of_file(|config| config.spool.path).ok();
                    let keys = self.place.keys()?;
                    let found = path.and_then(|path| Some((spool::stat(&path, keys).ok()?, path)));
                    let Some((stat, path)) = found else { return Err(error.into()) };
                    out::remark_line(format_args!("no daemon answers: read from {} without its lock", path.display()));
                    serde_json::to_value(stat)?
                }
                answer => answer?,
            },
        };
        if self.remote.json {
            return print_json(&answer);
        }
        let stat: Stat = serde_json::from_value(answer)?;
        out::write(stat.lines().as_bytes())?;
        Ok(if stat.has_problem() { Exit::Problem } else { Exit::Ok })
    }
}

impl Stat {
    /// In one line.
    pub(super) fn summary(&self) -> String {
        let live = self.live_octets * 100 / self.octets.max(1);
        let (messages, size) = (thousands(self.messages), octets(self.octets));
        let (segments, free) = (thousands(self.segments), octets(self.free));
        let mut line = format!("{messages} messages, {size} in {segments} segments, {live} % live, {free} free");
        for (is_so, text) in [
            (self.recovering, "RECOVERING"),
            (self.full, "FULL"),
            (self.fault, "FAILED"),
            (self.damaged > 0, "DAMAGED"),
        ] {
            if is_so {
                line.push_str(", ");
                line.push_str(text);
            }
        }
        line
    }

    fn has_problem(&self) -> bool {
        self.full || self.fault || self.damaged > 0
    }

    fn lines(&self) -> String {
        let yes = |is_so: bool| if is_so { "YES" } else { "no" }.to_owned();
        let lines = [
            ("unfinished messages", thousands(self.messages)),
            ("segments", thousands(self.segments)),
            ("octets on disk", octets(self.octets)),
            ("of these live", octets(self.live_octets)),
            ("free on the disk", octets(self.free)),
            ("batches synced", thousands(self.batches)),
            ("messages copied forward", thousands(self.copied)),
            ("segments deleted", thousands(self.deleted)),
            ("damaged, in quarantine", thousands(self.damaged)),
            ("unfinished writes met", thousands(self.tail)),
            ("recovering", yes(self.recovering)),
            ("full (452 to submissions)", yes(self.full)),
            ("failed (421 to submissions)", yes(self.fault)),
        ];
        lines.iter().map(|(name, value)| format!("{name:<28}{value:>12}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Region;

    #[test]
    fn damage_is_told_place_by_place() {
        let region = Region { segment: 3, from: 100, to: 200 };
        let report = CheckReport { damaged: vec![region.clone()], tail: vec![region], ..CheckReport::default() };

        let text = Findings { report: report.clone(), orders: None, pins: None }.lines();

        assert!(text.contains("DAMAGED: segment 0000000000000003, octets 100 to 200\n"), "{text}");
        assert!(text.contains("unfinished write: segment 0000000000000003") && !text.contains("sound"), "{text}");
        let large = CheckReport {
            messages: 12_345_678,
            recipients: 12_345_678,
            in_doubt: 1_234,
            records: 123_456_789,
            segments: 1_234,
            indexed: 1_234,
            covered: 1_234,
            ..report
        };
        assert!(found(&large).lines().all(|line| line.len() <= 80), "{}", found(&large));
    }

    #[test]
    fn problems_are_told_in_the_summary_and_by_the_exit_code() {
        let stat = Stat { octets: 1000, live_octets: 250, full: true, damaged: 1, ..Stat::default() };

        assert!(stat.summary().contains("25 % live, 0 B free, FULL, DAMAGED"), "{}", stat.summary());
        assert!(stat.has_problem() && !Stat::default().has_problem());
    }
}
