//! What `check` finds about files: the directories of spool and journal and their disks, the admin socket's folder, the file
//! itself.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cli::privileges;
use crate::cli::table::octets;
use crate::config::Config;
use crate::log::disk::Disk;
use crate::state::{OpenError, Orders, Pins, PinsOpenError};

/// Write permission of others than the owner.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The bit that keeps others from replacing what is not theirs.
const STICKY: u32 = 0o1000;

/// Everything suspicious about files.
pub(super) fn warnings(path: &Path, config: &Config) -> Vec<String> {
    let mut out = Vec::new();
    if fs::metadata(path).is_ok_and(|metadata| metadata.mode() & WRITABLE_BY_OTHERS != 0) {
        out.push(format!("{}: others may write to it: chmod go-w", path.display()));
    }
    let daemon = Daemon::of(config);
    spool(&config.spool.path, daemon.as_ref(), &mut out);
    disk(config, &mut out);
    if config.journal.enabled {
        journal(config, daemon.as_ref(), &mut out);
    }
    let socket = &config.admin.socket;
    if let Some(folder) = socket.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        admin_folder(folder, &mut out);
    }
    out
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
struct Daemon {
    user: u32,
    groups: Vec<u32>,
    is_configured: bool,
}

impl Daemon {
    fn of(config: &Config) -> Option<Self> {
        let (user, groups) = privileges::daemon_user(config)?;
        Some(Self { user, groups, is_configured: !config.user.is_empty() })
    }

    /// What is wrong with the owner of a folder.
    fn complaint(&self, owner: u32, path: &Path) -> Option<String> {
        let (user, place) = (self.user, path.display());
        match (owner == user, self.is_configured) {
            (true, _) => None,
            (_, true) => Some(format!("belongs to user {owner}, the daemon runs as {user}: chown -R {user} {place}")),
            (_, false) => Some(format!(
                "belongs to user {owner}, this check runs as {user} and `user` is empty: the daemon must run as {owner}, or \
                 chown"
            )),
        }
    }

    /// Whether it could make something in a folder, as far as modes and mounts tell.
    fn can_write(&self, folder: &Path) -> bool {
        let Ok(metadata) = fs::metadata(folder) else { return true };
        let is_frozen =
            rustix::fs::statvfs(folder).is_ok_and(|disk| disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        let bits = match self.user {
            0 => 0o222,
            user if user == metadata.uid() => 0o200,
            _ if self.groups.contains(&metadata.gid()) => 0o020,
            _ => 0o002,
        };
        !is_frozen && metadata.mode() & bits != 0
    }
}

/// What [`crate::log::disk`] would refuse at the start, and an owner who is not the daemon's user.
fn spool(path: &Path, daemon: Option<&Daemon>, out: &mut Vec<String>) {
    let mut warn = |text: String| out.push(format!("spool.path: {}: {text}", path.display()));
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return missing(path, daemon, &mut warn),
        Err(error) => return warn(format!("{error}: run this as the daemon's user")),
    };
    if metadata.file_type().is_symlink() {
        return warn("is a symbolic link: the daemon will not start; name the directory it leads to".to_owned());
    }
    if !metadata.is_dir() {
        return warn("is not a directory: the daemon will not start".to_owned());
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        warn(format!("mode {:o}: others may write: the daemon will not start; chmod 700", metadata.mode() & 0o7777));
    }
    if let Some(complaint) = daemon.and_then(|daemon| daemon.complaint(metadata.uid(), path)) {
        warn(complaint);
    }
}

fn missing(path: &Path, daemon: Option<&Daemon>, warn: &mut impl FnMut(String)) {
    match path.parent().map(|parent| (parent, fs::metadata(parent))) {
        Some((parent, Ok(metadata))) if metadata.is_dir() => cannot_make(parent, daemon, warn),
        _ => warn("neither it nor the folder above exists: the daemon makes only the last part of it".to_owned()),
    }
}

/// Says so if nothing can be made in `parent`.
fn cannot_make(parent: &Path, daemon: Option<&Daemon>, warn: &mut impl FnMut(String)) {
    if let Some(Daemon { user, .. }) = daemon.filter(|daemon| !daemon.can_write(parent)) {
        let parent = parent.display();
        warn(format!("is not there, and user {user} cannot make it in {parent}: the daemon will not start"));
    }
}

/// The journal's folder: without it the daemon does not start.
fn journal(config: &Config, daemon: Option<&Daemon>, out: &mut Vec<String>) {
    let path = &config.journal.path;
    let mut warn = |text: String| out.push(format!("journal.path: {}: {text}", path.display()));
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => return warn("is not a directory: the daemon will not start".to_owned()),
        Ok(metadata) => {
            if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
                warn(format!("mode {:o}: others may write: chmod go-w", metadata.mode() & 0o7777));
            }
            if let Some(complaint) = daemon.and_then(|daemon| daemon.complaint(metadata.uid(), path)) {
                warn(complaint);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Every part of it that is not there is made.
            let above = path.ancestors().skip(1).find(|place| place.exists());
            if let Some(above) = above {
                cannot_make(above, daemon, &mut warn);
            }
        }
        Err(error) => return warn(format!("{error}: run this as the daemon's user")),
    }
    let Some(disk) = path.ancestors().find_map(|place| rustix::fs::statvfs(place).ok()) else { return };
    let (free, file) = (disk.f_bavail * disk.f_frsize, config.journal.max_size.0);
    // A file system that has no blocks at all, such as /proc, has been told of already.
    if disk.f_blocks > 0 && free < file {
        warn(format!("{} free, less than one file of {}: events may be lost", octets(free), octets(file)));
    }
}

/// Free space where the spool is or will be.
fn disk(config: &Config, out: &mut Vec<String>) {
    let path = &config.spool.path;
    let Some(disk) = path.ancestors().find_map(|place| rustix::fs::statvfs(place).ok()) else { return };
    let (free, reserve) = (disk.f_bavail * disk.f_frsize, config.spool.reserve.0);
    if free <= reserve {
        out.push(format!(
            "spool.reserve: {} free at {} and {} are kept in reserve: submissions will get 452",
            octets(free),
            path.display(),
            octets(reserve)
        ));
    } else if free - reserve < 2 * config.spool.segment_size.0 {
        let left = octets(free - reserve);
        out.push(format!(
            "spool.path: {}: only {left} above the reserve: submissions will soon get 452",
            path.display()
        ));
    }
}

fn admin_folder(folder: &Path, out: &mut Vec<String>) {
    let mut warn = |text: &str| out.push(format!("admin.socket: {}: {text}", folder.display()));
    match fs::metadata(folder) {
        Ok(metadata) if !metadata.is_dir() => warn("is not a directory: the daemon will not start"),
        Ok(metadata) if is_open(&metadata) => warn("others may replace the socket in it: chmod go-w"),
        Ok(_) => {}
        // The daemon makes it.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => warn(&error.to_string()),
    }
}

fn is_open(metadata: &Metadata) -> bool {
    metadata.mode() & WRITABLE_BY_OTHERS != 0 && metadata.mode() & STICKY == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn all(change: impl FnOnce(&Path, &mut Config)) -> Vec<String> {
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
        warnings(&file, &config)
    }

    #[test]
    fn a_place_where_the_daemon_could_start_is_not_warned_of() {
        assert_eq!(all(|_, _| {}), Vec::<String>::new());
        assert_eq!(all(|folder, _| fs::create_dir(folder.join("run")).unwrap()), Vec::<String>::new());
    }

    #[test]
    fn a_spool_that_the_daemon_would_refuse_is_told_with_what_to_do() {
        let link = all(|folder, config| std::os::unix::fs::symlink(folder, &config.spool.path).unwrap());
        assert!(link.len() == 1 && link[0].contains("symbolic link"), "{link:?}");
        let open = all(|_, config| {
            fs::create_dir(&config.spool.path).unwrap();
            fs::set_permissions(&config.spool.path, fs::Permissions::from_mode(0o777)).unwrap();
        });
        assert!(open.len() == 1 && open[0].contains("chmod 700"), "{open:?}");
        let file = all(|_, config| fs::write(&config.spool.path, "").unwrap());
        assert!(file.len() == 1 && file[0].contains("not a directory"), "{file:?}");
        let nowhere = all(|folder, config| config.spool.path = folder.join("a/b/c"));
        assert!(nowhere.len() == 1 && nowhere[0].contains("folder above"), "{nowhere:?}");
    }

    #[test]
    fn a_full_disk_and_open_folders_are_told() {
        let full = all(|_, config| config.spool.reserve = "1000TiB".parse().unwrap());
        assert!(full.len() == 1 && full[0].contains("452"), "{full:?}");
        let open = all(|folder, _| {
            fs::create_dir(folder.join("run")).unwrap();
            fs::set_permissions(folder.join("run"), fs::Permissions::from_mode(0o777)).unwrap();
            fs::set_permissions(folder.join("config.toml"), fs::Permissions::from_mode(0o666)).unwrap();
        });
        assert_eq!(open.len(), 2, "{open:?}");
    }

    #[test]
    fn owners_are_compared_with_the_configured_user_and_not_with_who_checks() {
        let daemon = |user, is_configured| Daemon { user, groups: Vec::new(), is_configured };
        let place = Path::new("/var/spool/hikyaku");

        assert_eq!(daemon(995, true).complaint(995, place), None);
        assert!(daemon(995, true).complaint(0, place).unwrap().contains("chown -R 995 /var/spool/hikyaku"));
        assert!(daemon(0, false).complaint(995, place).unwrap().contains("`user` is empty"));
        let foreign = all(|_, config| {
            fs::create_dir(&config.spool.path).unwrap();
            fs::set_permissions(&config.spool.path, fs::Permissions::from_mode(0o700)).unwrap();
            // One that is not who runs the tests.
            config.user = (rustix::process::geteuid().as_raw() + 4_321).to_string();
            config.group = "0".to_owned();
        });
        assert!(foreign.iter().any(|text| text.contains("the daemon runs as")), "{foreign:?}");
    }

    #[test]
    fn a_journal_that_the_daemon_could_not_write_is_told() {
        let nowhere = all(|_, config| config.journal.path = "/proc/nojournal".into());
        assert!(nowhere.len() == 1, "{nowhere:?}");
        assert!(nowhere[0].starts_with("journal.path: /proc/nojournal: is not there"), "{nowhere:?}");
        let file = all(|folder, config| {
            config.journal.path = folder.join("journal");
            fs::write(&config.journal.path, "").unwrap();
        });
        assert!(file.len() == 1 && file[0].contains("not a directory"), "{file:?}");
        let open = all(|folder, config| {
            config.journal.path = folder.join("journal");
            fs::create_dir(&config.journal.path).unwrap();
            fs::set_permissions(&config.journal.path, fs::Permissions::from_mode(0o777)).unwrap();
        });
        assert!(open.len() == 1 && open[0].contains("chmod go-w"), "{open:?}");
        let full = all(|_, config| config.journal.max_size = "1000TiB".parse().unwrap());
        assert!(full.len() == 1 && full[0].contains("less than one file"), "{full:?}");
        let off = all(|_, config| {
            config.journal.path = "/proc/nojournal".into();
            config.journal.enabled = false;
        });
        assert_eq!(off, Vec::<String>::new());
    }
}
