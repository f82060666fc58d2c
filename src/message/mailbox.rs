//! The mailboxes of a From field (RFC 5322, 3.4), read strictly: who decides by them whether somebody may send must see what
//! every recipient's program sees, so what can be read in two ways is not read at all.

use crate::smtp::address::Address;

/// The deepest comment within comments.
const DEPTH_MOST: usize = 16;

/// Every address of a field's value, folding included; none: it is not of the form, or has a group or a route, which nobody
/// needs in a From field. Comments and display names are skipped.
pub fn mailboxes(value: &[u8]) -> Option<Vec<Address>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let (address, after) = mailbox(rest)?;
        found.push(address);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some(found),
            None => return None,
        }
    }
}

/// One mailbox, up to the comma behind it.
fn mailbox(text: &str) -> Option<(Address, &str)> {
    let mut rest = blank(text)?;
    let mut words = String::new();
    let mut has_space = false;
    loop {
        let first = rest.chars().next();
        match first {
            // What stood before is a display name; nothing but a comma may follow the address.
            Some('<') => {
                let (inner, after) = angle(rest)?;
                let after = blank(after)?;
                let is_end = after.is_empty() || after.starts_with(',');
                return is_end.then_some((inner, after));
            }
            None | Some(',') if !words.is_empty() && !has_space => return Some((words.parse().ok()?, rest)),
            None | Some(',' | ';' | ':' | '>' | ')' | '[' | ']') if first != Some('[') => return None,
            Some('"') => {
                let end = quoted(rest)?;
                words.push_str(rest.get(..end)?);
                rest = rest.get(end..)?;
            }
            Some('[') => {
                let end = rest.find(']')? + 1;
                words.push_str(rest.get(..end)?);
                rest = rest.get(end..)?;
            }
            Some(c) if c.is_control() && !matches!(c, '\t' | '\r' | '\n') => return None,
            Some(c) => {
                words.push(c);
                rest = rest.get(c.len_utf8()..)?;
            }
            None => return None,
        }
        let after = blank(rest)?;
        // A space around `@` or a dot is obsolete syntax that programs read in different ways.
        has_space |= after.len() != rest.len() && !matches!(after.chars().next(), None | Some(','));
        rest = after;
    }
}

/// `<address>`, and what follows it.
fn angle(text: &str) -> Option<(Address, &str)> {
    let inner = text.strip_prefix('<')?;
    let mut at = 0;
    while !inner.get(at..)?.starts_with('>') {
        let here = inner.get(at..)?;
        at += if here.starts_with('"') { quoted(here)? } else { here.chars().next()?.len_utf8() };
    }
    Some((inner.get(..at)?.parse().ok()?, inner.get(at + 1..)?))
}

/// Octets of the quoted string that a text begins with.
fn quoted(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The text after spaces, folding and comments.
fn blank(text: &str) -> Option<&str> {
    let mut rest = text;
    let mut depth = 0_usize;
    loop {
        let Some(first) = rest.chars().next() else { return (depth == 0).then_some(rest) };
        let used = match first {
            ' ' | '\t' | '\r' | '\n' => 1,
            '(' => {
                depth += 1;
                1
            }
            ')' if depth > 0 => {
                depth -= 1;
                1
            }
            '\\' if depth > 0 => 1 + rest.get(1..)?.chars().next()?.len_utf8(),
            other if depth > 0 => other.len_utf8(),
            _ => return Some(rest),
        };
        if depth > DEPTH_MOST {
            return None;
        }
        rest = rest.get(used..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<String> {
        let found = mailboxes(value.as_bytes())?;
        Some(found.iter().map(Address::as_str).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn addresses_are_found_behind_names_and_comments() {
        for (value, found) in [
            (" ann@a.test\r\n", "ann@a.test"),
            (" Ann <ann@a.test>\r\n", "ann@a.test"),
            (" \"Ann, <bob@b.test>\" <ann@a.test>\r\n", "ann@a.test"),
            (" =?utf-8?q?bob=40b.test?= <ann@a.test>\r\n", "ann@a.test"),
            (" bob@b.test <ann@a.test>\r\n", "ann@a.test"),
            (" Ann (a \\) (b) <x@y.test>)\r\n <ann@a.test> (c)\r\n", "ann@a.test"),
            (" ann@a.test, Bob\r\n\t<bob@b.test>\r\n", "ann@a.test bob@b.test"),
            (" \"a b\"@a.test\r\n", "\"a b\"@a.test"),
            (" <\"a>b\"@a.test>\r\n", "\"a>b\"@a.test"),
            (" \u{fc}@\u{fc}.test\r\n", "\u{fc}@\u{fc}.test"),
            (" ann@[192.0.2.1]\r\n", "ann@[192.0.2.1]"),
            (" John Q. Public <ann@a.test>\r\n", "ann@a.test"),
        ] {
            assert_eq!(read(value).as_deref(), Some(found), "{value:?}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not_read() {
        for value in [
            "",
            " \r\n",
            " ann\r\n",
            " <>\r\n",
            " <ann@a.test\r\n",
            " ann@a.test bob@b.test\r\n",
            " ann@a.test,\r\n",
            " ,ann@a.test\r\n",
            " <ann@a.test> <bob@b.test>\r\n",
            " <ann@a.test> bob@b.test\r\n",
            " us: ann@a.test;\r\n",
            " <@r.test:ann@a.test>\r\n",
            " ann @a.test\r\n",
            " ann@ a.test\r\n",
            " \"ann@a.test\r\n",
            " (ann@a.test\r\n",
            " ann@a.test)\r\n",
            " <<ann@a.test>>\r\n",
            " ann@a.test\0\r\n",
            " a@b@c.test <\r\n",
            " ann@a.test;bob@b.test\r\n",
        ] {
            assert_eq!(read(value), None, "{value:?}");
        }
        assert_eq!(mailboxes(b" \xff@a.test\r\n"), None);
        assert_eq!(read(&format!(" {}ann@a.test", "(".repeat(100_000))), None);
    }
}
