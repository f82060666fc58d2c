//! `[spool]`: where accepted messages are kept.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Complaints;
use super::units::{ByteSize, Span};

/// The durable spool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    /// The directory, an absolute path; created with mode 0700.
    pub path: PathBuf,
    /// Size of a log segment.
    pub segment_size: ByteSize,
    /// Submissions are refused below this much free space, or 5 % of the disk if that is more.
    pub reserve: ByteSize,
    /// Sync before the 250. False only for a benchmark's comparison: a power cut then loses accepted mail.
    pub sync: bool,
    /// What must have happened to the record of an attempt before its content is sent.
    pub attempts: AttemptDurability,
    /// A message that takes longer from end of data to stable storage is refused with 451.
    pub deadline: Span,
    /// Memory for the contents of messages that were just accepted.
    pub cache: ByteSize,
    /// Files of keys (`hikyaku spool key generate`): the first one encrypts, all decrypt. Empty: nothing is encrypted.
    pub key_files: Vec<PathBuf>,
    /// Whether what is written from now on is encrypted, if there are keys. False turns encryption off: what is there is still
    /// read.
    pub encrypt: bool,
}

/// What must have happened to the record of an attempt before its content is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttemptDurability {
    /// Not recorded; a crash then makes duplicates that nobody can name.
    Off,
    /// Handed to the kernel: exact after a crash of the daemon.
    #[default]
    Write,
    /// On stable storage: exact after a power cut.
    Sync,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            path: PathBuf::from("/var/spool/hikyaku"),
            segment_size: ByteSize(64 << 20),
            reserve: ByteSize(1 << 30),
            sync: true,
            attempts: AttemptDurability::Write,
            deadline: Span(Duration::from_secs(60)),
            cache: ByteSize(128 << 20),
            key_files: Vec::new(),
            encrypt: true,
        }
    }
}

impl Spool {
    pub(super) fn check(&self, complaints: &mut Complaints) {
        // A relative one would be another spool for each directory that the daemon is started from.
        let text = format!("{:?} is not absolute; allowed: a path that begins with '/'", self.path);
        complaints.unless(self.path.is_absolute(), "spool.path", text);
        complaints.plain_path("spool.path", &self.path);
        for path in &self.key_files {
            let text = format!("{path:?} is not absolute; allowed: a path that begins with '/'");
            complaints.unless(path.is_absolute(), "spool.key_files", text);
            complaints.plain_path("spool.key_files", path);
        }
        let (least, most) = (ByteSize(1 << 20), ByteSize(2 << 30));
        complaints.range("spool.segment_size", &self.segment_size, &least, &most);
        let (least, most) = (Span(Duration::from_secs(1)), Span(Duration::from_secs(540)));
        complaints.range("spool.deadline", &self.deadline, &least, &most);
    }
}
