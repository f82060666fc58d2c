//! The hash of a body under relaxed canonicalization (RFC 6376, 3.4.4), taken while the body passes by.
//!
//! White space at the end of lines goes, other runs of it become one space, and empty lines at the end go; lines that hold
//! nothing but white space are empty ones. The result does not depend on where the pieces were split. Nothing is held but
//! a buffer of 16 KiB, however long the body or its lines are. Dot-stuffing is not part of a body.

use aws_lc_rs::digest::{Context, Digest, SHA256};
use memchr::memchr;

/// What is gathered before it is hashed: hashing each line by itself would cost more than the copy.
const BUFFER: usize = 16 * 1024;

/// A body that is being hashed.
#[derive(Clone)]
pub struct BodyHash {
    hash: Context,
    out: Vec<u8>,
    /// Line ends that count only if text follows.
    ends: u64,
    /// White space that counts only if text follows in the same line.
    has_space: bool,
    /// The last octet was a CR, which is a line end only with its LF.
    has_cr: bool,
    /// Something of the line that is being read has gone by.
    is_inside: bool,
    is_empty: bool,
}

impl Default for BodyHash {
    fn default() -> Self {
        Self {
            hash: Context::new(&SHA256),
            out: Vec::new(),
            ends: 0,
            has_space: false,
            has_cr: false,
            is_inside: false,
            is_empty: true,
        }
    }
}

impl std::fmt::Debug for BodyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyHash").finish_non_exhaustive()
    }
}

impl BodyHash {
    /// The hash of a body in one piece.
    pub fn of(body: &[u8]) -> Digest {
        let mut hash = Self::default();
        hash.update(body);
        hash.finish()
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while !rest.is_empty() {
            let end = memchr(b'\n', rest).map(|at| at + 1);
            let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
            match line.strip_suffix(b"\r\n") {
                Some(text) if !self.is_inside && is_plain(text) => self.take_line(text),
                _ => line.iter().for_each(|octet| self.take(*octet)),
            }
            if self.out.len() >= BUFFER {
                self.flush();
            }
            rest = after;
        }
    }

    /// The hash, after the last piece.
    pub fn finish(mut self) -> Digest {
        if self.has_cr {
            self.put(b'\r');
        }
        if !self.is_empty {
            self.out.extend_from_slice(b"\r\n");
        }
        self.flush();
        self.hash.finish()
    }

    /// A whole line, without its end, that is as it must be.
    fn take_line(&mut self, text: &[u8]) {
        if !text.is_empty() {
            self.put_ends();
            self.out.extend_from_slice(text);
            self.is_empty = false;
        }
        self.ends += 1;
    }

    fn take(&mut self, octet: u8) {
        self.is_inside = true;
        if octet == b'\n' && self.has_cr {
            (self.has_cr, self.has_space, self.is_inside) = (false, false, false);
            self.ends += 1;
            return;
        }
        if self.has_cr {
            self.has_cr = false;
            self.put(b'\r');
        }
        match octet {
            b'\r' => self.has_cr = true,
            b' ' | b'\t' => self.has_space = true,
            text => self.put(text),
        }
    }

    fn put(&mut self, octet: u8) {
        self.put_ends();
        if self.has_space {
            self.out.push(b' ');
            self.has_space = false;
        }
        self.out.push(octet);
        self.is_empty = false;
        if self.out.len() >= BUFFER {
            self.flush();
        }
    }

    fn put_ends(&mut self) {
        while self.ends > 0 {
            self.out.extend_from_slice(b"\r\n");
            self.ends -= 1;
            if self.out.len() >= BUFFER {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        self.hash.update(&self.out);
        self.out.clear();
    }
}

/// Whether a line is its own canonical form. Written so that the compiler makes vector code of it.
fn is_plain(text: &[u8]) -> bool {
    let Some((&last, _)) = text.split_last() else { return true };
    let (mut is_bad, mut bare) = (0_u8, 0_u8);
    for octet in text {
        bare |= u8::from(*octet == b'\t') | u8::from(*octet == b'\r');
    }
    for (&before, &octet) in text.iter().zip(text.get(1..).unwrap_or_default()) {
        is_bad |= u8::from(before == b' ') & u8::from(octet == b' ');
    }
    is_bad | bare == 0 && last != b' '
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::digest;
    use base64::Engine;
    use proptest::prelude::*;

    use super::*;

    /// The definition, written as the RFC has it.
    fn reference(body: &[u8]) -> Vec<u8> {
        let text: String = body.iter().map(|octet| char::from(*octet)).collect();
        let mut lines: Vec<String> = text
            .split("\r\n")
            .map(|line| {
                let spaced: String = line.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
                let mut out = String::new();
                for c in spaced.trim_end_matches(' ').chars() {
                    if !(c == ' ' && out.ends_with(' ')) {
                        out.push(c);
                    }
                }
                out
            })
            .collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        let joined: String = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]).collect();
        joined.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
    }

    fn split(body: &[u8], at: usize) -> Vec<u8> {
        let (a, b) = body.split_at(at);
        let mut hash = BodyHash::default();
        hash.update(a);
        hash.update(b);
        hash.finish().as_ref().to_vec()
    }

    #[test]
    fn the_examples_of_rfc_6376_have_their_form() {
        // 3.4.5 and 3.4.4: the hash of the empty body.
        for (body, form) in
            [(" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"), ("", ""), ("\r\n\r\n", ""), (" \t\r\n \r\n", "")]
        {
            assert_eq!(BodyHash::of(body.as_bytes()).as_ref(), digest(&SHA256, form.as_bytes()).as_ref(), "{body:?}");
        }
        let empty = base64::engine::general_purpose::STANDARD.encode(BodyHash::of(b"\r\n"));
        assert_eq!(empty, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn lines_of_white_space_before_the_end_are_empty_ones() {
        for body in ["text\r\n \t\r\n", "text\r\n\r\n  \r\n\r\n", "text \r\n", "text"] {
            assert_eq!(BodyHash::of(body.as_bytes()).as_ref(), digest(&SHA256, b"text\r\n").as_ref(), "{body:?}");
        }
    }

    #[test]
    fn long_runs_pass_through_a_small_buffer() {
        let long = [b"a ".repeat(100_000), b"\r\n".repeat(50_000), b"b".to_vec()].concat();

        assert_eq!(BodyHash::of(&long).as_ref(), digest(&SHA256, &reference(&long)).as_ref());
    }

    proptest! {
        #[test]
        fn any_body_in_any_pieces_has_the_hash_of_its_form(
            parts in proptest::collection::vec(prop_oneof![
                Just(&b"\r\n"[..]), Just(&b" "[..]), Just(&b"\t"[..]), Just(&b"word"[..]), Just(&b"\xc3\xbc."[..]),
                Just(&b"a b c\r\n"[..]), Just(&b"a  b\r\n"[..]), Just(&b" lead\r\n"[..]), Just(&b"trail \r\n"[..]),
            ], 0..40),
            share in 0.0..=1.0_f64,
        ) {
            let body = parts.concat();
            #[allow(clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let at = (body.len() as f64 * share) as usize;
            let expected = digest(&SHA256, &reference(&body));
            prop_assert_eq!(split(&body, at), expected.as_ref().to_vec());
        }
    }
}
