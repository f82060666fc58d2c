//! What a sequence of records amounts to: the unfinished messages and what their segments hold.
//!
//! Used by recovery and by the check of a spool. Records must be applied in the order of their positions.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::log::record::Frame;
use crate::log::{Position, index};
use crate::message::MessageId;

use super::checkpoint::Checkpoint;
use super::codec;
use super::contract::{RecipientEvent, Recovered};
use super::ledger::Ledger;
use super::map::{Location, Map};

/// The parts that records are applied to.
#[derive(Debug)]
pub struct Image<'a> {
    /// The unfinished messages.
    pub map: &'a Map,
    /// Their segments; all that exist must be in it already.
    pub ledger: &'a Ledger,
    /// Copies that do not count because their source exists, and that nothing makes void yet, with the source.
    ignored: RefCell<HashMap<(u32, u64), (MessageId, u32)>>,
}

/// Calls `each` with every record of a segment's entries.
pub fn walk(sequence: u32, entries: &[u8], each: &mut dyn FnMut(Location, &Frame<'_>)) {
    index::each(entries, &mut |offset, frame| {
        let position = Position { segment: sequence, offset };
        each(Location { position, octets: frame.lengths.total() }, frame);
    });
}

impl<'a> Image<'a> {
    /// Applies records to these.
    pub fn new(map: &'a Map, ledger: &'a Ledger) -> Self {
        Self { map, ledger, ignored: RefCell::default() }
    }

    /// Copies that must be made void before their sources go: after the last record was applied, those that did not
    /// count and that the map does not name, as it does if a later checkpoint knew that they do. Not those whose source
    /// cannot be read: they may be all that is left.
    pub fn ignored(&self) -> Vec<(MessageId, Position)> {
        let ignored = std::mem::take(&mut *self.ignored.borrow_mut());
        let is_unread = |from: &u32| self.ledger.with(|segments| segments.get(from).is_some_and(|from| from.is_unread));
        let ignored = ignored.into_iter().filter(|(_, (_, from))| !is_unread(from));
        let places = ignored.map(|((segment, offset), (id, _))| (id, Position { segment, offset }));
        places.filter(|(id, place)| self.map.shard(*id).find(*id).is_none_or(|at| at.position != *place)).collect()
    }

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
            if let Some(spill) = spill {
                shard.note_spill(id, spill);
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
                    Some(from) => {
                        let Position { segment, offset } = location.position;
                        self.ledger.note_copy(from, segment);
                        self.ignored.borrow_mut().insert((segment, offset), (id, from));
                    }
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
            codec::VOID => {
                if let Some(place) = codec::void_place(frame) {
                    self.void(location, id, place);
                }
            }
            _ => {}
        }
    }

    /// The copy of message `id` at `place` is void, by a record at `location`, which must stay as long as the copy.
    fn void(&self, location: Location, id: MessageId, place: Position) {
        let here = location.position.segment;
        if here != place.segment && self.ledger.exists(place.segment) {
            self.ledger.with(|segments| segments.entry(here).or_default().refers.insert(place.segment));
        }
        self.ignored.borrow_mut().remove(&(place.segment, place.offset));
        let removed = {
            let mut shard = self.map.shard(id);
            let is_it = shard.find(id).is_some_and(|at| at.position == place);
            is_it.then(|| {
                shard.take_spill(id);
                shard.remove(id)
            })
        };
        if let Some(location) = removed.flatten() {
            self.ledger.release(location);
        }
    }

    fn insert(&self, id: MessageId, location: Location, frame: &Frame<'_>) {
        let (earlier, is_live) = {
            let mut shard = self.map.shard(id);
            let earlier = shard.find(id);
            shard.insert(id, location, &codec::unfinished(frame));
            if let Some(place) = codec::spill(frame) {
                shard.note_spill(id, place.into());
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
        // A checkpoint may name a copy that was made later. It knows what the record refers to.
        if there < here {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::contract::Event;
    use super::super::ledger::Segment;
    use super::*;
    use crate::log::cipher::Keys;
    use crate::log::record::Builder;
    use crate::log::simulated::Simulated;
    use crate::metrics::Registry;

    const ID: MessageId = MessageId(7);

    fn ledger(existing: &[u32]) -> Ledger {
        let storage = Arc::new(Simulated::new(1));
        let ledger = Ledger::new(storage, Keys::default(), &Registry::new().unwrap(), Box::new(|| {}));
        for &sequence in existing {
            ledger.with(|segments| segments.insert(sequence, Segment::default()));
        }
        ledger
    }

    fn original() -> Vec<u8> {
        let mut out = Vec::new();
        let mut builder = Builder::new(&mut out, codec::MESSAGE);
        builder.field(codec::tag::ID, &ID.0.to_le_bytes());
        builder.field(codec::tag::RECIPIENT, b"");
        builder.finish_with(0, 0);
        out
    }

    fn delivered() -> Vec<u8> {
        let mut out = Vec::new();
        codec::write_events(&mut out, ID, &[RecipientEvent { recipient: 0, event: Event::Delivered }]);
        out
    }

    /// A copy that was laid out before the message was delivered and written after it.
    fn overtaken() -> Vec<u8> {
        let original = original();
        codec::copy(&Frame::trusted(&original).unwrap(), 1, &codec::fresh(1), 0, 0)
    }

    fn apply(image: &Image<'_>, segment: u32, offset: u64, record: &[u8]) {
        let location = Location { position: Position { segment, offset }, octets: record.len() as u64 };
        image.apply(location, &Frame::trusted(record).unwrap());
    }

    #[test]
    fn an_ignored_copy_that_was_overtaken_stays_void_when_its_source_goes() {
        let (map, all) = (Map::default(), ledger(&[1, 3, 5]));
        let image = Image::new(&map, &all);
        apply(&image, 1, 4096, &original());
        apply(&image, 3, 4096, &delivered());
        apply(&image, 3, 8192, &overtaken());
        let ignored = image.ignored();
        let (map, rest) = (Map::default(), ledger(&[3, 5]));
        let image = Image::new(&map, &rest);
        let mut void = Vec::new();
        codec::write_void(&mut void, ID, Position { segment: 3, offset: 8192 });

        apply(&image, 3, 4096, &delivered());
        apply(&image, 3, 8192, &overtaken());
        apply(&image, 5, 4096, &void);

        assert_eq!(ignored, [(ID, Position { segment: 3, offset: 8192 })]);
        assert_eq!(map.len(), 0);
        assert!(rest.with(|segments| segments[&5].refers.contains(&3)));
        assert!(image.ignored().is_empty());
    }

    #[test]
    fn copies_of_one_segment_in_several_do_not_hold_each_other_back_when_it_goes() {
        let (map, all) = (Map::default(), ledger(&[1, 3, 5, 7]));
        let image = Image::new(&map, &all);
        apply(&image, 1, 4096, &original());
        apply(&image, 3, 4096, &overtaken());
        apply(&image, 5, 4096, &overtaken());
        apply(&image, 7, 4096, &delivered());

        let with_source = all.with(|segments| [3, 5, 7].map(|it| segments[&it].refers.contains(&1)));
        all.forget(&[1]);

        assert_eq!(with_source, [true; 3]);
        assert!(all.with(|segments| segments.values().all(|segment| segment.refers.is_empty())));
    }

    #[test]
    fn a_record_does_not_wait_for_a_copy_that_was_made_later() {
        let (map, all) = (Map::default(), ledger(&[3, 5]));
        let image = Image::new(&map, &all);
        // From a checkpoint.
        let copy = Location { position: Position { segment: 5, offset: 4096 }, octets: 104 };
        map.shard(ID).insert(ID, copy, &codec::fresh(1));
        let mut attempt = Vec::new();
        codec::write_attempt(&mut attempt, ID, &[0], "192.0.2.1:25".parse().unwrap());

        apply(&image, 3, 4096, &attempt);
        apply(&image, 5, 8192, &attempt);

        assert!(all.with(|segments| segments.values().all(|segment| segment.refers.is_empty())));
    }

    #[test]
    fn a_void_copy_leaves_the_original_alone() {
        let (map, all) = (Map::default(), ledger(&[1, 3]));
        let image = Image::new(&map, &all);
        let mut void = Vec::new();
        codec::write_void(&mut void, ID, Position { segment: 3, offset: 4096 });

        apply(&image, 1, 4096, &original());
        apply(&image, 3, 4096, &overtaken());
        apply(&image, 3, 8192, &void);

        assert_eq!(map.shard(ID).find(ID).map(|at| at.position.segment), Some(1));
        assert!(image.ignored().is_empty());
    }
}
