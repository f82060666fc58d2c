//! One line of JSON, written by hand: flat, in a fixed order, without spaces.
//!
//! Replies and addresses come from the network. What could move a terminal's cursor, hide text or turn its direction is
//! written as `\uXXXX`, so that a line may be printed as it is; a JSON parser gives back the original.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::clock::UnixTime;
use crate::mask::Mask;
use crate::smtp::status::Status;
use crate::text::{self, decimal};
use crate::unseen::is_unseen;

use super::id::EventId;
use super::time;

/// `,"name":` of a field: all there is to write before its value.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(super) use key;

/// A line that is being written.
pub(super) struct Line<'a>(&'a mut Vec<u8>, &'a Mask);

impl<'a> Line<'a> {
    /// Begins it with the fields that every line has.
    pub fn begin(out: &'a mut Vec<u8>, id: EventId, at: Duration, event: &str, mask: &'a Mask) -> Self {
        out.extend_from_slice(b"{\"v\":1,\"id\":\"");
        id.write(out);
        out.extend_from_slice(b"\",\"time\":\"");
        time::write_millis(out, at);
        out.extend_from_slice(b"\",\"event\":\"");
        out.extend_from_slice(event.as_bytes());
        out.push(b'"');
        Self(out, mask)
    }

    /// Ends it.
    pub fn end(self) {
        self.0.extend_from_slice(b"}\n");
    }

    /// A field of text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.quoted(key, |out| escape(out, value.as_bytes()));
    }

    /// The same, unless there is nothing to say.
    pub fn text_if(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.text(key, value);
        }
    }

    /// An address of mail, masked.
    pub fn mailbox(&mut self, key: &str, value: &str) {
        let shown = self.1.masked(value);
        self.text(key, &shown);
    }

    /// A text that may have addresses in it, which are masked.
    pub fn free(&mut self, key: &str, value: &str) {
        let shown = self.1.text(value);
        self.text(key, &shown);
    }

    /// The same, unless there is nothing to say.
    pub fn free_if(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.free(key, value);
        }
    }

    /// The same about these addresses.
    pub fn free_about<'t>(&mut self, key: &str, value: &str, addresses: impl FnOnce() -> [&'t str; 2]) {
        if self.1.is_none() {
            return self.text(key, value);
        }
        let shown = self.1.text_about(value, &addresses());
        self.text(key, &shown);
    }

    /// An identity of 13 digits.
    pub fn id(&mut self, key: &str, id: EventId) {
        self.quoted(key, |out| id.write(out));
    }

    /// A number.
    pub fn number(&mut self, key: &str, value: u64) {
        self.0.extend_from_slice(key.as_bytes());
        decimal(self.0, value);
    }

    /// A number with at most three decimals.
    pub fn decimal(&mut self, key: &str, value: f64) {
        self.0.extend_from_slice(key.as_bytes());
        // A vector takes whatever is written.
        let _ = write!(self.0, "{}", (value * 1000.0).round() / 1000.0);
    }

    /// True or false.
    pub fn truth(&mut self, key: &str, value: bool) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// A time in whole seconds.
    pub fn seconds(&mut self, key: &str, time: UnixTime) {
        self.quoted(key, |out| time::write_seconds(out, time));
    }

    /// A time with milliseconds.
    pub fn millis(&mut self, key: &str, time: Duration) {
        self.quoted(key, |out| time::write_millis(out, time));
    }

    /// An address and a port.
    pub fn socket(&mut self, key: &str, address: SocketAddr) {
        self.quoted(key, |out| match address {
            SocketAddr::V4(v4) => {
                text::ipv4(out, *v4.ip());
                out.push(b':');
                decimal(out, v4.port().into());
            }
            SocketAddr::V6(v6) => put(out, format_args!("{v6}")),
        });
    }

    /// An address.
    pub fn address(&mut self, key: &str, address: IpAddr) {
        self.quoted(key, |out| text::address(out, address));
    }

    /// An enhanced status code.
    pub fn status(&mut self, key: &str, status: Status) {
        self.quoted(key, |out| status.write(out));
    }

    fn quoted(&mut self, key: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'"');
        write(self.0);
        self.0.push(b'"');
    }
}

/// Writing to a `Vec` cannot fail.
fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// Appends the inside of a JSON string.
pub(super) fn escape(out: &mut Vec<u8>, value: &[u8]) {
    // Most texts have nothing to escape. Sixteen octets at once, without a branch for each.
    let are_plain = |block: &[u8; 16]| block.iter().fold(true, |plain, octet| plain & is_plain(*octet));
    let (blocks, rest) = value.as_chunks();
    let mut last = [b' '; 16];
    last.iter_mut().zip(rest).for_each(|(place, octet)| *place = *octet);
    if blocks.iter().all(are_plain) && are_plain(&last) {
        return out.extend_from_slice(value);
    }
    for c in String::from_utf8_lossy(value).chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            c if is_unseen(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    put(out, format_args!("\\u{unit:04x}"));
                }
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

const fn is_plain(octet: u8) -> bool {
    matches!(octet, b' '..=b'~') && octet != b'"' && octet != b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(write: impl FnOnce(&mut Line<'_>)) -> (String, serde_json::Value) {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, EventId(1), Duration::from_millis(1_500), "test", &Mask::None);
        write(&mut line);
        line.end();
        let text = String::from_utf8(out).unwrap();
        let value = serde_json::from_str(&text).unwrap();
        (text, value)
    }

    #[test]
    fn a_line_is_json_with_version_id_time_and_event_first() {
        let (text, value) = line(|line| {
            line.number(key!("n"), u64::MAX);
            line.number(key!("zero"), 0);
            line.truth(key!("yes"), true);
            line.status(key!("status"), Status::new(5, 7, 509));
            line.socket(key!("v4"), "192.0.2.10:25".parse().unwrap());
            line.socket(key!("v6"), "[2001:db8::1]:25".parse().unwrap());
            line.address(key!("ip"), "::1".parse().unwrap());
            line.seconds(key!("at"), UnixTime(60));
        });

        let begin = r#"{"v":1,"id":"0000000000001","time":"1970-01-01T00:00:01.500Z","event":"test","n":1844"#;
        assert!(text.starts_with(begin) && text.ends_with("}\n"), "{text}");
        let said = serde_json::json!({
            "v": 1, "id": "0000000000001", "time": "1970-01-01T00:00:01.500Z", "event": "test", "n": u64::MAX,
            "zero": 0, "yes": true, "status": "5.7.509", "v4": "192.0.2.10:25", "v6": "[2001:db8::1]:25", "ip": "::1",
            "at": "1970-01-01T00:01:00Z",
        });
        assert_eq!(value, said);
    }

    #[test]
    fn hostile_text_comes_back_whole_and_shows_nothing_that_controls() {
        let hostile = "a\"b\\c\r\n\t\u{1b}[2J\u{7f}\u{9b}\u{202e}gnp\u{2028}\u{feff}é😀\u{e0041}\0";

        let (text, value) = line(|line| line.text(key!("reply_text"), hostile));

        assert_eq!(value["reply_text"], hostile);
        assert!(!text.trim_end_matches('\n').chars().any(is_unseen), "{text:?}");
        assert!(text.contains("é😀"), "{text}");
    }

    #[test]
    fn a_quotation_mark_is_escaped_wherever_it_stands() {
        for at in 0..50 {
            let mut text = "x".repeat(50);
            text.replace_range(at..=at, "\"");

            let value = line(|line| line.text(key!("t"), &text)).1;

            assert_eq!(value["t"], text);
        }
    }
}
