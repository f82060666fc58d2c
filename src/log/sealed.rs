//! Encrypted records: format version 2.
//!
//! ```text
//!  0  20   header as of any record; both lengths count the tags, both checksums are over what is stored
//! 20  ...  fields, encrypted
//!     16   tag over octets 8 to 20 and the fields
//!     ...  content, encrypted, and its tag over octets 8 to 20 and the content; nothing if the content is empty
//!     ...  zeros to a multiple of 8
//! ```
//!
//! So a segment can be walked, and damage be found, without a key; nothing but kind and lengths can be read. A record is
//! *widened* to its size in the segment while it is still plain ([`widen`]), is encrypted when its place is known
//! ([`seal`]), and is decrypted where it lies ([`Opener`]): then it has the room of the tags still, and a
//! [`Frame`] can be taken of it as of any other.

use std::ops::Range;
use std::sync::Arc;

use super::cipher::{Cipher, TAG};
use super::record::{Frame, HEADER, Lengths, SEALED, Seal};
use super::wire::{aligned, put_at, u32_at};

/// What the tags cover beside what is encrypted.
const BOUND: Range<usize> = 8..HEADER;
/// [`TAG`] in the type of the lengths.
const TAG_LENGTH: u32 = 16;
const FIELDS: u32 = 0;
const CONTENT: u32 = 1;

/// Octets that a record takes in a segment.
pub fn octets(meta: usize, content: usize, is_sealed: bool) -> u64 {
    let tags = match (is_sealed, content) {
        (false, _) => 0,
        (true, 0) => TAG,
        (true, _) => 2 * TAG,
    };
    aligned((meta + content + tags) as u64)
}

/// Makes room for the tags in header and fields of a record, as [`super::record::Builder::finish_with`] leaves them.
pub fn widen(meta: &mut Vec<u8>) {
    let (Some(length), Some(content)) = (u32_at(meta, 8), u32_at(meta, 12)) else { return };
    put_at(meta, 8, &length.saturating_add(TAG_LENGTH).to_le_bytes());
    if content > 0 {
        put_at(meta, 12, &content.saturating_add(TAG_LENGTH).to_le_bytes());
    }
    put_at(meta, 16, &[SEALED]);
    meta.extend_from_slice(&[0; TAG]);
}

/// [`widen`]s the records without content that begin at `start`.
pub fn widen_small(out: &mut Vec<u8>, start: usize) {
    let plain = out.split_off(start.min(out.len()));
    let mut rest = plain.as_slice();
    let mut meta = Vec::new();
    while let Some(lengths) = Lengths::read(rest) {
        let Some(frame) = rest.get(..lengths.meta as usize) else { return };
        meta.clear();
        meta.extend_from_slice(frame);
        widen(&mut meta);
        out.extend_from_slice(&meta);
        out.resize(out.len().next_multiple_of(8), 0);
        rest = rest.get(usize::try_from(lengths.total()).unwrap_or(usize::MAX)..).unwrap_or_default();
    }
}

/// Encrypts a widened record that lies here whole, for its place.
#[must_use]
pub fn seal(record: &mut [u8], cipher: &Cipher, seal: Seal, offset: u64) -> bool {
    let Some(Lengths { meta, content }) = Lengths::read(record) else { return false };
    let (meta, content) = (meta as usize, content as usize);
    let Some(bound) = bound(record) else { return false };
    let Some((meta, rest)) = record.split_at_mut_checked(meta) else { return false };
    let Some(content) = rest.get_mut(..content) else { return false };
    let is_sealed = meta.get_mut(HEADER..).is_some_and(|fields| cipher.seal(offset, FIELDS, &bound, fields))
        && (content.is_empty() || cipher.seal(offset, CONTENT, &bound, content));
    let checksum = seal.checksum(crc32c::crc32c(content), offset);
    put_at(meta, 4, &checksum.to_le_bytes());
    let checksum = seal.checksum(crc32c::crc32c(meta.get(8..).unwrap_or_default()), offset);
    put_at(meta, 0, &checksum.to_le_bytes());
    is_sealed
}

fn bound(record: &[u8]) -> Option<[u8; BOUND.end - BOUND.start]> {
    record.get(BOUND)?.try_into().ok()
}

/// Decrypts header and fields whose integrity up to the encryption was established otherwise.
#[must_use]
pub fn open_fields(meta: &mut [u8], cipher: &Cipher, offset: u64) -> bool {
    let Some(bound) = bound(meta) else { return false };
    meta.get(16) == Some(&SEALED)
        && meta.get_mut(HEADER..).is_some_and(|fields| cipher.open(offset, FIELDS, &bound, fields))
}

/// Checks and decrypts the records of one segment.
#[derive(Clone, Debug)]
pub struct Opener {
    /// What seals its checksums.
    pub seal: Seal,
    /// What its records are encrypted with.
    pub cipher: Option<Arc<Cipher>>,
}

impl Opener {
    /// Opens header and fields of the record that begins `bytes`, in place. In an encrypted segment nothing else counts.
    pub fn open_meta<'a>(&self, bytes: &'a mut [u8], offset: u64) -> Option<Frame<'a>> {
        let Lengths { meta, .. } = Frame::read(bytes, self.seal, offset)?.lengths;
        match &self.cipher {
            None if bytes.get(16) == Some(&SEALED) => return None,
            None => {}
            Some(cipher) => open_fields(bytes.get_mut(..meta as usize)?, cipher, offset).then_some(())?,
        }
        Frame::trusted(bytes)
    }

    /// Opens the record that begins `bytes`, in place; where its content is.
    pub fn open(&self, bytes: &mut [u8], offset: u64) -> Option<Range<usize>> {
        let bound = bound(bytes)?;
        let Lengths { meta, content } = self.open_meta(bytes, offset)?.lengths;
        let (start, end) = (meta as usize, (meta as usize).checked_add(content as usize)?);
        if content == 0 {
            // Its checksum is over nothing, and still must be that.
            return Frame::trusted(bytes)?.has_checksum(0, self.seal, offset).then_some(start..end);
        }
        let stored = bytes.get_mut(start..end)?;
        match &self.cipher {
            Some(cipher) => {
                // The tag says more than the checksum, which nothing else reads again.
                cipher.open(offset, CONTENT, &bound, stored).then_some(start..end.checked_sub(TAG)?)
            }
            None => {
                let plain = crc32c::crc32c(stored);
                Frame::trusted(bytes)?.has_checksum(plain, self.seal, offset).then_some(start..end)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Builder;
    use super::*;

    const SEAL: Seal = Seal { salt: 42 };
    const OFFSET: u64 = 4096;

    fn opener() -> Opener {
        Opener { seal: SEAL, cipher: Some(Arc::new(Cipher::new(&[3; 32]))) }
    }

    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut meta = Vec::new();
        let mut builder = Builder::new(&mut meta, 3);
        builder.field(1, b"a canary");
        builder.finish_with(u32::try_from(content.len()).unwrap(), crc32c::crc32c(content));
        let length = octets(meta.len(), content.len(), true);
        widen(&mut meta);
        meta.extend_from_slice(content);
        meta.resize(usize::try_from(length).unwrap(), 0);
        assert_eq!(Lengths::read(&meta).unwrap().total(), length);
        assert!(seal(&mut meta, opener().cipher.as_ref().unwrap(), SEAL, OFFSET));
        meta
    }

    #[test]
    fn a_record_is_read_back_and_nothing_of_it_can_be_seen() {
        for content in [&b"another canary"[..], b""] {
            let mut record = sealed(content);
            assert!(!String::from_utf8_lossy(&record).contains("canary"));

            let range = opener().open(&mut record, OFFSET).unwrap();

            assert_eq!(&record[range], content);
            let frame = Frame::trusted(&record).unwrap();
            assert_eq!(frame.fields().collect::<Vec<_>>(), [(1, b"a canary".as_slice())]);
            assert_eq!(frame.kind(), 3);
        }
    }

    #[test]
    fn every_flipped_bit_is_seen_whether_or_not_the_checksums_were_made_good() {
        let record = sealed(b"content");
        let used = record.len().min(20 + 10 + 16 + 7 + 16);
        for bit in 0..used * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);

            // A content is opened without its checksum, which the octets 4 to 8 are.
            let is_seen = opener().open(&mut flipped.clone(), OFFSET).is_none();

            assert!(is_seen || (32..64).contains(&bit), "bit {bit}");
            if let Some(lengths) = Lengths::read(&flipped) {
                let Some(meta) = flipped.get(8..lengths.meta as usize) else { continue };
                let checksum = SEAL.checksum(crc32c::crc32c(meta), OFFSET);
                put_at(&mut flipped, 0, &checksum.to_le_bytes());
                let is_open = opener().open(&mut flipped, OFFSET).is_some();
                // Octets 0 to 8 are made good or not looked at.
                assert_eq!(is_open, bit < 64, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_plain_record_is_not_taken_in_an_encrypted_segment_nor_the_other_way_round() {
        let mut plain = Vec::new();
        Builder::new(&mut plain, 3).finish();
        super::super::record::seal(&mut plain, SEAL, OFFSET);
        let without = Opener { seal: SEAL, cipher: None };

        assert!(without.open(&mut plain.clone(), OFFSET).is_some());
        assert!(opener().open(&mut plain, OFFSET).is_none());
        assert!(without.open(&mut sealed(b"x"), OFFSET).is_none());
    }

    #[test]
    fn small_records_are_widened_behind_those_that_are_already() {
        let mut out = Vec::new();
        let mut ends = vec![0];
        for value in [&b"one"[..], b"another"] {
            let start = out.len();
            let mut builder = Builder::new(&mut out, 2);
            builder.field(1, value);
            builder.finish();
            widen_small(&mut out, start);
            ends.push(out.len());
        }

        let mut at = 0;
        for end in &ends[1..] {
            let lengths = Lengths::read(&out[at..]).unwrap();
            at += usize::try_from(lengths.total()).unwrap();
            assert_eq!(at, *end);
        }
    }
}
