//! `[[certificate]]`: what our listeners prove their names by.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Complaints;

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The certificate and what it needs up to a root, in PEM.
    pub chain: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

impl Certificate {
    pub(super) fn check(&self, key: &str, complaints: &mut Complaints) {
        for (name, path) in [("chain", &self.chain), ("key", &self.key)] {
            complaints.unless(
                path.is_absolute(),
                format!("{key}.{name}"),
                format!("{path:?} is no absolute path; allowed: a file by its absolute path"),
            );
        }
    }
}
