//! Whatever is not known: by where addresses stand.
//!
//! Best first: addresses that begin a line or follow a label; those of X-Failed-Recipients; those within sentences that tell of
//! a failure; whom a quoted RCPT names; at last whom the returned message was to.

use std::collections::HashSet;

use crate::bounce::parse::entry::Entry;
use crate::bounce::parse::mail::Mail;
use crate::bounce::parse::{address, listed, shape, transcript};

/// A text of fewer lines than these has hardly said anything.
const FEW: usize = 6;
/// Lines behind a divider that are looked at then.
const BEHIND_MOST: usize = 100;

/// What a message says of each recipient that has nothing but words to tell that it is about a failure: those of a list only, and
/// never who writes.
pub(super) fn of_list(mail: &Mail) -> Vec<Entry> {
    let own = mail.own_addresses();
    let mut found = chosen(mail.listed().entries.clone(), &own);
    found.retain(|entry| entry.address.as_deref().is_some_and(|address| !is_own(&own, address)));
    found
}

/// What a message says of each recipient.
pub(super) fn entries(mail: &Mail) -> Vec<Entry> {
    let own = mail.own_addresses();
    let failed: Vec<&str> = mail.header.all("x-failed-recipients").flat_map(address::all).collect();
    let mut found = chosen(mail.listed().entries.clone(), &own);
    if !failed.is_empty() && found.len() != failed.len() {
        found = failed.iter().map(|address| known(&found, address)).collect();
    }
    if found.is_empty() {
        found = chosen(shape::sentences(&mail.lines), &own);
    }
    if found.is_empty() {
        found = commanded(mail);
    }
    if found.is_empty() {
        found = chosen(replied(mail), &own);
        found.retain(|entry| entry.address.as_deref().is_some_and(|address| !is_own(&own, address)));
    }
    if found.is_empty() && mail.lines.len() < FEW {
        // What was taken for the returned message may be what there is to say.
        let behind = mail.behind.iter().take(BEHIND_MOST).take_while(|line| !line.starts_with("Received:"));
        found = chosen(listed::entries(&behind.cloned().collect::<Vec<_>>()), &own);
    }
    if found.is_empty() {
        found.extend(sent_to(mail).map(|address| Entry::of(&address)));
    }
    found
}

/// What is said of an address, or nothing.
fn known(entries: &[Entry], address: &str) -> Entry {
    let known =
        entries.iter().find(|entry| entry.address.as_deref().is_some_and(|known| address::same(known, address)));
    known.cloned().unwrap_or_else(|| Entry::of(address))
}

/// Entries without those that are hardly anybody's recipient, as long as others are left: who sent it, who is to be asked.
fn chosen(mut entries: Vec<Entry>, own: &HashSet<String>) -> Vec<Entry> {
    let is_own = |address: &str| is_own(own, address);
    let unlikely: [&dyn Fn(&str) -> bool; 2] = [&is_own, &address::is_role];
    for is_unlikely in unlikely {
        let is_likely = |entry: &Entry| entry.address.as_deref().is_some_and(|address| !is_unlikely(address));
        if entries.iter().any(is_likely) {
            entries.retain(is_likely);
        }
    }
    entries
}

fn is_own(own: &HashSet<String>, address: &str) -> bool {
    own.contains(&address.to_ascii_lowercase())
}

/// Whom quoted commands name.
fn commanded(mail: &Mail) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    for said in transcript::read(&mail.lines) {
        let Some(recipient) = said.recipient else { continue };
        if !found.iter().any(|entry| entry.address.as_deref().is_some_and(|known| address::same(known, &recipient))) {
            found.push(Entry { text: said.reply, step: said.step, ..Entry::of(&recipient) });
        }
    }
    found
}

/// Whom paragraphs name that quote a reply.
fn replied(mail: &Mail) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    for text in shape::paragraphs(&mail.lines).into_iter().filter(|text| shape::quotes(text)) {
        for address in address::all(&text) {
            let is_known =
                found.iter().any(|entry| entry.address.as_deref().is_some_and(|known| address::same(known, address)));
            if !is_known && found.len() < shape::SENTENCES_MOST {
                found.push(Entry { text: text.clone(), ..Entry::of(address) });
            }
        }
    }
    found
}

/// Whom the returned message was to.
fn sent_to(mail: &Mail) -> Option<String> {
    let original = &mail.original;
    let of = |name: &str| original.get(name).and_then(address::only_in);
    let named =
        ["x-envelope-to", "envelope-to", "x-original-to", "delivered-to", "to", "cc"].iter().find_map(|name| of(name));
    // `for <ann@a.test>;` of the last Received that has it (RFC 5321, 4.4).
    let traced = || {
        original
            .all("received")
            .find_map(|value| value.split_once(" for ").and_then(|(_, rest)| address::only_in(rest.split(';').next()?)))
    };
    let quoted = || {
        let is_to = |line: &&String| line.trim_start().to_ascii_lowercase().starts_with("to:");
        mail.lines.iter().find(is_to).and_then(|line| address::only_in(line))
    };
    named.or_else(traced).or_else(quoted)
}
