//! au (KDDI, ezweb): a sentence tells the reason, and what is quoted below says less.

use crate::bounce::parse::entry::Entry;
use crate::bounce::parse::mail::Mail;
use crate::bounce::parse::{address, shape, status};

/// Sentences that tell the reason.
const REASONS: [&str; 6] = [
    "account is disabled",
    "account is temporarily limited",
    "account is temporarily over quota",
    "mailbox is full",
    "was not delivered within",
    "due to the following smtp relay error",
];

/// What a message says of each recipient.
pub(super) fn entries(mail: &Mail) -> Vec<Entry> {
    let from = mail.header.get("from").and_then(|from| address::only(from)).unwrap_or_default().to_ascii_lowercase();
    let domain = from.rsplit('@').next().unwrap_or_default();
    let is_au = ["ezweb.ne.jp", "au.com", "kddi.com", "dion.ne.jp"]
        .iter()
        .any(|own| domain == *own || domain.strip_suffix(own).is_some_and(|rest| rest.ends_with('.')));
    let lower = |text: &String| text.to_lowercase();
    let paragraphs = shape::paragraphs(&mail.lines);
    let told = paragraphs.iter().find(|text| REASONS.iter().any(|reason| lower(text).contains(reason)));
    let Some(told) = told.filter(|_| is_au || domain.contains("kddi")) else { return Vec::new() };
    let mut found = status::entries(&mail.status);
    if found.is_empty() {
        found = mail.listed().entries.clone();
    }
    found.into_iter().map(|entry| Entry { text: told.clone(), ..entry }).collect()
}
