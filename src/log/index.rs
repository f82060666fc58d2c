//! The index of a sealed segment: offset, header and fields of every record, without contents.
//!
//! A synced side file, `segments/<sequence>.idx`, bound to its segment by the salt. It saves reading contents at
//! recovery; correctness never depends on it: one that is missing or unreadable means a scan of the segment.
//!
//! ```text
//!  0  8   "HIKYIDX1"          24  u64 end of the last batch
//!  8  u64 sequence            32  u64 length of the entries
//! 16  u64 salt                40  entries: u64 offset, header and fields, zeros to a multiple of 8
//!                             ..  u32 CRC32C of all before
//! ```
//!
//! The index of an encrypted segment begins with "HIKYIDX2"; its key's id (8) and the salt of its key (32) follow at 40,
//! then the entries: fields are encrypted as they are in the segment.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::cipher::{Binding, Cipher};
use super::record::Frame;
use super::sealed;
use super::segment::{self, Header};
use super::storage::{Storage, read_exact};
use super::wire::{put_at, u64_at};

const MAGIC: &[u8; 8] = b"HIKYIDX1";
const MAGIC_SEALED: &[u8; 8] = b"HIKYIDX2";
const HEADER: usize = 40;
/// Octets of a binding.
const BINDING: usize = 40;

/// The path of an index.
pub fn path(sequence: u32) -> String {
    format!("{}/{sequence:016x}.idx", segment::DIRECTORY)
}

/// An index.
#[derive(Debug)]
pub struct Index {
    /// The salt of its segment.
    pub salt: u64,
    /// What the segment is encrypted with, if it is.
    pub binding: Option<Binding>,
    /// End of the segment's last batch.
    pub end: u64,
    /// The entries as they are stored, for [`open`] and [`each`].
    pub entries: Vec<u8>,
}

/// Appends an entry.
pub fn note(entries: &mut Vec<u8>, offset: u64, meta: &[u8]) {
    entries.extend_from_slice(&offset.to_le_bytes());
    entries.extend_from_slice(meta);
    entries.resize(entries.len().next_multiple_of(8), 0);
}

/// Calls `each` with offset and frame of every entry.
pub fn each(entries: &[u8], each: &mut dyn FnMut(u64, &Frame<'_>)) {
    let mut rest = entries;
    while let Some((offset, after)) = rest.split_first_chunk::<8>() {
        let Some(frame) = Frame::trusted(after) else { return };
        each(u64::from_le_bytes(*offset), &frame);
        rest = after.get(frame.bytes().len().next_multiple_of(8)..).unwrap_or_default();
    }
}

/// Decrypts entries; those that cannot be are left out, and their places are returned.
pub fn open(entries: &[u8], cipher: &Cipher) -> (Vec<u8>, Vec<Range<u64>>) {
    let (mut plain, mut damaged) = (Vec::with_capacity(entries.len()), Vec::new());
    each(entries, &mut |offset, frame| {
        let start = plain.len();
        note(&mut plain, offset, frame.bytes());
        let meta = plain.get_mut(start + 8..start + 8 + frame.bytes().len()).unwrap_or_default();
        if !sealed::open_fields(meta, cipher, offset) {
            plain.truncate(start);
            damaged.push(offset..offset + frame.lengths.total());
        }
    });
    (plain, damaged)
}

/// Writes and syncs an index; its name is durable on return.
pub fn write(storage: &dyn Storage, sequence: u32, index: &Index) -> io::Result<()> {
    let Index { salt, binding, end, entries } = index;
    let mut header = vec![0; HEADER];
    put_at(&mut header, 0, if binding.is_some() { MAGIC_SEALED } else { MAGIC });
    put_at(&mut header, 8, &u64::from(sequence).to_le_bytes());
    put_at(&mut header, 16, &salt.to_le_bytes());
    put_at(&mut header, 24, &end.to_le_bytes());
    put_at(&mut header, 32, &(entries.len() as u64).to_le_bytes());
    if let Some(Binding { key, salt }) = binding {
        header.extend_from_slice(&key.0);
        header.extend_from_slice(salt);
    }
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header), entries).to_le_bytes();
    let parts = [IoSlice::new(&header), IoSlice::new(entries), IoSlice::new(&checksum)];
    replace(storage, segment::DIRECTORY, &path(sequence), &parts)
}

/// Writes a file under a temporary name, syncs it and gives it its name, durably.
pub fn replace(storage: &dyn Storage, directory: &str, name: &str, parts: &[IoSlice<'_>]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    match storage.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create(&temporary)?;
    let written = file
        .write_at(parts, 0)
        .and_then(|()| file.sync_data())
        .and_then(|()| storage.rename(&temporary, name))
        .and_then(|()| storage.sync_dir(directory));
    if written.is_err() {
        let _ = storage.remove(&temporary);
    }
    written
}

/// Reads the index of a segment; `None` if there is none that can be used.
pub fn read(storage: &dyn Storage, sequence: u32, header: Option<&Header>) -> io::Result<Option<Index>> {
    let file = match storage.open(&path(sequence)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = usize::try_from(file.size()?).unwrap_or(usize::MAX);
    let mut bytes = read_exact(&*file, 0, size)?;
    let Some((whole, checksum)) = bytes.split_last_chunk::<4>() else { return Ok(None) };
    let is_sealed = whole.get(..8) == Some(MAGIC_SEALED);
    let header_length = if is_sealed { HEADER + BINDING } else { HEADER };
    let binding = if is_sealed { segment::binding_at(whole, HEADER) } else { None };
    let is_sound = crc32c::crc32c(whole) == u32::from_le_bytes(*checksum)
        && (is_sealed || whole.get(..8) == Some(MAGIC))
        && u64_at(whole, 8) == Some(u64::from(sequence))
        && u64_at(whole, 32) == Some(whole.len().saturating_sub(header_length) as u64);
    let (Some(salt), Some(end)) = (u64_at(whole, 16), u64_at(whole, 24)) else { return Ok(None) };
    if !is_sound || header.is_some_and(|header| header.salt != salt || header.binding != binding) {
        return Ok(None);
    }
    bytes.truncate(size - 4);
    bytes.drain(..header_length);
    Ok(Some(Index { salt, binding, end, entries: bytes }))
}
