//! Room on the disk: messages are refused before it is gone, so that what becomes of them can still be written.
//!
//! The keeper looks at the disk every second. What is accepted or spilled between two looks is subtracted at once, since a
//! second is enough to fill a small disk.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::log::storage::Space;

/// What may still be written for messages.
#[derive(Debug)]
pub struct Room {
    /// Octets above the reserve. Set by the keeper, lowered by sessions.
    left: AtomicU64,
    /// Set by the keeper while free space is below the reserve.
    full: AtomicBool,
}

impl Default for Room {
    /// Without limit: a disk that cannot say how much room it has refuses what does not fit.
    fn default() -> Self {
        Self { left: AtomicU64::new(u64::MAX), full: AtomicBool::new(false) }
    }
}

impl Room {
    /// Whether messages are refused.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Takes octets for a message; false if there is no room for it.
    pub fn take(&self, octets: u64) -> bool {
        let lower = |left: u64| left.checked_sub(octets);
        !self.is_full() && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower).is_ok()
    }

    /// Keeps octets for others than messages until the next look.
    pub fn set_aside(&self, octets: u64) {
        let lower = |left: u64| Some(left.saturating_sub(octets));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower);
    }

    /// Notes how much room there is; whether messages are refused or accepted from now on, if that changes.
    pub fn look(&self, space: Space, reserve: u64, segment_size: u64) -> Option<bool> {
        let was_full = self.is_full();
        // Without a gap between the two limits every deleted segment would open the door for one message.
        let enough = if was_full { reserve + reserve / 10 + segment_size } else { reserve };
        let is_full = space.free < enough;
        self.left.store(space.free.saturating_sub(reserve), Ordering::Relaxed);
        self.full.store(is_full, Ordering::Relaxed);
        (was_full != is_full).then_some(is_full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(free: u64) -> Space {
        Space { total: 10_000, free }
    }

    #[test]
    fn what_is_taken_between_two_looks_counts() {
        let room = Room::default();
        room.look(space(1_000), 400, 100);

        assert!(room.take(500));
        assert!(!room.take(101), "into the reserve");
        assert!(room.take(100));
        assert!(!room.take(1) && !room.is_full());
    }

    #[test]
    fn accepting_resumes_well_above_the_reserve_only() {
        let room = Room::default();

        assert_eq!(room.look(space(399), 400, 100), Some(true));
        assert_eq!(room.look(space(539), 400, 100), None);
        assert!(!room.take(1));
        assert_eq!(room.look(space(540), 400, 100), Some(false));
        assert!(room.take(140));
    }
}
