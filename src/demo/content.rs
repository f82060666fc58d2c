//! The demonstration's messages: made from a number, recognised by it.
//!
//! Sizes are mixed: one fifth 1-4 KB, three fifths 8-12 KB, the rest up to 100 KB. Making one costs a copy and a
//! checksum, so that the generator takes little of the machine from the daemon that it shares it with.

use bytes::{BufMut, BytesMut};
use memchr::memmem;

use super::sites::{self, SENDER_DOMAIN};

const FIELD: &str = "X-Demo:";
/// Octets of a header section, about.
const HEAD: usize = 250;
/// Octets of a body line with its CRLF.
const LINE: usize = 74;
/// Lines to cut bodies from: over 100 KB with room for different beginnings.
const LINES: usize = 2_000;

/// Who the messages go to, and how large they are.
#[derive(Clone, Debug, Default)]
pub enum Shape {
    /// The demonstration's sites by their shares; sizes mixed.
    #[default]
    Mixed,
    /// Domains in turn, all messages of one size.
    Even {
        /// Not empty.
        domains: Vec<String>,
        /// Octets of a content, about.
        size: usize,
    },
}

/// Makes contents. One for all messages: bodies are slices of the same lines.
#[derive(Debug)]
pub struct Maker {
    shape: Shape,
    lines: Vec<u8>,
    /// The body of every message of an even shape, with its checksum.
    even: Option<(Vec<u8>, u32)>,
}

impl Default for Maker {
    fn default() -> Self {
        Self::new(Shape::Mixed)
    }
}

impl Maker {
    /// Makes contents of a shape.
    pub fn new(shape: Shape) -> Self {
        const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz      ";
        let mut lines = Vec::with_capacity(LINES * LINE);
        let mut state = 0x7_7e57_u64;
        for _ in 0..LINES {
            // No line begins with a dot: the load sends them as they are.
            for _ in 0..LINE - 2 {
                state = scrambled(state);
                let letter = usize::try_from(state >> 59).unwrap_or_default();
                lines.push(LETTERS.get(letter).copied().unwrap_or(b' '));
            }
            lines.extend_from_slice(b"\r\n");
        }
        let even = match &shape {
            Shape::Mixed => None,
            Shape::Even { size, .. } => {
                let count = size.saturating_sub(HEAD).div_ceil(LINE).max(1);
                let body: Vec<u8> = lines.chunks(LINE).cycle().take(count).flatten().copied().collect();
                let checksum = crc32c::crc32c(&body);
                Some((body, checksum))
            }
        };
        Self { shape, lines, even }
    }

    /// Whom message `number` goes to.
    pub fn forward_path(&self, number: u32) -> String {
        match &self.shape {
            Shape::Mixed => forward_path(number),
            Shape::Even { domains, .. } => {
                let place = usize::try_from(number).unwrap_or_default() % domains.len().max(1);
                format!("user-{number}@{}", domains.get(place).map_or("", String::as_str))
            }
        }
    }

    /// Appends the content of message `number`, CRLF lines, without the final dot.
    pub fn write(&self, number: u32, out: &mut BytesMut) {
        let (body, checksum) = match &self.even {
            Some((body, checksum)) => (body.as_slice(), *checksum),
            None => {
                let lines = lines_of(number);
                let start = usize::try_from(scrambled(u64::from(number) + 7) % 500).unwrap_or_default() * LINE;
                let body = self.lines.get(start..start + lines * LINE).unwrap_or(&self.lines);
                (body, crc32c::crc32c(body))
            }
        };
        let head = format!(
            "From: Demo <sender@{SENDER_DOMAIN}>\r\nTo: <{}>\r\nSubject: Demonstration message {number}\r\n{FIELD} \
             {number} {:08x}\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n",
            self.forward_path(number),
            checksum,
        );
        out.reserve(head.len() + body.len());
        out.put_slice(head.as_bytes());
        out.put_slice(body);
    }
}

/// Whom message `number` goes to.
pub fn forward_path(number: u32) -> String {
    format!("user-{number}@{}", sites::of_message(number).domain)
}

/// Where a DSN about message `number` goes to.
pub fn reverse_path(number: u32) -> String {
    format!("bounces-{number}@{SENDER_DOMAIN}")
}

/// The number in an address made by [`forward_path`] or [`reverse_path`].
pub fn number_in(address: &str) -> Option<u32> {
    let (local_part, _) = address.split_once('@')?;
    local_part.rsplit_once('-')?.1.parse().ok()
}

/// What a received content says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The message's number.
    pub number: u32,
    /// Whether the body is the one that was sent.
    pub is_intact: bool,
}

/// Recognises a content, whatever trace fields were put on top; none if it is not one of ours.
pub fn recognise(content: &[u8]) -> Option<Received> {
    let end = memmem::find(content, b"\r\n\r\n")?;
    let (header, body) = (content.get(..end)?, content.get(end + 4..)?);
    let at = memmem::find(header, FIELD.as_bytes())?;
    let value = header.get(at + FIELD.len()..)?.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(value).ok()?.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let checksum = u32::from_str_radix(words.next()?, 16).ok()?;
    Some(Received { number, is_intact: crc32c::crc32c(body) == checksum })
}

fn lines_of(number: u32) -> usize {
    let random = scrambled(u64::from(number));
    let (least, most) = match random % 20 {
        0..4 => (1_000, 4_000),
        4..16 => (8_000, 12_000),
        16..19 => (12_000, 30_000),
        _ => (30_000, 100_000),
    };
    let octets = least + (random >> 32) % (most - least);
    usize::try_from(octets).unwrap_or_default() / LINE
}

/// The finalizer of SplitMix64: one step of a random sequence from any state.
fn scrambled(state: u64) -> u64 {
    let mut x = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(number: u32) -> BytesMut {
        let mut out = BytesMut::new();
        Maker::default().write(number, &mut out);
        out
    }

    #[test]
    fn content_is_recognised_below_trace_fields_and_a_changed_body_is_noticed() {
        let mut received = b"Received: from x by y;\r\n  Mon\r\n".to_vec();
        received.extend_from_slice(&content(42));
        assert_eq!(recognise(&received), Some(Received { number: 42, is_intact: true }));

        *received.last_mut().unwrap() = b'!';

        assert_eq!(recognise(&received), Some(Received { number: 42, is_intact: false }));
    }

    #[test]
    fn an_even_shape_gives_one_size_and_takes_domains_in_turn() {
        for size in [1, 10_000, 500_000] {
            let domains = vec!["a.test".to_owned(), "b.test".to_owned()];
            let maker = Maker::new(Shape::Even { domains, size });
            let mut out = BytesMut::new();
            maker.write(7, &mut out);

            assert_eq!(maker.forward_path(7), "user-7@b.test");
            assert_eq!(recognise(&out), Some(Received { number: 7, is_intact: true }));
            assert!(out.len().abs_diff(size) < HEAD + 2 * LINE, "{size}: {}", out.len());
        }
    }

    #[test]
    fn sizes_are_mixed_within_1_and_100_kilobytes() {
        let sizes: Vec<usize> = (0..400).map(|number| content(number).len()).collect();

        assert!(sizes.iter().all(|size| (1_000..100_600).contains(size)));
        assert!(sizes.iter().any(|size| *size < 4_500) && sizes.iter().any(|size| *size > 30_000));
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((8_000..16_000).contains(&mean), "{mean}");
    }

    #[test]
    fn no_line_begins_with_a_dot_or_is_too_long() {
        for line in content(3).as_ref().split(|byte: &u8| *byte == b'\n') {
            assert!(!line.starts_with(b".") && line.len() < 998);
        }
    }

    #[test]
    fn numbers_are_found_in_both_paths() {
        assert_eq!((number_in(&forward_path(77)), number_in(&reverse_path(0))), (Some(77), Some(0)));
        assert_eq!((number_in("user@x"), number_in("user-1")), (None, None));
    }
}
