//! Warm-ups as the queue keeps to them: which plan holds for a source at a site, and what it is told.
//!
//! A plan is of a source and a provider, or of a source and every site for which it has no other plan. The sites of a plan count
//! together, and wait in turn (`warmup_turns`). What has no room goes by the plan's overflow (`overflow`), or waits at its path. Where plans are
//! outlives restarts and reloads (`warmup_store`). Without a plan all of this costs one load of an atomic where a source is chosen and one where a path is looked at.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::journal::{self, LimitChange};
use crate::limit::warmup::{Halt, Plan, Wait, Warmup};
use crate::message::Outcome;
use crate::metrics::Registry;
use crate::metrics::sheet::Sheet;
use crate::reply::{Class, Verdict};

use super::engine::Engine;
use super::entry::{Entry, hash_of};
use super::settle::said;
use super::site::Site;
use super::warmup_store::Store;
use super::warmup_turns::{Room, Turns};
use super::warmup_views::FAMILIES;
use super::within::Within;

/// One plan of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The source.
    pub source: Arc<str>,
    /// The provider; none: every site for which the source has no plan of its own.
    pub provider: Option<Arc<str>>,
    /// By which source goes what has no room; none: it waits.
    pub overflow: Option<Arc<str>>,
    /// The volumes.
    pub plan: Plan,
}

/// How the provider of a plan for every other site is called.
pub(super) const EVERYWHERE: &str = "default";
/// What the journal calls a plan's volume.
const LIMIT: &str = "warmup";

/// All plans.
#[derive(Debug)]
pub(super) struct Warmups {
    is_on: AtomicBool,
    /// Replaced by a reload.
    table: ArcSwap<Table>,
    pub store: Store,
    pub sheet: Arc<Sheet>,
    within: Arc<Within>,
}

/// Plans by their source's index.
#[derive(Debug, Default)]
struct Table {
    plans: Vec<Arc<Warming>>,
    by_source: HashMap<u16, Vec<Arc<Warming>>>,
}

/// A plan under way.
#[derive(Debug)]
pub(super) struct Warming {
    pub source: Arc<str>,
    /// The source's index.
    pub index: u16,
    pub provider: Option<Arc<str>>,
    /// By which source goes what has no room.
    pub overflow: Option<(u16, Arc<str>)>,
    clock: Clock,
    /// Shared with the one that a reload makes of it.
    pub state: Arc<Mutex<Standing>>,
}

/// How far it is.
#[derive(Debug)]
pub(super) struct Standing {
    pub warmup: Warmup,
    pub turns: Turns,
    /// Since the start.
    pub overflowed: u64,
    /// By itself, since the start.
    pub pauses: u64,
}

/// What a message needs of the plan of its source at a site.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    warming: Arc<Warming>,
    /// Tells sites apart that share a plan.
    site: u64,
}

/// A plan has no room now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Halted {
    /// Why.
    pub halt: Halt,
    /// When to ask again; none: when an operator resumes it.
    pub until: Option<Instant>,
    /// What has no room goes by another source.
    pub has_overflow: bool,
}

impl Standing {
    /// Whether a message of a site may go now. Where sites share the plan they have turns.
    fn look(&mut self, site: Option<u64>, now: Duration) -> Result<(), Wait> {
        let looked = self.warmup.look(now);
        let Some(site) = site else { return looked };
        let (messages, from) = match (looked, self.warmup.room(now)) {
            (Ok(()), Some(room)) => (room, now),
            (Err(Wait { halt: Halt::Pace, until }), _) => (0, until.unwrap_or(now)),
            // Everything may go, or nothing for long.
            (looked, _) => {
                self.turns.clear();
                return looked;
            }
        };
        let interval = self.warmup.interval(now).unwrap_or_default();
        let asked = self.turns.ask(site, Room { messages, from, interval }, now);
        asked.map_err(|until| Wait { halt: Halt::Pace, until: Some(until) })
    }
}

impl Warming {
    fn new(rule: &Rule, index: u16, overflow: Option<u16>, state: Arc<Mutex<Standing>>, clock: Clock) -> Self {
        let overflow = overflow.zip(rule.overflow.clone());
        Self { source: rule.source.clone(), index, provider: rule.provider.clone(), overflow, clock, state }
    }

    /// How people call its provider.
    pub fn provider(&self) -> &str {
        self.provider.as_deref().unwrap_or(EVERYWHERE)
    }

    /// Whether sites wait for it in turn. Those of a provider are several when rules name some of its domains.
    pub fn has_turns(&self) -> bool {
        self.overflow.is_none()
    }

    fn halted(&self, wait: Wait, now: Instant, wall: Duration) -> Halted {
        let until = wait.until.map(|until| now + until.saturating_sub(wall));
        Halted { halt: wait.halt, until, has_overflow: self.overflow.is_some() }
    }

    /// Whether a message for a site may go now.
    pub fn look(&self, site: &str, now: Instant) -> Result<(), Halted> {
        let wall = self.clock.wall_at(now);
        let turn = self.has_turns().then(|| hash_of(site));
        self.state.lock().look(turn, wall).map_err(|wait| self.halted(wait, now, wall))
    }

    /// Whether something may go now, and how much at once; turns left aside.
    pub fn room(&self, now: Instant) -> u32 {
        self.state.lock().warmup.room(self.clock.wall_at(now)).unwrap_or(u32::MAX)
    }

    /// When something may go, turns left aside; none: when an operator resumes it.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        let wall = self.clock.wall_at(now);
        match self.state.lock().warmup.look(wall) {
            Ok(()) => Some(now),
            Err(wait) => wait.until.map(|until| now + until.saturating_sub(wall)),
        }
    }
}

impl Pass {
    /// Lets a message go.
    pub fn take(&self, now: Instant) -> Result<(), Halted> {
        let Self { warming, site } = self;
        let wall = warming.clock.wall_at(now);
        let mut state = warming.state.lock();
        let turn = warming.has_turns().then_some(*site);
        let taken = state.look(turn, wall).and_then(|()| state.warmup.take(wall));
        if taken.is_ok() {
            turn.into_iter().for_each(|site| state.turns.leave(site));
        }
        taken.map_err(|wait| warming.halted(wait, now, wall))
    }

    /// The site has nothing to send, or cannot send it now: the next one may.
    pub fn leave(&self) {
        if self.warming.has_turns() {
            self.warming.state.lock().turns.leave(self.site);
        }
    }

    /// What was taken at `then` was not sent.
    pub fn give_back(&self, then: Instant, now: Instant) {
        let clock = self.warming.clock;
        self.warming.state.lock().warmup.give_back(clock.wall_at(then), clock.wall_at(now));
    }
}

impl Warmups {
    /// None yet.
    pub fn new(within: Arc<Within>, registry: &Registry) -> Self {
        let sheet = Arc::new(Sheet::new(&FAMILIES));
        registry.add_sheet(sheet.clone());
        let (is_on, table, store) = Default::default();
        Self { is_on, table, store, sheet, within }
    }

    /// Whether there is a plan.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Every plan, in the order of the configuration.
    pub fn all(&self) -> Vec<Arc<Warming>> {
        self.table.load().plans.clone()
    }

    /// The plan of a source at a site.
    pub fn of(&self, source: u16, site: &str) -> Option<Arc<Warming>> {
        if !self.is_on() {
            return None;
        }
        let table = self.table.load();
        let plans = table.by_source.get(&source)?;
        let parent = self.within.of(site);
        let of = |name: &str| plans.iter().find(|plan| plan.provider.as_deref() == Some(name));
        let own = of(site).or_else(|| parent.as_deref().and_then(of));
        own.or_else(|| plans.iter().find(|plan| plan.provider.is_none())).cloned()
    }
}

impl Table {
    fn new(plans: Vec<Arc<Warming>>) -> Self {
        let mut by_source: HashMap<u16, Vec<Arc<Warming>>> = HashMap::new();
        for plan in &plans {
            by_source.entry(plan.index).or_default().push(plan.clone());
        }
        Self { plans, by_source }
    }
}

/// Whether a refusal of this class speaks against the sender's name or what it sends: that is what a warm-up must not go on with.
/// Too much at once is what the limits learn from, whatever the day's volume.
const fn is_bad(class: Class) -> bool {
    matches!(
        class,
        Class::Reputation
            | Class::SpamContent
            | Class::Virus
            | Class::Policy
            | Class::Authentication
            | Class::SenderRejected
    )
}

impl Engine {
    /// Goes by the plans of the settings; `known`: where one stands.
    pub fn set_warmups(&self, now: Instant, known: impl Fn(&Rule, Duration) -> Option<Arc<Mutex<Standing>>>) {
        let (settings, sources) = (self.settings(), self.sources.load());
        let wall = self.clock.wall_at(now);
        let warming = |rule: &Rule| {
            let fresh = || Arc::new(Mutex::new(Standing::new(Warmup::new(rule.plan.clone(), None, wall))));
            let state = known(rule, wall).unwrap_or_else(fresh);
            let overflow = rule.overflow.as_deref().and_then(|name| sources.named(name));
            Some(Arc::new(Warming::new(rule, sources.named(&rule.source)?, overflow, state, self.clock)))
        };
        let plans: Vec<Arc<Warming>> = settings.warmups.iter().filter_map(warming).collect();
        self.warmups.is_on.store(!plans.is_empty(), Ordering::Relaxed);
        self.warmups.table.store(Arc::new(Table::new(plans)));
        self.show_warmups();
    }

    /// What messages from a source need at a site.
    pub fn pass(&self, source: u16, site: &str) -> Option<Pass> {
        Some(Pass { warming: self.warmups.of(source, site)?, site: hash_of(site) })
    }

    /// Tells plans what became of a transaction from a source at a site, drawn at `since`; `is_returned`: it was refused for the
    /// pace, which counts as no message.
    pub fn note_warmup(
        &self,
        (site, source): (&Site, u16),
        entry: Option<&Entry>,
        (outcomes, verdicts): (&[Outcome], &[Option<Verdict>]),
        (since, now): (Instant, Instant),
        is_returned: bool,
    ) {
        let wall = self.clock.wall_at(now);
        let has_reply = outcomes.iter().any(|outcome| outcome.report().reply.code != 0);
        // Once for each message, whatever its retries come to.
        let fresh = entry.filter(|entry| entry.attempts == 0 && has_reply && !is_returned);
        if let Some(meant) = fresh.and_then(|entry| entry.marks.meant()) {
            for warming in self.passed_by(meant, source, &site.name) {
                let mut state = warming.state.lock();
                state.warmup.overflowed(wall);
                state.overflowed += 1;
            }
        }
        let Some(warming) = self.warmups.of(source, &site.name) else { return };
        if is_returned {
            warming.state.lock().warmup.give_back(self.clock.wall_at(since), wall);
        }
        if has_reply {
            let bad = bad_reply(outcomes, verdicts);
            warming.state.lock().warmup.replied(bad.as_deref(), wall);
            if bad.is_some() {
                self.tell_warmup(&warming);
            }
        }
    }

    /// Looks at the clock for every plan, tells what has changed, and shows all of them.
    pub fn tend_warmups(&self) {
        self.forget_apart(self.clock.wall_at(self.clock.now()));
        if !self.warmups.is_on() {
            self.warmups.sheet.set(Vec::new());
            return;
        }
        let wall = self.clock.wall_at(self.clock.now());
        for warming in self.warmups.all() {
            warming.state.lock().warmup.roll(wall);
            self.tell_warmup(&warming);
        }
        self.show_warmups();
    }

    /// Tells journal and log what has changed about a plan.
    pub fn tell_warmup(&self, warming: &Warming) {
        let changes = {
            let mut state = warming.state.lock();
            let changes = state.warmup.take_changes();
            state.pauses +=
                u64::try_from(changes.iter().filter(|change| change.is_own_pause).count()).unwrap_or_default();
            changes
        };
        for change in changes {
            let (source, provider) = (&*warming.source, warming.provider());
            if change.is_own_pause {
                tracing::warn!(source, provider, reason = change.reason, "a warm-up has paused by itself");
            } else {
                tracing::info!(source, provider, reason = change.reason, "a warm-up has changed");
            }
            self.journal.tell(&journal::Event::Limit(LimitChange {
                site: provider,
                source,
                what: LIMIT,
                from: change.from.map(f64::from),
                to: change.to.map(f64::from),
                reason: &change.reason,
            }));
        }
    }
}

impl Standing {
    pub fn new(warmup: Warmup) -> Self {
        Self { warmup, turns: Turns::default(), overflowed: 0, pauses: 0 }
    }
}

/// What a receiver said against the sender's name or the content; nothing if it took the message for somebody.
fn bad_reply(outcomes: &[Outcome], verdicts: &[Option<Verdict>]) -> Option<String> {
    if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Delivered(_))) {
        return None;
    }
    let is_bad_one = |verdict: &Verdict| is_bad(verdict.class);
    let mut judged = outcomes.iter().zip(verdicts);
    judged
        .find(|(_, verdict)| verdict.as_ref().is_some_and(is_bad_one))
        .map(|(outcome, _)| said(&outcome.report().reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_speaks_against_the_sender_is_bad_and_nothing_else() {
        let bad: Vec<&str> = Class::ALL.into_iter().filter(|class| is_bad(*class)).map(Class::as_str).collect();

        assert_eq!(bad, ["spam-content", "virus", "policy", "authentication", "reputation", "sender-rejected"]);
    }
}
