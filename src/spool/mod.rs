//! The spool: messages in the log. Contract in `docs/spool.md`.
//!
//! [`Spool::accept`] resolves only when the message is on stable storage. [`Spool::attempt`] resolves when the attempt
//! has been handed to the kernel. [`Spool::record`] appends outcomes in memory; they reach the kernel within 5 ms and
//! the disk within 50 ms. The spool owns each message's count of unfinished recipients and releases its space.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::{Clock, UnixTime};
use crate::message::{Content, Envelope, Message, MessageId};

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
}

/// What [`Spool::attempt`] waits for.
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
    /// From [`Spool::next_id`].
    pub id: MessageId,
    /// Its envelope.
    pub envelope: Arc<Envelope>,
    /// Its content. A spill file made by [`Spool::spill`] is adopted.
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
