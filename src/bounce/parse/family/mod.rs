//! Systems that tell of failures in their own way, one a file.
//!
//! A family gives what a message says of each recipient; nothing: the message is not its. [`known`] asks them in their order,
//! and [`read`] has `generic` take what none of them knows. Families that differ in words only need no file: `generic` reads them.

mod ezweb;
mod fml;
mod generic;
mod google;
mod names;
pub(super) mod ses;

use super::entry::Entry;
use super::evidence::Evidence;
use super::mail::Mail;
use super::status;

/// What a family finds in a message.
type Read = fn(&Mail) -> Vec<Entry>;

/// Families in the order in which they are asked.
const FAMILIES: &[(&str, Read)] =
    &[("ezweb", ezweb::entries), ("fml", fml::entries), ("google", google::entries), ("names", names::entries)];

/// A family that knows the message by itself.
pub(super) fn known(mail: &Mail, evidence: &Evidence) -> Option<(&'static str, Vec<Entry>)> {
    let families = FAMILIES.iter().filter(|_| evidence.is_enough());
    families.map(|(name, read)| (*name, read(mail))).find(|(_, entries)| !entries.is_empty())
}

/// What a message of none of these families says, of which there is evidence enough; none: it is no bounce.
pub(super) fn read(mail: &Mail, evidence: &Evidence, has_reply: bool) -> Option<(&'static str, Vec<Entry>)> {
    // What answers, and neither names a mail system nor quotes a reply, is an automatic response, whatever it is about.
    let from = mail.header.get("from").unwrap_or_default().to_ascii_lowercase();
    let is_notice = evidence.is_notice && evidence.is_system;
    let is_response = evidence.is_answer
        && !evidence.has_failed
        && !evidence.is_delivery_report
        && !is_notice
        && !from.contains("mailer-daemon");
    if !has_reply
        && (is_response
            || !evidence.tells && !evidence.is_notice && !evidence.is_perhaps_notice && !evidence.has_failed)
    {
        return None;
    }
    let mut entries = if evidence.is_words_only() { generic::of_list(mail) } else { generic::entries(mail) };
    if let ([entry], Some(fields)) = (entries.as_mut_slice(), status::nameless(&mail.status)) {
        let action = fields.action.or(entry.action);
        *entry = Entry { address: entry.address.take(), original: entry.original.take(), action, ..fields };
    }
    (!entries.is_empty()).then_some(("generic", entries))
}

/// Entries of a report, of which one may name a file, a program or nobody where an address belongs: then whom the text, or
/// X-Failed-Recipients, names instead.
pub(super) fn addressed(mail: &Mail, mut entries: Vec<Entry>) -> Vec<Entry> {
    let is_address =
        |entry: &Entry| entry.address.as_deref().is_some_and(|address| address.find('@').is_some_and(|at| at > 0));
    if let [entry] = entries.as_mut_slice() {
        let told = if is_address(entry) { Vec::new() } else { generic::entries(mail) };
        if let [told] = told.as_slice() {
            entry.original = entry.original.take().or(entry.address.take());
            entry.address.clone_from(&told.address);
        }
    }
    entries
}
