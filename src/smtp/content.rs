//! What content may hold: line endings and NUL (RFC 5321, 2.3.8; RFC 5322, 2.2 and 4), checked in one pass.
//!
//! A [`Scan`] watches pieces of content go by. Its verdict does not depend on where the pieces were split. [`normalize`]
//! repairs line endings for listeners that ask for it.

/// What was seen in the pieces so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    last: u8,
    eight_bit: u8,
    has_bare: bool,
    has_nul: bool,
}

impl Scan {
    /// Looks at the next piece. Written so that the compiler makes vector code of it: no branch inside.
    pub fn push(&mut self, piece: &[u8]) {
        let Some((&first, rest)) = piece.split_first() else { return };
        let mut is_bare = is_broken(self.last, first);
        let mut bits = first;
        let mut is_nul = u8::from(first == 0);
        for (&before, &byte) in piece.iter().zip(rest) {
            is_bare |= is_broken(before, byte);
            bits |= byte;
            is_nul |= u8::from(byte == 0);
        }
        self.last = piece.last().copied().unwrap_or_default();
        self.eight_bit |= bits & 0x80;
        self.has_bare |= is_bare != 0;
        self.has_nul |= is_nul != 0;
    }

    /// Whether a CR without LF or an LF without CR was seen. A CR at the very end counts once there is no more.
    pub fn has_bare_line_ending(&self) -> bool {
        self.has_bare
    }

    /// The same after the last piece.
    pub fn has_bare_line_ending_at_end(&self) -> bool {
        self.has_bare || self.last == b'\r'
    }

    /// The last octet seen; 0 before the first.
    pub fn last(&self) -> u8 {
        self.last
    }

    /// Whether a NUL was seen.
    pub fn has_nul(&self) -> bool {
        self.has_nul
    }

    /// Whether an octet over 127 was seen.
    pub fn has_eight_bit(&self) -> bool {
        self.eight_bit != 0
    }
}

/// 1 if `before` is CR and `byte` is not LF, or the other way round.
fn is_broken(before: u8, byte: u8) -> u8 {
    u8::from(before == b'\r') ^ u8::from(byte == b'\n')
}

/// Appends `piece` to `out` with every bare CR and bare LF made a CRLF. `last` carries the end of the piece before; what is
/// pending when there is no more is only a CRLF that has been written already, so nothing needs to be flushed.
pub fn normalize(piece: &[u8], last: &mut u8, out: &mut Vec<u8>) {
    for &byte in piece {
        match byte {
            b'\r' => out.extend_from_slice(b"\r\n"),
            b'\n' if *last == b'\r' => {}
            b'\n' => out.extend_from_slice(b"\r\n"),
            other => out.push(other),
        }
        *last = byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(pieces: &[&[u8]]) -> (bool, bool, bool) {
        let mut scan = Scan::default();
        pieces.iter().for_each(|piece| scan.push(piece));
        (scan.has_bare_line_ending_at_end(), scan.has_nul(), scan.has_eight_bit())
    }

    #[test]
    fn line_endings_are_judged_the_same_wherever_the_content_is_split() {
        let cases: [(&[u8], bool); 10] = [
            (b"a\r\nb\r\n", false),
            (b"", false),
            (b"\r\n", false),
            (b"a\nb\r\n", true),
            (b"\n", true),
            (b"a\rb\r\n", true),
            (b"a\r", true),
            (b"\r\r\n", true),
            (b"\r\n\n", true),
            (b"\n\r", true),
        ];
        for (content, is_bare) in cases {
            for at in 0..=content.len() {
                let (a, b) = content.split_at(at);
                assert_eq!(scan(&[a, b]).0, is_bare, "{content:?} at {at}");
            }
        }
    }

    #[test]
    fn nul_and_eight_bit_octets_are_seen_in_every_place() {
        for at in 0..100 {
            let mut content = vec![b'a'; 100];
            content[at] = 0;
            assert_eq!(scan(&[&content]), (false, true, false));
            content[at] = 0x80;
            assert_eq!(scan(&[&content]), (false, false, true));
        }
    }

    #[test]
    fn normalizing_makes_crlf_of_every_line_ending() {
        for at in 0..=9 {
            let (a, b) = b"a\nb\rc\r\nd\r".split_at(at);
            let (mut out, mut last) = (Vec::new(), 0);
            normalize(a, &mut last, &mut out);
            normalize(b, &mut last, &mut out);
            assert_eq!(out, b"a\r\nb\r\nc\r\nd\r\n", "at {at}");
        }
    }
}
