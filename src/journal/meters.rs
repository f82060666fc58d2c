//! The journal's metrics.

use metrics::{Counter, Gauge};

use crate::metrics::Registry;

use super::event::Kind;

/// Handles, made once.
#[derive(Debug)]
pub(super) struct Meters {
    events: [Counter; Kind::ALL.len()],
    pub lost: Counter,
    pub octets: Counter,
    pub write_errors: Counter,
    pub waiting: Gauge,
    pub stored: Gauge,
}

impl Meters {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let event = |kind: Kind| {
            let help = "Events written to the journal, by kind.";
            registry.counter("hikyaku_journal_events_total", help, &[("event", kind.as_str())])
        };
        Self {
            events: Kind::ALL.map(event),
            lost: registry.counter(
                "hikyaku_journal_lost_total",
                "Events that are not in the journal: its disk is full, slow or broken, or others removed or cut its current file.",
                &[],
            ),
            octets: registry.counter("hikyaku_journal_bytes_total", "Octets written to the journal.", &[]),
            write_errors: registry.counter(
                "hikyaku_journal_write_errors_total",
                "Writes to the journal that failed; each is repeated.",
                &[],
            ),
            waiting: registry.gauge(
                "hikyaku_journal_waiting_bytes",
                "Octets of events in memory that are not written yet.",
                &[],
            ),
            stored: registry.gauge("hikyaku_journal_stored_bytes", "Octets that the journal's files take.", &[]),
        }
    }

    /// Counts one event that is not told by anybody.
    pub fn wrote_one(&self, kind: Kind) {
        if let Some(counter) = self.events.get(kind as usize) {
            counter.increment(1);
        }
    }

    /// Counts events that were written.
    pub fn wrote(&self, kinds: &[u64; Kind::ALL.len()]) {
        for (counter, count) in self.events.iter().zip(kinds) {
            if *count > 0 {
                counter.increment(*count);
            }
        }
    }
}
