//! The fields of delivery status notifications (RFC 3464, RFC 6533), wherever they stand.
//!
//! [`entries`] takes lines and gives what they say of each recipient. It goes by the fields alone: systems write them into
//! parts of other types, in any order, quoted, or without an empty line between two recipients.

use super::address;
use super::entry::Entry;
use super::header::{self, Header, without_comments};
use super::result::Action;
use crate::smtp::status::Status;

/// Most recipients of one report.
pub(super) const RECIPIENTS_MOST: usize = 1_000;

/// What lines of a report say of each recipient.
pub(super) fn entries(lines: &[String]) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    for group in groups(lines) {
        if found.len() == RECIPIENTS_MOST {
            break;
        }
        match entry(&group) {
            Some(entry) => found.push(entry),
            None => amend(found.last_mut(), &group),
        }
    }
    found
}

/// What lines of a report say of a recipient that they do not name; none: nothing, or of several.
pub(super) fn nameless(lines: &[String]) -> Option<Entry> {
    let is_told = |group: &Header| TELLING.iter().any(|name| group.has(name));
    let mut told = groups(lines).into_iter().filter(is_told);
    let (group, None) = (told.next()?, told.next()) else { return None };
    let mut entry = Entry::default();
    fill(&mut entry, &group);
    Some(entry)
}

/// Fields that tell what became of a recipient.
const TELLING: [&str; 4] = ["action", "status", "diagnostic-code", "remote-mta"];

/// Fields that tell that a group is about a recipient.
const NAMING: [&str; 2] = ["final-recipient", "original-recipient"];

/// Groups of fields: apart by an empty line, or by a field that says again whom it is about.
fn groups(lines: &[String]) -> Vec<Header> {
    let mut groups = Vec::new();
    let mut group: Vec<&str> = Vec::new();
    let mut has_final = false;
    for line in lines.iter().map(|line| unquoted(line)) {
        let name = header::field(line.as_bytes()).map(|(name, _)| String::from_utf8_lossy(name).to_ascii_lowercase());
        let is_final = name.as_deref() == Some("final-recipient");
        if line.trim().is_empty() || is_final && has_final {
            close(&mut group, &mut groups);
            has_final = false;
        }
        has_final |= is_final;
        if !line.trim().is_empty() {
            group.push(line);
        }
    }
    close(&mut group, &mut groups);
    groups
}

fn close(group: &mut Vec<&str>, groups: &mut Vec<Header>) {
    let header = Header::of_lines(group.drain(..));
    if !header.is_empty() {
        groups.push(header);
    }
}

/// A line without the marks by which a mail program quotes.
fn unquoted(line: &str) -> &str {
    let bare = line.trim_start_matches(['>', ' ']);
    if line.starts_with('>') { bare } else { line }
}

/// What a group says, if it is about a recipient.
fn entry(group: &Header) -> Option<Entry> {
    let is_named = NAMING.iter().any(|name| group.has(name));
    let is_told = TELLING.iter().any(|name| group.has(name));
    if !is_named || !is_told && !group.has("final-recipient") {
        return None;
    }
    let last = group.get("final-recipient").and_then(recipient);
    let first = group.get("original-recipient").and_then(recipient);
    let mut entry = Entry { original: first.clone(), address: last.or(first), ..Entry::default() };
    fill(&mut entry, group);
    Some(entry)
}

/// A group without a recipient behind one that says nothing else: the same, torn apart.
fn amend(entry: Option<&mut Entry>, group: &Header) {
    if let Some(entry) = entry.filter(|entry| entry.action.is_none() && entry.status.is_none() && entry.text.is_empty())
    {
        fill(entry, group);
    }
}

fn fill(entry: &mut Entry, group: &Header) {
    entry.action = group.get("action").and_then(|value| Action::named(without_comments(value)));
    entry.status = group.get("status").and_then(status);
    entry.text = group.get("diagnostic-code").unwrap_or_default().to_owned();
    if entry.text.is_empty() {
        // A few say it there: `4.0.0 (a.test: host name lookup failure)`.
        entry.text = ["status", "action"].iter().find_map(|name| comment(group.get(name)?)).unwrap_or_default();
    }
    entry.remote_mta = group.get("remote-mta").and_then(host);
}

fn comment(value: &str) -> Option<String> {
    let (_, comment) = value.split_once('(')?;
    let comment = comment.trim_end().trim_end_matches(')').trim();
    (!comment.is_empty()).then(|| comment.to_owned())
}

/// `4.4.0 (other or undefined network or routing status)`.
pub(super) fn status(value: &str) -> Option<Status> {
    let first = value.split_whitespace().next()?;
    let first = first.trim_end_matches(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u16> = first.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [class @ (2 | 4 | 5), subject, detail] = numbers[..] else { return None };
    Some(Status::new(u8::try_from(class).ok()?, subject, detail))
}

/// `rfc822; ann@a.test`, `<ann@a.test>`; of an X.400 address, and of what is no address, nothing.
fn recipient(value: &str) -> Option<String> {
    let (kind, text) = value.split_once(';').filter(|(kind, _)| !kind.contains('@')).unwrap_or(("rfc822", value));
    let text = text.trim();
    if kind.trim().eq_ignore_ascii_case("x400") && !text.contains('@') {
        return None;
    }
    if kind.trim().eq_ignore_ascii_case("utf-8") {
        return address::only(&unescaped(text)).map(str::to_owned);
    }
    // Encoded words are no part of an address, but some have them in it, with an `@` behind.
    let bare = text.split_once('<').map_or(text, |(_, rest)| rest.split('>').next().unwrap_or(rest)).trim();
    if bare.contains('@') && !bare.contains(char::is_whitespace) {
        return Some(bare.to_owned());
    }
    address::only(text).map(str::to_owned)
}

/// `\x{1F408}` of utf-8-addr-xtext (RFC 6533, 3).
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("\\x{") {
        out.push_str(before);
        let decoded = behind.split_once('}').and_then(|(hex, after)| Some((u32::from_str_radix(hex, 16).ok()?, after)));
        match decoded {
            Some((code, after)) => {
                out.push(char::from_u32(code).filter(|c| !c.is_control()).unwrap_or('\u{fffd}'));
                rest = after;
            }
            None => {
                out.push_str("\\x{");
                rest = behind;
            }
        }
    }
    out.push_str(rest);
    out
}

/// `dns; mx.a.test (192.0.2.1)`.
fn host(value: &str) -> Option<String> {
    let name = value.split_once(';').map_or(value, |(_, name)| name);
    let name = name.split_whitespace().next()?.trim_end_matches('.');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address, original address, action and text.
    type Told = (Option<String>, Option<String>, Option<Action>, String);

    fn read(text: &str) -> Vec<Told> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let told = |entry: Entry| (entry.address, entry.original, entry.action, entry.text);
        entries(&lines).into_iter().map(told).collect()
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn groups_are_told_apart_however_they_are_written() {
        let text = "Reporting-MTA: dns; a.test\n\nDiagnostic-Code: smtp; 550\n no\nFinal-Recipient: rfc822; ann@a.test\nAction: failed\n\
            Final-Recipient: <bob@b.test>\nAction: delayed (later)\n\n> Original-Recipient: rfc822;carl@c.test\n> Final-Recipient: x400; /S=carl/\n> Status: 4.4.7\n";

        assert_eq!(
            read(text),
            [
                (some("ann@a.test"), None, Some(Action::Failed), "smtp; 550 no".to_owned()),
                (some("bob@b.test"), None, Some(Action::Delayed), "later".to_owned()),
                (some("carl@c.test"), some("carl@c.test"), None, String::new()),
            ]
        );
    }

    #[test]
    fn fields_that_an_empty_line_tore_off_are_put_back() {
        let found = read("Final-Recipient: rfc822; ann@a.test\n\nAction: failed\nStatus: 5.0.0\n");

        assert_eq!(found, [(some("ann@a.test"), None, Some(Action::Failed), String::new())]);
    }

    #[test]
    fn addresses_of_rfc_6533_are_decoded_and_odd_ones_kept() {
        for (value, wanted) in [
            ("utf-8; j\\x{F6}rg@a.test", some("jörg@a.test")),
            ("rfc822; =?utf-8?B?eA==?=@a.test", some("=?utf-8?B?eA==?=@a.test")),
            ("rfc822;/mail/spool/a", some("/mail/spool/a")),
            ("x400; /S=a/", None),
            ("", None),
        ] {
            assert_eq!(recipient(value), wanted, "{value}");
        }
    }
}
