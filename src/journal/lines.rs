//! Whole lines of one file, plain or compressed; of a plain one also those that are written meanwhile.

use std::fs::File;
use std::io::{self, Read};

use memchr::memchr;

use super::folder::JournalFile;

/// Read at once.
const PIECE: usize = 128 << 10;

/// Reads a file from its beginning.
pub(super) struct Lines {
    input: Box<dyn Read + Send>,
    bytes: Vec<u8>,
    /// Where the next line begins in `bytes`, and up to where there is no end of it.
    start: usize,
    scanned: usize,
    /// Octets read so far, uncompressed.
    pub read: u64,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("read", &self.read).finish_non_exhaustive()
    }
}

impl Lines {
    /// Opens a file.
    pub fn open(file: &JournalFile) -> io::Result<Self> {
        let opened = File::open(&file.path)?;
        let input: Box<dyn Read + Send> = match file.is_compressed() {
            true => Box::new(zstd::Decoder::new(opened)?),
            false => Box::new(opened),
        };
        Ok(Self { input, bytes: Vec::new(), start: 0, scanned: 0, read: 0 })
    }

    /// The next line without its end; none: there is none now. What is left at the end of a file is no line.
    pub fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            let unseen = self.bytes.get(self.scanned..).unwrap_or_default();
            if let Some(end) = memchr(b'\n', unseen).map(|at| self.scanned + at) {
                let line = self.start..end;
                self.start = end + 1;
                self.scanned = self.start;
                return Ok(self.bytes.get(line));
            }
            self.bytes.drain(..self.start);
            self.start = 0;
            self.scanned = self.bytes.len();
            let read = self.input.by_ref().take(PIECE as u64).read_to_end(&mut self.bytes)?;
            self.read += read as u64;
            if read == 0 {
                return Ok(None);
            }
        }
    }
}
