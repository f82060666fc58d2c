//! The data phase, receiving side: end of data and dot-unstuffing (RFC 5321, 4.5.2).
//!
//! A [`Decoder`] is fed what the client sends after the 354 in pieces of any size, and gives out the content in pieces. Only
//! CRLF "." CRLF ends the data, whatever surrounds it: a bare CR or LF never makes a line. Whether the content is acceptable
//! is not judged here but in [`super::content`].

use memchr::memmem;

/// Where the decoder stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// After CRLF, or at the very beginning (RFC 5321, 4.1.1.4: the CRLF of DATA counts).
    #[default]
    LineStart,
    /// After a dot at the start of a line; it is not content, whatever follows.
    Dot,
    /// After that dot and a CR.
    DotCr,
    /// Inside a line.
    Inside,
    /// Inside a line, after a CR.
    Cr,
}

/// Finds the end of data and removes the stuffed dots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    state: State,
}

/// What became of a piece of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Octets used; all of them unless the data ended.
    pub used: usize,
    /// CRLF "." CRLF was seen.
    pub has_ended: bool,
}

impl Decoder {
    /// Decodes `input`, handing pieces of content to `sink` in order.
    pub fn decode(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Decoded {
        let mut at = 0;
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
            let first = rest.first().copied().unwrap_or_default();
            match (self.state, first) {
                (State::LineStart, b'.') => (self.state, at) = (State::Dot, at + 1),
                (State::LineStart, _) => self.state = State::Inside,
                (State::Dot, b'\r') => (self.state, at) = (State::DotCr, at + 1),
                (State::Dot, _) => self.state = State::Inside,
                (State::DotCr, b'\n') => {
                    self.state = State::default();
                    return Decoded { used: at + 1, has_ended: true };
                }
                (State::DotCr, _) => {
                    sink(b"\r");
                    self.state = State::Cr;
                }
                (State::Cr, b'\n') => {
                    sink(b"\n");
                    (self.state, at) = (State::LineStart, at + 1);
                }
                (State::Cr, _) => self.state = State::Inside,
                (State::Inside, _) => at += self.inside(rest, &mut sink),
            }
        }
        Decoded { used: input.len(), has_ended: false }
    }

    /// Passes on everything up to the next line that begins with a dot, in one piece.
    fn inside(&mut self, rest: &[u8], sink: &mut impl FnMut(&[u8])) -> usize {
        let length = memmem::find(rest, b"\r\n.").map_or(rest.len(), |found| found + 2);
        let piece = rest.get(..length).unwrap_or(rest);
        self.state = match piece {
            [.., b'\r', b'\n'] => State::LineStart,
            [.., b'\r'] => State::Cr,
            _ => State::Inside,
        };
        sink(piece);
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> (Vec<u8>, Option<usize>) {
        let (mut decoder, mut content, mut before) = (Decoder::default(), Vec::new(), 0);
        for piece in pieces {
            let decoded = decoder.decode(piece, |part| content.extend_from_slice(part));
            if decoded.has_ended {
                return (content, Some(before + decoded.used));
            }
            before += piece.len();
        }
        (content, None)
    }

    /// RFC 5321, 4.5.2, written as slowly and plainly as possible.
    fn reference(input: &[u8]) -> (Vec<u8>, Option<usize>) {
        let mut content = Vec::new();
        let mut at = 0;
        let mut is_line_start = true;
        while at < input.len() {
            if is_line_start && input[at..].starts_with(b".\r\n") {
                return (content, Some(at + 3));
            }
            if is_line_start && input[at] == b'.' {
                at += 1;
            }
            let rest = &input[at..];
            let end = rest.windows(2).position(|pair| pair == b"\r\n").map_or(rest.len(), |found| found + 2);
            content.extend_from_slice(&rest[..end]);
            is_line_start = rest[..end].ends_with(b"\r\n");
            at += end;
        }
        (content, None)
    }

    /// All texts of up to `longest` characters of the alphabet that matters.
    fn texts(longest: u32) -> impl Iterator<Item = Vec<u8>> {
        const ALPHABET: [u8; 4] = [b'\r', b'\n', b'.', b'a'];
        (1..=longest).flat_map(|length| {
            (0..4usize.pow(length))
                .map(move |number| (0..length).map(|place| ALPHABET[(number >> (2 * place)) & 3]).collect())
        })
    }

    #[test]
    fn every_short_text_decodes_as_the_reference_says() {
        for text in texts(8) {
            let (content, end) = decode(&[&text]);
            let (expected, expected_end) = reference(&text);

            assert_eq!(end, expected_end, "{text:?}");
            if end.is_some() {
                assert_eq!(content, expected, "{text:?}");
            }
        }
    }

    #[test]
    fn where_the_input_is_split_makes_no_difference() {
        for mut text in texts(5) {
            text.extend_from_slice(b"\r\n.\r\nNOOP");
            let whole = decode(&[&text]);

            for at in 0..=text.len() {
                let (a, b) = text.split_at(at);
                assert_eq!(decode(&[a, b]), whole, "{text:?} at {at}");
            }
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            assert_eq!(decode(&bytes), whole, "{text:?} by octet");
        }
    }
}
