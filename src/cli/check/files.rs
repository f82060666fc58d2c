//! What `check` finds about files: the spool's directory and its disk, the admin socket's folder, the file itself.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cli::table::octets;
use crate::config::Config;

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
    spool(&config.spool.path, &mut out);
    disk(config, &mut out);
    let socket = &config.admin.socket;
    if let Some(folder) = socket.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        admin_folder(folder, &mut out);
    }
    out
}

/// What [`crate::log::disk`] would refuse at the start, and an owner who is not the user of this check.
fn spool(path: &Path, out: &mut Vec<String>) {
    let mut warn = |text: String| out.push(format!("spool.path: {}: {text}", path.display()));
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return missing(path, &mut warn),
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
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        let owner = metadata.uid();
        warn(format!("belongs to user {owner}, this check runs as {own}: the daemon must run as {owner}, or chown"));
    }
}

fn missing(path: &Path, warn: &mut impl FnMut(String)) {
    match path.parent().map(fs::metadata) {
        Some(Ok(parent)) if parent.is_dir() => {}
        _ => warn("neither it nor the folder above exists: the daemon makes only the last part of it".to_owned()),
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
}
