//! Segments and batches on disk.
//!
//! A segment is a file of fixed size, `segments/<sequence in 16 hex digits>.seg`: a header, twice, in its first 4,096
//! octets, then batches, then zeros. A batch is a header and the records that one `pwritev` wrote:
//!
//! ```text
//! segment   0  8   "HIKYAKU1"                batch   0  u32  "HKB1"
//!           8  u64 sequence                          4  u32  checksum of 8..48, sealed
//!          16  u64 salt                              8  u64  number of the batch in the segment
//!          24  u64 size of the file                 16  u64  length of the records
//!          32  u32 start count of the daemon        24  u64  the batch's own offset
//!          36  u32 CRC32C of 0..36                  32  u64  segment, and
//!                                                   40  u64  offset of the end of what is known to be synced
//! ```
//!
//! The header of an encrypted segment begins with "HIKYAKU2"; from octet 36 on it has the key's id (8), the salt that the
//! segment's key is derived with (32), and CRC32C of 0..76.

use std::io;

use super::Position;
use super::cipher::{Binding, KeyId};
use super::record::Seal;
use super::storage::{Storage, StorageFile};
use super::wire::{put_at, u32_at, u64_at};

/// Where segments are.
pub const DIRECTORY: &str = "segments";
/// Octets before the first batch: one page, so that the first batch never shares a sector with the header.
pub const FIRST: u64 = 4096;
/// Where the header's second copy is: without the salt no record of a segment could be read.
pub const COPY: u64 = 2048;
/// Octets of a batch header.
pub const BATCH: usize = 48;

/// Octets of the longest header.
const MOST_HEADER: usize = 80;

const MAGIC: &[u8; 8] = b"HIKYAKU1";
const MAGIC_SEALED: &[u8; 8] = b"HIKYAKU2";
const BATCH_MAGIC: &[u8; 4] = b"HKB1";

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Position among the segments.
    pub sequence: u32,
    /// Random; part of every checksum in the segment.
    pub salt: u64,
    /// Size of the file.
    pub size: u64,
    /// How many times a daemon had been started on this log, the one that wrote this included.
    pub start: u32,
    /// What its records are encrypted with, if they are.
    pub binding: Option<Binding>,
}

impl Header {
    /// The header's octets, without the zeros up to [`FIRST`].
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; 36];
        put_at(&mut bytes, 0, if self.binding.is_some() { MAGIC_SEALED } else { MAGIC });
        put_at(&mut bytes, 8, &u64::from(self.sequence).to_le_bytes());
        put_at(&mut bytes, 16, &self.salt.to_le_bytes());
        put_at(&mut bytes, 24, &self.size.to_le_bytes());
        put_at(&mut bytes, 32, &self.start.to_le_bytes());
        if let Some(Binding { key, salt }) = &self.binding {
            bytes.extend_from_slice(&key.0);
            bytes.extend_from_slice(salt);
        }
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header that begins `bytes`; `None` if it is not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let is_sealed = bytes.get(..8)? == MAGIC_SEALED;
        let end = if is_sealed { MOST_HEADER - 4 } else { 36 };
        let is_known = is_sealed || bytes.get(..8)? == MAGIC;
        let is_sound = is_known && u32_at(bytes, end)? == crc32c::crc32c(bytes.get(..end)?);
        let sequence = u32::try_from(u64_at(bytes, 8)?).ok()?;
        let (salt, size, start) = (u64_at(bytes, 16)?, u64_at(bytes, 24)?, u32_at(bytes, 32)?);
        let binding = if is_sealed { Some(binding_at(bytes, 36)?) } else { None };
        is_sound.then_some(Self { sequence, salt, size, start, binding })
    }

    /// Reads both copies of the header of an open file.
    pub fn copies(file: &dyn StorageFile) -> io::Result<[Option<Self>; 2]> {
        let mut copies = [None; 2];
        for (copy, offset) in copies.iter_mut().zip([0, COPY]) {
            let mut bytes = [0; MOST_HEADER];
            file.read_at(&mut bytes, offset)?;
            *copy = Self::decode(&bytes);
        }
        Ok(copies)
    }

    /// Reads the header of an open file that is named as segment `sequence`. The header of another segment is none: the
    /// file was copied or moved, or the header is stale.
    pub fn read(file: &dyn StorageFile, sequence: u32) -> io::Result<Option<Self>> {
        Ok(Self::of(&Self::copies(file)?, sequence))
    }

    /// The header among these that belongs to segment `sequence`.
    pub fn of(copies: &[Option<Self>], sequence: u32) -> Option<Self> {
        copies.iter().flatten().find(|header| header.sequence == sequence).copied()
    }

    /// What seals this segment's records.
    pub fn seal(&self) -> Seal {
        Seal { salt: self.salt }
    }
}

/// Reads a binding: key id and salt.
pub(super) fn binding_at(bytes: &[u8], at: usize) -> Option<Binding> {
    let (key, salt) = bytes.get(at..)?.split_first_chunk()?;
    Some(Binding { key: KeyId(*key), salt: *salt.first_chunk()? })
}

/// What a batch's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Counted from 0 in the segment.
    pub number: u64,
    /// Length of its records.
    pub length: u64,
    /// Its own offset.
    pub offset: u64,
    /// Everything in this segment before this offset was synced when the batch was written.
    pub synced: Position,
}

impl Batch {
    /// Encodes the header for its place.
    pub fn encode(&self, seal: Seal) -> [u8; BATCH] {
        let mut bytes = [0; BATCH];
        put_at(&mut bytes, 0, BATCH_MAGIC);
        put_at(&mut bytes, 8, &self.number.to_le_bytes());
        put_at(&mut bytes, 16, &self.length.to_le_bytes());
        put_at(&mut bytes, 24, &self.offset.to_le_bytes());
        put_at(&mut bytes, 32, &u64::from(self.synced.segment).to_le_bytes());
        put_at(&mut bytes, 40, &self.synced.offset.to_le_bytes());
        let checksum = seal.checksum(crc32c::crc32c(bytes.get(8..).unwrap_or_default()), self.offset);
        put_at(&mut bytes, 4, &checksum.to_le_bytes());
        bytes
    }

    /// Reads the header that begins `bytes`, if it is one written for this place.
    pub fn read(bytes: &[u8], seal: Seal, offset: u64) -> Option<Self> {
        let bytes = bytes.get(..BATCH)?;
        if bytes.get(..4)? != BATCH_MAGIC {
            return None;
        }
        let plain = crc32c::crc32c(bytes.get(8..)?);
        if u32_at(bytes, 4)? != seal.checksum(plain, offset) || u64_at(bytes, 24)? != offset {
            return None;
        }
        let segment = u32::try_from(u64_at(bytes, 32)?).ok()?;
        let synced = Position { segment, offset: u64_at(bytes, 40)? };
        Some(Self { number: u64_at(bytes, 8)?, length: u64_at(bytes, 16)?, offset, synced })
    }
}

/// The path of a segment.
pub fn path(sequence: u32) -> String {
    format!("{DIRECTORY}/{sequence:016x}.seg")
}

/// The sequence in a file name with this extension.
pub fn sequence_of(name: &str, extension: &str) -> Option<u32> {
    let stem = name.strip_suffix(extension)?.strip_suffix('.')?;
    (stem.len() == 16).then_some(())?;
    u32::from_str_radix(stem, 16).ok()
}

/// Makes a segment that can be written at once: zero-filled, synced, named, its directory synced.
pub fn create(storage: &dyn Storage, header: Header) -> io::Result<std::sync::Arc<dyn StorageFile>> {
    let temporary = format!("{DIRECTORY}/{:016x}.new", header.sequence);
    match storage.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create(&temporary)?;
    let made = file
        .fill_zero(header.size)
        .and_then(|()| file.write_at(&[io::IoSlice::new(&header.encode())], 0))
        .and_then(|()| file.write_at(&[io::IoSlice::new(&header.encode())], COPY))
        .and_then(|()| file.sync_data())
        .and_then(|()| storage.rename(&temporary, &path(header.sequence)))
        .and_then(|()| storage.sync_dir(DIRECTORY));
    if let Err(error) = made {
        // Half a segment on a full disk would take the room that deletions are to free.
        let _ = storage.remove(&temporary);
        return Err(error);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_refuse_damage() {
        let sealed = Some(Binding { key: KeyId([7; 8]), salt: [8; 32] });
        for binding in [None, sealed] {
            let header = Header { sequence: 9, salt: 0x1234_5678_9abc_def0, size: 1 << 26, start: 3, binding };
            let bytes = header.encode();

            assert_eq!(Header::decode(&bytes), Some(header));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Header::decode(&flipped), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn batch_headers_belong_to_one_place() {
        let seal = Seal { salt: 5 };
        let synced = Position { segment: 1, offset: 4096 };
        let batch = Batch { number: 2, length: 100, offset: 8192, synced };
        let bytes = batch.encode(seal);

        assert_eq!(Batch::read(&bytes, seal, 8192), Some(batch));
        assert_eq!(Batch::read(&bytes, seal, 8200), None);
        assert_eq!(Batch::read(&bytes, Seal { salt: 6 }, 8192), None);
    }

    #[test]
    fn only_full_names_are_segments() {
        assert_eq!(sequence_of("000000000000000a.seg", "seg"), Some(10));
        for other in ["a.seg", "000000000000000a.new", "000000000000000g.seg", "lock"] {
            assert_eq!(sequence_of(other, "seg"), None, "{other}");
        }
    }
}
