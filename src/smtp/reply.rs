//! Replies (RFC 5321, 4.2): a value with a reply code, an enhanced status code and text.
//!
//! [`Reader`] takes a receiver's octets and gives whole replies within bounds; [`Extensions`] reads the reply to EHLO.
//! A [`Reply`] is what is kept: its text is safe to show anywhere.

mod extensions;
mod reader;

use super::status::Status;

pub use extensions::Extensions;
pub use reader::{MAX_LINES, MAX_OCTETS, Reader, Received, Violation};

/// A receiver's answer, or what stands in for one when none came (`code` 0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The reply code; 0 when no reply was received.
    pub code: u16,
    /// The enhanced status code, if the text began with one of the same class.
    pub status: Option<Status>,
    /// The text without codes; lines joined by a space; no control characters; at most 1,024 octets.
    pub text: Box<str>,
}

impl Reply {
    /// What stands in for a reply when the network or we ourselves decided.
    pub fn local(status: Status, text: impl Into<Box<str>>) -> Self {
        Self { code: 0, status: Some(status), text: text.into() }
    }

    /// 2yz.
    pub fn is_success(&self) -> bool {
        self.code / 100 == 2
    }

    /// 5yz, or a local decision of class 5.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5 || (self.code == 0 && self.status.is_some_and(|status| status.class == 5))
    }
}
