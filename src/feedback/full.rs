//! On which days which mailboxes took no mail though they may again.
//!
//! 16 octets a mailbox: its hash, the last day, and a bit for each of the 32 days up to it. What is older is forgotten; so is all of
//! it at a crash within the last minute: then a mailbox that is full is found out a day later.

use std::collections::HashMap;

/// Mailboxes that are remembered: 16 MB. Further ones are not counted until others are forgotten.
const MOST: usize = 1 << 20;
/// Octets of one that is written down.
const WRITTEN: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Days {
    last: u16,
    /// Bit n: the day n before the last.
    bits: u32,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Full {
    days: HashMap<[u8; 10], Days, foldhash::fast::RandomState>,
    /// Has changed since it was written down.
    is_dirty: bool,
}

impl Full {
    /// A mailbox was full on this day; tells whether it was so on `enough` days out of the last `within`.
    pub fn note(&mut self, mailbox: [u8; 10], today: u16, within: u32, enough: u32) -> bool {
        if self.days.len() >= MOST && !self.days.contains_key(&mailbox) {
            self.days.retain(|_, days| u32::from(today.saturating_sub(days.last)) < within);
            if self.days.len() >= MOST {
                return false;
            }
        }
        let days = self.days.entry(mailbox).or_insert(Days { last: today, bits: 0 });
        let passed = u32::from(today.saturating_sub(days.last));
        let moved = days.bits.checked_shl(passed).unwrap_or_default();
        *days = Days { last: days.last.max(today), bits: moved | 1 };
        self.is_dirty = true;
        let window = 1_u32.checked_shl(within).map_or(u32::MAX, |bit| bit - 1);
        (days.bits & window).count_ones() >= enough
    }

    /// It is on the list now: days are counted anew.
    pub fn forget(&mut self, mailbox: [u8; 10]) {
        self.is_dirty |= self.days.remove(&mailbox).is_some();
    }

    /// What is to be written down, if that has changed since the last time.
    pub fn take_note(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.is_dirty) {
            return None;
        }
        let mut out = Vec::with_capacity(self.days.len() * WRITTEN);
        for (mailbox, Days { last, bits }) in &self.days {
            out.extend_from_slice(mailbox);
            out.extend_from_slice(&last.to_le_bytes());
            out.extend_from_slice(&bits.to_le_bytes());
        }
        Some(out)
    }

    /// It could not be written down.
    pub fn mark(&mut self) {
        self.is_dirty = true;
    }

    /// Reads what was written down.
    pub fn restore(content: &[u8]) -> Self {
        let mut full = Self::default();
        for octets in content.chunks_exact(WRITTEN).take(MOST) {
            let parts = octets.split_first_chunk::<10>().and_then(|(mailbox, rest)| {
                let (last, bits) = rest.split_first_chunk::<2>()?;
                Some((*mailbox, u16::from_le_bytes(*last), u32::from_le_bytes(*bits.first_chunk()?)))
            });
            if let Some((mailbox, last, bits)) = parts {
                full.days.insert(mailbox, Days { last, bits });
            }
        }
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: [u8; 10] = *b"ann.......";
    const BOB: [u8; 10] = *b"bob.......";

    #[test]
    fn days_are_counted_once_each_and_only_within_the_window() {
        let mut full = Full::default();
        let mut note = |mailbox, day| full.note(mailbox, day, 14, 3);

        assert!(!note(ANN, 100) && !note(ANN, 100) && !note(ANN, 101));
        assert!(!note(BOB, 101));
        // The days before are out of the window by then.
        assert!(!note(ANN, 120) && !note(ANN, 133) && !note(ANN, 134));
        assert!(note(ANN, 135));
    }

    #[test]
    fn enough_days_are_enough_until_it_is_on_the_list_and_begins_anew() {
        let mut full = Full::default();
        let before = [1, 5, 9, 9].map(|day| full.note(ANN, day, 14, 3));

        full.forget(ANN);

        assert_eq!(before, [false, false, true, true]);
        assert_eq!([9, 10, 11].map(|day| full.note(ANN, day, 14, 3)), [false, false, true]);
    }

    #[test]
    fn a_window_of_32_days_and_a_long_silence_are_no_trouble() {
        let mut full = Full::default();

        assert!(!full.note(ANN, 1, 32, 2) && !full.note(ANN, 60_000, 32, 2) && full.note(ANN, 60_031, 32, 2));
        assert!(full.note(BOB, 5, 32, 1));
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        let mut full = Full::default();
        full.note(ANN, 100, 14, 3);
        full.note(ANN, 101, 14, 3);
        let note = full.take_note().unwrap();

        let mut again = Full::restore(&note);

        assert_eq!((full.take_note(), again.take_note()), (None, None));
        assert!(again.note(ANN, 102, 14, 3));
        assert!(Full::restore(&note[..15]).days.is_empty());
    }
}
