//! Entries in order of time: a chunked first-in-first-out list, and a heap for those that come out of order.
//!
//! Chunks keep memory close to the entries' own size for a million of them (a vector that doubles would need up to
//! three times that while it grows) and give it back as they are served.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use crate::clock::UnixTime;

use super::entry::{Entry, Marks};

/// Entries of a chunk: 1.5 KiB, so that a short line wastes little.
const CHUNK: usize = 32;

/// A first-in-first-out list.
#[derive(Debug)]
pub(super) struct Fifo<T> {
    /// Each but the last is full when it is appended to; none is empty.
    chunks: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Self { chunks: VecDeque::new(), len: 0 }
    }
}

impl<T> Fifo<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends.
    pub fn push_back(&mut self, item: T) {
        self.len += 1;
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push_back(item),
            last => {
                let is_long = last.is_some();
                let mut chunk = VecDeque::with_capacity(if is_long { CHUNK } else { 4 });
                chunk.push_back(item);
                self.chunks.push_back(chunk);
            }
        }
    }

    /// Puts before all others.
    pub fn push_front(&mut self, item: T) {
        self.len += 1;
        match self.chunks.front_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push_front(item),
            _ => self.chunks.push_front(VecDeque::from([item])),
        }
    }

    /// The first.
    pub fn front(&self) -> Option<&T> {
        self.chunks.front().and_then(VecDeque::front)
    }

    /// The last.
    pub fn back(&self) -> Option<&T> {
        self.chunks.back().and_then(VecDeque::back)
    }

    /// Takes the first.
    pub fn pop_front(&mut self) -> Option<T> {
        let is_last = self.chunks.len() == 1;
        let chunk = self.chunks.front_mut()?;
        let item = chunk.pop_front();
        // A short line that empties keeps its chunk, one that was long gives the last one back too.
        if chunk.is_empty() && (!is_last || chunk.capacity() >= CHUNK) {
            self.chunks.pop_front();
        }
        self.len -= usize::from(item.is_some());
        item
    }

    /// Takes the first of the foremost ones that is wanted; `within` is how many are looked at, about.
    pub fn take_first(&mut self, within: usize, is_wanted: impl Fn(&T) -> bool) -> Option<T> {
        let most = within.div_ceil(CHUNK);
        let find = |(at, chunk): (usize, &VecDeque<T>)| Some((at, chunk.iter().position(&is_wanted)?));
        let (at, place) = self.chunks.iter().take(most).enumerate().find_map(find)?;
        let chunk = self.chunks.get_mut(at)?;
        let item = chunk.remove(place);
        if chunk.is_empty() {
            self.chunks.remove(at);
        }
        self.len -= usize::from(item.is_some());
        item
    }

    /// How many satisfy `is_before`; those that do precede those that do not.
    pub fn partition_point(&self, is_before: impl Fn(&T) -> bool) -> usize {
        // Only the lengths of the chunks before are read: a million entries must not be walked under a lock.
        let whole = self.chunks.partition_point(|chunk| chunk.back().is_some_and(&is_before));
        let before: usize = self.chunks.iter().take(whole).map(VecDeque::len).sum();
        before + self.chunks.get(whole).map_or(0, |chunk| chunk.partition_point(&is_before))
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }

    /// Those behind the first `skip`, in order; chunks that are skipped are not walked.
    pub fn iter_from(&self, skip: usize) -> impl Iterator<Item = &T> {
        let mut left = skip;
        let skipped = self.chunks.iter().take_while(|chunk| {
            let is_skipped = left >= chunk.len();
            left -= if is_skipped { chunk.len() } else { 0 };
            is_skipped
        });
        let whole = skipped.count();
        self.chunks.iter().skip(whole).flatten().skip(left)
    }

    /// Takes out those that `is_wanted` does not want.
    pub fn extract(&mut self, is_wanted: impl Fn(&T) -> bool, out: &mut Vec<T>) {
        if self.iter().all(&is_wanted) {
            return;
        }
        for item in std::mem::take(self).chunks.into_iter().flatten() {
            if is_wanted(&item) { self.push_back(item) } else { out.push(item) }
        }
    }
}

/// Entries of one flow that wait for a connection, the oldest due first.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// In order of `due`.
    fifo: Fifo<Entry>,
    /// Those that came out of order, and those in doubt.
    strays: BinaryHeap<Reverse<Stray>>,
}

#[derive(Debug)]
struct Stray(Entry);

impl Stray {
    /// In-doubt entries come first: every hour makes it harder for people to tell a duplicate.
    fn rank(&self) -> (bool, UnixTime, u64, u32) {
        let Entry { marks, due, id, recipient, .. } = &self.0;
        (!marks.has(Marks::IN_DOUBT), *due, id.0, *recipient)
    }
}

impl PartialEq for Stray {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Stray {}

impl PartialOrd for Stray {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Stray {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl Line {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.fifo.len() + self.strays.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds one at its place.
    pub fn push(&mut self, entry: Entry) {
        if entry.marks.has(Marks::IN_DOUBT) {
            self.strays.push(Reverse(Stray(entry)));
        } else if self.fifo.back().is_none_or(|last| last.due <= entry.due) {
            self.fifo.push_back(entry);
        } else if self.fifo.front().is_some_and(|first| entry.due < first.due) {
            self.fifo.push_front(entry);
        } else {
            self.strays.push(Reverse(Stray(entry)));
        }
    }

    fn is_stray_next(&self) -> bool {
        match (self.strays.peek(), self.fifo.front()) {
            (Some(Reverse(stray)), Some(first)) => stray.0.marks.has(Marks::IN_DOUBT) || stray.0.due < first.due,
            (stray, _) => stray.is_some(),
        }
    }

    /// The oldest due.
    pub fn front(&self) -> Option<&Entry> {
        if self.is_stray_next() { self.strays.peek().map(|Reverse(stray)| &stray.0) } else { self.fifo.front() }
    }

    /// Takes the oldest due.
    pub fn pop(&mut self) -> Option<Entry> {
        if self.is_stray_next() { self.strays.pop().map(|Reverse(stray)| stray.0) } else { self.fifo.pop_front() }
    }

    /// Takes the first of the foremost ones in order that is wanted.
    pub fn take_first(&mut self, within: usize, is_wanted: impl Fn(&Entry) -> bool) -> Option<Entry> {
        self.fifo.take_first(within, is_wanted)
    }

    /// How many were due before `time`.
    pub fn due_before(&self, time: UnixTime) -> usize {
        let strays = self.strays.iter().filter(|Reverse(stray)| stray.0.due < time).count();
        strays + self.fifo.partition_point(|entry| entry.due < time)
    }

    /// All; the order is that of neither list.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.strays.iter().map(|Reverse(stray)| &stray.0).chain(self.fifo.iter())
    }

    /// Takes out those that `is_wanted` does not want.
    pub fn extract(&mut self, is_wanted: impl Fn(&Entry) -> bool, out: &mut Vec<Entry>) {
        self.fifo.extract(&is_wanted, out);
        if self.strays.iter().any(|Reverse(stray)| !is_wanted(&stray.0)) {
            for Reverse(Stray(entry)) in std::mem::take(&mut self.strays) {
                if is_wanted(&entry) { self.strays.push(Reverse(Stray(entry))) } else { out.push(entry) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_comes_out_in_order_and_gives_its_memory_back() {
        let mut fifo = Fifo::default();
        (0..1_000).for_each(|n| fifo.push_back(n));
        fifo.push_front(-1);

        let out: Vec<i32> = std::iter::from_fn(|| fifo.pop_front()).collect();

        assert_eq!(out, (-1..1_000).collect::<Vec<_>>());
        assert_eq!(fifo.len(), 0);
        assert!(fifo.chunks.iter().map(VecDeque::capacity).sum::<usize>() < CHUNK);
    }

    #[test]
    fn a_list_can_be_read_on_from_any_place_and_counted_up_to_any() {
        let mut fifo = Fifo::default();
        (0..200).for_each(|n| fifo.push_back(n));
        (0..5).for_each(|n| assert_eq!(fifo.pop_front(), Some(n)));
        fifo.push_front(4);

        for skip in 0..=200 {
            let rest: Vec<i32> = fifo.iter_from(skip).copied().collect();
            assert_eq!(rest, fifo.iter().copied().skip(skip).collect::<Vec<_>>(), "{skip}");
        }
        for time in 0..=201 {
            let expected = fifo.iter().filter(|n| **n < time).count();
            assert_eq!(fifo.partition_point(|n| *n < time), expected, "{time}");
        }
    }

    #[test]
    fn one_is_taken_out_of_the_foremost_and_the_others_stay_in_order() {
        let mut fifo = Fifo::default();
        (0..200).for_each(|n| fifo.push_back(n));

        assert_eq!(fifo.take_first(64, |n| n % 50 == 49), Some(49));
        assert_eq!(fifo.take_first(64, |n| *n == 150), None, "too far behind");
        (0..32).for_each(|n| assert_eq!(fifo.take_first(32, |_| true), Some(n)));

        assert_eq!(fifo.len(), 167);
        assert_eq!(fifo.iter().copied().collect::<Vec<_>>(), (32..200).filter(|n| *n != 49).collect::<Vec<_>>());
        assert_eq!(fifo.partition_point(|n| *n < 60), 27);
        assert_eq!(fifo.iter_from(20).next(), Some(&53));
    }

    #[test]
    fn extraction_keeps_the_order_of_the_rest() {
        let mut fifo = Fifo::default();
        (0..300).for_each(|n| fifo.push_back(n));
        let mut odd = Vec::new();

        fifo.extract(|n| n % 2 == 0, &mut odd);

        assert_eq!(odd.len(), 150);
        assert_eq!(fifo.len(), 150);
        assert_eq!(fifo.iter().copied().collect::<Vec<_>>(), (0..300).step_by(2).collect::<Vec<_>>());
    }
}
