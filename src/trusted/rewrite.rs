//! Changing a file of secrets for the command line: a new one is written beside it and takes its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Holds, read_text};

/// Owner and group may read it, others not.
pub const MODE: u32 = 0o640;

/// Why a file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not to be trusted, or cannot be read.
    #[error(transparent)]
    File(#[from] super::Error),
    /// It cannot be written.
    #[error("{}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Gives a file the text that `change` makes of the one it has; it is on stable storage then, or as it was. Whoever does so
/// at the same time waits. A file that is new gets the group that reads it. Blocks.
pub fn rewrite<E: From<Error>>(
    path: &Path,
    reader: Option<u32>,
    change: impl FnOnce(&str) -> Result<String, E>,
) -> Result<(), E> {
    let failed = |error| Error::Write { path: path.to_owned(), error };
    // A link is followed: what it names is replaced, not the link.
    let real = if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        fs::canonicalize(path).map_err(failed)?
    } else {
        path.to_owned()
    };
    let folder = real.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The folder is locked, not the file, which is another one afterwards.
    let lock = File::open(folder).map_err(failed)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    let before = match fs::symlink_metadata(&real) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        _ => text(&real)?,
    };
    let after = change(&before)?;
    replace(&real, folder, &after, reader).map_err(failed)?;
    Ok(lock.sync_all().map_err(failed)?)
}

/// The text of a file of secrets, for who may change it. Blocks on the disk.
pub fn text(path: &Path) -> Result<String, Error> {
    match read_text(path, Holds::Secret) {
        // The daemon's user may own it, and root change it.
        Err(super::Error::Owner { .. }) if rustix::process::geteuid().is_root() => {
            let content = fs::read(path).map_err(|error| Error::Write { path: path.to_owned(), error })?;
            Ok(super::text(content, path)?)
        }
        read => Ok(read?),
    }
}

/// Writes beside and renames; owner and group stay.
fn replace(path: &Path, folder: &Path, text: &str, reader: Option<u32>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.{}.new", std::process::id()));
    let result = write(path, &beside, text, reader).and_then(|()| fs::rename(&beside, path));
    if result.is_err() {
        let _ = fs::remove_file(&beside);
    }
    result
}

fn write(path: &Path, beside: &Path, text: &str, reader: Option<u32>) -> io::Result<()> {
    let _ = fs::remove_file(beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    file.write_all(text.as_bytes())?;
    let own = file.metadata()?;
    let (owner, group) = match fs::metadata(path) {
        Ok(old) => (old.uid(), old.gid()),
        Err(_) => (own.uid(), reader.unwrap_or(own.gid())),
    };
    if (own.uid(), own.gid()) != (owner, group) {
        std::os::unix::fs::fchown(&file, Some(owner), Some(group))?;
    }
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(MODE))?;
    file.sync_all()
}
