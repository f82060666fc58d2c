//! The DKIM-Signature field (RFC 6376, 3.5), c=relaxed/relaxed.
//!
//! The signature covers the field itself with an empty tag `b`, which stands last, so that it is only appended afterwards.

use std::fmt::Write;
use std::time::Duration;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::header::{Covered, relaxed};
use super::key::Key;
use crate::clock::UnixTime;

const NAME: &str = "DKIM-Signature";
/// Lines are folded before they are longer (RFC 5322, 2.1.1).
const LINE_MOST: usize = 76;

/// Everything that the signatures of one message share.
pub(super) struct Draft {
    names: Vec<&'static str>,
    /// Has taken in the fields that are covered.
    hash: Context,
    body_hash: String,
    time: UnixTime,
    expires_at: Option<u64>,
}

impl Draft {
    /// Of a message that begins with `header` and whose body has the hash.
    pub fn new(header: &[u8], body_hash: &Digest, time: UnixTime, expiry: Option<Duration>) -> Self {
        let covered = Covered::of(header);
        let mut hash = Context::new(&SHA256);
        hash.update(&covered.form);
        let expires_at = expiry.map(|expiry| u64::from(time.0).saturating_add(expiry.as_secs()));
        Self { names: covered.names, hash, body_hash: STANDARD.encode(body_hash), time, expires_at }
    }

    /// Appends the field by one key; tells whether it could be made.
    pub fn write(&self, key: &Key, out: &mut Vec<u8>) -> bool {
        let value = self.value(key);
        let mut own = Vec::with_capacity(value.len() + NAME.len());
        relaxed(&mut own, NAME.as_bytes(), value.as_bytes());
        let mut hash = self.hash.clone();
        hash.update(&own);
        let Some(signature) = key.sign(&hash.finish()) else { return false };
        let signature = STANDARD.encode(signature);
        for part in [NAME, ":", &value] {
            out.extend_from_slice(part.as_bytes());
        }
        let mut rest = signature.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(LINE_MOST - 4));
            out.extend_from_slice(if rest.len() == signature.len() { b"" } else { b"\r\n\t" });
            out.extend_from_slice(line.as_bytes());
            rest = after;
        }
        out.extend_from_slice(b"\r\n");
        true
    }

    /// The value of the field up to its tag `b`.
    fn value(&self, key: &Key) -> String {
        let Key { domain, selector, .. } = key;
        let mut value = format!(
            " v=1; a={}; c=relaxed/relaxed;\r\n\td={domain};\r\n\ts={selector}; t={};",
            key.algorithm().as_str(),
            self.time.0
        );
        if let Some(at) = self.expires_at {
            // Writing to a String cannot fail.
            let _ = write!(value, " x={at};");
        }
        let mut length = LINE_MOST;
        for (index, name) in self.names.iter().enumerate() {
            let before = if index == 0 { "h=" } else { ":" };
            length += before.len() + name.len();
            if length >= LINE_MOST {
                value.push_str(if index == 0 { "\r\n\t" } else { ":\r\n\t" });
                value.push_str(if index == 0 { "h=" } else { "" });
                length = 8 + name.len();
            } else {
                value.push_str(before);
            }
            value.push_str(name);
        }
        let _ = write!(value, ";\r\n\tbh={};\r\n\tb=", self.body_hash);
        value
    }
}
