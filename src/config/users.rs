//! `[users]`: who may authenticate, and what they may send as.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Complaints;

/// The users' file, and how strictly it is taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Users {
    /// The file. Empty: there are no users, and AUTH is not offered.
    pub file: PathBuf,
    /// What becomes of mail from an address that is not the user's.
    pub sender_policy: SenderPolicy,
}

/// What becomes of mail from an address that is not the user's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SenderPolicy {
    /// It is refused.
    #[default]
    Enforce,
    /// It is accepted, counted and logged.
    Allow,
}

impl Users {
    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        Some(self.file.as_path()).filter(|file| !file.as_os_str().is_empty())
    }

    pub(super) fn check(&self, complaints: &mut Complaints) {
        let is_right = self.path().is_none_or(Path::is_absolute);
        let text = format!("{} is no absolute path; allowed: \"\", or one that begins with /", self.file.display());
        complaints.unless(is_right, "users.file", text);
        complaints.plain_path("users.file", &self.file);
    }
}
