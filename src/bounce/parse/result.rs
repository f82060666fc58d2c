//! What [`super::Parser::parse`] gives.

use std::fmt;

use crate::reply::Verdict;
use crate::smtp::status::Status;
use crate::unseen::is_unseen;

/// What a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It says that a message was not delivered, or not yet.
    Bounce,
    /// A complaint, or another report by a receiver about a message it has (RFC 5965).
    Feedback,
    /// An automatic response by or for the recipient (RFC 3834).
    AutoReply,
    /// It says that a message was delivered.
    Delivered,
    /// It says that a message went on to where nobody reports.
    Relayed,
    /// The recipient wants no more of a list's messages (RFC 8058, RFC 2369: by mail).
    Unsubscribe,
    /// A report about TLS (RFC 8460).
    TlsReport,
    /// Anything else.
    #[default]
    NotABounce,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Bounce,
        Self::Feedback,
        Self::AutoReply,
        Self::Delivered,
        Self::Relayed,
        Self::Unsubscribe,
        Self::TlsReport,
        Self::NotABounce,
    ];

    /// As tables and JSON name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bounce => "bounce",
            Self::Feedback => "feedback",
            Self::AutoReply => "auto-reply",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Unsubscribe => "unsubscribe",
            Self::TlsReport => "tls-report",
            Self::NotABounce => "not-a-bounce",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The `action` of RFC 3464, 2.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Given up.
    Failed,
    /// Not yet delivered; attempts go on.
    Delayed,
    /// Delivered.
    Delivered,
    /// Handed to a system that does not report.
    Relayed,
    /// Delivered, and sent on to several addresses.
    Expanded,
}

impl Action {
    /// As RFC 3464 writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        }
    }

    /// By its name in a report; a few write another word than the standard's.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "failed" | "failure" | "fail" | "error" => Some(Self::Failed),
            "delayed" | "delay" | "deferred" => Some(Self::Delayed),
            // `deliverable` answers a probe (Postfix, `sendmail -bv`).
            "delivered" | "deliverable" => Some(Self::Delivered),
            "undeliverable" => Some(Self::Failed),
            "relayed" => Some(Self::Relayed),
            "expanded" => Some(Self::Expanded),
            _ => None,
        }
    }
}

/// A recipient that a message is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recipient {
    /// The address (Final-Recipient); none: the report withholds it.
    pub address: Option<String>,
    /// The address as the sender had written it (Original-Recipient), if the report tells.
    pub original: Option<String>,
    /// What became of the message; none where that is no question.
    pub action: Option<Action>,
    /// The enhanced status code: the quoted reply's, else the report's own.
    pub status: Option<Status>,
    /// The reply code; 0: none is quoted.
    pub reply_code: u16,
    /// What is said about it: the reply, or words of the reporting system.
    pub diagnostic: String,
    /// Who refused it.
    pub remote_mta: Option<String>,
    /// What that means; none: it is no refusal.
    pub verdict: Option<Verdict>,
}

impl Recipient {
    /// Whether the address should not be tried again.
    pub fn is_permanent(&self) -> bool {
        self.action == Some(Action::Failed) && self.verdict.as_ref().is_some_and(Verdict::permanent)
    }
}

/// What a message is, and whom it is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// What it is.
    pub kind: Kind,
    /// What read it, for people who add rules: `status`, or a family's name.
    pub family: &'static str,
    /// Whom it is about.
    pub recipients: Vec<Recipient>,
    /// Of feedback: `abuse`, `opt-out`, ...
    pub feedback_type: Option<String>,
    /// The Message-ID of the message it is about, without angle brackets.
    pub message_id: Option<String>,
    /// `X-Hikyaku-Tenant` and `X-Hikyaku-Campaign` of that message, if they came back with it.
    pub tenant: Option<String>,
    /// See `tenant`.
    pub campaign: Option<String>,
}

impl Parsed {
    /// Leaves nothing in that a reader would not see: an address with such a character is none, elsewhere it is a blank.
    pub(super) fn make_plain(&mut self) {
        let blank = |text: &mut String| {
            // Nearly all are, and a text may be told of each of a thousand.
            let is_plain = text.bytes().all(|octet| matches!(octet, b' '..=b'~'));
            if !is_plain && text.chars().any(is_unseen) {
                *text = text.chars().map(|c| if is_unseen(c) { ' ' } else { c }).collect();
            }
        };
        for recipient in &mut self.recipients {
            for address in [&mut recipient.address, &mut recipient.original] {
                address.take_if(|address| address.chars().any(is_unseen));
            }
            blank(&mut recipient.diagnostic);
            recipient.remote_mta.iter_mut().for_each(blank);
        }
        let others = [&mut self.feedback_type, &mut self.message_id, &mut self.tenant, &mut self.campaign];
        others.into_iter().flatten().for_each(blank);
    }
}
