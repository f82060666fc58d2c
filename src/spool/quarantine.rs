//! Where unreadable octets are kept: nothing is ever thrown away unseen.
//!
//! Damage (before the last known sync) and tails (unfinished writes) lie apart. A file is named by segment and offset,
//! so keeping the same octets twice keeps them once.

use std::io::{self, IoSlice};
use std::ops::Range;

use crate::log::index;
use crate::log::segment;
use crate::log::storage::{Storage, StorageFile};

/// Where damaged octets are kept.
pub const DAMAGED: &str = "quarantine";
/// Where octets of unfinished writes are kept.
pub const TAIL: &str = "quarantine/tail";

/// Which kind of unreadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// It had been synced.
    Damaged,
    /// It had not been synced as far as is known.
    Tail,
}

impl Shelf {
    fn directory(self) -> &'static str {
        match self {
            Self::Damaged => DAMAGED,
            Self::Tail => TAIL,
        }
    }
}

/// Keeps a copy of a part of a segment, durably.
pub fn copy(
    storage: &dyn Storage,
    shelf: Shelf,
    segment: u32,
    file: &dyn StorageFile,
    range: Range<u64>,
) -> io::Result<()> {
    let directory = shelf.directory();
    let name = format!("{segment:016x}-{:010x}", range.start);
    // Of a file that was cut there is nothing to keep but the fact.
    let length = range.end.min(file.size()?).saturating_sub(range.start);
    if storage.list(directory)?.iter().any(|entry| entry.name == name && entry.size == length) {
        return Ok(());
    }
    let mut octets = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?];
    file.read_at(&mut octets, range.start)?;
    index::replace(storage, directory, &format!("{directory}/{name}"), &[IoSlice::new(&octets)])
}

/// Keeps a copy of a whole segment whose header cannot be read, and removes the segment.
pub fn take(storage: &dyn Storage, sequence: u32) -> io::Result<()> {
    let file = storage.open(&segment::path(sequence))?;
    copy(storage, Shelf::Damaged, sequence, &*file, 0..file.size()?)?;
    storage.remove(&segment::path(sequence))?;
    storage.sync_dir(segment::DIRECTORY)
}
