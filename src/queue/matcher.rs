//! A selection made ready to be asked about many entries.
//!
//! An entry holds hashes of its addresses, so it can only say that it may match; the envelope confirms it. What is asked
//! of an entry costs nanoseconds and may happen under a lock; the envelope may have to be read from the disk.

use std::sync::Arc;

use crate::message::{Envelope, Lane, MessageId};
use crate::state::Selection;

use super::engine::Engine;
use super::entry::{Entry, hash_of, short_hash_of, shorter_hash_of};

/// What a selection asks for.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    domain: Option<Domains>,
    site: Option<Box<str>>,
    tenant: Option<Box<str>>,
    campaign: Option<Box<str>>,
    lane: Option<Lane>,
    source: Option<Box<str>>,
    sender: Option<Sender>,
    recipient: Option<(Box<str>, u64)>,
    message: Option<MessageId>,
}

#[derive(Debug)]
enum Domains {
    Only(Box<str>),
    /// With the dot in front.
    Below(Box<str>),
}

#[derive(Debug)]
enum Sender {
    /// Empty: the null reverse-path.
    Path(Box<str>, u32),
    Domain(Box<str>, u16),
}

/// Where an entry is, or would be tried: None where that is not known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Whereabouts<'a> {
    pub site: Option<&'a str>,
    /// The egress source's name.
    pub source: Option<&'a str>,
}

impl Domains {
    fn has(&self, domain: &str) -> bool {
        match self {
            Self::Only(only) => **only == *domain,
            Self::Below(suffix) => domain.len() > suffix.len() && domain.ends_with(&**suffix),
        }
    }
}

impl Matcher {
    /// Of a selection that has been checked.
    pub fn new(selection: &Selection) -> Self {
        let domain = selection.domain.as_deref().map(|domain| match domain.strip_prefix('*') {
            Some(suffix) => Domains::Below(suffix.into()),
            None => Domains::Only(domain.into()),
        });
        let sender = selection.sender.as_deref().map(|sender| match sender.strip_prefix('@') {
            Some(domain) => Sender::Domain(domain.into(), shorter_hash_of(domain)),
            None => {
                let path = if sender == "<>" { "" } else { sender };
                Sender::Path(path.into(), short_hash_of(path))
            }
        });
        // The domain of a forward-path is kept in lower case.
        let recipient = selection.recipient.as_deref().map(|recipient| {
            let form = recipient.parse::<crate::smtp::address::Address>();
            let form: Box<str> = form.map_or_else(|_| recipient.into(), |address| address.as_str().into());
            let hash = hash_of(&form);
            (form, hash)
        });
        Self {
            domain,
            site: selection.site.clone(),
            tenant: selection.tenant.clone(),
            campaign: selection.campaign.clone(),
            lane: selection.lane.as_deref().and_then(Lane::parse),
            source: selection.source.clone(),
            sender,
            recipient,
            message: selection.message.as_deref().and_then(|message| message.parse().ok()),
        }
    }

    /// Whether it asks where an entry is.
    pub fn asks_site(&self) -> bool {
        self.site.is_some()
    }

    /// Whether it asks for an egress source.
    pub fn asks_source(&self) -> bool {
        self.source.is_some()
    }

    /// Whether only the envelope can tell for certain.
    pub fn asks_envelope(&self) -> bool {
        self.sender.is_some() || self.recipient.is_some()
    }

    /// Whether an entry may match; for certain if not [`Matcher::asks_envelope`].
    pub fn may_match(&self, entry: &Entry, at: Whereabouts<'_>) -> bool {
        self.may_be(entry) && self.is_at(at)
    }

    /// Whether an entry may turn out to match when what is not known about where it is becomes known.
    pub fn may_turn_out(&self, entry: &Entry, at: Whereabouts<'_>) -> bool {
        let may_be_at =
            Whereabouts { site: at.site.or(self.site.as_deref()), source: at.source.or(self.source.as_deref()) };
        !self.is_at(at) && self.is_at(may_be_at) && self.may_be(entry)
    }

    /// The same wherever it is.
    fn may_be(&self, entry: &Entry) -> bool {
        let flow = &entry.flow;
        self.message.is_none_or(|id| id == entry.id)
            && self.recipient.as_ref().is_none_or(|(_, hash)| *hash == entry.hash)
            && self.sender.as_ref().is_none_or(|sender| match sender {
                Sender::Path(_, hash) => *hash == entry.sender,
                Sender::Domain(_, hash) => *hash == entry.sender_domain,
            })
            && self.domain.as_ref().is_none_or(|domains| domains.has(&entry.domain.name))
            && self.tenant.as_deref().is_none_or(|tenant| *tenant == *flow.tenant.name)
            && self.campaign.as_deref().is_none_or(|campaign| *campaign == *flow.campaign)
            && self.lane.is_none_or(|lane| lane == flow.lane)
    }

    fn is_at(&self, at: Whereabouts<'_>) -> bool {
        self.site.as_deref().is_none_or(|site| at.site == Some(site))
            && self.source.as_deref().is_none_or(|source| at.source == Some(source))
    }

    /// Whether the envelope is as the selection has it.
    pub fn confirms(&self, envelope: &Envelope, recipient: u32) -> bool {
        let index = usize::try_from(recipient).unwrap_or(usize::MAX);
        self.sender.as_ref().is_none_or(|sender| match sender {
            Sender::Path(path, _) => **path == *envelope.reverse_path.as_str(),
            Sender::Domain(domain, _) => match &envelope.reverse_path {
                crate::smtp::address::ReversePath::Null => false,
                crate::smtp::address::ReversePath::Mailbox(address) => **domain == *address.domain(),
            },
        }) && self.recipient.as_ref().is_none_or(|(path, _)| {
            envelope.recipients.get(index).is_some_and(|recipient| **path == *recipient.forward_path.as_str())
        })
    }

    /// Whether a recipient that is in no line matches: everything is asked of the envelope.
    pub fn matches_taken(&self, id: MessageId, envelope: &Envelope, recipient: u32, at: Whereabouts<'_>) -> bool {
        let index = usize::try_from(recipient).unwrap_or(usize::MAX);
        let Some(forward_path) = envelope.recipients.get(index).map(|recipient| &recipient.forward_path) else {
            return false;
        };
        self.message.is_none_or(|message| message == id)
            && self.domain.as_ref().is_none_or(|domains| domains.has(forward_path.domain()))
            && self.tenant.as_deref().is_none_or(|tenant| *tenant == *envelope.tenant)
            && self.campaign.as_deref().is_none_or(|campaign| *campaign == *envelope.campaign)
            && self.lane.is_none_or(|lane| lane == envelope.lane)
            && self.is_at(at)
            && self.confirms(envelope, recipient)
    }

    /// Whether recipients of this message can match at all, as far as the id tells.
    pub fn may_match_message(&self, id: MessageId) -> bool {
        self.message.is_none_or(|message| message == id)
    }
}

impl Engine {
    /// Whether an entry that may match does so; None when its envelope cannot be read. May block on the disk.
    pub fn confirm(&self, matcher: &Matcher, entry: &Entry) -> Option<bool> {
        if !matcher.asks_envelope() {
            return Some(true);
        }
        let envelope = self.envelope_of(entry.id)?;
        Some(matcher.confirms(&envelope, entry.recipient))
    }

    /// From memory if it is there, else from the disk.
    pub fn envelope_of(&self, id: MessageId) -> Option<Arc<Envelope>> {
        match self.spool.cached(id) {
            Some(message) => Some(message.envelope),
            None => self.spool.envelope(id).ok(),
        }
    }
}
