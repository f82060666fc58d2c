//! The body of a large message on its way into a spill file.
//!
//! Writes are done on the blocking pool, 256 KiB at a time, so that a slow disk stalls nobody else. The spool syncs the
//! file when the message is accepted, and removes it within a second after we let go of it when it is not.

use std::io;

use bytes::Bytes;

use crate::dkim::BodyHash;
use crate::message::Content;
use crate::spool::{SpillFile, Spool};

/// A spill file, and what has been written to it.
pub(super) struct Spill {
    /// `None` while it is written to, and after a write has failed.
    file: Option<SpillFile>,
    /// Of what has been written, if it is to be signed.
    hash: Option<BodyHash>,
}

impl Spill {
    /// A new file in the spool. With `hashes` the hash of the body is taken on the way.
    pub(super) async fn begin(spool: &Spool, hashes: bool) -> io::Result<Self> {
        let spool = spool.clone();
        let file = blocking(move || spool.spill()).await?;
        Ok(Self { file: Some(file), hash: hashes.then(BodyHash::default) })
    }

    /// Appends `body`. After an error the file is gone.
    pub(super) async fn write(&mut self, body: Vec<u8>) -> io::Result<()> {
        let mut file = self.file.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut hash = self.hash.take();
        let write = move || {
            file.write(&body)?;
            if let Some(hash) = &mut hash {
                hash.update(&body);
            }
            Ok((file, hash))
        };
        let (file, hash) = blocking(write).await?;
        (self.file, self.hash) = (Some(file), hash);
        Ok(())
    }

    /// The hash of the body, once it is complete.
    pub(super) fn take_hash(&mut self) -> Option<BodyHash> {
        self.hash.take()
    }

    /// The content that begins with `prefix` and goes on in the file; `None` if it could not be written.
    pub(super) fn content(self, prefix: Bytes) -> Option<Content> {
        self.file.and_then(|file| file.content(prefix, 0).ok())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::other("the write was cancelled")))
}
