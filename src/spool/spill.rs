//! Contents too large to be held in memory: written to a file of their own while they arrive.
//!
//! The file is created ahead of the content and written by the session; [`super::Spool::accept`] syncs it and its
//! directory, then commits the record that refers to it. A file that no message came to refer to is removed by the keeper,
//! within a second after its last user let go of it, or after the next recovery. With encryption its octets are as
//! `spool::chunks` says.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::log::storage::{Storage, StorageFile, read_exact};
use crate::message::{Content, ReadAt};

use super::chunks::{ChunkFile, ChunkWriter, SpillKey};
use super::room::Room;

/// Where spill files are.
pub const DIRECTORY: &str = "spill";
/// Contents in memory over this size are moved to a spill file.
pub const THRESHOLD: usize = 256 << 10;

/// A content that is being written.
#[derive(Debug)]
pub struct SpillFile {
    body: Body,
    length: u64,
    room: Arc<Room>,
}

#[derive(Debug)]
enum Body {
    Plain { file: Arc<dyn ReadAt>, storage_file: Arc<dyn StorageFile> },
    Sealed(ChunkWriter),
}

impl SpillFile {
    /// Appends octets. Blocks on the disk's cache only. [`io::ErrorKind::StorageFull`] if they would reach into the reserve.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        if !self.room.take(octets.len() as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        match &mut self.body {
            Body::Plain { storage_file, .. } => storage_file.write_at(&[IoSlice::new(octets)], self.length)?,
            Body::Sealed(writer) => writer.write(octets)?,
        }
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

    /// The content: `prefix`, then what was written from `offset` on. Blocks on the disk's cache only.
    pub fn content(self, prefix: Bytes, offset: u64) -> io::Result<Content> {
        let length = self.length.saturating_sub(offset);
        let file = match self.body {
            Body::Plain { file, .. } => file,
            Body::Sealed(writer) => writer.finish()?,
        };
        Ok(Content::File { prefix, file, offset, length })
    }
}

/// A spill file known by its number.
#[derive(Clone, Debug)]
pub struct Spilled {
    /// Its number.
    pub number: u64,
    /// The file.
    pub file: Arc<dyn StorageFile>,
    /// What it is encrypted with, if it is.
    pub key: Option<SpillKey>,
}

impl Spilled {
    /// What reads the content, of which there are `length` octets.
    pub fn reader(&self, length: u64) -> io::Result<Arc<dyn ReadAt>> {
        reader(self.file.clone(), self.key, length)
    }
}

/// A spill file of a storage whose files are none of the system's.
#[derive(Debug)]
struct Plain(Arc<dyn StorageFile>);

impl ReadAt for Plain {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        buffer.copy_from_slice(&read_exact(&*self.0, offset, buffer.len())?);
        Ok(())
    }
}

/// What reads a spill file with `length` octets of content.
pub fn reader(file: Arc<dyn StorageFile>, key: Option<SpillKey>, length: u64) -> io::Result<Arc<dyn ReadAt>> {
    Ok(match key {
        Some(key) => ChunkFile::new(file, key, length),
        None => match file.as_file() {
            Some(file) => file,
            None => Arc::new(Plain(file)),
        },
    })
}

#[derive(Debug)]
struct Loan {
    file: Weak<dyn ReadAt>,
    /// References that are our own: of the storage's handle.
    own: usize,
    spilled: Spilled,
    /// A record that refers to it may have been handed to the committer.
    is_submitted: bool,
}

/// The spill files that no message refers to yet.
#[derive(Debug)]
pub struct Spills {
    storage: Arc<dyn Storage>,
    room: Arc<Room>,
    /// Whether new files are encrypted.
    seals: bool,
    /// Keyed by the address of what is read from, which is how a content names its file.
    loans: Mutex<HashMap<usize, Loan>>,
}

/// The path of a spill file.
pub fn path(number: u64) -> String {
    format!("{DIRECTORY}/{number:016x}")
}

impl Spills {
    /// No files yet.
    pub fn new(storage: Arc<dyn Storage>, room: Arc<Room>, seals: bool) -> Self {
        Self { storage, room, seals, loans: Mutex::default() }
    }

    /// Creates a file with a number that was never used.
    pub fn create(&self, number: u64) -> io::Result<Spilled> {
        let key = if self.seals { Some(SpillKey::random()?) } else { None };
        Ok(Spilled { number, file: self.storage.create(&path(number))?, key })
    }

    /// Creates a file with this content.
    pub fn put(&self, number: u64, content: &[u8]) -> (Option<Spilled>, io::Result<()>) {
        let spilled = match self.create(number) {
            Ok(spilled) => spilled,
            Err(error) => return (None, Err(error)),
        };
        let written = match spilled.key {
            None => spilled.file.write_at(&[IoSlice::new(content)], 0),
            Some(key) => {
                let mut writer = ChunkWriter::new(spilled.file.clone(), key);
                writer.write(content).and_then(|()| writer.finish().map(drop))
            }
        };
        (Some(spilled), written)
    }

    /// Creates a file for a session to write to.
    pub fn lend(&self, number: u64) -> io::Result<SpillFile> {
        let spilled = self.create(number)?;
        let storage_file = spilled.file.clone();
        let (file, own, body): (Arc<dyn ReadAt>, _, _) = match spilled.key {
            Some(key) => {
                let writer = ChunkWriter::new(storage_file, key);
                (writer.file().clone(), 0, Body::Sealed(writer))
            }
            None => {
                let file: Arc<dyn ReadAt> = storage_file.as_file().ok_or(io::ErrorKind::Unsupported)?;
                (file.clone(), 1, Body::Plain { file, storage_file })
            }
        };
        let loan = Loan { file: Arc::downgrade(&file), own, spilled, is_submitted: false };
        self.loans.lock().insert(address(&file), loan);
        Ok(SpillFile { body, length: 0, room: self.room.clone() })
    }

    /// The spill file that a content lies in, for a record that will refer to it.
    pub fn submit(&self, file: &Arc<dyn ReadAt>) -> Option<Spilled> {
        let mut loans = self.loans.lock();
        let loan = loans.get_mut(&address(file))?;
        loan.is_submitted = true;
        Some(loan.spilled.clone())
    }

    /// A message refers to it now.
    pub fn adopt(&self, file: &Arc<dyn ReadAt>) {
        self.loans.lock().remove(&address(file));
    }

    /// Removes files that nobody uses any more. Those that a record may refer to are left, and those that could not be
    /// removed: their numbers.
    pub fn sweep(&self) -> Vec<u64> {
        let (mut gone, mut left) = (Vec::new(), Vec::new());
        self.loans.lock().retain(|_, loan| {
            let is_used = loan.file.strong_count() > loan.own;
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

fn address(file: &Arc<dyn ReadAt>) -> usize {
    Arc::as_ptr(file).cast::<()>().addr()
}
