//! The files of the log: `audit-000001.jsonl` and so on, in a directory of mode 0700 that one daemon holds.
//!
//! After a failure or at the start the last file is read and the end of the chain found in it. An end without a line feed
//! is what a crash cut off: its write was never answered. It is taken away, and a record says so with what it was. What
//! does not fit the head that was kept elsewhere, or its own chain, is recorded too, and the chain goes on from the head:
//! so the gap stays in it for ever.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use super::record::{FIRST, Head, line, read};
use super::{BROKEN, Event, TORN};
use crate::state::Note;

/// Of what a crash cut off, so much is kept.
const TORN_KEPT: usize = 1_000;

/// The log as its writer has it.
pub(super) struct Log {
    folder: PathBuf,
    max_size: u64,
    /// Where the head is kept beside the log.
    anchor: Note,
    /// None: it has to be taken up (again) first.
    open: Option<Open>,
    head: Option<Head>,
    broken: Option<String>,
}

struct Open {
    /// Held while this lives.
    _lock: File,
    file: File,
    number: u32,
    size: u64,
}

impl Open {
    /// Whether what is written is still the file of that name.
    fn is_in(&self, folder: &Path) -> bool {
        let of = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let named = fs::symlink_metadata(folder.join(name(self.number))).map(of).ok();
        named.is_some() && named == self.file.metadata().map(of).ok()
    }
}

/// What the last file with a record says.
#[derive(Default)]
struct Scan {
    /// The last record.
    last: Option<Head>,
    /// Heads by number, those of this file and the one before it.
    heads: Vec<Head>,
    /// What is wrong and not on record yet.
    fault: Option<String>,
    /// Something was found wrong before.
    is_told: bool,
    /// Where whole lines end.
    whole: usize,
}

impl Log {
    pub fn new(folder: PathBuf, max_size: u64, anchor: Note) -> Self {
        Self { folder, max_size, anchor, open: None, head: None, broken: None }
    }

    pub fn head(&self) -> Option<Head> {
        self.head.clone()
    }

    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Writes a record.
    pub fn write(&mut self, event: &Event, now: &dyn Fn() -> Duration) -> io::Result<u64> {
        if self.open.as_ref().is_some_and(|open| !open.is_in(&self.folder)) {
            // Whoever takes a file away while it is written would have all that follows for himself.
            self.open = None;
        }
        if self.open.is_none() {
            self.take_up(now)?;
        }
        self.append(event, now)
    }

    fn append(&mut self, event: &Event, now: &dyn Fn() -> Duration) -> io::Result<u64> {
        // Whatever fails, the file is read again before the next record: only then is it known what is in it.
        let mut open = self.open.take().ok_or(io::ErrorKind::NotConnected)?;
        let (line, head) = line(event, self.head.as_ref(), now())?;
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if open.size > 0 && open.size.saturating_add(length) > self.max_size {
            open.number += 1;
            (open.file, open.size) = (create(&self.folder, open.number)?, 0);
        }
        open.file.write_all(&line)?;
        open.file.sync_data()?;
        self.anchor.replace(format!("{head}\n").as_bytes())?;
        open.size += length;
        let sequence = head.sequence;
        self.head = Some(head);
        self.open = Some(open);
        Ok(sequence)
    }

    /// Finds the end of the chain and makes it ready for more.
    fn take_up(&mut self, now: &dyn Fn() -> Duration) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let lock = File::open(&self.folder)?;
        private(&lock, &self.folder)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => io::Error::new(io::ErrorKind::ResourceBusy, "another process writes it"),
            error => error.into(),
        })?;
        let files = files(&self.folder)?;
        let (scan, torn) = look(&files)?;
        let kept = self.anchor.read().and_then(|text| String::from_utf8(text).ok()?.parse::<Head>().ok());
        let fault = scan.fault.clone().or_else(|| unfit(&scan, kept.as_ref(), !files.is_empty()));
        self.head = match kept {
            // The gap between what is there and what was there shows in the chain.
            Some(kept) if fault.is_some() || scan.last.is_none() => Some(kept),
            _ => scan.last.clone(),
        };
        let (number, path) = match files.last() {
            Some((number, path)) => (*number, path.clone()),
            None => (0, PathBuf::new()),
        };
        let (file, number) = match number {
            0 => (create(&self.folder, 1)?, 1),
            _ => (OpenOptions::new().append(true).open(&path)?, number),
        };
        let mut size = file.metadata()?.len();
        if !torn.is_empty() {
            size = size.saturating_sub(u64::try_from(torn.len()).unwrap_or(u64::MAX));
            file.set_len(size)?;
            file.sync_all()?;
        }
        if let Some(head) = &self.head
            && fault.is_none()
        {
            self.anchor.replace(format!("{head}\n").as_bytes())?;
        }
        self.open = Some(Open { _lock: lock, file, number, size });
        if !torn.is_empty() {
            let text = String::from_utf8_lossy(torn.get(..TORN_KEPT).unwrap_or(&torn)).into_owned();
            tracing::warn!(octets = torn.len(), "the audit log had an end that was cut off; a record tells of it");
            let parameters = json!({ "octets": torn.len(), "begins": text });
            self.append(&Event::of_daemon(TORN, parameters), now)?;
        }
        match fault {
            Some(fault) if self.broken.as_ref() != Some(&fault) => {
                tracing::error!(fault, "the audit log's chain is broken: `hikyaku audit verify`");
                self.append(&Event::of_daemon(BROKEN, json!({ "found": fault })), now)?;
                self.broken = Some(fault);
            }
            None if scan.is_told && self.broken.is_none() => {
                self.broken = Some("the chain was found broken before: `hikyaku audit verify`".to_owned());
            }
            _ => {}
        }
        Ok(())
    }
}

/// A folder that others can write is not one to keep records in.
fn private(folder: &File, path: &Path) -> io::Result<()> {
    let metadata = folder.metadata()?;
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != own && owner != 0 || metadata.mode() & 0o022 != 0 {
        let told = format!("{}: others may change what is in it: chown {own}, chmod 700", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, told));
    }
    Ok(())
}

fn name(number: u32) -> String {
    format!("audit-{number:06}.jsonl")
}

fn create(folder: &Path, number: u32) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(folder.join(name(number)))?;
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

/// The files of a log with their numbers, in order.
pub fn files(folder: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok());
        found.extend(number.map(|number: u32| (number, entry.path())));
    }
    found.sort_unstable();
    Ok(found)
}

/// What the last file with a record says, and what a crash cut off at the very end.
fn look(files: &[(u32, PathBuf)]) -> io::Result<(Scan, Vec<u8>)> {
    let mut torn = None;
    for (_, path) in files.iter().rev() {
        let content = fs::read(path)?;
        let scan = scan(&content);
        torn.get_or_insert_with(|| content.get(scan.whole..).unwrap_or_default().to_vec());
        if scan.last.is_some() || scan.fault.is_some() {
            return Ok((scan, torn.unwrap_or_default()));
        }
    }
    Ok((Scan::default(), torn.unwrap_or_default()))
}

fn scan(content: &[u8]) -> Scan {
    let mut out =
        Scan { whole: content.iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1), ..Scan::default() };
    let lines = content.get(..out.whole).unwrap_or_default().split(|octet| *octet == b'\n');
    for (number, text) in (1..).zip(lines).filter(|(_, text)| !text.is_empty()) {
        let record = match read(text) {
            Ok(record) => record,
            Err(error) => {
                out.fault.get_or_insert_with(|| format!("line {number} of the last file: {error}"));
                continue;
            }
        };
        if record.action == BROKEN {
            (out.fault, out.is_told) = (None, true);
        } else if let Some(last) = &out.last
            && (record.previous != last.hash || record.sequence != last.sequence + 1)
        {
            out.fault.get_or_insert_with(|| format!("line {number} of the last file does not follow the one before"));
        }
        if out.heads.is_empty() && record.sequence > 1 {
            out.heads.push(Head { sequence: record.sequence - 1, hash: record.previous.clone() });
        }
        out.last = Some(record.head());
        out.heads.push(record.head());
    }
    out
}

/// Why a log does not fit the head that was kept.
fn unfit(scan: &Scan, kept: Option<&Head>, has_files: bool) -> Option<String> {
    match (kept, &scan.last) {
        (None, None) => None,
        // The first record of all may have been cut off before its head was kept.
        (None, Some(last)) if last.sequence == 1 => None,
        (None, Some(_)) => Some("the head that was kept beside the log is gone".to_owned()),
        (Some(kept), None) => {
            let what = if has_files { "the files have no record" } else { "there is no file" };
            Some(format!("{what}, though {} were written", kept.sequence))
        }
        (Some(kept), Some(last)) if last.sequence < kept.sequence => {
            let (from, to) = (last.sequence + 1, kept.sequence);
            Some(format!("records {from} to {to} are missing at the end"))
        }
        (Some(kept), Some(last)) => {
            let is_it = scan.heads.contains(kept) || kept.sequence == 0 && kept.hash == FIRST;
            let is_far = last.sequence > kept.sequence + 1;
            let fault = !is_it || is_far;
            fault.then(|| format!("record {} is not the one that was written", kept.sequence))
        }
    }
}
