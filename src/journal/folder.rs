//! The journal's folder: names of its files, their order, and what the end of one says.
//!
//! | name | is |
//! |---|---|
//! | `journal-FIRST.jsonl` | the file that is written now, or one that waits to be compressed |
//! | `journal-FIRST-LAST.jsonl.zst` | a finished file |
//! | `journal-FIRST-LAST.jsonl.zst.tmp` | a compression under way, or cut off: of no use to anybody |
//! | `lock` | locked by the daemon that writes here; says `open` until that ends in good order |
//!
//! FIRST and LAST are ids of events, so the order of names is the order of events. FIRST is that of the `file` line
//! that each file begins with.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::id::EventId;
use super::lines::Lines;
use super::output::is_elsewhere;
use super::record::Record;
use crate::trusted;

const PLAIN: &str = ".jsonl";
const COMPRESSED: &str = ".jsonl.zst";
/// Ends the name of a file that is not finished.
pub(super) const UNFINISHED: &str = ".tmp";
const OPEN: &[u8] = b"open\n";
/// For the daemon's user and, unless its umask says otherwise, for reading by its group.
const FOLDER_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o640;
/// Read from the end of a file at once to find its last line.
const TAIL: u64 = 64 << 10;

/// A file of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalFile {
    /// Id of its first line.
    pub first: EventId,
    /// Id of its last line; none: it is not compressed, and perhaps still written to.
    pub last: Option<EventId>,
    /// Where it is.
    pub path: PathBuf,
}

impl JournalFile {
    fn of(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_prefix("journal-")?;
        let (first, last) = match name.strip_suffix(COMPRESSED) {
            Some(ids) => {
                let (first, last) = ids.split_once('-')?;
                (first, Some(last.parse().ok()?))
            }
            None => (name.strip_suffix(PLAIN)?, None),
        };
        Some(Self { first: first.parse().ok()?, last, path })
    }

    /// Whether it is compressed, and so complete.
    pub fn is_compressed(&self) -> bool {
        self.last.is_some()
    }
}

/// The journal's files, oldest first. One that has just been compressed may still be there in its plain form too; it is
/// given once.
///
/// Names are read in pieces, so that one look may meet neither the plain form of a file that is compressed meanwhile nor
/// the other one. No file is compressed twice: the second look has it.
pub fn files(folder: &Path) -> io::Result<Vec<JournalFile>> {
    let mut found = listing(folder)?.0;
    found.extend(listing(folder)?.0);
    let _ = sort(&mut found);
    Ok(found)
}

/// Files that [`files`] leaves out: plain ones whose compressed form is there, and what a crash has cut off.
pub(super) fn leftovers(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(listing(folder)?.1)
}

/// The journal's files and what is left over, from one look at the folder: a file that the writer makes between two looks
/// would be taken for left over.
fn listing(folder: &Path) -> io::Result<(Vec<JournalFile>, Vec<PathBuf>)> {
    let (mut found, mut unfinished) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(&format!("{COMPRESSED}{UNFINISHED}")) {
            unfinished.push(path);
        } else {
            found.extend(JournalFile::of(path));
        }
    }
    let mut left = sort(&mut found);
    left.append(&mut unfinished);
    Ok((found, left))
}

/// Sorts files by age and keeps one form of each, the compressed one if it is there; gives the paths of the others.
fn sort(found: &mut Vec<JournalFile>) -> Vec<PathBuf> {
    let mut left = Vec::new();
    found.sort_by_key(|file| (file.first, file.last.is_none()));
    found.dedup_by(|file, kept| {
        let is_double = file.first == kept.first;
        if is_double {
            left.push(std::mem::take(&mut file.path));
        }
        is_double
    });
    left
}

/// Where a file that begins with this event is written.
pub(super) fn plain_path(folder: &Path, first: EventId) -> PathBuf {
    folder.join(format!("journal-{first}{PLAIN}"))
}

/// Where its finished form goes.
pub(super) fn compressed_path(folder: &Path, first: EventId, last: EventId) -> PathBuf {
    folder.join(format!("journal-{first}-{last}{COMPRESSED}"))
}

/// Makes the folder unless it is there; one that others could take files from is refused.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    trusted::closed(folder)
}

/// Makes a new file to append to, and to read what is left of it when others cut it.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create_new(true).mode(FILE_MODE).open(path)
}

/// Makes a file that replaces whatever has this name.
pub(super) fn replace(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)
}

/// Makes a folder's names durable.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The right to write here, held as long as this lives.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    /// Whoever wrote here before did not end in good order.
    pub was_open: bool,
    /// An end of this run without [`Lock::release`] will be noticed.
    is_marked: bool,
}

impl Lock {
    /// Takes it; [`io::ErrorKind::WouldBlock`] if another daemon has it.
    pub fn take(folder: &Path) -> io::Result<Self> {
        let path = folder.join("lock");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let mut said = Vec::new();
        file.read_to_end(&mut said)?;
        Ok(Self { file, path, was_open: !said.is_empty(), is_marked: false })
    }

    /// From now on an end without [`Lock::release`] is noticed. On a full disk that cannot be written down; whoever
    /// writes calls this again as long as it fails.
    pub fn mark(&mut self) -> io::Result<()> {
        if !self.is_marked {
            self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(OPEN))?;
            self.is_marked = true;
        }
        Ok(())
    }

    /// Whether it locks nothing any more: its file has been removed, or its folder moved.
    pub fn is_gone(&self) -> bool {
        self.file.metadata().is_ok_and(|own| is_elsewhere(&own, &self.path))
    }

    /// Everything is written.
    pub fn release(&mut self) -> io::Result<()> {
        self.file.set_len(0)
    }
}

/// What stands at the end of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// Octets up to the end of the last whole line.
    pub length: u64,
    /// Octets behind it: of a line that was cut off.
    pub torn: u64,
    /// The last whole line.
    pub line: Vec<u8>,
}

/// Reads the end of a plain file.
pub(super) fn tail(file: &File) -> io::Result<Tail> {
    let size = file.metadata()?.len();
    let mut want = TAIL;
    loop {
        let from = size.saturating_sub(want);
        let mut bytes = vec![0; usize::try_from(size - from).map_err(|_| io::ErrorKind::FileTooLarge)?];
        file.read_exact_at(&mut bytes, from)?;
        let newlines: Vec<usize> = memchr::memrchr_iter(b'\n', &bytes).take(2).collect();
        let begin = match newlines.as_slice() {
            [_, before] => Some(before + 1),
            [_] if from == 0 => Some(0),
            [] if from == 0 => return Ok(Tail { length: 0, torn: size, line: Vec::new() }),
            _ => None,
        };
        if let (Some(begin), Some(end)) = (begin, newlines.first()) {
            let line = bytes.get(begin..*end).unwrap_or_default().to_vec();
            let length = from + *end as u64 + 1;
            return Ok(Tail { length, torn: size - length, line });
        }
        want *= 4;
    }
}

/// Id of the last whole line that is a record; none if there is no such line.
pub(super) fn last_id(file: &File) -> io::Result<Option<EventId>> {
    if let Some(id) = Record::of(&tail(file)?.line).map(|record| record.id()) {
        return Ok(Some(id));
    }
    // A power cut may leave anything there.
    let (mut last, mut lines) = (None, Lines::of(file)?);
    while let Some(line) = lines.next()? {
        last = last.max(Record::of(line).map(|record| record.id()));
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> EventId {
        EventId(number)
    }

    #[test]
    fn files_are_told_apart_from_others_and_given_once_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        let doubled = plain_path(place, id(5));
        let unfinished = place.join(format!("journal-{}-{}.jsonl.zst.tmp", id(9), id(10)));
        for path in [&plain_path(place, id(9)), &doubled, &compressed_path(place, id(5), id(8)), &unfinished] {
            fs::write(path, "").unwrap();
        }
        fs::write(place.join("journal-x.jsonl"), "").unwrap();
        fs::write(place.join("lock"), "").unwrap();

        let found: Vec<_> = files(place).unwrap().into_iter().map(|file| (file.first.0, file.last)).collect();
        let mut left = leftovers(place).unwrap();
        left.sort();

        assert_eq!(found, [(5, Some(id(8))), (9, None)]);
        assert_eq!(left, [doubled, unfinished]);
    }

    #[test]
    fn a_file_that_is_made_meanwhile_is_not_left_over() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                for number in 1..500 {
                    fs::write(plain_path(folder.path(), id(number)), "").unwrap();
                }
            });

            while !maker.is_finished() {
                assert_eq!(leftovers(folder.path()).unwrap(), Vec::<PathBuf>::new());
            }
        });
    }

    #[test]
    fn the_tail_is_the_last_whole_line_however_long_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let long = "x".repeat(200_000);
        for (text, length, torn, line) in [
            (String::new(), 0, 0, String::new()),
            ("torn".to_owned(), 0, 4, String::new()),
            ("a\n".to_owned(), 2, 0, "a".to_owned()),
            ("a\nbc\ntor".to_owned(), 5, 3, "bc".to_owned()),
            (format!("a\n{long}\nt"), 200_003, 1, long.clone()),
        ] {
            fs::write(&path, &text).unwrap();

            let found = tail(&File::open(&path).unwrap()).unwrap();

            assert_eq!((found.length, found.torn, found.line), (length, torn, line.into_bytes()));
        }
    }

    #[test]
    fn a_lock_is_had_once_and_remembers_an_unclean_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut lock = Lock::take(folder.path()).unwrap();
        assert!(!lock.was_open);
        lock.mark().unwrap();

        assert_eq!(Lock::take(folder.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        let mut lock = Lock::take(folder.path()).unwrap();
        assert!(lock.was_open);
        lock.release().unwrap();
        drop(lock);
        assert!(!Lock::take(folder.path()).unwrap().was_open);
    }
}
