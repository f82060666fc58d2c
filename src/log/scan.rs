//! Reads a segment back, whatever state it is in.
//!
//! Records are found by walking from one to the next. Where neither a batch header nor a record can be read, the search
//! goes on at every multiple of 8: the checksums bind a record to its segment and offset, so nothing else is taken for
//! one. Regions that held something unreadable are reported. One before the end of what was known to be synced is
//! *damage*; one after it is the *tail*, where an unfinished write is expected. Which of the two it is may be known only
//! from the batch headers of the next segment, so [`Scan`] reports what it saw of both.
//!
//! Contents after the last known sync are checked here, because a record whose content was torn was never acknowledged.
//! Contents before it are checked when they are used.

use std::ops::Range;

use super::Position;
use super::record::{Frame, Seal};
use super::segment::{BATCH, Batch, FIRST, Header};
use super::wire::aligned;

/// A record in a segment.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Where it is.
    pub offset: u64,
    /// Its header and fields.
    pub frame: Frame<'a>,
    /// Its content, unchecked if it lies before the last known sync.
    pub content: &'a [u8],
}

/// What a scan saw beside the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// End of the last record or batch header.
    pub end: u64,
    /// The highest position that this segment's batch headers name as synced, of each segment they name.
    pub synced: Vec<Position>,
    /// Regions that could not be read and are not merely unused.
    pub unreadable: Vec<Range<u64>>,
    /// Batch headers read.
    pub batches: u64,
    /// Records read.
    pub records: u64,
}

impl Scan {
    fn note_synced(&mut self, position: Position) {
        match self.synced.iter_mut().find(|known| known.segment == position.segment) {
            Some(known) => known.offset = known.offset.max(position.offset),
            None => self.synced.push(position),
        }
    }
}

enum Item<'a> {
    Batch(Batch),
    Record(Found<'a>),
}

impl Item<'_> {
    fn end(&self) -> u64 {
        match self {
            Self::Batch(batch) => batch.offset + BATCH as u64,
            Self::Record(found) => found.offset + found.frame.lengths.total(),
        }
    }
}

/// The items of a segment and the gaps between them.
struct Walk<'a> {
    bytes: &'a [u8],
    seal: Seal,
    offset: u64,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], header: &Header) -> Self {
        Self { bytes, seal: header.seal(), offset: FIRST }
    }

    fn item_at(&self, offset: u64) -> Option<Item<'a>> {
        let at = usize::try_from(offset).ok()?;
        let bytes = self.bytes.get(at..)?;
        if let Some(batch) = Batch::read(bytes, self.seal, offset) {
            return Some(Item::Batch(batch));
        }
        let frame = Frame::read(bytes, self.seal, offset)?;
        let (meta, content) = (frame.lengths.meta as usize, frame.lengths.content as usize);
        let content = bytes.get(meta..meta + content)?;
        Some(Item::Record(Found { offset, frame, content }))
    }

    /// The next item with the gap before it; at the end only a gap.
    fn step(&mut self) -> (Range<u64>, Option<Item<'a>>) {
        let start = self.offset;
        let length = self.bytes.len() as u64;
        let mut offset = start;
        while offset < length {
            if let Some(item) = self.item_at(offset) {
                self.offset = item.end().max(offset + 8);
                return (start..offset, Some(item));
            }
            offset += 8;
        }
        self.offset = length;
        (start..length.max(start), None)
    }

    /// The part of a gap up to its last octet that is not zero.
    fn written(&self, gap: Range<u64>) -> Range<u64> {
        let range = usize::try_from(gap.start).unwrap_or(usize::MAX)..usize::try_from(gap.end).unwrap_or(usize::MAX);
        let bytes = self.bytes.get(range).unwrap_or_default();
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1);
        gap.start..gap.end.min(gap.start + aligned(used))
    }
}

/// Walks the whole of a segment. `bytes` is the file, `floor` an offset known from elsewhere to be synced; `each` gets
/// the records in order.
pub fn segment(bytes: &[u8], header: &Header, floor: u64, each: &mut dyn FnMut(&Found<'_>)) -> Scan {
    let known = floor.max(known_synced(bytes, header));
    let seal = header.seal();
    let mut scan = Scan { end: FIRST, ..Scan::default() };
    let mut walk = Walk::new(bytes, header);
    loop {
        let (gap, item) = walk.step();
        let is_last = item.is_none();
        let gap = if is_last { gap.start..walk.written(gap.clone()).end.max(known.min(gap.end)) } else { gap };
        if gap.start < gap.end && (gap.start < known || !walk.written(gap.clone()).is_empty()) {
            scan.unreadable.push(gap);
        }
        match item {
            None => return scan,
            Some(Item::Batch(batch)) => {
                scan.batches += 1;
                scan.note_synced(batch.synced);
                scan.end = batch.offset + BATCH as u64;
            }
            Some(Item::Record(found)) => {
                let end = found.offset + found.frame.lengths.total();
                scan.end = end;
                if found.offset >= known && !found.frame.is_content(found.content, seal, found.offset) {
                    scan.unreadable.push(found.offset..end);
                } else {
                    scan.records += 1;
                    each(&found);
                }
            }
        }
    }
}

/// The highest positions that this segment's batch headers name as synced.
pub fn synced(bytes: &[u8], header: &Header) -> Vec<Position> {
    let mut walk = Walk::new(bytes, header);
    let mut scan = Scan::default();
    while let (_, Some(item)) = walk.step() {
        if let Item::Batch(batch) = item {
            scan.note_synced(batch.synced);
        }
    }
    scan.synced
}

/// The highest offset in this segment that its own batch headers name as synced.
fn known_synced(bytes: &[u8], header: &Header) -> u64 {
    let own = synced(bytes, header).into_iter().find(|position| position.segment == header.sequence);
    own.map_or(FIRST, |position| position.offset).min(bytes.len() as u64)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::single_range_in_vec_init)]
mod tests {
    use super::super::record::{Builder, seal};
    use super::*;

    const HEADER: Header = Header { sequence: 1, salt: 99, size: 1 << 16, start: 1, binding: None };

    /// Builds a segment from batches of contents; batch n names the end of batch n-1 as synced.
    fn sample(batches: &[&[&[u8]]]) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = vec![0; FIRST as usize];
        let mut ends = Vec::new();
        let mut synced = Position { segment: 1, offset: FIRST };
        for (number, contents) in batches.iter().enumerate() {
            let offset = bytes.len() as u64;
            bytes.extend_from_slice(&[0; BATCH]);
            for content in *contents {
                let at = bytes.len();
                let mut builder = Builder::new(&mut bytes, 1);
                builder.field(1, b"id");
                builder.finish_with(u32::try_from(content.len()).unwrap(), crc32c::crc32c(content));
                seal(&mut bytes[at..], HEADER.seal(), at as u64);
                bytes.extend_from_slice(content);
                bytes.resize(bytes.len().next_multiple_of(8), 0);
            }
            let length = bytes.len() as u64 - offset - BATCH as u64;
            let batch = Batch { number: number as u64, length, offset, synced };
            let at = offset as usize;
            bytes[at..at + BATCH].copy_from_slice(&batch.encode(HEADER.seal()));
            synced.offset = bytes.len() as u64;
            ends.push(synced.offset);
        }
        bytes.resize(1 << 16, 0);
        (bytes, ends)
    }

    fn contents(bytes: &[u8]) -> (Vec<Vec<u8>>, Scan) {
        let mut seen = Vec::new();
        let scan = segment(bytes, &HEADER, 0, &mut |found| seen.push(found.content.to_vec()));
        (seen, scan)
    }

    #[test]
    fn all_records_of_a_sound_segment_are_seen() {
        let (bytes, ends) = sample(&[&[b"a", b"bb"], &[], &[b"ccc"]]);

        let (seen, scan) = contents(&bytes);

        assert_eq!(seen, [b"a".to_vec(), b"bb".to_vec(), b"ccc".to_vec()]);
        assert_eq!((scan.end, scan.batches, scan.records), (ends[2], 3, 3));
        assert!(scan.unreadable.is_empty());
    }

    #[test]
    fn zeros_over_a_synced_record_are_damage_and_the_others_survive() {
        let (mut bytes, ends) = sample(&[&[&[7; 100]], &[&[8; 100]], &[&[9; 100]]]);
        bytes[ends[0] as usize..ends[1] as usize].fill(0);

        let (seen, scan) = contents(&bytes);

        assert_eq!(seen, [vec![7; 100], vec![9; 100]]);
        assert_eq!(scan.unreadable, [ends[0]..ends[1]]);
    }

    #[test]
    fn a_torn_content_after_the_last_sync_is_unreadable() {
        let (mut bytes, ends) = sample(&[&[&[7; 100]], &[&[8; 100]]]);
        bytes[ends[1] as usize - 20] = 0;

        let (seen, scan) = contents(&bytes);

        assert_eq!(seen, [vec![7; 100]]);
        assert_eq!(scan.unreadable, [ends[0] + BATCH as u64..ends[1]]);
    }

    #[test]
    fn a_record_inside_a_content_is_not_taken_for_one() {
        let (inner, ends) = sample(&[&[b"inner"]]);
        let embedded = &inner[FIRST as usize..ends[0] as usize];
        let (mut bytes, _) = sample(&[&[embedded]]);
        bytes[FIRST as usize..FIRST as usize + BATCH + 8].fill(0xff);

        let (seen, _) = contents(&bytes);

        assert!(seen.is_empty());
    }
}
