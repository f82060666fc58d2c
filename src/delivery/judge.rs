//! What a receiver's refusals mean for the connection: whether it ends, and whether its end is the receiver's word.

use std::sync::Arc;

use super::session::Lost;
use crate::limit::controller::Signal;
use crate::message::{Outcome, Phase, Report};
use crate::reply::{Class, LazyClassifier, Verdict};
use crate::smtp::reply::Reply;

/// Who tells what a receiver's refusals mean.
#[derive(Clone, Debug)]
pub struct Judge {
    /// The rules.
    pub classifier: LazyClassifier,
    /// Whose replies they are: a provider's name, or another site's.
    pub site: Arc<str>,
    /// What that lies within ([`Plan::parent`](crate::dns::Plan::parent)).
    pub parent: Option<Arc<str>>,
}

impl Judge {
    /// Whether the receiver wants to be left alone, so that the connection ends.
    pub(super) fn wants_rest(&self, phase: Phase, reply: &Reply) -> bool {
        reply.code / 100 == 4 && self.of(phase, reply).is_some_and(|verdict| verdict.wants_rest())
    }

    /// Whether a reply that wants us to leave it alone is about what we send altogether: the next connection would be told
    /// the same.
    pub(super) fn is_about_us(phase: Phase, reply: &Reply, verdict: &Verdict) -> bool {
        use Signal::{Connections, Rate, Reputation};
        let signal = Signal::of(verdict, phase, reply.status);
        verdict.wants_rest() && matches!(signal, Rate | Connections | Reputation)
    }

    /// Whether this receiver says by such a loss of the connection that we come too often.
    pub(super) fn is_throttle(&self, phase: Phase, lost: &Lost) -> bool {
        matches!(lost, Lost::Broken(_))
            && self.of(phase, &lost.reply(phase)).is_some_and(|verdict| verdict.wants_rest())
    }

    /// Whether a transaction was refused for now by a reply that does not say why, and nothing else came of it: where the
    /// receiver then closes the connection, that says it. Not of its recipients: a receiver that counts refused ones closes
    /// the connection behind the last of them.
    pub(super) fn are_opaque(&self, outcomes: &[Outcome]) -> bool {
        let is_opaque = |report: &Report| {
            // 421 closes the connection by itself (RFC 5321, 3.8).
            report.reply.code / 100 == 4
                && report.reply.code != 421
                && report.phase != Phase::Rcpt
                && self.of(report.phase, &report.reply).is_some_and(|verdict| verdict.class == Class::Unknown)
        };
        let is_refused = |outcome: &Outcome| matches!(outcome, Outcome::Deferred(report) if is_opaque(report));
        !outcomes.is_empty() && outcomes.iter().all(is_refused)
    }

    /// What a refusal means.
    pub(super) fn of(&self, phase: Phase, reply: &Reply) -> Option<Verdict> {
        self.classifier.of(phase, reply, [Some(&self.site), self.parent.as_deref()])
    }
}
