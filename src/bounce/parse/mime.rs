//! The parts of a message (RFC 2045, 2046), found in one pass without recursion.
//!
//! [`walk`] goes over the lines once and gives each part that is no multipart, with what its header says; a returned message
//! is one part, whatever is in it. Nothing is decoded here. Every number is bounded: what lies deeper, or comes later, is
//! left out, and the rest is read all the same. Line ends are CRLF or LF, mixed as they come.

use memchr::memchr;

use super::header::{Header, parameters, without_comments};

/// Deepest multipart that is taken apart. Reports are three deep; mail programs write six.
const DEPTH_MOST: usize = 16;
/// Most parts. A report has three.
const PARTS_MOST: usize = 64;
/// Longest boundary (RFC 2046, 5.1.1 has 70).
const BOUNDARY_MOST: usize = 200;

/// A part that is no multipart.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// `type/subtype` in lower case; `text/plain` if it does not say.
    pub kind: String,
    /// Its charset in lower case, if it says.
    pub charset: Option<String>,
    /// Content-Transfer-Encoding in lower case; empty if it does not say.
    pub encoding: String,
    /// What follows its header.
    pub body: &'a [u8],
}

impl Part<'_> {
    /// Whether it is a message, or a header section, that somebody gives back.
    pub fn is_returned(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "message/rfc822"
                | "message/global"
                | "message/partial"
                | "message/rfc822-headers"
                | "message/global-headers"
                | "text/rfc822-headers"
                | "text/rfc822-header"
                | "text/rfc822"
        )
    }
}

/// A message, taken apart.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    /// The fields of the message itself.
    pub header: Header,
    /// The `report-type` of a multipart/report.
    pub report: Option<String>,
    /// Its parts in their order.
    pub parts: Vec<Part<'a>>,
}

/// What a header says of the body behind it.
struct Says {
    kind: String,
    charset: Option<String>,
    encoding: String,
    boundary: Option<Vec<u8>>,
    report: Option<String>,
}

impl Says {
    fn of(header: &Header) -> Self {
        let (kind, parameters) = header.get("content-type").map(parameters).unwrap_or_default();
        let named = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let is_kind = kind.contains('/');
        let boundary = named("boundary").map(String::into_bytes);
        Self {
            kind: if is_kind { kind } else { "text/plain".to_owned() },
            charset: named("charset").map(|name| name.to_ascii_lowercase()),
            encoding: without_comments(header.get("content-transfer-encoding").unwrap_or_default())
                .to_ascii_lowercase(),
            boundary: boundary.filter(|boundary| !boundary.is_empty() && boundary.len() <= BOUNDARY_MOST),
            report: named("report-type").map(|name| name.to_ascii_lowercase()),
        }
    }
}

/// Takes a message apart.
pub(super) fn walk(octets: &[u8]) -> Walk<'_> {
    let (header, mut at) = Header::read(octets);
    let mut says = Says::of(&header);
    let mut walk = Walk { header, report: says.report.clone(), parts: Vec::new() };
    let mut open: Vec<Vec<u8>> = Vec::new();
    loop {
        let is_multipart = says.kind.starts_with("multipart/");
        if let Some(boundary) = says.boundary.take().filter(|_| is_multipart && open.len() < DEPTH_MOST) {
            open.push(boundary);
        }
        let found = delimiter(octets, at, &open);
        let body = octets.get(at..found.as_ref().map_or(octets.len(), |found| found.start)).unwrap_or_default();
        // What stands before the first delimiter is meant for nobody, but some systems write all of it there.
        let kind = if is_multipart { "text/plain".to_owned() } else { std::mem::take(&mut says.kind) };
        if walk.parts.len() < PARTS_MOST {
            walk.parts.push(Part {
                kind,
                charset: says.charset.take(),
                encoding: std::mem::take(&mut says.encoding),
                body,
            });
        }
        let Some(mut found) = found else { return walk };
        // Behind the end of a multipart is its epilogue, up to the next delimiter of one around it.
        loop {
            open.truncate(found.level + usize::from(!found.is_end));
            if !found.is_end {
                break;
            }
            match delimiter(octets, found.end, &open) {
                Some(next) => found = next,
                None => return walk,
            }
        }
        if walk.parts.len() >= PARTS_MOST {
            return walk;
        }
        let rest = octets.get(found.end..).unwrap_or_default();
        let (header, length) = Header::read_part(rest);
        says = Says::of(&header);
        at = found.end + length;
    }
}

/// A line that ends a part.
struct Delimiter {
    /// Where the line begins, and where the next one does.
    start: usize,
    end: usize,
    /// Which of the open multiparts it belongs to.
    level: usize,
    /// Whether that multipart ends here.
    is_end: bool,
}

/// The next delimiter at or behind `at`.
fn delimiter(octets: &[u8], mut at: usize, open: &[Vec<u8>]) -> Option<Delimiter> {
    if open.is_empty() {
        return None;
    }
    while at < octets.len() {
        let rest = octets.get(at..)?;
        let end = at + memchr(b'\n', rest).map_or(rest.len(), |found| found + 1);
        if let Some(line) = octets.get(at..end).and_then(|line| line.strip_prefix(b"--")) {
            let line = line.trim_ascii_end();
            // The innermost first: it is the one that is expected.
            for (level, boundary) in open.iter().enumerate().rev() {
                let Some(behind) = line.strip_prefix(boundary.as_slice()) else { continue };
                if behind.is_empty() || behind == b"--" {
                    return Some(Delimiter { start: at, end, level, is_end: !behind.is_empty() });
                }
            }
        }
        at = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(message: &str) -> Vec<String> {
        walk(message.as_bytes()).parts.iter().map(|part| format!("{} {}", part.kind, part.body.len())).collect()
    }

    #[test]
    fn parts_stand_between_the_delimiters_of_their_multipart() {
        let message = "Content-Type: multipart/mixed; boundary=a\n\npre\n--a\nContent-Type: multipart/alternative;\n boundary=\"b\"\n\n\
            --b\nContent-Type: TEXT/plain\n\nx\n--b--\nepilogue\n--a\nContent-Type: message/rfc822\n\nSubject: y\n--a--\n";

        assert_eq!(kinds(message), ["text/plain 4", "text/plain 0", "text/plain 2", "message/rfc822 11"]);
    }

    #[test]
    fn an_inner_multipart_that_is_not_closed_ends_with_the_outer_one() {
        let message = "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--a\n\ny\n";

        assert_eq!(kinds(message), ["text/plain 0", "text/plain 0", "text/plain 2", "text/plain 2"]);
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let deep: String =
            (0..1_000).map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n")).collect();
        let wide = format!("Content-Type: multipart/mixed; boundary=a\n\n{}", "--a\n\nx\n".repeat(1_000));

        assert_eq!(kinds(&deep).len(), DEPTH_MOST + 1);
        assert_eq!(kinds(&wide).len(), PARTS_MOST);
    }
}
