//! Turns at budgets that many share: who finds one without room takes a *slot* of it ahead of time, and comes back when that is due.
//!
//! A slot has one holder. What is given up before it is due (its holder has nothing to send any more, or is forgotten) is the next
//! one's who asks: no slot is lost while there is somebody to use it, and no two are due at the same time. What is held and not
//! used yet has not been sent: a budget that goes on after a restart, or at another pace, does not owe it (`Book::held`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::budget::{Budget, Part, Refused, Spent};
use super::permit::{Scope, What};

/// A slot that nobody has used for so long is over: what waits for it has gone.
const STALE: Duration = Duration::from_secs(10);

/// The slots of one budget that were taken ahead of time.
#[derive(Debug, Default)]
pub(super) struct Book {
    slots: Mutex<Slots>,
}

/// Units by when they are due, and by a number of their own.
type ByDue = BTreeMap<(Instant, u64), u32>;

#[derive(Debug, Default)]
struct Slots {
    next: u64,
    /// What holders have not used.
    held: ByDue,
    /// What was given up.
    free: ByDue,
}

/// What one holder may send from some time on; what it has not used is given up with it.
#[derive(Debug)]
struct Slot {
    book: Arc<Book>,
    key: (Instant, u64),
    units: u32,
}

impl Book {
    /// The slot that is due next of those that were given up, else one that `reserve` takes: when it is due, and its units.
    fn take(self: &Arc<Self>, now: Instant, reserve: impl FnOnce() -> (Instant, u32)) -> Slot {
        let mut slots = self.slots.lock();
        slots.free = slots.free.split_off(&(now, 0));
        let (key, units) = match slots.free.pop_first() {
            Some(free) => free,
            None => {
                slots.next += 1;
                let (due, units) = reserve();
                ((due, slots.next), units)
            }
        };
        slots.held.insert(key, units);
        Slot { book: self.clone(), key, units }
    }

    /// When the first of those is due that were given up and are to come still.
    pub fn first_free(&self, now: Instant) -> Option<Instant> {
        self.slots.lock().free.range((now, 0)..).next().map(|((due, _), _)| *due)
    }

    /// Calls `act` with the units that have been taken ahead of time and not been used, while no more are taken.
    pub fn held<T>(&self, now: Instant, act: impl FnOnce(u64) -> T) -> T {
        let slots = self.slots.lock();
        let sum = |slots: &ByDue, from: Option<Instant>| -> u64 {
            slots.range((from.unwrap_or(now), 0)..).map(|(_, units)| u64::from(*units)).sum()
        };
        act(sum(&slots.held, now.checked_sub(STALE)) + sum(&slots.free, None))
    }
}

impl Slot {
    /// One unit has been used.
    fn use_one(&mut self) {
        self.units = self.units.saturating_sub(1);
        if let Some(units) = self.book.slots.lock().held.get_mut(&self.key) {
            *units = self.units;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut slots = self.book.slots.lock();
        slots.held.remove(&self.key);
        if self.units > 0 {
            slots.free.insert(self.key, self.units);
        }
    }
}

/// The turns of one holder; small, and mostly none.
#[derive(Debug, Default)]
#[allow(clippy::box_collection, reason = "each path has one, mostly empty: 8 octets instead of 24")]
pub struct Turns(Option<Box<Vec<Turn>>>);

#[derive(Debug)]
struct Turn {
    scope: Scope,
    /// Tells holders apart that keep their turns together.
    key: usize,
    slot: Slot,
}

impl Turns {
    /// Takes one `what` of all `budgets`, or of none. Where a budget has no room, a turn is taken ahead of time and kept for the
    /// next call; the refusal tells when that is due.
    pub fn acquire(
        &mut self,
        budgets: &[(Scope, usize, Option<&Budget>)],
        what: What,
        now: Instant,
    ) -> Result<(), Refused> {
        for (at, (scope, key, budget)) in budgets.iter().enumerate() {
            let Some(budget) = budget else { continue };
            let refused = match self.find(*scope, *key, budget, now) {
                // It was taken of messages; for octets that are owed it waits like others.
                Some(due) if due <= now => budget.look_for_octets(now).map_err(|spent| (spent.until, Some(spent))),
                Some(due) => Err((due, None)),
                None => budget.commit(what, now).map_err(|spent| (spent.until, Some(spent))),
            };
            let Err((until, spent)) = refused else { continue };
            for (scope, key, budget) in budgets.iter().take(at) {
                if let Some(budget) = budget
                    && self.find(*scope, *key, budget, now).is_none()
                {
                    budget.refund(what);
                }
            }
            let part = spent.map_or(Part { what, count: 0, per: Duration::ZERO }, |spent| spent.part);
            // How many octets a message has is known later: there are no turns.
            let until =
                if spent.is_some() && part.what == what { self.take(*scope, *key, budget, what, now) } else { until };
            return Err(Refused::new(*scope, Spent { part, until }, now));
        }
        for (scope, key, _) in budgets {
            self.use_up(*scope, *key);
        }
        Ok(())
    }

    fn take(&mut self, scope: Scope, key: usize, budget: &Budget, what: What, now: Instant) -> Instant {
        let slot = budget.book().take(now, || budget.reserve(what, now));
        let due = slot.key.0;
        self.0.get_or_insert_default().push(Turn { scope, key, slot });
        due
    }

    /// When the turn is due that was taken at a budget. One at another budget, which was there before a reload, counts no more.
    fn find(&mut self, scope: Scope, key: usize, budget: &Budget, now: Instant) -> Option<Instant> {
        let turns = self.0.as_mut()?;
        let is_it = |turn: &Turn| turn.scope == scope && turn.key == key;
        turns.retain(|Turn { slot, .. }| now.saturating_duration_since(slot.key.0) < STALE);
        turns.retain(|turn| !is_it(turn) || Arc::ptr_eq(&turn.slot.book, budget.book()));
        turns.iter().find(|turn| is_it(turn)).map(|turn| turn.slot.key.0)
    }

    fn use_up(&mut self, scope: Scope, key: usize) {
        let Some(turns) = &mut self.0 else { return };
        if let Some(turn) = turns.iter_mut().find(|turn| turn.scope == scope && turn.key == key) {
            turn.slot.use_one();
        }
        turns.retain(|turn| turn.slot.units > 0);
        if turns.is_empty() {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Allowance;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3_600);

    /// One each ten seconds.
    fn slow(start: Instant) -> Budget {
        Budget::new(&Allowance { messages: vec![(360, HOUR)], ..Allowance::default() }, start).unwrap()
    }

    /// What a holder is told: 0 if it may pass, else in how many seconds.
    fn ask(turns: &mut Turns, budget: &Budget, now: Instant) -> u64 {
        let budgets = [(Scope::Source, 0, Some(budget))];
        turns.acquire(&budgets, What::Messages, now).map_or_else(|no| (no.spent.until - now).as_secs(), |()| 0)
    }

    #[test]
    fn those_that_share_a_budget_have_their_turns_and_it_is_used_to_the_full() {
        let start = Instant::now();
        let allowance = Allowance { messages: vec![(100, SECOND)], ..Allowance::default() };
        let budget = Budget::new(&allowance, start).unwrap();
        let mut holders: Vec<(Turns, u32)> = (0..7).map(|_| Default::default()).collect();

        for millis in 0..5_000 {
            let now = start + Duration::from_millis(millis);
            for (turns, passed) in &mut holders {
                let budgets = [(Scope::Tenant, 0, Some(&budget)), (Scope::Campaign, 0, None)];
                *passed += u32::from(turns.acquire(&budgets, What::Messages, now).is_ok());
            }
        }

        let passed: Vec<u32> = holders.iter().map(|(_, passed)| *passed).collect();
        let all: u32 = passed.iter().sum();
        assert!((475..=505).contains(&all), "{passed:?}");
        assert!(passed.iter().max().unwrap() - passed.iter().min().unwrap() <= 6, "{passed:?}");
    }

    #[test]
    fn a_turn_that_is_given_up_is_the_next_one_s_and_no_two_are_due_at_once() {
        let start = Instant::now();
        let budget = slow(start);
        let mut holders: Vec<Turns> = (0..4).map(|_| Turns::default()).collect();
        let told: Vec<u64> = holders.iter_mut().map(|turns| ask(turns, &budget, start)).collect();
        assert_eq!(told, [0, 10, 20, 30]);

        holders.remove(1);
        let look = budget.look(What::Messages, start).unwrap_err().until - start;
        let (mut first, mut second) = (Turns::default(), Turns::default());

        assert_eq!(look, SECOND * 10);
        assert_eq!((ask(&mut first, &budget, start), ask(&mut second, &budget, start)), (10, 40));
        assert_eq!(ask(&mut first, &budget, start + SECOND * 10), 0);
    }

    #[test]
    fn a_turn_at_messages_waits_for_octets_that_are_owed() {
        let start = Instant::now();
        let allowance = Allowance { messages: vec![(1, SECOND)], octets: Some(1_000), ..Allowance::default() };
        let budget = Budget::new(&allowance, start).unwrap();
        let mut holders: Vec<Turns> = (0..2).map(|_| Turns::default()).collect();
        let told: Vec<u64> = holders.iter_mut().map(|turns| ask(turns, &budget, start)).collect();
        assert_eq!(told, [0, 1]);
        budget.charge(5_000, start);

        assert_eq!(ask(&mut holders[1], &budget, start + SECOND), 1, "it asks again");
        assert_eq!(ask(&mut holders[1], &budget, start + SECOND * 6), 0);
    }

    #[test]
    fn what_waits_owes_nothing_after_a_restart_or_at_another_pace() {
        let start = Instant::now();
        let budget = slow(start);
        let mut holders: Vec<Turns> = (0..4).map(|_| Turns::default()).collect();
        let told: Vec<u64> = holders.iter_mut().map(|turns| ask(turns, &budget, start)).collect();
        assert_eq!(told, [0, 10, 20, 30]);
        let (_, owed) = budget.unpaid(start).next().unwrap();
        assert_eq!(owed, SECOND * 10, "one has passed");

        holders.pop();
        assert_eq!(budget.unpaid(start).next().unwrap().1, owed, "nor what was given up");
        let faster = Allowance { messages: vec![(3_600, HOUR)], ..Allowance::default() };
        let after = budget.followed_by(&faster, start).unwrap();

        let told: Vec<u64> = holders.iter_mut().map(|turns| ask(turns, &after, start)).collect();
        assert_eq!(told, [1, 2, 3], "turns of the slower one count no more");
        assert_eq!(after.unpaid(start).next().unwrap().1, SECOND);
    }

    #[test]
    fn what_has_been_used_is_owed() {
        let start = Instant::now();
        let budget = slow(start);
        let mut holders: Vec<Turns> = (0..3).map(|_| Turns::default()).collect();
        let told: Vec<u64> = holders.iter_mut().map(|turns| ask(turns, &budget, start)).collect();
        assert_eq!(told, [0, 10, 20]);

        let then = start + SECOND * 10;
        assert_eq!(ask(&mut holders[1], &budget, then), 0);

        assert_eq!(budget.unpaid(then).next().unwrap().1, SECOND * 10);
    }
}
