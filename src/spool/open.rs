//! Opening a spool: claims the directory, looks at the segments' headers, starts a segment above them all.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};

use parking_lot::Mutex;
use quick_cache::sync::Cache;

use crate::clock::Clock;
use crate::log::index;
use crate::log::segment::{self, Header};
use crate::log::storage::Storage;
use crate::log::supply::Plan;
use crate::log::writer::{self, Writer};
use crate::metrics::Registry;

use super::inner::{Inner, Tally, Weigh};
use super::keeper::Keeper;
use super::ledger::{Ledger, Segment};
use super::map::Map;
use super::recovery::Recovery;
use super::spill::{self, Spills};
use super::{OpenError, Settings, Spool, codec, quarantine};

/// A segment must hold a few of the largest records.
const LEAST_SEGMENT: u64 = 256 << 10;
/// The map keeps offsets in 32 bits, in units of 8.
const MOST_SEGMENT: u64 = 16 << 30;

impl Spool {
    /// Locks the directory, reads the segments' headers only and starts a new segment. The messages of earlier starts
    /// come by [`Recovery::run`], while this spool already accepts.
    pub fn open(
        settings: Settings,
        storage: Arc<dyn Storage>,
        _clock: Clock,
        registry: &Registry,
    ) -> Result<(Self, Recovery), OpenError> {
        if !(LEAST_SEGMENT..=MOST_SEGMENT).contains(&settings.segment_size) {
            return Err(OpenError::SegmentSize);
        }
        let directories = [segment::DIRECTORY, spill::DIRECTORY, quarantine::DAMAGED, quarantine::TAIL];
        storage.claim(&directories).map_err(OpenError::Claim)?;
        let found = survey(&*storage).map_err(OpenError::Read)?;
        let start = found.iter().map(|found| found.start).max().unwrap_or_default() + 1;
        let first = found.iter().map(|found| found.sequence).max().unwrap_or_default() + 1;
        let keeper = Arc::new(Keeper::default());
        let nudge = {
            let keeper = keeper.clone();
            Box::new(move || keeper.nudge())
        };
        let ledger = Arc::new(Ledger::new(storage.clone(), settings.segment_size, registry, nudge));
        ledger.with(|segments| {
            for found in &found {
                let segment = Segment { size: found.size, is_sealed: true, ..Segment::default() };
                segments.insert(found.sequence, segment);
            }
        });
        let plan = Plan { first, size: settings.segment_size, start };
        let how = writer::Settings { sync: settings.sync, withdraw: codec::write_withdrawn };
        let writer = Writer::start(how, storage.clone(), plan, ledger.clone()).map_err(OpenError::Start)?;
        let most_messages = usize::try_from(settings.cache / 1024).unwrap_or(usize::MAX).max(16);
        let inner = Inner {
            cache: Cache::with_weighter(most_messages, settings.cache, Weigh),
            spills: Spills::new(storage.clone()),
            settings,
            storage,
            writer,
            ledger,
            map: Map::default(),
            start,
            count: AtomicU64::new(0),
            accepting: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            checkpoint: AtomicU32::new(0),
            recovering: AtomicBool::new(true),
            keeper: keeper.clone(),
            tally: tally(registry),
            damaged: Mutex::default(),
            dead_spills: Mutex::default(),
        };
        let spool = Self { inner: Arc::new(inner) };
        keeper.start(Arc::downgrade(&spool.inner)).map_err(OpenError::Start)?;
        let segments = found.iter().map(|found| found.sequence).collect();
        Ok((spool.clone(), Recovery::new(spool, segments)))
    }
}

fn tally(registry: &Registry) -> Tally {
    let damaged = "Damaged records and regions met; copies are in quarantine/.";
    let tail = "Unfinished writes met at recovery; copies are in quarantine/tail/.";
    Tally {
        damaged: AtomicU64::new(0),
        tail: AtomicU64::new(0),
        copied: AtomicU64::new(0),
        deleted: AtomicU64::new(0),
        damaged_total: registry.counter("hikyaku_spool_damaged_total", damaged, &[]),
        tail_total: registry.counter("hikyaku_spool_tails_total", tail, &[]),
    }
}

/// A segment of an earlier start.
struct Found {
    sequence: u32,
    /// 0 if its header is unreadable.
    start: u32,
    size: u64,
}

/// Looks at all segments' headers; removes those that were never finished.
fn survey(storage: &dyn Storage) -> io::Result<Vec<Found>> {
    let (mut found, mut indexes) = (Vec::new(), Vec::new());
    for entry in storage.list(segment::DIRECTORY)? {
        if entry.name.ends_with(".new") {
            storage.remove(&format!("{}/{}", segment::DIRECTORY, entry.name))?;
            continue;
        }
        if let Some(sequence) = segment::sequence_of(&entry.name, "idx") {
            indexes.push(sequence);
        }
        let Some(sequence) = segment::sequence_of(&entry.name, "seg") else { continue };
        let file = storage.open(&segment::path(sequence))?;
        let start = Header::read(&*file)?.map_or(0, |header| header.start);
        found.push(Found { sequence, start, size: entry.size });
    }
    let segments: HashSet<u32> = found.iter().map(|found: &Found| found.sequence).collect();
    for orphan in indexes.into_iter().filter(|sequence| !segments.contains(sequence)) {
        storage.remove(&index::path(orphan))?;
    }
    found.sort_unstable_by_key(|found| found.sequence);
    Ok(found)
}
