//! Room that is taken back: runs that are merged, and segments whose entries do not stand any more.
//!
//! Only the oldest segment is ever rewritten: what stands in it is appended anew, as it was, and then it goes. So a removal needs to be
//! kept no longer than its segment: whatever it removes is older.

use std::io;
use std::sync::atomic::Ordering;

use crate::clock::UnixTime;
use crate::log::Position;
use crate::log::record::unseal;

use super::brief::SLOTS;
use super::entry::{Change, reach};
use super::hash::Key;
use super::meters::Work;
use super::segments::Segments;
use super::{Brief, Shared, Suppression, Tuning};

/// What upkeep came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// A segment that went.
    pub has_compacted: bool,
    /// More is to be done at once.
    pub has_more: bool,
}

/// What is appended anew.
#[derive(Debug, Default)]
struct Moved {
    records: Vec<u8>,
    starts: Vec<usize>,
    /// In the order of `starts`.
    briefs: Vec<(Key, Brief)>,
}

fn wants_compaction(segments: &Segments, standing: u64, tuning: Tuning) -> bool {
    let (count, span) = segments.count();
    let needed = segments.octets() / tuning.segment;
    segments.records() > 2 * standing + tuning.slack || count as u64 > tuning.few + 2 * needed || span > SLOTS / 2
}

impl Suppression {
    /// Merges runs, and rewrites the oldest segment if half of the log's records or more do not stand. To be called every minute or
    /// so, and again while there is more. Blocks on the disk, and whoever makes changes as long as a segment takes; look-ups go on.
    pub fn upkeep(&self, now: UnixTime) -> io::Result<Upkeep> {
        let kept = self.try_upkeep(now);
        if let Some(meters) = self.shared.meters.get().filter(|_| kept.is_err()) {
            meters.failed(Work::Upkeep);
        }
        kept
    }

    fn try_upkeep(&self, now: UnixTime) -> io::Result<Upkeep> {
        let Shared { index, segments, exports, tuning, .. } = &*self.shared;
        index.tidy(now);
        let mut segments = segments.lock();
        let standing = index.snapshot().entries() as u64;
        if exports.load(Ordering::Acquire) > 0 || !wants_compaction(&segments, standing, *tuning) {
            return Ok(Upkeep::default());
        }
        let Some(oldest) = segments.oldest() else { return Ok(Upkeep::default()) };
        self.rewrite(&mut segments, oldest, now)?;
        segments.remove_oldest()?;
        let has_more = wants_compaction(&segments, standing, *tuning) && segments.oldest().is_some();
        Ok(Upkeep { has_compacted: true, has_more })
    }

    /// Appends what stands in a segment anew.
    fn rewrite(&self, segments: &mut Segments, sequence: u32, now: UnixTime) -> io::Result<()> {
        let Shared { keyed, index, .. } = &*self.shared;
        let reader = segments.reader(sequence)?;
        let mut standing = Vec::new();
        let mut over = Vec::new();
        reader.each(&mut |place, frame| {
            let Some(change @ Change::Add(_)) = Change::decode(frame) else { return };
            let (target, scope) = change.subject();
            let (key, reach) = (keyed.key(target, scope), reach(target, scope));
            if index.is_at(key, reach, place) {
                match change.brief().stands(now) {
                    Some(_) => standing.push((key, change.brief(), place.offset)),
                    // The index forgets it, too: its place will be another's.
                    None => over.push((key, Brief::new(None, reach, None))),
                }
            }
        })?;
        let mut moved = Moved::default();
        for (key, brief, offset) in standing {
            let Some(frame) = reader.frame(offset) else { continue };
            let start = moved.records.len();
            moved.records.extend_from_slice(frame.bytes());
            if let Some(record) = moved.records.get_mut(start..) {
                unseal(record, 0);
            }
            moved.records.resize(moved.records.len().next_multiple_of(8), 0);
            moved.starts.push(start);
            moved.briefs.push((key, brief));
            if moved.records.len() > segments.most_batch() / 2 {
                self.append(segments, std::mem::take(&mut moved))?;
            }
        }
        self.append(segments, moved)?;
        index.put(over);
        Ok(())
    }

    fn append(&self, segments: &mut Segments, moved: Moved) -> io::Result<()> {
        let Moved { mut records, starts, briefs } = moved;
        if starts.is_empty() {
            return Ok(());
        }
        let first = segments.append(&mut records, &starts)?;
        let place = |(start, (key, brief)): (&usize, (Key, Brief))| {
            (key, brief.at(Position { offset: first.offset + *start as u64, ..first }))
        };
        self.shared.index.put(starts.iter().zip(briefs).map(place).collect());
        Ok(())
    }
}
