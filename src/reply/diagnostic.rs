//! Replies as people and other systems write them down: `550 5.1.1 no such user`, `smtp; 550-5.1.1 ...`, `host
//! mx.test[192.0.2.1] said: 550 5.1.1 ... (in reply to RCPT TO command)`, `SMTP error from remote mail server after RCPT
//! TO:<...>: ...`.
//!
//! [`Diagnostic::parse`] takes any text and finds code, enhanced status code and, where it is told, the step. What stands
//! before the code is about the connection and is left out; without a code, all of it is text.

use super::text::status_in;
use crate::message::Phase;
use crate::smtp::status::Status;

/// Longest text that is looked at.
const LONGEST: usize = 4096;

/// A reply, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic {
    /// The step that the text tells.
    pub step: Option<Phase>,
    /// The reply code; 0: none.
    pub code: u16,
    /// The enhanced status code that stands behind the code, or first in a text without one.
    pub status: Option<Status>,
    /// What is left.
    pub text: String,
}

impl Diagnostic {
    /// Takes a text apart.
    pub fn parse(text: &str) -> Self {
        let mut words: String =
            text.chars().take(LONGEST).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ");
        let step = step(&words);
        // The type of a Diagnostic-Code field (RFC 3464, 2.3.6): `smtp;`, `x-unix;`.
        let kind = words
            .find(';')
            .filter(|end| words.bytes().take(*end).all(|octet| octet.is_ascii_alphabetic() || octet == b'-'));
        if let Some(end) = kind {
            words.drain(..=end);
        }
        let mut words = words.trim_start().to_owned();
        if let Some(at) = words.find(" (in reply to ") {
            words.truncate(at);
        }
        let Some((code, end)) = code_in(&words) else {
            let status = leading_status(&words);
            let text = status.map_or(words.as_str(), |(_, end)| words.get(end..).unwrap_or_default());
            return Self {
                step,
                code: 0,
                status: status.map(|(status, _)| status),
                text: text.trim_start().to_owned(),
            };
        };
        let rest = words.get(end..).unwrap_or_default();
        // `550: 5.1.1 ...`, but of `550 : User unknown` the colon is a part of what was said.
        let rest = rest.strip_prefix(':').unwrap_or(rest);
        let rest = rest.trim_start_matches([' ', '-', '\'', '"', '#']);
        let status = leading_status(rest).filter(|(status, _)| u16::from(status.class) == code / 100);
        let text = status.map_or(rest, |(_, end)| rest.get(end..).unwrap_or_default());
        let text = without_repeats(text.trim_start_matches([' ', '-']), code);
        // IronPort and others tell a status of their own before the code.
        let before = || status_in(words.get(..end)?).map(|(status, _)| status);
        let status =
            status.map(|(status, _)| status).or_else(|| status_in(&text).map(|(status, _)| status)).or_else(before);
        let status = status.filter(|status| u16::from(status.class) == code / 100);
        Self { step, code, status, text }
    }
}

/// A status at the very beginning.
fn leading_status(text: &str) -> Option<(Status, usize)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (status, _) = status_in(text.get(..end)?)?;
    Some((status, end))
}

/// The reply code and where it ends: three digits at the beginning of a word, either with an enhanced status code or
/// another reply's beginning around them. A number in a sentence is none.
fn code_in(text: &str) -> Option<(u16, usize)> {
    let octets = text.as_bytes();
    let at = |at: usize| octets.get(at).copied().unwrap_or(b' ');
    let code = |start: usize| {
        let digits = octets.get(start..start + 3)?;
        // RFC 5321, 4.2.1: the second digit is at most 5, and a few receivers say 57z; at the beginning any will do.
        let most = if start == 0 { b'9' } else { b'7' };
        let is_code = matches!(digits, [b'2'..=b'5', second @ b'0'..=b'9', b'0'..=b'9'] if *second <= most)
            && !at(start + 3).is_ascii_alphanumeric();
        is_code.then(|| digits.iter().fold(0, |sum: u16, digit| sum * 10 + u16::from(digit - b'0')))
    };
    let mut first = None;
    for start in 0..octets.len().saturating_sub(2) {
        let before = start.checked_sub(1).map(at);
        if before.is_some_and(|before| {
            before.is_ascii_alphanumeric() || matches!(before, b'.' | b'-' | b'_' | b'/' | b'=' | b'+' | b'@')
        }) {
            continue;
        }
        let Some(code) = code(start) else { continue };
        let end = start + 3;
        if at(end) == b'.' || at(end) == b':' && at(end + 1).is_ascii_digit() {
            continue;
        }
        let has_status = text
            .get(end + 1..)
            .and_then(leading_status)
            .is_some_and(|(status, _)| u16::from(status.class) == code / 100);
        let is_introduced = match before {
            None => true,
            Some(b' ') => {
                start.checked_sub(2).map(at).is_some_and(|before| matches!(before, b':' | b';' | b',' | b'>' | b']'))
            }
            Some(before) => matches!(before, b':' | b';' | b'<' | b'>' | b'(' | b'\'' | b'"' | b'#' | b'['),
        };
        if has_status || is_introduced && matches!(code / 100, 4 | 5) || before.is_none() {
            return Some((code, end));
        }
        if first.is_none() && matches!(code / 100, 4 | 5) && at(end) == b'-' {
            first = Some((code, end));
        }
    }
    first
}

/// The lines of a multi-line reply, written as one, without the codes that each begins with.
fn without_repeats(text: &str, code: u16) -> String {
    let code = code.to_string();
    let mut out = String::with_capacity(text.len());
    let mut is_behind_code = false;
    for word in text.split(' ') {
        let bare = word.strip_prefix(code.as_str());
        let is_status = |word: &str| leading_status(word).is_some_and(|(_, end)| end == word.len());
        if bare == Some("") || bare == Some("-") || bare.and_then(|bare| bare.strip_prefix('-')).is_some_and(is_status)
        {
            is_behind_code = true;
            continue;
        }
        if std::mem::take(&mut is_behind_code) && is_status(word) {
            continue;
        }
        let word = bare.and_then(|bare| bare.strip_prefix('-')).unwrap_or(word);
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// The step by the words of those who wrote the text.
const STEPS: &[(&str, Phase)] = &[
    ("in reply to end of data", Phase::EndOfData),
    ("in reply to rcpt", Phase::Rcpt),
    ("in reply to mail", Phase::Mail),
    ("in reply to data", Phase::Data),
    ("in reply to ehlo", Phase::Ehlo),
    ("in reply to helo", Phase::Ehlo),
    ("in reply to starttls", Phase::StartTls),
    ("after end of data", Phase::EndOfData),
    ("after pipelined end of data", Phase::EndOfData),
    ("after rcpt to", Phase::Rcpt),
    ("after pipelined rcpt to", Phase::Rcpt),
    ("after mail from", Phase::Mail),
    ("after pipelined mail from", Phase::Mail),
    ("after data", Phase::Data),
    ("after initial connection", Phase::Greeting),
    ("after ehlo", Phase::Ehlo),
    ("after helo", Phase::Ehlo),
    ("refused to talk to me", Phase::Greeting),
    ("while receiving the initial server greeting", Phase::Greeting),
    ("while performing the ehlo handshake", Phase::Ehlo),
    ("while performing the helo handshake", Phase::Ehlo),
    ("while sending mail from", Phase::Mail),
    ("while sending rcpt to", Phase::Rcpt),
    ("while sending data command", Phase::Data),
    ("while sending message body", Phase::Content),
    ("while sending end of data", Phase::EndOfData),
    ("sending end of data", Phase::EndOfData),
    // qmail.
    ("but sender was rejected", Phase::Mail),
    ("but recipient was rejected", Phase::Rcpt),
    ("does not like recipient", Phase::Rcpt),
    ("but my name was rejected", Phase::Ehlo),
    ("but greeting failed", Phase::Greeting),
    ("failed after i sent the message", Phase::EndOfData),
    ("failed on data command", Phase::Data),
    // DragonFly, Yahoo, Nemesis and others.
    ("did not like our rcpt", Phase::Rcpt),
    ("did not like our mail", Phase::Mail),
    ("did not like our final data", Phase::EndOfData),
    ("did not like our data", Phase::Data),
    ("[rcpt_to]", Phase::Rcpt),
    ("[mail_from]", Phase::Mail),
    ("[data]", Phase::EndOfData),
    ("following rcpt command", Phase::Rcpt),
    ("after rcpt command", Phase::Rcpt),
    ("for text command", Phase::EndOfData),
    ("smtp:rcpt ", Phase::Rcpt),
];

fn step(text: &str) -> Option<Phase> {
    let lower = text.to_ascii_lowercase();
    STEPS.iter().find(|(words, _)| lower.contains(words)).map(|(_, step)| *step)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> (Option<Phase>, u16, Option<String>, String) {
        let Diagnostic { step, code, status, text } = Diagnostic::parse(text);
        (step, code, status.map(|status| status.to_string()), text)
    }

    #[test]
    fn codes_are_found_wherever_systems_put_them() {
        for (text, code, status, rest) in [
            ("550 5.1.1 no such user", 550, Some("5.1.1"), "no such user"),
            ("smtp; 550 : User unknown", 550, None, ": User unknown"),
            ("550-5.1.1 The account\n550 5.1.1 does not exist", 550, Some("5.1.1"), "The account does not exist"),
            (
                "smtp; 5.1.0 - Unknown address error 550-'5.2.2 <a@b.test>... Mailbox Full' (delivery attempts: 0)",
                550,
                Some("5.2.2"),
                "<a@b.test>... Mailbox Full' (delivery attempts: 0)",
            ),
            ("host mx.test[192.0.2.1] said: 421 too many", 421, None, "too many"),
            (
                "554 4.4.7 Message expired: unable to deliver in 840 minutes.<421 4.4.2 Connection timed out>",
                554,
                None,
                "4.4.7 Message expired: unable to deliver in 840 minutes.<421 4.4.2 Connection timed out>",
            ),
            ("554 delivery error: no such user (#5.1.1)", 554, Some("5.1.1"), "delivery error: no such user (#5.1.1)"),
            ("5.1.1 unknown", 0, Some("5.1.1"), "unknown"),
            (
                "connect to mx.test[192.0.2.1]:25: Connection timed out",
                0,
                None,
                "connect to mx.test[192.0.2.1]:25: Connection timed out",
            ),
            ("unable to deliver in 500 minutes", 0, None, "unable to deliver in 500 minutes"),
            ("421", 421, None, ""),
            ("", 0, None, ""),
        ] {
            let (_, found, found_status, found_rest) = parsed(text);

            assert_eq!((found, found_status.as_deref(), found_rest.as_str()), (code, status, rest), "{text}");
        }
    }

    #[test]
    fn steps_are_read_from_the_words_of_postfix_and_exim() {
        let postfix = parsed("host a[192.0.2.1] said: 550 5.7.1 no (in reply to end of DATA command)");
        let exim =
            parsed("SMTP error from remote mail server after RCPT TO:<a@b.test>: host c [192.0.2.1]: 550 5.1.1 no");

        assert_eq!((postfix.0, postfix.3.as_str()), (Some(Phase::EndOfData), "no"));
        assert_eq!((exim.0, exim.1, exim.3.as_str()), (Some(Phase::Rcpt), 550, "no"));
    }

    proptest! {
        #[test]
        fn any_text_can_be_taken_apart(text in "\\PC*", digits in "[0-9. -]{0,40}") {
            Diagnostic::parse(&text);
            Diagnostic::parse(&format!("{digits}{text}{digits}"));
        }
    }
}
