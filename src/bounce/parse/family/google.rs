//! Google: groups, which say in the reader's language that there is no such group or that the sender may not post, and do not
//! say which; and Gmail of the time before it wrote RFC 3464.

use crate::bounce::parse::entry::Entry;
use crate::bounce::parse::mail::Mail;
use crate::bounce::parse::{address, shape};

/// What they write below, in every language.
const HELP: &str = "groups.google.com/support";
/// What stands before the reply of the other server.
const RETURNED: &str = "error that the other server returned was:";

/// What a message says of each recipient.
pub(super) fn entries(mail: &Mail) -> Vec<Entry> {
    let paragraphs = shape::paragraphs(&mail.lines);
    if let Some(help) = paragraphs.iter().find(|text| text.contains(HELP)) {
        let failed = mail.header.all("x-failed-recipients").flat_map(address::all);
        // The first paragraph greets, the second says what there is to say; what is judged is that it is about a group.
        return failed.map(|address| Entry { text: help.clone(), ..Entry::of(address) }).collect();
    }
    let Some(reply) = paragraphs.iter().find_map(|text| text.split_once(RETURNED)).map(|(_, reply)| reply.trim())
    else {
        return Vec::new();
    };
    // `550 550 5.1.1 ...`: the code as read, then the reply.
    let twice = reply.split_once(' ').filter(|(code, rest)| rest.starts_with(code) && code.len() == 3);
    let reply = twice.map_or(reply, |(_, rest)| rest);
    let found = mail.listed().entries.clone();
    found.into_iter().map(|entry| Entry { text: reply.to_owned(), ..entry }).collect()
}
