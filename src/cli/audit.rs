//! `hikyaku audit`: who has changed what through the admin interface, and whether that record is whole.
//!
//! No daemon is asked: the files are those of `admin.audit` in the configuration, or of `--path`; the end that the daemon
//! keeps beside them is in the spool's state.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::check::DEFAULT_CONFIG;
use super::exit::{self, Exit, Failure};
use super::journal::moment;
use super::table::{Table, below, long, number, plain, text};
use super::{out, print_json};
use crate::audit::record::{self, Head};
use crate::audit::verify::{Anchor, Problem, Report, verify};
use crate::audit::{Kind, Record, files};
use crate::config::Config;
use crate::journal::time;
use crate::log::disk::Disk;
use crate::state::Note;

/// Sub-commands.
#[derive(Debug, clap::Subcommand)]
pub(super) enum AuditCommand {
    /// List changes and refused ones, the oldest first
    List(List),
    /// Check that no record was altered, taken out, put in or cut off; tell the first that is wrong
    Verify(Verify),
}

/// Where the log is.
#[derive(Debug, clap::Args)]
struct Place {
    /// The log's directory [default: admin.audit of the configuration]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// The configuration that names it [default: /etc/hikyaku/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Options of `audit list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Not before: 2026-11-25, 2026-11-25T19:04:45Z (UTC without an offset), or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Duration>,
    /// Those of whoever has this in their name: a token's name, `uid 0`, `root`
    #[arg(long, value_name = "TEXT")]
    who: Option<String>,
    /// Those with this action, such as limits.pin; `limits` stands for all that begin with `limits.`
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Print records as they were written, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Options of `audit verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// A record that must be in it, as it was noted elsewhere: NUMBER:HASH; as often as needed
    #[arg(long = "head", value_name = "NUMBER:HASH")]
    heads: Vec<Head>,
    /// The hash of the last record that was archived: the log begins with the next one
    #[arg(long, value_name = "HASH")]
    after: Option<String>,
    /// The spool whose state has the end of the log [default: spool.path of the configuration, without --path]
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

impl AuditCommand {
    pub(super) fn execute(self) -> exit::Result {
        match self {
            Self::List(command) => command.execute(),
            Self::Verify(command) => command.execute(),
        }
    }
}

impl Place {
    /// The log's directory, and the spool where the configuration has been asked.
    fn find(&self) -> Result<(PathBuf, Option<PathBuf>), Failure> {
        if let (Some(path), None) = (&self.path, &self.config) {
            return Ok((path.clone(), None));
        }
        let file = self.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into());
        let config = Config::load(&file).map_err(Failure::usage)?;
        Ok((self.path.clone().unwrap_or_else(|| config.audit_folder()), Some(config.spool.path)))
    }
}

impl List {
    fn execute(self) -> exit::Result {
        let (folder, _) = self.place.find()?;
        let mut outcomes = HashMap::new();
        let mut records = Vec::new();
        let mut bad = 0_usize;
        for (_, path) in files(&folder).with_context(|| folder.display().to_string())? {
            let file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
            for line in BufReader::new(file).split(b'\n') {
                let line = line.with_context(|| path.display().to_string())?;
                match record::read(&line) {
                    Ok(record) if record.kind == Kind::Done => drop(outcomes.insert(record.of, record)),
                    Ok(record) => records.extend(self.wants(&record).then_some(record)),
                    Err(_) => bad += 1,
                }
            }
        }
        if bad > 0 {
            out::remark_line(format_args!("{bad} lines are no records as they were written: hikyaku audit verify"));
        }
        if self.json {
            for record in records {
                let done = outcomes.remove(&Some(record.sequence));
                for record in [Some(record), done].into_iter().flatten() {
                    out::line(serde_json::to_string(&record)?)?;
                }
            }
        } else if records.is_empty() {
            out::line("nothing is on record that matches")?;
        } else {
            table(&records, &outcomes).print()?;
        }
        Ok(if bad > 0 { Exit::Problem } else { Exit::Ok })
    }

    fn wants(&self, record: &Record) -> bool {
        let is_since = self.since.is_none_or(|since| time::parse(&record.time).is_some_and(|at| at >= since));
        let is_who = self.who.as_ref().is_none_or(|who| record.who.contains(who.as_str()));
        let is_action = self.action.as_ref().is_none_or(|action| {
            record.action.strip_prefix(action.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        is_since && is_who && is_action
    }
}

fn table(records: &[Record], outcomes: &HashMap<Option<u64>, Record>) -> Table {
    let columns =
        [number("RECORD"), text("TIME"), text("WHO"), text("FROM"), text("ACTION"), long("OUTCOME"), below("WHAT")];
    let mut table = Table::new(&columns);
    for record in records {
        let done = outcomes.get(&Some(record.sequence));
        let outcome = match (record.kind, done) {
            (_, Some(done)) => done.outcome.clone(),
            (Kind::Begun, None) => "not known: the daemon ended meanwhile".to_owned(),
            (Kind::Refused, None) => record.outcome.clone(),
            (Kind::Seen | Kind::Done, None) => String::new(),
        };
        table.row([
            record.sequence.to_string(),
            record.time.clone(),
            record.who.clone(),
            record.from.clone(),
            record.action.clone(),
            outcome,
            what(record, done),
        ]);
    }
    table
}

/// Why, what was asked for, and what it was before; in full it is in `--json`.
fn what(record: &Record, done: Option<&Record>) -> String {
    let value = |name: &str, value: &Value| (!value.is_null()).then(|| format!("{name} {value}"));
    let reason = (!record.reason.is_empty()).then(|| record.reason.clone());
    let before = done.and_then(|done| value("before", &done.before));
    let request = record.request.split_once(' ').map(|(_, path)| path.to_owned());
    [reason, request, value("asked", &record.parameters), before].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

impl Verify {
    fn execute(self) -> exit::Result {
        let (folder, of_config) = self.place.find()?;
        // A copy elsewhere is not the log that the spool's state tells of.
        let spool = self.spool.or_else(|| of_config.filter(|_| self.place.path.is_none()));
        let kept = || -> Option<Anchor> {
            let note = Note::of_audit(Arc::new(Disk::new(spool.as_ref()?)));
            let head = String::from_utf8(note.read()?).ok()?.parse().ok()?;
            Some(Anchor { name: "the spool's state", head })
        };
        let mut anchors: Vec<Anchor> = kept().into_iter().collect();
        anchors.extend(self.heads.into_iter().map(|head| Anchor { name: "--head", head }));
        let report = verify(&folder, self.after.as_deref(), &anchors, kept);
        let mut report = report.map_err(|error| anyhow!("{}: {error}", folder.display()))?;
        if let Some(spool) = spool.as_ref().filter(|_| anchors.is_empty() && report.records > 0) {
            // Whoever cuts the end off can take away what tells of it, too.
            let what =
                "it has no end of the log, which cannot be told from one that was cut off (--head names a record)";
            let file = spool.join("state/audit");
            report.problem.get_or_insert_with(|| Problem { file, line: 0, what: what.to_owned() });
        }
        let exit = if report.problem.is_none() { Exit::Ok } else { Exit::Problem };
        if self.json {
            print_json(&json!(report))?;
        } else {
            tell(&report)?;
        }
        Ok(exit)
    }
}

fn tell(report: &Report) -> Result<(), Failure> {
    if let Some(problem) = &report.problem {
        let place = match problem.line {
            0 if problem.file.as_os_str().is_empty() => String::new(),
            0 => format!("{}: ", problem.file.display()),
            line => format!("{}: line {line}: ", problem.file.display()),
        };
        out::line(plain(&format!("BROKEN: {place}{}", problem.what)))?;
    }
    let head = report.head.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let how = if report.problem.is_some() { "right before that" } else { "all right" };
    out::line(format_args!("{} records, {how}; the last one is {head}", report.records))?;
    if report.torn > 0 {
        out::line(format_args!(
            "{} octets at the end are no whole record: the next start takes them away",
            report.torn
        ))?;
    }
    Ok(())
}
