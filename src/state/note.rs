//! What is kept over a restart and may be lost: one small file that is replaced.

use std::io;
use std::sync::Arc;

use crate::log::storage::Storage;

use super::file::{self, Found};

/// A file for one thing; the default keeps nothing. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Note {
    storage: Option<Arc<dyn Storage>>,
    file: &'static str,
    /// What it is about, and what becomes of that without it.
    about: &'static str,
}

impl Note {
    /// What is used up of budgets. Without it they are as new.
    pub fn of_spent(storage: Arc<dyn Storage>) -> Self {
        Self { storage: Some(storage), file: "state/spent", about: "what was used up of budgets, which begin anew" }
    }

    /// Where warm-ups are. Without it today's volumes begin anew, and pauses are forgotten.
    pub fn of_warmups(storage: Arc<dyn Storage>) -> Self {
        let about = "where warm-ups were: today's volumes begin anew";
        Self { storage: Some(storage), file: "state/warmup", about }
    }

    /// What users have sent today. Without it the day begins anew for them.
    pub fn of_allowances(storage: Arc<dyn Storage>) -> Self {
        let about = "what users have sent today, which begins anew";
        Self { storage: Some(storage), file: "state/allowances", about }
    }

    /// The end of the audit log. Without it a cut-off end of the log cannot be told.
    pub fn of_audit(storage: Arc<dyn Storage>) -> Self {
        Self { storage: Some(storage), file: "state/audit", about: "where the audit log ended" }
    }

    /// The MTA-STS policies that were fetched. Without them domains are as unprotected as at the first look.
    pub fn of_sts(storage: Arc<dyn Storage>) -> Self {
        let about = "which MTA-STS policies hold: they are fetched again";
        Self { storage: Some(storage), file: "state/mta-sts", about }
    }

    /// How TLS sessions went on days that are not reported. Without it reports are of what came since.
    pub fn of_tls_reports(storage: Arc<dyn Storage>) -> Self {
        let about = "how TLS sessions went: reports are of what came since";
        Self { storage: Some(storage), file: "state/tls-reports", about }
    }

    /// On which days mailboxes were full. Without it they are counted anew.
    pub fn of_full_mailboxes(storage: Arc<dyn Storage>) -> Self {
        let about = "on which days mailboxes were full: they are counted anew";
        Self { storage: Some(storage), file: "state/mailbox-full", about }
    }

    /// What is there. Damage is told, and as nothing. Blocks on the disk.
    pub fn read(&self) -> Option<Vec<u8>> {
        let Self { file, about, .. } = *self;
        match file::read(&**self.storage.as_ref()?, file) {
            Ok(Found::Content(content)) => return Some(content),
            Ok(Found::Nothing) => {}
            Ok(Found::Damaged) => tracing::warn!(file, about, "a file of the state is damaged"),
            Err(error) => tracing::warn!(file, about, %error, "a file of the state cannot be read"),
        }
        None
    }

    /// Whether there is a file. Blocks on the disk.
    pub fn has_some(&self) -> bool {
        self.storage.as_ref().is_some_and(|storage| storage.open(self.file).is_ok())
    }

    /// Replaces what is there; it is on stable storage then. Blocks on the disk.
    pub fn replace(&self, content: &[u8]) -> io::Result<()> {
        match &self.storage {
            Some(storage) => file::replace(&**storage, self.file, content),
            None => Ok(()),
        }
    }
}
