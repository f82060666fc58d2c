//! What the queue tells the journal beside outcomes of attempts.

use std::net::{IpAddr, SocketAddr};

use crate::clock::UnixTime;
use crate::journal::{self, Decision, Event, Subject, Verdict};
use crate::message::{Envelope, MessageId, Phase, Report};
use crate::smtp::status::Status;
use crate::spool::{Pending, Recovered};
use crate::state::{Action, Order};

use super::engine::Engine;
use super::entry::Entry;

impl Engine {
    /// A message is about to be put; `client` submitted it, or it is our own. `user`: who had authenticated; `dkim`:
    /// who signed it.
    pub fn tell_received(
        &self,
        id: MessageId,
        envelope: &Envelope,
        size: u64,
        client: Option<IpAddr>,
        user: Option<&str>,
        dkim: &str,
    ) {
        if !self.journal.is_on() {
            return;
        }
        for (recipient, _) in (0..).zip(&envelope.recipients) {
            let subject = Subject { id, envelope: Some(envelope), recipient, site: None };
            self.journal.tell(&Event::Received { subject, size, client, user, dkim });
        }
    }

    /// An order was placed, or has ended: then `action` says how.
    pub(super) fn tell_order(&self, order: &Order, action: &str) {
        self.journal.tell(&Event::Order(journal::Order {
            id: &order.id.to_string(),
            action,
            filter: &order.selection.to_string(),
            source: match &order.action {
                Action::Move { source } => source,
                _ => "",
            },
            reason: &order.reason,
            who: &order.by,
            until: order.until.map(UnixTime),
        }));
    }

    /// An order deletes a recipient.
    pub(super) fn tell_deleted(&self, entry: &Entry, envelope: Option<&Envelope>, site: Option<&str>, order: &Order) {
        let subject = Subject { id: entry.id, envelope, recipient: entry.recipient, site };
        self.journal.tell(&Event::Deleted { subject, reason: &order.reason, order: &order.id.to_string() });
    }

    /// A recipient in doubt counts as delivered, by its tenant's policy.
    pub(super) fn tell_assumed(&self, message: &Recovered, pending: &Pending, address: SocketAddr) {
        let text = "no reply to the attempt before the last start; assumed to be delivered";
        let report = Report { mx_address: Some(address), ..Report::local(Phase::Queue, Status::new(2, 0, 0), text) };
        let subject =
            Subject { id: message.id, envelope: Some(&message.envelope), recipient: pending.recipient, site: None };
        self.journal.tell(&Event::Decided(Decision {
            subject,
            verdict: Verdict::Delivered,
            report: &report,
            refusal: None,
            source: None,
            attempt: pending.attempts.saturating_add(1),
            size: None,
            due: pending.due,
            attempted: None,
            retry: None,
            order: None,
        }));
    }
}
