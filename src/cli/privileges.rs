//! Giving up what the daemon needs no more once its sockets are bound.
//!
//! Started as root with `user` in the configuration, it becomes that user for good: supplementary groups, group and user are
//! set, every capability goes, those of the bounding set too, and no program that it could start gains any
//! (`no_new_privs`). Then it is tried to become root again; that must fail. Started as somebody else it only gives up the
//! capabilities that it was given (CAP_NET_BIND_SERVICE for low ports).
//!
//! The kernel keeps these things for each thread, so they are given up while there is one thread only: before the runtime
//! starts. That is checked.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist, getresgid, getresuid, setgroups, setresgid, setresuid};
use rustix::fs::Access;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    no_new_privs, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::config::Config;

/// Nothing is allowed beyond what any user may do.
const NONE: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// Who the daemon is to be.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    user: Uid,
    group: Gid,
    /// Every group, the first one included.
    groups: Vec<Gid>,
}

/// Becomes the configured user if it is another one, gives up every capability, and checks that the folders can be used.
pub(super) fn give_up(config: &Config) -> Result<()> {
    let is_root = Uid::effective().is_root();
    if config.user.is_empty() && is_root {
        tracing::warn!("started as root without `user` in the configuration: it stays root");
        return Ok(());
    }
    ensure!(threads()? == 1, "there are threads already, which would stay what they are");
    if is_root {
        become_user(&Account::find(&config.user, &config.group)?)?;
    } else if !config.user.is_empty() {
        let user = Account::find(&config.user, &config.group)?.user;
        ensure!(user == Uid::effective(), "user: to become {}, hikyaku must be started as root", config.user);
    }
    give_up_capabilities().context("cannot give up capabilities")?;
    verify(is_root)?;
    if is_root {
        tracing::info!(user = config.user, "root is given up");
    }
    for folder in folders(config) {
        folder.check(config)?;
    }
    Ok(())
}

/// Why the configured user cannot be had on this machine, if so.
pub(super) fn account_problem(config: &Config) -> Option<String> {
    if config.user.is_empty() {
        return None;
    }
    Account::find(&config.user, &config.group).err().map(|error| format!("{error:#}"))
}

/// Who the daemon will be: user, and groups. None: the configured user cannot be had.
pub(super) fn daemon_user(config: &Config) -> Option<(u32, Vec<u32>)> {
    if config.user.is_empty() {
        let groups = nix::unistd::getgroups().unwrap_or_default();
        let groups = groups.into_iter().chain([Gid::effective()]).map(Gid::as_raw).collect();
        return Some((Uid::effective().as_raw(), groups));
    }
    let account = Account::find(&config.user, &config.group).ok()?;
    Some((account.user.as_raw(), account.groups.into_iter().map(Gid::as_raw).collect()))
}

impl Account {
    fn find(user: &str, group: &str) -> Result<Self> {
        let by_name = User::from_name(user).with_context(|| format!("user: {user} cannot be looked up"))?;
        let by_number = || user.parse().ok().map(Uid::from_raw);
        let id = by_name.as_ref().map(|found| found.uid).or_else(by_number);
        let id = id.with_context(|| format!("user: there is no user {user}"))?;
        ensure!(!id.is_root(), "user: {user} is root; leave `user` empty if that is wanted");
        let entry = match by_name {
            Some(entry) => Some(entry),
            None => User::from_uid(id).with_context(|| format!("user: {user} cannot be looked up"))?,
        };
        let own_group = || match &entry {
            Some(entry) => Ok(entry.gid),
            None => bail!("group: is needed, since user {user} has no entry that tells it"),
        };
        let group = if group.is_empty() { own_group()? } else { find_group(group)? };
        let groups = match entry {
            Some(entry) => getgrouplist(&CString::new(entry.name)?, group)
                .with_context(|| format!("user: the groups of {user} cannot be looked up"))?,
            None => vec![group],
        };
        Ok(Self { user: id, group, groups })
    }
}

fn find_group(name: &str) -> Result<Gid> {
    let by_name = Group::from_name(name).with_context(|| format!("group: {name} cannot be looked up"))?;
    let by_number = || name.parse().ok().map(Gid::from_raw);
    by_name.map(|group| group.gid).or_else(by_number).with_context(|| format!("group: there is no group {name}"))
}

fn threads() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/task").context("/proc/self/task tells whether there are threads")?.count())
}

fn become_user(account: &Account) -> Result<()> {
    // While we still may; afterwards nothing that we start can have one either.
    for capability in known_capabilities() {
        remove_capability_from_bounding_set(capability).context("the bounding set cannot be emptied")?;
    }
    setgroups(&account.groups).context("the supplementary groups cannot be set")?;
    setresgid(account.group, account.group, account.group).context("the group cannot be set")?;
    setresuid(account.user, account.user, account.user).context("the user cannot be set")?;
    let users = getresuid().context("who we are cannot be asked")?;
    let groups = getresgid().context("who we are cannot be asked")?;
    let is_user = [users.real, users.effective, users.saved] == [account.user; 3];
    let is_group = [groups.real, groups.effective, groups.saved] == [account.group; 3];
    ensure!(is_user && is_group, "it did not become the configured user");
    // As after an exec by that user: /proc/self can be read, and what systemd's watchdog ends leaves a core to look at.
    set_dumpable_behavior(DumpableBehavior::Dumpable).context("it cannot be made dumpable again")
}

/// Capabilities that the kernel knows.
fn known_capabilities() -> impl Iterator<Item = CapabilitySet> {
    let all = (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number));
    all.take_while(|capability| capability_is_in_bounding_set(*capability).is_ok())
}

fn give_up_capabilities() -> io::Result<()> {
    set_no_new_privs(true)?;
    // Under a filter of system calls these may be refused even to those who have nothing to give up.
    if capabilities(None)? != NONE {
        clear_ambient_capability_set()?;
        set_capabilities(None, NONE)?;
    }
    Ok(())
}

/// Asks the kernel, whatever the calls above have said.
fn verify(was_root: bool) -> Result<()> {
    let left = capabilities(None).context("capabilities cannot be asked")?;
    ensure!(left == NONE, "capabilities are left: {left:?}");
    ensure!(no_new_privs().context("no_new_privs cannot be asked")?, "no_new_privs is not set");
    if was_root {
        let bounding: Vec<_> =
            known_capabilities().filter(|known| capability_is_in_bounding_set(*known) != Ok(false)).collect();
        ensure!(bounding.is_empty(), "the bounding set is not empty: {bounding:?}");
        ensure!(setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_err(), "root could be regained");
    }
    Ok(())
}

/// A folder that the daemon must be able to write to.
struct Folder {
    key: &'static str,
    path: PathBuf,
    /// It and what lies in it must be ours, not only open to us.
    is_owned: bool,
}

/// Every folder of the configuration that is written to.
fn folders(config: &Config) -> Vec<Folder> {
    let mut folders = vec![Folder { key: "spool.path", path: config.spool.path.clone(), is_owned: true }];
    let socket = &config.admin.socket;
    if let Some(path) = socket.parent().filter(|_| !socket.as_os_str().is_empty()) {
        folders.push(Folder { key: "admin.socket", path: path.to_owned(), is_owned: false });
    }
    if config.journal.enabled {
        folders.push(Folder { key: "journal.path", path: config.journal.path.clone(), is_owned: true });
    }
    folders
}

impl Folder {
    /// Whether we can use it, as who we are now: that counts access lists and read-only mounts.
    fn check(&self, config: &Config) -> Result<()> {
        let Self { key, path, .. } = self;
        let owner = if config.user.is_empty() { Uid::effective().to_string() } else { config.user.clone() };
        let group = if config.group.is_empty() { String::new() } else { config.group.clone() };
        let place = path.display();
        if !path.exists() {
            let parent = path.ancestors().skip(1).find(|parent| parent.exists()).unwrap_or(Path::new("/"));
            let can_make = rustix::fs::access(parent, Access::WRITE_OK | Access::EXEC_OK).is_ok();
            let to_group = if group.is_empty() { String::new() } else { format!(" -g {group}") };
            ensure!(
                can_make,
                "{key}: {owner} cannot make {place}; as root: install -d -o {owner}{to_group} -m 0700 {place}"
            );
            return Ok(());
        }
        let repair = format!("as root: chown -R {owner}:{group} {place} && chmod u+rwx {place}");
        if self.is_owned
            && let Some(foreign) = foreign(path, Uid::effective().as_raw())?
        {
            bail!("{key}: {} does not belong to {owner}; {repair}", foreign.display());
        }
        let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        ensure!(rustix::fs::access(path, all).is_ok(), "{key}: {owner} cannot use {place}; {repair}");
        Ok(())
    }
}

/// The first of a folder, its folders and their files that does not belong to user `own`.
pub(super) fn foreign(path: &Path, own: u32) -> Result<Option<PathBuf>> {
    let is_foreign = |path: &Path| match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(metadata.uid() != own),
        // It may come and go with the daemon that uses it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("{} cannot be looked at", path.display())),
    };
    if is_foreign(path)? {
        return Ok(Some(path.to_owned()));
    }
    let list = |path: &Path| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
    };
    for path in list(path)? {
        if is_foreign(&path)? {
            return Ok(Some(path));
        }
        if path.is_dir() && !path.is_symlink() {
            for path in list(&path)? {
                if is_foreign(&path)? {
                    return Ok(Some(path));
                }
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let nobody = Account::find("nobody", "").unwrap();

        assert!(!nobody.user.is_root() && nobody.groups.contains(&nobody.group));
        assert_eq!(Account::find(&nobody.user.to_string(), &nobody.group.to_string()).unwrap(), nobody);
    }

    #[test]
    fn an_account_that_is_not_there_or_is_root_is_refused_by_key() {
        for (user, group, said) in [
            ("no-such-user-here", "", "user: there is no user"),
            ("nobody", "no-such-group-here", "group: there is no group"),
            ("root", "", "user: root is root"),
            ("0", "", "user: 0 is root"),
            ("3999999999", "", "group: is needed"),
        ] {
            let error = format!("{:#}", Account::find(user, group).unwrap_err());

            assert!(error.contains(said), "{error}");
        }
        let bare = Account::find("3999999999", "3999999998").unwrap();
        assert_eq!(bare.groups, [Gid::from_raw(3_999_999_998)]);
    }

    #[test]
    fn a_folder_of_somebody_else_is_found_and_told_with_the_command_to_run() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { user: "courier".to_owned(), group: "post".to_owned(), ..Config::default() };
        fs::create_dir(folder.path().join("segments")).unwrap();
        fs::write(folder.path().join("segments/1.seg"), "x").unwrap();
        let spool = Folder { key: "spool.path", path: folder.path().to_owned(), is_owned: true };
        assert!(spool.check(&config).is_ok());
        if !Uid::effective().is_root() {
            return;
        }

        std::os::unix::fs::chown(folder.path().join("segments/1.seg"), Some(12_345), None).unwrap();

        let said = spool.check(&config).unwrap_err().to_string();
        let command = format!("chown -R courier:post {}", folder.path().display());
        assert!(said.contains("segments/1.seg") && said.contains(&command), "{said}");
    }
}
