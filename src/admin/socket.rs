//! The Unix socket of the admin interface: mode 0600 from its first instant, one daemon a path.
//!
//! It is bound inside a private folder beside its final place, given its mode and then renamed: at no time can another
//! user connect, whatever the umask. A socket left by a dead daemon is replaced; one that a live daemon answers on is
//! not.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::UnixListener;

/// A bound socket; its file is removed when this is dropped, unless somebody else has replaced it.
#[derive(Debug)]
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl AdminSocket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            // Nothing depends on it: the next start replaces a socket that is left behind.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds the admin socket at `path`, mode 0600; makes its folder (mode 0700) if there is none. Must be called inside a
/// Tokio runtime.
pub fn bind_unix(path: &Path) -> io::Result<AdminSocket> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    refuse_live(path)?;
    let private = folder.join(format!(".bind-{}", std::process::id()));
    let _ = fs::remove_dir_all(&private);
    DirBuilder::new().mode(0o700).create(&private)?;
    let bound = bind_in(&private, path);
    let removed = fs::remove_dir_all(&private);
    let socket = bound?;
    removed?;
    Ok(socket)
}

fn bind_in(private: &Path, path: &Path) -> io::Result<AdminSocket> {
    let temporary = private.join("s");
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, Permissions::from_mode(0o600))?;
    let inode = fs::symlink_metadata(&temporary)?.ino();
    fs::rename(&temporary, path)?;
    Ok(AdminSocket { listener, path: path.to_owned(), inode })
}

fn refuse_live(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something that is not a socket"))
        }
        Ok(_) if is_live(path)? => Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers on it")),
        _ => Ok(()),
    }
}

/// Whether somebody listens. Without waiting: a backlog that is full belongs to a listener.
fn is_live(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let connected = connect(&socket, &SocketAddrUnix::new(path)?);
    Ok(connected.is_ok() || connected == Err(Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn socket_is_for_its_owner_only_and_gone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/admin.sock");

        let socket = bind_unix(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let beside = fs::read_dir(path.parent().unwrap()).unwrap().count();
        drop(socket);

        assert_eq!((mode, beside), (0o600, 1));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

        let live = bind_unix(&path).unwrap();
        let second = bind_unix(&path).unwrap_err();

        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(live.path(), path);
    }

    #[tokio::test]
    async fn one_whose_backlog_is_full_is_live_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();

        assert_eq!(bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "x").unwrap();

        assert_eq!(bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }
}
