//! What is used up of budgets, over a restart: one small file that is replaced. Lost or damaged, budgets are as new.

use std::io;
use std::sync::Arc;

use crate::log::storage::Storage;

use super::file::{self, Found};

/// Where it is kept; the default keeps nothing. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SpentStore {
    storage: Option<Arc<dyn Storage>>,
}

impl SpentStore {
    /// The file's name within the spool.
    pub const FILE: &str = "state/spent";

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
                tracing::warn!(file = Self::FILE, "what was used up of budgets is damaged: they begin anew");
                None
            }
            Err(error) => {
                tracing::warn!(file = Self::FILE, %error, "what was used up of budgets cannot be read: they begin anew");
                None
            }
        }
    }

    /// Whether there is a file. Blocks on the disk.
    pub fn has_some(&self) -> bool {
        self.storage.as_ref().is_some_and(|storage| storage.open(Self::FILE).is_ok())
    }

    /// Replaces what is there. Blocks on the disk.
    pub fn replace(&self, content: &[u8]) -> io::Result<()> {
        match &self.storage {
            Some(storage) => file::replace(&**storage, Self::FILE, content),
            None => Ok(()),
        }
    }
}
