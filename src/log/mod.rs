//! A segmented append-only log with group commit. Knows nothing of mail.
//!
//! [`storage`] is the narrow trait below which the disk lies ([`disk`]), [`wire`] and [`record`] are the on-disk
//! format of records, [`segment`] that of segments and batches, [`scan`] reads a segment back, telling damage from an
//! unfinished tail, and [`writer`] appends: one `pwritev` and one `fdatasync` for all that is pending. With keys
//! ([`cipher`]) new segments hold encrypted records ([`sealed`]).
//!
//! Order is the order of [`Position`]s: by segment, then by offset. What a record means, which records are live and
//! when a segment may go is the business of the layer above ([`crate::spool`]).

pub mod cipher;
mod committer;
pub mod disk;
pub mod index;
pub mod record;
pub mod scan;
pub mod sealed;
pub mod segment;
pub mod simulated;
pub mod storage;
pub mod supply;
mod tail;
pub mod turn;
mod watch;
pub mod wire;
pub mod writer;

/// A place in the log. Ordered: a later record has a higher position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment's sequence number.
    pub segment: u32,
    /// Octets from the beginning of the segment's file.
    pub offset: u64,
}
