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

    /// The first `most` octets, or all of them. Blocks on the disk for a file.
    pub fn beginning(&self, most: usize) -> io::Result<Bytes> {
        let first = self.chunk(0, most)?;
        let wanted = usize::try_from(self.len()).unwrap_or(usize::MAX).min(most);
        if first.len() == wanted {
            return Ok(first);
        }
        let mut all = Vec::with_capacity(wanted);
        all.extend_from_slice(&first);
        while all.len() < wanted {
            let piece = self.chunk(all.len() as u64, wanted - all.len())?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.into())
    }

    /// Up to `most` octets from `from` on, fewer where the prefix of a file ends; empty at the end. Blocks on the disk for a file.
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_beginning_goes_on_behind_the_prefix_of_a_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"..body").unwrap();
        let content = Content::File { prefix: Bytes::from_static(b"head"), file: Arc::new(file), offset: 2, length: 4 };

        let beginnings = [0, 3, 4, 6, 8, 100].map(|most| content.beginning(most).unwrap());

        assert_eq!(
            beginnings.map(|octets| String::from_utf8(octets.into()).unwrap()),
            ["", "hea", "head", "headbo", "headbody", "headbody"]
        );
        assert_eq!(Content::Memory(Bytes::from_static(b"ab")).beginning(1).unwrap(), "a");
    }
}
