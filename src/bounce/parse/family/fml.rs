//! fml, a manager of mailing lists: it tells its operator, or the author, that a message went round or came twice.

use crate::bounce::parse::entry::Entry;
use crate::bounce::parse::mail::Mail;
use crate::bounce::parse::{address, shape};

/// What the subjects of its alerts have in them.
const ALERTS: [&str; 8] =
    ["loop alert", "loop back", "from loop", "reject", "duplicated", "not member", "ignored", "security alert"];

/// What a message says of each recipient: of the list, since nobody else is named.
pub(super) fn entries(mail: &Mail) -> Vec<Entry> {
    let is_fml = mail.header.get("x-mlserver").is_some_and(|value| value.to_ascii_lowercase().contains("fml"));
    let subject = mail.header.get("subject").unwrap_or_default();
    let is_alert = ALERTS.iter().any(|word| subject.to_lowercase().contains(word));
    if !is_fml || !is_alert {
        return Vec::new();
    }
    let named = mail.lines.iter().find_map(|line| address::only_in(line));
    let list = named.or_else(|| mail.original.get("to").and_then(address::only_in));
    let text = shape::paragraphs(&mail.lines).into_iter().next().unwrap_or_default();
    list.map(|list| Entry { text, ..Entry::of(&list) }).into_iter().collect()
}
