//! Signs of life: a part of the daemon marks what it has done, and whoever watches it sees whether the mark still moves.
//!
//! A [`Pulse`] is one number that only its part changes. [`Pulse::beat`] says "one more round is done", for a part that
//! has something to do every few seconds. [`Pulse::work`] is held while a piece of work is in hand, for a part that may
//! have nothing to do for hours: the number is odd meanwhile. Nobody reads a clock for it: the watcher notes when it saw
//! the number move. Costs one atomic addition of a cache line that its part has anyway. What does not move it writes into a
//! [`Standstill`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// What a part shows of itself. Written by the part, read by the watcher; clones are of the same part.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

/// A piece of work in hand; done when dropped, by a panic too.
#[derive(Debug)]
#[must_use = "the work is done when this is dropped"]
pub struct Work<'a>(&'a AtomicU64);

impl Pulse {
    /// One more round is done.
    pub fn beat(&self) {
        self.0.fetch_add(2, Ordering::Relaxed);
    }

    /// A piece of work begins; only one at a time.
    pub fn work(&self) -> Work<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Work(&self.0)
    }

    /// A number that differs from every earlier one if something was done, begun or ended in between.
    pub fn mark(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether its part is no more: nobody but the one who asks has it.
    pub fn is_left(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Whether a piece of work is in hand.
    pub fn is_at_work(&self) -> bool {
        self.mark() % 2 == 1
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Parts that should move and do not, and for how long. Written by the watcher at each look, read by who tells people;
/// clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct Standstill(Arc<Mutex<Vec<(&'static str, Duration)>>>);

impl Standstill {
    /// What the watcher saw just now.
    pub fn set(&self, parts: Vec<(&'static str, Duration)>) {
        *self.0.lock() = parts;
    }

    /// What it saw last.
    pub fn all(&self) -> Vec<(&'static str, Duration)> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_while_it_is_in_hand_and_moves_the_mark_twice() {
        let pulse = Pulse::default();
        let before = pulse.mark();

        let work = pulse.work();
        assert!(pulse.is_at_work());
        pulse.beat();
        assert!(pulse.is_at_work(), "a beat neither begins nor ends work");
        drop(work);

        assert!(!pulse.is_at_work());
        assert_eq!(pulse.mark(), before + 4);
    }

    #[test]
    fn work_that_ends_in_a_panic_has_ended() {
        let pulse = Pulse::default();
        let work = std::panic::AssertUnwindSafe(|| {
            let _work = pulse.work();
            std::panic::panic_any("in the middle");
        });

        assert!(std::panic::catch_unwind(work).is_err());
        assert!(!pulse.is_at_work());
    }
}
