//! Records: a fixed header, fields as tag, length and value, then the content.
//!
//! ```text
//!  0  u32  checksum of octets 8 to the end of the fields, sealed
//!  4  u32  checksum of the content, sealed
//!  8  u32  length of header and fields
//! 12  u32  length of the content
//! 16  u8   format version; encrypted records have one of their own (`sealed`)
//! 17  u8   kind, for the layer above
//! 18  u16  0
//! 20  ...  fields: LEB128 tag, LEB128 length, value
//!     ...  content
//!     ...  zeros to a multiple of 8
//! ```
//!
//! A checksum is CRC32C over its octets followed by the segment's salt and the record's offset ([`Seal`]). So the costly
//! part is computed before the place is known, yet a record embedded in somebody's content, a stale one or one that was
//! moved is never taken for a record. Readers keep fields whose tag they do not know.

use super::cipher::TAG;
use super::wire::{aligned, put_at, put_varint, take_varint, u32_at};

/// Octets before the fields.
pub const HEADER: usize = 20;
/// Format version of plain records.
pub const VERSION: u8 = 1;
/// Format version of encrypted records: see [`super::sealed`].
pub const SEALED: u8 = 2;
/// Header and fields are at most this long; an envelope of 100,000 recipients takes a quarter of it.
pub const MOST_META: u32 = 64 << 20;

/// What binds checksums to a place.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    /// The segment's salt.
    pub salt: u64,
}

impl Seal {
    /// The checksum as it is stored for octets at `offset` whose CRC32C is `plain`.
    pub fn checksum(self, plain: u32, offset: u64) -> u32 {
        let mut place = [0; 16];
        put_at(&mut place, 0, &self.salt.to_le_bytes());
        put_at(&mut place, 8, &offset.to_le_bytes());
        crc32c::crc32c_append(plain, &place)
    }
}

/// Appends one record to a buffer; [`Builder::finish`] must be called.
#[derive(Debug)]
pub struct Builder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Builder<'a> {
    /// Begins a record at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>, kind: u8) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&[VERSION, kind, 0, 0]);
        Self { out, start }
    }

    /// Appends a field.
    pub fn field(&mut self, tag: u64, value: &[u8]) {
        put_field(self.out, tag, value);
    }

    /// Appends fields that are already encoded.
    pub fn raw(&mut self, fields: &[u8]) {
        self.out.extend_from_slice(fields);
    }

    /// Ends a record without content, padded so that another may follow in the buffer.
    pub fn finish(self) {
        let out = self.finish_with(0, 0);
        out.resize(out.len().next_multiple_of(8), 0);
    }

    /// Ends a record whose content of `length` octets and checksum `plain` is written after it. Not padded.
    pub fn finish_with(self, length: u32, plain: u32) -> &'a mut Vec<u8> {
        let meta = u32::try_from(self.out.len() - self.start).unwrap_or(u32::MAX);
        if let Some(frame) = self.out.get_mut(self.start..) {
            put_at(frame, 4, &plain.to_le_bytes());
            put_at(frame, 8, &meta.to_le_bytes());
            put_at(frame, 12, &length.to_le_bytes());
            let checksum = crc32c::crc32c(frame.get(8..).unwrap_or_default());
            put_at(frame, 0, &checksum.to_le_bytes());
        }
        self.out
    }
}

/// Appends a field to a list of fields; lists may be the value of a field.
pub fn put_field(out: &mut Vec<u8>, tag: u64, value: &[u8]) {
    put_varint(out, tag);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Binds an unsealed record (as [`Builder`] leaves it) to its place.
pub fn seal(frame: &mut [u8], seal: Seal, offset: u64) {
    for at in [0, 4] {
        if let Some(plain) = u32_at(frame, at) {
            put_at(frame, at, &seal.checksum(plain, offset).to_le_bytes());
        }
    }
}

/// Undoes [`seal`], for a record that has to be written again elsewhere; `content` is its content's plain checksum.
pub fn unseal(frame: &mut [u8], content: u32) {
    put_at(frame, 4, &content.to_le_bytes());
    if let Some(meta) = u32_at(frame, 8).and_then(|meta| frame.get(8..usize::try_from(meta).ok()?)) {
        let checksum = crc32c::crc32c(meta);
        put_at(frame, 0, &checksum.to_le_bytes());
    }
}

/// The lengths in a record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Header and fields.
    pub meta: u32,
    /// Content.
    pub content: u32,
}

impl Lengths {
    /// Reads them; `None` if this cannot be a record's header.
    pub fn read(header: &[u8]) -> Option<Self> {
        let (meta, content) = (u32_at(header, 8)?, u32_at(header, 12)?);
        let is_plausible = meta as usize >= HEADER && meta <= MOST_META;
        let is_possible = match *header.get(16)? {
            VERSION => true,
            SEALED => meta as usize >= HEADER + TAG && (content == 0 || content as usize > TAG),
            _ => false,
        };
        let is_known = is_possible && header.get(18..20) == Some(&[0, 0]);
        (is_plausible && is_known).then_some(Self { meta, content })
    }

    /// Octets from one record to the next.
    pub fn total(self) -> u64 {
        aligned(u64::from(self.meta) + u64::from(self.content))
    }
}

/// A record's header and fields, checked.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    meta: &'a [u8],
    /// The lengths in its header.
    pub lengths: Lengths,
}

impl<'a> Frame<'a> {
    /// Takes the record that begins `bytes`, if its header and fields are all there and were written for this place.
    pub fn read(bytes: &'a [u8], seal: Seal, offset: u64) -> Option<Self> {
        let lengths = Lengths::read(bytes)?;
        let meta = bytes.get(..lengths.meta as usize)?;
        let plain = crc32c::crc32c(meta.get(8..)?);
        (u32_at(meta, 0)? == seal.checksum(plain, offset)).then_some(Self { meta, lengths })
    }

    /// Takes octets whose integrity was established otherwise (an index with a checksum of its own).
    pub fn trusted(bytes: &'a [u8]) -> Option<Self> {
        let lengths = Lengths::read(bytes)?;
        Some(Self { meta: bytes.get(..lengths.meta as usize)?, lengths })
    }

    /// The kind, for the layer above.
    pub fn kind(&self) -> u8 {
        self.meta.get(17).copied().unwrap_or_default()
    }

    /// Header and fields as they are stored.
    pub fn bytes(&self) -> &'a [u8] {
        self.meta
    }

    /// The fields in order; those of an encrypted record once it is open.
    pub fn fields(&self) -> Fields<'a> {
        let tag = if self.meta.get(16) == Some(&SEALED) { TAG } else { 0 };
        Fields { rest: self.meta.get(HEADER..self.meta.len().saturating_sub(tag)).unwrap_or_default() }
    }

    /// Whether `content` is what was written.
    pub fn is_content(&self, content: &[u8], seal: Seal, offset: u64) -> bool {
        content.len() == self.lengths.content as usize && self.has_checksum(crc32c::crc32c(content), seal, offset)
    }

    /// Whether `plain` is the CRC32C of what was written as the content.
    pub fn has_checksum(&self, plain: u32, seal: Seal, offset: u64) -> bool {
        u32_at(self.meta, 4) == Some(seal.checksum(plain, offset))
    }
}

/// Iterates over fields. Ends early at one that is cut: cannot happen below a good checksum.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields in a field's value.
    pub fn nested(value: &'a [u8]) -> Self {
        Self { rest: value }
    }

    /// The value of the first field with this tag.
    pub fn find(mut self, tag: u64) -> Option<&'a [u8]> {
        self.find_map(|(found, value)| (found == tag).then_some(value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = take_varint(&mut self.rest)?;
        let length = usize::try_from(take_varint(&mut self.rest)?).ok()?;
        let (value, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some((tag, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut builder = Builder::new(&mut out, 3);
        builder.field(1, b"one");
        builder.field(70_000, b"unknown");
        builder.finish_with(u32::try_from(content.len()).unwrap(), crc32c::crc32c(content));
        out
    }

    #[test]
    fn a_sealed_record_is_read_back_with_unknown_fields() {
        let seal_ = Seal { salt: 42 };
        let mut frame = sample(b"content");
        seal(&mut frame, seal_, 4096);

        let read = Frame::read(&frame, seal_, 4096).unwrap();

        assert_eq!(read.kind(), 3);
        assert_eq!(read.fields().collect::<Vec<_>>(), [(1, b"one".as_slice()), (70_000, b"unknown".as_slice())]);
        assert!(read.is_content(b"content", seal_, 4096));
        assert!(!read.is_content(b"Content", seal_, 4096));
    }

    #[test]
    fn a_record_is_not_taken_in_another_segment_or_place() {
        let mut frame = sample(b"");
        seal(&mut frame, Seal { salt: 42 }, 4096);

        assert!(Frame::read(&frame, Seal { salt: 43 }, 4096).is_none());
        assert!(Frame::read(&frame, Seal { salt: 42 }, 4104).is_none());
    }

    #[test]
    fn every_flipped_bit_of_header_and_fields_is_seen() {
        let seal_ = Seal { salt: 7 };
        let mut frame = sample(b"");
        seal(&mut frame, seal_, 8);

        for bit in (0..frame.len() * 8).filter(|bit| !(32..64).contains(bit)) {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::read(&flipped, seal_, 8).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn unsealing_restores_the_record_for_another_place() {
        let original = sample(b"content");
        let mut frame = original.clone();
        seal(&mut frame, Seal { salt: 1 }, 8);

        unseal(&mut frame, crc32c::crc32c(b"content"));

        assert_eq!(frame, original);
    }
}
