//! A run: briefs sorted by their keys, which never change; in chunks by the first four bits of the keys.
//!
//! Runs are merged chunk by chunk, so that no more than a sixteenth of them is in memory twice.
//!
//! Keys are spread evenly, so a directory by their next bits leads to a place with about eight of them. Most keys that are asked for are in
//! no run: a filter says so of 98 in 100, from one word of memory. An entry takes 26 octets: 16 of key, 8 of brief, 1.5 of
//! filter, 0.5 of directory.

use std::sync::Arc;

use crate::clock::UnixTime;

use super::brief::Brief;
use super::entry::Reach;
use super::hash::Key;

/// Chunks of a run.
pub const CHUNKS: usize = 16;
/// About how many keys share a place of the directory.
const SHARE: usize = 8;
/// Keys for each 64 bits of the filter. With 4 bits of each set, about 2 in 100 other keys find theirs set, too.
const FILTERED: usize = 5;

/// Sorted briefs.
#[derive(Clone, Debug, Default)]
pub struct Run {
    chunks: [Arc<Chunk>; CHUNKS],
    /// The sorts of entries that are in it, by [`Reach::bit`].
    reaches: u8,
}

/// Those whose keys begin with the same four bits.
#[derive(Debug, Default)]
pub struct Chunk {
    keys: Vec<Key>,
    briefs: Vec<Brief>,
    /// Where the keys with these first bits begin; one more at the end.
    starts: Vec<u32>,
    /// What is left of a key when its chunk is known is shifted so far to the right to give its first bits.
    shift: u32,
    filter: Vec<u64>,
    reaches: u8,
    /// Those that are no removals.
    entries: usize,
}

fn chunk_of(key: Key) -> usize {
    usize::try_from(key >> 124).unwrap_or_default()
}

impl Run {
    /// A run of these, of which each key is there once, in any order.
    pub fn new(mut entries: Vec<(Key, Brief)>) -> Self {
        entries.sort_unstable_by_key(|(key, _)| *key);
        let mut run = Self::default();
        for part in entries.chunk_by(|(one, _), (other, _)| chunk_of(*one) == chunk_of(*other)) {
            let at = part.first().map_or(0, |(key, _)| chunk_of(*key));
            run.set_chunk(at, Arc::new(Chunk::of_sorted(part.iter().copied().unzip())));
        }
        run
    }

    /// A chunk.
    pub fn chunk(&self, at: usize) -> Arc<Chunk> {
        self.chunks.get(at).cloned().unwrap_or_default()
    }

    /// Puts another chunk in the place of one.
    pub fn set_chunk(&mut self, at: usize, chunk: Arc<Chunk>) {
        if let Some(place) = self.chunks.get_mut(at) {
            *place = chunk;
        }
        self.reaches = self.chunks.iter().fold(0, |bits, chunk| bits | chunk.reaches);
    }

    /// How many entries and removals.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.keys.len()).sum()
    }

    /// How many entries, without removals.
    pub fn entries(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.entries).sum()
    }

    /// Octets of memory that it takes.
    pub fn octets(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.octets()).sum()
    }

    /// Whether entries of this sort can be in it.
    pub fn has(&self, reach: Reach) -> bool {
        self.reaches & reach.bit() != 0
    }

    /// The sorts of entries that are in it.
    pub fn reaches(&self) -> u8 {
        self.reaches
    }

    /// What is there under a key.
    pub fn find(&self, key: Key) -> Option<Brief> {
        self.chunks.get(chunk_of(key))?.find(key)
    }

    /// All that is in it, by key.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Brief)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }
}

impl Chunk {
    fn of_sorted((mut keys, mut briefs): (Vec<Key>, Vec<Brief>)) -> Self {
        // Merging leaves room where entries were merged into one.
        keys.shrink_to_fit();
        briefs.shrink_to_fit();
        let bits = (keys.len() / SHARE).max(2).ilog2();
        let mut chunk = Self { keys, briefs, shift: Key::BITS - bits, ..Self::default() };
        let places = 1 << bits;
        chunk.starts.reserve_exact(places + 1);
        chunk.filter = vec![0; chunk.keys.len().div_ceil(FILTERED)];
        for (at, key) in chunk.keys.iter().enumerate() {
            let place = chunk.place(*key);
            while chunk.starts.len() <= place {
                chunk.starts.push(u32::try_from(at).unwrap_or(u32::MAX));
            }
            let (word, bits) = chunk.filtered(*key);
            if let Some(word) = chunk.filter.get_mut(word) {
                *word |= bits;
            }
        }
        chunk.starts.resize(places + 1, u32::try_from(chunk.keys.len()).unwrap_or(u32::MAX));
        chunk.reaches = chunk.briefs.iter().fold(0, |bits, brief| bits | brief.reach().bit());
        chunk.entries = chunk.briefs.iter().filter(|brief| brief.reason().is_some()).count();
        chunk
    }

    /// Where a key is in the directory.
    fn place(&self, key: Key) -> usize {
        usize::try_from(key << 4 >> self.shift).unwrap_or_default()
    }

    /// Which word of the filter is a key's, and its bits in it.
    fn filtered(&self, key: Key) -> (usize, u64) {
        let bits = |from: u32| u64::try_from(key >> from & 0xffff_ffff).unwrap_or_default();
        let word = (bits(32) * self.filter.len() as u64) >> 32;
        let set = |from: u32| 1 << (bits(from) & 63);
        (usize::try_from(word).unwrap_or_default(), set(0) | set(6) | set(12) | set(18))
    }

    fn find(&self, key: Key) -> Option<Brief> {
        let (word, bits) = self.filtered(key);
        if self.filter.get(word)? & bits != bits {
            return None;
        }
        let place = self.place(key);
        let (from, to) = (*self.starts.get(place)? as usize, *self.starts.get(place + 1)? as usize);
        let at = self.keys.get(from..to)?.iter().position(|found| *found == key)?;
        self.briefs.get(from + at).copied()
    }

    fn octets(&self) -> usize {
        let Self { keys, briefs, starts, filter, .. } = self;
        size_of_val(&**keys) + size_of_val(&**briefs) + size_of_val(&**starts) + size_of_val(&**filter)
    }

    fn iter(&self) -> impl Iterator<Item = (Key, Brief)> {
        self.keys.iter().copied().zip(self.briefs.iter().copied())
    }

    /// One chunk of two; of a key in both the brief of the newer one. With `now` there is nothing older below it: what does not
    /// stand at that time is left out.
    pub fn merge(older: &Self, newer: &Self, now: Option<UnixTime>) -> Self {
        let most = older.keys.len() + newer.keys.len();
        let (mut keys, mut briefs) = (Vec::with_capacity(most), Vec::with_capacity(most));
        let (mut old, mut new) = (older.iter().peekable(), newer.iter().peekable());
        loop {
            let next = match (old.peek(), new.peek()) {
                (Some((one, _)), Some((other, _))) if one < other => old.next(),
                (Some((one, _)), Some((other, _))) if one == other => {
                    old.next();
                    new.next()
                }
                (Some(_), None) => old.next(),
                _ => new.next(),
            };
            let Some((key, brief)) = next else { break };
            if now.is_none_or(|now| brief.stands(now).is_some()) {
                keys.push(key);
                briefs.push(brief);
            }
        }
        Self::of_sorted((keys, briefs))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use crate::state::suppression::entry::Reason;

    use super::*;

    fn brief(reason: Option<Reason>, minute: u32) -> Brief {
        Brief::new(reason, Reach::ALL[1], Some(UnixTime(minute * 60)))
    }

    /// Keys near one another, and at both ends.
    fn key() -> impl Strategy<Value = Key> {
        prop_oneof![
            0..40_u128,
            (0..40_u128).prop_map(|low| Key::MAX - low),
            (0..64_u32).prop_map(|bit| 1 << (bit + 64))
        ]
    }

    fn entries() -> impl Strategy<Value = BTreeMap<Key, Brief>> {
        let reason = prop_oneof![Just(None), Just(Some(Reason::Import)), Just(Some(Reason::Complaint))];
        let brief = (reason, 1..4_u32).prop_map(|(reason, minute)| brief(reason, minute));
        proptest::collection::btree_map(key(), brief, 0..200)
    }

    fn run(entries: &BTreeMap<Key, Brief>) -> Run {
        Run::new(entries.iter().rev().map(|(key, brief)| (*key, *brief)).collect())
    }

    proptest! {
        #[test]
        fn a_run_finds_what_is_in_it_and_nothing_else(entries in entries(), others in proptest::collection::vec(key(), 50)) {
            let run = run(&entries);

            for key in entries.keys().copied().chain(others) {
                prop_assert_eq!(run.find(key), entries.get(&key).copied());
            }
            prop_assert_eq!(run.has(Reach::ALL[1]), !entries.is_empty());
            prop_assert!(!run.has(Reach::ALL[2]));
        }

        #[test]
        fn merged_runs_hold_the_newer_of_each_key(older in entries(), newer in entries(), is_last in any::<bool>()) {
            let now = is_last.then_some(UnixTime(2 * 60));
            let mut expected = older.clone();
            expected.extend(&newer);
            expected.retain(|_, brief| now.is_none_or(|now| brief.stands(now).is_some()));

            let (older, newer) = (run(&older), run(&newer));
            let mut merged = Run::default();
            for at in 0..CHUNKS {
                merged.set_chunk(at, Arc::new(Chunk::merge(&older.chunk(at), &newer.chunk(at), now)));
            }

            prop_assert_eq!(merged.iter().collect::<BTreeMap<_, _>>(), expected.clone());
            for key in expected.keys() {
                prop_assert_eq!(merged.find(*key), expected.get(key).copied());
            }
        }
    }
}
