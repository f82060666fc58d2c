//! Reading the list as a whole: its entries in the order in which they came into the log or the other way round, and how many
//! there are.
//!
//! One that was rewritten when room was taken back comes later than it was added.

use std::io;
use std::sync::atomic::Ordering;

use crate::clock::UnixTime;
use crate::log::Position;

use super::entry::{Change, Entry, Reach, Reason, reach};
use super::segments::Reader;
use super::{Shared, Suppression};

/// How many entries stand, by reason and sort.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    counts: [[u64; 6]; 6],
    /// Octets of the log.
    pub octets: u64,
    /// Records of the log: entries, those that do not stand any more, and removals.
    pub records: u64,
    /// Files of the log.
    pub segments: u64,
    /// Octets of memory that the index takes.
    pub memory: u64,
    /// When something changed last; of changes before the start, when the last entry was added. `None`: there was none.
    pub changed: Option<UnixTime>,
}

impl Stats {
    /// Those that are not 0.
    pub fn counts(&self) -> impl Iterator<Item = (Reason, Reach, u64)> {
        let rows = Reason::ALL.into_iter().zip(&self.counts);
        let cells = rows.flat_map(|(reason, row)| {
            Reach::ALL.into_iter().zip(row).map(move |(reach, count)| (reason, reach, *count))
        });
        cells.filter(|(_, _, count)| *count > 0)
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    fn count(&mut self, reason: Reason, reach: Reach) {
        let row = Reason::ALL.iter().position(|other| *other == reason).and_then(|row| self.counts.get_mut(row));
        let column = Reach::ALL.iter().position(|other| *other == reach);
        if let Some(cell) = row.zip(column).and_then(|(row, column)| row.get_mut(column)) {
            *cell += 1;
        }
    }
}

/// The entries that stand. The log's segments stay while it lives.
#[derive(Debug)]
pub struct Entries {
    list: Suppression,
    now: UnixTime,
    /// The segment that is being read, and the places of those of its entries that stood when it was begun, the next one last.
    current: Option<(Reader, Vec<u64>)>,
    /// The newest first.
    is_reversed: bool,
    /// The number of the next segment is this one or behind it; `None`: there is none.
    next: Option<u32>,
    /// Where the log ended when it was begun: what comes later may be an entry that has been given already.
    end: Position,
}

impl Drop for Entries {
    fn drop(&mut self) {
        self.list.shared.exports.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Suppression {
    /// The entries that stand at this time, in the order in which they came. What goes meanwhile is in it or not, what comes
    /// is not; all else is in it once. An item blocks on the disk, and holds one segment, 8 MiB, in memory.
    pub fn entries(&self, now: UnixTime) -> Entries {
        self.entries_in(now, false)
    }

    /// The same, the newest first.
    pub fn latest(&self, now: UnixTime) -> Entries {
        self.entries_in(now, true)
    }

    fn entries_in(&self, now: UnixTime, is_reversed: bool) -> Entries {
        // Locked, so that no segment is just being rewritten.
        let segments = self.shared.segments.lock();
        self.shared.exports.fetch_add(1, Ordering::AcqRel);
        let end = segments.end();
        let next = Some(if is_reversed { end.segment } else { 0 });
        Entries { list: self.clone(), now, current: None, is_reversed, next, end }
    }

    /// Counts the entries that stand at this time, from memory: about 0.1 s a million.
    pub fn stats(&self, now: UnixTime) -> Stats {
        let changed = self.shared.changed.load(Ordering::Relaxed);
        let mut stats = Stats { changed: (changed > 0).then_some(UnixTime(changed)), ..Stats::default() };
        let snapshot = self.shared.index.snapshot();
        stats.memory = snapshot.octets() as u64;
        snapshot.each(&mut |brief| {
            if let Some(reason) = brief.stands(now) {
                stats.count(reason, brief.reach());
            }
        });
        let segments = self.shared.segments.lock();
        (stats.octets, stats.records) = (segments.octets(), segments.records());
        stats.segments = segments.count().0 as u64;
        stats
    }
}

impl Entries {
    /// Begins the next segment; false: there is none.
    fn turn(&mut self) -> io::Result<bool> {
        let Shared { keyed, index, segments, .. } = &*self.list.shared;
        let reader = {
            let segments = segments.lock();
            let Some(from) = self.next else { return Ok(false) };
            let next = if self.is_reversed { segments.up_to(from) } else { segments.from(from) };
            let Some(sequence) = next.filter(|sequence| *sequence <= self.end.segment) else { return Ok(false) };
            // Whatever comes of it, an error is told once.
            self.next = if self.is_reversed { sequence.checked_sub(1) } else { sequence.checked_add(1) };
            segments.reader(sequence)?
        };
        let mut places = Vec::new();
        let read = reader.each(&mut |place, frame| {
            if place < self.end
                && let Some(Change::Add(Entry { target, scope, .. })) = Change::decode(frame)
                && index.is_at(keyed.key(&target, &scope), reach(&target, &scope), place)
            {
                places.push(place.offset);
            }
        });
        if !self.is_reversed {
            places.reverse();
        }
        self.current = Some((reader, places));
        read.map(|()| true)
    }

    fn entry(&mut self) -> Option<Entry> {
        let (reader, places) = self.current.as_mut()?;
        while let Some(offset) = places.pop() {
            let place = Position { segment: reader.sequence(), offset };
            if let Some(Change::Add(entry)) = reader.frame(place.offset).as_ref().and_then(Change::decode)
                && entry.brief().stands(self.now).is_some()
            {
                return Some(entry);
            }
        }
        None
    }
}

impl Iterator for Entries {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entry() {
                return Some(Ok(entry));
            }
            self.current = None;
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
