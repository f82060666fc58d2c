//! Delivery: connections to MX hosts and the mail transactions on them.
//!
//! [`Deliverer`] is what the queue dispatches work to. A task per connection (`task`) takes a slot's work ([`work`]),
//! orders the plan's addresses ([`route`]), opens a connection (`dial` over the pure [`opening`]) and carries messages
//! over it (`connection` over the pure [`session`] and [`transaction`]) until there is no more work.
//!
//! Delivery decides what one attempt did to a recipient and reports it as an [`crate::message::Outcome`]; when to try
//! again, when to give up and what to tell whom is the queue's. What the network or a receiver does is never an error
//! here, and what cannot be understood is a deferral.

mod carried;
mod connection;
mod content;
mod courier;
mod deadline;
mod dial;
mod hang_up;
mod hosts;
mod io;
mod job;
pub mod judge;
mod meters;
pub mod opening;
mod reported;
pub mod route;
pub mod session;
mod settings;
pub mod stuffing;
mod task;
pub mod tls;
pub mod transaction;
mod verify;
pub mod work;

use std::sync::Arc;

use crate::clock::Clock;
use crate::metrics::Registry;
use crate::panics::Bulkhead;

pub use courier::Deliverer;
pub use settings::{Settings, Timeouts};

/// Why delivery cannot start.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The TLS library refuses its configuration.
    #[error("TLS cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// What all connection tasks share; a reload makes another one for those to come.
#[derive(Clone, Debug)]
pub struct Shared {
    settings: Settings,
    hosts: Arc<hosts::Hosts>,
    meters: meters::Meters,
    tls: tls::Tls,
    clock: Clock,
    shuffle: Arc<route::Shuffle>,
    /// Around each connection's task.
    wall: Bulkhead,
}

impl Shared {
    /// Builds it once for a daemon.
    pub fn new(settings: Settings, clock: Clock, registry: &Registry) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            settings,
            hosts: Arc::default(),
            meters: meters::Meters::new(registry),
            tls: tls::Tls::new()?,
            clock,
            shuffle: Arc::default(),
            wall: Bulkhead::new(registry, "delivery"),
        }))
    }

    /// The same by other settings.
    fn followed_by(&self, settings: Settings) -> Self {
        Self { settings, ..self.clone() }
    }
}

/// Delivers `first` and whatever `work` then gives over connections of one slot; returns when there is no more.
pub async fn deliver<W: work::Work>(shared: Arc<Shared>, work: W, first: W::Ticket) {
    task::run(&shared, work, first).await;
}
