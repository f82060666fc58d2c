//! What comes back: bounces of every kind, complaints, automatic responses, and mail that is none of these.
//!
//! [`Parser::parse`] takes the octets of a message and gives what it is and whom it is about. In this order: reports about TLS
//! (RFC 8460); feedback (`feedback`); the fields of RFC 3464 wherever they stand (`status`); systems that write otherwise
//! (`family`), the last of which goes by the shape of the text alone; automatic responses and requests to be taken off a list
//! (`response`). What a recipient's refusal means, the classifier of replies says (`settle`).
//!
//! Pure: the same octets give the same result, and no input makes it fail. Work and memory are bounded by the constants in
//! `mime`, `header` and `mail`, whatever is sent; nothing recurses.

mod address;
mod charset;
mod diagnostic;
mod divider;
mod entry;
mod evidence;
mod family;
mod feedback;
mod header;
mod heard;
mod html;
mod listed;
mod mail;
mod mime;
mod response;
mod result;
mod settle;
mod shape;
mod status;
#[cfg(test)]
mod tests;
mod transcript;
mod words;

use std::sync::Arc;

use crate::provider::{Map, MapError};
use crate::reply::Classifier;
use entry::Entry;
use mail::Mail;
pub use result::{Action, Kind, Parsed, Recipient};
use settle::Judge;

/// Reads what comes back.
#[derive(Debug)]
pub struct Parser {
    classifier: Arc<Classifier>,
    providers: Map,
}

impl Parser {
    /// By these rules.
    pub fn new(classifier: Arc<Classifier>, providers: Map) -> Self {
        Self { classifier, providers }
    }

    /// By the rules that come with the program. Fails only if the embedded map of providers is wrong, which its tests exclude.
    pub fn built_in() -> Result<Self, MapError> {
        Ok(Self::new(Classifier::built_in(), Map::built_in()?))
    }

    /// What a message is, and whom it is about.
    pub fn parse(&self, octets: &[u8]) -> Parsed {
        let mail = Mail::read(octets);
        let mut parsed = self.read(&mail);
        if parsed.kind != Kind::NotABounce {
            let field = |name: &str| mail.original.get(name).map(str::trim).filter(|value| !value.is_empty());
            parsed.message_id = message_id(&mail);
            parsed.tenant = field("x-hikyaku-tenant").map(str::to_owned);
            parsed.campaign = field("x-hikyaku-campaign").map(str::to_owned);
        }
        parsed.make_plain();
        parsed
    }

    fn read(&self, mail: &Mail) -> Parsed {
        if mail.is_tls_report {
            return Parsed { kind: Kind::TlsReport, family: "tlsrpt", ..Parsed::default() };
        }
        if let Some(parsed) = feedback::read(mail) {
            return parsed;
        }
        if let Some(parsed) = family::ses::notification(mail, |entries| self.judge(mail).settle(entries)) {
            return parsed;
        }
        let evidence = evidence::Evidence::of(mail);
        if let Some((family, entries)) = family::known(mail, &evidence) {
            return report(self.judge(mail), family, entries);
        }
        for lines in [&mail.status, &mail.lines, &mail.behind] {
            let entries = if evidence.is_report() { status::entries(lines) } else { Vec::new() };
            if !entries.is_empty() {
                return report(self.judge(mail), "status", family::addressed(mail, entries));
            }
        }
        if evidence.is_enough() {
            let judge = self.judge(mail);
            if let Some((family, entries)) = family::read(mail, &evidence, judge.has_reply()) {
                return report(judge, family, entries);
            }
        }
        response::read(mail).or_else(|| response::unsubscribe(mail)).unwrap_or_default()
    }

    fn judge<'a>(&'a self, mail: &'a Mail) -> Judge<'a> {
        Judge::of(&self.classifier, &self.providers, mail)
    }
}

/// A report about recipients: what it is, what became of them tells.
fn report(mut judge: Judge<'_>, family: &'static str, entries: Vec<Entry>) -> Parsed {
    let recipients = judge.settle(entries);
    let has = |action: Action| recipients.iter().any(|recipient| recipient.action == Some(action));
    let kind = if has(Action::Failed) || has(Action::Delayed) {
        Kind::Bounce
    } else if has(Action::Delivered) {
        Kind::Delivered
    } else {
        Kind::Relayed
    };
    Parsed { kind, family, recipients, ..Parsed::default() }
}

/// The Message-ID of the message that came back.
fn message_id(mail: &Mail) -> Option<String> {
    let of_status = || {
        let fields = header::Header::of_lines(mail.status.iter().chain(&mail.feedback).map(String::as_str));
        ["x-original-message-id", "original-message-id", "message-id"]
            .iter()
            .find_map(|name| fields.get(name).map(str::to_owned))
    };
    let value = mail.original.get("message-id").map(str::to_owned).or_else(of_status)?;
    let id = value.trim().trim_start_matches('<').split('>').next().unwrap_or_default().trim();
    (!id.is_empty()).then(|| id.to_owned())
}
