//! What `check` finds about files: the directories of spool and journal and their disks, the admin socket's folder, the file
//! itself.
//!
//! What the daemon would refuse at its start is an error. Whether it may use a folder is told from owner, groups and mode,
//! for the configured user; where an access list stands, nothing is said.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::StatVfsMountFlags;

use super::{Findings, tls};
use crate::admin::tokens;
use crate::cli::privileges;
use crate::cli::table::octets;
use crate::config::Config;
use crate::log::disk::Disk;
use crate::state::{OpenError, Orders, Pins, PinsOpenError};
use crate::trusted::watched::Content;
use crate::trusted::{self, Holds, key};
use crate::users;

/// Write permission of others than the owner.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The bit that keeps others from replacing what is not theirs.
const STICKY: u32 = 0o1000;
/// A unit's RuntimeDirectory= is made in it at each start, and goes at each stop.
const RUN: &str = "/run";
/// Permissions, as a digit of the mode has them.
const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const ENTER: u32 = 0o1;

/// Everything wrong or suspicious about files.
pub(super) fn look(path: &Path, config: &Config, found: &mut Findings) {
    if fs::metadata(path).is_ok_and(|metadata| metadata.mode() & WRITABLE_BY_OTHERS != 0) {
        found.warnings.push(format!("{}: others may write to it: chmod go-w", path.display()));
    }
    let daemon = Daemon::of(config);
    if let Some(daemon) = &daemon {
        reread(path, daemon, found);
    }
    if !config.replies.rules.as_os_str().is_empty() {
        Daemon::unreadable("replies.rules", &config.replies.rules, daemon.as_ref(), found);
    }
    for (index, key) in config.dkim.iter().enumerate() {
        Daemon::unreadable(&format!("dkim[{index}].key"), &key.key, daemon.as_ref(), found);
    }
    tls::look(config, daemon.as_ref(), found);
    if let Some(path) = config.users.path() {
        accounts::<users::Table>("users.file", path, daemon.as_ref(), found);
    }
    if let Some(path) = config.admin.tokens_path() {
        accounts::<tokens::Table>("admin.tokens", path, daemon.as_ref(), found);
    }
    spool(&config.spool.path, daemon.as_ref(), found);
    for path in &config.spool.key_files {
        secret("spool.key_files", path, daemon.as_ref(), found);
    }
    if !config.privacy.key_file.as_os_str().is_empty() {
        secret("privacy.key_file", &config.privacy.key_file, daemon.as_ref(), found);
    }
    disk(config, found);
    if config.journal.enabled {
        journal(config, daemon.as_ref(), found);
    }
    // Elsewhere it is a part of the spool.
    if !config.admin.audit.as_os_str().is_empty() {
        audit(&config.admin.audit, daemon.as_ref(), found);
    }
    let socket = &config.admin.socket;
    if let Some(folder) = socket.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        admin_folder(folder, daemon.as_ref(), found);
        if fs::symlink_metadata(socket).is_ok_and(|metadata| !metadata.file_type().is_socket()) {
            let text = "is not a socket: the daemon will not start";
            found.errors.push(format!("admin.socket: {}: {text}", socket.display()));
        }
    }
}

/// Why the daemon could not take up its operators' orders. Whether it may read them at all, `spool` tells.
pub(super) fn orders(spool: &Path) -> Option<String> {
    let error = match Orders::check(&Disk::new(spool)) {
        Err(OpenError::Io(error))
            if [ErrorKind::PermissionDenied, ErrorKind::NotADirectory].contains(&error.kind()) =>
        {
            return None;
        }
        checked => checked.err()?,
    };
    Some(error.of_spool(spool))
}

/// The same for the pins of limits.
pub(super) fn pins(spool: &Path) -> Option<String> {
    let error = match Pins::check(&Disk::new(spool)) {
        Err(PinsOpenError::Io(error))
            if [ErrorKind::PermissionDenied, ErrorKind::NotADirectory].contains(&error.kind()) =>
        {
            return None;
        }
        checked => checked.err()?,
    };
    Some(error.of_spool(spool))
}

/// Who the daemon will be.
pub(super) struct Daemon {
    user: u32,
    groups: Vec<u32>,
    is_configured: bool,
}

impl Daemon {
    pub(super) fn of(config: &Config) -> Option<Self> {
        let (user, groups) = privileges::daemon_user(config)?;
        Some(Self { user, groups, is_configured: !config.user.is_empty() })
    }

    /// Whether it will surely be this user: without `user` in the configuration, whoever starts it decides.
    fn is_certain(&self) -> bool {
        self.is_configured || self.user == 0
    }

    /// Whether it is configured to be this user.
    pub(super) fn is_of(owner: u32, daemon: Option<&Self>) -> bool {
        daemon.is_some_and(|daemon| daemon.is_configured && daemon.user == owner)
    }

    /// Tells of a file that it cannot read.
    pub(super) fn unreadable(key: &str, path: &Path, daemon: Option<&Self>, found: &mut Findings) {
        if let Some(daemon) = daemon.filter(|daemon| path.exists() && !daemon.may(path, READ)) {
            daemon.tell(format!("{key}: user {} cannot read {}", daemon.user, path.display()), found);
        }
    }

    /// Says what it cannot do: an error if it will surely be this user.
    fn tell(&self, text: String, found: &mut Findings) {
        match self.is_certain() {
            true => found.errors.push(format!("{text}: the daemon will not start")),
            false => found.warnings.push(format!("{text}: run this as the daemon's user")),
        }
    }

    /// What is wrong with the owner of a folder, whose files must be the daemon's too.
    fn owner(&self, key: &str, metadata: &Metadata, path: &Path, found: &mut Findings) {
        let (user, owner, place) = (self.user, metadata.uid(), path.display());
        if !self.is_configured {
            if owner != user {
                found.warnings.push(format!(
                    "{key}: {place}: belongs to user {owner}, this check runs as {user} and `user` is empty: the daemon must \
                     run as {owner}, or chown"
                ));
            }
            return;
        }
        // What cannot be looked at by who checks is not judged.
        match privileges::foreign(path, user) {
            Ok(Some(foreign)) => found.errors.push(format!(
                "{key}: {} does not belong to user {user}, whom the daemon runs as: chown -R {user} {place}",
                foreign.display()
            )),
            _ => self.use_of(key, path, found),
        }
    }

    /// Says so if it cannot list, write to and enter a folder.
    fn use_of(&self, key: &str, path: &Path, found: &mut Findings) {
        if !self.may(path, READ | WRITE | ENTER) {
            self.tell(format!("{key}: user {} cannot use {}", self.user, path.display()), found);
        }
    }

    /// Says so if nothing can be made in `parent`.
    fn making(&self, key: &str, path: &Path, parent: &Path, found: &mut Findings) {
        if !self.may(parent, WRITE | ENTER) {
            let (path, user, parent) = (path.display(), self.user, parent.display());
            self.tell(format!("{key}: {path}: is not there, and user {user} cannot make it in {parent}"), found);
        }
    }

    /// Whether it has these permissions, and may enter every folder above, as far as modes and mounts tell.
    fn may(&self, path: &Path, wanted: u32) -> bool {
        let is_frozen = wanted & WRITE != 0
            && rustix::fs::statvfs(path).is_ok_and(|disk| disk.f_flag.contains(StatVfsMountFlags::RDONLY));
        let is_open = path.ancestors().skip(1).all(|above| self.has(above, ENTER));
        !is_frozen && is_open && self.has(path, wanted)
    }

    fn has(&self, path: &Path, wanted: u32) -> bool {
        // With an access list the mode does not tell.
        let Ok(metadata) = fs::metadata(path) else { return true };
        let has_list = rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0_u8; 0]).is_ok();
        let shift = match self.user {
            user if user == metadata.uid() => 6,
            _ if self.groups.contains(&metadata.gid()) => 3,
            _ => 0,
        };
        // Root may whatever the mode says, but makes nothing in /proc and its like, which have no blocks.
        let is_root = self.user == 0
            && (metadata.mode() & 0o222 != 0 || rustix::fs::statvfs(path).is_ok_and(|disk| disk.f_blocks > 0));
        has_list || is_root || (metadata.mode() >> shift) & wanted == wanted
    }
}

/// A file that a reload reads again, as the user that the daemon has become.
fn reread(path: &Path, daemon: &Daemon, found: &mut Findings) {
    if daemon.is_configured && path.is_absolute() && !daemon.may(path, READ) {
        let (path, user) = (path.display(), daemon.user);
        found.warnings.push(format!("{path}: user {user} cannot read it: every reload will fail; chmod or chgrp"));
    }
}

/// A key file that the daemon would not take.
fn secret(key: &str, path: &Path, daemon: Option<&Daemon>, found: &mut Findings) {
    match key::read(path) {
        // Who checks is not who will read it.
        Err(key::Error::File(trusted::Error::Owner { owner, .. })) if Daemon::is_of(owner, daemon) => {}
        Err(error) => found.errors.push(format!("{key}: {error}: the daemon will not start")),
        Ok(_) => {}
    }
    Daemon::unreadable(key, path, daemon, found);
}

/// A file of users or tokens with a mistake, or that the daemon would not take.
fn accounts<C: Content>(key: &str, path: &Path, daemon: Option<&Daemon>, found: &mut Findings) {
    let mistake = |text: String| C::parse(&text, path).err().map(|error| error.to_string());
    let mistake = match trusted::read_text(path, Holds::Secret) {
        Ok(text) => mistake(text),
        // Who checks is not who will read it.
        Err(trusted::Error::Owner { owner, .. }) if Daemon::is_of(owner, daemon) => {
            fs::read_to_string(path).ok().and_then(mistake)
        }
        Err(error) => Some(error.to_string()),
    };
    found.errors.extend(mistake.map(|text| format!("{key}: {text}: the daemon will not start")));
    Daemon::unreadable(key, path, daemon, found);
}

/// What [`crate::log::disk`] would refuse at the start, and an owner who is not the daemon's user.
fn spool(path: &Path, daemon: Option<&Daemon>, found: &mut Findings) {
    let told = |text: &str| format!("spool.path: {}: {text}", path.display());
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return missing(path, daemon, found),
        Err(error) => return found.warnings.push(told(&format!("{error}: run this as the daemon's user"))),
    };
    if metadata.file_type().is_symlink() {
        let text = "is a symbolic link: the daemon will not start; name the directory it leads to";
        return found.errors.push(told(text));
    }
    if !metadata.is_dir() {
        return found.errors.push(told("is not a directory: the daemon will not start"));
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        let mode = metadata.mode() & 0o7777;
        let text = format!("mode {mode:o}: others may write: the daemon will not start; chmod 700");
        found.errors.push(told(&text));
    }
    if let Some(daemon) = daemon {
        daemon.owner("spool.path", &metadata, path, found);
    }
}

fn missing(path: &Path, daemon: Option<&Daemon>, found: &mut Findings) {
    match path.parent().map(|parent| (parent, fs::metadata(parent))) {
        Some((parent, Ok(metadata))) if metadata.is_dir() => {
            if let Some(daemon) = daemon {
                daemon.making("spool.path", path, parent, found);
            }
        }
        _ => found.errors.push(format!(
            "spool.path: {}: neither it nor the folder above exists: the daemon makes only the last part of it",
            path.display()
        )),
    }
}

/// The journal's folder: without it the daemon does not start.
fn journal(config: &Config, daemon: Option<&Daemon>, found: &mut Findings) {
    let path = &config.journal.path;
    let told = |text: String| format!("journal.path: {}: {text}", path.display());
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            return found.errors.push(told("is not a directory: the daemon will not start".to_owned()));
        }
        Ok(metadata) => {
            if let Err(error) = trusted::closed(path) {
                found.errors.push(told(format!("{error}: the daemon will not start")));
            }
            if let Some(daemon) = daemon {
                daemon.owner("journal.path", &metadata, path, found);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => makeable("journal.path", path, daemon, found),
        Err(error) => return found.warnings.push(told(format!("{error}: run this as the daemon's user"))),
    }
    let Some(disk) = path.ancestors().find_map(|place| rustix::fs::statvfs(place).ok()) else { return };
    let (free, file) = (disk.f_bavail * disk.f_frsize, config.journal.max_size.0);
    // A file system that has no blocks at all, such as /proc, has been told of already.
    if disk.f_blocks > 0 && free < file {
        let text = format!("{} free, less than one file of {}: events may be lost", octets(free), octets(file));
        found.warnings.push(told(text));
    }
}

/// The daemon runs without its audit log, but takes no change then.
fn audit(path: &Path, daemon: Option<&Daemon>, found: &mut Findings) {
    let told = |text: String| format!("admin.audit: {}: {text}", path.display());
    let refused = "every change through the admin interface will be refused";
    let above = path.ancestors().skip(1).find(|place| place.exists());
    let may = |place: &Path, needs| daemon.is_none_or(|daemon| daemon.may(place, needs));
    let user = daemon.map(|daemon| daemon.user).unwrap_or_default();
    let text = match (fs::metadata(path), above) {
        (Ok(metadata), _) if !metadata.is_dir() => format!("is not a directory: {refused}"),
        (Ok(_), _) if !may(path, READ | WRITE | ENTER) => format!("user {user} cannot use it: {refused}"),
        (Ok(metadata), _) if metadata.mode() & WRITABLE_BY_OTHERS != 0 => {
            format!("mode {:o}: others may write: chmod go-w", metadata.mode() & 0o7777)
        }
        (Ok(_), _) => return,
        (Err(error), Some(above)) if error.kind() == ErrorKind::NotFound => match may(above, WRITE | ENTER) {
            true => return,
            false => format!("is not there, and user {user} cannot make it in {}: {refused}", above.display()),
        },
        (Err(error), _) => format!("{error}: run this as the daemon's user"),
    };
    found.warnings.push(told(text));
}

/// A folder of which every part that is not there is made.
fn makeable(key: &str, path: &Path, daemon: Option<&Daemon>, found: &mut Findings) {
    let above = path.ancestors().skip(1).find(|place| place.exists());
    if let (Some(above), Some(daemon)) = (above, daemon) {
        daemon.making(key, path, above, found);
    }
}

/// Free space where the spool is or will be.
fn disk(config: &Config, found: &mut Findings) {
    let path = &config.spool.path;
    let Some(disk) = path.ancestors().find_map(|place| rustix::fs::statvfs(place).ok()) else { return };
    let (free, reserve) = (disk.f_bavail * disk.f_frsize, config.spool.reserve.0);
    if free <= reserve {
        found.warnings.push(format!(
            "spool.reserve: {} free at {} and {} are kept in reserve: submissions will get 452",
            octets(free),
            path.display(),
            octets(reserve)
        ));
    } else if free - reserve < 2 * config.spool.segment_size.0 {
        let left = octets(free - reserve);
        found.warnings.push(format!(
            "spool.path: {}: only {left} above the reserve: submissions will soon get 452",
            path.display()
        ));
    }
}

fn admin_folder(folder: &Path, daemon: Option<&Daemon>, found: &mut Findings) {
    let told = |text: &str| format!("admin.socket: {}: {text}", folder.display());
    match fs::metadata(folder) {
        Ok(metadata) if !metadata.is_dir() => {
            found.errors.push(told("is not a directory: the daemon will not start"));
        }
        Ok(metadata) => {
            if is_open(&metadata) {
                found.warnings.push(told("others may replace the socket in it: chmod go-w"));
            }
            if let Some(daemon) = daemon {
                daemon.use_of("admin.socket", folder, found);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound && folder.parent() == Some(Path::new(RUN)) => {
            if daemon.is_some_and(|daemon| !daemon.may(Path::new(RUN), WRITE | ENTER)) {
                let text = "is not there: the daemon will not start unless its unit makes it (RuntimeDirectory=)";
                found.warnings.push(told(text));
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => makeable("admin.socket", folder, daemon, found),
        Err(error) => found.warnings.push(told(&error.to_string())),
    }
}

fn is_open(metadata: &Metadata) -> bool {
    metadata.mode() & WRITABLE_BY_OTHERS != 0 && metadata.mode() & STICKY == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn all(change: impl FnOnce(&Path, &mut Config)) -> Findings {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let mut config = Config::default();
        config.spool.path = folder.path().join("spool");
        config.spool.reserve = "1KiB".parse().unwrap();
        config.journal.path = folder.path().join("log/journal");
        config.journal.max_size = "1MiB".parse().unwrap();
        config.admin.socket = folder.path().join("run/admin.sock");
        change(folder.path(), &mut config);
        let mut found = Findings::default();
        look(&file, &config, &mut found);
        found
    }

    fn errors(change: impl FnOnce(&Path, &mut Config)) -> Vec<String> {
        let found = all(change);
        assert!(found.warnings.is_empty(), "{found:?}");
        found.errors
    }

    fn warnings(change: impl FnOnce(&Path, &mut Config)) -> Vec<String> {
        let found = all(change);
        assert!(found.errors.is_empty(), "{found:?}");
        found.warnings
    }

    #[test]
    fn a_place_where_the_daemon_could_start_is_not_warned_of() {
        assert_eq!(all(|_, _| {}), Findings::default());
        assert_eq!(all(|folder, _| fs::create_dir(folder.join("run")).unwrap()), Findings::default());
    }

    #[test]
    fn a_spool_that_the_daemon_would_refuse_is_an_error_with_what_to_do() {
        let link = errors(|folder, config| std::os::unix::fs::symlink(folder, &config.spool.path).unwrap());
        assert!(link.len() == 1 && link[0].contains("symbolic link"), "{link:?}");
        let open = errors(|_, config| {
            fs::create_dir(&config.spool.path).unwrap();
            fs::set_permissions(&config.spool.path, fs::Permissions::from_mode(0o777)).unwrap();
        });
        assert!(open.len() == 1 && open[0].contains("chmod 700"), "{open:?}");
        let file = errors(|_, config| fs::write(&config.spool.path, "").unwrap());
        assert!(file.len() == 1 && file[0].contains("not a directory"), "{file:?}");
        let nowhere = errors(|folder, config| config.spool.path = folder.join("a/b/c"));
        assert!(nowhere.len() == 1 && nowhere[0].contains("folder above"), "{nowhere:?}");
    }

    #[test]
    fn a_full_disk_and_open_folders_are_told() {
        let full = warnings(|_, config| config.spool.reserve = "1000TiB".parse().unwrap());
        assert!(full.len() == 1 && full[0].contains("452"), "{full:?}");
        let open = warnings(|folder, _| {
            fs::create_dir(folder.join("run")).unwrap();
            fs::set_permissions(folder.join("run"), fs::Permissions::from_mode(0o777)).unwrap();
            fs::set_permissions(folder.join("config.toml"), fs::Permissions::from_mode(0o666)).unwrap();
        });
        assert_eq!(open.len(), 2, "{open:?}");
    }

    /// Somebody who is not who runs the tests.
    fn somebody(config: &mut Config) {
        config.user = (rustix::process::geteuid().as_raw() + 4_321).to_string();
        config.group = "4321".to_owned();
    }

    /// Lets everybody into the folder that has everything in it.
    fn open(folder: &Path) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    }

    #[test]
    fn owners_are_compared_with_the_configured_user_and_not_with_who_checks() {
        let foreign = errors(|folder, config| {
            open(folder);
            fs::create_dir(&config.spool.path).unwrap();
            fs::set_permissions(&config.spool.path, fs::Permissions::from_mode(0o700)).unwrap();
            somebody(config);
        });

        assert!(foreign.len() == 1 && foreign[0].contains("whom the daemon runs as: chown -R"), "{foreign:?}");
        let nothing = all(|folder, config| {
            open(folder);
            somebody(config);
        });
        assert_eq!(nothing, Findings::default());
    }

    #[test]
    fn a_folder_of_the_socket_that_the_configured_user_cannot_use_or_make_is_an_error() {
        let closed = errors(|folder, config| {
            open(folder);
            fs::create_dir(folder.join("run")).unwrap();
            fs::set_permissions(folder.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
            somebody(config);
        });
        assert!(closed.len() == 1 && closed[0].starts_with("admin.socket: user "), "{closed:?}");
        assert!(closed[0].contains("cannot use") && closed[0].ends_with("will not start"), "{closed:?}");

        let absent = errors(|folder, config| {
            open(folder);
            fs::create_dir(folder.join("closed")).unwrap();
            fs::set_permissions(folder.join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
            config.admin.socket = folder.join("closed/run/admin.sock");
            somebody(config);
        });
        assert!(absent.len() == 1 && absent[0].contains("cannot make it in"), "{absent:?}");

        let file = errors(|folder, config| {
            fs::create_dir(folder.join("run")).unwrap();
            fs::write(&config.admin.socket, "").unwrap();
        });
        assert!(file.len() == 1 && file[0].contains("not a socket"), "{file:?}");
    }

    #[test]
    fn a_configuration_that_the_configured_user_cannot_read_again_is_warned_of() {
        let closed = warnings(|folder, config| {
            open(folder);
            fs::set_permissions(folder.join("config.toml"), fs::Permissions::from_mode(0o600)).unwrap();
            somebody(config);
        });

        assert!(closed.len() == 1 && closed[0].contains("every reload will fail"), "{closed:?}");
    }

    #[test]
    fn a_journal_that_the_daemon_could_not_write_is_told() {
        let nowhere = all(|_, config| config.journal.path = "/proc/nojournal".into());
        let nowhere = [nowhere.errors, nowhere.warnings].concat();
        assert!(nowhere.len() == 1, "{nowhere:?}");
        assert!(nowhere[0].starts_with("journal.path: /proc/nojournal: is not there"), "{nowhere:?}");
        let file = errors(|folder, config| {
            config.journal.path = folder.join("journal");
            fs::write(&config.journal.path, "").unwrap();
        });
        assert!(file.len() == 1 && file[0].contains("not a directory"), "{file:?}");
        let open = errors(|folder, config| {
            config.journal.path = folder.join("journal");
            fs::create_dir(&config.journal.path).unwrap();
            fs::set_permissions(&config.journal.path, fs::Permissions::from_mode(0o777)).unwrap();
        });
        assert!(open.len() == 1 && open[0].contains("chmod go-w"), "{open:?}");
        let full = warnings(|_, config| config.journal.max_size = "1000TiB".parse().unwrap());
        assert!(full.len() == 1 && full[0].contains("less than one file"), "{full:?}");
        let off = all(|_, config| {
            config.journal.path = "/proc/nojournal".into();
            config.journal.enabled = false;
        });
        assert_eq!(off, Findings::default());
    }

    #[test]
    fn an_audit_log_that_could_not_be_written_is_warned_of() {
        let file = warnings(|folder, config| {
            config.admin.audit = folder.join("audit");
            fs::write(&config.admin.audit, "").unwrap();
        });
        let open = warnings(|folder, config| {
            config.admin.audit = folder.join("audit");
            fs::create_dir(&config.admin.audit).unwrap();
            fs::set_permissions(&config.admin.audit, fs::Permissions::from_mode(0o777)).unwrap();
        });
        let new = all(|folder, config| config.admin.audit = folder.join("new/audit"));

        assert!(file.len() == 1 && file[0].contains("not a directory: every change"), "{file:?}");
        assert!(open.len() == 1 && open[0].contains("admin.audit") && open[0].contains("chmod go-w"), "{open:?}");
        assert_eq!(new, Findings::default());
    }
}
