//! The header section (RFC 5322, 2.2): where it ends and which fields stand in it.
//!
//! [`fields`] walks over the fields of a content; it stops at the empty line or at the first line that is no field, from
//! where on everything is body. Nothing is decoded or changed here. Lines end by CRLF, which the caller has made sure of.

use memchr::memchr;

/// One header field with its folded lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name as written, without the colon and without white space before it.
    pub name: &'a [u8],
    /// What follows the colon, folding and the final CRLF included.
    pub value: &'a [u8],
    /// Where the field begins in the content.
    pub start: usize,
    /// Where the next one begins.
    pub end: usize,
}

impl Field<'_> {
    /// Whether it has this name; case does not matter.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// Whether its name begins so; case does not matter.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    }

    /// The value unfolded and trimmed (RFC 5322, 2.2.3); `None` if it is not printable ASCII.
    pub fn text(&self) -> Option<String> {
        let text: String = std::str::from_utf8(self.value).ok()?.replace("\r\n", "").replace('\t', " ");
        let text = text.trim_matches(' ');
        text.bytes().all(|b| matches!(b, b' '..=b'~')).then(|| text.to_owned())
    }
}

/// A line has at most so many octets (RFC 5322, 2.1.1): what has no colon within them is no field. Longer values are let
/// pass.
const LINE_MOST: usize = 998;

/// Walks over the fields of a header section.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    content: &'a [u8],
    at: usize,
}

/// The fields at the beginning of `content`.
pub fn fields(content: &[u8]) -> Fields<'_> {
    Fields { content, at: 0 }
}

impl Fields<'_> {
    /// Where the fields end, after the iterator has been run to its end.
    pub fn end(&self) -> usize {
        self.at
    }

    /// Where the body begins: after the empty line, if there is one.
    pub fn body(&self) -> usize {
        let has_separator = self.content.get(self.at..).is_some_and(|rest| rest.starts_with(b"\r\n"));
        if has_separator { self.at + 2 } else { self.at }
    }

    /// Length of the line at `at` with its LF; what is left if there is none.
    fn line(&self, at: usize) -> usize {
        let rest = self.content.get(at..).unwrap_or_default();
        memchr(b'\n', rest).map_or(rest.len(), |found| found + 1)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let start = self.at;
        let line = self.line(start);
        let first = self.content.get(start..start + line)?;
        let colon = memchr(b':', first.get(..first.len().min(LINE_MOST))?)?;
        let name = first.get(..colon)?.trim_ascii_end();
        if name.is_empty() || !is_name(name) {
            return None;
        }
        let mut end = start + line;
        while matches!(self.content.get(end), Some(b' ' | b'\t')) {
            end += self.line(end);
        }
        self.at = end;
        Some(Field { name, value: self.content.get(start + colon + 1..end)?, start, end })
    }
}

/// Octets of the header section with its empty line; `None` if `content` may be cut before that can be told.
pub fn length(content: &[u8]) -> Option<usize> {
    let mut fields = fields(content);
    fields.by_ref().for_each(drop);
    let rest = content.get(fields.end()..)?;
    let is_told = memchr(b'\n', rest).is_some() || !may_become_field(rest);
    is_told.then(|| fields.body())
}

/// Whether this beginning of a line may still become a field, or the empty line.
fn may_become_field(line: &[u8]) -> bool {
    let is_long = line.len() > LINE_MOST;
    !is_long && memchr(b':', line).is_none() && is_name(line.trim_ascii_end())
}

/// Whether these octets may stand in a field's name (RFC 5322, 2.2).
fn is_name(name: &[u8]) -> bool {
    name.iter().all(|b| matches!(b, b'!'..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(content: &str) -> (Vec<String>, String) {
        let mut fields = fields(content.as_bytes());
        let names = fields.by_ref().map(|field| String::from_utf8_lossy(field.name).into_owned()).collect();
        (names, content[fields.body()..].to_owned())
    }

    #[test]
    fn fields_end_at_the_empty_line() {
        let (names, body) = names("From: a\r\nTo : b,\r\n\tc\r\nX:\r\n\r\nNot: a field\r\n");

        assert_eq!(names, ["From", "To", "X"]);
        assert_eq!(body, "Not: a field\r\n");
    }

    #[test]
    fn a_line_that_is_no_field_begins_the_body() {
        for body in ["no colon\r\n", "two words: x\r\n", ": x\r\n", "ü: x\r\n", ""] {
            assert_eq!(names(&format!("A: b\r\n{body}")), (vec!["A".to_owned()], body.to_owned()));
        }
    }

    #[test]
    fn values_are_unfolded_and_must_be_printable() {
        let content = b"A: b\r\n\tc \r\nB: x\x07\r\nC: \xc3\xbc\r\n\r\n";
        let texts: Vec<_> = fields(content).map(|field| field.text()).collect();

        assert_eq!(texts, [Some("b c".to_owned()), None, None]);
    }

    #[test]
    fn length_counts_the_empty_line() {
        assert_eq!(length(b"A: b\r\n\r\nbody"), Some(8));
        assert_eq!(length(b"\r\nbody"), Some(2));
        assert_eq!(length(b"body\r\n"), Some(0));
    }

    #[test]
    fn a_line_that_cannot_become_a_field_ends_the_header_section_before_its_end_has_come() {
        let long = "x".repeat(999);

        for line in ["two words", "two words: x", ": x", "ü", " indented", long.as_str()] {
            assert_eq!(length(line.as_bytes()), Some(0), "{line:?}");
        }
        for line in ["two words", ": x", "ü", long.as_str()] {
            assert_eq!(length(format!("A: b\r\nB: c\r\n{line}").as_bytes()), Some(12), "{line:?}");
        }
        assert_eq!(names(&format!("{long}: x\r\n")).0, Vec::<String>::new());
    }

    #[test]
    fn length_of_a_cut_content_is_not_guessed() {
        for cut in ["", "Subj", "Subj ", "A: b\r\nSubj", "A: b\r\n\r", "A: b\r\n", "A: b"] {
            assert_eq!(length(cut.as_bytes()), None, "{cut:?}");
        }
    }
}
