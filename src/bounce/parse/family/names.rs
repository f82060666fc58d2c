//! Systems that name their own users without a domain: Novell GroupWise, with the reason in brackets, and AOL.

use crate::bounce::parse::entry::Entry;
use crate::bounce::parse::mail::Mail;
use crate::bounce::parse::{address, status};

/// What stands before the names.
const HEADINGS: [&str; 2] = ["undeliverable to the following", "they are not accepting mail from"];

/// What a message says of each recipient.
pub(super) fn entries(mail: &Mail) -> Vec<Entry> {
    let is_heading = |line: &String| HEADINGS.iter().any(|heading| line.to_lowercase().contains(heading));
    let Some(start) = mail.lines.iter().position(is_heading) else { return Vec::new() };
    let heading = mail.lines.get(start).map_or("", String::as_str);
    let from = mail.header.get("from").and_then(address::only).unwrap_or_default();
    let domain = from.rsplit_once('@').map_or("", |(_, domain)| domain);
    let listed = mail.lines.get(start + 1..).unwrap_or_default().iter().skip_while(|line| line.trim().is_empty());
    let listed = listed.take_while(|line| line.starts_with([' ', '\t']) && !line.trim().is_empty());
    let named = listed.filter_map(|line| {
        let (name, reason) = line.trim().split_once('(').unwrap_or((line.trim(), heading));
        let name = name.trim();
        let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
        let address =
            if name.contains('@') || domain.is_empty() { name.to_owned() } else { format!("{name}@{domain}") };
        is_name.then(|| Entry { text: reason.trim_end_matches(')').to_owned(), ..Entry::of(&address) })
    });
    named.take(status::RECIPIENTS_MOST).collect()
}
