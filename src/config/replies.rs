//! `[replies]`: rules about what refusals mean.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Complaints, ConfigError, file};
use crate::reply::LazyClassifier;

/// Rules beside the built-in ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replies {
    /// A file of rules, which are asked before the built-in ones. Empty: none.
    pub rules: PathBuf,
}

impl Replies {
    pub(super) fn check(&self, complaints: &mut Complaints) {
        complaints.file("replies.rules", &self.rules);
    }

    /// All rules, ready to be asked. May block as long as the disk does.
    pub fn classifier(&self) -> Result<LazyClassifier, ConfigError> {
        if self.rules.as_os_str().is_empty() {
            return Ok(LazyClassifier::default());
        }
        let path = || self.rules.clone();
        let text = file::read(&self.rules).map_err(|error| ConfigError::Read { path: path(), error })?;
        LazyClassifier::with(&text).map_err(|error| ConfigError::Rules { path: path(), error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_wrong_or_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("replies.toml");
        std::fs::write(&rules, "[[rule]]\nid = \"mine\"\nclass = \"spam\"\n").unwrap();

        let wrong = Replies { rules }.classifier().unwrap_err().to_string();
        let missing = Replies { rules: "/nonexistent/replies.toml".into() }.classifier().unwrap_err().to_string();

        assert!(wrong.contains("replies.toml: mine: class: \"spam\": allowed: bad-mailbox, "), "{wrong}");
        assert!(missing.starts_with("/nonexistent/replies.toml: "), "{missing}");
    }
}
