//! `[journal]`: the record of what happened to each recipient.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Complaints;
use super::units::{ByteSize, Span};

/// The journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// Whether there is one.
    pub enabled: bool,
    /// The directory, an absolute path; created with mode 0750.
    pub path: PathBuf,
    /// A file is followed by another one at this size.
    pub max_size: ByteSize,
    /// And at this age.
    pub max_age: Span,
    /// Files are removed this long after their last line.
    pub keep: Span,
    /// The oldest files are removed while all take more than this. 0B: no limit.
    pub max_total: ByteSize,
    /// Memory for events that the disk has not taken; what does not fit is lost, and counted.
    pub buffer: ByteSize,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            enabled: true,
            path: PathBuf::from("/var/log/hikyaku"),
            max_size: ByteSize(128 << 20),
            max_age: Span(Duration::from_secs(86_400)),
            keep: Span(Duration::from_secs(30 * 86_400)),
            max_total: ByteSize(10 << 30),
            buffer: ByteSize(32 << 20),
        }
    }
}

impl Journal {
    pub(super) fn check(&self, complaints: &mut Complaints) {
        let text = format!("{:?} is not absolute; allowed: a path that begins with '/'", self.path);
        complaints.unless(self.path.is_absolute(), "journal.path", text);
        complaints.plain_path("journal.path", &self.path);
        complaints.range("journal.max_size", &self.max_size, &ByteSize(64 << 10), &ByteSize(4 << 30));
        let (least, most) = (Span(Duration::from_secs(1)), Span(Duration::from_secs(366 * 86_400)));
        complaints.range("journal.max_age", &self.max_age, &least, &most);
        let most = Span(Duration::from_secs(3_660 * 86_400));
        complaints.range("journal.keep", &self.keep, &least, &most);
        complaints.range("journal.buffer", &self.buffer, &ByteSize(64 << 10), &ByteSize(4 << 30));
    }
}
