//! The types that the spool and its users exchange.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::UnixTime;
use crate::log::cipher::{Keys, MissingKey};
use crate::message::{Content, Envelope, MessageId};

/// How the spool is kept; made from the configuration by the daemon.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The spool directory, mode 0700.
    pub path: PathBuf,
    /// Size of a segment in octets.
    pub segment_size: u64,
    /// Below this much free space submissions are refused: the larger of `reserve` and 5 % of the disk.
    pub reserve: u64,
    /// Whether commits are synced. False exists for the benchmark's comparison only.
    pub sync: bool,
    /// What an attempt waits for.
    pub attempts: Attempts,
    /// How long after the end of data a message may still be accepted (60 s by default).
    pub deadline: Duration,
    /// Memory for contents that were just accepted.
    pub cache: u64,
    /// What is read and written with; no key by default.
    pub keys: Keys,
}

/// What [`Spool::attempt`](super::Spool::attempt) waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attempts {
    /// Not recorded: for the benchmark's comparison only.
    Off,
    /// Handed to the kernel.
    #[default]
    Write,
    /// On stable storage.
    Sync,
}

/// A message to accept.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// From [`Spool::next_id`](super::Spool::next_id).
    pub id: MessageId,
    /// Its envelope.
    pub envelope: Arc<Envelope>,
    /// Its content. A spill file made by [`Spool::spill`](super::Spool::spill) is adopted.
    pub content: Content,
    /// When the client's end of data was seen: the deadline counts from here.
    pub ended_at: Instant,
}

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The disk is full or at its reserve: 452 4.3.1.
    #[error("insufficient system storage")]
    Full,
    /// It took longer than the deadline, or a sync failed; an ABORT record is on stable storage: 451 4.3.0.
    #[error("not stored; nothing will be delivered")]
    Aborted,
    /// Whether it is stored cannot be known: close the connection without a reply.
    #[error("storage is in an unknown state")]
    Unknown,
    /// The spool is being closed, or its storage has failed: 421 4.3.0.
    #[error("the spool is closed")]
    Closed,
}

/// Something recorded about one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The receiver took it.
    Delivered,
    /// To be tried again.
    Deferred {
        /// Attempts made so far, this one included.
        attempts: u16,
        /// Not before this time.
        due: UnixTime,
        /// A delay DSN has been made.
        delay_reported: bool,
    },
    /// Failed for good.
    Bounced,
    /// Ran out of time.
    Expired,
    /// Given up by an operator's order, without a DSN.
    Deleted,
}

/// One recipient's event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientEvent {
    /// Index into the envelope's recipients.
    pub recipient: u32,
    /// What happened.
    pub event: Event,
}

/// A message found at start-up with its unfinished recipients.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Its identity.
    pub id: MessageId,
    /// Its envelope.
    pub envelope: Arc<Envelope>,
    /// What is left to do.
    pub pending: Vec<Pending>,
}

/// An unfinished recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Index into the envelope's recipients.
    pub recipient: u32,
    /// Attempts made so far.
    pub attempts: u16,
    /// Not before this time.
    pub due: UnixTime,
    /// A delay DSN has been made.
    pub delay_reported: bool,
    /// An attempt at this address has no outcome: the receiver may have the message.
    pub in_doubt: Option<SocketAddr>,
}

/// A record could not be handed to the disk: no attempt may start.
pub use crate::log::writer::Fault;

/// Why the spool could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be made, locked or used safely.
    #[error("cannot claim the spool: {0}")]
    Claim(std::io::Error),
    /// It cannot be read.
    #[error("cannot read the spool: {0}")]
    Read(std::io::Error),
    /// The header of a segment cannot be read, and nothing else tells how often the spool was opened.
    #[error("cannot read {path}: {error}")]
    Header {
        /// The file in the spool.
        path: String,
        /// What the disk said.
        error: std::io::Error,
    },
    /// What is there cannot be read without another key. Nothing was touched.
    #[error("cannot open the spool: {0}: give its key file in spool.key_files")]
    Key(#[from] MissingKey),
    /// The first segment cannot be made, for another reason than a full disk.
    #[error("cannot start a new segment: {0}")]
    Start(std::io::Error),
    /// The segment size leaves no room for a batch, or offsets do not fit.
    #[error("the segment size must be between 256 KiB and 16 GiB")]
    SegmentSize,
}

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such message, or it is finished.
    #[error("no such message")]
    Unknown,
    /// Its record is damaged; a copy is in quarantine.
    #[error("the message is damaged")]
    Damaged,
    /// The disk gave an error.
    #[error("cannot read the message: {0}")]
    Io(#[from] std::io::Error),
}

/// What recovery found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RecoveryReport {
    /// Segments read.
    pub segments: u64,
    /// Of these, covered by the checkpoint.
    pub covered: u64,
    /// Of these, by their index.
    pub indexed: u64,
    /// Live messages.
    pub messages: u64,
    /// Their unfinished recipients.
    pub recipients: u64,
    /// Of these, in doubt.
    pub in_doubt: u64,
    /// Regions damaged before the last known sync.
    pub damaged: u64,
    /// Regions of unfinished writes.
    pub tail: u64,
    /// Segments that the disk gave errors for; their messages stay there and wait for a later start.
    pub unread: u64,
}

/// The state of the spool in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stat {
    /// Segments on disk.
    pub segments: u64,
    /// Octets they take.
    pub octets: u64,
    /// Octets of unfinished messages.
    pub live_octets: u64,
    /// Unfinished messages.
    pub messages: u64,
    /// Batches with messages synced since the start.
    pub batches: u64,
    /// Damaged regions and messages met since the start.
    pub damaged: u64,
    /// Regions of unfinished writes met since the start.
    pub tail: u64,
    /// Messages copied forward since the start.
    pub copied: u64,
    /// Their octets.
    pub copied_octets: u64,
    /// Octets of log: the size of what was found at the start, and what was written since, copies included.
    pub log_octets: u64,
    /// Segments deleted since the start.
    pub deleted: u64,
    /// Recovery is still at work.
    pub recovering: bool,
    /// Submissions are refused for want of room.
    pub full: bool,
    /// The log has failed.
    pub fault: bool,
    /// Segments given up since the start, after a failed write or sync.
    pub given_up: u64,
    /// Syncs of the last few minutes.
    pub syncs_lately: u64,
    /// Those of them that took half a second or more.
    pub slow_syncs_lately: u64,
    /// Free octets on the disk; 0 also when it does not say.
    pub free: u64,
    /// Octets of memory that contents take which were accepted lately.
    pub cached: u64,
}
