//! Every file that a configuration names.

use std::path::{Path, PathBuf};

use super::Config;

impl Config {
    /// The files that the daemon reads because the configuration names them, at its start or later.
    pub fn files(&self) -> Vec<&Path> {
        let single =
            [&self.users.file, &self.admin.tokens, &self.replies.rules, &self.delivery.tls_ca, &self.dns.trust_anchor];
        let authorities = self.listeners.iter().map(|listener| &listener.client_ca);
        let certificates = self.certificates.iter().flat_map(|certificate| [&certificate.chain, &certificate.key]);
        let keys = self.dkim.iter().map(|key| &key.key);
        let secrets = self.spool.key_files.iter().chain([&self.privacy.key_file]);
        let all = single.into_iter().chain(authorities).chain(certificates).chain(keys).chain(secrets);
        all.filter(|path| !path.as_os_str().is_empty()).map(PathBuf::as_path).collect()
    }
}
