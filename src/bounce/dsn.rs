//! Delivery status notifications (RFC 3464) as multipart/report (RFC 6522).

use crate::clock::UnixTime;
use crate::message::{Content, Envelope, MessageId, Report};

/// What a DSN says about one recipient: the `action` field of RFC 3464, 2.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Given up.
    Failed,
    /// Not yet delivered; attempts go on until `will_retry_until`.
    Delayed,
    /// Delivered to the mailbox's host, which reports by itself no further.
    Relayed,
}

/// One recipient's part of a DSN.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// Index into the envelope's recipients.
    pub recipient: u32,
    /// What is reported.
    pub action: Action,
    /// The attempt it rests on.
    pub report: &'a Report,
}

/// A DSN to make: all its subjects share one action.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The reported message.
    pub id: MessageId,
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// Its content, returned whole or as header section (RET).
    pub content: &'a Content,
    /// Whom it is about.
    pub subjects: &'a [Subject<'a>],
    /// Our name: Reporting-MTA and the domain of the DSN's From.
    pub reporting_mta: &'a str,
    /// Now.
    pub now: UnixTime,
    /// For `Delayed`: when we shall give up.
    pub will_retry_until: Option<UnixTime>,
}
