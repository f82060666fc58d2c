//! Fair order among children that compete for one thing, by weight.
//!
//! Start-time fair queueing: each child has a virtual time that advances by cost / weight when it is served, and the
//! backlogged child with the least virtual time comes next. It gives the shares of deficit round robin with a shorter
//! wait, and unlike a ring it stays fair when the chooser can serve only some of the children: one account can be kept
//! across several [`Fair`]s (the connections to different MX sets of one site), see [`Fair::next`].
//!
//! A child that becomes backlogged starts at the virtual time of the one served last, so idling saves nothing up.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Virtual time that one unit costs a child of weight 1.
const UNIT: u64 = 1 << 20;

/// The virtual cost of `units` for a child of `weight`.
pub fn cost(units: usize, weight: u32) -> u64 {
    UNIT.saturating_mul(u64::try_from(units).unwrap_or(u64::MAX >> 21)) / u64::from(weight.max(1))
}

/// Children in fair order.
#[derive(Debug)]
pub struct Fair<T> {
    places: Vec<Option<Child<T>>>,
    free: Vec<u32>,
    /// Made when there are more than a few children: most have one, and a table would be the largest part of it.
    by_key: Option<Box<ByKey>>,
    /// One element a child; its time may lag behind the child's, never run ahead of it.
    order: BinaryHeap<Reverse<(u64, u32)>>,
    now: u64,
}

type ByKey = HashMap<usize, u32, foldhash::fast::RandomState>;

/// So many children are searched one by one.
const FEW: usize = 8;

#[derive(Debug)]
struct Child<T> {
    key: usize,
    time: u64,
    weight: u32,
    /// It stands in the order.
    is_present: bool,
    item: T,
}

/// What [`Fair::next`] asks about a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has nothing left: forget it.
    Empty,
    /// It is backlogged.
    Backlogged,
    /// It is backlogged, and was served elsewhere up to this virtual time.
    Elsewhere(u64),
    /// It is backlogged and may not be served: it leaves the order until [`Fair::recall`].
    Away,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), by_key: None, order: BinaryHeap::new(), now: 0 }
    }
}

impl<T> Fair<T> {
    /// The virtual time of what was served last.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The child of `key`, made by `make` with `weight` if there is none. A new child starts now, or at `at_least` if that is later.
    pub fn child(&mut self, key: usize, weight: u32, at_least: u64, make: impl FnOnce() -> T) -> &mut T {
        let place = match self.place(key) {
            Some(place) => place,
            None => self.insert(Child { key, time: self.now.max(at_least), weight, is_present: true, item: make() }),
        };
        let slot = self.places.get_mut(index(place)).and_then(Option::as_mut);
        // `place` and `insert` name occupied places only.
        #[allow(clippy::expect_used)]
        &mut slot.expect("a key's place is occupied").item
    }

    fn insert(&mut self, child: Child<T>) -> u32 {
        let (key, time) = (child.key, child.time);
        let place = match self.free.pop() {
            Some(place) => {
                if let Some(slot) = self.places.get_mut(index(place)) {
                    *slot = Some(child);
                }
                place
            }
            None => {
                // Exactly one at first: most stay alone.
                self.places.reserve_exact(usize::from(self.places.is_empty()));
                self.places.push(Some(child));
                u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
            }
        };
        match &mut self.by_key {
            Some(by_key) => {
                by_key.insert(key, place);
            }
            None if self.places.len() > FEW => {
                let keys = self.places.iter().zip(0..).filter_map(|(child, at)| Some((child.as_ref()?.key, at)));
                self.by_key = Some(Box::new(keys.collect()));
            }
            None => {}
        }
        self.order.reserve_exact(usize::from(self.order.is_empty()));
        self.order.push(Reverse((time, place)));
        place
    }

    /// Whose turn it is, by `standing` of each candidate; empty children on the way are forgotten. The result is for
    /// [`Fair::item`] and [`Fair::charge`] until the next change.
    pub fn next(&mut self, standing: impl Fn(&T) -> Standing) -> Option<u32> {
        loop {
            let Reverse((time, place)) = *self.order.peek()?;
            let Some(child) = self.places.get_mut(index(place)).and_then(Option::as_mut) else {
                self.order.pop();
                continue;
            };
            match standing(&child.item) {
                Standing::Empty => {
                    self.order.pop();
                    self.remove(place);
                    continue;
                }
                Standing::Away => {
                    self.order.pop();
                    child.is_present = false;
                    continue;
                }
                Standing::Elsewhere(served) => child.time = child.time.max(served),
                Standing::Backlogged => {}
            }
            if child.time <= time {
                return Some(place);
            }
            let later = child.time;
            self.settle(later);
        }
    }

    /// The child at `place`, which [`Fair::next`] gave, leaves the order until [`Fair::recall`].
    pub fn dismiss(&mut self, place: u32) {
        if let Some(child) = self.places.get_mut(index(place)).and_then(Option::as_mut) {
            child.is_present = false;
        }
        if self.order.peek().is_some_and(|Reverse((_, first))| *first == place) {
            self.order.pop();
        }
    }

    /// Whether no child stands in the order, whatever there is beside it.
    pub fn is_deserted(&self) -> bool {
        self.order.is_empty()
    }

    /// The child of `key` may be served again. It has saved nothing up meanwhile.
    pub fn recall(&mut self, key: usize) {
        let Some(place) = self.place(key) else { return };
        let now = self.now;
        if let Some(child) = self.places.get_mut(index(place)).and_then(Option::as_mut)
            && !std::mem::replace(&mut child.is_present, true)
        {
            child.time = child.time.max(now);
            self.order.push(Reverse((child.time, place)));
        }
    }

    /// Gives the foremost element of the order a later time.
    fn settle(&mut self, time: u64) {
        if let Some(mut first) = self.order.peek_mut() {
            first.0.0 = time;
        }
    }

    fn remove(&mut self, place: u32) {
        if let Some(child) = self.places.get_mut(index(place)).and_then(Option::take) {
            if let Some(by_key) = &mut self.by_key {
                by_key.remove(&child.key);
            }
            self.free.push(place);
        }
    }

    /// The child at `place`.
    pub fn item(&mut self, place: u32) -> Option<&mut T> {
        self.places.get_mut(index(place)).and_then(Option::as_mut).map(|child| &mut child.item)
    }

    /// Where the child of `key` is.
    pub fn place(&self, key: usize) -> Option<u32> {
        if let Some(by_key) = &self.by_key {
            return by_key.get(&key).copied();
        }
        let is_key = |child: &Option<Child<T>>| child.as_ref().is_some_and(|child| child.key == key);
        self.places.iter().position(is_key).and_then(|at| u32::try_from(at).ok())
    }

    /// The virtual time of the child at `place`.
    pub fn time(&self, place: u32) -> u64 {
        self.places.get(index(place)).and_then(Option::as_ref).map_or(self.now, |child| child.time)
    }

    /// Charges the child at `place` for having been served `units`; returns its new virtual time.
    pub fn charge(&mut self, place: u32, units: usize) -> u64 {
        let Some(child) = self.places.get_mut(index(place)).and_then(Option::as_mut) else { return self.now };
        self.now = self.now.max(child.time);
        child.time = child.time.saturating_add(cost(units, child.weight));
        child.time
    }

    /// Gives every child the weight that `weight` tells for its key; where it tells none, the old one stays.
    pub fn reweigh(&mut self, weight: impl Fn(usize) -> Option<u32>) {
        for child in self.places.iter_mut().flatten() {
            child.weight = weight(child.key).unwrap_or(child.weight);
        }
    }

    /// Every child, in no particular order.
    pub fn items(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten().map(|child| &child.item)
    }

    /// Every child, in no particular order.
    pub fn items_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().flatten().map(|child| &mut child.item)
    }
}

fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Children are counters of what is left to serve.
    fn serve(fair: &mut Fair<(usize, u32)>, units: usize) -> Option<usize> {
        let place = fair.next(|(_, left)| if *left == 0 { Standing::Empty } else { Standing::Backlogged })?;
        fair.charge(place, units);
        let item = fair.item(place)?;
        item.1 -= 1;
        Some(item.0)
    }

    fn with(children: &[(u32, u32)]) -> Fair<(usize, u32)> {
        let mut fair = Fair::default();
        for (key, (weight, left)) in children.iter().enumerate() {
            fair.child(key, *weight, 0, || (key, *left));
        }
        fair
    }

    #[test]
    fn backlogged_children_are_served_by_weight() {
        let mut fair = with(&[(16, 10_000), (4, 10_000), (1, 10_000)]);

        let mut counts = [0; 3];
        for _ in 0..2_100 {
            counts[serve(&mut fair, 1).unwrap()] += 1;
        }

        assert!((1_598..=1_602).contains(&counts[0]), "{counts:?}");
        assert!((398..=402).contains(&counts[1]), "{counts:?}");
        assert!((98..=102).contains(&counts[2]), "{counts:?}");
    }

    #[test]
    fn a_child_with_many_units_a_turn_gets_fewer_turns() {
        let mut fair = with(&[(1, 10_000), (1, 10_000)]);

        let mut units = [0; 2];
        for _ in 0..1_100 {
            let place = fair.next(|_| Standing::Backlogged).unwrap();
            let child = fair.item(place).unwrap().0;
            let cost = if child == 0 { 10 } else { 1 };
            fair.charge(place, cost);
            units[child] += cost;
        }

        assert!(units[0].abs_diff(units[1]) <= 10, "{units:?}");
    }

    #[test]
    fn a_newcomer_is_served_soon_but_gets_no_credit_for_its_absence() {
        let mut fair = with(&[(1, 10_000)]);
        for _ in 0..1_000 {
            serve(&mut fair, 1);
        }

        fair.child(7, 1, 0, || (7, 10_000));
        let turns: Vec<usize> = (0..20).map(|_| serve(&mut fair, 1).unwrap()).collect();

        assert!(turns.iter().position(|t| *t == 7).unwrap() <= 1);
        assert!((9..=11).contains(&turns.iter().filter(|t| **t == 7).count()), "{turns:?}");
    }

    #[test]
    fn an_emptied_child_is_forgotten_and_may_return() {
        let mut fair = with(&[(1, 1), (1, 3)]);

        while serve(&mut fair, 1).is_some() {}

        assert_eq!(fair.items().count(), 0);
        fair.child(0, 1, 0, || (0, 1));
        assert_eq!(serve(&mut fair, 1), Some(0));
    }

    #[test]
    fn a_child_that_may_not_be_served_is_not_asked_again_until_it_is_recalled() {
        let mut fair = with(&[(1, 20), (1, 20)]);
        let asked = std::cell::Cell::new(0);
        let turn = |fair: &mut Fair<(usize, u32)>, blocked: Option<usize>| {
            let place = fair.next(|(key, _)| {
                asked.set(asked.get() + usize::from(*key == 0));
                if blocked == Some(*key) { Standing::Away } else { Standing::Backlogged }
            })?;
            fair.charge(place, 1);
            fair.item(place).map(|item| item.0)
        };

        let turns: Vec<_> = (0..4).map(|_| turn(&mut fair, Some(0))).collect();
        assert_eq!((turns, asked.get()), (vec![Some(1); 4], 1));

        fair.recall(0);
        fair.recall(0);
        let turns: Vec<_> = (0..8).filter_map(|_| turn(&mut fair, None)).collect();
        let of_the_recalled = turns.iter().filter(|key| **key == 0).count();
        assert!((4..=5).contains(&of_the_recalled), "{turns:?}: nothing was saved up");
    }

    #[test]
    fn many_children_come_and_go() {
        let mut fair = Fair::default();
        for key in 0..1_000 {
            fair.child(key, 1, 0, || (key, 1));
        }
        for key in 0..1_000 {
            fair.child(key, 1, 0, || unreachable!()).1 += 1;
        }

        let mut served = vec![0; 1_000];
        while let Some(key) = serve(&mut fair, 1) {
            served[key] += 1;
        }

        assert!(served.iter().all(|count| *count == 2));
        assert_eq!(fair.place(5), None);
    }

    #[test]
    fn service_elsewhere_counts() {
        let mut fair = with(&[(1, 100), (1, 100)]);
        let served_elsewhere = cost(50, 1);

        let standing = |item: &(usize, u32)| match item.0 {
            0 => Standing::Elsewhere(served_elsewhere),
            _ => Standing::Backlogged,
        };
        let turns: Vec<usize> = (0..50)
            .map(|_| {
                let place = fair.next(standing).unwrap();
                fair.charge(place, 1);
                fair.item(place).unwrap().0
            })
            .collect();

        assert!(turns.iter().all(|turn| *turn == 1), "{turns:?}");
    }
}
