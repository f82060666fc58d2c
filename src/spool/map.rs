//! The unfinished messages: where each one is and what is left to do for it.
//!
//! Sharded by id. A message with one recipient, which is nearly every one, takes 28 octets and its share of the table's
//! free places; what is rarer (several recipients, an attempt in flight) is kept beside the table. Deliveries, the
//! submission side and compaction call in at any time; recovery fills it while nobody knows of its messages yet.

use std::collections::HashMap;
use std::net::SocketAddr;

use foldhash::fast::FixedState;
use parking_lot::{Mutex, MutexGuard};

use crate::clock::UnixTime;
use crate::log::Position;
use crate::log::wire::aligned;
use crate::message::MessageId;

use super::contract::{Event, Pending, RecipientEvent};

const SHARDS: usize = 64;

/// Where a message's record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Its first octet.
    pub position: Position,
    /// How many octets it takes there.
    pub octets: u64,
}

/// A message id in two halves, so that the table needs no alignment to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key(u32, u32);

#[derive(Clone, Copy, Debug)]
struct Entry {
    segment: u32,
    /// In units of 8 octets, as everything in a segment is aligned: segments up to 32 GiB.
    offset: u32,
    /// In units of 8 octets.
    octets: u32,
    /// Of the only recipient, unless `has_more`.
    due: u32,
    attempts: u16,
    delay_reported: bool,
    /// The recipients are in `Shard::several`.
    has_more: bool,
}

impl Entry {
    fn location(&self) -> Location {
        let position = Position { segment: self.segment, offset: u64::from(self.offset) * 8 };
        Location { position, octets: u64::from(self.octets) * 8 }
    }
}

/// Part of the map, under one lock.
#[derive(Debug, Default)]
pub struct Shard {
    entries: HashMap<Key, Entry, FixedState>,
    /// Unfinished recipients of messages with several, or with another one than the first.
    several: HashMap<MessageId, Vec<Pending>, FixedState>,
    /// Where the content is of messages that have it in a spill file.
    spilled: HashMap<MessageId, Spill, FixedState>,
    /// Messages that a DSN on its way to the disk is about.
    concluding: HashMap<MessageId, u32, FixedState>,
    /// Attempts without an outcome.
    in_flight: HashMap<MessageId, Vec<(u32, SocketAddr)>, FixedState>,
}

/// A content in a spill file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spill {
    /// Number of the file.
    pub file: u64,
    /// Its octets there; 0: not known.
    pub length: u64,
}

/// The result of applying events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Where the message is.
    pub location: Location,
    /// No recipient is left; the message has been taken out.
    pub is_finished: bool,
}

/// All unfinished messages.
#[derive(Debug)]
pub struct Map {
    shards: Box<[Mutex<Shard>]>,
}

impl Default for Map {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

fn key(id: MessageId) -> Key {
    let low = u32::try_from(id.0 & u64::from(u32::MAX)).unwrap_or_default();
    Key(low, u32::try_from(id.0 >> 32).unwrap_or_default())
}

fn in_eights(octets: u64) -> u32 {
    u32::try_from(aligned(octets) / 8).unwrap_or(u32::MAX)
}

impl Map {
    /// Locks the part that holds this id. Taken before any lock of the log.
    #[allow(clippy::indexing_slicing, reason = "the index is below the constant number of shards")]
    pub fn shard(&self, id: MessageId) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(id.0 % SHARDS as u64).unwrap_or_default();
        self.shards[index].lock()
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().entries.len()).sum()
    }

    /// All messages: where they are, what is left to do, their spill file. One shard after the other, so not one moment for
    /// all of them.
    pub fn for_each(&self, mut each: impl FnMut(MessageId, Location, &[Pending], Option<Spill>)) {
        for shard in &self.shards {
            let shard = shard.lock();
            for (key, entry) in &shard.entries {
                let id = MessageId(u64::from(key.1) << 32 | u64::from(key.0));
                each(id, entry.location(), &shard.pending(id), shard.spilled.get(&id).copied());
            }
        }
    }

    /// Numbers of all spill files that are referred to.
    pub fn spills(&self) -> Vec<u64> {
        let files = |shard: &Mutex<Shard>| shard.lock().spilled.values().map(|spill| spill.file).collect::<Vec<_>>();
        self.shards.iter().flat_map(files).collect()
    }
}

impl Shard {
    /// Puts a message in, in place of an earlier copy.
    pub fn insert(&mut self, id: MessageId, location: Location, pending: &[Pending]) {
        let mut entry = Entry {
            segment: location.position.segment,
            offset: in_eights(location.position.offset),
            octets: in_eights(location.octets),
            due: 0,
            attempts: 0,
            delay_reported: false,
            has_more: true,
        };
        self.several.remove(&id);
        self.in_flight.remove(&id);
        match pending {
            [] => {
                self.entries.remove(&key(id));
                return;
            }
            [only] if only.recipient == 0 => {
                entry.due = only.due.0;
                entry.attempts = only.attempts;
                entry.delay_reported = only.delay_reported;
                entry.has_more = false;
            }
            several => drop(self.several.insert(id, several.to_vec())),
        }
        self.entries.insert(key(id), entry);
        for pending in pending {
            if let Some(mx) = pending.in_doubt {
                self.attempt(id, &[pending.recipient], mx);
            }
        }
    }

    /// Where a message is.
    pub fn find(&self, id: MessageId) -> Option<Location> {
        self.entries.get(&key(id)).map(Entry::location)
    }

    /// About how many octets its record and its content are; at least those of the content, if they are known. 0 if there is
    /// no such message.
    pub fn length(&self, id: MessageId) -> u64 {
        let Some(location) = self.find(id) else { return 0 };
        location.octets.saturating_add(self.spilled.get(&id).map_or(0, |spill| spill.length))
    }

    /// Takes a message out.
    pub fn remove(&mut self, id: MessageId) -> Option<Location> {
        self.several.remove(&id);
        self.in_flight.remove(&id);
        self.entries.remove(&key(id)).map(|entry| entry.location())
    }

    /// A DSN about the message is on its way to the disk.
    pub fn begin_conclusion(&mut self, id: MessageId) {
        *self.concluding.entry(id).or_default() += 1;
    }

    /// The DSN has arrived or failed.
    pub fn end_conclusion(&mut self, id: MessageId) {
        if let Some(count) = self.concluding.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.concluding.remove(&id);
            }
        }
    }

    /// Whether a DSN about the message is on its way to the disk.
    pub fn is_concluding(&self, id: MessageId) -> bool {
        self.concluding.contains_key(&id)
    }

    /// The message's content lies in this spill file.
    pub fn note_spill(&mut self, id: MessageId, spill: Spill) {
        self.spilled.insert(id, spill);
    }

    /// Takes the number of the message's spill file.
    pub fn take_spill(&mut self, id: MessageId) -> Option<u64> {
        self.spilled.remove(&id).map(|spill| spill.file)
    }

    /// The record is now elsewhere.
    pub fn relocate(&mut self, id: MessageId, location: Location) {
        if let Some(entry) = self.entries.get_mut(&key(id)) {
            entry.segment = location.position.segment;
            entry.offset = in_eights(location.position.offset);
            entry.octets = in_eights(location.octets);
        }
    }

    /// Notes that content is about to leave. False if there is no such message.
    pub fn attempt(&mut self, id: MessageId, recipients: &[u32], mx: SocketAddr) -> bool {
        if !self.entries.contains_key(&key(id)) {
            return false;
        }
        let flights = self.in_flight.entry(id).or_default();
        for &recipient in recipients {
            flights.retain(|(other, _)| *other != recipient);
            flights.push((recipient, mx));
        }
        true
    }

    /// Applies events; `None` if there is no such message.
    pub fn apply(&mut self, id: MessageId, events: &[RecipientEvent]) -> Option<Applied> {
        let entry = self.entries.get_mut(&key(id))?;
        let location = entry.location();
        if let Some(flights) = self.in_flight.get_mut(&id) {
            flights.retain(|(recipient, _)| !events.iter().any(|event| event.recipient == *recipient));
            if flights.is_empty() {
                self.in_flight.remove(&id);
            }
        }
        let is_finished = if entry.has_more {
            let several = self.several.entry(id).or_default();
            events.iter().for_each(|event| apply_to_several(several, event));
            several.is_empty()
        } else {
            events.iter().filter(|event| event.recipient == 0).any(|event| apply_to_only(entry, event))
        };
        if is_finished {
            self.remove(id);
        }
        Some(Applied { location, is_finished })
    }

    /// What is left to do for a message.
    pub fn pending(&self, id: MessageId) -> Vec<Pending> {
        let Some(entry) = self.entries.get(&key(id)) else { return Vec::new() };
        let mut pending = if entry.has_more {
            self.several.get(&id).cloned().unwrap_or_default()
        } else {
            let (attempts, due) = (entry.attempts, UnixTime(entry.due));
            vec![Pending { recipient: 0, attempts, due, delay_reported: entry.delay_reported, in_doubt: None }]
        };
        let flights = self.in_flight.get(&id).map(Vec::as_slice).unwrap_or_default();
        for pending in &mut pending {
            let flight = flights.iter().find(|(recipient, _)| *recipient == pending.recipient);
            pending.in_doubt = flight.map(|(_, mx)| *mx);
        }
        pending
    }
}

/// Whether the only recipient is finished now.
fn apply_to_only(entry: &mut Entry, event: &RecipientEvent) -> bool {
    let Event::Deferred { attempts, due, delay_reported } = event.event else { return true };
    entry.attempts = attempts;
    entry.due = due.0;
    entry.delay_reported = delay_reported;
    false
}

fn apply_to_several(several: &mut Vec<Pending>, event: &RecipientEvent) {
    let Some(at) = several.iter().position(|pending| pending.recipient == event.recipient) else { return };
    let Event::Deferred { attempts, due, delay_reported } = event.event else {
        several.swap_remove(at);
        return;
    };
    if let Some(pending) = several.get_mut(at) {
        *pending = Pending { attempts, due, delay_reported, in_doubt: None, ..*pending };
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::fresh;
    use super::*;

    const HERE: Location = Location { position: Position { segment: 3, offset: 4096 }, octets: 104 };
    const ID: MessageId = MessageId(77);

    fn event(recipient: u32, event: Event) -> RecipientEvent {
        RecipientEvent { recipient, event }
    }

    #[test]
    fn an_entry_of_a_single_recipient_takes_28_octets() {
        assert_eq!(size_of::<(Key, Entry)>(), 28);
    }

    #[test]
    fn a_message_ends_with_its_last_recipient() {
        let map = Map::default();
        let mut shard = map.shard(ID);
        shard.insert(ID, HERE, &fresh(3));

        let first = shard.apply(ID, &[event(2, Event::Delivered), event(0, Event::Bounced)]);
        let again = shard.apply(ID, &[event(2, Event::Delivered)]);
        let last = shard.apply(ID, &[event(1, Event::Expired)]);

        assert_eq!(first, Some(Applied { location: HERE, is_finished: false }));
        assert_eq!(again, first);
        assert_eq!(last, Some(Applied { location: HERE, is_finished: true }));
        assert_eq!(shard.find(ID), None);
    }

    #[test]
    fn an_attempt_is_in_doubt_until_its_outcome() {
        let map = Map::default();
        let mx: SocketAddr = "192.0.2.1:25".parse().unwrap();
        let mut shard = map.shard(ID);
        shard.insert(ID, HERE, &fresh(1));

        shard.attempt(ID, &[0], mx);
        assert_eq!(shard.pending(ID)[0].in_doubt, Some(mx));

        shard.apply(ID, &[event(0, Event::Deferred { attempts: 1, due: UnixTime(60), delay_reported: false })]);
        assert_eq!(shard.pending(ID)[0].in_doubt, None);
        assert_eq!(shard.pending(ID)[0].attempts, 1);
    }
}
