//! An encrypted spill file: chunks of 64 KiB, each sealed with AES-256-GCM under a key of that file alone.
//!
//! The key is random and stands in the message's record, which is encrypted with its segment. So a copy of the record in a
//! segment under another key takes it along, the file need not be written again when keys are changed, and without the
//! record nobody can read the file.
//!
//! Every chunk but the last is whole, and each is written once, in order: the nonce is its number. [`ChunkWriter::finish`]
//! takes the writer, so that nothing can follow a last chunk that is not whole. How long the content is stands in the
//! record too; a file that was cut fails to open there.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::log::cipher::{Cipher, TAG};
use crate::log::storage::{StorageFile, read_exact};
use crate::message::ReadAt;

/// Octets of content in a chunk.
const CHUNK: usize = 64 << 10;
/// Octets of a chunk in the file.
const STORED: u64 = (CHUNK + TAG) as u64;

/// The key of one spill file. Never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpillKey(pub [u8; 32]);

impl std::fmt::Debug for SpillKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SpillKey")
    }
}

impl SpillKey {
    /// A new one.
    pub fn random() -> io::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        Ok(Self(key))
    }
}

/// What is in an encrypted spill file, by offsets of the content.
#[derive(Debug)]
pub struct ChunkFile {
    file: Arc<dyn StorageFile>,
    cipher: Cipher,
    /// Octets of content: grows while the file is written, by its writer.
    length: AtomicU64,
}

impl ChunkFile {
    /// A file that holds `length` octets of content.
    pub fn new(file: Arc<dyn StorageFile>, key: SpillKey, length: u64) -> Arc<Self> {
        Arc::new(Self { file, cipher: Cipher::new(&key.0), length: AtomicU64::new(length) })
    }

    /// One chunk, decrypted.
    fn chunk(&self, number: u64) -> io::Result<Vec<u8>> {
        let first = number * CHUNK as u64;
        let left = self.length.load(Ordering::Acquire).saturating_sub(first);
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut octets = read_exact(&*self.file, number * STORED, length + TAG)?;
        if !self.cipher.open(number, 0, &[], &mut octets) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk of a spill file is damaged"));
        }
        octets.truncate(length);
        Ok(octets)
    }
}

impl ReadAt for ChunkFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let (mut rest, mut offset) = (buffer, offset);
        while !rest.is_empty() {
            let chunk = self.chunk(offset / CHUNK as u64)?;
            let within = usize::try_from(offset % CHUNK as u64).unwrap_or_default();
            let found = chunk.get(within..).filter(|found| !found.is_empty()).ok_or(io::ErrorKind::UnexpectedEof)?;
            let take = found.len().min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            now.copy_from_slice(found.get(..take).unwrap_or_default());
            (rest, offset) = (later, offset + take as u64);
        }
        Ok(())
    }
}

/// Writes an encrypted spill file from its beginning.
#[derive(Debug)]
pub struct ChunkWriter {
    file: Arc<ChunkFile>,
    /// The content of a chunk that is not full yet.
    open: Vec<u8>,
}

impl ChunkWriter {
    /// Begins a file in which nothing was written.
    pub fn new(file: Arc<dyn StorageFile>, key: SpillKey) -> Self {
        Self { file: ChunkFile::new(file, key, 0), open: Vec::new() }
    }

    /// What is read from; complete after [`ChunkWriter::finish`].
    pub fn file(&self) -> &Arc<ChunkFile> {
        &self.file
    }

    /// Appends octets. After an error the file is of no use.
    pub fn write(&mut self, mut octets: &[u8]) -> io::Result<()> {
        while !octets.is_empty() {
            let room = CHUNK - self.open.len();
            let (now, later) = octets.split_at(room.min(octets.len()));
            self.open.extend_from_slice(now);
            octets = later;
            if self.open.len() == CHUNK {
                self.put()?;
            }
        }
        Ok(())
    }

    /// Writes what is left.
    pub fn finish(mut self) -> io::Result<Arc<ChunkFile>> {
        if !self.open.is_empty() {
            self.put()?;
        }
        Ok(self.file)
    }

    fn put(&mut self) -> io::Result<()> {
        let before = self.file.length.load(Ordering::Acquire);
        let (number, length) = (before / CHUNK as u64, self.open.len());
        self.open.resize(length + TAG, 0);
        if !before.is_multiple_of(CHUNK as u64) || !self.file.cipher.seal(number, 0, &[], &mut self.open) {
            return Err(io::Error::other("a chunk of a spill file could not be encrypted"));
        }
        // Counted first: whatever becomes of the write, its number does not come again.
        self.file.length.store(before + length as u64, Ordering::Release);
        self.file.file.write_at(&[IoSlice::new(&self.open)], number * STORED)?;
        self.open.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::simulated::Simulated;
    use crate::log::storage::Storage;

    const KEY: SpillKey = SpillKey([5; 32]);

    fn file() -> Arc<dyn StorageFile> {
        let storage = Simulated::new(1);
        storage.claim(&["d"]).unwrap();
        storage.create("d/file").unwrap()
    }

    fn written(content: &[u8]) -> (Arc<dyn StorageFile>, Arc<ChunkFile>) {
        let raw = file();
        let mut writer = ChunkWriter::new(raw.clone(), KEY);
        content.chunks(50_000).for_each(|piece| writer.write(piece).unwrap());
        (raw, writer.finish().unwrap())
    }

    #[test]
    fn contents_of_all_lengths_are_read_back_at_any_offset() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 17] {
            let content: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();

            let (_, file) = written(&content);

            for from in [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 5].into_iter().filter(|from| *from <= length) {
                let mut buffer = vec![0; (length - from).min(CHUNK + 100)];
                file.read_exact_at(&mut buffer, from as u64).unwrap();
                assert!(buffer == content[from..from + buffer.len()], "{length} from {from}");
            }
            assert!(file.read_exact_at(&mut [0], length as u64).is_err());
        }
    }

    #[test]
    fn damage_exchange_and_cuts_are_errors() {
        let content = vec![7; 2 * CHUNK + 100];
        let (raw, _) = written(&content);
        let stored = read_exact(&*raw, 0, 2 * CHUNK + 100 + 3 * TAG).unwrap();
        assert!(!stored.windows(64).any(|window| window == [7; 64]));

        let chunk = CHUNK + TAG;
        let exchanged = [&stored[chunk..2 * chunk], &stored[..chunk], &stored[2 * chunk..]].concat();
        let mut flipped = stored.clone();
        flipped[chunk + 10] ^= 1;
        for (octets, from) in [(&exchanged[..], 0), (&flipped, chunk), (&stored[..stored.len() - 1], 2 * chunk)] {
            let raw = file();
            raw.write_at(&[IoSlice::new(octets)], 0).unwrap();
            let file = ChunkFile::new(raw, KEY, content.len() as u64);

            assert!(file.read_exact_at(&mut [0; 10], from as u64).is_err(), "{from}");
        }
    }
}
