//! Content transfer encodings (RFC 2045, 6.7 and 6.8), so that a DSN or a report passes any next hop.
//!
//! Both give lines of at most 76 octets with CRLF line ends, ASCII only, whatever comes in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Longest encoded line without its CRLF (RFC 2045, 6.7 (5) and 6.8).
const WIDTH: usize = 76;
/// Octets that fill a line of base64.
const BASE64_LINE: usize = WIDTH / 4 * 3;

/// Appends `octets` in quoted-printable; CRLF stays a line end, a bare CR or LF does not become one.
pub fn quoted_printable(out: &mut Vec<u8>, octets: &[u8]) {
    let mut column = 0;
    let mut rest = octets;
    while let Some((&octet, after)) = rest.split_first() {
        if let Some(next_line) = rest.strip_prefix(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            (column, rest) = (0, next_line);
            continue;
        }
        let ends_line = after.is_empty() || after.starts_with(b"\r\n");
        let is_literal = match octet {
            b'=' => false,
            b' ' | b'\t' => !ends_line,
            octet => octet.is_ascii_graphic(),
        };
        let width = if is_literal { 1 } else { 3 };
        // One column is left for the soft line break.
        if column + width >= WIDTH {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        if is_literal {
            out.push(octet);
        } else {
            out.extend_from_slice(&[b'=', hex(octet >> 4), hex(octet & 15)]);
        }
        column += width;
        rest = after;
    }
}

const fn hex(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'A' + digit - 10 }
}

/// Appends `octets` in base64.
pub fn base64(out: &mut Vec<u8>, octets: &[u8]) {
    for line in octets.chunks(BASE64_LINE) {
        out.extend_from_slice(STANDARD.encode(line).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::decoders::base64::base64_decode;
    use mail_parser::decoders::quoted_printable::quoted_printable_decode;
    use proptest::prelude::*;

    use super::*;

    fn encoded(encode: fn(&mut Vec<u8>, &[u8]), octets: &[u8]) -> String {
        let mut out = Vec::new();
        encode(&mut out, octets);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_examples_of_the_rfcs_come_out() {
        assert_eq!(encoded(quoted_printable, "a=b grüß \r\nc\t".as_bytes()), "a=3Db gr=C3=BC=C3=9F=20\r\nc=09");
        for (plain, expected) in [("", ""), ("f", "Zg==\r\n"), ("fo", "Zm8=\r\n"), ("foobar", "Zm9vYmFy\r\n")] {
            assert_eq!(encoded(base64, plain.as_bytes()), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_ascii_in_short_lines_and_decodes_to_the_same(
            octets in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..400),
                "([ -~\t=.ü]{0,100}\r\n){0,8}".prop_map(String::into_bytes),
            ],
        ) {
            for (encode, decoded) in [
                (quoted_printable as fn(&mut Vec<u8>, &[u8]), quoted_printable_decode as fn(&[u8]) -> Option<Vec<u8>>),
                (base64, base64_decode),
            ] {
                let text = encoded(encode, &octets);

                prop_assert!(text.is_ascii() && text.split("\r\n").all(|line| line.len() <= WIDTH), "{text}");
                prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
                let decoded = if text.is_empty() { Vec::new() } else { decoded(text.as_bytes()).unwrap() };
                prop_assert_eq!(decoded, octets.clone());
            }
        }
    }
}
