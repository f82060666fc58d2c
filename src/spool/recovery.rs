//! Raising the messages of earlier starts, while new ones are already accepted.
//!
//! Two passes over the segments in order: the first applies every record to the map, the second gives out what is left.
//! Nothing is written to those segments, so recovery can be stopped and run again at any point with the same result.

use std::sync::atomic::Ordering;

use crate::log::Position;
use crate::log::record::Frame;
use crate::log::scan::{self, Scan};
use crate::log::segment::{self, Header};
use crate::log::storage::read_exact;

use super::codec;
use super::map::Location;
use super::{RecoverError, Recovered, RecoveryReport, Spool};

/// Where damaged octets are kept.
pub const QUARANTINE: &str = "quarantine";
/// Where octets of unfinished writes are kept.
pub const QUARANTINE_TAIL: &str = "quarantine/tail";

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
        let mut report = RecoveryReport::default();
        for &sequence in &self.segments {
            report.segments += 1;
            let scan = self.scan(sequence, &mut |location, frame| self.apply(location, frame))?;
            report.damaged += scan.unreadable.len() as u64;
        }
        for &sequence in &self.segments {
            self.scan(sequence, &mut |location, frame| {
                if let Some(recovered) = self.raise(location, frame) {
                    report.messages += 1;
                    report.recipients += recovered.pending.len() as u64;
                    let in_doubt = recovered.pending.iter().filter(|pending| pending.in_doubt.is_some());
                    report.in_doubt += in_doubt.count() as u64;
                    each(recovered);
                }
            })?;
        }
        self.spool.inner.recovering.store(false, Ordering::Relaxed);
        Ok(report)
    }

    fn scan(&self, sequence: u32, each: &mut dyn FnMut(Location, &Frame<'_>)) -> Result<Scan, RecoverError> {
        let read_error = |error| RecoverError::Read { segment: sequence, error };
        let file = self.spool.inner.storage.open(&segment::path(sequence)).map_err(read_error)?;
        let Some(header) = Header::read(&*file).map_err(read_error)? else { return Ok(Scan::default()) };
        let size = file.size().map_err(read_error)?;
        let bytes = read_exact(&*file, 0, usize::try_from(size).unwrap_or(usize::MAX)).map_err(read_error)?;
        Ok(scan::segment(&bytes, &header, 0, &mut |found| {
            let position = Position { segment: sequence, offset: found.offset };
            each(Location { position, octets: found.frame.lengths.total() }, &found.frame);
        }))
    }

    /// Applies one record to the map and the ledger.
    fn apply(&self, location: Location, frame: &Frame<'_>) {
        let inner = &self.spool.inner;
        let Some(id) = codec::id(frame) else { return };
        if frame.kind() == codec::MESSAGE {
            if let Some((concluded, events)) = codec::concludes(frame) {
                self.refer(location, concluded);
                inner.finish(concluded, &events, false);
            }
            self.refer(location, id);
            let mut shard = inner.map.shard(id);
            let earlier = shard.find(id);
            shard.insert(id, location, &codec::unfinished(frame));
            let is_live = shard.find(id).is_some();
            drop(shard);
            if let Some(earlier) = earlier {
                inner.ledger.release(earlier);
            }
            if is_live {
                inner.ledger.add(location);
            }
            return;
        }
        self.refer(location, id);
        match frame.kind() {
            codec::EVENTS => inner.finish(id, &codec::events(frame), false),
            codec::ATTEMPT => {
                if let Some((recipients, mx)) = codec::attempt(frame) {
                    inner.map.shard(id).attempt(id, &recipients, mx);
                }
            }
            codec::WITHDRAWN => {
                let removed = inner.map.shard(id).remove(id);
                if let Some(location) = removed {
                    inner.ledger.release(location);
                }
            }
            _ => {}
        }
    }

    /// A record at `location` is about message `id`, whose segment must go first.
    fn refer(&self, location: Location, id: crate::message::MessageId) {
        let inner = &self.spool.inner;
        let Some(about) = inner.map.shard(id).find(id) else { return };
        let (here, there) = (location.position.segment, about.position.segment);
        if here != there {
            inner.ledger.with(|segments| segments.entry(here).or_default().refers.insert(there));
        }
    }

    /// The message in this record, if it is the one the map names.
    fn raise(&self, location: Location, frame: &Frame<'_>) -> Option<Recovered> {
        if frame.kind() != codec::MESSAGE {
            return None;
        }
        let id = codec::id(frame)?;
        let pending = {
            let shard = self.spool.inner.map.shard(id);
            shard.find(id).filter(|found| *found == location)?;
            shard.pending(id)
        };
        Some(Recovered { id, envelope: codec::envelope(frame)?, pending })
    }
}
