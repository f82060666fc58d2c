//! Whether a log is what was written: every hash, the chain over all files, and its end.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::record::{FIRST, Head, Record, read};
use super::{BROKEN, files};

/// What is known of the end of a chain from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Where it is from, for people.
    pub name: &'static str,
    /// A record that must be there.
    pub head: Head,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Records that were read and are right.
    pub records: u64,
    /// The last of them.
    pub head: Option<Head>,
    /// Octets at the end that are no whole line: a crash cut them off, and the next start will say so.
    pub torn: usize,
    /// The first thing that is wrong.
    pub problem: Option<Problem>,
}

/// The first thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// In which file; empty: about the log as a whole.
    pub file: PathBuf,
    /// In which line of it, from 1.
    pub line: u64,
    /// What is wrong.
    pub what: String,
}

/// Where a check is.
struct Walk<'a> {
    report: Report,
    /// The hash that the next record must have as the one before.
    previous: Option<&'a str>,
    anchors: &'a [Anchor],
}

/// Checks a log up to the first thing that is wrong. `after`: the hash of the last record that was archived elsewhere; the
/// log begins with the next one. `before` is what is known of its end; `end` gives the last
/// record as it is known when all is read, beyond which one at most may be. Blocks on the disk.
pub fn verify(
    folder: &Path,
    after: Option<&str>,
    before: &[Anchor],
    end: impl FnOnce() -> Option<Anchor>,
) -> io::Result<Report> {
    let previous = Some(after.unwrap_or(FIRST));
    let mut walk = Walk { report: Report::default(), previous, anchors: before };
    let mut number = None;
    for (file, path) in files(folder)? {
        if number.is_some_and(|number: u32| number + 1 != file) {
            walk.problem(&path, 0, "the file before this one is missing".to_owned());
            return Ok(walk.report);
        }
        number = Some(file);
        if !walk.file(&path)? {
            return Ok(walk.report);
        }
    }
    walk.end(end());
    Ok(walk.report)
}

impl Walk<'_> {
    fn problem(&mut self, file: &Path, line: u64, what: String) {
        self.report.problem.get_or_insert(Problem { file: file.to_owned(), line, what });
    }

    /// Whether it is right.
    fn file(&mut self, path: &Path) -> io::Result<bool> {
        let mut content = BufReader::new(File::open(path)?);
        let mut text = Vec::new();
        for line in 1.. {
            text.clear();
            if content.read_until(b'\n', &mut text)? == 0 {
                break;
            }
            if self.report.torn > 0 {
                self.problem(path, line, "the file before this one ends within a line".to_owned());
                return Ok(false);
            }
            let Some(whole) = text.strip_suffix(b"\n") else {
                self.report.torn = text.len();
                break;
            };
            if let Err(what) = self.line(whole) {
                self.problem(path, line, what);
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn line(&mut self, text: &[u8]) -> Result<(), String> {
        let next = self.report.head.as_ref().map(|head| head.sequence + 1);
        let told = |what: &str| match next {
            Some(next) => format!("where record {next} should be: {what}"),
            None => what.to_owned(),
        };
        let record: Record = read(text).map_err(told)?;
        let (found, sequence) = (&record.previous, record.sequence);
        let follows = match &self.report.head {
            Some(head) => *found == head.hash && sequence == head.sequence + 1,
            None => self.previous.is_none_or(|previous| found == previous && (previous != FIRST || sequence == 1)),
        };
        if !follows {
            let what = match next {
                Some(next) => format!(
                    "record {sequence} does not follow record {}: some were taken out, put in or moved",
                    next - 1
                ),
                None => format!(
                    "the log begins with record {sequence}: those before are missing (--after HASH, if they were archived)"
                ),
            };
            return Err(what);
        }
        let is_other = |anchor: &&Anchor| anchor.head.sequence == sequence && anchor.head.hash != record.hash;
        if let Some(anchor) = self.anchors.iter().find(is_other) {
            let name = anchor.name;
            return Err(format!("record {sequence} is not the one that {name} names: the chain was made anew"));
        }
        if record.action == BROKEN {
            let found = record.parameters.get("found").and_then(serde_json::Value::as_str).unwrap_or_default();
            return Err(format!("record {sequence}: the daemon found the chain broken then: {found}"));
        }
        self.report.records += 1;
        self.report.head = Some(record.head());
        Ok(())
    }

    /// What is known of the end must be there.
    fn end(&mut self, after: Option<Anchor>) {
        let last = self.report.head.as_ref().map_or(0, |head| head.sequence);
        let whole = PathBuf::new();
        if let Some(anchor) = self.anchors.iter().find(|anchor| anchor.head.sequence > last) {
            let (name, from, to) = (anchor.name, last + 1, anchor.head.sequence);
            let what = format!("records {from} to {to} are missing at the end: {name} names record {to}");
            return self.problem(&whole, 0, what);
        }
        // The head is written after its record; between the two is a crash, or the daemon at work.
        if let Some(anchor) = after.filter(|anchor| last > anchor.head.sequence + 1) {
            let (name, to) = (anchor.name, anchor.head.sequence);
            let what = format!("{} records were put at the end: {name} names record {to} as the last", last - to);
            self.problem(&whole, 0, what);
        }
    }
}
