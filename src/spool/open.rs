//! Opening a spool: claims the directory, looks at the segments' headers, starts a segment above them all.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use quick_cache::sync::Cache;

use crate::clock::Clock;
use crate::log::cipher::{Keys, MissingKey};
use crate::log::index;
use crate::log::segment::{self, Header};
use crate::log::storage::Storage;
use crate::log::supply::Plan;
use crate::log::writer::{self, Writer};
use crate::metrics::Registry;

use super::inner::{Inner, Tally, Weigh};
use super::keeper::{self, Keeper};
use super::ledger::Ledger;
use super::map::Map;
use super::recovery::Recovery;
use super::room::Room;
use super::spill::{self, Spills};
use super::{OpenError, Settings, Spool, codec, quarantine, start};

/// A segment must hold a few of the largest records.
const LEAST_SEGMENT: u64 = 256 << 10;
/// The map keeps offsets in 32 bits, in units of 8.
const MOST_SEGMENT: u64 = 16 << 30;
/// Segments are looked through in pieces of this size.
const ZEROS: usize = 64 << 10;
/// What operators ordered: kept here by `state`, under the spool's lock.
const STATE: &str = "state";
/// Who gets no mail: kept here by `state`, too.
const SUPPRESSION: &str = "state/suppression";

/// A directory that is ours, with nothing written but which start this is: what else a daemon needs can still fail, and
/// leaves nothing behind.
#[derive(Debug)]
pub struct Claimed {
    settings: Settings,
    storage: Arc<dyn Storage>,
    found: Vec<Found>,
    start: u32,
}

impl Spool {
    /// Locks the directory and reads the segments' headers only.
    pub fn claim(settings: Settings, storage: Arc<dyn Storage>) -> Result<Claimed, OpenError> {
        if !(LEAST_SEGMENT..=MOST_SEGMENT).contains(&settings.segment_size) {
            return Err(OpenError::SegmentSize);
        }
        let directories =
            [segment::DIRECTORY, spill::DIRECTORY, quarantine::DAMAGED, quarantine::TAIL, STATE, SUPPRESSION];
        storage.claim(&directories).map_err(OpenError::Claim)?;
        let survey = Survey::take(&*storage).map_err(OpenError::Read)?;
        survey.has_keys(&*storage, &settings.keys)?;
        let last = survey.last_start(&*storage, &settings.keys)?;
        let start = start::advance(&*storage, &survey.marks, last).map_err(OpenError::Start)?;
        let mut found = survey.found;
        // The mark tells the count of starts by now, so no header is needed for it.
        remove_unused(&*storage, &mut found);
        Ok(Claimed { settings, storage, found, start })
    }

    /// [`Spool::claim`] and [`Claimed::open`] in one.
    pub fn open(
        settings: Settings,
        storage: Arc<dyn Storage>,
        _clock: Clock,
        registry: &Registry,
    ) -> Result<(Self, Recovery), OpenError> {
        Self::claim(settings, storage)?.open(registry)
    }
}

impl Claimed {
    /// Which start of a daemon on this spool this is.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// Starts a new segment. The messages of earlier starts come by [`Recovery::run`], while this spool already accepts.
    pub fn open(self, registry: &Registry) -> Result<(Spool, Recovery), OpenError> {
        let Self { settings, storage, found, start } = self;
        let first = found.iter().map(|found| found.sequence).max().unwrap_or_default().saturating_add(1);
        let keeper = Arc::new(Keeper::new(registry));
        let nudge = {
            let keeper = keeper.clone();
            Box::new(move || keeper.nudge())
        };
        let ledger = Arc::new(Ledger::new(storage.clone(), settings.keys.clone(), registry, nudge));
        found.iter().for_each(|found| ledger.found(found.sequence, found.size));
        let space = storage.space().ok();
        let spare = space.map_or(0, |space| keeper::reserve(&settings, space.total));
        let plan = Plan { first, size: settings.segment_size, start, spare };
        let how = writer::Settings { sync: settings.sync, withdraw: codec::write_withdrawn };
        let writer = Writer::start(how, storage.clone(), plan, settings.keys.clone(), ledger.clone())
            .map_err(OpenError::Start)?;
        let most_messages = usize::try_from(settings.cache / 1024).unwrap_or(usize::MAX).max(16);
        let room = Arc::new(Room::default());
        if let Some(mut space) = space {
            // Two segments are being made, one ahead of need.
            for _ in 0..2 {
                space.free = space.free.saturating_sub(plan.size_for(space.free).unwrap_or_default());
            }
            room.look(space, spare, 0);
        }
        let inner = Inner {
            cache: Cache::with_weighter(most_messages, settings.cache, Weigh),
            spills: Spills::new(storage.clone(), room.clone(), settings.keys.writes()),
            settings: ArcSwap::from_pointee(settings),
            storage,
            writer,
            ledger,
            map: Map::default(),
            start,
            count: AtomicU64::new(0),
            accepting: AtomicUsize::new(0),
            room,
            checkpoint: AtomicU32::new(0),
            recovering: AtomicBool::new(true),
            recovery_failure: Mutex::default(),
            keeper: keeper.clone(),
            tally: tally(registry),
            damaged: Mutex::default(),
            dead_spills: Mutex::default(),
        };
        let spool = Spool { inner: Arc::new(inner) };
        keeper.start(Arc::downgrade(&spool.inner)).map_err(OpenError::Start)?;
        Ok((spool.clone(), Recovery::new(spool, found.iter().map(|found| found.sequence).collect())))
    }
}

fn tally(registry: &Registry) -> Tally {
    let damaged = "Damaged records and regions met; copies are in quarantine/.";
    let tail = "Unfinished writes met at recovery; copies are in quarantine/tail/.";
    Tally {
        damaged: AtomicU64::new(0),
        tail: AtomicU64::new(0),
        copied: AtomicU64::new(0),
        copied_octets: AtomicU64::new(0),
        carried: AtomicU64::new(0),
        deleted: AtomicU64::new(0),
        damaged_total: registry.counter("hikyaku_spool_damaged_total", damaged, &[]),
        tail_total: registry.counter("hikyaku_spool_tails_total", tail, &[]),
    }
}

/// A segment of an earlier start.
#[derive(Debug)]
struct Found {
    sequence: u32,
    size: u64,
    /// What its header says; `None` if that cannot be read or is of another segment.
    header: io::Result<Option<Header>>,
}

impl Found {
    /// Whether nothing was written to it up to `end`: it is as it was made.
    fn is_unused(&self, storage: &dyn Storage, end: u64) -> bool {
        let look = || -> io::Result<bool> {
            let file = storage.open(&segment::path(self.sequence))?;
            let (mut at, mut buffer) = (segment::FIRST, vec![0; ZEROS]);
            while at < end {
                let read = file.read_at(&mut buffer, at)?;
                if read == 0 || buffer.iter().take(read).any(|octet| *octet != 0) {
                    return Ok(read == 0);
                }
                at += read as u64;
            }
            Ok(true)
        };
        matches!(self.header, Ok(Some(_))) && look().unwrap_or(false)
    }
}

/// Removes the segments at the end that starts which were cut off had made and never wrote to: a daemon that is killed again
/// and again before it has recovered would fill the disk. The lowest stays: a checkpoint may cover those below it that are
/// gone, so that their sequences must not come again.
fn remove_unused(storage: &dyn Storage, found: &mut Vec<Found>) {
    let after_used = |found: &[Found], end: &dyn Fn(&Found) -> u64| {
        found.iter().rposition(|found| !found.is_unused(storage, end(found))).map_or(0, |at| at + 1)
    };
    // One is there after most stops, and not worth to be read.
    if found.len() - after_used(found, &|_| segment::FIRST + 1) < 2 {
        return;
    }
    let keep = after_used(found, &|found| found.size) + 1;
    while found.len() > keep
        && let Some(last) = found.last()
        && storage.remove(&segment::path(last.sequence)).is_ok()
    {
        found.pop();
    }
}

/// What lies in the directory of segments.
#[derive(Default)]
struct Survey {
    /// In order.
    found: Vec<Found>,
    /// Starts that are marked.
    marks: Vec<u32>,
}

impl Survey {
    /// Looks at all segments' headers; removes those that were never finished.
    fn take(storage: &dyn Storage) -> io::Result<Self> {
        let (mut survey, mut indexes) = (Self::default(), Vec::new());
        for entry in storage.list(segment::DIRECTORY)? {
            if entry.name.ends_with(".new") {
                storage.remove(&format!("{}/{}", segment::DIRECTORY, entry.name))?;
                continue;
            }
            indexes.extend(segment::sequence_of(&entry.name, "idx"));
            survey.marks.extend(segment::sequence_of(&entry.name, start::EXTENSION));
            let Some(sequence) = segment::sequence_of(&entry.name, "seg") else { continue };
            let header = storage.open(&segment::path(sequence)).and_then(|file| Header::read(&*file, sequence));
            survey.found.push(Found { sequence, size: entry.size, header });
        }
        let segments: HashSet<u32> = survey.found.iter().map(|found| found.sequence).collect();
        for orphan in indexes.into_iter().filter(|sequence| !segments.contains(sequence)) {
            storage.remove(&index::path(orphan))?;
        }
        survey.found.sort_unstable_by_key(|found| found.sequence);
        Ok(survey)
    }

    /// Whether everything encrypted can be read with these keys: to be asked before anything is changed. A segment whose
    /// header is gone is asked for by its index; without one it is damage.
    fn has_keys(&self, storage: &dyn Storage, keys: &Keys) -> Result<(), MissingKey> {
        for Found { sequence, header, .. } in &self.found {
            let binding = match header {
                Ok(Some(header)) => header.binding,
                _ => index::read(storage, *sequence, None).ok().flatten().and_then(|index| index.binding),
            };
            keys.cipher(*sequence, binding.as_ref())?;
        }
        Ok(())
    }

    /// The last start before this one.
    fn last_start(&self, storage: &dyn Storage, keys: &Keys) -> Result<u32, OpenError> {
        let mut last = start::in_spills(storage).map_err(OpenError::Read)?;
        last = last.max(self.marks.iter().copied().max().unwrap_or_default());
        for Found { sequence, header, .. } in &self.found {
            let start = match header {
                Ok(Some(header)) => header.start,
                // Recovery reports it. Without a mark it may be the only one that knows.
                Err(error) if self.marks.is_empty() => {
                    let (path, error) = (segment::path(*sequence), io::Error::new(error.kind(), error.to_string()));
                    return Err(OpenError::Header { path, error });
                }
                Ok(None) | Err(_) => start::in_index(storage, *sequence, keys),
            };
            last = last.max(start);
        }
        Ok(last)
    }
}
