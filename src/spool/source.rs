//! The records of a segment without their contents: from its index, or by a scan.

use std::io;
use std::ops::Range;

use crate::log::cipher::{Binding, Keys};
use crate::log::index::{self, Index};
use crate::log::scan;
use crate::log::segment::{self, FIRST, Header};
use crate::log::storage::{Storage, read_exact};

/// Records of a segment.
#[derive(Debug)]
pub struct Source {
    /// Offset, header and fields of every record, decrypted, for [`index::each`].
    pub entries: Vec<u8>,
    /// The same as they are stored, if they are encrypted and there is no index.
    pub stored: Option<Vec<u8>>,
    /// End of the last batch.
    pub end: u64,
    /// Of the segment.
    pub salt: u64,
    /// What the segment is encrypted with, if it is.
    pub binding: Option<Binding>,
    /// What could not be read: the part, and whether it had been synced. Of the header only if an index was used.
    pub unreadable: Vec<(Range<u64>, bool)>,
    /// Whether the entries come from an index.
    pub is_indexed: bool,
}

/// Reads a segment by its index, or scans it if there is none or `full`. `None` if neither header nor index can be read.
/// Of an encrypted segment the key must be among `keys`: otherwise it is [`io::ErrorKind::PermissionDenied`], never damage.
pub fn read(storage: &dyn Storage, sequence: u32, full: bool, keys: &Keys) -> io::Result<Option<Source>> {
    let file = storage.open(&segment::path(sequence))?;
    let copies = Header::copies(&*file)?;
    let header = Header::of(&copies, sequence);
    let mut unreadable = damage_of_header(&copies, header.as_ref(), file.size()?);
    let index = match index::read(storage, sequence, header.as_ref()) {
        _ if full && header.is_some() => None,
        // A scan says the same.
        Err(_) if header.is_some() => None,
        index => index?,
    };
    if let Some(Index { salt, binding, end, entries }) = index {
        let source = Source { entries, stored: None, end, salt, binding, unreadable, is_indexed: true };
        return Ok(Some(source.open(sequence, keys)?));
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
    unreadable.extend(seen.unreadable.into_iter().map(|range| (range.clone(), range.start < known)));
    let length = bytes.len() as u64;
    if length < header.size {
        // Segments have their full size before anything is written to them: this one was cut.
        unreadable.push((length..header.size, true));
    }
    let (end, salt, binding) = (seen.end, header.salt, header.binding);
    let source = Source { entries, stored: None, end, salt, binding, unreadable, is_indexed: false };
    Ok(Some(source.open(sequence, keys)?))
}

impl Source {
    /// Decrypts the entries. One whose checksum is right and that does not open was not written so by us: it counts as
    /// damage wherever it lies.
    fn open(mut self, sequence: u32, keys: &Keys) -> io::Result<Self> {
        if let Some(cipher) = keys.cipher(sequence, self.binding.as_ref())? {
            let (plain, damaged) = index::open(&self.entries, &cipher);
            let stored = std::mem::replace(&mut self.entries, plain);
            self.stored = (!self.is_indexed).then_some(stored);
            self.unreadable.extend(damaged.into_iter().map(|range| (range, true)));
        }
        Ok(self)
    }

    /// The index of the segment.
    pub fn into_index(self) -> Index {
        let Self { entries, stored, end, salt, binding, .. } = self;
        Index { salt, binding, end, entries: stored.unwrap_or(entries) }
    }
}

/// Headers are synced before anything else is written, so both copies must be right. With the header of another segment
/// the file may be that one's: then all of it is of interest.
fn damage_of_header(copies: &[Option<Header>], header: Option<&Header>, size: u64) -> Vec<(Range<u64>, bool)> {
    if copies.iter().all(|copy| copy.is_some() && copy.as_ref() == header) {
        return Vec::new();
    }
    let is_other = header.is_none() && copies.iter().any(Option::is_some);
    vec![(0..if is_other { size } else { FIRST.min(size) }, true)]
}

/// The entries of a segment that must be readable.
pub fn entries(storage: &dyn Storage, sequence: u32, keys: &Keys) -> io::Result<Vec<u8>> {
    let source = read(storage, sequence, false, keys)?.ok_or(io::ErrorKind::InvalidData)?;
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
        // Only damage and unfinished writes can be told apart less well.
        Err(_) => return Ok(FIRST),
    };
    let header = Header::decode(&bytes).filter(|header| header.sequence == next);
    let Some(header) = header else { return Ok(FIRST) };
    let synced = scan::synced(&bytes, &header);
    Ok(synced.iter().find(|position| position.segment == sequence).map_or(FIRST, |position| position.offset))
}
