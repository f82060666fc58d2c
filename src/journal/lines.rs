//! Whole lines of one file, plain or compressed; of a plain one also those that are written meanwhile.

use std::fs::File;
use std::io::{self, Read, Seek};

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
    /// Why no more can be read; told behind the lines before it.
    failure: Option<io::Error>,
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
        Ok(Self::new(input, None))
    }

    /// Those of a plain file that is open; moves its cursor.
    pub fn of(file: &File) -> io::Result<Self> {
        let mut file = file.try_clone()?;
        file.rewind()?;
        Ok(Self::new(Box::new(file), None))
    }

    /// Those of a file that cannot be opened: none but its error.
    pub fn unreadable(error: io::Error) -> Self {
        Self::new(Box::new(io::empty()), Some(error))
    }

    fn new(input: Box<dyn Read + Send>, failure: Option<io::Error>) -> Self {
        Self { input, bytes: Vec::new(), start: 0, scanned: 0, read: 0, failure }
    }

    /// The next line without its end; none: there is none now. What is left at the end of a file is no line. What is
    /// whole before damage is given first.
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
            if let Some(failure) = self.failure.take() {
                self.input = Box::new(io::empty());
                return Err(failure);
            }
            self.failure = self.input.by_ref().take(PIECE as u64).read_to_end(&mut self.bytes).err();
            let read = self.bytes.len() - self.scanned;
            self.read += read as u64;
            if read == 0 && self.failure.is_none() {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::EventId;
    use super::*;

    #[test]
    fn of_a_file_that_is_cut_or_foreign_what_can_be_read_is_given_and_then_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let text: String = (0..100_000).map(|number| format!("line {number}\n")).collect();
        let mut whole = zstd::encode_all(text.as_bytes(), 1).unwrap();
        whole.truncate(whole.len() - 10);
        for (bytes, least) in [(whole, 1), (b"foreign".to_vec(), 0)] {
            std::fs::write(&path, bytes).unwrap();
            let file = JournalFile { first: EventId(1), last: Some(EventId(2)), path: path.clone() };
            let mut lines = Lines::open(&file).unwrap();

            let mut count = 0;
            let error = loop {
                match lines.next() {
                    Ok(line) => assert_eq!(line.unwrap(), format!("line {count}").as_bytes()),
                    Err(error) => break error,
                }
                count += 1;
            };

            assert!(count >= least, "{count} lines before {error}");
            assert_eq!(lines.next().unwrap(), None, "told once");
        }
    }
}
