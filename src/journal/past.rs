//! What earlier runs left: the last event, its time, and ids that are taken.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::folder::{self, JournalFile};
use super::id::EventId;
use super::lines::Lines;
use super::record::Record;

/// What earlier runs left.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The last event that can be read.
    pub last: Option<EventId>,
    /// When that was.
    pub last_time: Option<Duration>,
    /// The greatest id that any file's name tells.
    greatest: Option<EventId>,
}

impl Past {
    /// Looks at the newest files; what was torn off at the end of one is cut away, and one without events removed. The
    /// time of the last event is looked for in a compressed file only if it `matters`.
    pub fn find(place: &Path, matters: bool) -> io::Result<Self> {
        let mut past = Self::default();
        for found in folder::files(place)?.into_iter().rev() {
            let JournalFile { first, last, path } = &found;
            let first = *first;
            past.greatest = past.greatest.max(*last).max(Some(first));
            if last.is_some() {
                past.last = *last;
                past.last_time = if matters { last_time(&found) } else { None };
                break;
            }
            let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
            let tail = folder::tail(&file)?;
            if tail.torn > 0 {
                tracing::warn!(file = %path.display(), octets = tail.torn, "the journal's last line was cut off");
                file.set_len(tail.length)?;
            }
            let id = folder::last_id(&file)?;
            past.greatest = past.greatest.max(id);
            if id.is_none_or(|id| id == first) {
                fs::remove_file(path)?;
                continue;
            }
            past.last = id;
            past.last_time = Record::of(&tail.line).and_then(|record| record.time());
            break;
        }
        Ok(past)
    }

    /// A start that no event has had.
    pub fn next_start(&self) -> u32 {
        self.greatest.map_or(0, |id| id.start().saturating_add(1))
    }
}

/// When the last line of a compressed file was written; none if it cannot be read.
fn last_time(file: &JournalFile) -> Option<Duration> {
    let mut time = None;
    let mut read = || {
        let mut lines = Lines::open(file)?;
        while let Some(line) = lines.next()? {
            // The last one counts; only that one is taken apart.
            if let Some(record) = Record::of(line) {
                time = record.raw("time").map(<[u8]>::to_vec).or(time.take());
            }
        }
        io::Result::Ok(())
    };
    if let Err(error) = read() {
        tracing::warn!(%error, file = %file.path.display(), "a file of the journal is damaged");
    }
    super::time::parse(std::str::from_utf8(&time?).ok()?)
}
