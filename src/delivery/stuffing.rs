//! Dot-stuffing (RFC 5321, 4.5.2) without copying: content becomes slices that together are what DATA sends.
//!
//! A slice ends after a dot that begins a line and the next one starts with the same dot, so it goes out twice. Content
//! may come in chunks, cut anywhere. Only CRLF ends a line here, as on the wire; what admission lets into the spool has
//! no other line ends.

use std::io::IoSlice;

use memchr::memmem::Finder;

/// Where a content stands while it goes out in chunks.
#[derive(Debug)]
pub struct Stuffer {
    finder: Finder<'static>,
    /// How much of CRLF the content so far ends with; the beginning counts as after a line end.
    tail: Tail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    Text,
    Cr,
    CrLf,
}

impl Default for Stuffer {
    fn default() -> Self {
        Self { finder: Finder::new(b"\r\n."), tail: Tail::CrLf }
    }
}

impl Stuffer {
    /// Begins another content.
    pub fn restart(&mut self) {
        self.tail = Tail::CrLf;
    }

    /// Appends to `slices` what `chunk` is on the wire.
    pub fn stuff<'a>(&mut self, chunk: &'a [u8], slices: &mut Vec<IoSlice<'a>>) {
        if chunk.is_empty() {
            return;
        }
        let mut from = 0;
        // A dot at the beginning of a line whose line end, or part of it, was in the chunk before.
        let carried = match self.tail {
            Tail::CrLf => chunk.starts_with(b".").then_some(0),
            Tail::Cr => chunk.starts_with(b"\n.").then_some(1),
            Tail::Text => None,
        };
        if let Some(dot) = carried {
            push(slices, chunk, 0, dot + 1);
            from = dot;
        }
        for found in self.finder.find_iter(chunk) {
            push(slices, chunk, from, found + 3);
            from = found + 2;
        }
        push(slices, chunk, from, chunk.len());
        self.tail = match chunk {
            [.., b'\r', b'\n'] => Tail::CrLf,
            [b'\n'] if self.tail == Tail::Cr => Tail::CrLf,
            [.., b'\r'] => Tail::Cr,
            _ => Tail::Text,
        };
    }

    /// What ends the content: the dot, after a CRLF if the content had none at its end.
    pub fn end(&self) -> &'static [u8] {
        if self.tail == Tail::CrLf { b".\r\n" } else { b"\r\n.\r\n" }
    }
}

fn push<'a>(slices: &mut Vec<IoSlice<'a>>, chunk: &'a [u8], from: usize, to: usize) {
    if let Some(slice) = chunk.get(from..to).filter(|slice| !slice.is_empty()) {
        slices.push(IoSlice::new(slice));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stuffed<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut stuffer = Stuffer::default();
        let mut wire = Vec::new();
        for chunk in chunks {
            let mut slices = Vec::new();
            stuffer.stuff(chunk, &mut slices);
            slices.iter().for_each(|slice| wire.extend_from_slice(slice));
        }
        wire.extend_from_slice(stuffer.end());
        wire
    }

    /// The receiver's side of RFC 5321, 4.5.2, written the plain way.
    fn unstuffed(wire: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        let mut rest = wire;
        loop {
            let end = rest.windows(2).position(|two| two == b"\r\n").unwrap() + 2;
            let line = &rest[..end];
            if line == b".\r\n" {
                assert_eq!(end, rest.len(), "octets after the end of data");
                return content;
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            rest = &rest[end..];
        }
    }

    #[test]
    fn dots_at_the_beginning_of_lines_are_doubled() {
        for (content, wire) in [
            (&b"a\r\n"[..], &b"a\r\n.\r\n"[..]),
            (b".a\r\n", b"..a\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\r\n.\r\n.\r\n..x.\r\n", b"a\r\n..\r\n..\r\n...x.\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r", b"a\r\r\n.\r\n"),
            (b"", b".\r\n"),
        ] {
            assert_eq!(stuffed([content]), wire, "{:?}", String::from_utf8_lossy(content));
        }
    }

    proptest! {
        #[test]
        fn a_receiver_gets_the_content_back_however_it_is_cut(
            lines in prop::collection::vec("[.a\r]{0,4}", 0..12),
            cuts in prop::collection::vec(0usize..60, 0..6),
        ) {
            let content: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(content.len())).collect();
            cuts.extend([0, content.len()]);
            cuts.sort_unstable();

            let wire = stuffed(cuts.windows(2).map(|pair| &content[pair[0]..pair[1]]));

            prop_assert_eq!(unstuffed(&wire), content);
        }
    }
}
