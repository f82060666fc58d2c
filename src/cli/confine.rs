//! Landlock: from the start on the daemon reaches the folders that its configuration names, and little else.
//!
//! It may write to its spool, its journal, its audit log and the folder of its admin socket. It may read the folders of the files that the
//! configuration names (and of what those are symbolic links to, since certificates are renewed by exchanging links), and
//! what the system's libraries read: `/etc`, `/usr`, the resolver's folder below `/run`, `/proc`, `/sys`. It can start no
//! program. Sockets and signals are not restricted: whom it connects to is its business.
//!
//! Like the rights of [`super::privileges`] this holds for a thread and those that it starts, so it is done while there is
//! one. It cannot be widened: a reload that names a file in another folder needs a restart.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use landlock::{
    ABI, Access, AccessFs, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    path_beneath_rules,
};

use crate::config::{Config, Sandbox};

/// Rights of later kernels are not known to be wanted, those of earlier ones are asked for as far as they go.
const ABI_KNOWN: ABI = ABI::V5;
/// What the system's libraries read: names of users and hosts, roots of certificates, resolvers, time zones, numbers of
/// processors and memory.
const SYSTEM: [&str; 10] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/proc",
    "/sys",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/dev/urandom",
];
/// Where rustls-native-certs looks before the system's places.
const ROOTS: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
/// Folders made here are the daemon's alone.
const FOLDER_MODE: u32 = 0o700;

/// Confines this process; `file` is the configuration's. Tells whether it is confined now.
pub(super) fn confine(file: &Path, config: &Config) -> Result<bool> {
    if config.sandbox == Sandbox::Off {
        return Ok(false);
    }
    let status = restrict(file, config).context("sandbox: Landlock failed")?;
    match status {
        RulesetStatus::FullyEnforced => tracing::info!("confined to its folders by Landlock"),
        _ if config.sandbox == Sandbox::Required => {
            bail!(
                "sandbox: this kernel has no Landlock that knows everything asked for (Linux 6.10 has); allowed here: \
                 \"auto\", \"off\""
            )
        }
        RulesetStatus::PartiallyEnforced => {
            tracing::info!("confined to its folders by Landlock, as far as this kernel knows how");
        }
        RulesetStatus::NotEnforced => {
            tracing::warn!("not confined: this kernel has no Landlock, or it is not switched on")
        }
    }
    Ok(status != RulesetStatus::NotEnforced)
}

fn restrict(file: &Path, config: &Config) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let all = AccessFs::from_all(ABI_KNOWN);
    let write: BitFlags<AccessFs> = all & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar);
    let written = written(config);
    written.iter().for_each(|folder| make(folder));
    // Only listed: the spool's place in it is synced.
    let above = config.spool.path.parent();
    let status = Ruleset::default()
        .handle_access(all)?
        .create()?
        .add_rules(path_beneath_rules(SYSTEM, read))?
        .add_rules(path_beneath_rules(["/dev/null"], read | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(read_folders(file, config), read))?
        .add_rules(path_beneath_rules(above, AccessFs::ReadDir))?
        .add_rules(path_beneath_rules(written, write))?
        .restrict_self()?;
    Ok(status.ruleset)
}

/// What the daemon writes to.
fn written(config: &Config) -> Vec<PathBuf> {
    let mut folders = vec![config.spool.path.clone()];
    if config.journal.enabled {
        folders.push(config.journal.path.clone());
    }
    folders.push(config.audit_folder());
    if let Some(folder) = config.admin.socket.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        folders.push(folder.to_owned());
    }
    folders
}

/// Nothing can be allowed beneath a folder that is not there. One that cannot be made is told by who needs it.
fn make(folder: &Path) {
    if !folder.exists() {
        let _ = fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
    }
}

/// The folders of what the configuration names, and of what that leads to.
fn read_folders(file: &Path, config: &Config) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = ROOTS.iter().filter_map(std::env::var_os).map(PathBuf::from).collect();
    for file in config.files().into_iter().chain([file]) {
        let target = fs::canonicalize(file).ok();
        for path in [Some(file), target.as_deref()].into_iter().flatten() {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            folders.push(parent.unwrap_or(Path::new(".")).to_owned());
        }
    }
    folders.sort();
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_followed_to_the_folder_it_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let place = fs::canonicalize(folder.path()).unwrap();
        for name in ["live", "archive", "etc"] {
            fs::create_dir(place.join(name)).unwrap();
        }
        fs::write(place.join("archive/chain1.pem"), "").unwrap();
        std::os::unix::fs::symlink("../archive/chain1.pem", place.join("live/chain.pem")).unwrap();
        let mut config = Config::default();
        config
            .certificates
            .push(crate::config::Certificate { chain: place.join("live/chain.pem"), key: place.join("none/key.pem") });

        let found = read_folders(&place.join("etc/config.toml"), &config);

        for name in ["live", "archive", "etc", "none"] {
            assert!(found.contains(&place.join(name)), "{name}: {found:?}");
        }
    }
}
