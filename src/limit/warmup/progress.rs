//! Where a warm-up is: all that changes about it. Kept as JSON over a restart.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::units::Day;

/// Hours over which bad replies count.
pub(super) const WINDOW: usize = 24;

/// Nothing goes until it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// When it began, as the time since 1970-01-01 UTC.
    pub since: Duration,
    /// When it ends by itself; none: not before an operator resumes it.
    pub until: Option<Duration>,
    /// Who wants it; empty: too many replies were bad.
    pub by: Box<str>,
    /// Why.
    pub reason: Box<str>,
}

/// Replies of one hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hour {
    /// Hours since 1970-01-01 UTC.
    hour: u32,
    replies: u32,
    bad: u32,
}

/// Where it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The first day of the plan that it is of.
    pub(super) start: Day,
    /// The day that the counts are of.
    pub(super) date: Day,
    /// Days since the first one that did not count.
    pub(super) held_days: u32,
    /// This day does not count either.
    pub(super) was_paused: bool,
    /// Messages of the day.
    pub sent: u32,
    /// Messages of the day that went by another source.
    pub overflowed: u32,
    /// Units that may go at once, at the time `at`.
    pub(super) tokens: f64,
    pub(super) at: Duration,
    /// It is paused.
    pub pause: Option<Pause>,
    pub(super) hours: [Hour; WINDOW],
    /// The last bad reply; empty: there was none.
    pub last_bad: Box<str>,
    /// Something has changed since it was kept.
    #[serde(skip)]
    pub(super) is_dirty: bool,
}

impl Progress {
    /// Days since the first one that did not count, because it was paused on them.
    pub fn held_days(&self) -> u32 {
        self.held_days
    }

    pub(super) fn count(&mut self, hour: u32, is_bad: bool) {
        let place = usize::try_from(hour).unwrap_or_default() % WINDOW;
        if let Some(counts) = self.hours.get_mut(place) {
            if counts.hour != hour {
                *counts = Hour { hour, ..Hour::default() };
            }
            counts.replies = counts.replies.saturating_add(1);
            counts.bad = counts.bad.saturating_add(u32::from(is_bad));
        }
    }

    /// Bad replies and all of them, up to this hour.
    pub(super) fn recent(&self, hour: u32) -> (u32, u32) {
        let window = u32::try_from(WINDOW).unwrap_or(u32::MAX);
        let is_recent = |counts: &&Hour| counts.hour <= hour && hour - counts.hour < window;
        let sum = |(bad, replies): (u32, u32), counts: &Hour| {
            (bad.saturating_add(counts.bad), replies.saturating_add(counts.replies))
        };
        self.hours.iter().filter(is_recent).fold((0, 0), sum)
    }
}
