//! The log of changes: segments of at most 8 MiB in the spool's record format, `state/suppression/<16 hex digits>.log`.
//!
//! A batch of records is one write and one sync. A write or sync that fails ends its segment: nothing more is written to it, and
//! the next batch goes to a new one. Segments of earlier starts are never written either. Segments go only from the oldest on, so
//! a removal outlives everything that it removes.
//!
//! The first batch of a segment names the end of what was confirmed before it. What lies between was written by a batch that failed:
//! it is not in force, however much of it can be read.
//!
//! The inventory ([`inventory`]) says which segments there are, and since the last stop where what was confirmed ended.
//!
//! At the start unreadable octets are copied to `quarantine/` when they had been known to be synced, else to `quarantine/tail/`, and told
//! as a [`Finding`]; what follows them is read all the same.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use crate::log::record::{Frame, seal};
use crate::log::scan::{self, Scan};
use crate::log::segment::{BATCH, Batch, COPY, FIRST, Header, sequence_of};
use crate::log::storage::{Storage, StorageFile};
use crate::log::{Position, index};

use super::brief::{MOST_SEGMENT, SLOTS};
use super::inventory::{self, Inventory, Noted};

/// Where segments are.
pub const DIRECTORY: &str = "state/suppression";
/// Where copies of damage go.
const DAMAGED: &str = "quarantine";
/// Where copies of unfinished writes go.
const TAIL: &str = "quarantine/tail";
const EXTENSION: &str = "log";

/// Threads that read at the start. Each has a segment in memory, and more would wait for the one that makes the index.
const MOST_READERS: usize = 2;
/// As many records as there are in the fullest segment, or nearly so: the least ones have 24 octets, those of people 70.
const MOST_RECORDS: usize = 1 << 18;
/// Octets that are read for one record: more than the longest one has.
const MOST_RECORD: usize = 4_096;

/// What was wrong with the files at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which file, within the spool.
    pub file: String,
    /// Which octets of it.
    pub range: Range<u64>,
    /// What it is.
    pub kind: FindingKind,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// Octets that had been synced cannot be read: entries or removals are lost. A copy is in `quarantine`.
    Damaged,
    /// Octets that are not known to have been synced: changes that were not confirmed. A copy is in `quarantine/tail`.
    Tail,
    /// The file is not there.
    Missing,
    /// What says which files there are is damaged: it cannot be told whether the oldest or newest ones are missing.
    Unlisted,
}

/// A segment that can be read.
#[derive(Clone, Debug)]
pub struct Segment {
    header: Header,
    /// Its records.
    pub records: u64,
    /// The end of what is in force in it.
    end: u64,
    /// The end of what is known to have been confirmed: what cannot be read before it is damage.
    known: u64,
    /// What could not be read at the start, and was told.
    unreadable: Vec<Range<u64>>,
}

/// The segment that is written.
#[derive(Debug)]
struct Active {
    file: Arc<dyn StorageFile>,
    header: Header,
    end: u64,
    batches: u64,
}

/// A segment that was read at the start.
struct Loaded<T> {
    file: Arc<dyn StorageFile>,
    /// What is in it, if something cannot be read.
    octets: Vec<u8>,
    /// Header, number of records, and what was seen beside them; none: its header is damaged.
    scanned: Option<(Header, u64, Scan)>,
    /// The end of what is in force in it, as far as later segments tell.
    end: Option<u64>,
    /// The end of what is known to have been confirmed, as far as they or the inventory tell.
    known: u64,
    /// What was made of each record that is in force.
    made: Vec<T>,
}

impl<T> Loaded<T> {
    fn read(
        storage: &dyn Storage,
        sequence: u32,
        (end, known): (Option<u64>, u64),
        read: impl Fn(Position, &Frame<'_>) -> io::Result<T>,
    ) -> io::Result<Self> {
        let known = known.max(end.unwrap_or_default());
        let file = storage.open(&path(sequence))?;
        let mut octets = octets(&*file, file.size()?)?;
        // As with the octets.
        let (mut made, mut records, mut failure) = (Vec::with_capacity(MOST_RECORDS), 0, None);
        let scanned = Header::read(&*file, sequence)?.map(|header| {
            let mut scan = scan::segment(&octets, &header, known, &mut |found| {
                let place = Position { segment: sequence, offset: found.offset };
                if failure.is_none() && end.is_none_or(|end| found.offset < end) {
                    match read(place, &found.frame) {
                        Ok(one) => made.push(one),
                        Err(error) => failure = Some(error),
                    }
                }
                records += 1;
            });
            let size = octets.len() as u64;
            if size < known {
                let start = scan.unreadable.pop_if(|last| last.end == size).map_or(size, |last| last.start);
                scan.unreadable.push(start..known);
            }
            (header, records, scan)
        });
        if scanned.as_ref().is_some_and(|(_, _, scan)| scan.unreadable.is_empty()) {
            octets = Vec::new();
        }
        failure.map_or(Ok(Self { file, octets, scanned, end, known, made }), Err)
    }
}

/// All segments.
#[derive(Debug)]
pub struct Segments {
    storage: Arc<dyn Storage>,
    all: BTreeMap<u32, Segment>,
    active: Option<Active>,
    /// The number of the oldest one, though it be missing.
    oldest: u32,
    /// The number of the next one.
    next: u32,
    /// What the inventory says, if it can be believed.
    noted: Option<Inventory>,
    /// The end of what is known to be synced.
    synced: Position,
    /// A batch failed, and no later one tells the next start that it is not in force.
    is_doubtful: bool,
    /// Octets of a segment at most.
    most: u64,
}

/// The path of a segment.
pub fn path(sequence: u32) -> String {
    format!("{DIRECTORY}/{sequence:016x}.{EXTENSION}")
}

/// The name of a copy of unreadable octets.
fn copy(sequence: u32, offset: u64) -> String {
    format!("suppression-{sequence:016x}-{offset:010x}")
}

/// Whether there is a segment, or was one.
pub fn has_any(storage: &dyn Storage) -> io::Result<bool> {
    let is_segment = |name: &str| sequence_of(name, EXTENSION).is_some();
    let is_inventory = |name: &str| format!("{DIRECTORY}/{name}") == inventory::FILE;
    Ok(storage.list(DIRECTORY)?.iter().any(|entry| is_segment(&entry.name) || is_inventory(&entry.name)))
}

/// Reads so many octets of a segment from its beginning on, fewer if it ends before.
fn octets(file: &dyn StorageFile, length: u64) -> io::Result<Vec<u8>> {
    if length > MOST_SEGMENT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a file is longer than any that is written here"));
    }
    // Room that is not used takes no memory, and allocators give what is so large back to the system at once.
    let mut octets = Vec::with_capacity(usize::try_from(MOST_SEGMENT).map_err(io::Error::other)?);
    octets.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
    let read = file.read_at(&mut octets, 0)?;
    octets.truncate(read);
    Ok(octets)
}

impl Segments {
    /// Reads all segments: `read` makes something of every record and its place, or refuses it, on threads of its own; `take` gets what
    /// it made, the oldest first.
    pub fn open<T: Send>(
        storage: Arc<dyn Storage>,
        most: u64,
        read: impl Fn(Position, &Frame<'_>) -> io::Result<T> + Sync,
        mut take: impl FnMut(Vec<T>),
    ) -> io::Result<(Self, Vec<Finding>)> {
        let mut segments = Self::begin(storage, most);
        let mut findings = Vec::new();
        let sequences = segments.look(&mut findings)?;
        let ends = segments.ends(&sequences)?;
        let (storage, read, noted) = (segments.storage.clone(), &read, segments.noted);
        let loaded = |sequence: &u32| {
            let known = noted.filter(|noted| noted.synced.segment == *sequence).map_or(0, |noted| noted.synced.offset);
            Loaded::read(&*storage, *sequence, (ends.get(sequence).copied(), known), read)
        };
        let (sequences, loaded) = (&sequences, &loaded);
        thread::scope(|scope| {
            let readers = thread::available_parallelism().map_or(1, |count| count.get().min(MOST_READERS));
            let begin = |first| {
                // What has been read waits until it is taken: there is one segment of each reader in memory.
                let (out, results) = sync_channel(0);
                let own = sequences.iter().skip(first).step_by(readers);
                scope.spawn(move || own.map(loaded).all(|result| out.send(result).is_ok()));
                results
            };
            let readers: Vec<Receiver<io::Result<Loaded<T>>>> = (0..readers).map(begin).collect();
            for (sequence, reader) in sequences.iter().zip(readers.iter().cycle()) {
                let mut loaded = reader.recv().map_err(io::Error::other)??;
                take(std::mem::take(&mut loaded.made));
                segments.enter(*sequence, loaded, &mut findings)?;
                segments.next = segments.next.max(sequence.checked_add(1).ok_or(io::ErrorKind::StorageFull)?);
            }
            Ok((segments, findings))
        })
    }

    fn begin(storage: Arc<dyn Storage>, most: u64) -> Self {
        let (all, synced) = (BTreeMap::new(), Position::default());
        Self { storage, all, active: None, oldest: 1, next: 1, noted: None, synced, is_doubtful: false, most }
    }

    /// The numbers of the segments that are there, ascending; what is missing is found.
    fn look(&mut self, findings: &mut Vec<Finding>) -> io::Result<Vec<u32>> {
        let mut there = BTreeMap::new();
        for entry in self.storage.list(DIRECTORY)? {
            there.extend(sequence_of(&entry.name, EXTENSION).map(|sequence| (sequence, entry.size)));
        }
        match Inventory::read(&*self.storage)? {
            Noted::Inventory(noted) => self.noted = (!noted.is_stale(&there)).then_some(noted),
            Noted::Damaged => {
                let (file, kind) = (inventory::FILE.to_owned(), FindingKind::Unlisted);
                findings.push(Finding { file, range: 0..0, kind });
            }
            Noted::Nothing => {}
        }
        // A segment whose header was damaged is there as a copy, and was told when it was made.
        let kept: Vec<String> = self.storage.list(DAMAGED)?.into_iter().map(|entry| entry.name).collect();
        let gaps = inventory::gaps(&there, self.noted.as_ref()).into_iter();
        for sequence in gaps.filter(|sequence| !kept.contains(&copy(*sequence, 0))) {
            findings.push(Finding { file: path(sequence), range: 0..0, kind: FindingKind::Missing });
        }
        self.next = self.noted.map_or(1, |noted| noted.next);
        let oldest = self.noted.map(|noted| noted.oldest).into_iter().chain(there.keys().next().copied()).min();
        self.oldest = oldest.unwrap_or(self.next);
        Ok(there.into_keys().collect())
    }

    /// Where what is in force ends in each segment, as far as the first batches of later ones tell.
    fn ends(&self, sequences: &[u32]) -> io::Result<HashMap<u32, u64>> {
        let mut ends = HashMap::new();
        let mut least: Option<Position> = None;
        for sequence in sequences.iter().rev() {
            if let Some(least) = least.filter(|least| least.segment <= *sequence) {
                ends.insert(*sequence, if least.segment == *sequence { least.offset } else { FIRST });
            }
            let file = self.storage.open(&path(*sequence))?;
            let Some(header) = Header::read(&*file, *sequence)? else { continue };
            let mut octets = [0; BATCH];
            file.read_at(&mut octets, FIRST)?;
            if let Some(Batch { synced, .. }) = Batch::read(&octets, header.seal(), FIRST) {
                least = Some(least.map_or(synced, |least| least.min(synced)));
            }
        }
        Ok(ends)
    }

    /// Makes a segment that was read one of those that are there.
    fn enter<T>(&mut self, sequence: u32, loaded: Loaded<T>, findings: &mut Vec<Finding>) -> io::Result<()> {
        let name = path(sequence);
        let Loaded { file, octets, scanned, end, known: told, .. } = loaded;
        let Some((header, records, scan)) = scanned else {
            let range = 0..octets.len() as u64;
            self.quarantine(DAMAGED, sequence, 0, &octets)?;
            findings.push(Finding { file: name.clone(), range, kind: FindingKind::Damaged });
            self.storage.remove(&name)?;
            return self.storage.sync_dir(DIRECTORY);
        };
        let known = scan.synced.iter().filter(|at| at.segment == sequence).map(|at| at.offset).max();
        let known = known.unwrap_or_default().max(told);
        let end = end.unwrap_or(scan.end);
        for range in scan.unreadable.clone() {
            let is_damage = range.start < known;
            let (shelf, kind) = if is_damage { (DAMAGED, FindingKind::Damaged) } else { (TAIL, FindingKind::Tail) };
            let slice =
                usize::try_from(range.start).unwrap_or(usize::MAX)..usize::try_from(range.end).unwrap_or(usize::MAX);
            let lost = octets.get(slice.start.min(octets.len())..slice.end.min(octets.len())).unwrap_or_default();
            if self.quarantine(shelf, sequence, range.start, lost)? {
                findings.push(Finding { file: name.clone(), range, kind });
            }
        }
        // What a killed process wrote and did not sync is in force from here on.
        file.sync_data()?;
        self.synced = Position { segment: sequence, offset: end };
        self.all.insert(sequence, Segment { header, records, end, known, unreadable: scan.unreadable });
        Ok(())
    }

    /// Keeps a copy; false if there was one already, on whichever shelf: then it was told at an earlier start.
    fn quarantine(&self, shelf: &str, sequence: u32, offset: u64, octets: &[u8]) -> io::Result<bool> {
        let name = copy(sequence, offset);
        for shelf in [DAMAGED, TAIL] {
            if self.storage.list(shelf)?.iter().any(|entry| entry.name == name && entry.size == octets.len() as u64) {
                return Ok(false);
            }
        }
        index::replace(&*self.storage, shelf, &format!("{shelf}/{name}"), &[IoSlice::new(octets)])?;
        Ok(true)
    }

    /// Makes a segment with this number; its name is durable on return.
    fn create(&self, sequence: u32) -> io::Result<Active> {
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        let salt = u64::from_le_bytes(salt);
        let header = Header { sequence, salt, size: MOST_SEGMENT, start: 0, binding: None };
        let octets = header.encode();
        let mut page = octets.clone();
        page.resize(usize::try_from(COPY).map_err(io::Error::other)?, 0);
        page.extend_from_slice(&octets);
        page.resize(usize::try_from(FIRST).map_err(io::Error::other)?, 0);
        index::replace(&*self.storage, DIRECTORY, &path(sequence), &[IoSlice::new(&page)])?;
        let file = self.storage.open(&path(sequence))?;
        Ok(Active { file, header, end: FIRST, batches: 0 })
    }

    /// The segment to write these octets to.
    fn active(&mut self, length: u64) -> io::Result<&mut Active> {
        if self.active.as_ref().is_some_and(|active| active.end + length > self.most) {
            self.active = None;
        }
        if self.active.is_none() {
            let oldest = self.all.keys().next().copied().unwrap_or(self.next);
            if self.next - oldest >= SLOTS - 1 {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "the suppression list has too many segments"));
            }
            let active = self.create(self.next)?;
            self.all.insert(
                self.next,
                Segment { header: active.header, records: 0, end: FIRST, known: FIRST, unreadable: Vec::new() },
            );
            self.next = self.next.checked_add(1).ok_or(io::ErrorKind::StorageFull)?;
            self.oldest = oldest;
            self.active = Some(active);
        }
        if self.noted.is_none_or(|noted| noted.next != self.next) {
            self.note()?;
        }
        self.active.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Has the inventory say what is there.
    fn note(&mut self) -> io::Result<()> {
        let inventory = Inventory { oldest: self.oldest, next: self.next, synced: self.synced };
        if self.noted != Some(inventory) {
            // After an error either of them may be there.
            self.noted = None;
            inventory.write(&*self.storage)?;
            self.noted = Some(inventory);
        }
        Ok(())
    }

    /// Notes where what was confirmed ends, if there is anything.
    pub fn close(&mut self) -> io::Result<()> {
        if self.all.is_empty() && self.noted.is_none() { Ok(()) } else { self.note() }
    }

    /// Octets of a batch's records at most.
    pub fn most_batch(&self) -> usize {
        usize::try_from(self.most / 2).unwrap_or(usize::MAX)
    }

    /// Whether what was not confirmed may be in force after a restart, since nothing was appended after it.
    pub fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// Appends records that are not sealed yet, of at most [`Segments::most_batch`] octets, which begin at `starts`. When it returns,
    /// they are on stable storage, the first of them at the place that it gives. After an error they are in force at the next
    /// start or not, unless something is appended until then: then they are not.
    pub fn append(&mut self, records: &mut [u8], starts: &[usize]) -> io::Result<Position> {
        let appended = self.try_append(records, starts);
        self.is_doubtful = appended.is_err();
        appended
    }

    fn try_append(&mut self, records: &mut [u8], starts: &[usize]) -> io::Result<Position> {
        let synced = self.synced;
        let length = records.len() as u64;
        let active = self.active(BATCH as u64 + length)?;
        let (header, offset) = (active.header, active.end);
        let first = offset + BATCH as u64;
        for (at, start) in starts.iter().enumerate() {
            let end = starts.get(at + 1).copied().unwrap_or(records.len());
            if let Some(record) = records.get_mut(*start..end) {
                seal(record, header.seal(), first + *start as u64);
            }
        }
        let batch = Batch { number: active.batches, length, offset, synced };
        let batch = batch.encode(header.seal());
        let written = active.file.write_at(&[IoSlice::new(&batch), IoSlice::new(records)], offset);
        if let Err(error) = written.and_then(|()| active.file.sync_data()) {
            // The kernel forgets what it could not write: a later sync of this file would say nothing of it.
            self.active = None;
            return Err(error);
        }
        active.end = first + length;
        active.batches += 1;
        self.synced = Position { segment: header.sequence, offset: active.end };
        if let Some(segment) = self.all.get_mut(&header.sequence) {
            segment.records += starts.len() as u64;
            (segment.end, segment.known) = (self.synced.offset, self.synced.offset);
        }
        Ok(Position { segment: header.sequence, offset: first })
    }

    /// The record at a place of the segment whose number has these lowest bits. `None`: there is none, or it is damaged.
    pub fn read<T>(&self, slot: u32, offset: u64, read: impl FnOnce(&Frame<'_>) -> T) -> io::Result<Option<T>> {
        let Some((sequence, segment)) = self.all.iter().find(|(sequence, _)| *sequence % SLOTS == slot) else {
            return Ok(None);
        };
        let file = self.storage.open(&path(*sequence))?;
        let mut octets = [0; MOST_RECORD];
        let length = file.read_at(&mut octets, offset)?;
        let frame = Frame::read(octets.get(..length).unwrap_or_default(), segment.header.seal(), offset);
        Ok(frame.map(|frame| read(&frame)))
    }

    /// Opens a segment to read it beside whoever writes.
    pub fn reader(&self, sequence: u32) -> io::Result<Reader> {
        let segment = self.all.get(&sequence).ok_or(io::ErrorKind::NotFound)?;
        let file = self.storage.open(&path(sequence))?;
        Ok(Reader { octets: octets(&*file, segment.end)?, segment: segment.clone() })
    }

    /// Where what was confirmed ends.
    pub fn end(&self) -> Position {
        self.synced
    }

    /// The number of the first segment from this one on.
    pub fn from(&self, sequence: u32) -> Option<u32> {
        self.all.range(sequence..).next().map(|(sequence, _)| *sequence)
    }

    /// The number of the last segment up to this one.
    pub fn up_to(&self, sequence: u32) -> Option<u32> {
        self.all.range(..=sequence).next_back().map(|(sequence, _)| *sequence)
    }

    /// The oldest segment, if it is not the one that is written.
    pub fn oldest(&self) -> Option<u32> {
        let oldest = *self.all.keys().next()?;
        let is_active = self.active.as_ref().is_some_and(|active| active.header.sequence == oldest);
        (!is_active).then_some(oldest)
    }

    /// Removes the oldest segment, of which nothing is needed any more.
    pub fn remove_oldest(&mut self) -> io::Result<()> {
        let Some(oldest) = self.oldest() else { return Ok(()) };
        // Had the one before it come back after a crash, what is removed by this one would, too.
        self.storage.sync_dir(DIRECTORY)?;
        self.oldest = self.all.keys().nth(1).copied().unwrap_or(self.next);
        self.note()?;
        self.storage.remove(&path(oldest))?;
        self.all.remove(&oldest);
        self.storage.sync_dir(DIRECTORY)
    }

    /// Records in all segments.
    pub fn records(&self) -> u64 {
        self.all.values().map(|segment| segment.records).sum()
    }

    /// Octets of all segments.
    pub fn octets(&self) -> u64 {
        self.all.values().map(|segment| segment.end).sum()
    }

    /// Segments, and the numbers that they span.
    pub fn count(&self) -> (usize, u32) {
        let span = self.all.keys().next().map_or(0, |oldest| self.next - oldest);
        (self.all.len(), span)
    }
}

/// A segment that was read into memory.
#[derive(Debug)]
pub struct Reader {
    octets: Vec<u8>,
    segment: Segment,
}

impl Reader {
    /// Calls `each` with the place and the frame of every record. An error: octets that could be read at the start cannot be now.
    pub fn each(&self, each: &mut dyn FnMut(Position, &Frame<'_>)) -> io::Result<()> {
        let Segment { header, known, unreadable, .. } = &self.segment;
        let segment = header.sequence;
        let scan = scan::segment(&self.octets, header, *known, &mut |found| {
            each(Position { segment, offset: found.offset }, &found.frame);
        });
        // The octets end where those that are in force do, and so does what is unreadable at their end.
        let is_told =
            |range: &Range<u64>| unreadable.iter().any(|told| told.start <= range.start && range.end <= told.end);
        match scan.unreadable.iter().find(|range| !is_told(range)) {
            None => Ok(()),
            Some(Range { start, end }) => {
                let text = format!("{} is damaged from octet {start} to {end}", path(segment));
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
        }
    }

    /// The record at a place.
    pub fn frame(&self, offset: u64) -> Option<Frame<'_>> {
        let octets = self.octets.get(usize::try_from(offset).ok()?..)?;
        Frame::read(octets, self.segment.header.seal(), offset)
    }

    /// Its number.
    pub fn sequence(&self) -> u32 {
        self.segment.header.sequence
    }
}
