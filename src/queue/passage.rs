//! Passages: what is between two places for a while, and when all that began before some moment has ended.
//!
//! Whoever takes entries out of a place of the queue holds a [`Passage`] until they are in another or finished; so does
//! whoever stores a message, from before it has its identity until it is put. Who must know that nothing is between places
//! any more turns the page and waits until every earlier page is closed: what begins later does not prolong that.
//!
//! A passage costs a count up and a count down; pages are few, since only orders turn them.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

/// Something under way; it has ended when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Passage {
    _page: Arc<Page>,
}

/// A turn of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(u64);

#[derive(Debug)]
struct Page {
    number: u64,
}

/// All that is under way.
#[derive(Debug)]
pub(super) struct Passages {
    current: ArcSwap<Page>,
    /// Earlier pages that are not known to be closed.
    earlier: Mutex<Vec<Arc<Page>>>,
}

impl Default for Passages {
    fn default() -> Self {
        Self { current: ArcSwap::from_pointee(Page { number: 0 }), earlier: Mutex::default() }
    }
}

impl Passages {
    /// Something begins.
    pub fn begin(&self) -> Passage {
        Passage { _page: self.current.load_full() }
    }

    /// What has begun by now has ended when [`Passages::is_over`] says so of the mark.
    pub fn turn(&self) -> Mark {
        let mut earlier = self.earlier.lock();
        let number = self.current.load().number;
        earlier.push(self.current.swap(Arc::new(Page { number: number + 1 })));
        Mark(number)
    }

    /// Whether all that had begun before this turn has ended.
    pub fn is_over(&self, mark: Mark) -> bool {
        let mut earlier = self.earlier.lock();
        // A page out of use is in nobody's hand but ours once it is closed: nobody can take it up again.
        earlier.retain(|page| Arc::strong_count(page) > 1);
        fence(Ordering::Acquire);
        earlier.iter().all(|page| page.number > mark.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_over_when_all_that_began_before_it_has_ended() {
        let passages = Passages::default();
        let first = passages.begin();
        let one = passages.turn();
        let second = passages.begin();
        let two = passages.turn();
        let later = passages.begin();

        assert!(!passages.is_over(one) && !passages.is_over(two));
        drop(second);
        assert!(!passages.is_over(one) && !passages.is_over(two), "the first goes on");
        drop(first);
        assert!(passages.is_over(one) && passages.is_over(two));
        drop(later);
    }

    #[test]
    fn what_begins_later_does_not_prolong_a_turn() {
        let passages = Passages::default();
        let mark = passages.turn();
        let _later = passages.begin();

        assert!(passages.is_over(mark));
    }

    #[test]
    fn closed_pages_are_forgotten_behind_an_open_one() {
        let passages = Passages::default();
        let first = passages.begin();
        for _ in 0..1_000 {
            let mark = passages.turn();
            assert!(!passages.is_over(mark));
        }

        assert_eq!(passages.earlier.lock().len(), 1);
        drop(first);
    }
}
