//! The index in memory: a few sorted runs, and what came lately.
//!
//! Readers take a snapshot without a lock, and look into what came lately under one that is held for the insertion of at most
//! [`MOST_LATE`] briefs. One writer at a time puts changes in; merging replaces runs by one that holds the same, beside readers
//! and the writer.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};

use crate::clock::UnixTime;
use crate::log::Position;

use super::brief::{Brief, SLOTS};
use super::entry::Reach;
use super::hash::Key;
use super::run::{CHUNKS, Chunk, Run};

/// So many changes at once go through [`Late`]; more become a run.
const MOST_LATE: usize = 256;
/// [`Late`] becomes a run when it has so many: about 0.5 MiB.
const FULL: usize = 8_192;
/// A run is at least so many times as large as all newer ones together, once they are tidy: with 16,384 in the newest and a
/// million in all there are three.
const RATIO: usize = 8;
/// With so many runs a writer merges them itself.
pub const MOST_RUNS: usize = 16;

/// What came lately. Written by the writer, read by everybody; a new one takes its place when it has become a run.
#[derive(Debug)]
struct Late {
    briefs: RwLock<HashMap<Key, Brief, RandomState>>,
    /// The sorts of entries that are in it; set before they are.
    reaches: AtomicU8,
}

impl Default for Late {
    fn default() -> Self {
        // Whole from the beginning: readers would wait while it grows.
        let briefs = HashMap::with_capacity_and_hasher(FULL + MOST_LATE, RandomState::default());
        Self { briefs: RwLock::new(briefs), reaches: AtomicU8::new(0) }
    }
}

/// Of changes in the order of the log, those that are the last of their keys.
pub fn latest(mut changes: Vec<(Key, Brief)>) -> Vec<(Key, Brief)> {
    // By their places, since a sort that keeps an order takes the memory once more. What is kept of a segment's number goes round, but
    // fewer are there than it tells apart.
    let first = changes.first().map_or(0, |(_, brief)| brief.slot());
    let place = |brief: &Brief| ((brief.slot() + SLOTS - first) % SLOTS, brief.offset());
    changes.sort_unstable_by_key(|(key, brief)| (*key, place(brief)));
    changes.dedup_by(|next, kept| {
        let is_same = next.0 == kept.0;
        if is_same {
            *kept = *next;
        }
        is_same
    });
    changes
}

/// The index at one time, save for what comes to `late`.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    late: Arc<Late>,
    /// The oldest first.
    runs: Vec<Arc<Run>>,
}

impl Snapshot {
    /// What the index has under a key: an entry of this sort, or its removal.
    pub fn find(&self, key: Key, reach: Reach) -> Option<Brief> {
        let late = self.late.reaches.load(Ordering::Acquire) & reach.bit() != 0;
        let found = if late { self.late.briefs.read().get(&key).copied() } else { None };
        found.or_else(|| self.runs.iter().rev().filter(|run| run.has(reach)).find_map(|run| run.find(key)))
    }

    /// The sorts of entries that are in it, by [`Reach::bit`].
    pub fn reaches(&self) -> u8 {
        let late = self.late.reaches.load(Ordering::Acquire);
        self.runs.iter().fold(late, |bits, run| bits | run.reaches())
    }

    /// Entries; those that are in more than one run count as often, and those whose time is over count until runs are merged.
    pub fn entries(&self) -> usize {
        let late = self.late.briefs.read().values().filter(|brief| brief.reason().is_some()).count();
        late + self.runs.iter().map(|run| run.entries()).sum::<usize>()
    }

    /// Octets of memory that it takes.
    pub fn octets(&self) -> usize {
        let late = self.late.briefs.read().capacity() * size_of::<(Key, Brief)>();
        late + self.runs.iter().map(|run| run.octets()).sum::<usize>()
    }

    /// How many runs.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Everything that is the newest of its key, in no order.
    pub fn each(&self, each: &mut dyn FnMut(Brief)) {
        let late: Vec<_> = self.late.briefs.read().iter().map(|(key, brief)| (*key, *brief)).collect();
        late.iter().for_each(|(_, brief)| each(*brief));
        let late: HashMap<Key, Brief, RandomState> = late.into_iter().collect();
        for (at, run) in self.runs.iter().enumerate() {
            let newer = self.runs.get(at + 1..).unwrap_or_default();
            for (key, brief) in run.iter() {
                if !late.contains_key(&key) && newer.iter().all(|run| run.find(key).is_none()) {
                    each(brief);
                }
            }
        }
    }
}

/// The index.
#[derive(Debug, Default)]
pub struct Index {
    snapshot: ArcSwap<Snapshot>,
    /// Held while another snapshot takes the place of the current one.
    shape: Mutex<()>,
    /// Held while runs are merged.
    merging: Mutex<()>,
}

impl Index {
    /// The index as it is.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    fn reshape(&self, change: impl FnOnce(&mut Snapshot)) {
        let _shape = self.shape.lock();
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        change(&mut snapshot);
        self.snapshot.store(Arc::new(snapshot));
    }

    /// Puts changes in, each key once. For one writer at a time.
    pub fn put(&self, changes: Vec<(Key, Brief)>) {
        if changes.len() > MOST_LATE {
            self.freeze(1);
            return self.reshape(|snapshot| snapshot.runs.push(Arc::new(Run::new(changes))));
        }
        let snapshot = self.snapshot.load_full();
        let reaches = changes.iter().fold(0, |bits, (_, brief)| bits | brief.reach().bit());
        snapshot.late.reaches.fetch_or(reaches, Ordering::AcqRel);
        snapshot.late.briefs.write().extend(changes);
        drop(snapshot);
        self.freeze(FULL);
    }

    /// Makes a run of what came lately, if that is at least so much.
    fn freeze(&self, least: usize) {
        let snapshot = self.snapshot.load_full();
        let late = snapshot.late.briefs.read();
        if late.len() >= least {
            let run = Run::new(late.iter().map(|(key, brief)| (*key, *brief)).collect());
            self.reshape(|snapshot| {
                snapshot.late = Arc::default();
                snapshot.runs.push(Arc::new(run));
            });
        }
    }

    /// Whether what the index has under a key is at this place of the log.
    pub fn is_at(&self, key: Key, reach: Reach, place: Position) -> bool {
        self.snapshot().find(key, reach).is_some_and(|brief| brief.is_at(place))
    }

    /// Merges runs until each is [`RATIO`] times as large as all that are newer, and leaves out of the oldest what does not stand.
    /// Beside readers and the writer. False: somebody else is at it.
    pub fn tidy(&self, now: UnixTime) -> bool {
        let Some(_merging) = self.merging.try_lock() else { return false };
        // Runs come to the end meanwhile; none goes or changes but here.
        let (first, count) = {
            let snapshot = self.snapshot.load();
            let mut newer: usize = snapshot.runs.iter().map(|run| run.len()).sum();
            let first = snapshot.runs.iter().position(|run| {
                newer -= run.len();
                run.len() < newer.saturating_mul(RATIO)
            });
            (first, snapshot.runs.len())
        };
        let Some(first) = first else { return true };
        for at in 0..CHUNKS {
            self.merge_chunk(at, first..count, now);
        }
        // All is in the first of them now.
        self.reshape(|snapshot| drop(snapshot.runs.drain(first + 1..count)));
        true
    }

    /// Puts one chunk of some runs together in the first of them.
    fn merge_chunk(&self, at: usize, runs: Range<usize>, now: UnixTime) {
        let chunks: Vec<_> = {
            let snapshot = self.snapshot.load();
            snapshot.runs.get(runs.clone()).unwrap_or_default().iter().map(|run| run.chunk(at)).collect()
        };
        let Some((newest, others)) = chunks.split_last() else { return };
        let mut merged = newest.clone();
        for (place, older) in others.iter().enumerate().rev() {
            let is_oldest = runs.start + place == 0;
            merged = Arc::new(Chunk::merge(older, &merged, is_oldest.then_some(now)));
        }
        self.reshape(|snapshot| {
            for (place, run) in snapshot.runs.get_mut(runs).unwrap_or_default().iter_mut().enumerate() {
                let chunk = if place == 0 { merged.clone() } else { Arc::default() };
                Arc::make_mut(run).set_chunk(at, chunk);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::state::suppression::entry::Reason;

    use super::*;

    const REACH: Reach = Reach::ALL[0];

    fn briefs(range: std::ops::Range<u32>, reason: Option<Reason>) -> Vec<(Key, Brief)> {
        // Spread as hashes are.
        let key = |number: u32| Key::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        range.map(|number| (key(number), Brief::new(reason, REACH, None))).collect()
    }

    #[test]
    fn of_changes_of_one_key_the_last_in_the_log_is_kept_though_numbers_of_segments_go_round() {
        let at = |segment, offset, reason| Brief::new(reason, REACH, None).at(Position { segment, offset });
        let (import, complaint) = (Some(Reason::Import), Some(Reason::Complaint));
        let changes = vec![
            (7, at(SLOTS - 1, 4_144, import)),
            (5, at(SLOTS - 1, 8_192, import)),
            (7, at(SLOTS, 4_144, None)),
            (7, at(SLOTS, 4_200, complaint)),
            (5, at(SLOTS + 1, 4_144, None)),
        ];

        let kept = latest(changes);

        assert_eq!(kept, [(5, at(SLOTS + 1, 4_144, None)), (7, at(SLOTS, 4_200, complaint))]);
    }

    #[test]
    fn what_was_put_last_is_found_before_and_after_merging() {
        let index = Index::default();
        index.put(briefs(0..20_000, Some(Reason::Import)));
        index.put(briefs(5_000..7_000, Some(Reason::Complaint)));
        index.put(briefs(6_000..6_500, None));
        let reason = |number| {
            let found = index.snapshot().find(briefs(number..number + 1, None)[0].0, REACH);
            found.map(Brief::reason)
        };
        let before = [4_999, 5_000, 6_000, 6_500, 20_000].map(reason);

        index.put(briefs(30_000..32_000, Some(Reason::Operator)));
        assert!(index.tidy(UnixTime(0)));

        assert_eq!(
            before,
            [
                Some(Some(Reason::Import)),
                Some(Some(Reason::Complaint)),
                Some(None),
                Some(Some(Reason::Complaint)),
                None
            ]
        );
        assert_eq!([4_999, 5_000, 6_500].map(reason), [before[0], before[1], before[3]]);
        // Nothing older is below it, so nothing is kept of the removal.
        assert_eq!(reason(6_000), None);
        assert_eq!((index.snapshot().runs(), index.snapshot().entries()), (1, 21_500));
    }

    #[test]
    fn readers_find_what_stands_while_runs_come_and_are_merged() {
        let index = Index::default();
        index.put(briefs(0..2_000, Some(Reason::Operator)));
        let is_over = std::sync::atomic::AtomicBool::new(false);

        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut rounds = 0;
                        while !is_over.load(Ordering::Relaxed) || rounds == 0 {
                            for (key, _) in briefs(0..2_000, None) {
                                let found = index.snapshot().find(key, REACH);
                                assert_eq!(found.and_then(Brief::reason), Some(Reason::Operator));
                            }
                            rounds += 1;
                        }
                    })
                })
                .collect();
            for round in 1..60 {
                index.put(briefs(round * 2_000..round * 2_000 + 2_000, Some(Reason::Import)));
                index.put(briefs(round * 7..round * 7 + 100, Some(Reason::Operator)));
                index.tidy(UnixTime(0));
            }
            is_over.store(true, Ordering::Relaxed);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });

        let mut standing = 0;
        index.snapshot().each(&mut |_| standing += 1);
        assert_eq!(standing, 120_000);
        assert!(index.snapshot().runs() <= 3);
    }
}
