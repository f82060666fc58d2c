//! Contents too large to be held in memory: written to a file of their own while they arrive.
//!
//! The file is created ahead of the content and written by the session; [`super::Spool::accept`] syncs it and its
//! directory, then commits the record that refers to it. A file that no message came to refer to is removed by the keeper,
//! within a second after its last user let go of it, or after the next recovery.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::log::storage::{Storage, StorageFile};
use crate::message::Content;

use super::room::Room;

/// Where spill files are.
pub const DIRECTORY: &str = "spill";
/// Contents in memory over this size are moved to a spill file.
pub const THRESHOLD: usize = 256 << 10;

/// A content that is being written.
#[derive(Debug)]
pub struct SpillFile {
    file: Arc<File>,
    storage_file: Arc<dyn StorageFile>,
    length: u64,
    room: Arc<Room>,
}

impl SpillFile {
    /// Appends octets. Blocks on the disk's cache only. [`io::ErrorKind::StorageFull`] if they would reach into the reserve.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        if !self.room.take(octets.len() as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.storage_file.write_at(&[IoSlice::new(octets)], self.length)?;
        self.length += octets.len() as u64;
        Ok(())
    }

    /// Octets written so far.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The content: `prefix`, then what was written from `offset` on.
    pub fn content(&self, prefix: Bytes, offset: u64) -> Content {
        let length = self.length.saturating_sub(offset);
        Content::File { prefix, file: self.file.clone(), offset, length }
    }
}

/// A spill file known by its number.
#[derive(Clone, Debug)]
pub struct Spilled {
    /// Its number.
    pub number: u64,
    /// The file.
    pub file: Arc<dyn StorageFile>,
}

#[derive(Debug)]
struct Loan {
    file: Weak<File>,
    spilled: Spilled,
    /// A record that refers to it may have been handed to the committer.
    is_submitted: bool,
}

/// The spill files that no message refers to yet.
#[derive(Debug)]
pub struct Spills {
    storage: Arc<dyn Storage>,
    room: Arc<Room>,
    /// Keyed by the address of the [`File`], which is how a content names its file.
    loans: Mutex<HashMap<usize, Loan>>,
}

/// The path of a spill file.
pub fn path(number: u64) -> String {
    format!("{DIRECTORY}/{number:016x}")
}

impl Spills {
    /// No files yet.
    pub fn new(storage: Arc<dyn Storage>, room: Arc<Room>) -> Self {
        Self { storage, room, loans: Mutex::default() }
    }

    /// Creates a file with a number that was never used.
    pub fn create(&self, number: u64) -> io::Result<Spilled> {
        Ok(Spilled { number, file: self.storage.create(&path(number))? })
    }

    /// Creates a file for a session to write to.
    pub fn lend(&self, number: u64) -> io::Result<SpillFile> {
        let spilled = self.create(number)?;
        let storage_file = spilled.file.clone();
        let file = storage_file.as_file().ok_or(io::ErrorKind::Unsupported)?;
        let loan = Loan { file: Arc::downgrade(&file), spilled, is_submitted: false };
        self.loans.lock().insert(Arc::as_ptr(&file).addr(), loan);
        Ok(SpillFile { file, storage_file, length: 0, room: self.room.clone() })
    }

    /// The spill file that a content lies in, for a record that will refer to it.
    pub fn submit(&self, file: &Arc<File>) -> Option<Spilled> {
        let mut loans = self.loans.lock();
        let loan = loans.get_mut(&Arc::as_ptr(file).addr())?;
        loan.is_submitted = true;
        Some(loan.spilled.clone())
    }

    /// A message refers to it now.
    pub fn adopt(&self, file: &Arc<File>) {
        self.loans.lock().remove(&Arc::as_ptr(file).addr());
    }

    /// Removes files that nobody uses any more. Those that a record may refer to are left, and those that could not be
    /// removed: their numbers.
    pub fn sweep(&self) -> Vec<u64> {
        let (mut gone, mut left) = (Vec::new(), Vec::new());
        self.loans.lock().retain(|_, loan| {
            // The storage's own handle keeps one reference.
            let is_used = loan.file.strong_count() > 1;
            if !is_used {
                let list = if loan.is_submitted { &mut left } else { &mut gone };
                list.push(loan.spilled.number);
            }
            is_used
        });
        // Without the lock: removing a large file takes a while.
        left.extend(gone.into_iter().filter(|number| self.storage.remove(&path(*number)).is_err()));
        left
    }
}
