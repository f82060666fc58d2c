//! The unfinished messages at one moment, so that recovery need not go through all indexes.
//!
//! A synced file, `segments/checkpoint`, written for every GiB of sealed segments.
//! It says: everything in the segments up to `through` is in here. What comes after is applied on top, which does no harm
//! where the moment was later than the end of that segment, because every record sets a state and none adds to one.
//! Correctness never depends on it: a checkpoint that cannot be read, or that covers a segment without an index or
//! without its own header, is ignored.
//!
//! Two things must not fall between it and the records after it. A message that was synced but not in the map yet keeps
//! its segment from being covered (`Segment::unsettled`). References of records to segments are taken after everything
//! that the map knew had been written, because a record about a message that was finished by then cannot give its
//! reference again.

use std::io::{self, IoSlice};

use crate::log::index;
use crate::log::segment::{self, Header};
use crate::log::storage::{Storage, read_exact};
use crate::log::wire::{put_varint, take_varint, take_varint_u32};
use crate::log::{Position, record::Fields, record::put_field};
use crate::message::MessageId;

use super::codec;
use super::inner::Inner;
use super::ledger::Segment;
use super::map::{Location, Map, Spill};

/// A checkpoint is written for so many octets of log.
const EVERY: u64 = 1 << 30;
const MAGIC: &[u8; 8] = b"HIKYCKP1";

/// Tags of the file's fields.
mod tag {
    /// The last segment that is covered.
    pub const THROUGH: u64 = 1;
    /// A segment: sequence, whether it was given up, count of references and these. What may follow is of earlier
    /// versions, and so are references to later segments: neither holds anything.
    pub const SEGMENT: u64 = 2;
    /// A message: id, segment, offset, octets, spill file or 0; then fields: its unfinished recipients, and the octets in the
    /// spill file, which earlier versions left out.
    pub const MESSAGE: u64 = 3;
}

/// The path of the checkpoint.
pub fn path() -> String {
    format!("{}/checkpoint", segment::DIRECTORY)
}

/// Writes a checkpoint if it is time, or if `thorough` and it would cover anything more.
pub fn write_if_due(inner: &Inner, thorough: bool) -> io::Result<()> {
    let distance = if thorough { 1 } else { distance(inner.settings.load().segment_size) };
    let last = inner.checkpoint.load(std::sync::atomic::Ordering::Relaxed);
    let Some(through) = inner.ledger.settled_through() else { return Ok(()) };
    if through < last.saturating_add(distance) {
        return Ok(());
    }
    let mut out = MAGIC.to_vec();
    put_field(&mut out, tag::THROUGH, &through.to_le_bytes());
    put_messages(&mut out, &inner.map);
    inner.writer.sync_blocking().map_err(io::Error::other)?;
    inner.ledger.with(|segments| {
        for (sequence, segment) in segments.iter() {
            put_segment(&mut out, *sequence, segment);
        }
    });
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    index::replace(&*inner.storage, segment::DIRECTORY, &path(), &[IoSlice::new(&out)])?;
    inner.checkpoint.store(through, std::sync::atomic::Ordering::Relaxed);
    Ok(())
}

/// How many segments of this size are sealed from one checkpoint to the next.
fn distance(segment_size: u64) -> u32 {
    u32::try_from(EVERY / segment_size.max(1)).unwrap_or(u32::MAX).max(1)
}

fn put_messages(out: &mut Vec<u8>, map: &Map) {
    let mut value = Vec::new();
    map.for_each(|id, location, pending, spill| {
        value.clear();
        value.extend_from_slice(&id.0.to_le_bytes());
        put_varint(&mut value, u64::from(location.position.segment));
        put_varint(&mut value, location.position.offset);
        put_varint(&mut value, location.octets);
        put_varint(&mut value, spill.map_or(0, |spill| spill.file + 1));
        pending.iter().for_each(|pending| codec::put_pending(&mut value, pending));
        if let Some(spill) = spill {
            put_field(&mut value, codec::tag::SPILL, &spill.length.to_le_bytes());
        }
        put_field(out, tag::MESSAGE, &value);
    });
}

fn put_segment(out: &mut Vec<u8>, sequence: u32, segment: &Segment) {
    let mut value = Vec::new();
    put_varint(&mut value, u64::from(sequence));
    put_varint(&mut value, u64::from(segment.is_given_up));
    put_varint(&mut value, segment.refers.len() as u64);
    for other in &segment.refers {
        put_varint(&mut value, u64::from(*other));
    }
    put_field(out, tag::SEGMENT, &value);
}

/// A checkpoint that was read.
#[derive(Debug)]
pub struct Checkpoint {
    /// The last segment that is covered.
    pub through: u32,
    octets: Vec<u8>,
}

/// Reads the checkpoint; `None` if there is none that can be used for these segments, which are all that exist: each that
/// it covers must have an index and its own header.
pub fn read(storage: &dyn Storage, segments: &[u32]) -> io::Result<Option<Checkpoint>> {
    let file = match storage.open(&path()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let octets = read_exact(&*file, 0, usize::try_from(file.size()?).unwrap_or(usize::MAX))?;
    let Some(checkpoint) = decode(octets) else { return Ok(None) };
    let indexes = storage.list(segment::DIRECTORY)?;
    let indexed: Vec<u32> = indexes.iter().filter_map(|entry| segment::sequence_of(&entry.name, "idx")).collect();
    for &sequence in segments.iter().filter(|sequence| **sequence <= checkpoint.through) {
        let file = storage.open(&segment::path(sequence))?;
        if !indexed.contains(&sequence) || Header::read(&*file, sequence)?.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(checkpoint))
}

fn decode(mut octets: Vec<u8>) -> Option<Checkpoint> {
    let (body, checksum) = octets.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let fields = body.strip_prefix(MAGIC)?;
    let through = u32::from_le_bytes(*Fields::nested(fields).find(tag::THROUGH)?.first_chunk()?);
    octets.truncate(octets.len() - 4);
    Some(Checkpoint { through, octets })
}

impl Checkpoint {
    fn fields(&self) -> Fields<'_> {
        Fields::nested(self.octets.get(MAGIC.len()..).unwrap_or_default())
    }

    /// Every segment that existed.
    pub fn segments(&self) -> impl Iterator<Item = (u32, Segment)> {
        self.fields().filter_map(|(tag, value)| (tag == tag::SEGMENT).then(|| take_segment(value)).flatten())
    }

    /// Every unfinished message: where it is, what is left to do, its spill file.
    pub fn messages(&self) -> impl Iterator<Item = (MessageId, Location, Vec<super::Pending>, Option<Spill>)> {
        let messages = self.fields().filter(|(tag, _)| *tag == tag::MESSAGE);
        messages.filter_map(|(_, value)| {
            let (id, location, spill, rest) = take_message(value)?;
            Some((id, location, codec::pendings(Fields::nested(rest)), spill))
        })
    }
}

fn take_segment(mut value: &[u8]) -> Option<(u32, Segment)> {
    let sequence = take_varint_u32(&mut value)?;
    let mut segment = Segment { is_given_up: take_varint(&mut value)? == 1, ..Segment::default() };
    for _ in 0..take_varint(&mut value)? {
        let other = take_varint_u32(&mut value)?;
        if other < sequence {
            segment.refers.insert(other);
        }
    }
    Some((sequence, segment))
}

fn take_message(value: &[u8]) -> Option<(MessageId, Location, Option<Spill>, &[u8])> {
    let (id, mut rest) = value.split_first_chunk::<8>()?;
    let segment = take_varint_u32(&mut rest)?;
    let position = Position { segment, offset: take_varint(&mut rest)? };
    let location = Location { position, octets: take_varint(&mut rest)? };
    let file = take_varint(&mut rest)?.checked_sub(1);
    let spill = file.map(|file| {
        let length = Fields::nested(rest).find(codec::tag::SPILL).and_then(|value| value.first_chunk().copied());
        Spill { file, length: length.map_or(0, u64::from_le_bytes) }
    });
    Some((MessageId(u64::from_le_bytes(*id)), location, spill, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_after_a_gibibyte_whatever_the_size_of_segments() {
        for (size, segments) in [(256 << 10, 4096), (64 << 20, 16), (1 << 30, 1), (16 << 30, 1)] {
            assert_eq!(distance(size), segments, "{size}");
        }
    }
}
