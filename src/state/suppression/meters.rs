//! The list's metrics. They count from when a registry is given; without one nothing is counted.

use std::array;

use metrics::{Counter, Gauge};

use crate::clock::UnixTime;
use crate::metrics::Registry;

use super::export::Stats;
use super::{Change, Counts, Entry, Outcome, Reason, Suppression};

/// Where a change comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The daemon itself: replies of receivers, bounces, complaints, clicks.
    Daemon,
    /// An operator.
    Operator,
    /// An import.
    Import,
    /// The daemon, which gives entries by hash their addresses. Those were counted when they were made.
    Naming,
}

impl Origin {
    /// Those that are counted.
    pub const ALL: [Self; 3] = [Self::Daemon, Self::Operator, Self::Import];

    /// As metrics name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Operator => "operator",
            Self::Import => "import",
            Self::Naming => "naming",
        }
    }
}

/// What can fail.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Change,
    Upkeep,
}

/// Names of what becomes of a line, in the order of [`of_lines`].
const LINES: [&str; 6] = ["added", "replaced", "stood", "over", "skipped", "bad"];

/// Handles, made once.
#[derive(Debug)]
pub(super) struct Meters {
    entries: [Gauge; Reason::ALL.len()],
    octets: Gauge,
    memory: Gauge,
    /// By origin, then by reason.
    added: [[Counter; Reason::ALL.len()]; Origin::ALL.len()],
    removed: [Counter; Origin::ALL.len()],
    lines: [Counter; LINES.len()],
    errors: [Counter; 2],
}

impl Meters {
    fn new(registry: &Registry) -> Self {
        let added = |origin: Origin| {
            let help = "Suppressed addresses that were added, or took the place of others, by reason and origin.";
            let of = |reason: Reason| [("reason", reason.as_str()), ("origin", origin.as_str())];
            Reason::ALL.map(|reason| registry.counter("hikyaku_suppression_added_total", help, &of(reason)))
        };
        let removed = |origin: Origin| {
            let help = "Suppressed addresses that were removed, by origin.";
            registry.counter("hikyaku_suppression_removed_total", help, &[("origin", origin.as_str())])
        };
        let entries = |reason: Reason| {
            let help = "Entries of the suppression list that stand, by reason.";
            registry.gauge("hikyaku_suppression_entries", help, &[("reason", reason.as_str())])
        };
        let line = |outcome| {
            let help = "Lines of imported suppression lists, by what became of them.";
            registry.counter("hikyaku_suppression_import_lines_total", help, &[("outcome", outcome)])
        };
        let error = |operation| {
            let help = "Writes to the suppression list that failed, by what they were for.";
            registry.counter("hikyaku_suppression_errors_total", help, &[("operation", operation)])
        };
        Self {
            entries: Reason::ALL.map(entries),
            octets: registry.gauge("hikyaku_suppression_bytes", "Octets that the suppression list's log takes.", &[]),
            memory: registry.gauge(
                "hikyaku_suppression_memory_bytes",
                "Memory that the suppression list's index takes.",
                &[],
            ),
            added: Origin::ALL.map(added),
            removed: Origin::ALL.map(removed),
            lines: LINES.map(line),
            errors: ["change", "upkeep"].map(error),
        }
    }

    /// Counts what became of changes.
    pub fn changed(&self, origin: Origin, changes: &[Change], outcomes: &[Outcome]) {
        let by_reason = self.added.get(origin as usize);
        for (change, outcome) in changes.iter().zip(outcomes) {
            let counter = match (change, outcome) {
                (Change::Add(Entry { reason, .. }), Outcome::Added | Outcome::Replaced) => {
                    by_reason.and_then(|of| of.get(*reason as usize))
                }
                (_, Outcome::Removed) => self.removed.get(origin as usize),
                _ => None,
            };
            if let Some(counter) = counter {
                counter.increment(1);
            }
        }
    }

    /// Counts lines that were read.
    pub fn imported(&self, before: &Counts, after: &Counts) {
        for ((counter, before), after) in self.lines.iter().zip(of_lines(before)).zip(of_lines(after)) {
            counter.increment(after.saturating_sub(before));
        }
    }

    /// Counts a failure.
    pub fn failed(&self, work: Work) {
        if let Some(counter) = self.errors.get(work as usize) {
            counter.increment(1);
        }
    }

    fn show(&self, stats: &Stats) {
        let mut totals: [u64; Reason::ALL.len()] = array::from_fn(|_| 0);
        for (reason, _, count) in stats.counts() {
            if let Some(total) = totals.get_mut(reason as usize) {
                *total += count;
            }
        }
        self.entries.iter().zip(totals).for_each(|(gauge, total)| gauge.set(total as f64));
        self.octets.set(stats.octets as f64);
        self.memory.set(stats.memory as f64);
    }
}

fn of_lines(counts: &Counts) -> [u64; LINES.len()] {
    let Counts { added, replaced, stood, over, skipped, bad, .. } = *counts;
    [added, replaced, stood, over, skipped, bad]
}

impl Suppression {
    /// Has metrics count from here on, in the first registry that is given.
    pub fn count_in(&self, registry: &Registry) {
        self.shared.meters.get_or_init(|| Meters::new(registry));
    }

    /// Shows in the metrics what stands at this time. Takes as long as [`Suppression::stats`].
    pub fn show(&self, now: UnixTime) {
        if let Some(meters) = self.shared.meters.get() {
            meters.show(&self.stats(now));
        }
    }
}
