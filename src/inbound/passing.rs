//! Passing on: what came to a recipient's own reverse-path goes on to the one that its message came with, and mail for the postmaster
//! to theirs.

use std::io;
use std::sync::Arc;

use crate::bounce::token::Purpose;
use crate::feedback::{Place, Policy};
use crate::journal::Origin;
use crate::message::{Content, Envelope, Kind, Lane, MessageId, Notify, Recipient};
use crate::smtp::address::{Address, ReversePath};
use crate::spool::{AcceptError, NewMessage};

use super::{Done, Inbox, ending};

/// Octets of content that are held in memory; more go through a file.
const IN_MEMORY: u64 = 256 << 10;
/// Written at once.
const PIECE: usize = 256 << 10;

impl Inbox {
    /// Ends a report for one recipient, and passes it on where that is to be; gives as what. In one record, so that neither is without the
    /// other.
    pub(super) async fn pass_on(
        &self,
        done: &Done<'_>,
        origin: Option<&Origin>,
        policy: &Policy,
    ) -> io::Result<Option<MessageId>> {
        let id = done.report.message.id;
        let Some((reverse_path, to)) = self.passes_to(done, origin, policy) else {
            self.spool.record(id, &ending(done.recipient));
            return Ok(None);
        };
        let before = &done.report.message.envelope;
        let recipient = Recipient { forward_path: to, notify: Notify::NEVER, orcpt: None };
        let tenant = done.case.tenant.clone().unwrap_or_else(|| before.tenant.clone());
        let envelope = Arc::new(Envelope {
            tenant,
            lane: Lane::Normal,
            body: before.body,
            smtputf8: before.smtputf8,
            traits: before.traits,
            kind: Kind::Dsn,
            ..Envelope::new(reverse_path, vec![recipient], self.clock.wall())
        });
        let content = self.copied(&done.report.message.content)?;
        let (size, dsn, ended_at) = (content.len(), self.spool.next_id(), self.clock.now());
        let message = NewMessage { id: dsn, envelope: Arc::clone(&envelope), content, ended_at };
        let _arrival = self.queue.arrival();
        self.spool.conclude(id, &ending(done.recipient), message).await.map_err(failed)?;
        self.queue.tell_received(dsn, &envelope, size, None, None, "");
        self.queue.put(dsn, &envelope);
        self.meters.passed_on.increment(1);
        Ok(Some(dsn))
    }

    /// From where and to whom a report goes on, if it does.
    fn passes_to(&self, done: &Done<'_>, origin: Option<&Origin>, policy: &Policy) -> Option<(ReversePath, Address)> {
        match &done.place {
            Some(Place::Postmaster) => {
                Some((done.report.message.envelope.reverse_path.clone(), policy.postmaster.clone()?))
            }
            Some(Place::About { purpose: Purpose::ReversePath, tenant, .. }) if policy.sends_dsns(tenant) => {
                // Where addresses are masked, nobody knows it any more.
                let to =
                    origin.and_then(|origin| origin.reverse_path.parse().ok()).filter(|_| !self.journal.is_masked());
                if to.is_none() {
                    self.meters.not_passed_on.increment(1);
                }
                Some((ReversePath::Null, to?))
            }
            _ => None,
        }
    }

    /// The same content for another message.
    fn copied(&self, content: &Content) -> io::Result<Content> {
        if content.len() <= IN_MEMORY {
            return content.beginning(usize::try_from(IN_MEMORY).unwrap_or(PIECE)).map(Content::Memory);
        }
        let mut file = self.spool.spill()?;
        let mut at = 0;
        loop {
            let piece = content.chunk(at, PIECE)?;
            if piece.is_empty() {
                return file.content(bytes::Bytes::new(), 0);
            }
            // A piece may end where the prefix of the content does.
            at += piece.len() as u64;
            file.write(&piece)?;
        }
    }
}

fn failed(error: AcceptError) -> io::Error {
    io::Error::other(error)
}
