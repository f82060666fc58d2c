//! What is counted.

use std::time::Duration;

use ::metrics::{Counter, Histogram};

use super::link::Offer;
use super::page::Page;
use crate::metrics::Registry;

/// Handles of all of it, made once.
#[derive(Debug)]
pub(super) struct Metrics {
    /// By [`Page::outcome`], in the order of [`Page::OUTCOMES`].
    requests: Vec<(&'static str, Counter)>,
    seconds: Histogram,
    pub connections_refused: Counter,
    /// By [`Offer`], in the order of [`Offer::TOLD`].
    messages: Vec<(Offer, Counter)>,
}

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &Registry) -> Self {
        let requests = |outcome: &'static str| {
            let help = "Requests to unsubscribe, or about it, by what became of them.";
            let labels = [("outcome", outcome)];
            (outcome, registry.counter("hikyaku_unsubscribe_requests_total", help, &labels))
        };
        let messages = |offer: Offer| {
            let help = "Messages of tenants of [unsubscribe] that are not urgent, by whether they were given a link.";
            let labels = [("link", offer.as_str())];
            (offer, registry.counter("hikyaku_unsubscribe_messages_total", help, &labels))
        };
        let seconds = "From a whole request to its answer, the sync of its entry included.";
        let refused = "Connections that were closed at once: their address connects too often.";
        Self {
            requests: Page::OUTCOMES.into_iter().map(requests).collect(),
            seconds: registry.histogram("hikyaku_unsubscribe_seconds", seconds, &[]),
            connections_refused: registry.counter("hikyaku_unsubscribe_connections_refused_total", refused, &[]),
            messages: Offer::TOLD.into_iter().map(messages).collect(),
        }
    }

    /// A request was answered so, after so long.
    pub fn count(&self, outcome: &str, took: Duration) {
        if let Some((_, counter)) = self.requests.iter().find(|(name, _)| *name == outcome) {
            counter.increment(1);
        }
        self.seconds.record(took);
    }

    /// A message was admitted.
    pub fn count_message(&self, offer: Offer) {
        if let Some((_, counter)) = self.messages.iter().find(|(known, _)| *known == offer) {
            counter.increment(1);
        }
    }
}
