//! Looking at a line without parsing it: lines are flat and have no spaces, and a quotation mark inside a value is
//! escaped, so `"name":` occurs only where a field begins.

use std::time::Duration;

use memchr::memmem;

use super::id::EventId;
use super::line::escape;
use super::time;

/// What every line begins with.
const BEGIN: &[u8] = b"{\"v\":1,\"id\":\"";

/// A whole line, without its end.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a>(&'a [u8]);

impl<'a> Record<'a> {
    /// None if this is no line of a journal of this version.
    pub fn of(line: &'a [u8]) -> Option<Self> {
        (line.starts_with(BEGIN) && line.ends_with(b"}")).then_some(Self(line))
    }

    /// The line.
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Its id.
    pub fn id(&self) -> Option<EventId> {
        std::str::from_utf8(self.0.get(BEGIN.len()..BEGIN.len() + 13)?).ok()?.parse().ok()
    }

    /// A field's value as it stands in the line: of a text what is between the quotation marks, escaped.
    pub fn raw(&self, name: &str) -> Option<&'a [u8]> {
        let key = format!("\"{name}\":");
        let at = memmem::find(self.0, key.as_bytes())? + key.len();
        let value = self.0.get(at..)?;
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

    /// Whether a field of text is `wanted`, which was escaped before; case of ASCII letters does not matter.
    pub fn is(&self, name: &str, wanted: &[u8]) -> bool {
        self.raw(name).is_some_and(|raw| raw.eq_ignore_ascii_case(wanted))
    }

    /// When it was written, as the time since 1970-01-01 UTC.
    pub fn time(&self) -> Option<Duration> {
        time::parse(std::str::from_utf8(self.raw("time")?).ok()?)
    }
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

        assert_eq!(record.id(), Some(EventId(42)));
        assert_eq!(record.text("domain"), "d.test");
        assert_eq!(record.text("reply_text"), "\"domain\":\"x\" \\");
        assert_eq!((record.raw("reply_code"), record.raw("last")), (Some(&b"550"[..]), Some(&b"7"[..])));
        assert_eq!(record.time(), Some(Duration::from_millis(2_500)));
        assert!(record.is("domain", &escaped("D.TEST")) && !record.is("domain", b"d.tes") && !record.is("none", b""));
    }

    #[test]
    fn what_is_no_line_of_this_version_is_none() {
        for bad in ["", "{}", &LINE[..30], &LINE.replace("\"v\":1", "\"v\":2"), "\0\0\0"] {
            assert!(Record::of(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }
}
