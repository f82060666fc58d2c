//! One record: a line of JSON that ends with its hash.
//!
//! ```text
//! {"sequence":7,"time":"2026-11-26T11:44:55.123Z",...,"previous":"<hash of record 6>","hash":"<hash>"}
//! ```
//!
//! The hash is SHA-256 over the octets of the line up to `,"hash":`. These have the hash of the record before in them, so
//! no record can be altered, taken out, put in or moved without all later ones being made anew. The first record has 64
//! zeros as the one before.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::journal::time::write_millis;
use crate::text::hex;

/// What the first record has as the hash of the one before.
pub const FIRST: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Between what is hashed and the hash.
const SEAM: &str = ",\"hash\":\"";
/// The end of a line: the seam, 64 digits, a quote and a brace.
const END: usize = SEAM.len() + 64 + 2;
/// More of what a change answered is not kept.
const LONGEST_ANSWER: usize = 16 << 10;

/// What a record tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A change is about to be made.
    Begun,
    /// It was made, or could not be: `of` is the number of its first record.
    Done,
    /// Somebody may not make it.
    Refused,
    /// Something that the daemon itself did or saw.
    #[default]
    Seen,
}

/// What is to be recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// What it tells of.
    pub kind: Kind,
    /// The record that this one is the outcome of.
    pub of: Option<u64>,
    /// `token NAME`, `uid 0 (root)`, or the daemon.
    pub who: String,
    /// What they may do; empty: the daemon itself.
    pub role: &'static str,
    /// Their address and port, or `socket`; empty: the daemon itself.
    pub from: String,
    /// What is done: `limits.pin`.
    pub action: String,
    /// Method and path, with the query.
    pub request: String,
    /// What was asked for.
    pub parameters: Value,
    /// What it was before, where that is known.
    pub before: Value,
    /// What it is then: the answer.
    pub after: Value,
    /// Why, as who asked says it.
    pub reason: String,
    /// `ok`, or the status and the error.
    pub outcome: String,
}

impl Event {
    /// One of the daemon itself.
    pub fn of_daemon(action: &str, parameters: Value) -> Self {
        Self { who: super::OWN.to_owned(), action: action.to_owned(), parameters, ..Self::default() }
    }

    /// What a change answered; what of it is too long is left out and counted.
    pub fn answer(octets: &[u8]) -> Value {
        match octets.get(..LONGEST_ANSWER) {
            Some(head) if octets.len() > LONGEST_ANSWER => {
                serde_json::json!({ "octets": octets.len(), "begins": String::from_utf8_lossy(head) })
            }
            _ => serde_json::from_slice(octets).unwrap_or(Value::Null),
        }
    }
}

/// The end of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Head {
    /// The number of the last record.
    pub sequence: u64,
    /// Its hash, 64 hexadecimal digits.
    pub hash: String,
}

impl Head {
    /// The first 48 bits of the hash: as many as a metric holds exactly.
    pub fn prefix(&self) -> u64 {
        self.hash.get(..12).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hash)
    }
}

/// Not the end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed: NUMBER:HASH, with 64 hexadecimal digits")]
pub struct NoHead;

impl FromStr for Head {
    type Err = NoHead;

    fn from_str(text: &str) -> Result<Self, NoHead> {
        let (sequence, hash) = text.trim().split_once(':').ok_or(NoHead)?;
        let is_hash = is_hash(hash.as_bytes());
        let sequence = sequence.parse().map_err(|_| NoHead)?;
        if is_hash { Ok(Self { sequence, hash: hash.to_owned() }) } else { Err(NoHead) }
    }
}

fn is_hash(octets: &[u8]) -> bool {
    octets.len() == 64 && octets.iter().all(|octet| matches!(octet, b'0'..=b'9' | b'a'..=b'f'))
}

/// One record as it was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Counts from 1.
    pub sequence: u64,
    /// RFC 3339, in UTC.
    pub time: String,
    /// What it tells of.
    pub kind: Kind,
    /// The record that this one is the outcome of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// As in [`Event`], likewise below.
    pub who: String,
    /// What they may do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// From where.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// What is done.
    pub action: String,
    /// Method and path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request: String,
    /// What was asked for.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub parameters: Value,
    /// What it was before.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub before: Value,
    /// What it is then.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub after: Value,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How it went.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    /// The hash of the record before.
    pub previous: String,
    /// Of this one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

impl Record {
    /// Where the chain is with it.
    pub fn head(&self) -> Head {
        Head { sequence: self.sequence, hash: self.hash.clone() }
    }
}

/// The line, with its end, of what comes after `previous`; and the head that it makes.
pub(super) fn line(event: &Event, previous: Option<&Head>, time: Duration) -> serde_json::Result<(Vec<u8>, Head)> {
    let mut stamp = Vec::new();
    write_millis(&mut stamp, time);
    let record = Record {
        sequence: previous.map_or(0, |head| head.sequence) + 1,
        time: String::from_utf8_lossy(&stamp).into_owned(),
        kind: event.kind,
        of: event.of,
        who: event.who.clone(),
        role: event.role.to_owned(),
        from: event.from.clone(),
        action: event.action.clone(),
        request: event.request.clone(),
        parameters: event.parameters.clone(),
        before: event.before.clone(),
        after: event.after.clone(),
        reason: event.reason.clone(),
        outcome: event.outcome.clone(),
        previous: previous.map_or(FIRST, |head| &head.hash).to_owned(),
        hash: String::new(),
    };
    let mut line = serde_json::to_vec(&record)?;
    // The brace comes after the hash.
    line.pop();
    let hash = hash(&line);
    line.extend_from_slice(SEAM.as_bytes());
    line.extend_from_slice(hash.as_bytes());
    line.extend_from_slice(b"\"}\n");
    Ok((line, Head { sequence: record.sequence, hash }))
}

/// Reads a line without its end; what it says is what was hashed.
pub fn read(line: &[u8]) -> Result<Record, &'static str> {
    const NONE: &str = "it is not a record";
    let (content, end) = line.len().checked_sub(END).and_then(|at| line.split_at_checked(at)).ok_or(NONE)?;
    let found = end.strip_prefix(SEAM.as_bytes()).and_then(|end| end.strip_suffix(b"\"}"));
    let found = found.filter(|found| is_hash(found)).ok_or(NONE)?;
    if hash(content).as_bytes() != found {
        return Err("its hash is not that of its content: it was altered");
    }
    serde_json::from_slice(line).map_err(|_| NONE)
}

fn hash(content: &[u8]) -> String {
    hex(digest(&SHA256, content).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            who: "uid 0 (root)".to_owned(),
            action: "limits.pin".to_owned(),
            reason: "\u{1b}[31m\r\n,\"hash\":\"".to_owned(),
            ..Event::default()
        }
    }

    #[test]
    fn a_record_is_one_line_without_control_characters_and_is_read_as_it_was_written() {
        let before = Head { sequence: 6, hash: FIRST.to_owned() };

        let (line, head) = line(&event(), Some(&before), Duration::from_millis(1_764_157_495_123)).unwrap();

        let (text, end) = line.split_at(line.len() - 1);
        assert!(end == b"\n" && text.iter().all(|octet| !octet.is_ascii_control()));
        let record = read(text).unwrap();
        assert_eq!(record.head(), head);
        assert_eq!((record.sequence, record.reason), (7, event().reason));
        assert_eq!(head.to_string().parse(), Ok(head));
        assert_eq!(record.time, "2025-11-26T11:44:55.123Z");
    }

    #[test]
    fn no_octet_can_be_altered_unseen() {
        let (line, _) = line(&event(), None, Duration::ZERO).unwrap();
        let text = &line[..line.len() - 1];

        for at in 0..text.len() {
            let mut altered = text.to_vec();
            altered[at] ^= 1;
            assert!(read(&altered).is_err(), "{at}");
        }
        assert!(read(b"").is_err() && read(b"{}").is_err());
    }
}
