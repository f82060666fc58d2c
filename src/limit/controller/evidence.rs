//! What a receiver said, as far as a limit is concerned.

use std::time::Duration;

use crate::message::Phase;
use crate::reply::{Class, Severity, Verdict};
use crate::smtp::status::Status;

use super::change::Changes;

/// How often a message goes back that was refused without a word of why: it may be the message that the receiver minds, and
/// then it has to make way for others, and to expire.
pub const MOST_GUESSES: u8 = 3;

/// RFC 3463, 3.4: system not accepting network messages.
const NOT_ACCEPTING: Status = Status::new(4, 3, 2);

/// What a reply says about our limits. Each regulator is fed by its own kind only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// 2yz: the message counts at the receiver.
    Accepted,
    /// About this message, its recipient or its content (a full mailbox, greylisting, spam): never moves a limit.
    Neutral,
    /// Too many messages in a time.
    Rate,
    /// Too many connections.
    Connections,
    /// Too many messages over this connection.
    MessagesPerConnection,
    /// We as such are refused: a block list, complaints.
    Reputation,
    /// 4yz that does not say what it is about.
    Unknown,
    /// The connection ended in the midst of a transaction in place of any reply, or the receiver says that it has a fault.
    Strained,
}

impl Signal {
    /// What a refusal at a step says, with its enhanced status code. Permanent ones are about the message, its recipient, its
    /// content or us as such, but where they speak of the rate: what is refused has failed, and more of it would. The rate at
    /// which one mailbox receives is about the recipient.
    pub fn of(verdict: &Verdict, step: Phase, status: Option<Status>) -> Self {
        use Phase::{Content, Data, EndOfData, Mail, Rcpt};
        let is_transient = verdict.severity == Severity::Transient;
        let is_in_session = matches!(step, Mail | Rcpt | Data | Content | EndOfData);
        match verdict.class {
            Class::RateLimited if verdict.wants_rest() => Self::Rate,
            Class::RateLimited if verdict.is_lasting_throttle() && is_in_session => Self::Rate,
            // Who was let in and is told that no messages are accepted now has brought too many.
            Class::System if verdict.asks_less() && is_in_session && status == Some(NOT_ACCEPTING) => Self::Rate,
            Class::TooManyConnections => Self::Connections,
            Class::ConnectionUsedUp => Self::MessagesPerConnection,
            Class::Reputation if is_transient => Self::Reputation,
            Class::Unknown if is_transient => Self::Unknown,
            _ => Self::Neutral,
        }
    }

    /// Whether it does not say what it is about, so that it may be about the message.
    pub const fn is_guess(self) -> bool {
        matches!(self, Self::Unknown | Self::Strained)
    }
}

/// What a controller made of what it was told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    /// Limits that have changed.
    pub changes: Changes,
    /// It was taken for a refusal because of a limit: the message is not to blame. Where [`Signal::is_guess`], at most
    /// [`MOST_GUESSES`] times for each message.
    pub is_throttle: bool,
}

/// A reply to a message.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// What it says.
    pub signal: Signal,
    /// The reply as received, for reasons: code, enhanced status code and text.
    pub reply: &'a str,
    /// The number of this message on its connection, the first being 1.
    pub count: u32,
    /// The receiver closed the connection with it.
    pub is_closed: bool,
    /// From the message's first command to this reply.
    pub latency: Duration,
    /// How long the receiver asks us to stay away, if the text or a rule says so.
    pub rest: Option<Duration>,
}

/// How a receiver ended a connection when another message was to begin, not saying why.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Messages that it had carried.
    pub count: u32,
    /// A reply that came instead of another message's; none: there was none.
    pub reply: Option<&'a str>,
}

/// Why a connection did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Refused at the greeting because of the number of connections.
    TooMany,
    /// We as such are refused at the greeting.
    Reputation,
    /// Refused at the greeting by a reply that does not say why.
    Unsaid,
    /// Ended by the receiver in place of the greeting, or of the reply to EHLO.
    Closed,
    /// Nobody answered in time.
    Timeout,
    /// Refused by the network, or TLS failed.
    Network,
}

/// A connection that did not come about.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Why.
    pub failure: Failure,
    /// The reply or what the network said, for reasons.
    pub reply: &'a str,
    /// How many others were open or being opened at that moment.
    pub others: u32,
    /// How many of those are open.
    pub open: u32,
    /// How long it took to fail.
    pub took: Duration,
}
