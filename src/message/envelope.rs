//! The envelope of a message (RFC 5321, 2.3.1) and what hikyaku keeps beside it.

use crate::clock::UnixTime;
use crate::smtp::address::{Address, ReversePath};

/// BODY= of RFC 6152. BINARYMIME is not offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyType {
    /// Declared or assumed to be ASCII.
    #[default]
    SevenBit,
    /// May hold octets over 127.
    EightBitMime,
}

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

/// Where a message came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Submitted by a client.
    #[default]
    Submitted,
    /// A delivery status notification of ours.
    Dsn,
}

/// RET= of RFC 3461, 4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// Return the whole message.
    Full,
    /// Return the header section only.
    Headers,
}

/// NOTIFY= of RFC 3461, 4.1, as bits. Default: failure and delay are at our discretion; we report failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify(pub u8);

impl Notify {
    /// No NOTIFY parameter was given.
    pub const UNSPECIFIED: Self = Self(0);
    /// NOTIFY=NEVER.
    pub const NEVER: Self = Self(1);
    /// NOTIFY includes SUCCESS.
    pub const SUCCESS: Self = Self(2);
    /// NOTIFY includes FAILURE.
    pub const FAILURE: Self = Self(4);
    /// NOTIFY includes DELAY.
    pub const DELAY: Self = Self(8);

    /// Whether all of `other`'s bits are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a failure is to be reported (RFC 3461, 4.1: FAILURE, or nothing said).
    pub fn wants_failure(self) -> bool {
        self == Self::UNSPECIFIED || self.has(Self::FAILURE)
    }
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
    /// Where it came from.
    pub kind: Kind,
}
