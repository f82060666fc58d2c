//! The link of a message: what it says, the header fields that carry it, and how it is read again.
//!
//! ```text
//! List-Unsubscribe: <https://unsubscribe.example.com/u/TOKEN-CLASS>,
//!  <mailto:u+TOKEN@in.example.com?subject=unsubscribe>
//! List-Unsubscribe-Post: List-Unsubscribe=One-Click
//! ```
//!
//! TOKEN is a [`Token`] for [`Purpose::Unsubscribe`]. Its code holds the class, too, whose name stands behind it in clear: nobody
//! has to remember which classes there were. It is absent where all of the tenant's mail is meant, as it always is in the
//! address, which has no room for it. Whatever case a link comes back in it is the same.

use std::collections::HashMap;
use std::time::Duration;

use super::page::About;
use crate::bounce::token::{Purpose, Token, TokenError, day_of};
use crate::clock::UnixTime;
use crate::config::units::Network;
use crate::message::{Envelope, Kind, Lane, MessageId};
use crate::state::suppression::{MailboxHash, Scope, Suppression};

/// What stands between the base and the token, and before the token in an address.
const PLACE: &str = "u/";
/// See [`PLACE`].
const MAILBOX: &str = "u+";
/// The field, as far as its value.
const NAME: &str = "List-Unsubscribe:";
/// Octets that a line should have at most (RFC 5322, 2.1.1). A link is not folded: it is one word.
const LINE: usize = 78;
/// A day.
const DAY: u64 = 86_400;

/// How links are made and answered; made from the configuration by the daemon.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What links begin with: `https`, a host and a path with `/` at its end, in ASCII.
    pub url: Box<str>,
    /// How long a link holds, in whole days.
    pub max_age: Duration,
    /// Whose messages get links.
    pub tenants: Vec<Tenant>,
    /// From where X-Forwarded-For tells who the client is.
    pub proxy_networks: Vec<Network>,
}

/// A tenant whose messages get links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its name.
    pub name: Box<str>,
    /// A recipient is taken off the message's class, if it has one, and not off all of the tenant's mail.
    pub of_class: bool,
    /// What the page calls the sender; empty: nothing.
    pub sender: Box<str>,
    /// The domain of the address beside the link; empty: none is there.
    pub mailto: Box<str>,
}

/// Makes links and reads them.
#[derive(Debug)]
pub struct Links {
    pub(super) settings: Settings,
    /// What links begin with, without scheme and host.
    path: Box<str>,
    /// Has the key of hashes and codes. It is not asked, and not changed.
    list: Suppression,
    /// Places in the settings' tenants.
    by_name: HashMap<Box<str>, usize>,
    /// The same by what stands in a token; of two that are alike there by chance, the first.
    by_tag: HashMap<[u8; 3], usize>,
}

/// Whether a message was given a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It gets none: it is urgent, not what a client submits, or its tenant has no links.
    Off,
    /// It was given one.
    Added,
    /// It has its own field, and stays as it is.
    Own,
    /// It has several recipients: a link would be one of them's, and take him off for whoever clicks.
    Several,
}

impl Offer {
    /// Those that metrics tell.
    pub const TOLD: [Self; 3] = [Self::Added, Self::Own, Self::Several];

    /// As metrics call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Added => "added",
            Self::Own => "own",
            Self::Several => "several-recipients",
        }
    }
}

/// What a good link says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The message that it was in.
    pub message: MessageId,
    /// The day of its acceptance, since 1970.
    pub day: u16,
    /// Who wants no more.
    pub recipient: MailboxHash,
    /// Of what.
    pub scope: Scope,
    /// The same for people.
    pub about: About,
}

/// Why a link is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No link, one that we did not make, or one of a tenant that has links no more.
    Unknown,
    /// It was good.
    Expired,
}

impl Links {
    /// Links under the key of `list`.
    pub fn new(settings: Settings, list: Suppression) -> Self {
        let after_scheme = settings.url.split_once("://").map_or("", |(_, rest)| rest);
        let path = after_scheme.find('/').and_then(|at| after_scheme.get(at..)).unwrap_or("/").into();
        let tenants = || settings.tenants.iter().enumerate().rev();
        let by_name = tenants().map(|(at, tenant)| (tenant.name.clone(), at)).collect();
        let by_tag = tenants().map(|(at, tenant)| (list.tenant_tag(&tenant.name), at)).collect();
        Self { settings, path, list, by_name, by_tag }
    }

    /// Appends the fields to a header section that is being made, if the message gets a link; `has_own`: it has a List-Unsubscribe
    /// of its own.
    pub fn offer(&self, out: &mut Vec<u8>, envelope: &Envelope, id: MessageId, has_own: bool) -> Offer {
        let tenant = self.by_name.get(&envelope.tenant).and_then(|at| self.settings.tenants.get(*at));
        let is_mailing = envelope.kind == Kind::Submitted && envelope.lane != Lane::Urgent;
        let Some(tenant) = tenant.filter(|_| is_mailing) else { return Offer::Off };
        if has_own {
            return Offer::Own;
        }
        let [recipient] = envelope.recipients.as_slice() else { return Offer::Several };
        let token = Token {
            message: id,
            mailbox: self.list.hash(&recipient.forward_path).0,
            tenant: self.list.tenant_tag(&tenant.name),
            day: day_of(envelope.accepted_at),
        };
        let written =
            |class: &str| token.write(Purpose::Unsubscribe, class.as_bytes(), &|octets| self.list.seal(octets));
        let class = if tenant.of_class { &*envelope.class } else { "" };
        let (url, text, dash) = (&self.settings.url, written(class), if class.is_empty() { "" } else { "-" });
        let link = format!("<{url}{PLACE}{text}{dash}{class}>");
        // Only where that makes the line short enough: not everybody reads a first line that has but the name.
        let is_short_below = link.len() < LINE && NAME.len() + 1 + link.len() > LINE;
        let mut field = format!("{NAME}{}{link}", if is_short_below { "\r\n " } else { " " });
        if !tenant.mailto.is_empty() {
            field += &format!(",\r\n <mailto:{MAILBOX}{}@{}?subject=unsubscribe>", written(""), tenant.mailto);
        }
        field += "\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";
        out.extend_from_slice(field.as_bytes());
        Offer::Added
    }

    /// Reads the path of a request. A proxy may have taken the path of the base away, or not.
    pub fn read(&self, path: &str, now: UnixTime) -> Result<Claim, Fault> {
        let bases = [&*self.path, "/"].into_iter();
        let mut links = bases.filter_map(|base| strip(strip(path, base)?, PLACE));
        let link = links.next().ok_or(Fault::Unknown)?.to_ascii_lowercase();
        let (text, class) = link.split_once('-').unwrap_or((&link, ""));
        let seal = |octets: &[u8]| self.list.seal(octets);
        let token = Token::read(text, Purpose::Unsubscribe, class.as_bytes(), &seal).map_err(|_| Fault::Unknown)?;
        let tenant = self.by_tag.get(&token.tenant).and_then(|at| self.settings.tenants.get(*at));
        let tenant = tenant.ok_or(Fault::Unknown)?;
        let days = u16::try_from(self.settings.max_age.as_secs() / DAY).unwrap_or(u16::MAX);
        token.check_age(now, days).map_err(|error| match error {
            TokenError::Stale => Fault::Expired,
            TokenError::Form | TokenError::Forged => Fault::Unknown,
        })?;
        Ok(Claim {
            message: token.message,
            day: token.day,
            recipient: MailboxHash(token.mailbox),
            scope: Scope::of(&tenant.name, class).ok_or(Fault::Unknown)?,
            about: About { sender: tenant.sender.clone(), class: class.into() },
        })
    }
}

/// What follows a prefix, in any case.
fn strip<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (begin, rest) = text.split_at_checked(prefix.len())?;
    begin.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests;
