//! Where warm-ups are, over a restart: one small file that is replaced. Lost or damaged, today's volumes begin anew, and pauses
//! are forgotten.

use std::io;
use std::sync::Arc;

use crate::log::storage::Storage;

use super::file::{self, Found};

/// Where it is kept; the default keeps nothing. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct WarmupStore {
    storage: Option<Arc<dyn Storage>>,
}

impl WarmupStore {
    /// The file's name within the spool.
    pub const FILE: &str = "state/warmup";

    /// In this storage, the spool's.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage: Some(storage) }
    }

    /// What is there. Damage is told, and as nothing. Blocks on the disk.
    pub fn read(&self) -> Option<Vec<u8>> {
        match file::read(&**self.storage.as_ref()?, Self::FILE) {
            Ok(Found::Content(content)) => Some(content),
            Ok(Found::Nothing) => None,
            Ok(Found::Damaged) => {
                tracing::warn!(file = Self::FILE, "where warm-ups were is damaged: today's volumes begin anew");
                None
            }
            Err(error) => {
                tracing::warn!(file = Self::FILE, %error, "where warm-ups were cannot be read: today's volumes begin anew");
                None
            }
        }
    }

    /// Replaces what is there; it is on stable storage then. Blocks on the disk.
    pub fn replace(&self, content: &[u8]) -> io::Result<()> {
        match &self.storage {
            Some(storage) => file::replace(&**storage, Self::FILE, content),
            None => Ok(()),
        }
    }
}
