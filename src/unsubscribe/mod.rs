//! One-click unsubscription (RFC 2369, RFC 8058): messages get a link by which their recipient takes himself off, and the
//! links are answered.
//!
//! [`Links`] is pure: it makes the two header fields of a message at its admission, and reads what a link says. A link holds
//! the message, the recipient's keyed hash, the tenant, the class and the day, under a MAC by the key of the suppression list
//! ([`Token`](crate::bounce::token::Token)): nothing is stored about it, no address stands in it, nobody can make one up.
//!
//! [`serve`] answers: POST acts ([`Wish`]), GET only asks ([`Page`]). The recipient is on the suppression list, on stable storage,
//! before anybody is told so (`scribe`). What then becomes of mail to him is decided by who asks that list.
//!
//! [`Unsubscribe`] is what both sides share; a reload gives it other [`Settings`].

mod link;
mod metrics;
mod naming;
mod page;
mod rates;
mod scribe;
mod server;
mod wish;

use std::sync::Arc;

use arc_swap::ArcSwap;

pub use link::{Claim, Fault, Links, Offer, Settings, Tenant};
pub use page::{About, Page};
pub use server::{Door, serve};
pub use wish::Wish;

use crate::clock::Clock;
use crate::feedback::Naming;
use crate::journal::Journal;
use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::state::suppression::Suppression;

/// The links of a daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Unsubscribe(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Replaced by [`Unsubscribe::apply`].
    links: ArcSwap<Links>,
    list: Suppression,
    journal: Journal,
    naming: Naming,
    clock: Clock,
    metrics: metrics::Metrics,
    /// Of all listeners.
    rates: rates::Rates,
    /// Around each connection, and around the scribe.
    wall: Bulkhead,
}

impl Unsubscribe {
    /// Who clicks goes onto `list`; `journal` is told, and `naming` asked who it is.
    pub fn new(
        settings: Settings,
        list: Suppression,
        (journal, naming): (Journal, Naming),
        clock: Clock,
        registry: &Registry,
    ) -> Self {
        Self(Arc::new(Inner {
            links: ArcSwap::from_pointee(Links::new(settings, list.clone())),
            list,
            journal,
            naming,
            clock,
            metrics: metrics::Metrics::new(registry),
            rates: rates::Rates::default(),
            wall: Bulkhead::new(registry, "unsubscribe"),
        }))
    }

    /// Goes by these from now on.
    pub fn apply(&self, settings: Settings) {
        self.0.links.store(Arc::new(Links::new(settings, self.0.list.clone())));
    }

    /// What makes links, and reads them.
    pub fn links(&self) -> Arc<Links> {
        self.0.links.load_full()
    }

    /// Counts a message that was admitted.
    pub fn count(&self, offer: Offer) {
        self.0.metrics.count_message(offer);
    }
}
