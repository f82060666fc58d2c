//! An entry: who gets no mail, of whom, why and until when; and its form in the log.

use std::fmt;

use crate::clock::UnixTime;
use crate::log::record::{Builder, Frame};
use crate::smtp::address::{Address, AddressError};
use crate::unseen::is_unseen;

use super::brief::{Brief, to_the_minute};
use super::hash::MailboxHash;

/// Longest name of a tenant or of a class, in octets.
const LONGEST_NAME: usize = 64;
/// Longest id of a source event, in octets: a Message-ID (RFC 5322, 2.1.1) fits.
const LONGEST_SOURCE: usize = 998;

/// Kinds of records.
pub const ADD: u8 = 1;
/// See [`ADD`].
pub const REMOVE: u8 = 2;

/// Tags of fields.
const TARGET: u64 = 1;
const TENANT: u64 = 2;
const CLASS: u64 = 3;
const REASON: u64 = 4;
const SOURCE: u64 = 5;
const ADDED: u64 = 6;
const UNTIL: u64 = 7;

/// Why somebody gets no mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A receiver said for good that there is no such mailbox or domain.
    HardBounce,
    /// A mailbox that was full again and again.
    MailboxFull,
    /// The recipient complained.
    Complaint,
    /// The recipient wants no more of it.
    Unsubscribe,
    /// An operator says so.
    Operator,
    /// It was on a list that was imported.
    Import,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::HardBounce, Self::MailboxFull, Self::Complaint, Self::Unsubscribe, Self::Operator, Self::Import];

    /// As tables and lists show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HardBounce => "hard-bounce",
            Self::MailboxFull => "mailbox-full",
            Self::Complaint => "complaint",
            Self::Unsubscribe => "unsubscribe",
            Self::Operator => "operator",
            Self::Import => "import",
        }
    }

    /// The reason that is written so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// As it is stored; never 0.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::HardBounce => 1,
            Self::MailboxFull => 2,
            Self::Complaint => 3,
            Self::Unsubscribe => 4,
            Self::Operator => 5,
            Self::Import => 6,
        }
    }

    pub(super) fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// Which of two is kept that are over at the same time: what people said themselves before what was observed.
    pub(super) const fn weight(self) -> u8 {
        match self {
            Self::Import => 0,
            Self::MailboxFull => 1,
            Self::HardBounce => 2,
            Self::Operator => 3,
            Self::Complaint => 4,
            Self::Unsubscribe => 5,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far an entry reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extent {
    /// Mail of all tenants.
    Global,
    /// Mail of one tenant.
    Tenant,
    /// Mail of one class of a tenant's campaigns.
    Class,
}

impl Extent {
    /// As tables show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Tenant => "tenant",
            Self::Class => "class",
        }
    }
}

/// What sort of entry it is: how far it reaches, and whether it is about a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reach {
    /// Of whose mail.
    pub extent: Extent,
    /// About every mailbox of a domain.
    pub is_domain: bool,
}

impl Reach {
    /// All of them, in the order in which a look-up asks.
    pub const ALL: [Self; 6] = [
        Self { extent: Extent::Global, is_domain: false },
        Self { extent: Extent::Tenant, is_domain: false },
        Self { extent: Extent::Class, is_domain: false },
        Self { extent: Extent::Global, is_domain: true },
        Self { extent: Extent::Tenant, is_domain: true },
        Self { extent: Extent::Class, is_domain: true },
    ];

    /// Two bits of extent, and one of the domain.
    pub(super) const fn code(self) -> u8 {
        let extent = match self.extent {
            Extent::Global => 0,
            Extent::Tenant => 1,
            Extent::Class => 2,
        };
        extent | (self.is_domain as u8) << 2
    }

    pub(super) fn of_code(code: u8) -> Self {
        let extent = match code & 3 {
            0 => Extent::Global,
            1 => Extent::Tenant,
            _ => Extent::Class,
        };
        Self { extent, is_domain: code & 4 != 0 }
    }

    /// A bit of its own.
    pub(super) const fn bit(self) -> u8 {
        1 << self.code()
    }
}

/// Of whose mail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All tenants'.
    Global,
    /// One tenant's.
    Tenant(Box<str>),
    /// That of one class of a tenant's campaigns.
    Class {
        /// The tenant.
        tenant: Box<str>,
        /// What its campaigns of this sort are called.
        class: Box<str>,
    },
}

impl Scope {
    /// The scope of a tenant and a class, which messages have in lower case; empty: none.
    pub fn of(tenant: &str, class: &str) -> Option<Self> {
        let [tenant, class] = [tenant, class].map(|name| name.to_ascii_lowercase().into_boxed_str());
        match (&*tenant, &*class) {
            ("", "") => Some(Self::Global),
            ("", _) => None,
            (_, "") => Some(Self::Tenant(tenant)),
            _ => Some(Self::Class { tenant, class }),
        }
    }

    /// The tenant and the class; empty: none.
    pub fn names(&self) -> (&str, &str) {
        match self {
            Self::Global => ("", ""),
            Self::Tenant(tenant) => (tenant, ""),
            Self::Class { tenant, class } => (tenant, class),
        }
    }

    fn extent(&self) -> Extent {
        match self {
            Self::Global => Extent::Global,
            Self::Tenant(_) => Extent::Tenant,
            Self::Class { .. } => Extent::Class,
        }
    }
}

/// Who gets no mail.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One mailbox.
    Address(Address),
    /// One mailbox of which only the hash is known, as [`Suppression::hash`](super::Suppression::hash) gave it out. It means nothing
    /// under another key.
    Hash(MailboxHash),
    /// Every mailbox of exactly this domain, in lower case; not of those below it.
    Domain(Box<str>),
}

impl Target {
    /// The hash of a mailbox of which nothing else is known.
    pub fn mailbox(&self) -> Option<MailboxHash> {
        if let Self::Hash(mailbox) = self { Some(*mailbox) } else { None }
    }
}

impl std::str::FromStr for Target {
    type Err = TargetError;

    /// A mailbox, a domain with or without `@` before it, or `#` and a hash.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Some(hash) = text.strip_prefix('#').and_then(MailboxHash::parse) {
            return Ok(Self::Hash(hash));
        }
        let domain = text.strip_prefix('@').unwrap_or(text);
        if domain.contains('@') {
            let address: Address = text.parse()?;
            return if address.local_part() == "*" { Err(TargetError::Wildcard) } else { Ok(Self::Address(address)) };
        }
        let address: Address = format!("x@{domain}").parse()?;
        if !address.domain().contains('.') {
            return Err(TargetError::Label);
        }
        Ok(Self::Domain(address.domain().into()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Hash(hash) => write!(f, "#{hash}"),
            Self::Domain(domain) => write!(f, "@{domain}"),
        }
    }
}

/// Why a text is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It has no mailbox's form.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// One label is rather a heading, or a mailbox without its domain.
    #[error("there is no dot in it")]
    Label,
    /// `*` is a mailbox like others (RFC 5321, 4.1.2), and hardly what is meant.
    #[error("every mailbox of a domain is written as the domain alone")]
    Wildcard,
}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// No name that a message can have: it would be against nobody's mail.
    #[error("{0}: 1 to {LONGEST_NAME} of a-z, 0-9, '.', '_', '-'")]
    Name(&'static str),
    /// A source that cannot be shown.
    #[error(
        "source: at most {LONGEST_SOURCE} octets, no control character or one that is not seen, no space at the ends"
    )]
    Source,
}

/// Who gets no mail, of whom, why, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who.
    pub target: Target,
    /// Of whom.
    pub scope: Scope,
    /// Why.
    pub reason: Reason,
    /// The event or the person that it comes from; empty: unknown.
    pub source: Box<str>,
    /// Since when.
    pub added: UnixTime,
    /// Until when, rounded up to a full minute; `None`: for ever.
    pub until: Option<UnixTime>,
}

/// Whether a text can be shown, and stays as it is in a line.
fn is_plain(text: &str) -> bool {
    text.trim() == text && !text.chars().any(is_unseen)
}

fn check_name(name: &'static str, text: &str) -> Result<(), EntryError> {
    let is_plain = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"._-".contains(&octet);
    let is_right = (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(is_plain);
    is_right.then_some(()).ok_or(EntryError::Name(name))
}

impl Scope {
    /// Whether its names can be kept.
    pub fn check(&self) -> Result<(), EntryError> {
        match self {
            Self::Global => Ok(()),
            Self::Tenant(tenant) => check_name("tenant", tenant),
            Self::Class { tenant, class } => check_name("tenant", tenant).and_then(|()| check_name("class", class)),
        }
    }
}

impl Entry {
    /// Whether it can be kept.
    pub fn check(&self) -> Result<(), EntryError> {
        self.scope.check()?;
        let is_right = self.source.len() <= LONGEST_SOURCE && is_plain(&self.source);
        is_right.then_some(()).ok_or(EntryError::Source)
    }

    /// What the index holds of it.
    pub(super) fn brief(&self) -> Brief {
        Brief::new(Some(self.reason), reach(&self.target, &self.scope), self.until)
    }
}

/// What sort of entry this would be.
pub(super) fn reach(target: &Target, scope: &Scope) -> Reach {
    Reach { extent: scope.extent(), is_domain: matches!(target, Target::Domain(_)) }
}

/// What a record of the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// From here on this stands.
    Add(Entry),
    /// From here on nothing stands.
    Remove {
        /// About whom.
        target: Target,
        /// Of whom.
        scope: Scope,
    },
}

impl Change {
    /// What it is about.
    pub fn subject(&self) -> (&Target, &Scope) {
        match self {
            Self::Add(Entry { target, scope, .. }) | Self::Remove { target, scope } => (target, scope),
        }
    }

    /// Whether it can be kept.
    pub fn check(&self) -> Result<(), EntryError> {
        match self {
            Self::Add(entry) => entry.check(),
            Self::Remove { scope, .. } => scope.check(),
        }
    }

    /// What the index is to hold, without the place.
    pub(super) fn brief(&self) -> Brief {
        match self {
            Self::Add(entry) => entry.brief(),
            Self::Remove { target, scope } => Brief::new(None, reach(target, scope), None),
        }
    }

    /// Appends it as a record that is not sealed yet.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let (target, scope) = self.subject();
        let mut builder = Builder::new(out, if matches!(self, Self::Add(_)) { ADD } else { REMOVE });
        match target {
            Target::Address(address) => builder.field(TARGET, address.as_str().as_bytes()),
            Target::Hash(_) | Target::Domain(_) => builder.field(TARGET, target.to_string().as_bytes()),
        }
        for (tag, name) in [(TENANT, scope.names().0), (CLASS, scope.names().1)] {
            if !name.is_empty() {
                builder.field(tag, name.as_bytes());
            }
        }
        if let Self::Add(Entry { reason, source, added, until, .. }) = self {
            builder.field(REASON, &[reason.code()]);
            if !source.is_empty() {
                builder.field(SOURCE, source.as_bytes());
            }
            builder.field(ADDED, &added.0.to_le_bytes());
            if let Some(until) = until {
                builder.field(UNTIL, &to_the_minute(*until).0.to_le_bytes());
            }
        }
        builder.finish();
    }

    /// Reads a record; `None` if this version does not understand it.
    pub(super) fn decode(frame: &Frame<'_>) -> Option<Self> {
        let text = |tag| frame.fields().find(tag).map_or(Some(""), |value| std::str::from_utf8(value).ok());
        let time = |tag| match frame.fields().find(tag) {
            None => Some(None),
            Some(value) => Some(Some(UnixTime(u32::from_le_bytes(value.try_into().ok()?)))),
        };
        let target = text(TARGET)?.parse().ok()?;
        let scope = Scope::of(text(TENANT)?, text(CLASS)?)?;
        match frame.kind() {
            ADD => Some(Self::Add(Entry {
                target,
                scope,
                reason: Reason::of_code(*frame.fields().find(REASON)?.first()?)?,
                source: text(SOURCE)?.into(),
                added: time(ADDED)??,
                until: time(UNTIL)?,
            })),
            REMOVE => Some(Self::Remove { target, scope }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::log::record::{Seal, seal};

    use super::*;

    #[test]
    fn records_come_back_as_they_were() {
        let entry = Entry {
            target: "Ann@Example.com".parse().unwrap(),
            scope: Scope::of("shop", "news").unwrap(),
            reason: Reason::MailboxFull,
            source: "<a@b>".into(),
            added: UnixTime(7),
            until: Some(UnixTime(120)),
        };
        let bare = Entry { scope: Scope::Global, source: "".into(), until: None, ..entry.clone() };
        let domain: Target = "@Bücher.example".parse().unwrap();
        let hashed = Entry { target: "#abcdefghijklmn67".parse().unwrap(), ..entry.clone() };
        let changes = [
            Change::Add(entry),
            Change::Add(hashed),
            Change::Add(bare),
            Change::Remove { target: domain, scope: Scope::Tenant("shop".into()) },
        ];

        for change in changes {
            let mut out = Vec::new();
            change.encode(&mut out);
            seal(&mut out, Seal { salt: 1 }, 8);
            let frame = Frame::read(&out, Seal { salt: 1 }, 8).unwrap();
            assert_eq!(Change::decode(&frame), Some(change));
        }
    }

    #[test]
    fn targets_are_mailboxes_or_domains_and_nothing_else() {
        for (text, shown) in [
            ("Ann@Example.com", "Ann@example.com"),
            ("@Example.com.", "@example.com"),
            ("example.com", "@example.com"),
            ("\"a@b\"@example.com", "\"a@b\"@example.com"),
            ("#ABCDEFGHIJKLMN67", "#abcdefghijklmn67"),
            ("#abcdefghijklmn67@example.com", "#abcdefghijklmn67@example.com"),
        ] {
            assert_eq!(text.parse::<Target>().map(|target| target.to_string()).as_deref(), Ok(shown));
        }
        for text in [
            "",
            "@",
            "#abcdefghijklmn",
            "#abcdefghijklmn01",
            "a b",
            "ann@",
            "@@example.com",
            "exa mple.com",
            "a@b@",
            "ann@exa\u{202e}mple.com",
            "Email",
            "*@example.com",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_of_no_message_and_sources_that_cannot_be_shown_are_refused() {
        let entry = |tenant: &str, source: &str| Entry {
            target: "example.com".parse().unwrap(),
            scope: Scope::Tenant(tenant.into()),
            reason: Reason::Operator,
            source: source.into(),
            added: UnixTime(0),
            until: Some(UnixTime(61)),
        };

        assert_eq!(entry("shop", "ops").check(), Ok(()));
        assert_eq!(Scope::of("Shop", "News").unwrap().names(), ("shop", "news"));
        for tenant in ["", "a\nb", " shop", "a\u{202e}b", "Shop", "bad name", "\u{e9}", &"x".repeat(65)] {
            assert_eq!(entry(tenant, "ops").check(), Err(EntryError::Name("tenant")), "{tenant:?}");
        }
        for source in ["\u{1b}[2J", "ops ", "a\tb"] {
            assert_eq!(entry("shop", source).check(), Err(EntryError::Source), "{source:?}");
        }
    }
}
