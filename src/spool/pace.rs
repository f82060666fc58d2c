//! How the disk has kept up lately: syncs, and those of them that took long.
//!
//! Two spans of time are counted, the one that runs and the one before, so that what is told is of the last few minutes
//! and an old spell of slowness is forgotten. Time comes in as an argument.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A sync that is slow: what the alert HikyakuSyncSlow goes by.
const SLOW: Duration = Duration::from_millis(500);
/// Of one count.
const SPAN: Duration = Duration::from_secs(150);

/// Syncs by how long they took. Written by the committer, read by who looks.
#[derive(Debug)]
pub(super) struct Pace(Mutex<State>);

#[derive(Clone, Copy, Debug)]
struct State {
    began: Instant,
    running: Syncs,
    before: Syncs,
}

/// Syncs, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Syncs {
    pub all: u64,
    pub slow: u64,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(State { began: now, running: Syncs::default(), before: Syncs::default() }))
    }

    /// A sync has ended.
    pub fn note(&self, took: Duration, now: Instant) {
        let mut state = self.0.lock();
        state.turn(now);
        state.running.all += 1;
        state.running.slow += u64::from(took >= SLOW);
    }

    /// Those of the last few minutes.
    pub fn lately(&self, now: Instant) -> Syncs {
        let mut state = self.0.lock();
        state.turn(now);
        let State { running, before, .. } = *state;
        Syncs { all: running.all + before.all, slow: running.slow + before.slow }
    }
}

impl State {
    fn turn(&mut self, now: Instant) {
        let past = now.saturating_duration_since(self.began);
        if past >= SPAN {
            self.before = if past < SPAN * 2 { self.running } else { Syncs::default() };
            self.running = Syncs::default();
            self.began = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_syncs_are_told_for_some_minutes_and_then_forgotten() {
        let start = Instant::now();
        let pace = Pace::new(start);

        pace.note(SLOW, start);
        pace.note(Duration::from_millis(1), start);

        assert_eq!(pace.lately(start), Syncs { all: 2, slow: 1 });
        assert_eq!(pace.lately(start + SPAN), Syncs { all: 2, slow: 1 });
        assert_eq!(pace.lately(start + SPAN * 2), Syncs::default());
    }
}
