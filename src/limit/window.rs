//! A window: so many of something at the same time, for example connections.
//!
//! Shared by reference between tasks; every operation is one atomic.

use std::sync::atomic::{AtomicU32, Ordering};

/// A count with a ceiling.
#[derive(Debug)]
pub struct Window {
    /// Raised by [`Window::commit`], lowered by [`Window::release`].
    used: AtomicU32,
    /// Set by [`Window::set_ceiling`]; places taken beyond a lowered one stay until they are released.
    ceiling: AtomicU32,
    /// Those inside that leave because the ceiling was lowered: raised by [`Window::leave`], lowered by [`Window::left`].
    leaving: AtomicU32,
}

impl Window {
    /// A window that is open for `ceiling` at the same time.
    pub const fn new(ceiling: u32) -> Self {
        Self { used: AtomicU32::new(0), ceiling: AtomicU32::new(ceiling), leaving: AtomicU32::new(0) }
    }

    /// Whether there is room for one more.
    pub fn look(&self) -> bool {
        self.look_leaving(0)
    }

    /// Whether there is room for one more and for `spare` others.
    pub fn look_leaving(&self, spare: u32) -> bool {
        self.used() < self.ceiling().saturating_sub(spare)
    }

    /// Takes a place, unless there is none.
    pub fn commit(&self) -> bool {
        self.commit_leaving(0)
    }

    /// Takes a place, unless that would leave less than `spare` of them.
    pub fn commit_leaving(&self, spare: u32) -> bool {
        let most = self.ceiling().saturating_sub(spare);
        let one_more = |used: u32| (used < most).then_some(used.saturating_add(1));
        self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).is_ok()
    }

    /// Gives a place back.
    pub fn release(&self) {
        let one_less = |used: u32| used.checked_sub(1);
        let before = self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_less);
        debug_assert!(before.is_ok(), "a window is released as often as it was committed");
    }

    /// Places taken.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Places there are.
    pub fn ceiling(&self) -> u32 {
        self.ceiling.load(Ordering::Relaxed)
    }

    /// Opens it for `ceiling` from now on. Who is inside stays, even if those are more.
    pub fn set_ceiling(&self, ceiling: u32) {
        self.ceiling.store(ceiling, Ordering::Relaxed);
    }

    /// How many inside are to leave and have not said so.
    pub fn surplus(&self) -> u32 {
        self.used().saturating_sub(self.ceiling()).saturating_sub(self.leaving.load(Ordering::Relaxed))
    }

    /// Whether the caller, who is inside, is to leave because the ceiling was lowered: as many are told so as are too many.
    /// Who is told calls [`Window::left`] after its release.
    pub fn leave(&self) -> bool {
        let surplus = self.used().saturating_sub(self.ceiling());
        let one_more = |leaving: u32| (leaving < surplus).then_some(leaving + 1);
        surplus > 0 && self.leaving.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).is_ok()
    }

    /// One that was told to leave has gone.
    pub fn left(&self) {
        let one_less = |leaving: u32| leaving.checked_sub(1);
        let _ = self.leaving.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_less);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_ceiling_is_given_out() {
        let window = Window::new(2);

        assert!(window.commit());
        assert!(window.commit());
        assert!(!window.look());
        assert!(!window.commit());
        window.release();
        assert!(window.look());
        assert!(window.commit());
    }

    #[test]
    fn spare_places_are_left_to_those_who_may_have_them() {
        let window = Window::new(3);

        assert!(window.commit_leaving(1) && window.commit_leaving(1));
        assert!(!window.look_leaving(1) && !window.commit_leaving(1));
        assert!(window.look() && window.commit());
        assert!(!window.commit());
    }

    #[test]
    fn a_lowered_ceiling_lets_nobody_in_until_the_surplus_is_gone() {
        let window = Window::new(3);
        assert!(window.commit() && window.commit() && window.commit());

        window.set_ceiling(1);

        assert!(window.leave());
        assert_eq!(window.surplus(), 1);
        assert!(window.leave() && !window.leave(), "two are too many");
        for _ in 0..2 {
            window.release();
            window.left();
        }
        assert!(!window.commit());
        window.release();
        assert!(window.commit());
        window.set_ceiling(2);
        assert!(window.commit());
    }

    #[test]
    fn threads_that_race_never_exceed_the_ceiling() {
        let window = Window::new(100);

        let won: usize = std::thread::scope(|scope| {
            let racers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| window.commit()).count())).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum()
        });

        assert_eq!(won, 100);
        assert_eq!(window.used(), 100);
    }
}
