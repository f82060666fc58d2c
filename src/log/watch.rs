//! What the writer tells the layer above about the growth of the log.

use std::time::Duration;

use crate::panics::Bulkhead;

use super::cipher::Binding;

/// What one batch added to a segment.
#[derive(Clone, Copy, Debug)]
pub struct Appended<'a> {
    /// Which segment.
    pub segment: u32,
    /// Size of its file.
    pub size: u64,
    /// Where the batch ends.
    pub end: u64,
    /// Entries in it.
    pub entries: u64,
    /// Their octets.
    pub octets: u64,
    /// Segments whose records its records are about.
    pub refers: &'a [u32],
}

/// A segment that nothing more will be written to.
#[derive(Debug)]
pub struct Sealed {
    /// Its sequence.
    pub segment: u32,
    /// Its salt.
    pub salt: u64,
    /// What its records are encrypted with, if they are.
    pub binding: Option<Binding>,
    /// Where its last batch ends.
    pub end: u64,
    /// Offset and header-and-fields of every record; `None` if the segment was given up.
    pub index: Option<Vec<u8>>,
}

/// Told about the growth of the log; called with the tail locked, so it must be quick and not call back.
pub trait Watch: Send + Sync {
    /// A batch was written.
    fn appended(&self, appended: &Appended<'_>);
    /// A segment was finished and synced, or given up.
    fn sealed(&self, sealed: Sealed);
    /// An entry of this many octets is void: it was withdrawn.
    fn withdrawn(&self, segment: u32, octets: u64);
    /// A batch with entries was synced: how many, and how long write and sync took.
    fn committed(&self, entries: usize, took: Duration);
    /// The wall around whoever writes. A panic behind it is a fault: what the log holds then, nobody knows.
    fn wall(&self) -> Bulkhead {
        Bulkhead::default()
    }
    /// Files were synced, which took so long.
    fn synced(&self, _took: Duration) {}
}
