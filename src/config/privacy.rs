//! `[privacy]`: how addresses are shown outside the spool.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Complaints;

/// What becomes of addresses in the journal and in the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Privacy {
    /// How they are written.
    pub mask: MaskMode,
    /// The key of tokens, for `hash` (`hikyaku spool key generate` makes one). Empty: none.
    pub key_file: PathBuf,
}

/// How addresses are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskMode {
    /// As they are.
    #[default]
    None,
    /// A token in place of the local-part, which the key's holder can turn back.
    Hash,
    /// The first character of the local-part.
    Partial,
}

impl Privacy {
    pub(super) fn check(&self, complaints: &mut Complaints) {
        if self.key_file.as_os_str().is_empty() {
            let text = "missing; needed for privacy.mask = \"hash\"; allowed: the path of a key file".to_owned();
            return complaints.unless(self.mask != MaskMode::Hash, "privacy.key_file", text);
        }
        let text = format!("{:?} is not absolute; allowed: a path that begins with '/'", self.key_file);
        complaints.unless(self.key_file.is_absolute(), "privacy.key_file", text);
        complaints.plain_path("privacy.key_file", &self.key_file);
    }
}
