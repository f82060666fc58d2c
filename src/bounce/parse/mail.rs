//! A message sorted by what its parts are for: words for people, fields for programs, and the message that came back.
//!
//! [`Mail::read`] decodes what is looked at and no more than that: of text the first octets, of a returned message its header
//! section. Text is lines without ends; what stands behind a divider (`divider`) is the returned message and is kept apart.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashSet;

use super::header::Header;
use super::listed::{self, Listed};
use super::mime::{Part, walk};
use super::{address, charset, divider, html};

/// Most octets that are decoded of all words for people, of all pages, and of all fields for programs. The longest report of the
/// corpora says all it has to say within 20 KiB.
const TEXT_MOST: usize = 256 * 1024;
/// Octets of a message whose lines end with CR alone that are looked at.
const CR_MOST: usize = 4 * 1024 * 1024;
/// Most octets of a returned header section.
const RETURNED_MOST: usize = 64 * 1024;
/// Most lines, and the most octets of one.
const LINES_MOST: usize = 8_000;
const LINE_MOST: usize = 4_000;
/// Octets of a message that are looked at: what it says stands before what it gives back.
const MESSAGE_MOST: usize = 16 * 1024 * 1024;

/// A message, sorted.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// Its own fields.
    pub header: Header,
    /// The `report-type` of a multipart/report.
    pub report: Option<String>,
    /// Words for people, before the returned message.
    pub lines: Vec<String>,
    /// Of message/delivery-status and its relatives.
    pub status: Vec<String>,
    /// Of message/feedback-report.
    pub feedback: Vec<String>,
    /// Of message/disposition-notification.
    pub disposition: Vec<String>,
    /// What stands in the text behind a divider.
    pub behind: Vec<String>,
    /// The header section of the message that came back.
    pub original: Header,
    /// Whether there is a part that is a message.
    pub has_returned: bool,
    /// Whether a part is a report about TLS (RFC 8460).
    pub is_tls_report: bool,
    listed: OnceCell<Listed>,
}

impl Mail {
    /// Sorts a message.
    pub fn read(octets: &[u8]) -> Self {
        let octets = with_lf(octets.get(..octets.len().min(MESSAGE_MOST)).unwrap_or_default());
        let walk = walk(&octets);
        let mut mail = Self { report: walk.report, ..Self::default() };
        mail.is_tls_report = mail.report.as_deref() == Some("tlsrpt");
        let (mut left, mut left_of_pages, mut left_of_fields) = (TEXT_MOST, TEXT_MOST, TEXT_MOST);
        let mut pages = Vec::new();
        for part in &walk.parts {
            match part.kind.as_str() {
                "message/delivery-status" | "message/global-delivery-status" => {
                    lines(part, &mut left_of_fields, &mut mail.status)
                }
                "message/feedback-report" => lines(part, &mut left_of_fields, &mut mail.feedback),
                "message/disposition-notification" | "message/global-disposition-notification" => {
                    lines(part, &mut left_of_fields, &mut mail.disposition);
                }
                "application/tlsrpt+gzip" | "application/tlsrpt+json" => mail.is_tls_report = true,
                "text/html" => lines(part, &mut left_of_pages, &mut pages),
                _ if part.is_returned() => mail.take_returned(part),
                kind if kind.starts_with("text/") => {
                    let mut found = Vec::new();
                    lines(part, &mut left, &mut found);
                    mail.take_text(found);
                }
                _ => {}
            }
        }
        // The same in another form, nearly always.
        if !pages.is_empty()
            && mail.lines.iter().filter(|line| address::find(line).len() + line.len() / 80 > 0).count() == 0
        {
            mail.take_text(html::lines(&pages.join("\n")));
        }
        if mail.original.is_empty() {
            mail.original = divider::header(&mail.behind);
        }
        mail.header = walk.header;
        mail
    }

    fn take_returned(&mut self, part: &Part<'_>) {
        self.has_returned = true;
        if self.original.is_empty() {
            let octets = charset::transferred(part.body, &part.encoding, RETURNED_MOST);
            self.original = Header::read(&octets).0;
        }
    }

    /// Takes the lines of a part of text, which may hold the returned message, too.
    fn take_text(&mut self, mut lines: Vec<String>) {
        let at = divider::find(&lines);
        let behind = at.map(|at| lines.split_off(at));
        self.lines.extend(lines);
        self.lines.push(String::new());
        self.behind.extend(behind.into_iter().flatten());
    }

    /// The list of addresses that the words for people have; read once.
    pub fn listed(&self) -> &Listed {
        self.listed.get_or_init(|| listed::listed(&self.lines))
    }

    /// Whom a notification goes to and from whom it is, and who sent what it is about: hardly ever whom it is about. In lower
    /// case.
    pub fn own_addresses(&self) -> HashSet<String> {
        let of = |header: &Header, names: &[&str]| -> HashSet<String> {
            let values = names.iter().flat_map(|name| header.all(name).collect::<Vec<_>>());
            values.flat_map(|value| address::all(value).map(str::to_ascii_lowercase).collect::<Vec<_>>()).collect()
        };
        let mut own =
            of(&self.header, &["from", "to", "reply-to", "sender", "delivered-to", "x-original-to", "return-path"]);
        own.extend(of(&self.original, &["from", "return-path", "sender", "reply-to", "errors-to", "x-envelope-from"]));
        own
    }
}

/// A message with LF at the end of its lines. Old systems end them with CR alone.
fn with_lf(octets: &[u8]) -> Cow<'_, [u8]> {
    let start = octets.get(..octets.len().min(RETURNED_MOST)).unwrap_or_default();
    if start.contains(&b'\n') || !start.contains(&b'\r') {
        return Cow::Borrowed(octets);
    }
    let start = octets.iter().take(CR_MOST);
    Cow::Owned(start.map(|octet| if *octet == b'\r' { b'\n' } else { *octet }).collect())
}

/// The lines of a part, decoded, as far as there is room.
fn lines(part: &Part<'_>, left: &mut usize, out: &mut Vec<String>) {
    let octets = charset::transferred(part.body, &part.encoding, *left);
    *left -= octets.len().min(*left);
    let text = charset::text(&octets, part.charset.as_deref());
    for line in text.lines().take(LINES_MOST.saturating_sub(out.len())) {
        let mut end = line.len().min(LINE_MOST);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let line = line.get(..end).unwrap_or_default().trim_end();
        // No-break spaces indent as others do.
        out.push(line.replace('\u{a0}', " "));
    }
}
