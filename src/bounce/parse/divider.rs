//! Where in a text the returned message begins.
//!
//! Systems put a line of words before it, in a frame of dashes or without, or nothing at all: then its header section is the
//! divider.

use super::header::{self, Header};

/// Words that announce the returned message wherever they stand in a line.
const WORDS: &[&str] = &[
    "copy of the message",
    "copy of your message",
    "copy of the original",
    "copy of your original",
    "original message follows",
    "original message is following",
    "header of the original",
    "headers of the original",
    "message headers follow",
    "message header follows",
    "message text follows",
    "unsent message follows",
    "returned message follows",
    "returned mail follows",
    "original mail as follows",
    "lines of the message follow",
    "start of returned message",
    "message header of the undeliver",
    "original message headers",
    "original message header:",
    "your message reads",
    "undelivered message follows",
    "undelivered message that you",
    "summary of the undelivered message",
    "en-têtes de message d'origine",
    "元のメッセージ",
    "原始邮件",
];

/// What a framed line, or one that ends in a colon, calls the message.
const ADJECTIVES: &[&str] =
    &["original", "returned", "undelivered", "unsent", "bounced", "failed", "included", "forwarded", "rejected"];
const NOUNS: &[&str] = &["message", "mail", "e-mail", "email"];

/// Fields that only a header section has, and no list of what was sent.
const STRONG: &[&str] = &[
    "received",
    "return-path",
    "x-received",
    "delivered-to",
    "dkim-signature",
    "domainkey-signature",
    "authentication-results",
    "received-spf",
    "x-originating-ip",
    "arc-seal",
    "x-envelope-from",
    "mime-version",
    "x-google-smtp-source",
];

/// The line from which on a text is the returned message; the line of words counts to it.
pub(super) fn find(lines: &[String]) -> Option<usize> {
    (0..lines.len()).find(|at| lines.get(*at).is_some_and(|line| is_divider(line)) || begins_header(lines, *at))
}

fn is_divider(line: &str) -> bool {
    let line = line.trim();
    if line.is_empty() || line.len() > 200 {
        return false;
    }
    let lower = line.to_lowercase();
    // `The following addresses did NOT receive a copy of your message:` announces addresses.
    if WORDS.iter().any(|words| lower.contains(words)) && !lower.contains("not receive") {
        return true;
    }
    let bare = lower.trim_matches(|c: char| !c.is_alphanumeric());
    let is_framed = lower.starts_with(['-', '=', '*', '_', '|', '#', '+', '>']) || lower.ends_with(':');
    let mut words = bare.split_whitespace();
    let is_message = words.next().is_some_and(|word| ADJECTIVES.contains(&word))
        && words.next().is_some_and(|word| NOUNS.contains(&word.trim_end_matches([':', '.'])));
    is_framed && is_message && bare.len() <= 40 || bare == "message follows"
}

/// Whether a header section begins here: one of its own fields, and another soon after it.
fn begins_header(lines: &[String], at: usize) -> bool {
    let Some(line) = lines.get(at) else { return false };
    let is_mbox = line.starts_with("From ") && line.ends_with(|c: char| c.is_ascii_digit()) && line.contains(':');
    if !is_mbox && !named(line).is_some_and(|name| STRONG.contains(&name.as_str())) {
        return false;
    }
    let next = lines.get(at + 1..lines.len().min(at + 9)).unwrap_or_default();
    let fields = next.iter().take_while(|line| !line.is_empty()).filter(|line| named(line).is_some());
    fields.count() >= 2
}

/// The name of the field that a line begins.
fn named(line: &str) -> Option<String> {
    let (name, _) = header::field(line.as_bytes())?;
    Some(String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// The header section in lines that `find` has split off; it may be indented, or quoted by `>`.
pub(super) fn header(lines: &[String]) -> Header {
    let is_field = |line: &String| {
        let line = line.trim_start_matches(['>', ' ', '\t']);
        header::field(line.as_bytes())
            .is_some_and(|(name, _)| !name.eq_ignore_ascii_case(b"http") && !name.eq_ignore_ascii_case(b"https"))
    };
    let Some(start) = lines.iter().take(40).position(|line| is_field(line) && !is_divider(line)) else {
        return Header::default();
    };
    let first = lines.get(start).map_or("", String::as_str);
    let margin = first.len() - first.trim_start_matches(['>', ' ', '\t']).len();
    let section = lines.get(start..).unwrap_or_default().iter().take(400);
    let section = section.map(|line| line.get(margin..).unwrap_or_default()).take_while(|line| !line.trim().is_empty());
    Header::of_lines(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<usize> {
        find(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_returned_message_begins_at_words_at_a_frame_or_at_its_header() {
        for text in [
            "a\n--- Below this line is a copy of the message.\nb",
            "a\n----- Original message -----\nb",
            "a\n------- Returned Message --------\nb",
            "a\nOriginal message follows.\nb",
            "a\nOriginal mail as follows:\nb",
            "a\nReceived: from x\nDate: y\nFrom: z\nb",
            "a\nFrom x@a.test Thu Nov 26 12:00:00 2026\nDate: y\nFrom: z",
        ] {
            assert_eq!(at(text), Some(1), "{text}");
        }
        for text in [
            "the message returned below could not be delivered",
            "original messages",
            "Received: by hand",
            "A transcript of it follows.",
            "The following addresses did NOT receive a copy of your message:",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    #[test]
    fn its_header_is_read_through_a_margin() {
        let lines: Vec<String> =
            ["Original mail as follows:", "", "   Message-ID: <1>", "   \tx", "   To: a", "", "   B: c"]
                .map(str::to_owned)
                .into();

        let header = header(&lines);

        assert_eq!((header.get("message-id"), header.get("to"), header.get("b")), (Some("<1> x"), Some("a"), None));
    }
}
