//! A budget: every rate that one scope is held to (messages, new connections, octets).
//!
//! A message takes a unit of each of its rates or of none. How many octets it has is known when it has been drawn: it passes
//! while there is room for one of them, and all are charged at once, before any is sent ([`Budget::charge`]); what turns out not
//! to go is given back ([`Budget::recharge`]). So one that is larger than the budget passes, too, and the next one when it
//! has been paid for. The scopes that apply to one message are asked by [`acquire`]: all of them or none. Where many share a
//! budget, they have [turns](super::turns) at it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::permit::{Scope, What};
use super::rate::Rate;
use super::turns::Book;

/// What a scope may do in time. Empty: whatever it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Messages: so many per period, each of them.
    pub messages: Vec<(u32, Duration)>,
    /// New connections a minute.
    pub openings: Option<u32>,
    /// Octets of content a second.
    pub octets: Option<u32>,
}

impl Allowance {
    /// Whether it limits nothing.
    pub fn is_unlimited(&self) -> bool {
        self.messages.is_empty() && self.openings.is_none() && self.octets.is_none()
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        let messages = self.messages.iter().map(|(count, per)| Part { what: What::Messages, count: *count, per: *per });
        let openings = self.openings.map(|count| Part { what: What::Openings, count, per: MINUTE });
        let octets = self.octets.map(|count| Part { what: What::Octets, count, per: SECOND });
        messages.chain(openings).chain(octets)
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Who waits for octets asks again after this: those of a large message that is refused are given back long before their time.
const ASK: Duration = SECOND;

/// What one rate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it counts.
    pub what: What,
    /// So many.
    pub count: u32,
    /// In this time.
    pub per: Duration,
}

/// The rates of one scope.
#[derive(Debug)]
pub struct Budget {
    rates: Box<[(Part, Rate)]>,
    /// What was taken ahead of time.
    book: Arc<Book>,
}

/// Which rate said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// The rate.
    pub part: Part,
    /// When it may say yes.
    pub until: Instant,
}

impl Budget {
    /// The budget of an allowance; none if that limits nothing. `origin`: as [`Rate::new`].
    pub fn new(allowance: &Allowance, origin: Instant) -> Option<Self> {
        let rates: Box<[(Part, Rate)]> =
            allowance.parts().map(|part| (part, Rate::new(part.count, part.per, origin))).collect();
        (!rates.is_empty()).then(|| Self { rates, book: Arc::default() })
    }

    /// The budget of another allowance: what was used up of a rate over the same period stays used up. Turns at this one count no
    /// more.
    pub fn followed_by(&self, allowance: &Allowance, now: Instant) -> Option<Self> {
        let next = Self::new(allowance, now)?;
        for (old, owed) in self.unpaid(now) {
            for (part, rate) in next.rates.iter().filter(|(part, _)| old.what == part.what && old.per == part.per) {
                // Owed units count at the new pace.
                rate.owe(owed.mul_f64(f64::from(old.count) / f64::from(part.count.max(1))), now);
            }
        }
        Some(next)
    }

    /// Whether it is of this allowance.
    pub fn is_of(&self, allowance: &Allowance) -> bool {
        self.rates.iter().map(|(part, _)| *part).eq(allowance.parts())
    }

    /// Whether one more `what` may pass; if not, when.
    pub fn look(&self, what: What, now: Instant) -> Result<(), Spent> {
        let mut spent: Option<Spent> = None;
        for (part, rate) in self.asked(what) {
            if let Err(until) = rate.look(1, now)
                && spent.is_none_or(|spent| spent.until < until)
            {
                spent = Some(Spent { part: *part, until });
            }
        }
        let Some(Spent { part, until }) = spent else { return Ok(()) };
        // A turn that somebody has given up comes before.
        let free = self.book.first_free(now).filter(|_| part.what == what);
        Err(Spent { part, until: free.map_or(until, |free| free.min(until)) })
    }

    /// Lets one `what` pass; if it may not, tells when and takes nothing.
    pub fn commit(&self, what: What, now: Instant) -> Result<(), Spent> {
        for (taken, (part, rate)) in self.rates.iter().enumerate() {
            let asked = match part.what {
                What::Octets => rate.look(1, now),
                own if own == what => rate.commit(1, now),
                _ => Ok(()),
            };
            if let Err(until) = asked {
                self.refund_first(taken, what);
                return Err(Spent { part: *part, until });
            }
        }
        Ok(())
    }

    /// Takes back a commit whose message, or connection, was not sent after all.
    pub fn refund(&self, what: What) {
        self.refund_first(self.rates.len(), what);
    }

    fn refund_first(&self, rates: usize, what: What) {
        for (part, rate) in self.rates.iter().take(rates) {
            if part.what == what && what != What::Octets {
                rate.refund(1);
            }
        }
    }

    /// Whether it limits octets.
    pub fn has_octets(&self) -> bool {
        self.of(What::Octets).next().is_some()
    }

    /// Whether an octet may pass; if not, when.
    pub(super) fn look_for_octets(&self, now: Instant) -> Result<(), Spent> {
        let mut octets = self.rates.iter().filter(|(part, _)| part.what == What::Octets);
        octets.try_for_each(|(part, rate)| rate.look(1, now).map_err(|until| Spent { part: *part, until }))
    }

    /// Octets of a message that is to be sent.
    pub fn charge(&self, octets: u64, now: Instant) {
        self.of(What::Octets).for_each(|rate| rate.charge(octets, now));
    }

    /// Octets of a message turned out to be `octets`, where `charged` were.
    pub fn recharge(&self, charged: u64, octets: u64, now: Instant) {
        for rate in self.of(What::Octets) {
            match octets.checked_sub(charged) {
                Some(0) => {}
                Some(more) => rate.charge(more, now),
                None => rate.refund(charged - octets),
            }
        }
    }

    /// Takes a turn of `what` ahead of time: when it may pass, and how many.
    pub(super) fn reserve(&self, what: What, now: Instant) -> (Instant, u32) {
        let units = self.of(what).map(Rate::turn).min().unwrap_or(1);
        let due = self.of(what).map(|rate| rate.reserve(units, now)).max();
        (due.unwrap_or(now), units)
    }

    fn of(&self, what: What) -> impl Iterator<Item = &Rate> {
        self.rates.iter().filter(move |(part, _)| part.what == what).map(|(_, rate)| rate)
    }

    /// Each rate, with how many units may pass now and for how long what passed is still owed.
    pub fn rates(&self, now: Instant) -> impl Iterator<Item = (Part, u64, Duration)> {
        self.rates.iter().map(move |(part, rate)| (*part, rate.room(now), rate.owed(now)))
    }

    /// Turns at it.
    pub(super) fn book(&self) -> &Arc<Book> {
        &self.book
    }

    /// Each rate, with for how long what has passed is still owed: what was only taken ahead of time is not.
    pub fn unpaid(&self, now: Instant) -> impl Iterator<Item = (Part, Duration)> {
        let unpaid = |held: u64| -> Vec<(Part, Duration)> {
            // Turns are taken of messages.
            let held = |part: &Part| if part.what == What::Messages { held } else { 0 };
            self.rates.iter().map(|(part, rate)| (*part, rate.owed_without(held(part), now))).collect()
        };
        self.book.held(now, unpaid).into_iter()
    }

    /// Nothing is known of what passed until `at`: it is as if as much had just passed as may at once; of octets, which messages
    /// may have many more of, a second's worth.
    pub fn exhaust(&self, at: Instant, now: Instant) {
        for (part, rate) in &self.rates {
            let at = if part.what == What::Octets { at + part.per } else { at };
            rate.exhaust(at, now);
        }
    }

    /// Takes up what was owed to a rate before a restart.
    pub fn owe(&self, what: What, per: Duration, owed: Duration, now: Instant) {
        for (_, rate) in self.rates.iter().filter(|(part, _)| part.what == what && part.per == per) {
            rate.owe(owed, now);
        }
    }

    /// Whether nothing is owed.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.rates.iter().all(|(_, rate)| rate.is_idle(now))
    }

    fn asked(&self, what: What) -> impl Iterator<Item = &(Part, Rate)> {
        self.rates.iter().filter(move |(part, _)| part.what == what || part.what == What::Octets)
    }
}

/// A budget that refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the budget is of.
    pub scope: Scope,
    /// The rate, and when.
    pub spent: Spent,
}

impl Refused {
    /// By the budget of `scope`.
    pub(super) fn new(scope: Scope, Spent { part, until }: Spent, now: Instant) -> Self {
        let until = if part.what == What::Octets { until.min(now + ASK) } else { until };
        Self { scope, spent: Spent { part, until } }
    }
}

/// Takes one `what` of all `budgets`, or of none.
pub fn acquire(budgets: &[(Scope, Option<&Budget>)], what: What, now: Instant) -> Result<(), Refused> {
    for (scope, budget) in present(budgets) {
        budget.look(what, now).map_err(|spent| Refused::new(scope, spent, now))?;
    }
    for (taken, (scope, budget)) in present(budgets).enumerate() {
        if let Err(spent) = budget.commit(what, now) {
            present(budgets).take(taken).for_each(|(_, budget)| budget.refund(what));
            return Err(Refused::new(scope, spent, now));
        }
    }
    Ok(())
}

/// Gives back what [`acquire`] took.
pub fn refund(budgets: &[(Scope, Option<&Budget>)], what: What) {
    present(budgets).for_each(|(_, budget)| budget.refund(what));
}

fn present<'a>(budgets: &[(Scope, Option<&'a Budget>)]) -> impl Iterator<Item = (Scope, &'a Budget)> {
    budgets.iter().filter_map(|(scope, budget)| Some((*scope, (*budget)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn messages(rates: &[(u32, Duration)]) -> Allowance {
        Allowance { messages: rates.to_vec(), ..Allowance::default() }
    }

    #[test]
    fn a_message_takes_a_unit_of_every_rate_or_of_none() {
        let now = Instant::now();
        let budget = Budget::new(&messages(&[(10, SECOND), (1, HOUR)]), now).unwrap();
        assert_eq!(budget.commit(What::Messages, now), Ok(()));

        let later = now + Duration::from_secs(1);
        let refused = budget.commit(What::Messages, later).unwrap_err();

        assert_eq!((refused.part.per, refused.until), (HOUR, now + HOUR));
        let rooms: Vec<u64> = budget.rates(later).map(|(_, room, _)| room).collect();
        assert_eq!(rooms, [1, 0], "the refusal took nothing of the first");
    }

    #[test]
    fn an_hours_budget_is_not_spent_in_its_first_second() {
        let start = Instant::now();
        let budget = Budget::new(&messages(&[(36_000, HOUR)]), start).unwrap();

        let commit = |millis: u64| budget.commit(What::Messages, start + Duration::from_millis(millis)).is_ok();
        let passed = (0..1_000).filter(|millis| commit(*millis)).count();

        assert!((10..=16).contains(&passed), "{passed}");
    }

    #[test]
    fn several_scopes_give_all_or_nothing_and_the_one_that_refuses_is_named() {
        let now = Instant::now();
        let (wide, narrow) = (Budget::new(&messages(&[(100, SECOND)]), now), Budget::new(&messages(&[(1, HOUR)]), now));
        let budgets = [(Scope::Global, wide.as_ref()), (Scope::Site, None), (Scope::Source, narrow.as_ref())];
        let room = |budget: &Option<Budget>| budget.as_ref().unwrap().rates(now).next().unwrap().1;
        assert_eq!(acquire(&budgets, What::Messages, now), Ok(()));
        let before = room(&wide);

        let refused = acquire(&budgets, What::Messages, now).unwrap_err();

        assert_eq!((refused.scope, room(&wide)), (Scope::Source, before));
        refund(&budgets, What::Messages);
        assert_eq!(acquire(&budgets, What::Messages, now), Ok(()));
    }

    #[test]
    fn octets_are_paid_for_before_the_next_message_and_those_that_do_not_go_are_given_back() {
        let now = Instant::now();
        let budget = Budget::new(&Allowance { octets: Some(1_000), ..Allowance::default() }, now).unwrap();
        assert_eq!(budget.commit(What::Messages, now), Ok(()));

        budget.charge(10_000, now);

        assert!(budget.commit(What::Messages, now + Duration::from_secs(9)).is_err());
        assert_eq!(budget.commit(What::Messages, now + Duration::from_secs(11)), Ok(()));
        let later = now + Duration::from_secs(20);
        budget.charge(10_000, later);
        budget.recharge(10_000, 500, later);
        let until = budget.look(What::Messages, later).unwrap_err().until;
        assert!((400..=500).contains(&(until - later).as_millis()), "{:?}", until - later);
    }

    #[test]
    fn who_waits_for_octets_asks_again_within_a_second() {
        let now = Instant::now();
        let budget = Budget::new(&Allowance { octets: Some(1_000), ..Allowance::default() }, now);
        let octets = [(Scope::Global, budget.as_ref())];
        budget.as_ref().unwrap().charge(60_000, now);

        let refused = acquire(&octets, What::Messages, now).unwrap_err();

        assert_eq!((refused.spent.part.what, refused.spent.until), (What::Octets, now + SECOND));
        budget.as_ref().unwrap().recharge(60_000, 0, now);
        assert_eq!(acquire(&octets, What::Messages, now + SECOND), Ok(()));
    }

    #[test]
    fn what_was_used_up_stays_so_when_the_allowance_changes_or_after_a_restart() {
        let now = Instant::now();
        let budget = Budget::new(&messages(&[(10, HOUR)]), now).unwrap();
        budget.commit(What::Messages, now).unwrap();
        let (part, _, owed) = budget.rates(now).next().unwrap();

        let changed = budget.followed_by(&messages(&[(20, HOUR)]), now).unwrap();
        let restarted = Budget::new(&messages(&[(10, HOUR)]), now).unwrap();
        restarted.owe(part.what, part.per, owed, now);

        assert_eq!(changed.look(What::Messages, now).unwrap_err().until, now + HOUR / 20);
        assert_eq!(restarted.look(What::Messages, now).unwrap_err().until, now + HOUR / 10);
        assert!(budget.is_of(&messages(&[(10, HOUR)])) && !budget.is_of(&messages(&[(20, HOUR)])));
    }

    #[test]
    fn racing_threads_never_pass_more_than_the_rate() {
        let now = Instant::now();
        let budgets = [Budget::new(&messages(&[(1_000, SECOND)]), now), Budget::new(&messages(&[(120, HOUR)]), now)];
        let scopes = [(Scope::Global, budgets[0].as_ref()), (Scope::Tenant, budgets[1].as_ref())];

        let passed: usize = std::thread::scope(|scope| {
            let take = || (0..500).filter(|_| acquire(&scopes, What::Messages, now).is_ok()).count();
            let racers: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum()
        });

        assert_eq!(passed, 1, "one is the burst of the slower");
        assert!(budgets[0].as_ref().unwrap().rates(now).next().unwrap().1 > 40, "refunded");
    }
}
