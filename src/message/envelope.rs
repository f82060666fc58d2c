//! The envelope of a message (RFC 5321, 2.3.1) and what hikyaku keeps beside it.

use crate::clock::UnixTime;
use crate::smtp::address::{Address, ReversePath};
pub use crate::smtp::extension::{BodyType, Notify, Ret, TlsWish};

/// What a scan of the content found; decides on 8BITMIME and SMTPUTF8 towards a next hop whatever was declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentTraits {
    /// An octet over 127 anywhere.
    pub has_eight_bit: bool,
    /// An octet over 127 in the header section: needs SMTPUTF8 (RFC 6531).
    pub has_eight_bit_header: bool,
}

/// Order among a tenant's messages: 16 : 4 : 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// One-time codes, password resets.
    Urgent,
    /// Receipts, notifications.
    #[default]
    Normal,
    /// Campaigns.
    Bulk,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];

    /// As header fields, metrics and tables show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }

    /// The lane of a priority (RFC 6710): from 3 on urgent, down to -2 normal.
    pub const fn of_priority(priority: i8) -> Self {
        match priority {
            3.. => Self::Urgent,
            -2..=2 => Self::Normal,
            _ => Self::Bulk,
        }
    }

    /// The priority that stands for it.
    pub const fn priority(self) -> i8 {
        match self {
            Self::Urgent => 4,
            Self::Normal => 0,
            Self::Bulk => -4,
        }
    }

    /// Whichever of both is less urgent.
    pub fn at_most(self, most: Self) -> Self {
        if self.priority() > most.priority() { most } else { self }
    }

    /// The lane of this name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.as_str().eq_ignore_ascii_case(name))
    }
}

/// Where a message came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Submitted by a client.
    #[default]
    Submitted,
    /// A delivery status notification of ours.
    Dsn,
    /// A TLS report of ours (RFC 8460).
    TlsReport,
    /// What came back about a message of ours: it stays until it has been read.
    Returned,
}

/// One forward-path with what the client said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The forward-path.
    pub forward_path: Address,
    /// NOTIFY=.
    pub notify: Notify,
    /// ORCPT= as it came (`type;xtext`), if given.
    pub orcpt: Option<Box<str>>,
}

impl Recipient {
    /// One about which the client said no more.
    pub fn new(forward_path: Address) -> Self {
        Self { forward_path, notify: Notify::UNSPECIFIED, orcpt: None }
    }
}

/// Everything about a message but its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Where failures are reported to.
    pub reverse_path: ReversePath,
    /// In the order of RCPT; a recipient is known by its index here.
    pub recipients: Vec<Recipient>,
    /// When it was accepted; its age counts from here.
    pub accepted_at: UnixTime,
    /// Whose message it is.
    pub tenant: Box<str>,
    /// The campaign it belongs to; empty: none.
    pub campaign: Box<str>,
    /// The class of campaigns that one can unsubscribe from: `newsletter`, `offers`, ...; empty: none.
    pub class: Box<str>,
    /// Its lane within the tenant.
    pub lane: Lane,
    /// BODY=.
    pub body: BodyType,
    /// SMTPUTF8 was asked for.
    pub smtputf8: bool,
    /// What the content needs of a next hop.
    pub traits: ContentTraits,
    /// RET=.
    pub ret: Option<Ret>,
    /// ENVID= as it came (xtext).
    pub envid: Option<Box<str>>,
    /// REQUIRETLS, or the header field TLS-Required.
    pub tls: TlsWish,
    /// Where it came from.
    pub kind: Kind,
}

impl Envelope {
    /// The envelope of a message of the tenant `default` about which the client said no more.
    pub fn new(reverse_path: ReversePath, recipients: Vec<Recipient>, accepted_at: UnixTime) -> Self {
        Self {
            reverse_path,
            recipients,
            accepted_at,
            tenant: "default".into(),
            campaign: Box::default(),
            class: Box::default(),
            lane: Lane::Normal,
            body: BodyType::SevenBit,
            smtputf8: false,
            traits: ContentTraits::default(),
            ret: None,
            envid: None,
            tls: TlsWish::Unsaid,
            kind: Kind::Submitted,
        }
    }
}
