//! Reading on from an event, through rotation, compression and restarts of the daemon.
//!
//! The cursor is the id of the last event that was seen. Ids only grow, names of files tell the first id in each, and
//! the first line of a file tells the last event before it; so nothing is given twice, and what was removed before it
//! could be read is noticed. A finished file that is damaged is told and passed. A [`Follower`] needs no daemon and asks for
//! nothing but the files.

use std::io;
use std::path::{Path, PathBuf};

use super::event::Kind;
use super::folder::{self, JournalFile, files};
use super::id::EventId;
use super::lines::Lines;
use super::record::Record;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the oldest event that there is.
    Start,
    /// Behind the newest one.
    End,
    /// Behind this one.
    After(EventId),
}

/// Why nothing can be read from there.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The folder or a file cannot be read.
    #[error("cannot read the journal in {}: {error}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Events behind the cursor have been removed.
    #[error("events after {cursor} have been removed; the oldest that is left is {oldest} (--from start)")]
    Cleaned {
        /// The cursor.
        cursor: EventId,
        /// The first line of the oldest file.
        oldest: EventId,
    },
    /// This journal never gave that id.
    #[error("no event of this journal has the id {cursor}{}", beside(*newest))]
    Unknown {
        /// The cursor.
        cursor: EventId,
        /// The newest event.
        newest: Option<EventId>,
    },
}

fn beside(newest: Option<EventId>) -> String {
    newest.map(|id| format!("; the newest is {id}")).unwrap_or_default()
}

/// Events that were removed before they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The last event before them.
    pub after: EventId,
    /// The last of them.
    pub until: EventId,
}

/// A finished file of which not everything could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
    /// The last event that could be read, of it or of those before it.
    pub after: Option<EventId>,
    /// The last event that was in it.
    pub until: EventId,
}

/// Why a finished file is damaged though each octet can be read.
pub(super) const ENDS_EARLY: &str = "it ends before the last event that its name tells";

/// Goes through the journal, and on as it grows.
#[derive(Debug)]
pub struct Follower {
    folder: PathBuf,
    after: Option<EventId>,
    current: Option<(JournalFile, Lines)>,
    /// The file after the current one is there, so nothing more is written to this one.
    has_successor: bool,
    /// The last event in the current file so far, given or not.
    seen: Option<EventId>,
    missing: Vec<Missing>,
    damaged_files: Vec<Damaged>,
    damaged: u64,
}

impl Follower {
    /// Begins where `from` says.
    pub fn open(folder: &Path, from: From) -> Result<Self, FollowError> {
        let failed = |error| FollowError::Io { path: folder.to_owned(), error };
        let after = match from {
            From::Start => {
                files(folder).map_err(failed)?;
                None
            }
            From::End => newest(folder).map_err(failed)?,
            From::After(cursor) => {
                let newest = newest(folder).map_err(failed)?;
                if newest.is_none_or(|newest| newest < cursor) {
                    return Err(FollowError::Unknown { cursor, newest });
                }
                if let Some(oldest) = removed(folder, cursor).map_err(failed)? {
                    return Err(FollowError::Cleaned { cursor, oldest });
                }
                Some(cursor)
            }
        };
        Ok(Self {
            folder: folder.to_owned(),
            after,
            current: None,
            has_successor: false,
            seen: None,
            missing: Vec::new(),
            damaged_files: Vec::new(),
            damaged: 0,
        })
    }

    /// The last event that was given; reading goes on behind it.
    pub fn cursor(&self) -> Option<EventId> {
        self.after
    }

    /// What was removed before it could be read, since the last call.
    pub fn take_missing(&mut self) -> Vec<Missing> {
        std::mem::take(&mut self.missing)
    }

    /// Files that could not be read to their end, since the last call. They are passed: the cursor is behind them then.
    pub fn take_damaged(&mut self) -> Vec<Damaged> {
        std::mem::take(&mut self.damaged_files)
    }

    /// Lines so far that could not be read: a power cut leaves such.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Gives every line that is there and was not given yet, in order. Ends early, to be called again, when `each`
    /// fails; the line that it failed for counts as not given.
    pub fn read(&mut self, each: &mut dyn FnMut(&Record<'_>) -> io::Result<()>) -> io::Result<()> {
        loop {
            if self.current.is_none() && !self.begin()? {
                return Ok(());
            }
            let failure = self.read_current(each)?;
            let Some((file, _)) = &self.current else { return Ok(()) };
            match file.last {
                Some(last) => {
                    let is_short = self.seen.is_none_or(|seen| seen < last);
                    let reason = failure.map(|error| error.to_string()).or(is_short.then(|| ENDS_EARLY.to_owned()));
                    let path = file.path.clone();
                    self.seen = Some(last);
                    if let Some(reason) = reason {
                        self.damaged_files.push(Damaged { path, reason, after: self.after, until: last });
                        self.after = self.after.max(Some(last));
                    }
                }
                None => failure.map_or(Ok(()), |error| Err(named(file, error)))?,
            }
            let Some((file, _)) = &self.current else { return Ok(()) };
            if self.has_successor || file.is_compressed() {
                let first = file.first;
                let Some(next) = files(&self.folder)?.into_iter().find(|file| file.first > first) else {
                    return Ok(());
                };
                self.turn_to(next)?;
                continue;
            }
            let first = file.first;
            if !files(&self.folder)?.iter().any(|file| file.first > first) {
                return Ok(());
            }
            // Whatever was written before the next file was made is read in one more turn.
            self.has_successor = true;
        }
    }

    /// Opens the file with the event after the cursor; false: there is no file.
    fn begin(&mut self) -> io::Result<bool> {
        let files = files(&self.folder)?;
        let Some(after) = self.after else {
            return files.into_iter().next().map_or(Ok(false), |file| self.turn_to(file));
        };
        let holds_cursor = |file: &JournalFile| file.first <= after;
        let place = files.iter().rposition(holds_cursor).unwrap_or_default();
        // A finished one whose last event is the cursor has nothing for us, whatever state it is in.
        let is_done = files.get(place).is_some_and(|file| file.last.is_some_and(|last| last <= after));
        let place = if is_done { place + 1 } else { place };
        files.into_iter().nth(place).map_or(Ok(false), |file| self.turn_to(file))
    }

    /// Always true: there is a file.
    fn turn_to(&mut self, file: JournalFile) -> io::Result<bool> {
        (self.has_successor, self.seen) = (false, None);
        self.current = match Lines::open(&file) {
            Ok(lines) => Some((file, lines)),
            // Compressed or removed this moment: looked for anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if file.is_compressed() => Some((file, Lines::unreadable(error))),
            Err(error) => return Err(named(&file, error)),
        };
        Ok(true)
    }

    /// Gives what is there of the current file; what keeps the rest of it from being read, or else the error of `each`.
    fn read_current(&mut self, each: &mut dyn FnMut(&Record<'_>) -> io::Result<()>) -> io::Result<Option<io::Error>> {
        let Some((file, lines)) = &mut self.current else { return Ok(None) };
        // An id that damage has made greater would pass events of the files behind.
        let is_within = |record: &Record<'_>| file.last.is_none_or(|last| record.id() <= last);
        loop {
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(None),
                Err(failure) => return Ok(Some(failure)),
            };
            let Some(record) = Record::of(line).filter(is_within) else {
                self.damaged += 1;
                continue;
            };
            let id = record.id();
            self.seen = self.seen.max(Some(id));
            if self.after.is_some_and(|after| id <= after) {
                continue;
            }
            if let (Some(after), Some(until)) = (self.after, previous(&record))
                && until > after
            {
                self.missing.push(Missing { after, until });
            }
            each(&record)?;
            self.after = Some(id);
        }
    }
}

/// The error with the file that it is about.
fn named(file: &JournalFile, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.path.display()))
}

/// What the line that a file begins with says about the event before it.
fn previous(record: &Record<'_>) -> Option<EventId> {
    if record.raw("event") != Some(Kind::File.as_str().as_bytes()) {
        return None;
    }
    std::str::from_utf8(record.raw("previous")?).ok()?.parse().ok()
}

/// The newest event that was written.
fn newest(place: &Path) -> io::Result<Option<EventId>> {
    for file in files(place)?.into_iter().rev() {
        let last = match file.last {
            Some(last) => Some(last),
            None => match std::fs::File::open(&file.path) {
                Ok(file) => folder::last_id(&file)?,
                // Compressed this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return newest(place),
                Err(error) => return Err(error),
            },
        };
        if last.is_some() {
            return Ok(last);
        }
    }
    Ok(None)
}

/// The oldest line that is left, if events between it and `cursor` are gone.
fn removed(place: &Path, cursor: EventId) -> io::Result<Option<EventId>> {
    let Some(oldest) = files(place)?.into_iter().next().filter(|file| file.first > cursor) else { return Ok(None) };
    let mut lines = match Lines::open(&oldest) {
        Ok(lines) => lines,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return removed(place, cursor),
        Err(_) if oldest.is_compressed() => return Ok(None),
        Err(error) => return Err(named(&oldest, error)),
    };
    // One that is damaged is told when it is read.
    let before = lines.next().ok().flatten().and_then(Record::of).and_then(|record| previous(&record));
    Ok(before.is_some_and(|before| before > cursor).then_some(oldest.first))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::buffer::header;
    use super::super::event::{Event, Order};
    use super::*;

    /// A plain file with its first line and events of these ids.
    fn write(folder: &Path, first: u64, previous: Option<u64>, ids: &[u64]) {
        let mut out = Vec::new();
        header(&mut out, EventId(first), Duration::ZERO, previous.map(EventId));
        let order = Order { id: "1", action: "hold", filter: "", source: "", reason: "", who: "", until: None };
        ids.iter()
            .for_each(|id| Event::Order(order).write(&mut out, EventId(*id), Duration::ZERO, &crate::mask::Mask::None));
        std::fs::write(folder::plain_path(folder, EventId(first)), out).unwrap();
    }

    fn read(follower: &mut Follower) -> Vec<u64> {
        let mut seen = Vec::new();
        let mut each = |record: &Record<'_>| {
            seen.push(record.id().0);
            Ok(())
        };
        follower.read(&mut each).unwrap();
        seen
    }

    #[test]
    fn what_is_removed_before_it_is_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1, None, &[2, 3]);
        let mut follower = Follower::open(folder.path(), From::Start).unwrap();
        assert_eq!(read(&mut follower), [1, 2, 3]);

        // A file from 4 to 7 has come and gone.
        write(folder.path(), 8, Some(7), &[9]);

        assert_eq!(read(&mut follower), [8, 9]);
        assert_eq!(follower.take_missing(), [Missing { after: EventId(3), until: EventId(7) }]);
        assert_eq!((read(&mut follower), follower.take_missing()), (vec![], vec![]));
        assert_eq!(follower.cursor(), Some(EventId(9)));
    }

    #[test]
    fn a_line_that_could_not_be_handed_on_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1, None, &[2, 3]);
        let mut follower = Follower::open(folder.path(), From::After(EventId(1))).unwrap();

        assert!(follower.read(&mut |_| Err(io::ErrorKind::BrokenPipe.into())).is_err());

        let mut again = Follower::open(folder.path(), From::After(follower.cursor().unwrap())).unwrap();
        assert_eq!(read(&mut again), [2, 3]);
    }

    #[test]
    fn an_id_that_damage_has_made_greater_passes_nothing_of_the_next_file() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1, None, &[2, 30, 4]);
        let plain = folder::plain_path(folder.path(), EventId(1));
        let inside = zstd::encode_all(&std::fs::read(&plain).unwrap()[..], 1).unwrap();
        std::fs::write(folder::compressed_path(folder.path(), EventId(1), EventId(4)), inside).unwrap();
        std::fs::remove_file(plain).unwrap();
        write(folder.path(), 5, Some(4), &[6, 7]);
        let mut follower = Follower::open(folder.path(), From::Start).unwrap();

        assert_eq!(read(&mut follower), [1, 2, 4, 5, 6, 7]);
        assert_eq!(follower.damaged(), 1);
    }

    #[test]
    fn a_cursor_at_the_edge_of_what_was_removed_is_fine_and_one_before_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 8, Some(7), &[9]);

        assert_eq!(read(&mut Follower::open(folder.path(), From::After(EventId(7))).unwrap()), [8, 9]);
        let refused = Follower::open(folder.path(), From::After(EventId(6)));
        assert!(matches!(refused, Err(FollowError::Cleaned { oldest: EventId(8), .. })), "{refused:?}");
        let refused = Follower::open(folder.path(), From::After(EventId(10)));
        assert!(matches!(refused, Err(FollowError::Unknown { newest: Some(EventId(9)), .. })), "{refused:?}");
        assert_eq!(read(&mut Follower::open(folder.path(), From::End).unwrap()), Vec::<u64>::new());
    }
}
