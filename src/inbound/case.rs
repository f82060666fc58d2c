//! What a report says about one recipient of one message, and what that comes to. Pure.
//!
//! | it came to, or quotes | it is | then |
//! |---|---|---|
//! | the recipient's own reverse-path | a bounce that names that mailbox, or one mailbox only | as the policy says of its class |
//! | the same | a complaint (RFC 5965: `abuse`, ...) | suppressed: complaint |
//! | the recipient's address to unsubscribe by | a message of a person | suppressed: unsubscribe |
//! | a Message-ID of ours, or `X-Hikyaku-` fields | anything | told, and nothing else: anybody can write them |
//!
//! What a recipient's own reverse-path is told by, only they and those who carried the message have seen.

use crate::bounce::parse::{Action, Kind, Parsed, Recipient};
use crate::bounce::token::{Purpose, Token};
use crate::feedback::{self, Feedback, Origin, Place, Policy};
use crate::message::MessageId;
use crate::smtp::address::Address;
use crate::state::suppression::{MailboxHash, Reason};

/// How it is known what a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It came to an address that only this recipient's message had.
    Token,
    /// It quotes such an address.
    Quoted,
    /// It quotes a Message-ID that looks like one of ours.
    MessageId,
    /// It quotes `X-Hikyaku-` fields.
    Header,
    /// It is not known.
    None,
}

impl Evidence {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Token, Self::Quoted, Self::MessageId, Self::Header, Self::None];

    /// As the journal and the metrics name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Quoted => "quoted",
            Self::MessageId => "message-id",
            Self::Header => "header",
            Self::None => "none",
        }
    }
}

/// What a report comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// An entry of the list, by the policy's action or at once.
    Suppress(Reason, feedback::Action),
    /// Nothing.
    Nothing,
}

/// What a report says about one recipient.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// What it is.
    pub kind: Kind,
    /// How it is known what it is about.
    pub evidence: Evidence,
    /// What the recipient's own address says.
    pub token: Option<Token>,
    /// Whose message it was, as far as the evidence goes.
    pub tenant: Option<Box<str>>,
    /// What is reported about the recipient.
    pub reported: Option<&'a Recipient>,
    /// The recipient, where the report names a mailbox with the token's hash.
    pub address: Option<Address>,
    /// What is to be done.
    pub consequence: Consequence,
}

impl Case<'_> {
    /// The message of ours.
    pub fn about(&self, parsed: &Parsed) -> Option<MessageId> {
        match &self.token {
            Some(token) => Some(token.message),
            None => parsed.message_id.as_deref().and_then(own_message_id),
        }
    }

    /// The hash of the recipient.
    pub fn mailbox(&self) -> Option<MailboxHash> {
        self.token.map(|token| MailboxHash(token.mailbox))
    }
}

/// Reads what came to `place` and was parsed as `parsed`; `quoted` is the place that its text quotes, if there is one.
pub fn case<'a>(
    parsed: &'a Parsed,
    place: Option<Place>,
    quoted: impl FnOnce() -> Option<Place>,
    feedback: &Feedback,
    policy: &Policy,
) -> Case<'a> {
    let (evidence, about) = match place {
        Some(about @ Place::About { .. }) => (Evidence::Token, Some(about)),
        Some(Place::Reports | Place::Postmaster) | None => match quoted() {
            Some(about) => (Evidence::Quoted, Some(about)),
            None if parsed.message_id.as_deref().and_then(own_message_id).is_some() => (Evidence::MessageId, None),
            None if parsed.tenant.is_some() || parsed.campaign.is_some() => (Evidence::Header, None),
            None => (Evidence::None, None),
        },
    };
    let Some(Place::About { purpose, token, tenant }) = about else {
        // As it says itself; the evidence tells what that is worth.
        let (token, tenant, address) = (None, parsed.tenant.as_deref().map(Into::into), None);
        let reported = parsed.recipients.first();
        return Case {
            kind: parsed.kind,
            evidence,
            token,
            tenant,
            reported,
            address,
            consequence: Consequence::Nothing,
        };
    };
    let hash = |text: &Option<String>| {
        let address: Address = text.as_deref()?.parse().ok()?;
        (feedback.list().hash(&address).0 == token.mailbox).then_some(address)
    };
    let named = parsed.recipients.iter().find_map(|recipient| {
        let address = hash(&recipient.address).or_else(|| hash(&recipient.original))?;
        Some((recipient, address))
    });
    // A report about several others does not say what became of this one.
    let reported = match (&named, parsed.recipients.as_slice()) {
        (Some((recipient, _)), _) => Some(*recipient),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let consequence = consequence(parsed, purpose, reported, policy);
    let address = named.map(|(_, address)| address);
    let (token, tenant) = (Some(token), Some(tenant));
    Case { kind: parsed.kind, evidence, token, tenant, reported, address, consequence }
}

fn consequence(parsed: &Parsed, purpose: Purpose, reported: Option<&Recipient>, policy: &Policy) -> Consequence {
    match (purpose, parsed.kind) {
        // What a person writes there, whatever it says; never what a machine answers.
        (Purpose::Unsubscribe, Kind::Unsubscribe | Kind::NotABounce) | (_, Kind::Unsubscribe) => {
            Consequence::Suppress(Reason::Unsubscribe, feedback::Action::Suppress(None))
        }
        (_, Kind::Feedback) => complaint(parsed.feedback_type.as_deref().unwrap_or_default()),
        (Purpose::ReversePath, Kind::Bounce) => {
            let refused = reported.filter(|recipient| recipient.action == Some(Action::Failed));
            match refused.and_then(|recipient| recipient.verdict.as_ref()) {
                Some(verdict) => match policy.action(verdict, Origin::Receiver) {
                    feedback::Action::Nothing => Consequence::Nothing,
                    feedback::Action::Count => Consequence::Suppress(Reason::MailboxFull, feedback::Action::Count),
                    action => Consequence::Suppress(Reason::HardBounce, action),
                },
                None => Consequence::Nothing,
            }
        }
        _ => Consequence::Nothing,
    }
}

/// RFC 5965, 7.3, and the types that are registered: what a person means by it.
fn complaint(feedback_type: &str) -> Consequence {
    let for_ever = feedback::Action::Suppress(None);
    match feedback_type.to_ascii_lowercase().as_str() {
        "abuse" | "complaint" | "fraud" | "" => Consequence::Suppress(Reason::Complaint, for_ever),
        "opt-out" | "opt-out-list" => Consequence::Suppress(Reason::Unsubscribe, for_ever),
        // `not-spam`, `auth-failure`, `virus`, `other`, ...: nobody complains about mail that they have been sent.
        _ => Consequence::Nothing,
    }
}

/// The message of a Message-ID that looks like one that we have made (`message::received`): 13 digits, a dot, 8 digits.
fn own_message_id(text: &str) -> Option<MessageId> {
    let (local, _) = text.split_once('@')?;
    let (id, time) = local.split_once('.')?;
    let is_time = time.len() == 8 && time.bytes().all(|octet| octet.is_ascii_hexdigit());
    if is_time && id.len() == 13 { id.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_message_id_like_ours_is_one() {
        assert_eq!(own_message_id("0000000000007.000000ff@mx.test"), Some(MessageId(7)));
        for other in ["", "7.000000ff@mx.test", "0000000000007@mx.test", "0000000000007.00@x", "u.000000ff@mx.test"] {
            assert_eq!(own_message_id(other), None, "{other}");
        }
    }

    #[test]
    fn only_what_a_person_means_as_a_complaint_is_one() {
        let reason = |text: &str| match complaint(text) {
            Consequence::Suppress(reason, _) => Some(reason),
            Consequence::Nothing => None,
        };

        assert_eq!((reason("Abuse"), reason("opt-out")), (Some(Reason::Complaint), Some(Reason::Unsubscribe)));
        assert_eq!((reason("not-spam"), reason("auth-failure"), reason("virus")), (None, None, None));
    }
}
