//! From the text of a reply to what it says about limits: the simulator's sender knows no more than a real one does.

use std::collections::HashMap;
use std::sync::Arc;

use crate::limit::controller::Signal;
use crate::message::Phase;
use crate::reply::{Classifier, Diagnostic, Refusal};

/// What replies say; each text is classified once.
pub(super) struct Signals {
    classifier: Arc<Classifier>,
    known: HashMap<&'static str, Signal>,
}

impl Default for Signals {
    fn default() -> Self {
        Self { classifier: Classifier::built_in(), known: HashMap::new() }
    }
}

impl Signals {
    /// What a reply to MAIL says.
    pub fn of(&mut self, reply: &'static str) -> Signal {
        let Self { classifier, known } = self;
        *known.entry(reply).or_insert_with(|| classified(classifier, reply))
    }
}

fn classified(classifier: &Classifier, reply: &str) -> Signal {
    let Diagnostic { code, status, text, .. } = Diagnostic::parse(reply);
    let step = Phase::Mail;
    let refusal = Refusal { step: Some(step), code, status, text: &text, provider: None };
    classifier.classify(&refusal).map_or(Signal::Accepted, |verdict| Signal::of(&verdict, step, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reply_of_the_simulated_receiver_says_what_it_means() {
        let mut signals = Signals::default();

        for (reply, signal) in [
            ("250 2.0.0 Ok", Signal::Accepted),
            ("421 4.7.0 Too many connections", Signal::Connections),
            ("421 4.7.0 Max messages per connection", Signal::MessagesPerConnection),
            ("421 4.7.28 our system has detected an unusual rate of mail", Signal::Rate),
            ("421 4.7.28 unusual rate of mail", Signal::Rate),
            ("421 4.7.0 [TSS04] temporarily deferred due to unexpected volume or user complaints", Signal::Reputation),
            ("450 4.7.1 greylisted", Signal::Neutral),
            ("452 4.2.2 mailbox full", Signal::Neutral),
            ("451 try again later", Signal::Unknown),
            ("421 4.3.2 Service not available", Signal::Rate),
            ("451 4.3.2 System load too high", Signal::Rate),
            ("421 4.3.2 Service is shutting down", Signal::Neutral),
            ("451 4.3.0 queue file write error", Signal::Neutral),
        ] {
            assert_eq!(signals.of(reply), signal, "{reply}");
        }
    }
}
