//! What waits to be sent: tenants in fair order, each with what came, what was returned and what is due again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::chance::Chance;
use super::profile::{Profile, Tenant};
use super::{MINUTE, NEVER, Time, from_seconds};
use crate::limit::fair::{Fair, Standing};

/// Minutes before a message is tried again that was refused for a reason of its own: as `[retry]` has it by default.
const SCHEDULE: [Time; 6] = [1, 5, 15, 30, 60, 120];

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Message {
    pub tenant: usize,
    /// When it came.
    pub came: Time,
    /// When it was tried first; [`NEVER`]: it was not.
    pub first: Time,
    /// Tries that counted.
    pub tries: u8,
    /// Tries since the last one that counted, refused without a word of why.
    pub guesses: u8,
}

/// A tenant's share of it.
#[derive(Debug)]
struct Line {
    rules: Tenant,
    /// Those that were returned; before all others.
    waiting: VecDeque<Message>,
    /// How many more have come, and when the first of them did. Only counted: a demand beyond what the receiver takes leaves
    /// billions of them.
    fresh: u64,
    oldest: Time,
    /// When the next message comes; [`NEVER`]: there is always one.
    next: Time,
    /// Between two of them.
    step: Time,
}

impl Line {
    fn has_work(&self) -> bool {
        self.next == NEVER || self.fresh > 0 || !self.waiting.is_empty()
    }

    /// Counts what has come until `now`.
    fn arrive(&mut self, now: Time) {
        let Some(span) = now.checked_sub(self.next).filter(|_| self.next != NEVER) else { return };
        let count = span / self.step + 1;
        if self.fresh == 0 {
            self.oldest = self.next;
        }
        self.fresh += count;
        self.next += count * self.step;
    }

    fn draw(&mut self, tenant: usize, now: Time) -> Option<Message> {
        if let Some(message) = self.waiting.pop_front() {
            return Some(message);
        }
        let mut came = now;
        if self.next != NEVER {
            self.fresh = self.fresh.checked_sub(1)?;
            came = self.oldest;
            self.oldest += self.step;
        }
        Some(Message { tenant, came, first: NEVER, tries: 0, guesses: 0 })
    }
}

/// Everything that waits.
#[derive(Debug)]
pub(super) struct Lines {
    lines: Vec<Line>,
    order: Fair<usize>,
    /// Deferred messages by their time.
    due: BinaryHeap<Reverse<(Time, Message)>>,
}

impl Lines {
    pub fn new(profile: &Profile, chance: &mut Chance) -> Self {
        let alone =
            Tenant { name: String::new(), weight: 1, demand_per_minute: profile.demand_per_minute, is_refused: false };
        let tenants = if profile.tenants.is_empty() { vec![alone] } else { profile.tenants.clone() };
        let lines = tenants.into_iter().map(|rules| {
            let (waiting, fresh, oldest) = (VecDeque::new(), 0, 0);
            let (mut next, mut step) = (NEVER, 1);
            if rules.demand_per_minute > 0.0 {
                let between = 60.0 / rules.demand_per_minute;
                (next, step) = (from_seconds(between * chance.share()), from_seconds(between).max(1));
            }
            Line { rules, waiting, fresh, oldest, next, step }
        });
        let mut lines = Self { lines: lines.collect(), order: Fair::default(), due: BinaryHeap::new() };
        for at in 0..lines.lines.len() {
            lines.enter(at);
        }
        lines
    }

    /// Puts a tenant with work in order.
    fn enter(&mut self, at: usize) {
        let Some(line) = self.lines.get(at) else { return };
        if line.has_work() {
            self.order.child(at, line.rules.weight, 0, || at);
        }
    }

    /// When something comes next to somebody who has nothing, or is due again.
    pub fn next_arrival(&self) -> Time {
        let coming = self.lines.iter().filter(|line| !line.has_work()).map(|line| line.next).min().unwrap_or(NEVER);
        coming.min(self.due.peek().map_or(NEVER, |Reverse((due, _))| *due))
    }

    /// Takes in what has come until `now`.
    pub fn arrive(&mut self, now: Time) {
        while let Some(Reverse((due, message))) = self.due.peek().copied()
            && due <= now
        {
            self.due.pop();
            self.back(message);
        }
        for at in 0..self.lines.len() {
            let Some(line) = self.lines.get_mut(at) else { continue };
            let had_work = line.has_work();
            line.arrive(now);
            if !had_work {
                self.enter(at);
            }
        }
    }

    /// Whether anything waits.
    pub fn has_work(&mut self) -> bool {
        self.turn().is_some()
    }

    /// How much waits, as far as that matters.
    pub fn waiting(&self) -> usize {
        let most = usize::MAX >> 16;
        let count = |line: &Line| match line.next {
            NEVER => most,
            _ => line.waiting.len() + usize::try_from(line.fresh).unwrap_or(most).min(most),
        };
        self.lines.iter().map(count).sum()
    }

    fn turn(&mut self) -> Option<u32> {
        let lines = &self.lines;
        self.order.next(|at| match lines.get(*at) {
            Some(line) if line.has_work() => Standing::Backlogged,
            _ => Standing::Empty,
        })
    }

    /// The next message.
    pub fn draw(&mut self, now: Time) -> Option<Message> {
        let place = self.turn()?;
        self.order.charge(place, 1);
        let at = *self.order.item(place)?;
        let line = self.lines.get_mut(at)?;
        let mut message = line.draw(at, now)?;
        message.first = message.first.min(now);
        Some(message)
    }

    /// A message that did not count goes to the front.
    pub fn back(&mut self, message: Message) {
        if let Some(line) = self.lines.get_mut(message.tenant) {
            line.waiting.push_front(message);
            self.enter(message.tenant);
        }
    }

    /// A message that was refused for a reason of its own is tried again later.
    pub fn defer(&mut self, mut message: Message, now: Time, chance: &mut Chance) {
        let wait = SCHEDULE.get(usize::from(message.tries)).or(SCHEDULE.last()).copied().unwrap_or(1) * MINUTE;
        message.tries = message.tries.saturating_add(1);
        message.guesses = 0;
        self.due.push(Reverse((now + chance.spread(wait, 0.1), message)));
    }

    /// Whether all of a tenant's messages are refused for their content.
    pub fn is_refused(&self, tenant: usize) -> bool {
        self.lines.get(tenant).is_some_and(|line| line.rules.is_refused)
    }

    /// The tenants' names.
    pub fn names(&self) -> Vec<String> {
        self.lines.iter().map(|line| line.rules.name.clone()).collect()
    }
}
