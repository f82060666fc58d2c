//! Files that decide who may do what (users, keys, certificates, tokens): read only if nobody else can have written them.
//!
//! A file is taken if it is a regular one that belongs to root or to us, is not writable by group or others, and, where it
//! holds a secret, is not readable by others; a symbolic link on its name must belong to root or to us as well (certbot's
//! do). The checks are made on what was opened, so nothing can be exchanged between them and the reading. The folder of the
//! name, and of what a link leads to, must be root's or ours too, and nobody else may rename anything in it or above it: an
//! older file could be brought back otherwise.

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

/// Write permission of group and others.
const WRITABLE: u32 = 0o022;
/// In such a folder everybody may rename what is theirs alone.
const STICKY: u32 = 0o1000;

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
    /// It, the symbolic link of its name, or its folder belongs to somebody else.
    #[error("{path}{} belongs to uid {owner}; it must be root's or uid {own}'s: {} root {}", what.words(), what.remedy(), place.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// What it is that belongs to somebody else.
        what: Part,
        /// Where that is.
        place: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are, or will be.
        own: u32,
    },
    /// Others could put another file in its place.
    #[error("{path}: others could put another file in its place: {} has mode {mode:04o}: chmod go-w {}", folder.display(), folder.display())]
    Folder {
        /// The file.
        path: PathBuf,
        /// The folder that they can write to, around the file or further up.
        folder: PathBuf,
        /// Its permission bits.
        mode: u32,
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

/// What belongs to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The file itself.
    File,
    /// The symbolic link that has its name.
    Link,
    /// The folder that it is in.
    Folder,
}

impl Part {
    const fn words(self) -> &'static str {
        match self {
            Self::File => "",
            Self::Link => ", a symbolic link,",
            Self::Folder => ": its folder",
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::File | Self::Folder => "chown",
            Self::Link => "chown -h",
        }
    }
}

/// The content of a file, after the checks.
pub fn read(path: &Path, holds: Holds) -> Result<Vec<u8>, Error> {
    read_as(path, holds, geteuid().as_raw())
}

/// The same for a daemon that will run as this user, to whom the file may belong.
pub fn read_as(path: &Path, holds: Holds, user: u32) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    let read = open(path, holds, user)?.take(SIZE_MOST + 1).read_to_end(&mut content);
    read.map_err(|error| Error::Io { path: path.to_owned(), error })?;
    if content.len() as u64 > SIZE_MOST {
        return Err(Error::Size { path: path.to_owned() });
    }
    Ok(content)
}

/// A file, open for reading, after the checks.
pub fn open(path: &Path, holds: Holds, user: u32) -> Result<File, Error> {
    let failed = |error: io::Error| Error::Io { path: path.to_owned(), error };
    let owned = |what, place: &Path, owner: u32| match owner == 0 || owner == user || owner == geteuid().as_raw() {
        true => Ok(()),
        false => Err(Error::Owner { path: path.to_owned(), what, place: place.to_owned(), owner, own: user }),
    };
    let named = std::fs::symlink_metadata(path).map_err(failed)?;
    owned(if named.is_symlink() { Part::Link } else { Part::File }, path, named.uid())?;
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?);
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(Error::Kind { path: path.to_owned() });
    }
    owned(Part::File, path, meta.uid())?;
    let mode = meta.mode() & 0o7777;
    let fault = |what, remedy| Err(Error::Mode { path: path.to_owned(), mode, what, remedy });
    match holds {
        Holds::Public if mode & WRITABLE != 0 => return fault("write", "go-w"),
        Holds::Secret if mode & WRITABLE != 0 => return fault("write", "0640"),
        Holds::Secret if mode & 0o004 != 0 => return fault("read", "0640"),
        _ => {}
    }
    for folder in folders(path).map_err(failed)? {
        owned(Part::Folder, &folder, std::fs::metadata(&folder).map_err(failed)?.uid())?;
        if let Some((folder, mode)) = open_to_others(&folder).map_err(failed)? {
            return Err(Error::Folder { path: path.to_owned(), folder, mode });
        }
    }
    Ok(file)
}

/// The folder of a name, and that of what the name leads to.
fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut folders = vec![folder.canonicalize()?];
    let real = path.canonicalize()?;
    folders.extend(real.parent().map(Path::to_owned));
    folders.dedup();
    Ok(folders)
}

/// Refuses a folder of ours that others could put files into or take files from.
pub fn closed(folder: &Path) -> io::Result<()> {
    match open_to_others(&folder.canonicalize()?)? {
        None => Ok(()),
        Some((place, mode)) => {
            let place = place.display();
            let told = format!("others could exchange its files: {place} has mode {mode:04o}: chmod go-w {place}");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, told))
        }
    }
}

/// Of a folder and those above it the first in which others can rename what is not theirs, with its mode.
fn open_to_others(folder: &Path) -> io::Result<Option<(PathBuf, u32)>> {
    for place in folder.ancestors() {
        let mode = std::fs::metadata(place)?.mode() & 0o7777;
        if mode & WRITABLE != 0 && mode & STICKY == 0 {
            return Ok(Some((place.to_owned(), mode)));
        }
    }
    Ok(None)
}

/// The same of a file that is text.
pub fn read_text(path: &Path, holds: Holds) -> Result<String, Error> {
    read_text_as(path, holds, geteuid().as_raw())
}

/// [`read_as`] of a file that is text.
pub fn read_text_as(path: &Path, holds: Holds, user: u32) -> Result<String, Error> {
    text(read_as(path, holds, user)?, path)
}

fn text(content: Vec<u8>, path: &Path) -> Result<String, Error> {
    String::from_utf8(content).map_err(|_| Error::Text { path: path.to_owned() })
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
            let error = read(&link, Holds::Secret).unwrap_err();
            assert!(matches!(error, Error::Owner { owner: 65_534, what: Part::Link, .. }));
            assert!(error.to_string().contains("chown -h root"), "{error}");
        }
    }

    #[test]
    fn a_folder_in_which_others_could_exchange_the_file_is_refused_by_name_up_to_the_root() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("open/inner");
        fs::create_dir_all(&folder).unwrap();
        let (path, link) = (folder.join("key.pem"), root.path().join("link.pem"));
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        symlink(&path, &link).unwrap();
        let open = folder.parent().unwrap();
        let told = |path: &Path| read(path, Holds::Secret).err().map(|error| error.to_string());
        assert_eq!(told(&path), None);

        for mode in [0o777, 0o775, 0o757] {
            fs::set_permissions(open, Permissions::from_mode(mode)).unwrap();
            for name in [&path, &link] {
                let told = told(name).unwrap();
                let is_right = told.starts_with(name.to_str().unwrap()) && told.contains(&format!("mode 0{mode:o}"));
                assert!(is_right && told.contains(&format!("chmod go-w {}", open.display())), "{told}");
            }
            assert!(closed(&folder).unwrap_err().to_string().contains("chmod go-w"));
        }
        fs::set_permissions(open, Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(told(&path), None, "nobody can rename what is not theirs");
        if geteuid().is_root() {
            std::os::unix::fs::chown(&folder, Some(65_534), None).unwrap();
            assert!(told(&path).unwrap().contains("its folder belongs to uid 65534"));
            assert_eq!(read_as(&path, Holds::Secret, 65_534).unwrap(), b"secret", "for a daemon that is that user");
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
