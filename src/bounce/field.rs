//! Lines of a DSN: harmless, folded, and decoded from what an SMTP parameter carried.
//!
//! Whatever comes from a client, a receiver or DNS passes [`clean`] before it is written, so no value can end a line,
//! add a field or hold a control character.

use std::borrow::Cow;

use crate::clock::UnixTime;
use crate::message::date::MailDate;

/// Where lines are folded (RFC 5322, 2.1.1: 78 characters).
const WIDTH: usize = 76;
/// A word longer than this is cut: a line must not pass 998 octets (RFC 5322, 2.1.1).
const LONGEST_WORD: usize = 900;

/// `text` without control characters, line separators and bidirectional overrides; non-ASCII kept only if `is_utf8`.
pub fn clean(text: &str, is_utf8: bool) -> Cow<'_, str> {
    let is_harmless = |c: char| (' '..='~').contains(&c) || (is_utf8 && is_plain(c));
    if text.chars().all(is_harmless) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if is_harmless(c) { c } else { substitute(c) }).collect())
}

fn is_plain(c: char) -> bool {
    let is_separator = matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    let is_direction = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_ascii() && !c.is_control() && !is_separator && !is_direction
}

fn substitute(c: char) -> char {
    if c.is_ascii_control() || c.is_whitespace() { ' ' } else { '?' }
}

/// Appends `name: value`, folded at spaces.
pub fn folded(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    wrapped(out, value, name.len() + 1, " ");
}

/// Appends `name: value` on one line, for values that must not be folded (addresses).
pub fn plain(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Appends a paragraph whose lines begin with `indent`.
pub fn paragraph(out: &mut Vec<u8>, text: &str, indent: &str) {
    let indent_but_one = indent.get(1..).unwrap_or_default();
    if indent.is_empty() {
        wrapped_from(out, text, 0, "", true);
    } else {
        out.extend_from_slice(indent_but_one.as_bytes());
        wrapped(out, text, indent_but_one.len(), indent);
    }
}

fn wrapped(out: &mut Vec<u8>, text: &str, column: usize, indent: &str) {
    wrapped_from(out, text, column, indent, false);
}

/// Words with a space before each, save the first if `is_start`; a line that would pass [`WIDTH`] ends, the next begins
/// with `indent`.
fn wrapped_from(out: &mut Vec<u8>, text: &str, mut column: usize, indent: &str, is_start: bool) {
    let mut is_start = is_start;
    for word in text.split(' ') {
        let fits = column + 1 + word.len() <= WIDTH || word.is_empty();
        if is_start {
            is_start = false;
        } else if fits || column <= indent.len() {
            out.push(b' ');
            column += 1;
        } else {
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(indent.as_bytes());
            column = indent.len();
        }
        column += cut_word(out, word, indent);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a word, over several lines if it is very long; gives the length of what is on the last one.
fn cut_word(out: &mut Vec<u8>, word: &str, indent: &str) -> usize {
    let mut rest = word;
    while rest.len() > LONGEST_WORD {
        let cut = (0..=LONGEST_WORD).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        let (head, tail) = rest.split_at_checked(cut).unwrap_or((rest, ""));
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(if indent.is_empty() { b"" } else { b" " });
        rest = tail;
    }
    out.extend_from_slice(rest.as_bytes());
    rest.len()
}

/// A date as header fields write it (RFC 5322, 3.3), in UTC.
pub fn date(time: UnixTime) -> String {
    MailDate(time).to_string()
}

/// What xtext (RFC 3461, 4) stands for; `None` if it is malformed or would hold anything but printable text.
pub fn xtext(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let octet = match byte {
            b'+' => (hex(bytes.next()?)? << 4) | hex(bytes.next()?)?,
            other => other,
        };
        octets.push(octet);
    }
    let decoded = String::from_utf8(octets).ok()?;
    decoded.chars().all(|c| (' '..='~').contains(&c) || is_plain(c)).then_some(decoded)
}

/// RFC 3461, 4: xtext has upper-case digits only; lower case is read all the same.
fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, value: &str) -> String {
        let mut out = Vec::new();
        folded(&mut out, name, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn long_fields_are_folded_at_spaces_and_unfold_to_the_same() {
        let value = "smtp; 550 5.7.1 ".to_owned() + &"word ".repeat(60) + "end";

        let text = field("Diagnostic-Code", &value);

        assert!(text.lines().all(|line| line.len() <= 78), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with(' ')));
        assert_eq!(text.trim_end().replace("\r\n", ""), format!("Diagnostic-Code: {value}"));
    }

    #[test]
    fn words_without_spaces_never_pass_the_line_limit() {
        let text = field("X", &"a".repeat(5_000)) + &field("X", &"é".repeat(3_000));

        assert!(text.lines().all(|line| line.len() <= 998));
    }

    #[test]
    fn a_value_cannot_end_its_line() {
        let hostile = "550 no\r\nBcc: x\n\0\u{85}\u{2028}\u{202e}end\u{1b}[2J";

        for is_utf8 in [false, true] {
            let cleaned = clean(hostile, is_utf8);

            assert!(cleaned.chars().all(|c| !c.is_control() && c != '\u{2028}' && c != '\u{202e}'), "{cleaned:?}");
        }
        assert_eq!(clean("grüß", true), "grüß");
        assert_eq!(clean("grüß", false), "gr??");
    }

    #[test]
    fn xtext_is_decoded_unless_it_would_hide_controls() {
        assert_eq!(xtext("a+2Bb+3Dc").as_deref(), Some("a+b=c"));
        for bad in ["a+0D+0ABcc:+20x", "+00", "+1B", "a+", "a+2", "a+G0", "+FF", "+E2+80+A8"] {
            assert_eq!(xtext(bad), None, "{bad}");
        }
    }

    #[test]
    fn paragraphs_are_indented_on_every_line() {
        let mut out = Vec::new();

        paragraph(&mut out, &"word ".repeat(40), "    ");

        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().count() > 2 && text.lines().all(|line| line.starts_with("    ") && line.len() <= 78));
    }
}
