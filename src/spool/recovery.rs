//! Raising the messages of earlier starts, while new ones are already accepted.
//!
//! Two passes over the segments in order: the first applies every record to the map, the second gives out what is left.
//! Both read the segments' indexes; a segment without one is scanned, what cannot be read in it goes to quarantine, and
//! it gets an index at the end. The segments themselves are not written, so recovery can be stopped at any point and run
//! again with the same result.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::Ordering;

use crate::log::record::Frame;
use crate::log::storage::Storage;
use crate::log::{index, segment};
use crate::message::MessageId;

use super::image::{Image, walk};
use super::inner::Inner;
use super::map::Location;
use super::quarantine::{self, Shelf};
use super::source::{self, Source};
use super::{RecoverError, Recovered, RecoveryReport, Spool, checkpoint, codec, keeper, spill};

/// The messages of earlier starts, to be raised once.
#[derive(Debug)]
pub struct Recovery {
    spool: Spool,
    segments: Vec<u32>,
}

impl Recovery {
    pub(super) fn new(spool: Spool, segments: Vec<u32>) -> Self {
        Self { spool, segments }
    }

    /// Reads the segments and gives each unfinished message to `each`. Blocks; to be run on a thread of its own.
    pub fn run(self, each: &mut dyn FnMut(Recovered)) -> Result<RecoveryReport, RecoverError> {
        let inner = &*self.spool.inner;
        let mut report = RecoveryReport::default();
        let mut scanned = HashMap::new();
        let image = Image::new(&inner.map, &inner.ledger);
        let checkpoint = checkpoint::read(&*inner.storage, &self.segments).map_err(RecoverError::Checkpoint)?;
        let covered = checkpoint.map_or(0, |checkpoint| image.restore(&checkpoint));
        inner.checkpoint.store(covered, Ordering::Relaxed);
        report.covered = self.segments.iter().filter(|sequence| **sequence <= covered).count() as u64;
        for &sequence in &self.segments {
            report.segments += 1;
            if sequence <= covered {
                continue;
            }
            let Some(source) = self.source(sequence, &mut report)? else { continue };
            walk(sequence, &source.entries, &mut |location, frame| image.apply(location, frame));
            if source.is_indexed {
                report.indexed += 1;
            } else {
                scanned.insert(sequence, source);
            }
        }
        let holding = |sequence: &&u32| inner.ledger.with(|all| all.get(sequence).is_some_and(|it| it.live > 0));
        for &sequence in self.segments.iter().filter(holding) {
            let mut raise = |location: Location, frame: &Frame<'_>| {
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
            };
            match scanned.get(&sequence) {
                Some(source) => walk(sequence, &source.entries, &mut raise),
                None => {
                    let source = source::read(&*inner.storage, sequence, false);
                    let source = source.map_err(|error| RecoverError::Read { segment: sequence, error });
                    // Its header was unreadable: it is in quarantine.
                    let Ok(Some(source)) = source else { continue };
                    walk(sequence, &source.entries, &mut raise);
                }
            }
        }
        // While its source exists a copy says nothing that the records before it do not say. When the source has gone,
        // it would undo every outcome that lies before it.
        for (id, place) in image.ignored() {
            inner.writer.append(place.segment, |out| codec::write_void(out, id, place));
        }
        for (sequence, source) in scanned {
            // Without an index the segment is scanned at the next start, as one must be that has to stay.
            if inner.ledger.with(|segments| segments.get(&sequence).is_some_and(|segment| segment.must_stay)) {
                continue;
            }
            if let Err(error) = index::write(&*inner.storage, sequence, source.salt, source.end, &source.entries) {
                tracing::warn!(segment = sequence, %error, "cannot write the index of a segment");
            }
        }
        if let Err(error) = remove_orphans(inner) {
            tracing::warn!(%error, "cannot remove spill files that no message refers to");
        }
        inner.recovering.store(false, Ordering::Release);
        inner.keeper.nudge();
        Ok(report)
    }

    /// The records of a segment; what a scan could not read is kept. `None` if the whole segment is unreadable.
    fn source(&self, sequence: u32, report: &mut RecoveryReport) -> Result<Option<Source>, RecoverError> {
        let inner = &*self.spool.inner;
        let storage: &dyn Storage = &*inner.storage;
        let read_error = |error| RecoverError::Read { segment: sequence, error };
        let Some(source) = source::read(storage, sequence, false).map_err(read_error)? else {
            quarantine::take(storage, sequence).map_err(RecoverError::Quarantine)?;
            inner.ledger.with(|segments| segments.remove(&sequence));
            note(inner, Shelf::Damaged, report);
            return Ok(None);
        };
        if !source.is_indexed && inner.settings.sync {
            // After a kill it may be in the kernel's memory only, and what is said from now on relies on it.
            storage.open(&segment::path(sequence)).and_then(|file| file.sync_data()).map_err(read_error)?;
        }
        if !source.unreadable.is_empty() {
            let file = storage.open(&segment::path(sequence)).map_err(read_error)?;
            for (range, was_synced) in &source.unreadable {
                let shelf = if *was_synced { Shelf::Damaged } else { Shelf::Tail };
                tracing::warn!(segment = sequence, from = range.start, to = range.end, ?shelf, "unreadable octets");
                if let Err(error) = quarantine::copy(storage, shelf, sequence, &*file, range.clone()) {
                    // On a full disk the spool must still open: then the segment itself keeps them, for the next start.
                    tracing::error!(segment = sequence, %error, "cannot copy unreadable octets to quarantine");
                    inner.ledger.with(|segments| segments.entry(sequence).or_default().must_stay = true);
                }
                note(inner, shelf, report);
            }
        }
        Ok(Some(source))
    }
}

fn note(inner: &Inner, shelf: Shelf, report: &mut RecoveryReport) {
    match shelf {
        Shelf::Damaged => {
            report.damaged += 1;
            inner.tally.damaged.fetch_add(1, Ordering::Relaxed);
            inner.tally.damaged_total.increment(1);
        }
        Shelf::Tail => {
            report.tail += 1;
            inner.tally.tail.fetch_add(1, Ordering::Relaxed);
            inner.tally.tail_total.increment(1);
        }
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
