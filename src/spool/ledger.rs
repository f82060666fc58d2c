//! What each segment holds: live messages, and references to records in other segments.
//!
//! An outcome must stay as long as the segment with its message does, or a full scan would raise the message again. So
//! a segment may go only when it has no live message and every segment it refers to is gone, durably. A record comes after
//! what it is about, so a segment refers to older ones only, and the oldest one that is emptied can always go.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::log::cipher::Keys;
use crate::log::index;
use crate::log::record::Seal;
use crate::log::sealed::Opener;
use crate::log::segment::{self, Header};
use crate::log::storage::{Storage, StorageFile};
use crate::log::writer::{Appended, Sealed, Watch};
use crate::metrics::Registry;
use crate::panics::Bulkhead;

use super::contract::Stat;
use super::map::Location;
use super::pace::Pace;

/// One segment.
#[derive(Debug, Default)]
pub struct Segment {
    /// Size of the file.
    pub size: u64,
    /// End of the last batch, as far as known.
    pub end: u64,
    /// Messages that are not finished.
    pub live: u64,
    /// Their octets.
    pub live_octets: u64,
    /// Entries that were written but are not in the map yet, nor withdrawn.
    pub unsettled: u64,
    /// Other segments whose records the records here are about; all older.
    pub refers: BTreeSet<u32>,
    /// Messages were copied out of it: what is said about the copies must be synced before it goes.
    pub is_source: bool,
    /// Nothing more is written to it.
    pub is_sealed: bool,
    /// A sync of it failed: what is live is copied away.
    pub is_given_up: bool,
    /// Holds octets that are neither readable nor in quarantine, or records about those: not deleted in this run.
    pub must_stay: bool,
    /// Recovery could not read it: no checkpoint may cover it, and copies of its messages may still be needed.
    pub is_unread: bool,
    /// Holds a damaged message, so it cannot be emptied.
    pub is_pinned: bool,
    /// Its file once somebody has read from it, with the seal of its records.
    pub reader: Option<(Arc<dyn StorageFile>, Opener)>,
}

/// All segments.
pub struct Ledger {
    storage: Arc<dyn Storage>,
    keys: Keys,
    segments: Mutex<BTreeMap<u32, Segment>>,
    /// Segments sealed but not indexed yet; taken by the keeper.
    sealed: Mutex<Vec<Sealed>>,
    /// Told that there is something to keep house for.
    nudge: Box<dyn Fn() + Send + Sync>,
    batches: AtomicU64,
    /// Octets of log: the size of what was found, and what was written since.
    octets: AtomicU64,
    /// Segments given up since the start.
    given_up: AtomicU64,
    pace: Pace,
    metrics: Metrics,
    wall: Bulkhead,
}

struct Metrics {
    batches: metrics::Counter,
    messages: metrics::Counter,
    given_up: metrics::Counter,
    batch_size: metrics::Histogram,
    batch_time: metrics::Histogram,
    batch_octets: metrics::Histogram,
    sync_time: metrics::Histogram,
    octets: metrics::Counter,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl Ledger {
    /// An empty ledger. `nudge` is called when a segment was sealed or has become empty.
    pub fn new(storage: Arc<dyn Storage>, keys: Keys, registry: &Registry, nudge: Box<dyn Fn() + Send + Sync>) -> Self {
        let metrics = Metrics {
            batches: registry.counter("hikyaku_spool_batches_total", "Commits with messages.", &[]),
            messages: registry.counter("hikyaku_spool_committed_total", "Messages committed.", &[]),
            given_up: registry.counter(
                "hikyaku_spool_given_up_total",
                "Segments given up after a failed write or sync: look at the disk.",
                &[],
            ),
            batch_size: registry.histogram("hikyaku_spool_batch_messages", "Messages in a commit.", &[]),
            batch_time: registry.histogram("hikyaku_spool_commit_seconds", "Write and sync of a commit.", &[]),
            batch_octets: registry.histogram("hikyaku_spool_batch_bytes", "Octets of messages in a commit.", &[]),
            sync_time: registry.histogram("hikyaku_spool_sync_seconds", "Time of a sync alone.", &[]),
            octets: registry.counter("hikyaku_spool_written_bytes_total", "Octets of messages written.", &[]),
        };
        let (segments, sealed) = (Mutex::default(), Mutex::default());
        let wall = Bulkhead::new(registry, "committer");
        let (batches, octets) = (AtomicU64::new(0), AtomicU64::new(0));
        let (given_up, pace) = (AtomicU64::new(0), Pace::new(Instant::now()));
        Self { storage, keys, segments, sealed, nudge, batches, octets, given_up, pace, metrics, wall }
    }

    /// Runs `body` with the table locked.
    pub fn with<T>(&self, body: impl FnOnce(&mut BTreeMap<u32, Segment>) -> T) -> T {
        body(&mut self.segments.lock())
    }

    /// A segment of an earlier start.
    pub fn found(&self, sequence: u32, size: u64) {
        self.octets.fetch_add(size, Ordering::Relaxed);
        let segment = Segment { size, is_sealed: true, ..Segment::default() };
        self.segments.lock().insert(sequence, segment);
    }

    /// A message lives at `location`.
    pub fn add(&self, location: Location) {
        let mut segments = self.segments.lock();
        let segment = segments.entry(location.position.segment).or_default();
        segment.live += 1;
        segment.live_octets += location.octets;
    }

    /// The message at `location` is finished or has moved.
    pub fn release(&self, location: Location) {
        let mut segments = self.segments.lock();
        let Some(segment) = segments.get_mut(&location.position.segment) else { return };
        segment.live = segment.live.saturating_sub(1);
        segment.live_octets = segment.live_octets.saturating_sub(location.octets);
        let is_empty = segment.live == 0 && segment.is_sealed;
        if is_empty {
            // It may have to stay for its records, but nobody reads from it any more.
            segment.reader = None;
        }
        drop(segments);
        if is_empty {
            (self.nudge)();
        }
    }

    /// Adds the segments up.
    pub fn sum(&self, stat: &mut Stat) {
        for segment in self.segments.lock().values() {
            stat.segments += 1;
            stat.octets += segment.size;
            stat.live_octets += segment.live_octets;
        }
        stat.given_up = self.given_up.load(Ordering::Relaxed);
        let syncs = self.pace.lately(Instant::now());
        (stat.syncs_lately, stat.slow_syncs_lately) = (syncs.all, syncs.slow);
    }

    /// Whether there is such a segment.
    pub fn exists(&self, sequence: u32) -> bool {
        self.segments.lock().contains_key(&sequence)
    }

    /// Segment `to` holds a copy of a message in `from` that does not count yet.
    pub fn note_copy(&self, from: u32, to: u32) {
        let mut segments = self.segments.lock();
        segments.entry(from).or_default().is_source = true;
        segments.entry(to).or_default().refers.insert(from);
    }

    /// An entry of this segment is in the map with all its events, or void.
    pub fn settle(&self, segment: u32) {
        if let Some(segment) = self.segments.lock().get_mut(&segment) {
            segment.unsettled = segment.unsettled.saturating_sub(1);
        }
    }

    /// The last segment up to which all are sealed and settled.
    pub fn settled_through(&self) -> Option<u32> {
        let segments = self.segments.lock();
        let is_settled = |segment: &Segment| segment.is_sealed && segment.unsettled == 0 && !segment.is_unread;
        let settled = segments.iter().take_while(|(_, segment)| is_settled(segment));
        settled.last().map(|(sequence, _)| *sequence)
    }

    /// Segments that were durably deleted.
    pub fn forget(&self, gone: &[u32]) {
        let mut segments = self.segments.lock();
        for sequence in gone {
            segments.remove(sequence);
            for segment in segments.values_mut() {
                segment.refers.remove(sequence);
            }
        }
    }

    /// What segments are read with.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The open file of a segment, with what opens its records; [`io::ErrorKind::InvalidData`] if nobody knows that.
    pub fn reader(&self, sequence: u32) -> io::Result<(Arc<dyn StorageFile>, Opener)> {
        if let Some(reader) = self.open_reader(sequence) {
            return Ok(reader);
        }
        let file = self.storage.open(&segment::path(sequence))?;
        let (salt, binding) = match Header::read(&*file, sequence)? {
            Some(header) => (header.salt, header.binding),
            // Both copies of the header are gone: the index knows the salt too.
            None => match index::read(&*self.storage, sequence, None)? {
                Some(index) => (index.salt, index.binding),
                None => return Err(io::ErrorKind::InvalidData.into()),
            },
        };
        let cipher = self.keys.cipher(sequence, binding.as_ref())?;
        let reader = (file, Opener { seal: Seal { salt }, cipher });
        if let Some(segment) = self.segments.lock().get_mut(&sequence) {
            segment.reader = Some(reader.clone());
        }
        Ok(reader)
    }

    /// The same, if the file is open already.
    pub fn open_reader(&self, sequence: u32) -> Option<(Arc<dyn StorageFile>, Opener)> {
        self.segments.lock().get(&sequence).and_then(|segment| segment.reader.clone())
    }

    /// Segments that were sealed since the last call.
    pub fn take_sealed(&self) -> Vec<Sealed> {
        std::mem::take(&mut self.sealed.lock())
    }

    /// Octets of log: the size of what was found at the start, and what was written since.
    pub fn octets(&self) -> u64 {
        self.octets.load(Ordering::Relaxed)
    }

    /// Batches with messages since the start.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }
}

impl Watch for Ledger {
    fn wall(&self) -> Bulkhead {
        self.wall.clone()
    }

    fn appended(&self, appended: &Appended<'_>) {
        if appended.entries > 0 {
            self.metrics.octets.increment(appended.octets);
            self.metrics.batch_octets.record(appended.octets as f64);
        }
        let mut segments = self.segments.lock();
        let segment = segments.entry(appended.segment).or_default();
        segment.size = appended.size;
        self.octets.fetch_add(appended.end.saturating_sub(segment.end), Ordering::Relaxed);
        segment.end = segment.end.max(appended.end);
        segment.unsettled += appended.entries;
        segment.live += appended.entries;
        segment.live_octets += appended.octets;
        segment.refers.extend(appended.refers.iter().filter(|other| **other != appended.segment));
    }

    fn sealed(&self, sealed: Sealed) {
        let given_up = u64::from(sealed.index.is_none());
        self.given_up.fetch_add(given_up, Ordering::Relaxed);
        self.metrics.given_up.increment(given_up);
        if let Some(segment) = self.segments.lock().get_mut(&sealed.segment) {
            segment.is_sealed = true;
            segment.is_given_up = sealed.index.is_none();
        }
        self.sealed.lock().push(sealed);
        (self.nudge)();
    }

    fn withdrawn(&self, segment: u32, octets: u64) {
        let position = crate::log::Position { segment, offset: 0 };
        self.settle(segment);
        self.release(Location { position, octets });
    }

    fn committed(&self, entries: usize, took: Duration) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.metrics.batches.increment(1);
        self.metrics.messages.increment(entries as u64);
        self.metrics.batch_size.record(u32::try_from(entries).unwrap_or(u32::MAX));
        self.metrics.batch_time.record(took.as_secs_f64());
    }

    fn synced(&self, took: Duration) {
        self.metrics.sync_time.record(took.as_secs_f64());
        self.pace.note(took, Instant::now());
    }
}
