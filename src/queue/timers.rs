//! Timers: entries that wait for their time, in buckets of one second, and alarms of sites.
//!
//! Split into shards; one task a shard sleeps until the next event (`upkeep::tick`).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, UnixTime};
use crate::pulse::Pulse;

use super::entry::Entry;
use super::line::Fifo;
use super::passage::{Passage, Passages};
use super::site::Site;

/// Entries that become ready between two yields.
const BATCH: usize = 256;

/// Entries that are looked at under one hold of the lock: some ten microseconds.
const SLICE: usize = 1_024;

/// All shards.
#[derive(Debug)]
pub(super) struct Timers {
    shards: Vec<Shard>,
}

/// One shard.
#[derive(Debug, Default)]
pub(super) struct Shard {
    state: Mutex<ShardState>,
    /// Told when something earlier than everything before it was added.
    earlier: Notify,
    /// Beats whenever what was due is dealt with.
    pub pulse: Pulse,
}

#[derive(Debug, Default)]
struct ShardState {
    /// Entries by the second in which they are due.
    buckets: BTreeMap<u32, Bucket>,
    alarms: BTreeMap<Instant, Vec<Weak<Site>>>,
}

/// Entries that are due in the same second.
#[derive(Debug, Default)]
struct Bucket {
    entries: Fifo<Entry>,
    /// When the oldest one that ever was in it was accepted.
    oldest: Option<UnixTime>,
}

/// What a look at a shard finds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub entries: usize,
    /// Those that should have been due before the time asked about.
    pub late: usize,
    pub oldest: Option<UnixTime>,
}

/// What is due.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub entries: Vec<Entry>,
    pub sites: Vec<Arc<Site>>,
    /// Of the entries, if there are any.
    pub outing: Option<Passage>,
}

impl Timers {
    /// `shards` empty ones.
    pub fn new(shards: usize) -> Self {
        Self { shards: (0..shards.max(1)).map(|_| Shard::default()).collect() }
    }

    /// Every shard.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    fn shard(&self, number: usize) -> Option<&Shard> {
        self.shards.get(number % self.shards.len().max(1))
    }

    /// Keeps entries of one message until their time.
    pub fn schedule(&self, entries: impl Iterator<Item = Entry>) {
        let mut entries = entries.peekable();
        let Some(first) = entries.peek() else { return };
        // All of a message in one shard: they become ready together.
        let number = usize::try_from(first.id.0).unwrap_or_default();
        let Some(shard) = self.shard(number) else { return };
        let mut state = shard.state.lock();
        let before = state.buckets.keys().next().copied();
        for entry in entries {
            entry.domain.add_scheduled(1);
            let bucket = state.buckets.entry(entry.due.0).or_default();
            bucket.oldest = Some(bucket.oldest.map_or(entry.accepted, |oldest| oldest.min(entry.accepted)));
            bucket.entries.push_back(entry);
        }
        let is_earlier = state.buckets.keys().next().copied() < before || before.is_none();
        drop(state);
        if is_earlier {
            shard.earlier.notify_one();
        }
    }

    /// Wakes a site at `at`.
    pub fn alarm(&self, site: &Arc<Site>, at: Instant) {
        let Some(shard) = self.shard(site.shard) else { return };
        let mut state = shard.state.lock();
        let is_earlier = state.alarms.keys().next().is_none_or(|first| at < *first);
        state.alarms.entry(at).or_default().push(Arc::downgrade(site));
        drop(state);
        if is_earlier {
            shard.earlier.notify_one();
        }
    }
}

impl Shard {
    /// Waits until something is due.
    pub async fn due(&self, clock: &Clock, outings: &Passages) -> Due {
        loop {
            let earlier = self.earlier.notified();
            let (due, next) = self.take_due(clock.now(), clock.wall(), outings);
            if !due.entries.is_empty() || !due.sites.is_empty() {
                return due;
            }
            let at = next.min_instant(clock);
            match at {
                Some(at) => {
                    let _ = tokio::time::timeout_at(tokio::time::Instant::from_std(at), earlier).await;
                }
                None => earlier.await,
            }
        }
    }

    fn take_due(&self, now: Instant, wall: UnixTime, outings: &Passages) -> (Due, Next) {
        let mut due = Due::default();
        let mut state = self.state.lock();
        while let Some(first) = state.alarms.first_entry()
            && *first.key() <= now
        {
            due.sites.extend(first.remove().iter().filter_map(Weak::upgrade));
        }
        while let Some(mut first) = state.buckets.first_entry()
            && *first.key() <= wall.0
            && due.entries.len() < BATCH
        {
            match first.get_mut().entries.pop_front() {
                Some(entry) => {
                    // Not for a bucket that others have emptied: it would last as long as the wait for the next one.
                    due.outing.get_or_insert_with(|| outings.begin());
                    entry.domain.remove_scheduled(1);
                    due.entries.push(entry);
                }
                None => {
                    first.remove();
                }
            }
        }
        let next = Next { alarm: state.alarms.keys().next().copied(), second: state.buckets.keys().next().copied() };
        (due, next)
    }

    /// Calls `each` with every entry until it returns false. The lock is held for [`SLICE`] of them at a time, so entries
    /// that become ready meanwhile may hide as many others.
    pub fn for_each(&self, mut each: impl FnMut(&Entry) -> bool) {
        let seconds: Vec<u32> = self.state.lock().buckets.keys().copied().collect();
        for second in seconds {
            let mut seen = 0;
            loop {
                let state = self.state.lock();
                let Some(bucket) = state.buckets.get(&second) else { break };
                let mut slice = bucket.entries.iter_from(seen).take(SLICE);
                if !slice.by_ref().all(&mut each) {
                    return;
                }
                seen += SLICE;
                if seen >= bucket.entries.len() {
                    break;
                }
            }
        }
    }

    /// Takes entries for which `is_taken` says so, a bucket at a time.
    pub fn extract(&self, is_taken: impl Fn(&Entry) -> bool, out: &mut Vec<Entry>) {
        let seconds: Vec<u32> = self.state.lock().buckets.keys().copied().collect();
        for second in seconds {
            let mut state = self.state.lock();
            let Some(bucket) = state.buckets.get_mut(&second) else { continue };
            let before = out.len();
            bucket.entries.extract(|entry| !is_taken(entry), out);
            for entry in out.get(before..).unwrap_or_default() {
                entry.domain.remove_scheduled(1);
            }
        }
    }

    /// Counts for people; `late` is a time in the past.
    pub fn look(&self, late: UnixTime) -> Seen {
        let state = self.state.lock();
        let late = state.buckets.range(..late.0).map(|(_, bucket)| bucket.entries.len()).sum();
        let entries = state.buckets.values().map(|bucket| bucket.entries.len()).sum();
        Seen { entries, late, oldest: state.buckets.values().filter_map(|bucket| bucket.oldest).min() }
    }
}

/// The next event of a shard.
#[derive(Clone, Copy, Debug)]
struct Next {
    alarm: Option<Instant>,
    second: Option<u32>,
}

impl Next {
    fn min_instant(self, clock: &Clock) -> Option<Instant> {
        let wall = clock.wall_precise();
        let bucket = self.second.map(|second| {
            let ahead = Duration::from_secs(u64::from(second)).saturating_sub(wall);
            // A millisecond more than enough, so that the second has begun by then.
            clock.now() + ahead + Duration::from_millis(1)
        });
        [self.alarm, bucket].into_iter().flatten().min()
    }
}
