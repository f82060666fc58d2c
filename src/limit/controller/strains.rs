//! Transactions that end by the connection in place of any reply, or by a fault that the receiver has: how one throttles that
//! does not say so, or fails under what it gets.
//!
//! One is an accident of the network or of the host, or the doing of one message. Several at once are neither, and where they
//! have been a refusal, the next one is.

use super::time::{SECOND, Time};

/// What one weighs, where an accepted message takes one away: one in twenty is no sign of anything.
const WEIGHT: u8 = 20;
/// Three, with hardly an accepted message between them.
const MANY: u8 = 3 * WEIGHT - 5;
/// Those that are further apart do not belong together: a message that is tried again does not add up.
const WITHIN: Time = 30 * SECOND;

/// What is known of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Strains {
    weight: u8,
    last: Time,
    /// The receiver throttles like that.
    pub is_usual: bool,
}

impl Strains {
    /// One of them; whether it is a refusal.
    pub fn felt(&mut self, now: Time) -> bool {
        if now.saturating_sub(self.last) > WITHIN {
            self.weight = 0;
        }
        self.last = now;
        self.weight = self.weight.saturating_add(WEIGHT);
        self.is_usual |= self.weight >= MANY;
        self.is_usual
    }

    /// A message was accepted.
    pub fn accepted(&mut self) {
        self.weight = self.weight.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_at_once_are_a_refusal_and_so_is_each_that_follows() {
        let mut strains = Strains::default();

        let first: Vec<bool> = (0..3).map(|second| strains.felt(second * SECOND)).collect();

        assert_eq!(first, [false, false, true]);
        (0..100).for_each(|_| strains.accepted());
        assert!(strains.felt(3600 * SECOND), "it is known to throttle like that");
    }

    #[test]
    fn those_that_are_rare_or_far_apart_say_nothing() {
        let (mut rare, mut far) = (Strains::default(), Strains::default());

        for time in 1..100 {
            assert!(!far.felt(time * (WITHIN + 1)), "a message that is tried again and again");
            (0..20).for_each(|_| rare.accepted());
            assert!(!rare.felt(time * SECOND), "one in twenty");
        }
    }
}
