//! The content of a message: in memory, or in a spill file when it is large.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

/// Where the octets of a large content come from: a file, or what makes them out of one.
pub trait ReadAt: Debug + Send + Sync {
    /// Fills `buffer` with the octets from `offset` on. Blocks on the disk.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

/// Header section and body (RFC 5322), lines ended by CRLF, not dot-stuffed.
#[derive(Clone, Debug)]
pub enum Content {
    /// Held in memory.
    Memory(Bytes),
    /// In a file: `prefix` (trace and rewritten header fields) comes first, then `length` octets of the file from `offset` on.
    File {
        /// What precedes the file's octets.
        prefix: Bytes,
        /// The open spill file.
        file: Arc<dyn ReadAt>,
        /// Where the content begins in it.
        offset: u64,
        /// How many octets belong to the content.
        length: u64,
    },
}

impl Content {
    /// Size in octets.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { prefix, length, .. } => prefix.len() as u64 + length,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to `most` octets from `from` on; empty at the end. Blocks on the disk for a file.
    pub fn chunk(&self, from: u64, most: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => Ok(slice(bytes, from, most)),
            Self::File { prefix, file, offset, length } => {
                let before = prefix.len() as u64;
                if from < before {
                    return Ok(slice(prefix, from, most));
                }
                let from = from - before;
                let left = usize::try_from(length.saturating_sub(from)).unwrap_or(usize::MAX);
                let mut buffer = vec![0; left.min(most)];
                ReadAt::read_exact_at(&**file, &mut buffer, offset + from)?;
                Ok(buffer.into())
            }
        }
    }
}

fn slice(bytes: &Bytes, from: u64, most: usize) -> Bytes {
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(from..from.saturating_add(most).min(bytes.len()))
}
