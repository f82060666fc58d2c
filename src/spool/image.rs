//! What a sequence of records amounts to: the unfinished messages and what their segments hold.
//!
//! Used by recovery and by the check of a spool. Records must be applied in the order of their positions.

use crate::log::record::Frame;
use crate::log::{Position, index};
use crate::message::MessageId;

use super::checkpoint::Checkpoint;
use super::codec;
use super::contract::{RecipientEvent, Recovered};
use super::ledger::Ledger;
use super::map::{Location, Map};

/// The parts that records are applied to.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// The unfinished messages.
    pub map: &'a Map,
    /// Their segments; all that exist must be in it already.
    pub ledger: &'a Ledger,
}

/// Calls `each` with every record of a segment's entries.
pub fn walk(sequence: u32, entries: &[u8], each: &mut dyn FnMut(Location, &Frame<'_>)) {
    index::each(entries, &mut |offset, frame| {
        let position = Position { segment: sequence, offset };
        each(Location { position, octets: frame.lengths.total() }, frame);
    });
}

impl Image<'_> {
    /// Takes over a checkpoint; the last segment that it covers.
    pub fn restore(&self, checkpoint: &Checkpoint) -> u32 {
        let mut gone = Vec::new();
        for (sequence, found) in checkpoint.segments() {
            self.ledger.with(|segments| {
                if !segments.contains_key(&sequence) {
                    gone.push(sequence);
                }
                let segment = segments.entry(sequence).or_default();
                segment.refers.extend(found.refers);
                segment.copied_to.extend(found.copied_to);
                segment.is_given_up |= found.is_given_up;
            });
        }
        self.ledger.forget(&gone);
        for (id, location, pending, spill) in checkpoint.messages() {
            // It was finished or copied since, or its segment could not have gone.
            if !self.ledger.exists(location.position.segment) {
                continue;
            }
            let mut shard = self.map.shard(id);
            shard.insert(id, location, &pending);
            if let Some(number) = spill {
                shard.note_spill(id, number);
            }
            drop(shard);
            self.ledger.add(location);
        }
        checkpoint.through
    }

    /// Applies one record to the map and the ledger.
    pub fn apply(&self, location: Location, frame: &Frame<'_>) {
        let Some(id) = codec::id(frame) else { return };
        self.refer(location, id);
        match frame.kind() {
            codec::MESSAGE => {
                if let Some((concluded, events)) = codec::concludes(frame) {
                    self.refer(location, concluded);
                    self.finish(concluded, &events);
                }
                match codec::copied_from(frame).filter(|from| self.ledger.exists(*from)) {
                    Some(from) => self.ledger.note_copy(from, location.position.segment),
                    None => self.insert(id, location, frame),
                }
            }
            codec::EVENTS => self.finish(id, &codec::events(frame)),
            codec::ATTEMPT => {
                if let Some((recipients, mx)) = codec::attempt(frame) {
                    self.map.shard(id).attempt(id, &recipients, mx);
                }
            }
            codec::WITHDRAWN => {
                let removed = {
                    let mut shard = self.map.shard(id);
                    shard.take_spill(id);
                    shard.remove(id)
                };
                if let Some(location) = removed {
                    self.ledger.release(location);
                }
            }
            _ => {}
        }
    }

    fn insert(&self, id: MessageId, location: Location, frame: &Frame<'_>) {
        let (earlier, is_live) = {
            let mut shard = self.map.shard(id);
            let earlier = shard.find(id);
            shard.insert(id, location, &codec::unfinished(frame));
            if let Some(place) = codec::spill(frame) {
                shard.note_spill(id, place.file);
            }
            (earlier, shard.find(id).is_some())
        };
        if let Some(earlier) = earlier {
            self.ledger.release(earlier);
        }
        if is_live {
            self.ledger.add(location);
        }
    }

    fn finish(&self, id: MessageId, events: &[RecipientEvent]) {
        let applied = {
            let mut shard = self.map.shard(id);
            let applied = shard.apply(id, events);
            if applied.is_some_and(|applied| applied.is_finished) {
                shard.take_spill(id);
            }
            applied
        };
        if let Some(applied) = applied.filter(|applied| applied.is_finished) {
            self.ledger.release(applied.location);
        }
    }

    /// A record at `location` is about message `id`, whose segment must go first.
    fn refer(&self, location: Location, id: MessageId) {
        let Some(about) = self.map.shard(id).find(id) else { return };
        let (here, there) = (location.position.segment, about.position.segment);
        if here != there {
            self.ledger.with(|segments| segments.entry(here).or_default().refers.insert(there));
        }
    }

    /// The id of the message in this record, if it is the record that the map names.
    pub fn live(&self, location: Location, frame: &Frame<'_>) -> Option<MessageId> {
        let id = codec::id(frame).filter(|_| frame.kind() == codec::MESSAGE)?;
        (self.map.shard(id).find(id) == Some(location)).then_some(id)
    }

    /// A live message; `None` if its envelope does not make sense.
    pub fn raise(&self, id: MessageId, frame: &Frame<'_>) -> Option<Recovered> {
        let pending = self.map.shard(id).pending(id);
        Some(Recovered { id, envelope: codec::envelope(frame)?, pending })
    }
}
