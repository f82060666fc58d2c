//! Finding the next hop of a domain: routes, MX and address look-ups, sites, and the cache of delivery plans.
//!
//! [`Planner::plan`] gives a [`Plan`] that is good for its TTL; [`Planner::cached`] is the hot path. `finder` decides,
//! `lookup` asks hickory, `mx` is what an answer means, `network` what may be dialled, `cache` remembers.

mod addresses;
mod cache;
mod finder;
mod https;
mod lookup;
mod mx;
pub mod network;
mod planner;
pub mod reverse;
pub mod roots;
mod secure;
pub mod security;
pub mod settings;
pub mod sts;
mod sts_fetch;
mod sts_store;
mod text_records;
mod validate;

use std::sync::Arc;
use std::time::Instant;

pub use addresses::Addresses;
pub use mx::MOST_ADDRESSES;
pub use planner::Planner;
pub use roots::Roots;
pub use security::Security;
pub use settings::{Dnssec, Families, Host, Keeper, NextHop, Route, Settings, StsSettings, TlsRule};
pub use text_records::TextRecords;

use crate::provider::MapError;
use crate::provider::pattern::PatternError;
use crate::smtp::status::Status;

/// Why no planner could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No resolver is configured, or `/etc/resolv.conf` cannot be read.
    #[error("resolver: {0}")]
    Resolver(String),
    /// Answers cannot be validated as configured.
    #[error("dnssec: {0}")]
    Dnssec(String),
    /// A domain pattern of a route or TLS rule cannot be used.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The built-in provider map cannot be used.
    #[error(transparent)]
    Providers(#[from] MapError),
}

/// How a domain's mail goes out.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The recipient domain, lower case.
    pub domain: Arc<str>,
    /// The provider's name, else the MX set, else the domain: what limits apply to.
    pub site: Arc<str>,
    /// What `site` would be if no rule of limits named the domain: what is said about that holds where its own rules are
    /// silent. None: none does.
    pub parent: Option<Arc<Parent>>,
    /// The MX hosts' names, lower case, sorted, joined by a comma: connections are shared within it.
    pub mx_set: Arc<str>,
    /// In order of preference; equal preferences are shuffled for each connection.
    pub hosts: Box<[MxHost]>,
    /// TCP port.
    pub port: u16,
    /// What is done with the mail.
    pub transport: Transport,
    /// What the operator says of TLS.
    pub tls: TlsPolicy,
    /// What is known of it besides; none: nothing, as of most domains.
    pub security: Option<Arc<Security>>,
    /// How far the MX hosts' names can be trusted.
    pub mx_proof: MxProof,
    /// When this must be asked again.
    pub valid_until: Instant,
}

/// The site of a domain without its rule. Behind a thin pointer: hardly any plan has one, and all of them are remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent(pub Arc<str>);

/// What is done with a domain's mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Delivered by SMTP to the domain's own hosts.
    Smtp,
    /// Delivered by SMTP to a next hop that the operator has chosen: its limits are nobody's guess until it refuses.
    Relay,
    /// Counted as delivered and dropped; for tests of senders.
    Discard,
}

/// How far the names of MX hosts can be trusted, beside what an MTA-STS policy says of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MxProof {
    /// An attacker may have named them.
    #[default]
    None,
    /// The same; but an MTA-STS policy that might name them is announced and cannot be had now.
    Pending,
    /// Their MX records are signed, or the operator has named them.
    Known,
}

/// TLS towards a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsPolicy {
    /// STARTTLS when offered, without verification; clear text when it fails (RFC 7435).
    #[default]
    Opportunistic,
    /// Never.
    None,
    /// Always, whoever the receiver is.
    Required,
    /// Always, with a certificate of a trusted authority.
    Verified,
    /// Always, with a certificate that TLSA records name (RFC 7672).
    Dane,
    /// Always, as the domain's MTA-STS policy says (RFC 8461).
    MtaSts,
}

impl TlsPolicy {
    /// As the configuration spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opportunistic => "opportunistic",
            Self::None => "none",
            Self::Required => "required",
            Self::Verified => "verified",
            Self::Dane => "dane",
            Self::MtaSts => "mta-sts",
        }
    }

    /// Whether TLSA records matter under it.
    const fn may_be_dane(self) -> bool {
        matches!(self, Self::Opportunistic | Self::Required | Self::Dane)
    }

    /// Whether it matters under it that MX records are secure: also that a certificate is for a name that DNS has given.
    const fn validates(self) -> bool {
        self.may_be_dane() || matches!(self, Self::Verified)
    }

    /// Whether MTA-STS policies matter under it.
    const fn may_be_sts(self) -> bool {
        matches!(self, Self::Opportunistic | Self::Required | Self::MtaSts)
    }
}

/// One MX host with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxHost {
    /// Its name, lower case, without the final dot.
    pub name: Arc<str>,
    /// MX preference; lower is tried first.
    pub preference: u16,
    /// IPv6 and IPv4 addresses; at most 20 in a plan altogether.
    pub addresses: Addresses,
}

/// Why there is no next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanFailure {
    /// Class 4: try again later; class 5: bounce.
    pub status: Status,
    /// For people.
    pub text: Box<str>,
    /// When this must be asked again.
    pub valid_until: Instant,
}

/// What is known about a domain: a plan, or why there is none.
pub type Planned = Result<Arc<Plan>, Arc<PlanFailure>>;
