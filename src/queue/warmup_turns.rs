//! The order in which sites that share a warm-up are served, where what has no room waits.
//!
//! A site takes its place when it asks first, and is told when to ask again. As many of the foremost as there is room for are
//! *called*. A place is lost
//!
//! * with a message that goes: whoever has more takes a new one, behind the others;
//! * by who has nothing to send any more, or cannot send now (a receiver that is down, a rate): [`Turns::leave`];
//! * by who was called and has not come within [`STALE`], or has not asked when it was to: its mail went another way.
//!
//! So nobody is kept waiting by sites that do not come, however many there are.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// A call that nobody has followed for so long is over.
const STALE: Duration = Duration::from_secs(10);
/// Who has others before it asks again so soon at the earliest, once there is room.
const SOON: Duration = Duration::from_secs(1);
/// And so late at the latest: within [`STALE`], with what timers and locks may take.
const LATE: Duration = Duration::from_secs(8);
/// So many of the foremost ask again within [`LATE`] even when there is no room: what one took may come back at once.
const FOREMOST: u32 = 16;
/// Who has not asked so long after it was to has gone.
const GRACE: Duration = Duration::from_secs(2);

/// What a plan has room for. Times are since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Messages that may go now.
    pub messages: u32,
    /// When one may; now, if one may now.
    pub from: Duration,
    /// How long one more takes to become free.
    pub interval: Duration,
}

/// Sites that wait for one plan.
#[derive(Debug, Default)]
pub(super) struct Turns {
    by_site: HashMap<u64, u64>,
    /// By their places in the order.
    order: BTreeMap<u64, Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    site: u64,
    /// Since when there is room for it.
    called: Option<Duration>,
    /// When it asks again.
    by: Duration,
}

impl Waiter {
    fn is_stale(&self, now: Duration) -> bool {
        self.called.is_some_and(|called| called + STALE < now) || self.by + GRACE < now
    }
}

impl Turns {
    /// Nobody waits any more.
    pub fn clear(&mut self) {
        (self.by_site, self.order) = Default::default();
    }

    /// A site has no place any more.
    pub fn leave(&mut self, site: u64) {
        if let Some(place) = self.by_site.remove(&site) {
            self.order.remove(&place);
        }
    }

    /// Those further behind matter when they come to the front.
    fn forget_stale(&mut self, now: Duration) {
        while let Some(first) = self.order.first_entry().filter(|first| first.get().is_stale(now)) {
            let waiter = first.remove();
            self.by_site.remove(&waiter.site);
        }
    }

    /// Whether a message of a site may go; if not, when it is to ask again.
    pub fn ask(&mut self, site: u64, room: Room, now: Duration) -> Result<(), Duration> {
        self.forget_stale(now);
        let next = &mut self.next;
        let place = *self.by_site.entry(site).or_insert_with(|| {
            *next += 1;
            *next
        });
        self.order.entry(place).or_insert(Waiter { site, called: None, by: now });
        let most = usize::try_from(room.messages).unwrap_or(usize::MAX);
        self.order.values_mut().take(most).for_each(|waiter| waiter.called = waiter.called.or(Some(now)));
        // Places between may be free: no more are before it than wait.
        let first = self.order.first_key_value().map_or(place, |(first, _)| *first);
        let others = u64::try_from(self.order.len()).unwrap_or(u64::MAX).saturating_sub(1);
        let before = u32::try_from(place.saturating_sub(first).min(others)).unwrap_or(u32::MAX);
        let Some(waiter) = self.order.get_mut(&place) else { return Ok(()) };
        if most > 0 && waiter.called.is_some() {
            waiter.by = now + STALE;
            return Ok(());
        }
        // Those before it may have gone by then: nobody asks much later than there is room.
        let later = match (most, before) {
            (0, 0) => Duration::ZERO,
            _ => room.interval.min(SOON).saturating_mul(before).clamp(SOON, LATE),
        };
        waiter.by = room.from + later;
        if before < FOREMOST {
            waiter.by = waiter.by.min(now + LATE);
        }
        Err(waiter.by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Asks at this second while there is room for so many, else in 100 s; when to ask again, in seconds.
    fn ask(turns: &mut Turns, site: u64, messages: u32, at: u32) -> Result<(), u64> {
        let now = SECOND * at;
        let from = if messages > 0 { now } else { now + SECOND * 100 };
        turns.ask(site, Room { messages, from, interval: SECOND * 100 }, now).map_err(|until| until.as_secs())
    }

    #[test]
    fn sites_are_called_in_the_order_in_which_they_asked() {
        let mut turns = Turns::default();

        let asked = [3, 1, 2, 3].map(|site| ask(&mut turns, site, 0, 0));
        let called = [1, 3].map(|site| ask(&mut turns, site, 1, 8));
        turns.leave(3);
        let next = [2, 1, 3].map(|site| ask(&mut turns, site, 1, 9));

        assert_eq!(asked, [Err(8); 4], "what one took may come back");
        assert_eq!(called, [Err(9), Ok(())], "there is room for one");
        assert_eq!(next, [Err(10), Ok(()), Err(11)]);
        assert_eq!(ask(&mut turns, 1, 0, 10), Err(18), "the room is gone");
    }

    #[test]
    fn who_is_called_and_does_not_come_loses_its_turn() {
        let mut turns = Turns::default();
        assert_eq!([1, 2].map(|site| ask(&mut turns, site, 1, 0)), [Ok(()), Err(1)]);

        let waits: Vec<_> = (1..=10).map(|at| ask(&mut turns, 2, 1, at)).collect();

        assert!(waits.iter().all(Result::is_err), "{waits:?}");
        assert_eq!(ask(&mut turns, 2, 1, 11), Ok(()));
    }

    #[test]
    fn one_that_still_asks_is_not_held_up_by_many_that_do_not() {
        let mut turns = Turns::default();
        let until: Vec<_> = (0..40).map(|site| ask(&mut turns, site, 0, 0).unwrap_err()).collect();
        assert!(
            until[..16].iter().all(|until| *until == 8) && until[16..].iter().all(|until| *until == 108),
            "{until:?}"
        );

        let waits = ask(&mut turns, 39, 1, 108);

        assert!(waits.is_err(), "those behind the foremost might still come");
        assert_eq!(ask(&mut turns, 39, 1, 111), Ok(()), "nobody did");
        assert_eq!((turns.order.len(), turns.by_site.len()), (1, 1));
    }

    #[test]
    fn one_that_is_as_late_as_it_was_told_to_be_keeps_its_turn() {
        let mut turns = Turns::default();
        (0..20).for_each(|site| assert!(ask(&mut turns, site, 0, 0).is_err()));
        (0..19).for_each(|site| turns.leave(site));

        assert!(ask(&mut turns, 20, 1, 100).is_err(), "the other is called");
        assert_eq!(ask(&mut turns, 19, 1, 108), Ok(()));
    }
}
