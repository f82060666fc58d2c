//! Files that decide who may do what (users, keys, certificates, tokens): read only if nobody else can have written them.
//!
//! A file is taken if it is a regular one that belongs to root or to us, is not writable by group or others, and, where it
//! holds a secret, is not readable by others; a symbolic link on its name must belong to root or to us as well (certbot's
//! do). The checks are made on what was opened, so nothing can be exchanged between them and the reading. Directories above
//! the file are not looked at.

pub mod key;
pub mod rewrite;
pub mod watched;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;

/// The largest file that is read: a hundred thousand users.
const SIZE_MOST: u64 = 64 << 20;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// What everybody may read.
    Public,
    /// What others must not read: group is allowed, so that root may own the file and the daemon's group read it.
    Secret,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened or read.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is not a regular file.
    #[error("{path} is not a regular file")]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// It, or the symbolic link of its name, belongs to somebody else.
    #[error("{path} belongs to uid {owner}; it must be root's or uid {own}'s: chown root {path}")]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        own: u32,
    },
    /// Others may do with it what they must not.
    #[error("{path} has mode {mode:04o}; others must not {what} it: chmod {remedy} {path}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they could do.
        what: &'static str,
        /// The mode that would be right.
        remedy: &'static str,
    },
    /// It is over 64 MiB.
    #[error("{path} is larger than 64 MiB")]
    Size {
        /// The file.
        path: PathBuf,
    },
    /// It is to be text.
    #[error("{path}: not UTF-8")]
    Text {
        /// The file.
        path: PathBuf,
    },
}

/// The content of a file, after the checks.
pub fn read(path: &Path, holds: Holds) -> Result<Vec<u8>, Error> {
    let failed = |error: io::Error| Error::Io { path: path.to_owned(), error };
    let own = geteuid().as_raw();
    let link = std::fs::symlink_metadata(path).map_err(failed)?;
    owned(path, link.uid(), own)?;
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?);
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(Error::Kind { path: path.to_owned() });
    }
    owned(path, meta.uid(), own)?;
    let mode = meta.mode() & 0o7777;
    let fault = |what, remedy| Err(Error::Mode { path: path.to_owned(), mode, what, remedy });
    match holds {
        Holds::Public if mode & 0o022 != 0 => return fault("write", "go-w"),
        Holds::Secret if mode & 0o022 != 0 => return fault("write", "0640"),
        Holds::Secret if mode & 0o004 != 0 => return fault("read", "0640"),
        _ => {}
    }
    let mut content = Vec::new();
    file.take(SIZE_MOST + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > SIZE_MOST {
        return Err(Error::Size { path: path.to_owned() });
    }
    Ok(content)
}

/// The same of a file that is text.
pub fn read_text(path: &Path, holds: Holds) -> Result<String, Error> {
    text(read(path, holds)?, path)
}

fn text(content: Vec<u8>, path: &Path) -> Result<String, Error> {
    String::from_utf8(content).map_err(|_| Error::Text { path: path.to_owned() })
}

fn owned(path: &Path, owner: u32, own: u32) -> Result<(), Error> {
    if owner == 0 || owner == own { Ok(()) } else { Err(Error::Owner { path: path.to_owned(), owner, own }) }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn with_mode(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn what_others_can_write_or_read_is_refused_by_name_and_mode() {
        for (mode, holds, is_fine) in [
            (0o600, Holds::Secret, true),
            (0o640, Holds::Secret, true),
            (0o644, Holds::Secret, false),
            (0o660, Holds::Secret, false),
            (0o644, Holds::Public, true),
            (0o664, Holds::Public, false),
            (0o646, Holds::Public, false),
        ] {
            let (_folder, path) = with_mode(mode);

            let result = read(&path, holds);

            match result {
                Ok(content) => assert!(is_fine && content == b"secret", "{mode:o} {holds:?}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(!is_fine && text.contains("key.pem") && text.contains(&format!("{mode:04o}")), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_link_of_our_own_is_followed_and_one_of_somebody_else_is_not() {
        let (folder, path) = with_mode(0o600);
        let link = folder.path().join("link.pem");
        symlink(&path, &link).unwrap();

        assert_eq!(read(&link, Holds::Secret).unwrap(), b"secret");

        // Only root can give a link away.
        if geteuid().is_root() {
            std::os::unix::fs::lchown(&link, Some(65_534), None).unwrap();
            assert!(matches!(read(&link, Holds::Secret), Err(Error::Owner { owner: 65_534, .. })));
        }
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();

        assert!(matches!(read(&fifo, Holds::Secret), Err(Error::Kind { .. })));
        assert!(matches!(read(folder.path(), Holds::Public), Err(Error::Kind { .. })));
        assert!(matches!(read(&folder.path().join("none"), Holds::Public), Err(Error::Io { .. })));
    }
}
