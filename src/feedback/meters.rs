//! Counts.

use ::metrics::{Counter, Gauge};

use crate::metrics::Registry;
use crate::state::suppression::Reason;

pub struct Meters {
    suppressed: Vec<Counter>,
    pub missed: Counter,
    pub pending: Gauge,
}

impl Meters {
    pub fn new(registry: &Registry) -> Self {
        let suppressed = |reason: Reason| {
            let help = "Recipients that got no mail since they are suppressed, at RCPT and later, by reason.";
            registry.counter("hikyaku_suppressed_recipients_total", help, &[("reason", reason.as_str())])
        };
        let missed = "Entries of the suppression list that refusals would have made and that were not: too many waited for the disk.";
        let pending = "Reports that have come in and are not read yet.";
        Self {
            suppressed: Reason::ALL.into_iter().map(suppressed).collect(),
            missed: registry.counter("hikyaku_suppression_missed_entries_total", missed, &[]),
            pending: registry.gauge("hikyaku_feedback_pending_reports", pending, &[]),
        }
    }

    /// Somebody got no mail.
    pub fn suppressed(&self, reason: Reason) {
        let place = Reason::ALL.iter().position(|other| *other == reason);
        if let Some(counter) = place.and_then(|place| self.suppressed.get(place)) {
            counter.increment(1);
        }
    }
}
