//! Codes of a text in a report, wherever systems put them.

use super::transcript;
use crate::reply::Diagnostic;
use crate::smtp::status::Status;

/// A text, taken apart; of a reply within a reply, the inner one: `554 4.4.7 Message expired: ...<421 4.4.2 Connection timed
/// out>` says what happened at last.
pub(super) fn of(text: &str) -> Diagnostic {
    if let Some(inner) =
        text.trim_end().strip_suffix('>').and_then(|text| text.rsplit_once('<')).map(|(_, inner)| inner)
    {
        let parsed = Diagnostic::parse(inner);
        if transcript::code(inner).is_some() && parsed.status.is_some() {
            return parsed;
        }
    }
    let mut found = Diagnostic::parse(behind_reply(text));
    if found.code == 0 {
        found.code = labelled_code(text).unwrap_or(0);
        found.status = found.status.or_else(|| status_in(text).filter(|status| status.class != 2));
    }
    found
}

/// What relays add to the last reply, and is no part of it.
const ADDED: [&str; 3] = ["I'm not going to try again", "Giving up on ", "I'm going to give up"];

fn behind_reply(text: &str) -> &str {
    let has_reply = text.contains("said:");
    let end = ADDED.iter().filter_map(|added| text.find(added)).min().filter(|_| has_reply);
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}

/// `ERROR_CODE :550`, `ResponseCode 421`, `SMTP Error Code 550`.
fn labelled_code(text: &str) -> Option<u16> {
    let lower = text.to_ascii_lowercase();
    lower.match_indices("code").find_map(|(at, word)| {
        let rest = lower.get(at + word.len()..)?.trim_start_matches([' ', ':', '=', '#', '-']);
        let digits = rest.get(..3)?;
        let is_end = rest.as_bytes().get(3).is_none_or(|octet| !octet.is_ascii_alphanumeric());
        digits.parse().ok().filter(|code| is_end && (400..600).contains(code))
    })
}

/// The first enhanced status code that stands as a word, in brackets or behind `#`.
fn status_in(text: &str) -> Option<Status> {
    text.split_whitespace().find_map(|word| {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        super::status::status(word).filter(|status| word == status.to_string())
    })
}
