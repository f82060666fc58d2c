//! The text of a reply as rules see it, and what else can be read out of it: a status in its middle, the zone of a list.

use std::sync::Arc;

use crate::smtp::status::Status;

/// Octets of a text that rules see; replies are kept to as many.
pub(super) const LONGEST: usize = 1024;

/// Lower case; runs of space are one space; typographic quotes are plain ones; an address is `@`, since its parts are
/// nobody's words: `<spam.blocked@a.test>` says nothing about spam.
pub(super) fn normal(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(LONGEST) + 8);
    let mut rest = text.bytes().enumerate();
    while let Some((at, octet)) = rest.next() {
        if out.len() >= LONGEST {
            break;
        }
        match octet {
            b'A'..=b'Z' => out.push(char::from(octet.to_ascii_lowercase())),
            b'@' => {
                shorten_to_address(&mut out);
                let behind = text.get(at + 1..).unwrap_or_default();
                let end = behind.find(ends_address).unwrap_or(behind.len());
                // `ann@a.test...User unknown`: no domain goes on behind two dots.
                let end = behind.get(..end).and_then(|domain| domain.find("..")).unwrap_or(end);
                if let Some(last) = end.checked_sub(1) {
                    rest.nth(last);
                }
            }
            b'!'..=b'~' => out.push(char::from(octet)),
            0..0x80 => {
                if !out.is_empty() && !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            _ => {
                // The rest of a character is skipped with its first octet.
                let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) else { continue };
                push_wide(&mut out, c);
            }
        }
    }
    if out.ends_with(' ') {
        out.pop();
    }
    out
}

/// A character outside ASCII.
fn push_wide(out: &mut String, c: char) {
    match c {
        '\u{2018}' | '\u{2019}' => out.push('\''),
        '\u{201c}' | '\u{201d}' => out.push('"'),
        _ if c.is_whitespace() || c.is_control() => {
            if !out.is_empty() && !out.ends_with(' ') {
                out.push(' ');
            }
        }
        _ => out.extend(c.to_lowercase()),
    }
}

/// What stands before an `@` and belongs to the address goes; the `@` stays.
fn shorten_to_address(out: &mut String) {
    let start = out.rfind(|c| ends_address(c) || c == '@');
    let end = start
        .map_or(0, |start| start + out.get(start..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8));
    out.truncate(end);
    if !out.ends_with('@') {
        out.push('@');
    }
}

/// What an address does not have in it, as replies write it.
fn ends_address(c: char) -> bool {
    c.is_whitespace() || matches!(c, '<' | '>' | '(' | ')' | '[' | ']' | '"' | '\'' | ',' | ';' | ':' | '{' | '}' | '|')
}

/// The first enhanced status code in a text, with the octet behind it. Not a part of an address or a version: no digit and
/// no dot stands beside it.
pub(super) fn status_in(text: &str) -> Option<(Status, usize)> {
    let octets = text.as_bytes();
    let is_beside = |at: Option<usize>| {
        at.and_then(|at| octets.get(at)).is_some_and(|octet| octet.is_ascii_alphanumeric() || *octet == b'.')
    };
    for (at, _) in text.match_indices('.') {
        let Some(start) = at.checked_sub(1) else { continue };
        let class = match octets.get(start) {
            Some(octet @ (b'2' | b'4' | b'5')) => octet - b'0',
            _ => continue,
        };
        if is_beside(start.checked_sub(1)) {
            continue;
        }
        let Some((subject, end)) = number_at(octets, at + 1) else { continue };
        if octets.get(end) != Some(&b'.') {
            continue;
        }
        let Some((detail, end)) = number_at(octets, end + 1) else { continue };
        let is_sentence_end = octets.get(end) == Some(&b'.') && !is_beside(Some(end + 1));
        if is_beside(Some(end)) && !is_sentence_end {
            continue;
        }
        return Some((Status::new(class, subject, detail), end));
    }
    None
}

/// One to three digits from `at` on, and where they end.
fn number_at(octets: &[u8], at: usize) -> Option<(u16, usize)> {
    let digits = octets.get(at..)?.iter().take_while(|octet| octet.is_ascii_digit()).count();
    let number = octets
        .get(at..at + digits)?
        .iter()
        .fold(0, |sum: u16, digit| sum.saturating_mul(10).saturating_add(u16::from(digit - b'0')));
    (1..=3).contains(&digits).then_some((number, at + digits))
}

/// Words behind which the zone of a list stands.
pub(super) const BEFORE_ZONE: &[&str] = &[
    "blocked using ",
    "blacklisted by ",
    "blacklisted at ",
    "blacklisted on ",
    "blacklisted in ",
    "blocked by ",
    "listed by ",
    "listed in ",
    "listed on ",
    "listed at ",
    "found in ",
    "found on ",
    "on dnsbl ",
    "rbl ",
    "dnsbl ",
];

/// The zone of a list that a text names; `text` is [`normal`].
pub(super) fn zone(text: &str) -> Option<Arc<str>> {
    BEFORE_ZONE.iter().find_map(|words| {
        let (_, rest) = text.split_once(words)?;
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-')).unwrap_or(rest.len());
        let zone = rest.get(..end)?.trim_end_matches(['.', '-']);
        let (_, top) = zone.rsplit_once('.')?;
        // A zone, not an address.
        top.bytes().all(|octet| octet.is_ascii_alphabetic()).then(|| Arc::from(zone))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_case_quotes_and_addresses_do_not_matter() {
        for (text, plain) in [
            ("User  Unknown\r\n\tin table ", "user unknown in table"),
            ("<Spam.Blocked@A.test>... User", "<@>... user"),
            ("ann@a.test...User unknown", "@...user unknown"),
            ("User a@b@c.test doesn\u{2019}t", "user @ doesn't"),
            ("to=<\"x y\"@a.test>:", "to=<\"x y\"@>:"),
            ("Mailto:a@b.test, c", "mailto:@, c"),
            ("ÜBER", "über"),
            ("@", "@"),
            ("", ""),
        ] {
            assert_eq!(normal(text), plain, "{text:?}");
        }
        assert!(normal(&"ü ".repeat(4_000)).len() <= LONGEST + 1);
    }

    #[test]
    fn a_status_is_found_where_it_stands_and_an_address_is_none() {
        let status = |text| status_in(text).map(|(status, _)| status.to_string());

        for (text, said) in [
            ("no such user (#5.1.1)", Some("5.1.1")),
            ("see 4.7.500.", Some("4.7.500")),
            ("5.7.1 no", Some("5.7.1")),
            ("from 10.4.2.2 and 192.5.1.1", None),
            ("5.1", None),
            ("5.1.1.1", None),
            ("v5.1.1", None),
            ("5.1.1234", None),
            ("3.1.1", None),
        ] {
            assert_eq!(status(text).as_deref(), said, "{text}");
        }
    }

    #[test]
    fn the_zone_of_a_list_is_told_from_an_address() {
        for (text, name) in [
            ("host blocked using bl.example.org; reason", Some("bl.example.org")),
            ("blocked using 192.0.2.1", None),
            ("blocked", None),
        ] {
            assert_eq!(zone(text).as_deref(), name, "{text}");
        }
    }
}
