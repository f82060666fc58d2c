//! A warm-up: how much may go from one egress source to one provider, day by day, while the source's address is new there.
//! Pure: time goes in, answers come out.
//!
//! | state | when | what may go |
//! |---|---|---|
//! | waiting | before the first day | nothing |
//! | running | from the first day on | the day's volume, paced |
//! | paused | too many replies were bad, or an operator wants it | nothing |
//! | done | after the last day, unless an operator pauses it | everything |
//!
//! **Days** begin at midnight UTC. A day on which the plan was paused, if only for a minute, does not count: the next one has
//! the same number, and so the same volume. **Pace**: a unit becomes free every so often (see [`Warmup::interval`]), and a
//! twentieth of the day's volume is kept of what nobody took; so a day is never used up in its first second, and never falls
//! behind for good. **Bad replies** are counted by the hour over 24 hours.
//!
//! All that changes is in [`Progress`], which outlives a restart.

mod progress;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::config::units::{Day, Share};

use progress::{Hour, WINDOW};
pub use progress::{Pause, Progress};

/// What was planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The first day.
    pub start: Day,
    /// Messages on each day.
    pub volumes: Box<[u32]>,
    /// Over how much time a day's volume is spread.
    pub spread: Duration,
    /// Of the replies so many are bad when it pauses by itself; zero: it never does.
    pub pause_at: Share,
    /// The share is of at least so many replies.
    pub pause_sample: u32,
    /// How long it pauses.
    pub pause_for: Duration,
}

/// Why nothing may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The first day is still to come.
    Waiting,
    /// It is paused.
    Paused,
    /// The day's volume is used up.
    Volume,
    /// The next unit is not free yet.
    Pace,
}

impl Halt {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "the warm-up has not begun",
            Self::Paused => "the warm-up is paused",
            Self::Volume => "the warm-up's volume of the day is used up",
            Self::Pace => "the warm-up's volume is spread over the day",
        }
    }
}

/// Nothing may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Why.
    pub halt: Halt,
    /// When something may, as the time since 1970-01-01 UTC; none: when an operator resumes it.
    pub until: Option<Duration>,
}

/// Where a plan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The first day is still to come.
    Waiting,
    /// It limits.
    Running,
    /// Nothing goes until it is resumed.
    Paused,
    /// It limits nothing any more.
    Done,
}

impl State {
    /// As tables, metrics and JSON name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
        }
    }
}

/// Something that people are told.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What might go that day before; none: no limit.
    pub from: Option<u32>,
    /// What may now.
    pub to: Option<u32>,
    /// Why.
    pub reason: String,
    /// It has paused by itself.
    pub is_own_pause: bool,
}

/// A day's volume takes this long at least: the last minute before midnight must not see all of it.
const SHORTEST: Duration = Duration::from_secs(3_600);
const HOUR: Duration = Duration::from_secs(3_600);
/// For so long at most messages went after the plan was kept last: twice the time between two writes.
const UNSEEN: Duration = Duration::from_secs(20);
/// Which part of a day's volume may go at once when nothing went before.
const PART: u32 = 20;
/// Bad replies below which nothing pauses: one says little.
const FEW: u32 = 2;
/// What the arithmetic may lose.
const NEARLY_ONE: f64 = 1.0 - 1e-6;
/// The clock was wrong if it is set back by more days than this.
const STEP_BACK: u32 = 1;

/// The whole part, within what 32 bits hold.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> u32 {
    value.clamp(0.0, f64::from(u32::MAX)) as u32
}

/// So many days, for people.
pub fn days(count: usize) -> String {
    if count == 1 { "1 day".to_owned() } else { format!("{count} days") }
}

/// A plan under way. Times are since 1970-01-01 UTC.
#[derive(Clone, Debug)]
pub struct Warmup {
    plan: Plan,
    progress: Progress,
    /// Not told yet.
    changes: Vec<Change>,
}

impl Warmup {
    /// A plan, with where it was before a restart.
    pub fn new(plan: Plan, before: Option<Progress>, now: Duration) -> Self {
        let is_fresh = before.is_none();
        let fresh = || Progress { start: plan.start, date: Day::at(now), at: now, ..Progress::default() };
        let progress = before.unwrap_or_else(fresh);
        let mut warmup = Self { plan, progress, changes: Vec::new() };
        if is_fresh {
            warmup.progress.tokens = warmup.burst();
        }
        warmup.restart_if_moved();
        warmup.roll(now);
        warmup
    }

    /// A plan after a kill: what went since it was kept is not known, so all that may have gone counts as gone.
    pub fn after_kill(plan: Plan, before: Progress, now: Duration) -> Self {
        let from = now.saturating_sub(UNSEEN).max(before.at).min(now);
        let mut warmup = Self::new(plan, Some(before), from);
        let tokens = warmup.progress.tokens;
        warmup.roll(now);
        let left = warmup.volume().map_or(0, |volume| volume.saturating_sub(warmup.progress.sent));
        if let Some(interval) = warmup.interval(now).filter(|it| warmup.state() == State::Running && !it.is_zero()) {
            let freed = now.saturating_sub(from).as_secs_f64() / interval.as_secs_f64();
            // The first day may have begun meanwhile.
            let tokens = (tokens + freed).max(warmup.progress.tokens);
            let gone = whole(tokens + 1.0 - NEARLY_ONE).min(left);
            warmup.progress.sent = warmup.progress.sent.saturating_add(gone);
            warmup.progress.tokens = (tokens - f64::from(gone)).clamp(0.0, warmup.burst());
            warmup.progress.is_dirty = true;
        }
        warmup
    }

    /// A plan that is configured no more, with where it was: [`Warmup::follow`] has it go on.
    pub fn put_by(before: Progress) -> Self {
        let plan = Plan {
            start: before.start,
            volumes: Box::default(),
            spread: Day::LENGTH,
            pause_at: Share(0),
            pause_sample: 1,
            pause_for: Day::LENGTH,
        };
        Self { plan, progress: before, changes: Vec::new() }
    }

    /// Goes on by another plan: what went today counts on. With another first day it begins anew.
    pub fn follow(&mut self, plan: Plan, now: Duration) {
        self.plan = plan;
        self.roll(now);
        self.restart_if_moved();
        self.progress.tokens = self.progress.tokens.min(self.burst());
        self.progress.is_dirty = true;
    }

    /// Another first day begins the plan anew. What an operator wants of it still holds.
    fn restart_if_moved(&mut self) {
        if self.progress.start == self.plan.start {
            return;
        }
        (self.progress.start, self.progress.held_days) = (self.plan.start, 0);
        if self.has_operators_pause() {
            return;
        }
        self.progress.was_paused = false;
        self.progress.last_bad = Box::default();
        match self.progress.pause {
            Some(_) => self.end_pause("begins anew with another first day"),
            None => self.progress.hours = [Hour::default(); WINDOW],
        }
    }

    fn has_operators_pause(&self) -> bool {
        self.progress.pause.as_ref().is_some_and(|pause| !pause.by.is_empty())
    }

    /// What was planned.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where it is: to be kept over a restart.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether something has changed since the last time this was asked.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.progress.is_dirty)
    }

    /// What people are to be told since the last time this was asked.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The number of the day, the first being 1; 0: it has not begun.
    pub fn day(&self) -> u32 {
        let Progress { date, held_days, .. } = self.progress;
        date.0.checked_sub(self.plan.start.0).map_or(0, |gone| (gone + 1).saturating_sub(held_days).max(1))
    }

    /// The volume of the day; none: no limit. Nothing before the first day.
    pub fn volume(&self) -> Option<u32> {
        let Some(index) = self.day().checked_sub(1) else { return Some(0) };
        self.plan.volumes.get(usize::try_from(index).unwrap_or(usize::MAX)).copied()
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        match (self.day(), self.volume()) {
            (0, _) => State::Waiting,
            (_, None) if !self.has_operators_pause() => State::Done,
            _ if self.progress.pause.is_some() => State::Paused,
            _ => State::Running,
        }
    }

    /// What may go now, after a look at the clock: days that have passed and pauses that are over are counted.
    pub fn roll(&mut self, now: Duration) {
        let today = Day::at(now);
        if self.progress.date.0 > today.0.saturating_add(STEP_BACK) {
            // It was ahead by days: that day's count must not stand for all days until then.
            (self.progress.date, self.progress.at) = (today, now);
            self.progress.is_dirty = true;
        }
        if self.progress.date < today {
            self.pass_days(today);
        }
        if let Some(until) = self.progress.pause.as_ref().and_then(|pause| pause.until)
            && until <= now
        {
            self.end_pause("the pause is over");
        }
        if self.progress.pause.is_some() && self.state() == State::Done {
            // By shorter volumes: its own pause has nothing to keep back any more.
            self.end_pause("done");
        }
        self.fill(now);
    }

    /// Days have passed: those on which it was paused do not count.
    fn pass_days(&mut self, today: Day) {
        let (volume, was_waiting) = (self.volume(), self.state() == State::Waiting);
        let (first, begun) = (self.progress.date, self.plan.start);
        let end = match &self.progress.pause {
            Some(pause) => pause.until.map_or(today.begin(), |until| until.min(today.begin())),
            None => Duration::ZERO,
        };
        let was_paused = |day: Day| if day == first { self.progress.was_paused } else { day.begin() < end };
        // A pause ends, so only the days from the first one to its end need to be looked at.
        let last = today.0.min(Day::at(end).0.saturating_add(1)).max(first.0.saturating_add(1)).min(today.0);
        let held = (first.0.max(begun.0)..last).filter(|day| was_paused(Day(*day))).count();
        let is_held_on =
            self.progress.pause.as_ref().is_some_and(|pause| pause.until.is_none_or(|until| until > today.begin()));
        self.progress.held_days = self.progress.held_days.saturating_add(u32::try_from(held).unwrap_or(u32::MAX));
        self.progress.date = today;
        self.progress.was_paused = is_held_on;
        (self.progress.sent, self.progress.overflowed) = (0, 0);
        if was_waiting {
            self.progress.tokens = self.burst();
        }
        self.progress.is_dirty = true;
        if self.progress.pause.is_none() && self.volume() != volume {
            let reason = match self.volume() {
                Some(_) => format!("warm-up: day {} of {}", self.day(), self.plan.volumes.len()),
                None => format!("warm-up: done after {}", days(self.plan.volumes.len())),
            };
            self.tell(volume, self.volume(), reason);
        }
    }

    fn tell(&mut self, from: Option<u32>, to: Option<u32>, reason: String) {
        self.changes.push(Change { from, to, reason, is_own_pause: false });
    }

    /// Units that may go at once when nothing went before.
    fn burst(&self) -> f64 {
        self.volume().map_or(0.0, |volume| f64::from((volume / PART).max(1)))
    }

    /// How long one unit takes to become free; none: none will today, or there is no limit. A day's volume takes `spread`; what is
    /// left of it takes what is left of the day, if that is less. Never is it faster than the whole volume in an hour.
    pub fn interval(&self, now: Duration) -> Option<Duration> {
        let volume = self.volume()?;
        let left = volume.checked_sub(self.progress.sent).filter(|left| *left > 0)?;
        let rest = self.progress.date.plus(1).begin().saturating_sub(now) / left;
        Some((self.plan.spread / volume).min(rest.max(SHORTEST / volume)))
    }

    /// Frees the units that have become free.
    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.progress.at);
        self.progress.at = self.progress.at.max(now);
        let is_running = self.state() == State::Running;
        let Some(interval) = self.interval(now).filter(|interval| is_running && !interval.is_zero()) else { return };
        let more = passed.as_secs_f64() / interval.as_secs_f64();
        self.progress.tokens = (self.progress.tokens + more).min(self.burst());
    }

    /// Whether a message may go now.
    pub fn look(&mut self, now: Duration) -> Result<(), Wait> {
        self.roll(now);
        let until = match self.state() {
            State::Done => return Ok(()),
            State::Waiting => return Err(Wait { halt: Halt::Waiting, until: Some(self.plan.start.begin()) }),
            State::Paused => {
                let until = self.progress.pause.as_ref().and_then(|pause| pause.until);
                return Err(Wait { halt: Halt::Paused, until });
            }
            State::Running => self.progress.date.plus(1).begin(),
        };
        let Some(interval) = self.interval(now) else {
            return Err(Wait { halt: Halt::Volume, until: Some(until) });
        };
        if self.progress.tokens >= NEARLY_ONE {
            return Ok(());
        }
        let missing = interval.mul_f64((1.0 - self.progress.tokens).clamp(0.0, 1.0));
        Err(Wait { halt: Halt::Pace, until: Some((now + missing + Duration::from_millis(1)).min(until)) })
    }

    /// Lets a message go; if it may not, tells why.
    pub fn take(&mut self, now: Duration) -> Result<(), Wait> {
        self.look(now)?;
        self.progress.sent = self.progress.sent.saturating_add(1);
        self.progress.tokens = (self.progress.tokens - 1.0).max(0.0);
        self.progress.is_dirty = true;
        Ok(())
    }

    /// What was taken at `then` did not go after all.
    pub fn give_back(&mut self, then: Duration, now: Duration) {
        self.roll(now);
        if Day::at(then) == self.progress.date && self.progress.sent > 0 {
            self.progress.sent -= 1;
            self.progress.tokens = (self.progress.tokens + 1.0).min(self.burst());
            self.progress.is_dirty = true;
        }
    }

    /// A message had no room and went by another source.
    pub fn overflowed(&mut self, now: Duration) {
        self.roll(now);
        self.progress.overflowed = self.progress.overflowed.saturating_add(1);
        self.progress.is_dirty = true;
    }

    /// The receiver has replied; `bad` is what it said against the sender's name or the content. The plan may pause.
    pub fn replied(&mut self, bad: Option<&str>, now: Duration) {
        self.roll(now);
        let hour = u32::try_from(now.as_secs() / HOUR.as_secs()).unwrap_or(u32::MAX);
        self.progress.count(hour, bad.is_some());
        self.progress.is_dirty = true;
        let Some(text) = bad else { return };
        self.progress.last_bad = text.into();
        let (bad, replies) = self.recent(now);
        let of = replies.max(self.plan.pause_sample).max(1);
        let is_too_much = bad >= FEW && f64::from(bad) >= self.plan.pause_at.ratio() * f64::from(of);
        if self.plan.pause_at > Share(0) && is_too_much && self.state() == State::Running {
            let reason = format!(
                "{bad} of {replies} replies in 24 h were bad, and {} of {of} are too many; the last one: {text}",
                self.plan.pause_at
            );
            self.begin_pause(Pause {
                since: now,
                until: Some(now + self.plan.pause_for),
                by: Box::default(),
                reason: reason.into(),
            });
        }
    }

    /// Bad replies and all replies of the last 24 hours.
    pub fn recent(&self, now: Duration) -> (u32, u32) {
        let hour = u32::try_from(now.as_secs() / HOUR.as_secs()).unwrap_or(u32::MAX);
        self.progress.recent(hour)
    }

    /// An operator pauses it, or changes the pause that there is.
    pub fn pause(&mut self, by: &str, reason: &str, until: Option<Duration>, now: Duration) {
        self.roll(now);
        self.begin_pause(Pause { since: now, until, by: by.into(), reason: reason.into() });
    }

    fn begin_pause(&mut self, pause: Pause) {
        let volume = if self.progress.pause.is_some() { Some(0) } else { self.volume() };
        let reason = match &*pause.by {
            "" => format!("warm-up: paused: {}", pause.reason),
            by => format!("warm-up: paused by {by}: {}", pause.reason),
        };
        let is_own_pause = pause.by.is_empty();
        self.progress.pause = Some(pause);
        self.progress.was_paused = true;
        self.progress.is_dirty = true;
        self.changes.push(Change { from: volume, to: Some(0), reason, is_own_pause });
    }

    /// An operator ends the pause. False: there was none.
    pub fn resume(&mut self, by: &str, reason: &str, now: Duration) -> bool {
        self.roll(now);
        let is_paused = self.progress.pause.is_some();
        if is_paused {
            self.end_pause(&format!("resumed by {by}: {reason}"));
        }
        is_paused
    }

    /// What was said before it counts no more: it would pause at the next bad reply.
    fn end_pause(&mut self, why: &str) {
        self.progress.pause = None;
        self.progress.hours = [Hour::default(); WINDOW];
        self.progress.is_dirty = true;
        self.tell(Some(0), self.volume(), format!("warm-up: {why}"));
    }

    /// Units that may go at once now.
    pub fn room(&mut self, now: Duration) -> Option<u32> {
        self.roll(now);
        match self.state() {
            State::Done => None,
            State::Waiting | State::Paused => Some(0),
            State::Running => {
                let left = self.volume().map_or(0, |volume| volume.saturating_sub(self.progress.sent));
                Some(whole(self.progress.tokens + 1.0 - NEARLY_ONE).min(left))
            }
        }
    }

    /// When the next day begins, or the first one.
    pub fn next_day(&self) -> Duration {
        match self.state() {
            State::Waiting => self.plan.start.begin(),
            _ => self.progress.date.plus(1).begin(),
        }
    }
}
