//! Header sections as they come back: with LF or CRLF, folded anyhow, in any charset, cut off in the middle.
//!
//! [`Header`] keeps names in lower case and values unfolded and decoded (RFC 2047). [`parameters`] takes a MIME field apart
//! (RFC 2045, 5.1 and RFC 2231). Numbers and lengths are bounded; what is beyond is left out.

use memchr::memchr;

use super::charset;

/// Most fields of a header section that are kept.
const FIELDS_MOST: usize = 400;
/// Most octets of a value that are kept.
const VALUE_MOST: usize = 8 * 1024;
/// Most octets of a header section that are read.
const SECTION_MOST: usize = 256 * 1024;
/// Most parameters of a MIME field.
const PARAMETERS_MOST: usize = 32;

/// Fields in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Header {
    fields: Vec<(String, String)>,
}

impl Header {
    /// The header section at the beginning of a message, and where its body begins. A byte order mark and a line of mbox before
    /// it are skipped.
    pub fn read(octets: &[u8]) -> (Self, usize) {
        let mut at = if octets.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        while let Some(line) = line_at(octets, at).filter(|line| line.trim_ascii().is_empty() && !line.is_empty()) {
            at += line.len();
        }
        while let Some(line) =
            line_at(octets, at).filter(|line| line.starts_with(b"From ") || line.starts_with(b">From "))
        {
            at += line.len();
        }
        let (header, length) = Self::section(octets.get(at..).unwrap_or_default(), true);
        (header, at + length)
    }

    /// The header of a part: what does not begin with a field is body from its first line on.
    pub fn read_part(octets: &[u8]) -> (Self, usize) {
        Self::section(octets, false)
    }

    /// `is_lenient`: a line that is no field is skipped if a field follows it; else it begins the body.
    fn section(octets: &[u8], is_lenient: bool) -> (Self, usize) {
        let mut header = Self::default();
        let mut at = 0;
        while at < octets.len().min(SECTION_MOST) {
            let Some(line) = line_at(octets, at) else { break };
            if line.trim_ascii().is_empty() {
                return (header, at + line.len());
            }
            let mut end = at + line.len();
            let Some((name, value)) = field(line) else {
                let next = line_at(octets, end).unwrap_or_default();
                if is_lenient && !header.fields.is_empty() && field(next).is_some() {
                    at = end;
                    continue;
                }
                break;
            };
            let mut value = value.get(..value.len().min(VALUE_MOST)).unwrap_or_default().to_vec();
            while let Some(next) = line_at(octets, end).filter(|next| is_folded(next)) {
                if value.len() < VALUE_MOST {
                    value.extend_from_slice(next);
                }
                end += next.len();
            }
            header.push(name, &value);
            at = end;
        }
        (header, at)
    }

    /// Fields among lines of text; a line that is none is skipped.
    pub fn of_lines<'l>(lines: impl IntoIterator<Item = &'l str>) -> Self {
        let mut header = Self::default();
        let mut is_open = false;
        for line in lines {
            if is_open && is_folded(line.as_bytes()) {
                if let Some((_, value)) = header.fields.last_mut().filter(|(_, value)| value.len() < VALUE_MOST) {
                    value.push(' ');
                    value.push_str(line.trim());
                }
                continue;
            }
            is_open = false;
            if let Some((name, value)) = field(line.as_bytes()) {
                is_open = header.fields.len() < FIELDS_MOST;
                if is_open {
                    // Not decoded: an encoded word has no place here, but may be a part of an address.
                    let value = unfolded(&String::from_utf8_lossy(value));
                    header.fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value));
                }
            }
        }
        header
    }

    fn push(&mut self, name: &[u8], value: &[u8]) {
        if self.fields.len() < FIELDS_MOST {
            let value = value.get(..value.len().min(VALUE_MOST)).unwrap_or_default();
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            self.fields.push((name, charset::words(&unfolded(&charset::plain(value)))));
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The first field of this name; `name` is in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether there is such a field.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Every field of this name.
    pub fn all<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h str> {
        self.fields.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The line at `at` with its end; none behind the last.
fn line_at(octets: &[u8], at: usize) -> Option<&[u8]> {
    let rest = octets.get(at..).filter(|rest| !rest.is_empty())?;
    rest.get(..memchr(b'\n', rest).map_or(rest.len(), |found| found + 1))
}

fn is_folded(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t')) && !line.trim_ascii().is_empty()
}

/// Name and value of a line that begins a field.
pub(super) fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', line.get(..line.len().min(200))?)?;
    let name = line.get(..colon)?.trim_ascii_end();
    let is_name = !name.is_empty()
        && name.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.'));
    is_name.then_some((name, line.get(colon + 1..)?))
}

/// One line of it, runs of space as one.
fn unfolded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for word in value.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// Value and parameters of a MIME field: the value and the names in lower case, the values unquoted.
pub(super) fn parameters(value: &str) -> (String, Vec<(String, String)>) {
    let (first, mut rest) = value.split_once(';').unwrap_or((value, ""));
    let first = without_comments(first).split_whitespace().collect::<String>().to_ascii_lowercase();
    let mut found: Vec<(String, String)> = Vec::new();
    while !rest.is_empty() && found.len() < PARAMETERS_MOST {
        let end = rest.find(['=', ';']).unwrap_or(rest.len());
        let name = rest.get(..end).unwrap_or_default().trim().to_ascii_lowercase();
        let Some(behind) = rest.get(end..).and_then(|rest| rest.strip_prefix('=')) else {
            rest = rest.get(end + 1..).unwrap_or_default();
            continue;
        };
        let behind = behind.trim_start();
        let (text, after) = match behind.strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => {
                let end = behind.find(';').unwrap_or(behind.len());
                (behind.get(..end).unwrap_or_default().trim().to_owned(), behind.get(end..).unwrap_or_default())
            }
        };
        // RFC 2231: `name*0`, `name*`: the pieces of one value, in their order.
        match name.split_once('*') {
            Some((base, _)) => match found.iter_mut().find(|(key, _)| key == base) {
                Some((_, value)) => value.push_str(&text),
                None => found.push((base.to_owned(), text)),
            },
            None => found.push((name, text)),
        }
        rest = after.find(';').and_then(|at| after.get(at + 1..)).unwrap_or_default();
    }
    (first, found)
}

/// What stands before the closing quote, and what behind it.
fn unquoted(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (out, text.get(at + 1..).unwrap_or_default()),
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            _ => out.push(c),
        }
    }
    (out, "")
}

/// The text up to a comment: `failed (Bad destination mailbox address)`.
pub(super) fn without_comments(text: &str) -> &str {
    text.split('(').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_unfolded_decoded_and_found_by_their_names() {
        let message = b"From a Thu Nov 26\r\nSubject: =?utf-8?Q?=C3=A4?=\r\n\tb\r\nTO : x\r\n\r\nbody";

        let (header, body) = Header::read(message);

        assert_eq!((header.get("subject"), header.get("to")), (Some("ä b"), Some("x")));
        assert_eq!(message.get(body..), Some(&b"body"[..]));
    }

    #[test]
    fn a_line_that_is_no_field_is_skipped_in_a_message_and_begins_the_body_of_a_part() {
        assert_eq!(Header::read(b"A: 1\nwhat is this\nB: 2\n\n").0.get("b"), Some("2"));
        assert_eq!(Header::read_part(b"Hi. This is qmail\nB: 2\n\n").1, 0);
    }

    #[test]
    fn parameters_are_unquoted_and_put_together() {
        let (kind, found) =
            parameters("Multipart/Report ; boundary=\"a;\\\"b\"; report-type = x;name*0=one; name*1=two");

        let named = |name: &str| found.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        assert_eq!(kind, "multipart/report");
        assert_eq!(
            (named("boundary"), named("report-type"), named("name")),
            (Some("a;\"b"), Some("x"), Some("onetwo"))
        );
    }
}
