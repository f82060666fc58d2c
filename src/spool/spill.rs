//! Contents too large to be held in memory: written to a file of their own while they arrive.
//!
//! The file is created ahead of the content and written by the session; [`super::Spool::accept`] syncs it and its
//! directory, then commits the record that refers to it. A file that no message came to refer to is removed when its
//! last user lets go of it, or after the next recovery.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::log::storage::{Storage, StorageFile};
use crate::message::Content;

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
}

impl SpillFile {
    /// Appends octets. Blocks on the disk's cache only.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<()> {
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
}

/// The spill files that no message refers to yet.
#[derive(Debug)]
pub struct Spills {
    storage: Arc<dyn Storage>,
    /// Keyed by the address of the [`File`], which is how a content names its file.
    loans: Mutex<HashMap<usize, Loan>>,
}

/// The path of a spill file.
pub fn path(number: u64) -> String {
    format!("{DIRECTORY}/{number:016x}")
}

impl Spills {
    /// No files yet.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, loans: Mutex::default() }
    }

    /// Creates a file with a number that was never used.
    pub fn create(&self, number: u64) -> io::Result<Spilled> {
        Ok(Spilled { number, file: self.storage.create(&path(number))? })
    }

    /// Creates a file for a session to write to.
    pub fn lend(&self, number: u64) -> io::Result<SpillFile> {
        self.sweep();
        let spilled = self.create(number)?;
        let storage_file = spilled.file.clone();
        let file = storage_file.as_file().ok_or(io::ErrorKind::Unsupported)?;
        let loan = Loan { file: Arc::downgrade(&file), spilled };
        self.loans.lock().insert(Arc::as_ptr(&file).addr(), loan);
        Ok(SpillFile { file, storage_file, length: 0 })
    }

    /// The spill file that a content lies in.
    pub fn find(&self, file: &Arc<File>) -> Option<Spilled> {
        self.loans.lock().get(&Arc::as_ptr(file).addr()).map(|loan| loan.spilled.clone())
    }

    /// A message refers to it now.
    pub fn adopt(&self, file: &Arc<File>) {
        self.loans.lock().remove(&Arc::as_ptr(file).addr());
    }

    /// Removes files that nobody uses any more.
    fn sweep(&self) {
        self.loans.lock().retain(|_, loan| {
            // The storage's own handle keeps one reference.
            let is_used = loan.file.strong_count() > 1;
            if !is_used {
                let _ = self.storage.remove(&path(loan.spilled.number));
            }
            is_used
        });
    }
}
