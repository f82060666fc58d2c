//! What a session refuses and how it says so: reply code, enhanced status code, text and the cause that is counted.
//!
//! The texts are constant: nothing of what a client sent is ever echoed.

use std::io;

use crate::feedback::NotOurs;
use crate::queue::QueueFull;
use crate::smtp::address::AddressError;
use crate::smtp::command::CommandError;
use crate::smtp::status::Status;
use crate::spool::AcceptError;
use crate::state::suppression::Reason;
use crate::users::Spent;

/// Why something was refused, as the metric `hikyaku_submission_rejected_total` counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A line or an argument breaks the grammar.
    Syntax,
    /// A command out of its order.
    Sequence,
    /// A command or parameter that is not offered.
    Unsupported,
    /// A path breaks the grammar, or is not one we know.
    Address,
    /// A non-ASCII address without SMTPUTF8, or header fields that are not UTF-8.
    Utf8,
    /// The client is not in an allowed network.
    Relay,
    /// STARTTLS where it is not possible, or a transaction in clear where TLS is required.
    Tls,
    /// An authentication failed, or is needed.
    Authentication,
    /// The reverse-path or the From field is not the user's.
    Sender,
    /// A balancer did not say who its client is.
    Proxy,
    /// Too many recipients in one transaction.
    Recipients,
    /// Content over the limit.
    Size,
    /// Header section over the limit.
    Header,
    /// Bare CR or LF, or NUL, in content.
    LineEnding,
    /// Too many Received fields.
    Hops,
    /// An `X-Hikyaku-` field given twice or with a bad value.
    Field,
    /// Too many errors or idle commands in one session.
    Misbehaviour,
    /// Too many connections.
    Connections,
    /// Too many connections or messages a minute from one address.
    Rate,
    /// The tenant's queue is full.
    Queue,
    /// The disk is full or the spool has failed.
    Storage,
    /// The daemon is stopping.
    Stopping,
    /// Too slow.
    Timeout,
    /// A message that must be signed and has no key, or cannot be signed now.
    Signature,
    /// The recipient is on the suppression list.
    Suppressed,
    /// An address to which something comes back, and that nobody here has given out.
    Forged,
    /// The same, given out too long ago.
    Stale,
}

impl Cause {
    /// All causes, in the order of their discriminants.
    pub const ALL: [Self; 27] = [
        Self::Syntax,
        Self::Sequence,
        Self::Unsupported,
        Self::Address,
        Self::Utf8,
        Self::Relay,
        Self::Tls,
        Self::Authentication,
        Self::Sender,
        Self::Proxy,
        Self::Recipients,
        Self::Size,
        Self::Header,
        Self::LineEnding,
        Self::Hops,
        Self::Field,
        Self::Misbehaviour,
        Self::Connections,
        Self::Rate,
        Self::Queue,
        Self::Storage,
        Self::Stopping,
        Self::Timeout,
        Self::Signature,
        Self::Suppressed,
        Self::Forged,
        Self::Stale,
    ];

    /// The metric's label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Sequence => "sequence",
            Self::Unsupported => "unsupported",
            Self::Address => "address",
            Self::Utf8 => "utf8",
            Self::Relay => "relay",
            Self::Tls => "tls",
            Self::Authentication => "authentication",
            Self::Sender => "sender",
            Self::Proxy => "proxy",
            Self::Recipients => "recipients",
            Self::Size => "size",
            Self::Header => "header",
            Self::LineEnding => "line-ending",
            Self::Hops => "hops",
            Self::Field => "field",
            Self::Misbehaviour => "misbehaviour",
            Self::Connections => "connections",
            Self::Rate => "rate",
            Self::Queue => "queue",
            Self::Storage => "storage",
            Self::Stopping => "stopping",
            Self::Timeout => "timeout",
            Self::Signature => "signature",
            Self::Suppressed => "suppressed",
            Self::Forged => "forged",
            Self::Stale => "stale",
        }
    }
}

/// A negative reply. A 421 closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Reply code.
    pub code: u16,
    /// Enhanced status code; its class is the code's.
    pub status: Status,
    /// For people.
    pub text: &'static str,
    /// What it is counted as.
    pub cause: Cause,
}

impl Refusal {
    /// As it is said.
    pub fn line(&self) -> String {
        format!("{} {} {}\r\n", self.code, self.status, self.text)
    }
}

const fn refusal(code: u16, class: u8, subject: u16, detail: u16, text: &'static str, cause: Cause) -> Refusal {
    Refusal { code, status: Status::new(class, subject, detail), text, cause }
}

/// RFC 5321, 4.5.3.1.4, with the extensions' additions.
pub const LINE_TOO_LONG: Refusal = refusal(500, 5, 5, 2, "Line too long", Cause::Syntax);
/// Only CRLF ends a command line; the connection is closed, since what follows cannot be told from smuggled text.
pub const BARE_LF: Refusal = refusal(500, 5, 5, 2, "Lines must end with CRLF; closing", Cause::LineEnding);
/// No EHLO or HELO yet.
pub const NO_HELLO: Refusal = refusal(503, 5, 5, 1, "Send EHLO first", Cause::Sequence);
/// RFC 3207, 4.
pub const TLS_NEEDED: Refusal = refusal(530, 5, 7, 0, "Must issue a STARTTLS command first", Cause::Tls);
/// A second STARTTLS.
pub const TLS_ALREADY: Refusal = refusal(503, 5, 5, 1, "TLS is active already", Cause::Tls);
/// AUTH in clear.
pub const AUTH_IN_CLEAR: Refusal =
    refusal(538, 5, 7, 11, "Encryption required for requested authentication mechanism", Cause::Authentication);
/// AUTH after one that succeeded.
pub const AUTH_ALREADY: Refusal = refusal(503, 5, 5, 1, "Authenticated already", Cause::Sequence);
/// AUTH between MAIL and the end of data.
pub const AUTH_IN_TRANSACTION: Refusal = refusal(503, 5, 5, 1, "A mail transaction is open", Cause::Sequence);
/// A mechanism that is not offered.
pub const AUTH_MECHANISM: Refusal = refusal(504, 5, 5, 4, "Mechanism not available", Cause::Authentication);
/// Not base64, or against the mechanism's rules.
pub const AUTH_SYNTAX: Refusal = refusal(501, 5, 5, 2, "Cannot decode the response", Cause::Authentication);
/// The client sent `*`.
pub const AUTH_CANCELLED: Refusal = refusal(501, 5, 7, 0, "Authentication cancelled", Cause::Authentication);
/// RFC 4954, 4.
pub const AUTH_LINE_TOO_LONG: Refusal =
    refusal(500, 5, 5, 6, "Authentication exchange line is too long", Cause::Authentication);
/// Whatever was wrong.
pub const AUTH_WRONG: Refusal = refusal(535, 5, 7, 8, "Authentication credentials invalid", Cause::Authentication);
/// Too many have failed before.
pub const AUTH_HELD: Refusal =
    refusal(454, 4, 7, 0, "Too many failed authentications; try again later", Cause::Authentication);
/// It cannot be told now.
pub const AUTH_NOT_NOW: Refusal = refusal(454, 4, 7, 0, "Temporary authentication failure", Cause::Authentication);
/// Three times in one session.
pub const AUTH_TOO_OFTEN: Refusal = refusal(421, 4, 7, 0, "Too many failed authentications", Cause::Authentication);
/// RFC 4954, 6.
pub const AUTH_NEEDED: Refusal = refusal(530, 5, 7, 0, "Authentication required", Cause::Authentication);
/// The user has been removed or disabled meanwhile.
pub const USER_GONE: Refusal = refusal(421, 4, 7, 0, "This user may not send any more", Cause::Authentication);
/// The reverse-path is not the user's.
pub const SENDER_DENIED: Refusal = refusal(553, 5, 7, 1, "The reverse-path is not one of this user's", Cause::Sender);
/// The From field is not the user's.
pub const FROM_DENIED: Refusal = refusal(550, 5, 7, 1, "The From field is not one of this user's", Cause::Sender);
/// The user's messages a minute.
pub const USER_RATE: Refusal =
    refusal(451, 4, 7, 1, "Too many messages a minute of this user; try again later", Cause::Rate);
/// The user's recipients a day.
pub const USER_DAY: Refusal = refusal(452, 4, 7, 1, "No recipients left for this user today", Cause::Rate);
/// A second MAIL.
pub const NESTED_MAIL: Refusal = refusal(503, 5, 5, 1, "A mail transaction is open already", Cause::Sequence);
/// RCPT, DATA or BDAT without MAIL.
pub const NO_MAIL: Refusal = refusal(503, 5, 5, 1, "Send MAIL first", Cause::Sequence);
/// MAIL, RCPT or DATA between two BDATs (RFC 3030, 2).
pub const IN_CHUNKS: Refusal = refusal(503, 5, 5, 1, "Send BDAT or RSET", Cause::Sequence);
/// DATA or BDAT when every RCPT was refused.
pub const NO_RECIPIENTS: Refusal = refusal(554, 5, 5, 1, "No valid recipients", Cause::Sequence);
/// Parameters in a session that began with HELO.
pub const NOT_EXTENDED: Refusal = refusal(555, 5, 5, 4, "Parameters need EHLO", Cause::Unsupported);
/// A command that this server does not have.
pub const NOT_IMPLEMENTED: Refusal = refusal(502, 5, 5, 1, "Command not implemented", Cause::Unsupported);
/// The client's network is not allowed.
pub const RELAY_DENIED: Refusal = refusal(554, 5, 7, 1, "Relaying denied for this address", Cause::Relay);
/// Anything but QUIT after such a greeting (RFC 5321, 3.1).
pub const RELAY_DENIED_ALREADY: Refusal = refusal(503, 5, 7, 1, "Relaying denied; send QUIT", Cause::Relay);
/// RFC 5321, 4.5.3.1.10.
pub const TOO_MANY_RECIPIENTS: Refusal = refusal(452, 4, 5, 3, "Too many recipients", Cause::Recipients);
/// MAIL's SIZE, or what came, is over the limit.
pub const TOO_LARGE: Refusal = refusal(552, 5, 3, 4, "Message exceeds the maximum size", Cause::Size);
/// Header section over the limit.
pub const HEADER_TOO_LARGE: Refusal = refusal(552, 5, 3, 4, "Header section exceeds the maximum size", Cause::Header);
/// RFC 5321, 2.3.8.
pub const BARE_LINE_ENDING: Refusal =
    refusal(550, 5, 5, 2, "Bare CR or LF in content (RFC 5321, 2.3.8)", Cause::LineEnding);
/// RFC 5322, 4; RFC 6152, 3.
pub const NUL: Refusal = refusal(550, 5, 6, 0, "NUL in content", Cause::LineEnding);
/// RFC 5321, 6.3.
pub const TOO_MANY_HOPS: Refusal = refusal(554, 5, 4, 6, "Too many hops: mail loop", Cause::Hops);
/// An `X-Hikyaku-` field twice.
pub const DUPLICATE_FIELD: Refusal = refusal(550, 5, 6, 0, "An X-Hikyaku- field is given twice", Cause::Field);
/// An `X-Hikyaku-` field whose value is out of its range.
pub const BAD_FIELD: Refusal = refusal(550, 5, 6, 0, "An X-Hikyaku- field has a bad value", Cause::Field);
/// RFC 6532: a header section is UTF-8 or ASCII.
pub const HEADER_NOT_UTF8: Refusal = refusal(554, 5, 6, 9, "The header section is not UTF-8", Cause::Utf8);
/// A non-ASCII forward-path in a transaction whose MAIL did not ask for SMTPUTF8.
pub const NON_ASCII: Refusal = refusal(553, 5, 6, 7, "A non-ASCII address needs SMTPUTF8", Cause::Utf8);
/// `<Postmaster>` where no mailbox is configured for it.
pub const NO_POSTMASTER: Refusal = refusal(550, 5, 1, 1, "No mailbox here by that name", Cause::Address);
/// A domain to which nothing comes back here.
pub const NOT_RETURNED: Refusal = refusal(550, 5, 7, 1, "Relaying denied: no mail for this domain here", Cause::Relay);
/// An address that nobody here has given out.
pub const NO_RETURN_PATH: Refusal = refusal(550, 5, 1, 1, "No mailbox here by that name", Cause::Address);
/// The same that looks like one of ours.
pub const FORGED_RETURN_PATH: Refusal = refusal(550, 5, 1, 1, "No mailbox here by that name", Cause::Forged);
/// One of ours, of long ago.
pub const STALE_RETURN_PATH: Refusal = refusal(550, 5, 1, 1, "This mailbox is no longer here", Cause::Stale);
/// More errors or junk commands than one session may have.
pub const MISBEHAVIOUR: Refusal = refusal(421, 4, 7, 0, "Too many errors or idle commands", Cause::Misbehaviour);
/// RFC 9422: MAILMAX.
pub const TOO_MANY_MESSAGES: Refusal = refusal(421, 4, 7, 0, "Too many messages in one session", Cause::Rate);
/// All connections are taken, or all descriptors that are for sessions.
pub const OVERLOAD: Refusal = refusal(421, 4, 3, 2, "Too many connections", Cause::Connections);
/// This address has all the connections it may have.
pub const OVERLOAD_BY_ADDRESS: Refusal =
    refusal(421, 4, 7, 0, "Too many connections from this address", Cause::Connections);
/// Sessions per address per minute.
pub const SESSION_RATE: Refusal = refusal(421, 4, 7, 0, "Too many sessions a minute", Cause::Rate);
/// Messages per client per minute.
pub const MESSAGE_RATE: Refusal = refusal(451, 4, 7, 1, "Too many messages a minute; try again later", Cause::Rate);
/// The tenant's queue is full.
pub const QUEUE_FULL: Refusal = refusal(452, 4, 3, 1, "The queue is full", Cause::Queue);
/// The disk is full.
pub const STORAGE_FULL: Refusal = refusal(452, 4, 3, 1, "Insufficient system storage", Cause::Storage);
/// Not stored, and nothing will be delivered.
pub const NOT_STORED: Refusal = refusal(451, 4, 3, 0, "Not stored; try again later", Cause::Storage);
/// The configuration wants mail of this From domain signed, or the From cannot be told (RFC 7372, 3.1).
pub const NO_KEY: Refusal =
    refusal(550, 5, 7, 20, "No DKIM key here for the From domain, which must be signed", Cause::Signature);
/// Signing failed; unsigned it must not go.
pub const NOT_SIGNED: Refusal = refusal(451, 4, 3, 0, "Not signed; try again later", Cause::Signature);
/// The spool is closed.
pub const STORAGE_CLOSED: Refusal = refusal(421, 4, 3, 0, "Storage is not available", Cause::Storage);
/// SIGTERM.
pub const STOPPING: Refusal = refusal(421, 4, 3, 2, "Service is shutting down", Cause::Stopping);
/// RFC 5321, 4.5.3.2.7, and the minimum data rate.
pub const TIMEOUT: Refusal = refusal(421, 4, 4, 2, "Timeout", Cause::Timeout);

/// How a command error is said. `has_unknown_end` tells that the connection cannot go on.
pub fn of_command(error: CommandError) -> Refusal {
    match error {
        CommandError::Characters => refusal(500, 5, 5, 2, "Characters not allowed in a command", Cause::Syntax),
        CommandError::Unrecognized => refusal(500, 5, 5, 1, "Command not recognized", Cause::Unsupported),
        CommandError::Argument => refusal(501, 5, 5, 4, "Syntax error in the argument", Cause::Syntax),
        CommandError::Name => refusal(501, 5, 5, 4, "Give a domain or an address literal", Cause::Syntax),
        CommandError::ReversePath(error) => refusal(501, 5, 1, 7, path_text(error), Cause::Address),
        CommandError::ForwardPath(error) => refusal(501, 5, 1, 3, path_text(error), Cause::Address),
        CommandError::NonAscii => NON_ASCII,
        CommandError::Parameter => refusal(501, 5, 5, 4, "Bad value of a parameter", Cause::Syntax),
        CommandError::UnknownParameter => refusal(555, 5, 5, 4, "Parameter not recognized", Cause::Unsupported),
        CommandError::ChunkSize => refusal(501, 5, 5, 4, "Bad chunk size; closing", Cause::Syntax),
    }
}

const fn path_text(error: AddressError) -> &'static str {
    match error {
        AddressError::Form => "Syntax error in the path: <local-part@domain> is needed",
        AddressError::Length => "The path is too long",
        AddressError::Character => "Characters not allowed in the path",
    }
}

/// How the spool's refusal is said; `None`: nothing may be said, the connection is closed without a reply.
pub fn of_spool(error: AcceptError) -> Option<Refusal> {
    match error {
        AcceptError::Full => Some(STORAGE_FULL),
        AcceptError::Aborted => Some(NOT_STORED),
        AcceptError::Closed => Some(STORAGE_CLOSED),
        AcceptError::Unknown => None,
    }
}

/// How it is said that a content could not be written down.
pub fn of_storage(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => STORAGE_FULL,
        _ => NOT_STORED,
    }
}

/// How it is said that a user may send no more now.
pub fn of_spent(spent: Spent) -> Refusal {
    match spent {
        Spent::Minute => USER_RATE,
        Spent::Day => USER_DAY,
    }
}

/// Why a recipient gets no mail: RFC 3463, 3.8, X.7.1, delivery not authorized.
pub fn of_suppressed(reason: Reason) -> Refusal {
    let text = match reason {
        Reason::HardBounce => "Suppressed recipient: hard bounce",
        Reason::MailboxFull => "Suppressed recipient: mailbox full for days",
        Reason::Complaint => "Suppressed recipient: complaint",
        Reason::Unsubscribe => "Suppressed recipient: unsubscribed",
        Reason::Operator => "Suppressed recipient: by an operator",
        Reason::Import => "Suppressed recipient: imported",
    };
    refusal(550, 5, 7, 1, text, Cause::Suppressed)
}

/// Why nothing can come back to an address.
pub fn of_place(error: NotOurs) -> Refusal {
    match error {
        NotOurs::Relay => NOT_RETURNED,
        NotOurs::Unknown => NO_RETURN_PATH,
        NotOurs::Forged => FORGED_RETURN_PATH,
        NotOurs::Stale => STALE_RETURN_PATH,
    }
}

/// How it is said that there is no room in the queue.
pub fn of_queue(full: QueueFull) -> Refusal {
    match full {
        QueueFull::Tenant | QueueFull::Queue => QUEUE_FULL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_place_and_a_label_of_its_own() {
        let mut labels: Vec<_> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert!(Cause::ALL.iter().enumerate().all(|(place, cause)| *cause as usize == place));

        labels.sort_unstable();
        labels.dedup();

        assert_eq!(labels.len(), Cause::ALL.len());
    }

    #[test]
    fn only_an_unknown_state_of_storage_has_no_reply() {
        assert_eq!(of_spool(AcceptError::Unknown), None);
        assert_eq!(of_spool(AcceptError::Full).map(|refusal| refusal.code), Some(452));
        assert_eq!(of_spool(AcceptError::Aborted).map(|refusal| refusal.code), Some(451));
        assert_eq!(of_spool(AcceptError::Closed).map(|refusal| refusal.code), Some(421));
    }

    #[test]
    fn only_a_full_disk_or_quota_is_called_insufficient_storage() {
        // ENOSPC, EDQUOT, EIO, EMFILE.
        let codes = [28, 122, 5, 24].map(|number| of_storage(&io::Error::from_raw_os_error(number)).code);

        assert_eq!(codes, [452, 452, 451, 451]);
    }
}
