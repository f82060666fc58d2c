//! Raising the messages of earlier starts, while new ones are already accepted.
//!
//! Two passes over the segments in order: the first applies every record to the map, the second gives out what is left.
//! Both read the segments' indexes; a segment without one is scanned, what cannot be read in it goes to quarantine, and
//! it gets an index at the end. The segments themselves are not written, so recovery can be stopped at any point and run
//! again with the same result.
//!
//! A segment that the disk gives an error for is tried again a few times, then left out: it stays, and so do all after it,
//! because they may say what became of its messages. No checkpoint covers it, and no spill file is removed, so that the
//! next start that can read it finds everything.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::log::record::Frame;
use crate::log::storage::Storage;
use crate::log::{index, segment};
use crate::message::MessageId;

use super::image::{Image, walk};
use super::inner::Inner;
use super::map::Location;
use super::quarantine::{self, Shelf};
use super::source::{self, Source};
use super::{Recovered, RecoveryReport, Spool, checkpoint, codec, keeper, spill};

/// Waits before a segment that could not be read is tried again: an error that passes (a bus reset, a path that fails
/// over) has passed by then.
const WAITS: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];
/// So often recovery waits at most: with a broken disk every segment fails.
const MOST_WAITS: usize = 12;

/// The messages of earlier starts, to be raised once.
#[derive(Debug)]
pub struct Recovery {
    spool: Spool,
    segments: Vec<u32>,
    waits: Vec<Duration>,
}

impl Recovery {
    pub(super) fn new(spool: Spool, segments: Vec<u32>) -> Self {
        Self { spool, segments, waits: WAITS.into() }
    }

    /// Changes how often a segment that could not be read is tried again, and after what waits.
    #[must_use]
    pub fn with_waits(self, waits: &[Duration]) -> Self {
        Self { waits: waits.into(), ..self }
    }

    /// Reads the segments and gives each unfinished message to `each`. Blocks; to be run on a thread of its own.
    pub fn run(self, each: &mut dyn FnMut(Recovered)) -> RecoveryReport {
        let inner = &*self.spool.inner;
        let image = Image::new(&inner.map, &inner.ledger);
        let (report, unread) = (RecoveryReport::default(), BTreeMap::new());
        let mut pass = Pass { inner, waits: &self.waits, waited: 0, report, unread, scanned: HashMap::new() };
        let covered = pass.restore(&image, &self.segments);
        for &sequence in &self.segments {
            pass.report.segments += 1;
            if sequence > covered {
                pass.apply(sequence, &image);
            }
        }
        pass.keep_unread(&self.segments);
        let holding = |sequence: &&u32| inner.ledger.with(|all| all.get(sequence).is_some_and(|it| it.live > 0));
        for &sequence in self.segments.iter().filter(holding) {
            pass.raise(sequence, &image, each);
        }
        // While its source exists a copy says nothing that the records before it do not say. When the source has gone,
        // it would undo every outcome that lies before it.
        for (id, place) in image.ignored() {
            inner.writer.append(place.segment, |out| codec::write_void(out, id, place));
        }
        pass.write_indexes();
        if pass.unread.is_empty()
            && let Err(error) = remove_orphans(inner)
        {
            tracing::warn!(%error, "cannot remove spill files that no message refers to");
        }
        pass.end()
    }
}

/// One run of recovery.
struct Pass<'a> {
    inner: &'a Inner,
    waits: &'a [Duration],
    /// How many waits there were.
    waited: usize,
    report: RecoveryReport,
    /// Segments that could not be read, and why.
    unread: BTreeMap<u32, io::Error>,
    /// What was read without an index.
    scanned: HashMap<u32, Source>,
}

impl Pass<'_> {
    /// Takes over the checkpoint if there is one; the last segment that it covers.
    fn restore(&mut self, image: &Image<'_>, segments: &[u32]) -> u32 {
        let storage = &*self.inner.storage;
        let checkpoint = self.patiently(|| checkpoint::read(storage, segments)).unwrap_or_else(|error| {
            // The segments say the same.
            tracing::warn!(%error, "cannot read the checkpoint");
            None
        });
        let covered = checkpoint.map_or(0, |checkpoint| image.restore(&checkpoint));
        self.inner.checkpoint.store(covered, Ordering::Relaxed);
        self.report.covered = segments.iter().filter(|sequence| **sequence <= covered).count() as u64;
        covered
    }

    /// Tries again after an error that may pass.
    fn patiently<T>(&mut self, mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        for wait in self.waits {
            let result = read();
            if result.is_ok() || self.waited >= MOST_WAITS {
                return result;
            }
            self.waited += 1;
            std::thread::sleep(*wait);
        }
        read()
    }

    /// Applies the records of a segment.
    fn apply(&mut self, sequence: u32, image: &Image<'_>) {
        let source = match self.source(sequence) {
            Ok(Some(source)) => source,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(segment = sequence, %error, "cannot read a segment");
                self.unread.insert(sequence, error);
                return;
            }
        };
        let first_of_this_start = MessageId::new(self.inner.start, 0);
        let mut strangers = Vec::new();
        walk(sequence, &source.entries, &mut |location, frame| {
            // It would take the place of a message that is accepted now.
            if codec::id(frame).is_some_and(|id| id >= first_of_this_start) {
                strangers.push(location);
            } else {
                image.apply(location, frame);
            }
        });
        for Location { position, octets } in strangers {
            self.keep(sequence, position.offset..position.offset + octets, Shelf::Damaged);
            self.must_stay(sequence);
        }
        if source.is_indexed {
            self.report.indexed += 1;
        } else {
            self.scanned.insert(sequence, source);
        }
    }

    /// The records of a segment; what could not be read in it is kept. `None` if the whole segment is unreadable.
    fn source(&mut self, sequence: u32) -> io::Result<Option<Source>> {
        let inner = self.inner;
        let storage: &dyn Storage = &*inner.storage;
        let source = self.patiently(|| {
            let source = source::read(storage, sequence, false, inner.ledger.keys())?;
            if source.as_ref().is_some_and(|source| !source.is_indexed) && inner.settings.load().sync {
                // After a kill it may be in the kernel's memory only, and what is said from now on relies on it.
                storage.open(&segment::path(sequence))?.sync_data()?;
            }
            Ok(source)
        })?;
        let Some(source) = source else {
            tracing::error!(segment = sequence, "neither header nor index of a segment can be read");
            match quarantine::take(storage, sequence) {
                Ok(()) => drop(inner.ledger.with(|segments| segments.remove(&sequence))),
                Err(error) => self.cannot_keep(sequence, &error),
            }
            self.note(Shelf::Damaged);
            return Ok(None);
        };
        for (range, was_synced) in &source.unreadable {
            self.keep(sequence, range.clone(), if *was_synced { Shelf::Damaged } else { Shelf::Tail });
        }
        Ok(Some(source))
    }

    /// Copies octets to quarantine.
    fn keep(&mut self, sequence: u32, range: std::ops::Range<u64>, shelf: Shelf) {
        tracing::warn!(segment = sequence, from = range.start, to = range.end, ?shelf, "unreadable octets");
        let storage = &*self.inner.storage;
        let copied = storage
            .open(&segment::path(sequence))
            .and_then(|file| quarantine::copy(storage, shelf, sequence, &*file, range));
        if let Err(error) = copied {
            self.cannot_keep(sequence, &error);
        }
        self.note(shelf);
    }

    /// On a full disk the spool must still open: then the segment itself keeps them, for the next start.
    fn cannot_keep(&self, sequence: u32, error: &io::Error) {
        tracing::error!(segment = sequence, %error, "cannot copy unreadable octets to quarantine");
        self.must_stay(sequence);
    }

    fn must_stay(&self, sequence: u32) {
        self.inner.ledger.with(|segments| segments.entry(sequence).or_default().must_stay = true);
    }

    fn note(&mut self, shelf: Shelf) {
        let tally = &self.inner.tally;
        let (reported, count, total) = match shelf {
            Shelf::Damaged => (&mut self.report.damaged, &tally.damaged, &tally.damaged_total),
            Shelf::Tail => (&mut self.report.tail, &tally.tail, &tally.tail_total),
        };
        *reported += 1;
        count.fetch_add(1, Ordering::Relaxed);
        total.increment(1);
    }

    /// Makes sure that a later start finds what could not be read, and what was said about it since.
    fn keep_unread(&self, segments: &[u32]) {
        let Some(first) = self.unread.keys().next() else { return };
        self.inner.ledger.with(|all| {
            for sequence in segments.iter().filter(|sequence| *sequence >= first) {
                // One that went to quarantine is gone.
                let Some(segment) = all.get_mut(sequence) else { continue };
                segment.must_stay = true;
                segment.is_unread = self.unread.contains_key(sequence);
            }
        });
    }

    /// Gives out the unfinished messages of a segment.
    fn raise(&mut self, sequence: u32, image: &Image<'_>, each: &mut dyn FnMut(Recovered)) {
        let inner = self.inner;
        let scanned = self.scanned.remove(&sequence);
        let read;
        let entries = match &scanned {
            Some(source) => &source.entries,
            None => match self.patiently(|| source::entries(&*inner.storage, sequence, inner.ledger.keys())) {
                Ok(entries) => {
                    read = entries;
                    &read
                }
                Err(error) => {
                    tracing::error!(segment = sequence, %error, "cannot read a segment");
                    self.unread.insert(sequence, error);
                    return;
                }
            },
        };
        let report = &mut self.report;
        walk(sequence, entries, &mut |location, frame: &Frame<'_>| {
            let Some(id) = image.live(location, frame) else { return };
            let Some(recovered) = image.raise(id, frame) else {
                // Reading it reports it and copies it to quarantine.
                let _ = inner.read(id, location);
                report.damaged += 1;
                return;
            };
            report.messages += 1;
            report.recipients += recovered.pending.len() as u64;
            let in_doubt = recovered.pending.iter().filter(|pending| pending.in_doubt.is_some());
            report.in_doubt += in_doubt.count() as u64;
            each(recovered);
        });
        self.scanned.extend(scanned.map(|source| (sequence, source)));
    }

    /// Gives indexes to segments that were scanned.
    fn write_indexes(&mut self) {
        for (sequence, source) in std::mem::take(&mut self.scanned) {
            // Without an index the segment is scanned at the next start, as one must be that has to stay.
            if self.inner.ledger.with(|segments| segments.get(&sequence).is_some_and(|segment| segment.must_stay)) {
                continue;
            }
            if let Err(error) = index::write(&*self.inner.storage, sequence, &source.into_index()) {
                tracing::warn!(segment = sequence, %error, "cannot write the index of a segment");
            }
        }
    }

    /// Lets the keeper free room, and says what is left undone.
    fn end(mut self) -> RecoveryReport {
        self.report.unread = self.unread.len() as u64;
        if let Some((sequence, error)) = self.unread.first_key_value() {
            let (count, path) = (self.unread.len(), segment::path(*sequence));
            let failure = format!("{count} segments could not be read, the first is {path}: {error}");
            *self.inner.recovery_failure.lock() = Some(failure);
        }
        self.inner.recovering.store(false, Ordering::Release);
        self.inner.keeper.nudge();
        self.report
    }
}

/// Removes spill files of earlier starts that no message refers to.
fn remove_orphans(inner: &Inner) -> io::Result<()> {
    let entries = inner.storage.list(spill::DIRECTORY)?;
    if entries.is_empty() {
        return Ok(());
    }
    let used: HashSet<u64> = inner.map.spills().into_iter().collect();
    let first_of_this_start = MessageId::new(inner.start, 0).0;
    for entry in entries {
        let Ok(number) = u64::from_str_radix(&entry.name, 16) else { continue };
        if number < first_of_this_start && !used.contains(&number) {
            keeper::remove(&*inner.storage, &spill::path(number))?;
        }
    }
    Ok(())
}
