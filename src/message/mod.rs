//! Messages: identity, envelope, trace fields and what becomes of each recipient.
//!
//! A [`Message`] is envelope and content under one [`MessageId`] (RFC 5321, 2.3.1).

pub mod content;
pub mod date;
pub mod encoding;
pub mod envelope;
pub mod header;
pub mod id;
pub mod mailbox;
pub mod outcome;
pub mod received;

use std::sync::Arc;

pub use content::{Content, ReadAt};
pub use envelope::{BodyType, ContentTraits, Envelope, Kind, Lane, Notify, Recipient, Ret, TlsWish};
pub use id::MessageId;
pub use outcome::{Encryption, Outcome, Phase, Proof, Report};

/// A message as the spool gives it out.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its identity in this spool.
    pub id: MessageId,
    /// Reverse-path, recipients and what the client said about them.
    pub envelope: Arc<Envelope>,
    /// Header section and body, with trace fields, without dot-stuffing and without the final dot.
    pub content: Content,
}
