//! Submission: mail comes in by SMTP (RFC 5321, RFC 6409), is admitted, stored and put into the queue.
//!
//! [`serve`] runs one listener. [`session`] is the protocol as a pure state machine, [`collector`] takes content, [`admit`]
//! rewrites the header section and makes the envelope. [`Settings`] is what one listener allows; the daemon makes it from
//! the configuration. A 250 is said only after [`Spool::accept`](crate::spool::Spool::accept) has resolved.

pub mod admit;
pub mod collector;
mod connection;
pub mod intake;
mod listener;
pub mod metrics;
pub mod proxy;
pub mod refusal;
pub mod session;
pub mod settings;
mod sign;
mod spill;
mod wire;

use std::sync::Arc;

use crate::clock::Clock;
use crate::dkim::Signer;
use crate::feedback::Feedback;
use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::queue::Queue;
use crate::spool::Spool;
use crate::unsubscribe::Unsubscribe;
use crate::users::Users;

pub use collector::LineEndings;
pub use listener::{BACKLOG, Door, Leftover, serve};
pub use settings::{Settings, Tls, TlsMode};

/// What every listener of a daemon shares. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    spool: Spool,
    queue: Queue,
    clock: Clock,
    hostname: Arc<str>,
    metrics: Arc<metrics::Metrics>,
    /// Who may authenticate; none: nobody.
    users: Option<Users>,
    /// None: messages are stored unsigned.
    signer: Option<Signer>,
    /// Who gets no mail, and where what comes back goes; none: everybody gets mail, and nothing comes back.
    feedback: Option<Feedback>,
    /// Gives messages links by which recipients take themselves off; none: they get none.
    unsubscribe: Option<Unsubscribe>,
    /// Around each session.
    wall: Bulkhead,
}

impl Services {
    /// `hostname` is what greetings, Received and Message-ID fields say.
    pub fn new(spool: Spool, queue: Queue, clock: Clock, hostname: Arc<str>, registry: &Registry) -> Self {
        let metrics = Arc::new(metrics::Metrics::new(registry));
        Self {
            spool,
            queue,
            clock,
            hostname,
            metrics,
            users: None,
            signer: None,
            feedback: None,
            unsubscribe: None,
            wall: Bulkhead::new(registry, "submission"),
        }
    }

    /// The same with users.
    pub fn with_users(self, users: Users) -> Self {
        Self { users: Some(users), ..self }
    }

    /// The same with messages signed.
    pub fn with_signer(self, signer: Signer) -> Self {
        Self { signer: Some(signer), ..self }
    }

    /// The same where suppressed recipients are refused, and what comes back is taken.
    pub fn with_feedback(self, feedback: Feedback) -> Self {
        Self { feedback: Some(feedback), ..self }
    }

    /// The same with links for messages.
    pub fn with_unsubscribe(self, unsubscribe: Unsubscribe) -> Self {
        Self { unsubscribe: Some(unsubscribe), ..self }
    }

    /// The same under another name.
    pub fn named(&self, hostname: Arc<str>) -> Self {
        Self { hostname, ..self.clone() }
    }
}
