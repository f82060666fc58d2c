//! Octets to text: transfer encodings (RFC 2045, 6), charsets, encoded words (RFC 2047).
//!
//! Nothing fails: what cannot be read becomes U+FFFD or is left out. Nothing gives more than it was asked for.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// Names of UTF-7 (RFC 2152), in lower case.
const UTF_7: [&str; 3] = ["utf-7", "unicode-1-1-utf-7", "x-unicode-2-0-utf-7"];
/// Most encoded words of one value.
const WORDS_MOST: usize = 256;

/// The first `most` octets, or a few more, of a body in this Content-Transfer-Encoding.
pub(super) fn transferred(body: &[u8], encoding: &str, most: usize) -> Vec<u8> {
    match encoding {
        "base64" => base64(body, most),
        "quoted-printable" => quoted_printable(body, most),
        _ => body.get(..body.len().min(most)).unwrap_or_default().to_vec(),
    }
}

/// The text of octets in a charset; `None`: the sender does not say which.
pub(super) fn text(octets: &[u8], charset: Option<&str>) -> String {
    if charset.is_some_and(|name| UTF_7.contains(&name.trim())) {
        return utf7(octets);
    }
    let named = charset.and_then(|name| Encoding::for_label(name.trim().as_bytes()));
    match named {
        // ASCII says nothing of octets that are none, and many a sender's Latin-1 is UTF-8.
        Some(encoding) if encoding != WINDOWS_1252 => encoding.decode(octets).0.into_owned(),
        _ => plain(octets),
    }
}

/// RFC 2152: ASCII, and between `+` and `-` UTF-16 in base64; `+-` is a plus sign.
fn utf7(octets: &[u8]) -> String {
    let is_base64 = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/');
    let mut out = String::with_capacity(octets.len());
    let mut rest = octets;
    while let Some(start) = memchr::memchr(b'+', rest) {
        let (before, coded) = rest.split_at(start);
        out.push_str(&plain(before));
        let coded = coded.get(1..).unwrap_or_default();
        let length = coded.iter().take_while(|octet| is_base64(octet)).count();
        let (coded, behind) = coded.split_at(length);
        let is_plus = coded.is_empty() && behind.starts_with(b"-");
        out.push_str(if is_plus { "+" } else { "" });
        out.push_str(&encoding_rs::UTF_16BE.decode_without_bom_handling(&base64(coded, coded.len())).0);
        rest = behind.strip_prefix(b"-").unwrap_or(behind);
    }
    out.push_str(&plain(rest));
    out
}

/// The text of octets of which nobody says what they are: ISO-2022-JP by its escapes, else UTF-8, else windows-1252.
pub(super) fn plain(octets: &[u8]) -> String {
    if memchr::memmem::find(octets, b"\x1b$").is_some() && octets.is_ascii() {
        return encoding_rs::ISO_2022_JP.decode(octets).0.into_owned();
    }
    match std::str::from_utf8(octets) {
        Ok(text) => text.to_owned(),
        Err(_) => WINDOWS_1252.decode_without_bom_handling(octets).0.into_owned(),
    }
}

fn base64(body: &[u8], most: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(most.min(body.len() * 3 / 4 + 3));
    let (mut bits, mut held) = (0_u32, 0_u32);
    for octet in body {
        let value = match octet {
            b'A'..=b'Z' => octet - b'A',
            b'a'..=b'z' => octet - b'a' + 26,
            b'0'..=b'9' => octet - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' => {
                // The end, or the end of one of several pieces.
                (bits, held) = (0, 0);
                continue;
            }
            _ => continue,
        };
        held = (held << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.extend((held >> bits).to_le_bytes().first());
            held &= (1 << bits) - 1;
            if out.len() >= most {
                break;
            }
        }
    }
    out
}

fn quoted_printable(body: &[u8], most: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(most.min(body.len()));
    let mut at = 0;
    while let Some(octet) = body.get(at).filter(|_| out.len() < most) {
        at += 1;
        if *octet != b'=' {
            out.push(*octet);
            continue;
        }
        let digit = |at: usize| body.get(at).and_then(|octet| char::from(*octet).to_digit(16));
        if let (Some(high), Some(low)) = (digit(at), digit(at + 1)) {
            out.extend((high * 16 + low).to_le_bytes().first());
            at += 2;
            continue;
        }
        // A soft line break; white space may have been put behind it.
        let rest = body.get(at..).unwrap_or_default();
        let blanks = rest.iter().take_while(|octet| matches!(octet, b' ' | b'\t' | b'\r')).count();
        match rest.get(blanks) {
            Some(b'\n') => at += blanks + 1,
            None => at += blanks,
            Some(_) => out.push(b'='),
        }
    }
    out
}

/// A value with its encoded words decoded; what is none stays as it is.
pub(super) fn words(value: &str) -> String {
    if !value.contains("=?") {
        return value.to_owned();
    }
    let mut out = String::with_capacity(value.len());
    let (mut rest, mut is_behind_word) = (value, false);
    for _ in 0..WORDS_MOST {
        let Some((before, behind)) = rest.split_once("=?") else { break };
        let Some((decoded, after)) = word(behind) else {
            out.push_str(before);
            out.push_str("=?");
            (rest, is_behind_word) = (behind, false);
            continue;
        };
        // White space between two encoded words is none (RFC 2047, 6.2).
        if !(is_behind_word && before.trim().is_empty()) {
            out.push_str(before);
        }
        out.push_str(&decoded);
        (rest, is_behind_word) = (after, true);
    }
    out.push_str(rest);
    out
}

/// `charset?encoding?text?=` and what follows.
fn word(text: &str) -> Option<(String, &str)> {
    let (charset, rest) = text.split_once('?')?;
    let (encoding, rest) = rest.split_once('?')?;
    let (coded, after) = rest.split_once("?=")?;
    // RFC 2231, 5: a language may follow the charset.
    let charset = charset.split('*').next()?;
    let is_coded = !charset.is_empty() && charset.len() <= 40 && !coded.contains(' ');
    let octets = match encoding {
        "B" | "b" if is_coded => base64(coded.as_bytes(), coded.len()),
        "Q" | "q" if is_coded => quoted_printable(coded.replace('_', " ").as_bytes(), coded.len()),
        _ => return None,
    };
    let encoding = Encoding::for_label(charset.as_bytes()).unwrap_or(UTF_8);
    let decoded = encoding.decode(&octets).0.replace(['\r', '\n'], " ");
    Some((decoded, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfer_encodings_are_read_as_far_as_they_go() {
        assert_eq!(transferred(b"YWJj\r\nZGVm=", "base64", 100), b"abcdef");
        assert_eq!(transferred(b"YWJjZGVm", "base64", 4), b"abcd");
        assert_eq!(transferred(b"a=3D=\r\nb=  \n=zz=", "quoted-printable", 100), b"a=b=zz");
        assert_eq!(transferred(b"abc", "8bit", 2), b"ab");
    }

    #[test]
    fn text_is_read_in_its_charset_or_in_a_likely_one() {
        let japanese = b"\x1b$B<!\x1b(B";
        for (octets, charset, wanted) in [
            (&japanese[..], Some("iso-2022-jp"), "次"),
            (japanese, None, "次"),
            (b"\xbc\xa1", Some("euc-jp"), "次"),
            (b"\x8e\x9f", Some("shift_jis"), "次"),
            (b"\xe4", Some("windows-1251"), "д"),
            (b"\xe4", Some("iso-8859-1"), "ä"),
            (b"\xe4", Some("x-nobody-knows"), "ä"),
            ("ä".as_bytes(), Some("us-ascii"), "ä"),
            (b"a\0b\0", Some("utf-16le"), "ab"),
            (
                b"+ADw-a+AEA-b.test+AD4 +- Empf+AOQ-nger+2D3eAA-+",
                Some("unicode-1-1-utf-7"),
                "<a@b.test> + Empf\u{e4}nger\u{1f600}",
            ),
        ] {
            assert_eq!(text(octets, charset), wanted, "{octets:?} {charset:?}");
        }
    }

    #[test]
    fn encoded_words_are_decoded_and_what_is_none_stays() {
        for (value, wanted) in [
            ("=?utf-8?B?w6Q=?= =?utf-8?Q?=C3=B6_x?= b", "äö x b"),
            ("=?iso-2022-jp?B?GyRCPCEbKEI=?=", "次"),
            ("=?utf-8*de?q?a?=", "a"),
            ("a =? b ?= c", "a =? b ?= c"),
            ("=?utf-8?X?a?=", "=?utf-8?X?a?="),
        ] {
            assert_eq!(words(value), wanted);
        }
    }
}
