//! The queue's side of feedback: recipients that get no mail are left out, and refusals are told.

use std::sync::Arc;

use crate::feedback::Refused;
use crate::message::{Envelope, Kind, Outcome, Phase};
use crate::reply;

use super::engine::Engine;
use super::entry::{Entry, Return};
use super::settle::{Attempt, Decided, Telling};

impl Engine {
    /// Whether the tenant of an entry is told by DSNs.
    pub fn sends_dsns(&self, entry: &Entry) -> bool {
        self.feedback.as_ref().is_none_or(|feedback| feedback.sends_dsns(&entry.flow.tenant.name))
    }

    /// Ends those of a message that has just come in who get no mail: they are to take no permit, and to wait for no look-up.
    pub fn leave_out_suppressed(self: &Arc<Self>, envelope: &Envelope, entries: &mut Vec<Entry>) {
        let Some(feedback) = self.feedback.as_ref().filter(|_| envelope.kind == Kind::Submitted) else { return };
        let asker = feedback.asks(envelope);
        if asker.is_idle() {
            return;
        }
        let mut suppressed = Vec::new();
        for entry in std::mem::take(entries) {
            let recipient = usize::try_from(entry.recipient).ok().and_then(|index| envelope.recipients.get(index));
            match recipient.and_then(|recipient| asker.refusal(&recipient.forward_path)) {
                Some(report) => {
                    suppressed.push(Decided { entry, outcome: Outcome::Suppressed(report), verdict: None });
                }
                None => entries.push(entry),
            }
        }
        if suppressed.is_empty() {
            return;
        }
        let telling =
            Telling { envelope: Some(envelope), size: None, site: None, source: None, attempted: None, order: None };
        let wall = self.clock.wall();
        let attempt = Attempt { wall, is_mass: false, returns: Return::Never, source: None, telling };
        self.decide(attempt, suppressed.into_iter());
    }

    /// Tells what was refused, where that may cost an address.
    pub fn tell_feedback(
        &self,
        entry: &Entry,
        outcome: &Outcome,
        verdict: &reply::Verdict,
        envelope: Option<&Envelope>,
    ) {
        let (Some(feedback), Some(envelope)) = (&self.feedback, envelope) else { return };
        let (step, is_final) = match outcome {
            Outcome::Delivered(_) | Outcome::Suppressed(_) => return,
            Outcome::Deferred(report) => (report.phase, false),
            Outcome::Bounced(report) | Outcome::Expired(report) => (report.phase, true),
        };
        if step == Phase::Queue || envelope.kind != Kind::Submitted {
            return;
        }
        let recipient = usize::try_from(entry.recipient).ok().and_then(|index| envelope.recipients.get(index));
        if let Some(recipient) = recipient {
            let (id, recipient) = (entry.id, &recipient.forward_path);
            feedback.refused(&Refused { id, envelope, recipient, verdict, step, is_final });
        }
    }
}
