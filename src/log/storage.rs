//! The storage below the log: as few operations as the log needs, so that a simulated one can be crashed by seed.
//!
//! Names are relative to the storage's root, with `/` between a directory and a file. A new, renamed or removed name is
//! durable only after [`Storage::sync_dir`] of its directory, written octets only after [`StorageFile::sync_data`].

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// A file in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name without the directory.
    pub name: String,
    /// Its length in octets.
    pub size: u64,
}

/// Room on the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Octets in all.
    pub total: u64,
    /// Octets that we may still write.
    pub free: u64,
}

/// Where the log lives.
pub trait Storage: Send + Sync + Debug {
    /// Makes the root and its directories where missing, checks that nobody else can touch them, and locks the root
    /// until the storage is dropped.
    fn claim(&self, directories: &[&str]) -> io::Result<()>;
    /// Creates a file that must not exist yet.
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Renames within one directory, replacing what is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The files of a directory, in any order.
    fn list(&self, directory: &str) -> io::Result<Vec<Entry>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, directory: &str) -> io::Result<()>;
    /// Room on the file system.
    fn space(&self) -> io::Result<Space>;
}

/// An open file. Positional: it has no cursor, so it can be shared.
pub trait StorageFile: Send + Sync + Debug {
    /// Reads up to `buffer.len()` octets; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Fills the buffer with octets that are in memory; false if that would mean to wait for the medium.
    fn read_from_memory(&self, _buffer: &mut [u8], _offset: u64) -> bool {
        false
    }
    /// Writes all parts, one after the other, from `offset` on.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Fills `length` octets from the beginning with zeros such that overwriting them needs no allocation.
    fn fill_zero(&self, length: u64) -> io::Result<()>;
    /// Makes all octets written so far durable.
    fn sync_data(&self) -> io::Result<()>;
    /// The length in octets.
    fn size(&self) -> io::Result<u64>;
    /// The file of the operating system, if there is one.
    fn as_file(&self) -> Option<Arc<File>> {
        None
    }
}

/// Whether an error means that there is no room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Reads exactly `length` octets.
pub fn read_exact(file: &dyn StorageFile, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    match file.read_at(&mut buffer, offset)? {
        read if read == length => Ok(buffer),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
