//! The seam between a connection and what gives it work: the queue's slot and the spool, or a test's script.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::dns::Plan;
use crate::dns::security::Assurance;
use crate::message::{Message, MessageId, Outcome};
use crate::panics::Panic;
use crate::queue::{HungUp, Source, Watch};

/// One message for recipients of one domain.
pub trait Ticket: Send + Sync + 'static {
    /// The message.
    fn id(&self) -> MessageId;
    /// Indexes into its envelope's recipients.
    fn recipients(&self) -> &[u32];
    /// An earlier attempt at this address has no outcome: it is tried there first.
    fn in_doubt(&self) -> Option<SocketAddr>;
    /// Its message has been read.
    fn carry(&mut self, message: &Message);
}

/// The spool could not record an attempt, so none may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the attempt could not be recorded")]
pub struct NotRecorded;

/// The spool could not give a message out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It never will.
    #[error("the message is damaged")]
    Damaged,
    /// Reading it panics.
    #[error("{0}")]
    Panicked(Panic),
    /// It may later; the text says why.
    #[error("{0}")]
    Failed(Box<str>),
}

/// Where one connection gets its work from and reports to. Dropping it returns the permission to be connected.
pub trait Work: Send + Sync + 'static {
    /// One transaction's work. Dropped: given back.
    type Ticket: Ticket;

    /// Where to connect.
    fn plan(&self) -> &Arc<Plan>;
    /// What all its messages ask for.
    fn assurance(&self) -> Assurance {
        Assurance::Usual
    }
    /// From where.
    fn source(&self) -> &Arc<Source>;
    /// Where it is noted what the connection does, if anybody looks.
    fn watch(&self) -> Option<Arc<Watch>> {
        None
    }
    /// The next work, if it holds all its permits now.
    fn try_take(&mut self) -> Option<Self::Ticket>;
    /// The same before the reply to the work before has come.
    fn try_take_ahead(&mut self) -> Option<Self::Ticket> {
        self.try_take()
    }
    /// The next work within `idle`; none: close. Work is not lost when the future is dropped.
    fn take(&mut self, idle: Duration) -> impl Future<Output = Option<Self::Ticket>> + Send;
    /// The message, from memory or disk.
    fn load(&self, id: MessageId) -> impl Future<Output = Result<Message, Unreadable>> + Send;
    /// Records that an end of data is about to leave; resolves when the kernel has the record.
    fn attempt(
        &self,
        id: MessageId,
        recipients: &[u32],
        mx: SocketAddr,
    ) -> impl Future<Output = Result<(), NotRecorded>> + Send;
    /// One outcome for each recipient, in their order.
    fn report(&self, ticket: Self::Ticket, outcomes: Vec<Outcome>);
    /// The message is damaged, or `panic` came of reading it: its recipients are not to be tried again.
    fn hold_damaged(&self, ticket: Self::Ticket, panic: Option<&Panic>);
    /// Returns work that was not tried.
    fn give_back(&self, ticket: Self::Ticket);
    /// Greeting and EHLO are done.
    fn connected(&self);
    /// The receiver ended the connection when another message was to begin.
    fn hung_up(&self, _how: HungUp<'_>) {}
    /// No MX host could be used.
    fn connection_failed(&self, ticket: Self::Ticket, outcome: Outcome);
}
