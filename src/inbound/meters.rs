//! Counts.

use ::metrics::Counter;

use crate::bounce::parse::Kind;
use crate::metrics::Registry;

use super::Evidence;

/// What is done.
const ACTIONS: [&str; 3] = ["suppressed", "counted", "none"];

pub struct Meters {
    kinds: [Counter; Kind::ALL.len()],
    evidence: [Counter; Evidence::ALL.len()],
    actions: [Counter; ACTIONS.len()],
    pub passed_on: Counter,
    pub not_passed_on: Counter,
    pub damaged: Counter,
}

impl Meters {
    pub fn new(registry: &Registry) -> Self {
        let counter = |name: &'static str, help: &'static str, label: &'static str, value: &'static str| {
            registry.counter(name, help, &[(label, value)])
        };
        let kind = |kind: Kind| {
            let help = "Reports that were read, by what they are.";
            counter("hikyaku_feedback_read_reports_total", help, "kind", kind.as_str())
        };
        let evidence = |evidence: Evidence| {
            let help = "Recipients that reports are about, by how it is known who they are.";
            counter("hikyaku_feedback_recipients_total", help, "evidence", evidence.as_str())
        };
        let action = |action| {
            let help = "Recipients that reports are about, by what was done.";
            counter("hikyaku_feedback_actions_total", help, "action", action)
        };
        let passed = |result| {
            let help = "Reports for a message's reverse-path, by whether they could be passed on.";
            counter("hikyaku_feedback_passed_on_total", help, "result", result)
        };
        let damaged = "Reports that are damaged: nothing comes of them.";
        Self {
            kinds: Kind::ALL.map(kind),
            evidence: Evidence::ALL.map(evidence),
            actions: ACTIONS.map(action),
            passed_on: passed("ok"),
            not_passed_on: passed("unknown-reverse-path"),
            damaged: registry.counter("hikyaku_feedback_damaged_reports_total", damaged, &[]),
        }
    }

    pub fn read(&self, kind: Kind) {
        count(&self.kinds, &Kind::ALL, &kind);
    }

    pub fn evidence(&self, evidence: Evidence) {
        count(&self.evidence, &Evidence::ALL, &evidence);
    }

    pub fn action(&self, action: &str) {
        count(&self.actions, &ACTIONS, &action);
    }
}

fn count<T: PartialEq>(counters: &[Counter], all: &[T], one: &T) {
    let counter = all.iter().position(|other| other == one).and_then(|place| counters.get(place));
    if let Some(counter) = counter {
        counter.increment(1);
    }
}
