//! The body of a large message on its way into a spill file.
//!
//! Writes are done on the blocking pool, 256 KiB at a time, so that a slow disk stalls nobody else. The spool syncs the
//! file when the message is accepted, and removes it within a second after we let go of it when it is not.

use std::io;

use bytes::Bytes;

use crate::message::Content;
use crate::spool::{SpillFile, Spool};

/// A spill file, and what has been written to it.
pub(super) struct Spill {
    /// `None` while it is written to, and after a write has failed.
    file: Option<SpillFile>,
}

impl Spill {
    /// A new file in the spool.
    pub(super) async fn begin(spool: &Spool) -> io::Result<Self> {
        let spool = spool.clone();
        let file = blocking(move || spool.spill()).await?;
        Ok(Self { file: Some(file) })
    }

    /// Appends `body`. After an error the file is gone.
    pub(super) async fn write(&mut self, body: Vec<u8>) -> io::Result<()> {
        let mut file = self.file.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let file = blocking(move || file.write(&body).map(|()| file)).await?;
        self.file = Some(file);
        Ok(())
    }

    /// The content that begins with `prefix` and goes on in the file.
    pub(super) fn content(self, prefix: Bytes) -> Option<Content> {
        self.file.map(|file| file.content(prefix, 0))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::other("the write was cancelled")))
}
