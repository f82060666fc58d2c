//! Looking at a spool from outside: `hikyaku spool check` and `hikyaku spool stat`.
//!
//! Reads only and takes no lock, so it can be run beside a daemon; what that one writes meanwhile may then be counted as
//! a tail. [`check`] reads the record and content of every unfinished message and compares them with their checksums. With
//! `full` it goes by the segments alone, so that it sees damage in all their records. Otherwise it goes by checkpoint and
//! indexes, as recovery does, and sees damage only in what is live. Both give the same live set.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::log::Position;
use crate::log::cipher::Keys;
use crate::log::disk::Disk;
use crate::log::record::Frame;
use crate::log::segment;
use crate::log::storage::Storage;
use crate::message::MessageId;
use crate::metrics::Registry;

use super::contract::{Pending, Stat};
use super::image::{Image, walk};
use super::ledger::{Ledger, Segment};
use super::map::{Location, Map};
use super::read::checksum;
use super::{checkpoint, codec, quarantine, source, spill};

/// The spool cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The disk gave an error.
    #[error("cannot read the spool: {0}")]
    Read(#[from] io::Error),
}

/// Octets in a segment that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// The segment.
    pub segment: u32,
    /// First octet.
    pub from: u64,
    /// One past the last octet.
    pub to: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Segments read.
    pub segments: u64,
    /// Of these, by their index.
    pub indexed: u64,
    /// Of these, only what is live in them: a checkpoint says the rest.
    pub covered: u64,
    /// Records read, those in covered segments not included.
    pub records: u64,
    /// Unfinished messages.
    pub messages: u64,
    /// Their unfinished recipients.
    pub recipients: u64,
    /// Of these, in doubt: an attempt has no outcome.
    pub in_doubt: u64,
    /// CRC32C of the unfinished messages and recipients in order: two checks with the same figure saw the same live set.
    pub live_set: u32,
    /// Damage: octets that had been synced.
    pub damaged: Vec<Region>,
    /// Unfinished writes.
    pub tail: Vec<Region>,
    /// Unfinished messages whose content does not agree with its checksum.
    pub damaged_messages: Vec<String>,
    /// Segments whose header and index cannot be read.
    pub unreadable_segments: Vec<u32>,
    /// Files in `quarantine/`: damage that was met before and that nobody has looked after.
    pub quarantined: Vec<String>,
}

impl CheckReport {
    /// Whether nothing is damaged. Unfinished writes are not damage.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty()
            && self.damaged_messages.is_empty()
            && self.unreadable_segments.is_empty()
            && self.quarantined.is_empty()
    }
}

/// Checks the spool in a directory.
pub fn check(path: &Path, full: bool, keys: Keys) -> Result<CheckReport, CheckError> {
    check_with(Arc::new(Disk::new(path)), full, keys)
}

/// Checks the spool in a storage.
pub fn check_storage(storage: Arc<dyn Storage>, full: bool) -> Result<CheckReport, CheckError> {
    check_with(storage, full, Keys::default())
}

/// Checks the spool in a storage that may be encrypted with these keys.
pub fn check_with(storage: Arc<dyn Storage>, full: bool, keys: Keys) -> Result<CheckReport, CheckError> {
    let mut report = CheckReport::default();
    let parts = read(storage.clone(), full, keys, &mut report)?;
    report.quarantined = match storage.list(quarantine::DAMAGED) {
        // Somebody has put it away.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        files => files?.into_iter().map(|file| file.name).collect(),
    };
    report.quarantined.sort_unstable();
    let mut live = Vec::new();
    parts.map.for_each(|id, location, pending, _| live.push((id, location, pending.to_vec())));
    live.sort_unstable_by_key(|(id, ..)| *id);
    for (id, location, pending) in live {
        report.messages += 1;
        report.recipients += pending.len() as u64;
        report.in_doubt += pending.iter().filter(|pending| pending.in_doubt.is_some()).count() as u64;
        report.live_set = crc32c::crc32c_append(report.live_set, &fingerprint(id, pending));
        if !is_sound(&*storage, &parts.ledger, id, location)? {
            report.damaged_messages.push(id.to_string());
        }
    }
    Ok(report)
}

/// The figures of a spool without a daemon.
pub fn stat(path: &Path, keys: Keys) -> Result<Stat, CheckError> {
    let mut report = CheckReport::default();
    let disk = Arc::new(Disk::new(path));
    let parts = read(disk.clone(), false, keys, &mut report)?;
    let mut stat = Stat {
        messages: parts.map.len() as u64,
        damaged: report.damaged.len() as u64,
        tail: report.tail.len() as u64,
        free: disk.space().map_or(0, |space| space.free),
        ..Stat::default()
    };
    parts.ledger.sum(&mut stat);
    Ok(stat)
}

struct Parts {
    map: Map,
    ledger: Ledger,
}

fn read(storage: Arc<dyn Storage>, full: bool, keys: Keys, report: &mut CheckReport) -> Result<Parts, CheckError> {
    let registry = Registry::new().map_err(io::Error::other)?;
    let ledger = Ledger::new(storage.clone(), keys, &registry, Box::new(|| {}));
    let parts = Parts { map: Map::default(), ledger };
    let mut sequences = Vec::new();
    for entry in storage.list(segment::DIRECTORY)? {
        if let Some(sequence) = segment::sequence_of(&entry.name, "seg") {
            sequences.push(sequence);
            let segment = Segment { size: entry.size, ..Segment::default() };
            parts.ledger.with(|segments| segments.insert(sequence, segment));
        }
    }
    sequences.sort_unstable();
    let image = Image::new(&parts.map, &parts.ledger);
    let checkpoint = if full { None } else { checkpoint::read(&*storage, &sequences)? };
    let covered = checkpoint.map_or(0, |checkpoint| image.restore(&checkpoint));
    for sequence in sequences {
        if sequence <= covered {
            report.segments += 1;
            report.covered += 1;
            continue;
        }
        let source = match source::read(&*storage, sequence, full, parts.ledger.keys()) {
            Ok(source) => source,
            // A running daemon may delete segments under us.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        report.segments += 1;
        let Some(source) = source else {
            report.unreadable_segments.push(sequence);
            continue;
        };
        report.indexed += u64::from(source.is_indexed);
        for (range, was_synced) in source.unreadable {
            let region = Region { segment: sequence, from: range.start, to: range.end };
            if was_synced { report.damaged.push(region) } else { report.tail.push(region) }
        }
        walk(sequence, &source.entries, &mut |location, frame| {
            report.records += 1;
            image.apply(location, frame);
        });
    }
    Ok(parts)
}

fn fingerprint(id: MessageId, mut pending: Vec<Pending>) -> Vec<u8> {
    pending.sort_unstable_by_key(|pending| pending.recipient);
    let mut octets = id.0.to_le_bytes().to_vec();
    for Pending { recipient, attempts, due, delay_reported, in_doubt } in pending {
        octets.extend_from_slice(format!("{recipient} {attempts} {} {delay_reported} {in_doubt:?}", due.0).as_bytes());
    }
    octets
}

/// Whether a message's record and content agree with their checksums.
fn is_sound(storage: &dyn Storage, ledger: &Ledger, id: MessageId, location: Location) -> Result<bool, CheckError> {
    let Position { segment, offset } = location.position;
    let (file, opener) = match ledger.reader(segment) {
        Ok(reader) => reader,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = vec![0; usize::try_from(location.octets).unwrap_or_default()];
    file.read_at(&mut bytes, offset)?;
    if opener.open(&mut bytes, offset).is_none() {
        return Ok(false);
    }
    let Some(frame) = Frame::trusted(&bytes).filter(|frame| codec::id(frame) == Some(id)) else { return Ok(false) };
    let Some(place) = codec::spill(&frame) else { return Ok(true) };
    let Ok(file) = storage.open(&spill::path(place.file)) else { return Ok(false) };
    let file = spill::reader(file, place.key, place.offset.saturating_add(place.length))?;
    Ok(checksum(&*file, place.offset, place.length).is_ok_and(|found| found == place.checksum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_spool_is_an_error() {
        let root = tempfile::tempdir().unwrap();

        assert!(check(root.path(), true, Keys::default()).is_err());
    }
}
