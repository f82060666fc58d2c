//! Whose message it is: the domain of the only mailbox of the only From field (RFC 5322, 3.6.2).
//!
//! Comments, quoted strings and display names are read over; groups and source routes are not read, and neither is
//! anything that two readers could understand differently. The domain comes out in lower case and in its ASCII form.

use hickory_proto::rr::Name;

use crate::message::header::{Field, fields};

/// What the From fields of a message say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Author {
    /// One field, one mailbox: its domain.
    One(String),
    /// Several mailboxes, or several fields: their domains.
    Several(Vec<String>),
    /// None, or none that can be read: it may be anybody's.
    Unknown,
}

impl Author {
    /// Of the header section that `content` begins with.
    pub fn of(content: &[u8]) -> Self {
        let mut domains = Vec::new();
        let mut count = 0;
        for field in fields(content).filter(|field: &Field<'_>| field.is("From")) {
            count += 1;
            let Some(more) = mailboxes(field.value).filter(|more| !more.is_empty()) else { return Self::Unknown };
            domains.extend(more);
        }
        match (count, domains.as_mut_slice()) {
            (1, [only]) => Self::One(std::mem::take(only)),
            (0, _) => Self::Unknown,
            _ => Self::Several(domains),
        }
    }
}

/// Where in a mailbox list the reader is.
#[derive(Default)]
struct Reader {
    domains: Vec<String>,
    /// The text outside of comments and angle brackets, quoted strings as `"`.
    plain: Vec<u8>,
    /// What is between angle brackets, after `<`; and whether `>` has come.
    angle: Option<(Vec<u8>, bool)>,
}

/// The domains of a list of mailboxes; none if it cannot be read.
fn mailboxes(value: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader::default();
    let (mut depth, mut is_quoted) = (0_usize, false);
    let mut octets = value.iter();
    while let Some(&octet) = octets.next() {
        match octet {
            b'\\' if is_quoted || depth > 0 => drop(octets.next()?),
            b'"' if depth == 0 => {
                is_quoted = !is_quoted;
                if is_quoted {
                    reader.put(b'"')?;
                }
            }
            _ if is_quoted => {}
            b'(' => depth += 1,
            b')' => depth = depth.checked_sub(1)?,
            _ if depth > 0 => {}
            b',' => reader.end()?,
            b'<' if reader.angle.is_none() => reader.angle = Some((Vec::new(), false)),
            b'>' => match &mut reader.angle {
                Some((_, is_closed @ false)) => *is_closed = true,
                _ => return None,
            },
            b'<' | b':' | b';' => return None,
            octet => reader.put(octet)?,
        }
    }
    if is_quoted || depth > 0 {
        return None;
    }
    reader.end()?;
    Some(reader.domains)
}

impl Reader {
    fn put(&mut self, octet: u8) -> Option<()> {
        match &mut self.angle {
            None => self.plain.push(octet),
            Some((address, false)) => address.push(octet),
            // Nothing but white space follows an address.
            Some((_, true)) => return octet.is_ascii_whitespace().then_some(()),
        }
        Some(())
    }

    /// The end of a mailbox. Empty ones are read over (RFC 5322, 4.4).
    fn end(&mut self) -> Option<()> {
        let plain = std::mem::take(&mut self.plain);
        let address = match self.angle.take() {
            Some((address, true)) => address,
            Some((_, false)) => return None,
            None if plain.trim_ascii().is_empty() => return Some(()),
            None => plain,
        };
        let address = std::str::from_utf8(&address).ok()?.trim();
        let (local, domain) = address.split_once('@')?;
        let local = local.trim();
        if local.is_empty() || local.contains(char::is_whitespace) {
            return None;
        }
        self.domains.push(ascii(domain.trim())?);
        Some(())
    }
}

/// A domain in lower case, in its ASCII form (RFC 5890), without a final dot.
fn ascii(domain: &str) -> Option<String> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let is_plain = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    // A literal is a domain that no key is for.
    let is_literal = domain.starts_with('[') && domain.ends_with(']');
    if domain.is_empty() || !(is_literal || domain.chars().all(is_plain)) {
        return None;
    }
    if domain.is_ascii() {
        return Some(domain.to_ascii_lowercase());
    }
    Some(Name::from_utf8(domain).ok()?.to_ascii().trim_end_matches('.').to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author(from: &str) -> Author {
        Author::of(format!("To: x@y.test\r\nFrom: {from}\r\n\r\nFrom: body@b.test\r\n").as_bytes())
    }

    #[test]
    fn one_mailbox_is_read_however_it_is_written() {
        for from in [
            "a@B.test",
            "A <a@b.test>",
            "\"A, \\\"B\\\" <x@evil.test>\" <a@b.test>",
            "(x@evil.test) a@b.test (c, d)",
            "A (b \\) c) <a@b.test>",
            "=?utf-8?q?J=C3=BCrg?= <a@b.test>",
            "Jürg\r\n\t<a@b.test>",
            "<\"a@c\"@b.test>",
            " , a@b.test,",
            "<a@b.test.> (x)",
        ] {
            assert_eq!(author(from), Author::One("b.test".to_owned()), "{from}");
        }
        assert_eq!(author("<ü@BÜCHER.test>"), Author::One("xn--bcher-kva.test".to_owned()));
        assert_eq!(author("<a@[192.0.2.1]>"), Author::One("[192.0.2.1]".to_owned()));
    }

    #[test]
    fn several_mailboxes_or_fields_are_told_as_such() {
        let both = Author::Several(vec!["b.test".to_owned(), "d.test".to_owned()]);

        assert_eq!(author("a@b.test, <c@d.test>"), both);
        assert_eq!(author("a@b.test\r\nfrom: c@d.test"), both);
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not_read() {
        for from in [
            "",
            "a",
            "a@",
            "@b.test",
            "a@b.test@c.test",
            "group: a@b.test;",
            "<@x.test:a@b.test>",
            "<a@b.test> c@d.test",
            "<a@b.test><c@d.test>",
            "<a@b.test",
            "\"a@b.test",
            "(a@b.test",
            "a@b.test)",
            "a@b.test c",
            "\"A\" a@b.test",
        ] {
            assert_eq!(author(from), Author::Unknown, "{from}");
        }
        assert_eq!(Author::of(b"To: a@b.test\r\n\r\n"), Author::Unknown);
    }
}
