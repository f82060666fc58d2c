//! The end of the log: the open segment, what is written but not synced, and how batches are laid out.
//!
//! Guarded by one mutex. Whoever holds it writes everything that is pending, so the order of records is the order in
//! which they were handed over.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::Position;
use super::cipher::{Cipher, TAG};
use super::index;
use super::record::{self, Lengths};
use super::sealed;
use super::segment::{BATCH, Batch, FIRST, Header};
use super::storage::StorageFile;
use super::supply::Fresh;
use super::wire::{aligned, put_at};
use super::writer::{Entry, Small};

const PADDING: [u8; 8] = [0; 8];
/// A buffer for encrypted batches that has become larger than this is not kept.
const KEPT: usize = 4 << 20;

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Open {
    pub fresh: Fresh,
    pub offset: u64,
    batches: u64,
    /// Offset and header-and-fields of every record so far: what a sealed segment's index holds.
    pub index: Vec<u8>,
    /// There is no such segment: see [`Open::none`].
    pub is_none: bool,
}

/// The file of a segment that does not exist.
#[derive(Debug)]
struct NoFile;

impl StorageFile for NoFile {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn write_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn fill_zero(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(0)
    }
}

impl Open {
    pub fn new(fresh: Fresh) -> Self {
        Self { fresh, offset: FIRST, batches: 0, index: Vec::new(), is_none: false }
    }

    /// Stands for the first segment, `sequence`, while the disk has no room for it: nothing fits.
    fn none(sequence: u32) -> Self {
        let header = Header { sequence, salt: 0, size: FIRST, start: 0, binding: None };
        let open = Self::new(Fresh { header, file: Arc::new(NoFile), cipher: None });
        // At `FIRST` a record that does not fit would be taken for one that fits nowhere.
        Self { offset: FIRST + 1, is_none: true, ..open }
    }

    pub fn sequence(&self) -> u32 {
        self.fresh.header.sequence
    }

    /// Whether nothing was written to it.
    pub fn is_unused(&self) -> bool {
        self.offset == FIRST && self.batches == 0
    }

    pub fn position(&self) -> Position {
        Position { segment: self.sequence(), offset: self.offset }
    }

    /// Whether a batch with this many octets of records fits.
    pub fn has_room(&self, octets: u64) -> bool {
        self.offset + BATCH as u64 + octets <= self.fresh.header.size
    }
}

/// The end of the log.
#[derive(Debug)]
pub(super) struct Tail {
    pub open: Open,
    /// Full segments whose last sync is still to come, oldest first.
    pub retired: Vec<Open>,
    /// Small records written but not synced, in order: written again elsewhere if the sync fails.
    pub unsynced: Vec<Small>,
    /// Everything before this is synced.
    pub synced: Position,
    /// A write failed: the committer must start a new segment before anything else is written.
    pub broken: bool,
    /// Where a batch is encrypted; empty between two.
    ciphertext: Vec<u8>,
}

/// How many octets an entry takes in a segment.
pub(super) fn entry_octets(entry: &Entry) -> u64 {
    let lengths = Lengths::read(&entry.meta).map(Lengths::total);
    lengths.unwrap_or_else(|| aligned(entry.meta.len() as u64 + entry.content.len() as u64))
}

impl Tail {
    /// Begins with the first segment, or waits for room for it.
    pub fn new(first: u32, fresh: Option<Fresh>) -> Self {
        let open = fresh.map_or_else(|| Open::none(first), Open::new);
        let synced = Position { segment: first, offset: FIRST };
        Self { open, retired: Vec::new(), unsynced: Vec::new(), synced, broken: false, ciphertext: Vec::new() }
    }

    /// Goes on in a new segment; the old one awaits its last sync.
    pub fn rotate(&mut self, fresh: Fresh) {
        let full = std::mem::replace(&mut self.open, Open::new(fresh));
        if full.is_none {
            self.synced = Position { segment: self.open.sequence(), offset: FIRST };
        } else {
            self.retired.push(full);
        }
    }

    /// Writes one batch: the small records, then the entries. The caller has checked that it fits. Returns the offset of
    /// each entry through `placed`.
    pub fn write(&mut self, small: &mut [u8], entries: &mut [Entry], placed: &mut Vec<u64>) -> io::Result<()> {
        if let Some(cipher) = self.open.fresh.cipher.clone() {
            return self.write_sealed(&cipher, small, entries, placed);
        }
        let open = &mut self.open;
        let seal = open.fresh.header.seal();
        let start = open.offset;
        let mut at = start + BATCH as u64;
        for_each_frame(small, |frame| {
            record::seal(frame, seal, at);
            index::note(&mut open.index, at, frame);
            at += frame.len() as u64;
        });
        for entry in entries.iter_mut() {
            record::seal(&mut entry.meta, seal, at);
            index::note(&mut open.index, at, &entry.meta);
            placed.push(at);
            at += entry_octets(entry);
        }
        let length = at - start - BATCH as u64;
        let batch = Batch { number: open.batches, length, offset: start, synced: self.synced };
        let header = batch.encode(seal);
        let file: Arc<dyn StorageFile> = open.fresh.file.clone();
        let mut parts = Vec::with_capacity(2 + entries.len() * 3);
        parts.push(IoSlice::new(&header));
        if !small.is_empty() {
            parts.push(IoSlice::new(small));
        }
        for entry in entries.iter() {
            parts.push(IoSlice::new(&entry.meta));
            if !entry.content.is_empty() {
                parts.push(IoSlice::new(&entry.content));
            }
            let used = entry.meta.len() + entry.content.len();
            let padding = used.next_multiple_of(8) - used;
            if padding > 0 {
                parts.push(IoSlice::new(PADDING.get(..padding).unwrap_or_default()));
            }
        }
        file.write_at(&parts, start)?;
        open.offset = at;
        open.batches += 1;
        Ok(())
    }

    /// The same in an encrypted segment. What was handed in stays plain: should the write fail, it is encrypted anew for
    /// another place. The nonces from here on are used up then, so the tail is broken from the beginning of this to its
    /// good end, whatever comes in between.
    fn write_sealed(
        &mut self,
        cipher: &Cipher,
        small: &mut [u8],
        entries: &[Entry],
        placed: &mut Vec<u64>,
    ) -> io::Result<()> {
        self.broken = true;
        let mut out = std::mem::take(&mut self.ciphertext);
        out.clear();
        out.resize(BATCH, 0);
        let open = &mut self.open;
        let (start, seal) = (open.offset, open.fresh.header.seal());
        let mut is_sound = true;
        let mut encrypt = |out: &mut Vec<u8>, from: usize| {
            out.resize(out.len().next_multiple_of(8), 0);
            let at = start + from as u64;
            let record = out.get_mut(from..).unwrap_or_default();
            is_sound &= sealed::seal(record, cipher, seal, at);
            let meta = Lengths::read(record).map_or(0, |lengths| lengths.meta as usize);
            index::note(&mut open.index, at, record.get(..meta).unwrap_or_default());
            at
        };
        for_each_frame(small, |frame| {
            let from = out.len();
            out.extend_from_slice(frame);
            encrypt(&mut out, from);
        });
        for entry in entries {
            let from = out.len();
            out.extend_from_slice(&entry.meta);
            out.extend_from_slice(&entry.content);
            if !entry.content.is_empty() {
                out.resize(out.len() + TAG, 0);
            }
            placed.push(encrypt(&mut out, from));
        }
        let length = (out.len() - BATCH) as u64;
        let batch = Batch { number: open.batches, length, offset: start, synced: self.synced };
        put_at(&mut out, 0, &batch.encode(seal));
        let file: Arc<dyn StorageFile> = open.fresh.file.clone();
        let written = if is_sound {
            file.write_at(&[IoSlice::new(&out)], start)
        } else {
            Err(io::Error::other("a record could not be encrypted"))
        };
        if written.is_ok() {
            open.offset = start + out.len() as u64;
            open.batches += 1;
            self.broken = false;
        }
        if out.capacity() <= KEPT {
            self.ciphertext = out;
        }
        written
    }
}

/// Calls `each` with every record of a buffer of records without content.
pub(super) fn for_each_frame(small: &mut [u8], mut each: impl FnMut(&mut [u8])) {
    let mut rest = small;
    while let Some(lengths) = Lengths::read(rest) {
        let total = usize::try_from(lengths.total()).unwrap_or(usize::MAX);
        let Some((frame, after)) = rest.split_at_mut_checked(total) else { return };
        each(frame);
        rest = after;
    }
}
