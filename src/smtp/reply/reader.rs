//! Cuts a receiver's octets into replies, within bounds, and makes their text safe.
//!
//! Append octets to [`Reader::room`], then call [`Reader::next`] until it gives `None`. A [`Received`] points into the
//! reader and is good until octets are appended again. A [`Violation`] means that replies can no longer be matched to
//! commands: the connection must be closed.
//!
//! A bare LF ends a line too: the receiver's habits are its own, and nothing depends on the difference here.

use super::Reply;
use crate::smtp::status::Status;

/// Most octets of one reply: the longest real ones (EHLO, policy texts) have under 2 KiB.
pub const MAX_OCTETS: usize = 64 * 1024;
/// Most lines of one reply; RFC 5321, 4.5.3.1 sets no limit, EHLO replies have under 30.
pub const MAX_LINES: u32 = 100;
/// Most octets of a reply's text that are kept.
const MAX_TEXT: usize = 1024;

/// What no honest receiver sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More than [`MAX_OCTETS`].
    #[error("a reply of more than 64 KiB")]
    TooLong,
    /// More than [`MAX_LINES`].
    #[error("a reply of more than 100 lines")]
    TooManyLines,
    /// Lines of one reply with different codes (RFC 5321, 4.2.1 requires the same).
    #[error("a reply whose lines have different codes")]
    MixedCodes,
    /// No reply code from 200 to 599, or neither space nor hyphen after it.
    #[error("a reply without a valid reply code")]
    Malformed,
    /// A NUL octet.
    #[error("a reply with a NUL in it")]
    Nul,
    /// A reply that no command asked for.
    #[error("a reply that no command asked for")]
    Unsolicited,
    /// A reply code that cannot answer the command (a 3yz, or success before the content was sent).
    #[error("a reply that does not fit the command")]
    Unfitting,
}

/// A whole reply within the reader's octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The reply code.
    pub code: u16,
    start: usize,
    end: usize,
}

/// A receiver's octets that have not become replies yet.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: Vec<u8>,
    /// Where the reply under way begins.
    start: usize,
    /// Where its line under way begins.
    line: usize,
    /// Up to here no LF was found: a reply that drips in is scanned once.
    searched: usize,
    lines: u32,
    code: u16,
}

impl Reader {
    /// Where to append what was read. Replies that were given out are forgotten.
    pub fn room(&mut self) -> &mut Vec<u8> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
        } else if self.start > 0 {
            self.buffer.drain(..self.start);
        }
        self.line -= self.start;
        self.searched -= self.start;
        self.start = 0;
        if self.buffer.capacity() == 0 {
            self.buffer.reserve(2048);
        }
        &mut self.buffer
    }

    /// Whether there are octets that no reply given out has used.
    pub fn has_more(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// The next whole reply.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Received>, Violation> {
        loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(found) = memchr::memchr(b'\n', unsearched) else {
                self.searched = self.buffer.len();
                return if self.searched - self.start > MAX_OCTETS { Err(Violation::TooLong) } else { Ok(None) };
            };
            let end = self.searched + found + 1;
            if end - self.start > MAX_OCTETS {
                return Err(Violation::TooLong);
            }
            let line = self.buffer.get(self.line..end - 1).unwrap_or_default();
            let (code, last) = parse_line(line.strip_suffix(b"\r").unwrap_or(line))?;
            if self.lines > 0 && code != self.code {
                return Err(Violation::MixedCodes);
            }
            self.code = code;
            self.lines += 1;
            self.line = end;
            self.searched = end;
            if last {
                let received = Received { code, start: self.start, end };
                self.start = end;
                self.lines = 0;
                return Ok(Some(received));
            }
            if self.lines >= MAX_LINES {
                return Err(Violation::TooManyLines);
            }
        }
    }

    /// The lines of a reply without code and separator.
    pub fn lines(&self, received: &Received) -> impl Iterator<Item = &[u8]> {
        let octets = self.buffer.get(received.start..received.end).unwrap_or_default();
        octets.split_inclusive(|&octet| octet == b'\n').map(|line| {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            line.get(4..).unwrap_or_default()
        })
    }

    /// The reply as it is kept and shown.
    pub fn reply(&self, received: &Received) -> Reply {
        let mut status = None;
        let mut text = String::new();
        for (number, line) in self.lines(received).enumerate() {
            let (found, rest) = split_status(line, received.code);
            if number == 0 {
                status = found;
            }
            // Each line of a multi-line reply repeats the enhanced status code (RFC 2034, 4).
            let rest = if found == status { rest } else { line };
            if !text.is_empty() && !rest.is_empty() {
                text.push(' ');
            }
            append_plain(&mut text, rest);
            if text.len() >= MAX_TEXT {
                break;
            }
        }
        Reply { code: received.code, status, text: text.into_boxed_str() }
    }
}

fn parse_line(line: &[u8]) -> Result<(u16, bool), Violation> {
    if memchr::memchr(0, line).is_some() {
        return Err(Violation::Nul);
    }
    let (code, rest) = line.split_first_chunk::<3>().ok_or(Violation::Malformed)?;
    if !code.iter().all(u8::is_ascii_digit) {
        return Err(Violation::Malformed);
    }
    let code = code.iter().fold(0, |code: u16, digit| code * 10 + u16::from(digit - b'0'));
    if !(200..600).contains(&code) {
        return Err(Violation::Malformed);
    }
    match rest.first() {
        None | Some(b' ') => Ok((code, true)),
        Some(b'-') => Ok((code, false)),
        Some(_) => Err(Violation::Malformed),
    }
}

/// Splits off an enhanced status code of the reply code's class (RFC 2034, 4); a tab behind it is read as the space that it
/// is shown as.
fn split_status(line: &[u8], code: u16) -> (Option<Status>, &[u8]) {
    let end = memchr::memchr2(b' ', b'\t', line).unwrap_or(line.len());
    let (word, rest) = line.split_at_checked(end).unwrap_or((line, &[]));
    let status = parse_status(word).filter(|status| u16::from(status.class) == code / 100 && status.class != 3);
    if status.is_some() { (status, rest.get(1..).unwrap_or_default()) } else { (None, line) }
}

fn parse_status(word: &[u8]) -> Option<Status> {
    let mut parts = word.split(|&octet| octet == b'.');
    let mut number = || {
        let part = parts.next()?;
        let digits = (1..=3).contains(&part.len()) && part.iter().all(u8::is_ascii_digit);
        digits.then(|| part.iter().fold(0, |number: u16, digit| number * 10 + u16::from(digit - b'0')))
    };
    let (class, subject, detail) = (number()?, number()?, number()?);
    parts.next().is_none().then_some(())?;
    Some(Status::new(u8::try_from(class).ok()?, subject, detail))
}

/// Appends text that cannot disturb a terminal, a log line, a header field or a DSN, up to the limit.
fn append_plain(text: &mut String, octets: &[u8]) {
    if octets.iter().all(|octet| matches!(octet, b' '..=b'~')) {
        let room = MAX_TEXT.saturating_sub(text.len()).min(octets.len());
        text.push_str(std::str::from_utf8(octets.get(..room).unwrap_or_default()).unwrap_or_default());
        return;
    }
    for c in String::from_utf8_lossy(octets).chars() {
        let separator = matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{200e}' | '\u{200f}')
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c);
        let c = match c {
            '\t' => ' ',
            c if c.is_control() || separator => '?',
            c => c,
        };
        if text.len() + c.len_utf8() > MAX_TEXT {
            return;
        }
        text.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(octets: &[u8]) -> Result<Vec<Reply>, Violation> {
        let mut reader = Reader::default();
        reader.room().extend_from_slice(octets);
        let mut replies = Vec::new();
        while let Some(received) = reader.next()? {
            replies.push(reader.reply(&received));
        }
        Ok(replies)
    }

    #[test]
    fn pipelined_replies_are_cut_and_their_status_is_split_off() {
        let replies = read(b"250 2.1.0 Ok\r\n550-5.1.1 No such\r\n550 5.1.1 user here\r\n354 go\r\n250").unwrap();

        assert_eq!(replies[0], Reply { code: 250, status: Some(Status::new(2, 1, 0)), text: "Ok".into() });
        assert_eq!(
            replies[1],
            Reply { code: 550, status: Some(Status::new(5, 1, 1)), text: "No such user here".into() }
        );
        assert_eq!(replies[2], Reply { code: 354, status: None, text: "go".into() });
        assert_eq!(replies.len(), 3);
    }

    #[test]
    fn replies_arriving_octet_by_octet_are_the_same() {
        let octets = b"250-a\r\n250 b\r\n221 2.0.0 bye\r\n";
        let mut reader = Reader::default();
        let mut replies = Vec::new();

        for octet in octets {
            reader.room().push(*octet);
            while let Some(received) = reader.next().unwrap() {
                replies.push(reader.reply(&received));
            }
        }

        assert_eq!(replies, read(octets).unwrap());
        assert!(!reader.has_more());
    }

    #[test]
    fn hostile_replies_are_violations() {
        let endless = "250-x\r\n".repeat(101);
        let many: Vec<u8> = std::iter::repeat_n(b'x', MAX_OCTETS + 1).collect();
        let long = [b"250 ".as_slice(), &many].concat();
        let cases: [(&[u8], Violation); 10] = [
            (b"000 zero\r\n", Violation::Malformed),
            (b"999 much\r\n", Violation::Malformed),
            (b"25 short\r\n", Violation::Malformed),
            (b"250+x\r\n", Violation::Malformed),
            (b"\r\n", Violation::Malformed),
            (b"HTTP/1.1 200 OK\r\n", Violation::Malformed),
            (b"250-a\r\n550 b\r\n", Violation::MixedCodes),
            (b"250 a\0b\r\n", Violation::Nul),
            (endless.as_bytes(), Violation::TooManyLines),
            (&long, Violation::TooLong),
        ];

        for (octets, violation) in cases {
            assert_eq!(read(octets), Err(violation), "{:?}", String::from_utf8_lossy(&octets[..octets.len().min(40)]));
        }
    }

    #[test]
    fn text_is_bounded_and_has_no_control_characters() {
        let reply = &read(b"550 5.7.1 a\x1b[31mb\tc\xffd\xe2\x80\xa8e\r\n").unwrap()[0];
        let long = &read(format!("550 {}\r\n", "ü".repeat(2000)).as_bytes()).unwrap()[0];

        assert_eq!(&*reply.text, "a?[31mb c\u{fffd}d?e");
        assert_eq!(long.text.len(), MAX_TEXT);
    }

    #[test]
    fn a_tab_ends_a_status_as_a_space_does() {
        let reply = &read(b"550 5.7.1\tno\r\n").unwrap()[0];

        assert_eq!((reply.status, &*reply.text), (Some(Status::new(5, 7, 1)), "no"));
    }

    #[test]
    fn what_is_no_status_stays_text() {
        for text in ["5.7 no", "9.9.9 no", "4.1.1 no", "5.1.1.1 no", "5.1111.1 no", "5..1 no", "5.1.x"] {
            let reply = &read(format!("550 {text}\r\n").as_bytes()).unwrap()[0];

            assert_eq!((reply.status, &*reply.text), (None, text));
        }
    }
}
