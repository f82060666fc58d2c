//! Feedback reports: RFC 5965 and 6591, and what came before them.

use super::address;
use super::header::Header;
use super::mail::Mail;
use super::result::{Kind, Parsed, Recipient};

/// Reads a feedback report; none: it is none.
pub(super) fn read(mail: &Mail) -> Option<Parsed> {
    let is_named = mail.report.as_deref() == Some("feedback-report");
    let mut fields = Header::of_lines(mail.feedback.iter().map(String::as_str));
    if is_named && !fields.has("feedback-type") {
        // A part that lost its type on the way.
        fields = Header::of_lines(mail.lines.iter().map(String::as_str));
    }
    let is_report = is_named || fields.has("feedback-type");
    // Outlook.com's complaints say by a field of the message they give back whom they are about.
    let complainer = mail.original.get("x-hmxmroriginalrecipient");
    if !is_report && complainer.is_none() {
        return None;
    }
    let mut addresses: Vec<&str> = Vec::new();
    let named = ["removal-recipient", "original-rcpt-to"];
    for value in named.iter().flat_map(|name| fields.all(name)).chain(complainer) {
        let found = address::all(value)
            .next()
            .or_else(|| Some(value.trim()).filter(|value| !value.is_empty() && !value.contains(' ')));
        addresses.extend(found.filter(|found| !addresses.iter().any(|known| address::same(known, found))));
    }
    if addresses.is_empty() {
        addresses.extend(mail.original.get("to").and_then(|value| address::all(value).next()));
    }
    let mut recipients: Vec<Recipient> = addresses
        .into_iter()
        .map(|address| Recipient { address: Some(address.to_owned()), ..Recipient::default() })
        .collect();
    if recipients.is_empty() {
        // It is about one; who, the reporter withholds.
        recipients.push(Recipient::default());
    }
    let feedback_type = fields.get("feedback-type").unwrap_or("abuse").trim().to_ascii_lowercase();
    Some(Parsed {
        kind: Kind::Feedback,
        family: "arf",
        recipients,
        feedback_type: Some(feedback_type),
        ..Parsed::default()
    })
}
