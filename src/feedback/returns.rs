//! The reverse-paths to which what is about one recipient comes back (VERP), and what comes in to them.
//!
//! `b+TOKEN@bounce-domain`, by [`Token`]: whoever answers to it has had the message, and nobody else can make one.

use crate::bounce::token::{Purpose, Token, TokenError, day_of};
use crate::clock::UnixTime;
use crate::message::{Envelope, Kind, MessageId};
use crate::smtp::address::{Address, ReversePath};

use super::Feedback;
use super::policy::{Policy, TenantPolicy};

/// What the local-part of a reverse-path begins with.
const BOUNCE: &str = "b+";
/// What that of an address by which one wants no more begins with.
const UNSUBSCRIBE: &str = "u+";
/// RFC 5321, 4.5.1.
const POSTMASTER: &str = "postmaster";

/// An address of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// What comes here is about one recipient.
    About {
        /// For what it was given out.
        purpose: Purpose,
        /// What it says.
        token: Token,
        /// Whose mail it was.
        tenant: Box<str>,
    },
    /// Any report.
    Reports,
    /// For people.
    Postmaster,
}

/// Why an address takes no mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOurs {
    /// We take no mail for its domain.
    Relay,
    /// There is no such mailbox.
    Unknown,
    /// Its token is not ours.
    Forged,
    /// Its token's time is over.
    Stale,
}

impl Feedback {
    /// Where what is about this recipient is to come back, if its tenant has it come to us.
    pub fn reverse_path(&self, id: MessageId, envelope: &Envelope, recipient: &Address) -> Option<ReversePath> {
        if envelope.kind != Kind::Submitted || envelope.reverse_path.is_null() {
            return None;
        }
        let policy = self.shared.policy.load();
        let domain = policy.bounce_domain(&envelope.tenant)?;
        let token = self.token(id, envelope, recipient).write(Purpose::ReversePath, b"", &|octets| self.seal(octets));
        format!("{BOUNCE}{token}@{domain}").parse().ok().map(ReversePath::Mailbox)
    }

    /// Whether what is about a message's recipients comes back to us, so that each is sent to by itself.
    pub fn is_returned(&self, envelope: &Envelope) -> bool {
        envelope.kind == Kind::Submitted
            && !envelope.reverse_path.is_null()
            && self.shared.policy.load().bounce_domain(&envelope.tenant).is_some()
    }

    /// What is to come back about a recipient. Its day is that of the acceptance, so that a reverse-path stays the same from one
    /// attempt to the next: greylisting keys on it.
    pub fn token(&self, message: MessageId, envelope: &Envelope, recipient: &Address) -> Token {
        let list = self.list();
        let (mailbox, tenant) = (list.hash(recipient).0, list.tenant_tag(&envelope.tenant));
        Token { message, mailbox, tenant, day: day_of(envelope.accepted_at) }
    }

    /// The code of a token.
    pub fn seal(&self, octets: &[u8]) -> u128 {
        self.list().seal(octets)
    }

    /// What an address is that mail comes in for.
    pub fn place(&self, address: &Address, now: UnixTime) -> Result<Place, NotOurs> {
        let policy = self.shared.policy.load();
        let domain = address.domain();
        let is_feedback = policy.feedback_domains.iter().any(|own| **own == *domain);
        if !is_feedback && !policy.has_bounce_domain(domain) {
            return Err(NotOurs::Relay);
        }
        let local = address.local_part();
        for (prefix, purpose) in [(BOUNCE, Purpose::ReversePath), (UNSUBSCRIBE, Purpose::Unsubscribe)] {
            if let Some(token) = strip(local, prefix) {
                return self.about(token, purpose, &policy, now);
            }
        }
        match local {
            local if local.eq_ignore_ascii_case(POSTMASTER) && policy.postmaster.is_some() => Ok(Place::Postmaster),
            _ if is_feedback => Ok(Place::Reports),
            _ => Err(NotOurs::Unknown),
        }
    }

    fn about(&self, text: &str, purpose: Purpose, policy: &Policy, now: UnixTime) -> Result<Place, NotOurs> {
        let token = self.read_token(text, purpose).map_err(|error| match error {
            TokenError::Form => NotOurs::Unknown,
            TokenError::Forged => NotOurs::Forged,
            TokenError::Stale => NotOurs::Stale,
        })?;
        let days = match purpose {
            Purpose::ReversePath => policy.token_days,
            Purpose::Unsubscribe => policy.unsubscribe_days,
        };
        token.check_age(now, days).map_err(|_| NotOurs::Stale)?;
        // A tenant that is configured no more: nobody knows whose mail it was.
        let tenant = self.tenant_of(&token, purpose, policy).ok_or(NotOurs::Stale)?;
        Ok(Place::About { purpose, token, tenant })
    }

    fn read_token(&self, text: &str, purpose: Purpose) -> Result<Token, TokenError> {
        Token::read(text, purpose, b"", &|octets| self.seal(octets))
    }

    fn tenant_of(&self, token: &Token, purpose: Purpose, policy: &Policy) -> Option<Box<str>> {
        // Others than those whose mail comes back here only have links.
        let is_asked = |tenant: &TenantPolicy| purpose == Purpose::Unsubscribe || tenant.bounce_domain.is_some();
        let mut names = policy.tenants.iter().filter(|(_, tenant)| is_asked(tenant)).map(|(name, _)| name);
        names.find(|name| self.list().tenant_tag(name) == token.tenant).cloned()
    }

    /// The first reverse-path of ours in a text: what a report quotes of the message.
    pub fn find_token(&self, text: &[u8], now: UnixTime) -> Option<Place> {
        let policy = self.shared.policy.load();
        memchr::memmem::find_iter(text, BOUNCE.as_bytes()).find_map(|at| {
            let token = text.get(at + BOUNCE.len()..)?.get(..crate::bounce::token::LENGTH)?;
            self.about(std::str::from_utf8(token).ok()?, Purpose::ReversePath, &policy, now).ok()
        })
    }
}

fn strip<'a>(local: &'a str, prefix: &str) -> Option<&'a str> {
    let (begin, rest) = local.split_at_checked(prefix.len())?;
    begin.eq_ignore_ascii_case(prefix).then_some(rest)
}

impl Policy {
    fn has_bounce_domain(&self, domain: &str) -> bool {
        self.tenants.values().any(|tenant| tenant.bounce_domain.as_deref() == Some(domain))
    }
}
