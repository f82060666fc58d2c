//! Counts of the last minute, in half seconds: what a receiver that limits by the minute has counted of ours.
//!
//! A message counts from when it is sent, as the receiver counts it, and is taken out again when its reply says that it
//! did not count. Made when a path becomes busy, dropped when it has been quiet for longer than it looks back.

use super::time::{MINUTE, SECOND, Time};

/// Width of a slot.
const SLOT: Time = SECOND / 2;
/// Slots of a clock minute.
const PER_MINUTE: u64 = MINUTE / SLOT;
/// A minute of them and the one that is not over.
const SLOTS: usize = 121;

/// Messages of the last minute.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    slots: [u16; SLOTS],
    total: u32,
    /// Number of the newest slot, since 1970.
    newest: u64,
}

impl Counts {
    /// Nothing yet.
    pub fn new(now: Time) -> Self {
        Self { slots: [0; SLOTS], total: 0, newest: now / SLOT }
    }

    fn advance(&mut self, now: Time) {
        let newest = now / SLOT;
        if newest <= self.newest {
            return;
        }
        if newest - self.newest >= SLOTS as u64 {
            (self.slots, self.total) = ([0; SLOTS], 0);
        } else {
            for slot in self.newest + 1..=newest {
                let slot = place(&mut self.slots, slot);
                self.total -= u32::from(std::mem::take(slot));
            }
        }
        self.newest = newest;
    }

    /// One more, now.
    pub fn add(&mut self, now: Time) {
        self.advance(now);
        let slot = place(&mut self.slots, self.newest);
        if *slot < u16::MAX {
            *slot += 1;
            self.total += 1;
        }
    }

    /// One that was added at `then` did not count.
    pub fn remove(&mut self, then: Time, now: Time) {
        self.advance(now);
        let then = then / SLOT;
        if then > self.newest || self.newest - then >= SLOTS as u64 {
            return;
        }
        // The latency that `then` comes from may lead to the slot beside it.
        for at in [then, then.saturating_sub(1), then + 1] {
            let slot = place(&mut self.slots, at);
            if *slot > 0 {
                *slot -= 1;
                self.total -= 1;
                return;
            }
        }
    }

    /// All of the last minute, to half a second more.
    pub fn total(&mut self, now: Time) -> u32 {
        self.advance(now);
        self.total
    }

    /// Those of this clock minute.
    pub fn of_clock_minute(&mut self, now: Time) -> u32 {
        let into = now / SLOT % PER_MINUTE + 1;
        self.of_last(into, now)
    }

    /// Those of the last `slots` half seconds, the running one included.
    pub fn of_last(&mut self, slots: u64, now: Time) -> u32 {
        self.advance(now);
        let first = self.newest.saturating_sub(slots.min(SLOTS as u64) - 1);
        (first..=self.newest).map(|slot| u32::from(*place(&mut self.slots, slot))).sum()
    }

    /// When so many have left the minute that fewer than `most` remain, if nothing is added.
    pub fn below(&mut self, most: u32, now: Time) -> Time {
        self.advance(now);
        let mut left = self.total;
        let mut slot = self.newest.saturating_sub(SLOTS as u64 - 1);
        while left >= most.max(1) && slot <= self.newest {
            left -= u32::from(*place(&mut self.slots, slot));
            slot += 1;
        }
        // A slot leaves when the one comes that takes its place.
        (slot - 1 + SLOTS as u64) * SLOT
    }
}

fn place(slots: &mut [u16; SLOTS], slot: u64) -> &mut u16 {
    let at = usize::try_from(slot % SLOTS as u64).unwrap_or_default();
    // A remainder lies within what it was divided by.
    #[allow(clippy::indexing_slicing)]
    &mut slots[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_for_a_minute() {
        let mut counts = Counts::new(0);

        (0..30).for_each(|second| counts.add(second * SECOND));

        assert_eq!(counts.of_last(20, 29 * SECOND), 10);
        assert_eq!(counts.total(59 * SECOND), 30);
        assert_eq!(counts.total(70 * SECOND), 20);
        assert_eq!(counts.total(29 * SECOND), 20, "time does not run backwards");
        assert_eq!(counts.total(MINUTE * 10), 0);
    }

    #[test]
    fn what_did_not_count_is_taken_out() {
        let mut counts = Counts::new(0);
        counts.add(SECOND);
        counts.add(3 * SECOND);

        counts.remove(SECOND + 1, 4 * SECOND);
        counts.remove(50 * SECOND, 4 * SECOND);

        assert_eq!(counts.total(4 * SECOND), 1);
        assert_eq!(counts.total(62 * SECOND), 1);
    }

    #[test]
    fn a_clock_minute_begins_anew() {
        let mut counts = Counts::new(0);
        (50..70).for_each(|second| counts.add(second * SECOND));

        assert_eq!(counts.of_clock_minute(69 * SECOND), 10);
        assert_eq!(counts.total(69 * SECOND), 20);
    }

    #[test]
    fn room_is_foretold() {
        let mut counts = Counts::new(0);
        (0..20).for_each(|second| counts.add(second * SECOND));

        let then = counts.below(15, 20 * SECOND);

        assert!(counts.total(then - 1) >= 15 && counts.total(then) < 15, "{then}");
    }
}
