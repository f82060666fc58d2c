//! The records of a segment without their contents: from its index, or by a scan.

use std::io;
use std::ops::Range;

use crate::log::index::{self, Index};
use crate::log::scan;
use crate::log::segment::{self, FIRST, Header};
use crate::log::storage::{Storage, read_exact};

/// Records of a segment.
#[derive(Debug)]
pub struct Source {
    /// Offset, header and fields of every record, for [`index::each`].
    pub entries: Vec<u8>,
    /// End of the last batch.
    pub end: u64,
    /// Of the segment.
    pub salt: u64,
    /// What a scan could not read: the part, and whether it had been synced. Empty if an index was used.
    pub unreadable: Vec<(Range<u64>, bool)>,
    /// Whether the entries come from an index.
    pub is_indexed: bool,
}

/// Reads a segment by its index, or scans it if there is none or `full`. `None` if neither header nor index can be read.
pub fn read(storage: &dyn Storage, sequence: u32, full: bool) -> io::Result<Option<Source>> {
    let file = storage.open(&segment::path(sequence))?;
    let header = Header::read(&*file)?;
    let index = if full && header.is_some() { None } else { index::read(storage, sequence, header.as_ref())? };
    if let Some(Index { salt, end, entries }) = index {
        return Ok(Some(Source { entries, end, salt, unreadable: Vec::new(), is_indexed: true }));
    }
    let Some(header) = header else { return Ok(None) };
    let bytes = whole(storage, sequence)?;
    let floor = synced_by_next(storage, sequence)?;
    let mut entries = Vec::new();
    let seen = scan::segment(&bytes, &header, floor, &mut |found| {
        index::note(&mut entries, found.offset, found.frame.bytes());
    });
    let own = seen.synced.iter().find(|position| position.segment == sequence).map_or(FIRST, |own| own.offset);
    let known = own.max(floor);
    let unreadable = seen.unreadable.into_iter().map(|range| (range.clone(), range.start < known));
    let mut unreadable: Vec<_> = unreadable.collect();
    let length = bytes.len() as u64;
    if length < header.size {
        // Segments have their full size before anything is written to them: this one was cut.
        unreadable.push((length..header.size, true));
    }
    Ok(Some(Source { entries, end: seen.end, salt: header.salt, unreadable, is_indexed: false }))
}

/// The entries of a segment that must be readable.
pub fn entries(storage: &dyn Storage, sequence: u32) -> io::Result<Vec<u8>> {
    let source = read(storage, sequence, false)?.ok_or(io::ErrorKind::InvalidData)?;
    Ok(source.entries)
}

/// A whole segment.
pub fn whole(storage: &dyn Storage, sequence: u32) -> io::Result<Vec<u8>> {
    let file = storage.open(&segment::path(sequence))?;
    let size = usize::try_from(file.size()?).map_err(|_| io::ErrorKind::InvalidData)?;
    read_exact(&*file, 0, size)
}

/// The end of what the next segment's batch headers name as synced in this one: its own cannot name its last batch.
fn synced_by_next(storage: &dyn Storage, sequence: u32) -> io::Result<u64> {
    let next = sequence.saturating_add(1);
    let bytes = match whole(storage, next) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FIRST),
        Err(error) => return Err(error),
    };
    let Some(header) = Header::decode(&bytes) else { return Ok(FIRST) };
    let synced = scan::synced(&bytes, &header);
    Ok(synced.iter().find(|position| position.segment == sequence).map_or(FIRST, |position| position.offset))
}
