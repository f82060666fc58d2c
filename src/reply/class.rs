//! What a refusal is about, and what follows from it.
//!
//! A [`Class`] says what the receiver, the network or we ourselves object to. [`Verdict`] is a class with the rule that
//! decided and how sure it is; whether the address is finished, whose fault it is and what to do follow from the class and
//! from the severity of the reply.
//!
//! | class | fault | advice |
//! |---|---|---|
//! | bad-mailbox, bad-domain, mailbox-moved | recipient | suppress; retry while the reply is transient |
//! | inactive-mailbox, mailbox-full, recipient-rejected | recipient | retry |
//! | spam-content, virus, policy, message-too-large | content | fix |
//! | reputation | reputation | slow down while the reply is transient, else fix |
//! | rate-limited, too-many-connections | us | slow down |
//! | connection-used-up, recipient-limit, expired | us | retry |
//! | authentication, protocol, tls-required, sender-rejected | us | fix |
//! | greylisted, dns, network, timeout, system, unknown | receiver | retry |
//! | relaying-denied | receiver | fix |

use std::fmt;
use std::sync::Arc;

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// There is no such mailbox.
    BadMailbox,
    /// There is no such domain, or it takes no mail at all.
    BadDomain,
    /// The mailbox is there, but disabled, suspended or not used any more.
    InactiveMailbox,
    /// The mailbox, or its quota, is full.
    MailboxFull,
    /// The mailbox is elsewhere now.
    MailboxMoved,
    /// The recipient, or a filter of its own, does not want this mail.
    RecipientRejected,
    /// The content looks like spam.
    SpamContent,
    /// The content holds, or may hold, malicious software.
    Virus,
    /// A rule of the receiver's forbids this message.
    Policy,
    /// SPF, DKIM, DMARC, or a login that is missing.
    Authentication,
    /// Our address, name or domain has a bad name, is on a list, or has no proper reverse DNS.
    Reputation,
    /// Too much mail in too short a time.
    RateLimited,
    /// Too many connections at once.
    TooManyConnections,
    /// This connection has carried as many messages as it may.
    ConnectionUsedUp,
    /// Nobody is known to have sent from here: to be tried again a little later.
    Greylisted,
    /// Larger than the receiver takes.
    MessageTooLarge,
    /// The message does not keep to the format of messages, or its receiver not to the protocol.
    Protocol,
    /// The receiver does not take mail for this domain from us.
    RelayingDenied,
    /// The receiver wants an encrypted connection, or one could not be made.
    TlsRequired,
    /// A name could not be looked up, or leads nowhere.
    Dns,
    /// A connection could not be made, or was lost.
    Network,
    /// Nothing came in time.
    Timeout,
    /// The receiver's system has a fault or no room, or one of the two systems has a command wrong.
    System,
    /// The reverse-path or the author is refused.
    SenderRejected,
    /// Too many recipients in one transaction.
    RecipientLimit,
    /// The time to deliver in is over.
    Expired,
    /// The reply does not say.
    Unknown,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::BadMailbox,
        Self::BadDomain,
        Self::InactiveMailbox,
        Self::MailboxFull,
        Self::MailboxMoved,
        Self::RecipientRejected,
        Self::SpamContent,
        Self::Virus,
        Self::Policy,
        Self::Authentication,
        Self::Reputation,
        Self::RateLimited,
        Self::TooManyConnections,
        Self::ConnectionUsedUp,
        Self::Greylisted,
        Self::MessageTooLarge,
        Self::Protocol,
        Self::RelayingDenied,
        Self::TlsRequired,
        Self::Dns,
        Self::Network,
        Self::Timeout,
        Self::System,
        Self::SenderRejected,
        Self::RecipientLimit,
        Self::Expired,
        Self::Unknown,
    ];

    /// As rules, tables, metrics and the journal name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadMailbox => "bad-mailbox",
            Self::BadDomain => "bad-domain",
            Self::InactiveMailbox => "inactive-mailbox",
            Self::MailboxFull => "mailbox-full",
            Self::MailboxMoved => "mailbox-moved",
            Self::RecipientRejected => "recipient-rejected",
            Self::SpamContent => "spam-content",
            Self::Virus => "virus",
            Self::Policy => "policy",
            Self::Authentication => "authentication",
            Self::Reputation => "reputation",
            Self::RateLimited => "rate-limited",
            Self::TooManyConnections => "too-many-connections",
            Self::ConnectionUsedUp => "connection-used-up",
            Self::Greylisted => "greylisted",
            Self::MessageTooLarge => "message-too-large",
            Self::Protocol => "protocol",
            Self::RelayingDenied => "relaying-denied",
            Self::TlsRequired => "tls-required",
            Self::Dns => "dns",
            Self::Network => "network",
            Self::Timeout => "timeout",
            Self::System => "system",
            Self::SenderRejected => "sender-rejected",
            Self::RecipientLimit => "recipient-limit",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
        }
    }

    /// The class of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// Whose fault it is.
    pub const fn fault(self) -> Fault {
        match self {
            Self::BadMailbox
            | Self::BadDomain
            | Self::InactiveMailbox
            | Self::MailboxFull
            | Self::MailboxMoved
            | Self::RecipientRejected => Fault::Recipient,
            Self::SpamContent | Self::Virus | Self::Policy | Self::MessageTooLarge => Fault::Content,
            Self::Reputation => Fault::Reputation,
            Self::Authentication
            | Self::RateLimited
            | Self::TooManyConnections
            | Self::ConnectionUsedUp
            | Self::Protocol
            | Self::TlsRequired
            | Self::SenderRejected
            | Self::RecipientLimit
            | Self::Expired => Fault::Us,
            Self::Greylisted
            | Self::RelayingDenied
            | Self::Dns
            | Self::Network
            | Self::Timeout
            | Self::System
            | Self::Unknown => Fault::Receiver,
        }
    }

    /// Whether a 5yz of this class says that the address is finished.
    const fn ends_address(self) -> bool {
        matches!(self, Self::BadMailbox | Self::BadDomain | Self::MailboxMoved)
    }

    /// Whether a 4yz of this class says that we come too often, or that the receiver would rather not see us for now.
    const fn is_about_path(self) -> bool {
        matches!(self, Self::RateLimited | Self::TooManyConnections | Self::ConnectionUsedUp | Self::Reputation)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The recipient's address or mailbox.
    Recipient,
    /// What the message says.
    Content,
    /// The name that our addresses and domains have.
    Reputation,
    /// The receiver's, or the network's on the way to it.
    Receiver,
    /// What we do, or how we are set up.
    Us,
}

impl Fault {
    /// As tables and JSON name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Content => "content",
            Self::Reputation => "reputation",
            Self::Receiver => "receiver",
            Self::Us => "us",
        }
    }
}

/// What to do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// Do not write to this address again.
    Suppress,
    /// The same may work later.
    Retry,
    /// Send less, or slower, or over fewer connections.
    SlowDown,
    /// Something has to be changed first: content, set-up, or a listing.
    Fix,
}

impl Advice {
    /// As tables and JSON name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Suppress => "suppress",
            Self::Retry => "retry",
            Self::SlowDown => "slow-down",
            Self::Fix => "fix",
        }
    }
}

/// How sure a verdict is: by what the rule went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Certainty {
    /// The reply code, or nothing at all.
    Code,
    /// The enhanced status code.
    Status,
    /// Words that many receivers use, some of them for something else.
    Words,
    /// What the text plainly says.
    Text,
    /// What this provider is known to mean by it.
    Provider,
    /// A rule of the operator's.
    Operator,
}

impl Certainty {
    /// As tables and JSON name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Status => "status",
            Self::Words => "words",
            Self::Text => "text",
            Self::Provider => "provider",
            Self::Operator => "operator",
        }
    }
}

/// How a refusal ends an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// 4yz, or a local decision of class 4.
    Transient,
    /// 5yz, or a local decision of class 5.
    Permanent,
    /// Neither code nor status says.
    Unsaid,
}

/// What a refusal is about, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it is about.
    pub class: Class,
    /// The id of the rule that decided.
    pub rule: Arc<str>,
    /// How sure it is.
    pub certainty: Certainty,
    /// The list that the receiver goes by, if it names one.
    pub list: Option<Arc<str>>,
    /// 4yz or 5yz.
    pub severity: Severity,
    pub(super) wants_rest: bool,
    pub(super) asks_less: bool,
}

impl Verdict {
    /// Whether the address should not be tried again. A 5yz about spam is not permanent in this sense.
    pub fn permanent(&self) -> bool {
        self.class.ends_address() && self.severity != Severity::Transient
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.class.fault()
    }

    /// What to do about it.
    pub fn advice(&self) -> Advice {
        let is_transient = self.severity == Severity::Transient;
        match self.class {
            Class::BadMailbox | Class::BadDomain | Class::MailboxMoved if is_transient => Advice::Retry,
            Class::BadMailbox | Class::BadDomain | Class::MailboxMoved => Advice::Suppress,
            Class::Reputation if is_transient => Advice::SlowDown,
            Class::RateLimited | Class::TooManyConnections => Advice::SlowDown,
            Class::SpamContent
            | Class::Virus
            | Class::Policy
            | Class::MessageTooLarge
            | Class::Reputation
            | Class::Authentication
            | Class::Protocol
            | Class::TlsRequired
            | Class::SenderRejected
            | Class::RelayingDenied => Advice::Fix,
            _ => Advice::Retry,
        }
    }

    /// Whether the receiver wants to be left alone for a while: the connection is closed and its path pauses.
    pub fn wants_rest(&self) -> bool {
        self.wants_rest
    }

    /// Whether it is a 5yz about how much we send: the message has failed, and the path is to slow down all the same.
    pub fn is_lasting_throttle(&self) -> bool {
        self.class == Class::RateLimited && self.severity == Severity::Permanent && self.asks_less
    }

    /// Whether that is what the rule is about, and not only what 421 says of itself.
    pub fn asks_less(&self) -> bool {
        self.wants_rest && self.asks_less
    }
}

/// What a rule says of the pause, or what its class says.
pub(super) fn wants_rest(class: Class, of_rule: Option<bool>) -> bool {
    of_rule.unwrap_or(class.is_about_path())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(class: Class, severity: Severity) -> Verdict {
        let rule = Arc::from("x");
        Verdict { class, rule, certainty: Certainty::Text, list: None, severity, wants_rest: false, asks_less: false }
    }

    #[test]
    fn names_are_those_of_the_classes() {
        for class in Class::ALL {
            assert_eq!(Class::named(class.as_str()), Some(class));
        }
        assert_eq!(Class::named("Unknown"), None);
    }

    #[test]
    fn only_a_refusal_of_the_address_itself_is_permanent() {
        let permanent = Class::ALL.into_iter().filter(|class| verdict(*class, Severity::Permanent).permanent());

        assert_eq!(permanent.collect::<Vec<_>>(), [Class::BadMailbox, Class::BadDomain, Class::MailboxMoved]);
        assert!(verdict(Class::BadMailbox, Severity::Unsaid).permanent());
        assert!(!verdict(Class::BadMailbox, Severity::Transient).permanent());
    }

    #[test]
    fn what_is_permanent_is_suppressed_and_nothing_else() {
        for class in Class::ALL {
            for severity in [Severity::Transient, Severity::Permanent, Severity::Unsaid] {
                let verdict = verdict(class, severity);

                assert_eq!(verdict.permanent(), verdict.advice() == Advice::Suppress, "{verdict:?}");
            }
        }
    }
}
