//! Which segments there are, in a small file beside them: one that is gone is missed though none older or newer than it is there.
//! And where what was confirmed ended when it was written, at a stop above all: what cannot be read before that is damage, not an
//! unfinished write.
//!
//! It is written when a segment has been made, before anything is written to that, and before the oldest one goes. So no crash
//! leaves one that names a segment which is not there; and if there is something in a segment that it does not name, it is older than
//! they are (from a backup, or an earlier version of this program ran since), and says nothing of them.
//!
//! The content is four numbers in decimal: the oldest segment, the next one, and the segment and offset of the end.

use std::collections::BTreeMap;
use std::io;

use crate::log::Position;
use crate::log::segment::FIRST;
use crate::log::storage::Storage;
use crate::state::file::{self, Found};

use super::brief::SLOTS;

/// Where it is.
pub const FILE: &str = "state/suppression/inventory";

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// All segments from this one on are there.
    pub oldest: u32,
    /// Up to, and without, this one.
    pub next: u32,
    /// Everything before this was confirmed.
    pub synced: Position,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Noted {
    /// There is none, as earlier versions left it.
    Nothing,
    /// It is not what was written.
    Damaged,
    /// It is there.
    Inventory(Inventory),
}

impl Inventory {
    fn of_text(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace();
        let mut number = || numbers.next()?.parse::<u64>().ok();
        let mut small = || u32::try_from(number()?).ok();
        let (oldest, next, segment) = (small()?, small()?, small()?);
        Some(Self { oldest, next, synced: Position { segment, offset: number()? } })
    }

    /// Reads it.
    pub fn read(storage: &dyn Storage) -> io::Result<Noted> {
        Ok(match file::read(storage, FILE)? {
            Found::Nothing => Noted::Nothing,
            Found::Damaged => Noted::Damaged,
            Found::Content(content) => {
                let inventory = std::str::from_utf8(&content).ok().and_then(Self::of_text);
                inventory.map_or(Noted::Damaged, Noted::Inventory)
            }
        })
    }

    /// Writes it; when it returns, it is on stable storage.
    pub fn write(&self, storage: &dyn Storage) -> io::Result<()> {
        let Self { oldest, next, synced: Position { segment, offset } } = self;
        file::replace(storage, FILE, format!("{oldest} {next} {segment} {offset}\n").as_bytes())
    }

    /// Whether segments that are there, with their sizes, have come to something since it was written.
    pub fn is_stale(&self, there: &BTreeMap<u32, u64>) -> bool {
        there.range(self.next..).any(|(_, size)| *size > FIRST)
    }
}

/// The numbers of segments that are not there: those that the inventory names, or without one those between others.
pub fn gaps(there: &BTreeMap<u32, u64>, noted: Option<&Inventory>) -> Vec<u32> {
    let ends = there.keys().next().zip(there.keys().next_back());
    let between = ends.map_or(0..0, |(oldest, newest)| *oldest..*newest);
    let named = noted.map_or(between, |noted| noted.oldest..noted.next);
    // No more are there at a time, whatever a file is called that somebody put there.
    named.filter(|sequence| !there.contains_key(sequence)).take(SLOTS as usize).collect()
}

#[cfg(test)]
mod tests {
    use crate::log::simulated::Simulated;

    use super::*;

    const INVENTORY: Inventory = Inventory { oldest: 3, next: 6, synced: Position { segment: 5, offset: 8_192 } };

    fn there(sequences: &[u32]) -> BTreeMap<u32, u64> {
        sequences.iter().map(|sequence| (*sequence, FIRST + 8)).collect()
    }

    #[test]
    fn it_comes_back_as_it_was_written_or_is_damaged() {
        let storage = Simulated::new(1);
        storage.claim(&["state/suppression"]).unwrap();
        let before = Inventory::read(&storage).unwrap();

        INVENTORY.write(&storage).unwrap();

        assert_eq!((before, Inventory::read(&storage).unwrap()), (Noted::Nothing, Noted::Inventory(INVENTORY)));
        storage.damage(FILE, |octets| *octets.last_mut().unwrap() ^= 1).unwrap();
        assert_eq!(Inventory::read(&storage).unwrap(), Noted::Damaged);
        file::replace(&storage, FILE, b"3 6 5").unwrap();
        assert_eq!(Inventory::read(&storage).unwrap(), Noted::Damaged);
    }

    #[test]
    fn what_it_names_is_missed_and_without_it_what_is_between_others() {
        let missed = |sequences: &[u32], noted| gaps(&there(sequences), noted);
        let noted = Some(&INVENTORY);

        assert_eq!(missed(&[3, 4, 5], noted), [0_u32; 0]);
        assert_eq!(missed(&[4, 5], noted), [3]);
        assert_eq!(missed(&[3, 4], noted), [5]);
        assert_eq!(missed(&[], noted), [3, 4, 5]);
        // One that was to be removed may be there still, and the one that was made last.
        assert_eq!(missed(&[1, 4, 8], noted), [3, 5]);
        assert_eq!(missed(&[3, 5, 8], None), [4, 6, 7]);
        assert_eq!(missed(&[1, u32::MAX], None).len(), SLOTS as usize);
        assert_eq!(missed(&[], None), [0_u32; 0]);
    }

    #[test]
    fn it_is_older_than_segments_with_something_in_them_that_it_does_not_name() {
        let mut there = there(&[4, 5]);
        there.insert(6, FIRST);
        assert!(!INVENTORY.is_stale(&there), "made right before a crash");

        there.insert(6, FIRST + 48);
        assert!(INVENTORY.is_stale(&there));
    }
}
