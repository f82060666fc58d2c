//! An order: what an operator wants done with which queued mail, for how long, and why.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::message::{Lane, MessageId};
use crate::smtp::address::Address;
use crate::unseen::is_unseen;

/// Identifies an order within one spool, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(pub u32);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Not tried. Ages on: expires, and reports delays.
    Suspend,
    /// Not tried, and does not expire while it is held.
    Hold,
    /// Tried from another egress source.
    Move {
        /// Its name in the configuration.
        source: Box<str>,
    },
    /// Given up without a DSN.
    Delete,
    /// Given up with a DSN where one is wanted.
    Bounce,
}

impl Action {
    /// As tables, metrics and the journal show it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Hold => "hold",
            Self::Move { .. } => "move",
            Self::Delete => "delete",
            Self::Bounce => "bounce",
        }
    }

    /// Whether it ends recipients for good.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Delete | Self::Bounce)
    }
}

/// Which recipients: all of what is given must be so; nothing given: every recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Domain of the forward-path, or `*.suffix` for those below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Box<str>>,
    /// Site: a provider's name, an MX set or a domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<Box<str>>,
    /// Tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Box<str>>,
    /// Campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign: Option<Box<str>>,
    /// `urgent`, `normal` or `bulk`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<Box<str>>,
    /// Egress source: the one that it would be tried from, or was tried from the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Box<str>>,
    /// Reverse-path: an address, `@domain`, or `<>` for the null one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<Box<str>>,
    /// Forward-path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<Box<str>>,
    /// Message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Box<str>>,
}

/// What is wrong with a selection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// A value is empty, too long, or has control characters.
    #[error(
        "{key}: a value has 1 to {LONGEST_VALUE} characters, none of them a control character or one that is not seen"
    )]
    Value {
        /// Which one.
        key: &'static str,
    },
    /// No domain.
    #[error("domain: {0:?} is neither a domain nor `*.` and a domain for those below it")]
    Domain(Box<str>),
    /// No such lane.
    #[error("lane: {0:?} is not one of urgent, normal, bulk")]
    Lane(Box<str>),
    /// Neither an address nor a domain.
    #[error("sender: {0:?} is neither an address, nor @domain, nor <> for the null reverse-path")]
    Sender(Box<str>),
    /// No address.
    #[error("recipient: {0:?} is not an address")]
    Recipient(Box<str>),
    /// No message id.
    #[error("message: {0}")]
    Message(#[from] crate::message::id::MessageIdError),
}

/// Longest value of a selection, in characters: an address has at most 320 (RFC 5321, 4.5.3.1), an MX set may be longer.
const LONGEST_VALUE: usize = 1_024;

impl Selection {
    /// Its values with their names, in the order in which people read them.
    pub fn values(&self) -> [(&'static str, Option<&str>); 9] {
        [
            ("domain", self.domain.as_deref()),
            ("site", self.site.as_deref()),
            ("tenant", self.tenant.as_deref()),
            ("campaign", self.campaign.as_deref()),
            ("lane", self.lane.as_deref()),
            ("source", self.source.as_deref()),
            ("sender", self.sender.as_deref()),
            ("recipient", self.recipient.as_deref()),
            ("message", self.message.as_deref()),
        ]
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.values().iter().all(|(_, value)| value.is_none())
    }

    /// Brings it into its one form (domains in lower case), or says what is wrong with it.
    pub fn checked(mut self) -> Result<Self, SelectionError> {
        for (key, value) in self.values() {
            let Some(value) = value else { continue };
            let has_length = (1..=LONGEST_VALUE).contains(&value.chars().count());
            // Addresses may have joiners within them (RFC 5892, appendix A).
            let is_hidden = |c| is_unseen(c) && !matches!(c, '\u{200c}' | '\u{200d}');
            if !has_length || value.chars().any(is_hidden) {
                return Err(SelectionError::Value { key });
            }
        }
        if let Some(domain) = &mut self.domain {
            let (below, name) = domain.strip_prefix("*.").map_or(("", &**domain), |name| ("*.", name));
            let name = domain_form(name).ok_or_else(|| SelectionError::Domain(domain.clone()))?;
            *domain = format!("{below}{name}").into();
        }
        if let Some(lane) = &self.lane
            && Lane::parse(lane).is_none()
        {
            return Err(SelectionError::Lane(lane.clone()));
        }
        if let Some(sender) = &mut self.sender {
            *sender = sender_form(sender).ok_or_else(|| SelectionError::Sender(sender.clone()))?;
        }
        if let Some(recipient) = &mut self.recipient {
            *recipient = address_form(recipient).ok_or_else(|| SelectionError::Recipient(recipient.clone()))?;
        }
        if let Some(message) = &self.message {
            message.parse::<MessageId>()?;
        }
        Ok(self)
    }
}

fn sender_form(sender: &str) -> Option<Box<str>> {
    if sender == "<>" {
        return Some(sender.into());
    }
    match sender.strip_prefix('@') {
        Some(domain) => domain_form(domain).map(|domain| format!("@{domain}").into()),
        None => address_form(sender),
    }
}

/// In lower case and without the dot of the root; none if it cannot be a domain. An address literal can.
fn domain_form(domain: &str) -> Option<String> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let is_plain = !domain.contains(['@', '<', '>', '*']) && !domain.contains(char::is_whitespace);
    (is_plain && domain.split('.').all(|label| !label.is_empty())).then(|| domain.to_lowercase())
}

/// An address, in angle brackets or without.
fn address_form(address: &str) -> Option<Box<str>> {
    Address::of_path(address).ok().map(|address| address.as_str().into())
}

impl fmt::Display for Selection {
    /// `domain=x.test tenant=shop`; `everything`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut is_first = true;
        for (key, value) in self.values() {
            let Some(value) = value else { continue };
            let space = if std::mem::take(&mut is_first) { "" } else { " " };
            write!(f, "{space}{key}={value}")?;
        }
        if is_first { f.write_str("everything") } else { Ok(()) }
    }
}

/// An order that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Its identity.
    pub id: OrderId,
    /// What is done.
    pub action: Action,
    /// With which recipients.
    pub selection: Selection,
    /// Only with messages whose identity is less. Absent: also with those that come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<MessageId>,
    /// What older state files have in its place: a time of acceptance in seconds since 1970. Read, never written anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_until: Option<u32>,
    /// Why, in the operator's words.
    pub reason: Box<str>,
    /// Who gave it.
    pub by: Box<str>,
    /// When, in seconds since 1970.
    pub placed_at: u32,
    /// When it ends by itself, in seconds since 1970. Absent: when it is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u32>,
}

impl Order {
    /// Whether it is about what was accepted before it, and is done when that has ended.
    pub fn is_once(&self) -> bool {
        self.before.is_some() || self.accepted_until.is_some()
    }

    /// Whether a message of this identity may have come early enough for it.
    pub fn has_bound_above(&self, id: MessageId) -> bool {
        self.before.is_none_or(|before| id < before)
    }

    /// Whether a message came early enough for it.
    pub fn is_for(&self, id: MessageId, accepted: UnixTime) -> bool {
        // Of the same second as an old order may be later than it: rather too little is ended than too much.
        self.has_bound_above(id) && self.accepted_until.is_none_or(|until| accepted.0 < until)
    }

    /// Whether its time is over.
    pub fn is_over(&self, now: UnixTime) -> bool {
        // Times are whole seconds, rounded down: an order stands at least as long as was asked for.
        self.until.is_some_and(|until| until < now.0)
    }

    /// How long it still stands; none: until it is undone.
    pub fn left(&self, now: UnixTime) -> Option<Duration> {
        self.until.map(|until| UnixTime(until).since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(json: serde_json::Value) -> Result<Selection, SelectionError> {
        serde_json::from_value::<Selection>(json).unwrap().checked()
    }

    #[test]
    fn a_selection_has_one_form_and_reads_well() {
        let selection = serde_json::json!({"sender": "@News.Example", "domain": "X.Test.", "lane": "bulk"});

        let selection = select(selection).unwrap();

        assert_eq!(selection.to_string(), "domain=x.test lane=bulk sender=@news.example");
        assert_eq!(Selection::default().to_string(), "everything");
        assert!(Selection::default().is_everything() && !selection.is_everything());
    }

    #[test]
    fn what_can_select_nothing_is_refused_with_its_key() {
        let wrong = [
            (serde_json::json!({"tenant": ""}), "tenant"),
            (serde_json::json!({"campaign": "a\nb"}), "campaign"),
            (serde_json::json!({"lane": "slow"}), "lane"),
            (serde_json::json!({"sender": "nobody"}), "sender"),
            (serde_json::json!({"sender": "@"}), "sender"),
            (serde_json::json!({"recipient": "a b"}), "recipient"),
            (serde_json::json!({"message": "7"}), "message"),
        ];

        for (json, key) in wrong {
            let error = select(json).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
        assert!(serde_json::from_value::<Selection>(serde_json::json!({"colour": "red"})).is_err());
    }

    #[test]
    fn the_null_reverse_path_and_addresses_can_be_selected() {
        for (given, form) in [("<>", "<>"), ("<a@x.test>", "a@x.test"), ("a@x.test", "a@x.test")] {
            let selection = select(serde_json::json!({"sender": given})).unwrap();
            assert_eq!(selection.sender.as_deref(), Some(form));
        }
        for given in ["<a@x.test>", "a@X.Test"] {
            let selection = select(serde_json::json!({"recipient": given})).unwrap();
            assert_eq!(selection.recipient.as_deref(), Some("a@x.test"));
        }
        for (key, wrong) in [("sender", "<a@x.test"), ("sender", "<<a@x.test>>"), ("recipient", "a@x.test>")] {
            assert!(select(serde_json::json!({key: wrong})).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_domain_is_one_name_or_those_below_a_name_and_never_everything() {
        let right =
            [("x.test.", "x.test"), ("*.X.test", "*.x.test"), ("*.test.", "*.test"), ("[192.0.2.1]", "[192.0.2.1]")];
        for (given, form) in right {
            assert_eq!(select(serde_json::json!({"domain": given})).unwrap().domain.as_deref(), Some(form));
        }
        for wrong in
            ["*.", "*", ".", "..", "*..", "*test", "*.*.test", "a.*", "x..test", ".x.test", "x test", "a@x.test"]
        {
            let error = select(serde_json::json!({"domain": wrong})).unwrap_err();
            assert!(error.to_string().starts_with("domain: "), "{wrong}: {error}");
            assert!(select(serde_json::json!({"sender": format!("@{wrong}")})).is_err(), "@{wrong}");
        }
    }
}
