//! Enhanced status codes (RFC 3463).

use std::fmt;

use crate::text::decimal;

/// `class.subject.detail` of RFC 3463, for example 4.7.28.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    pub class: u8,
    /// What it is about: 1 addressing, 2 mailbox, 3 mail system, 4 network and routing, 5 protocol, 6 content, 7 policy.
    pub subject: u16,
    /// The exact condition within the subject.
    pub detail: u16,
}

impl Status {
    /// A status from its three numbers.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// The same condition as a persistent transient failure.
    pub const fn transient(self) -> Self {
        Self { class: 4, ..self }
    }

    /// The same condition as a permanent failure.
    pub const fn permanent(self) -> Self {
        Self { class: 5, ..self }
    }

    /// Appends its text form.
    pub fn write(self, out: &mut Vec<u8>) {
        decimal(out, self.class.into());
        out.push(b'.');
        decimal(out, self.subject.into());
        out.push(b'.');
        decimal(out, self.detail.into());
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}
