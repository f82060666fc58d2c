//! Looking at a line without taking it apart: lines are flat and have no spaces, and a quotation mark inside a value is
//! escaped, so `"name":` occurs only where a field begins. That it is JSON is seen first: a power cut leaves anything.

use std::time::Duration;

use memchr::memmem;
use serde::de::IgnoredAny;

use super::id::EventId;
use super::line::escape;
use super::time;

/// What every line begins with.
const BEGIN: &[u8] = b"{\"v\":1,\"id\":\"";
/// And what follows on the 13 characters of the id, and on the 24 of the time.
const TIME: &[u8] = b"\",\"time\":\"";
const EVENT: &[u8] = b"\",\"event\":\"";

/// A whole line, without its end.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    line: &'a [u8],
    id: EventId,
}

impl<'a> Record<'a> {
    /// None if this is no line of a journal of this version, or not all of one.
    pub fn of(line: &'a [u8]) -> Option<Self> {
        let behind_id = line.strip_prefix(BEGIN)?.get(13..)?;
        let behind_time = behind_id.strip_prefix(TIME)?.get(24..)?;
        let is_whole = behind_time.starts_with(EVENT) && line.ends_with(b"}") && is_json(line);
        let id = line.get(BEGIN.len()..).and_then(|rest| std::str::from_utf8(rest.get(..13)?).ok()?.parse().ok())?;
        is_whole.then_some(Self { line, id })
    }

    /// The line.
    pub fn bytes(&self) -> &'a [u8] {
        self.line
    }

    /// Its id.
    pub fn id(&self) -> EventId {
        self.id
    }

    /// A field's value as it stands in the line: of a text what is between the quotation marks, escaped.
    pub fn raw(&self, name: &str) -> Option<&'a [u8]> {
        let key = format!("\"{name}\":");
        let at = memmem::find(self.line, key.as_bytes())? + key.len();
        let value = self.line.get(at..)?;
        match value.strip_prefix(b"\"") {
            Some(text) => {
                let mut is_escaped = false;
                let end = text.iter().position(|octet| {
                    let ends = *octet == b'"' && !is_escaped;
                    is_escaped = *octet == b'\\' && !is_escaped;
                    ends
                })?;
                text.get(..end)
            }
            None => value.get(..memchr::memchr2(b',', b'}', value)?),
        }
    }

    /// A field of text as it was; empty: there is none.
    pub fn text(&self, name: &str) -> String {
        let Some(raw) = self.raw(name) else { return String::new() };
        let quoted = [b"\"", raw, b"\""].concat();
        serde_json::from_slice(&quoted).unwrap_or_default()
    }

    /// When it was written, as the time since 1970-01-01 UTC.
    pub fn time(&self) -> Option<Duration> {
        time::parse(std::str::from_utf8(self.raw("time")?).ok()?)
    }
}

/// The parser itself does not look at the encoding of what it skips.
fn is_json(line: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok_and(|line| serde_json::from_str::<IgnoredAny>(line).is_ok())
}

/// A text as it stands in a line.
pub(super) fn escaped(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    escape(&mut out, text.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = concat!(
        r#"{"v":1,"id":"000000000001a","time":"1970-01-01T00:00:02.500Z","event":"bounced","#,
        r#""reply_text":"\"domain\":\"x\" \\","domain":"d.test","reply_code":550,"last":7}"#
    );

    #[test]
    fn fields_are_found_and_never_inside_a_value() {
        let record = Record::of(LINE.as_bytes()).unwrap();

        assert_eq!(record.id(), EventId(42));
        assert_eq!(record.text("domain"), "d.test");
        assert_eq!(record.text("reply_text"), "\"domain\":\"x\" \\");
        assert_eq!((record.raw("reply_code"), record.raw("last")), (Some(&b"550"[..]), Some(&b"7"[..])));
        assert_eq!(record.time(), Some(Duration::from_millis(2_500)));
    }

    #[test]
    fn what_is_no_line_of_this_version_is_none() {
        for bad in ["", "{}", &LINE[..30], &LINE.replace("\"v\":1", "\"v\":2"), "\0\0\0"] {
            assert!(Record::of(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_damaged_line_is_none_wherever_it_is_cut_glued_or_overwritten() {
        let line = LINE.as_bytes();
        for at in 0..line.len() {
            let (begin, rest) = line.split_at(at);
            let nul = [begin, b"\0", rest.get(1..).unwrap_or_default()].concat();
            let broken_text = [begin, b"\xff", rest.get(1..).unwrap_or_default()].concat();
            for bad in [[begin, line].concat(), nul, broken_text, begin.to_vec()] {
                // Nothing is left of a line that is cut before its first octet.
                if bad != line {
                    assert!(Record::of(&bad).is_none(), "{}", String::from_utf8_lossy(&bad));
                }
            }
            // Cut behind a field, it is a shorter line.
            let closed = [begin, b"}"].concat();
            let is_json = serde_json::from_slice::<serde_json::Value>(&closed).is_ok();
            assert!(Record::of(&closed).is_none() || is_json, "{}", String::from_utf8_lossy(&closed));
        }
    }
}
