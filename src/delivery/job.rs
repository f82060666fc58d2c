//! A ticket with its message while it is carried: usually one transaction, more when the receiver limits recipients.

use std::sync::Arc;

use crate::feedback::Feedback;
use crate::message::{Envelope, Kind, Message, Outcome, Phase, Report};
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::status::Status;

use super::transaction::{Transaction, is_too_many};
use super::work::Ticket;

/// A message on its way to a ticket's recipients.
#[derive(Debug)]
pub(super) struct Job<T> {
    pub(super) ticket: T,
    pub(super) message: Message,
    /// It was begun behind the content of another.
    pub(super) is_ahead: bool,
    outcomes: Vec<Option<Outcome>>,
    /// Positions within the ticket that the transaction under way covers; empty: all.
    covered: Vec<usize>,
    /// What comes back about each recipient comes to a reverse-path of its own, so each has a transaction of its own; none: all have the
    /// message's.
    returns: Option<Feedback>,
}

impl<T: Ticket> Job<T> {
    pub(super) fn new(mut ticket: T, message: Message) -> Self {
        ticket.carry(&message);
        Self { ticket, message, is_ahead: false, outcomes: Vec::new(), covered: Vec::new(), returns: None }
    }

    /// The same by what is known of its recipients: those who get no mail have their outcome already.
    pub(super) fn with_feedback(mut self, feedback: &Feedback) -> Self {
        self.returns = feedback.is_returned(&self.message.envelope).then(|| feedback.clone());
        let asker = feedback.asks(&self.message.envelope);
        if asker.is_idle() || self.message.envelope.kind != Kind::Submitted {
            return self;
        }
        let envelope = Arc::clone(&self.message.envelope);
        for position in 0..self.ticket.recipients().len() {
            let path = self.ticket.recipients().get(position).and_then(|index| forward_path(&envelope, *index));
            if let Some(report) = path.and_then(|path| asker.refusal(path)) {
                self.settle(position, Outcome::Suppressed(report));
            }
        }
        self
    }

    /// Sets the outcome of the recipient at `position` without a transaction.
    pub(super) fn settle(&mut self, position: usize, outcome: Outcome) {
        let count = self.ticket.recipients().len();
        self.outcomes.resize(count, None);
        if let Some(slot) = self.outcomes.get_mut(position) {
            *slot = Some(outcome);
        }
    }

    /// Whether one transaction of `most` recipients covers all of it.
    pub(super) fn fits(&self, most: usize) -> bool {
        let most = if self.returns.is_some() { 1 } else { most };
        self.outcomes.is_empty() && self.ticket.recipients().len() <= most
    }

    /// The next transaction, of at most `most` recipients; none when every recipient has its outcome.
    pub(super) fn next_transaction(&mut self, most: usize) -> Option<Transaction> {
        let most = if self.returns.is_some() { 1 } else { most };
        let all = self.ticket.recipients();
        let recipients: Box<[u32]> = if self.fits(most) {
            self.covered.clear();
            all.into()
        } else {
            let is_open = |position: &usize| !matches!(self.outcomes.get(*position), Some(Some(_)));
            self.covered = (0..all.len()).filter(is_open).take(most).collect();
            self.covered.iter().filter_map(|&position| all.get(position).copied()).collect()
        };
        let reverse_path = self.reverse_path(*recipients.first()?);
        let envelope = Arc::clone(&self.message.envelope);
        Some(Transaction::new(envelope, recipients, self.message.content.len()).with_reverse_path(reverse_path))
    }

    /// Where what comes back about a recipient is to come, if not to where the message says.
    fn reverse_path(&self, recipient: u32) -> Option<ReversePath> {
        let Message { id, envelope, .. } = &self.message;
        self.returns.as_ref()?.reverse_path(*id, envelope, forward_path(envelope, recipient)?)
    }

    /// Takes over the outcomes of the transaction under way.
    pub(super) fn absorb(&mut self, outcomes: Vec<Outcome>) {
        // Recipients that were too many stay open for the next transaction, if this one got on with others.
        let go_on = outcomes.iter().any(is_too_many) && outcomes.iter().any(|outcome| !is_too_many(outcome));
        let keep = |outcome: Outcome| (!go_on || !is_too_many(&outcome)).then_some(outcome);
        if self.covered.is_empty() {
            self.outcomes = outcomes.into_iter().map(keep).collect();
            return;
        }
        for (position, outcome) in std::mem::take(&mut self.covered).into_iter().zip(outcomes) {
            if let Some(outcome) = keep(outcome) {
                self.settle(position, outcome);
            }
        }
    }

    /// Whether nothing was tried yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.outcomes.is_empty() && self.covered.is_empty()
    }

    /// Whether the transaction under way covers all recipients without an outcome.
    pub(super) fn is_last_transaction(&self) -> bool {
        let settled = self.outcomes.iter().filter(|outcome| outcome.is_some()).count();
        self.covered.is_empty() || self.covered.len() + settled == self.ticket.recipients().len()
    }

    /// Whether every recipient has its outcome.
    pub(super) fn is_settled(&self) -> bool {
        self.outcomes.len() == self.ticket.recipients().len() && self.outcomes.iter().all(Option::is_some)
    }

    /// The ticket and an outcome for each recipient; those without one are deferred.
    pub(super) fn finish(self) -> (T, Vec<Outcome>) {
        let count = self.ticket.recipients().len();
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(count);
        for outcome in self.outcomes.into_iter().take(count) {
            outcomes.push(outcome.unwrap_or_else(unsent));
        }
        outcomes.resize_with(count, unsent);
        (self.ticket, outcomes)
    }
}

fn forward_path(envelope: &Envelope, recipient: u32) -> Option<&Address> {
    let recipient = envelope.recipients.get(usize::try_from(recipient).ok()?)?;
    Some(&recipient.forward_path)
}

/// The connection ended before this recipient's turn.
fn unsent() -> Outcome {
    let text = "the connection ended before this recipient's turn";
    Outcome::Deferred(Report::local(Phase::Mail, Status::new(4, 4, 2), text))
}
