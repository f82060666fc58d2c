//! [`Storage`] on a directory of the real file system.
//!
//! The directory belongs to one daemon: mode 0700, locked with `flock`, refused when it is a symlink, somebody else's or
//! writable by others.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use rustix::io::{ReadWriteFlags, preadv2};

use super::storage::{Entry, Space, Storage, StorageFile};

/// Most slices that one `pwritev` takes (IOV_MAX of Linux).
const MOST_SLICES: usize = 1024;
/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;

/// A spool directory.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    /// Held while the storage lives; the lock ends with the descriptor, even by kill -9.
    lock: Mutex<Option<File>>,
}

impl Disk {
    /// Names the directory; [`Storage::claim`] makes and locks it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), lock: Mutex::new(None) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

fn refused(path: &Path, reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {reason}", path.display()))
}

/// Makes a directory of ours or checks the one that is there.
fn own_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.file_type().is_symlink() {
        return Err(refused(path, "is a symbolic link: name the directory it leads to"));
    }
    if !metadata.is_dir() {
        return Err(refused(path, "is not a directory"));
    }
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != own {
        let reason = format!(
            "belongs to user {owner}, and this runs as user {own}: run it as {owner} (started as root, by `user` in the \
             configuration), or as root: chown -R {own} {}",
            path.display()
        );
        return Err(refused(path, &reason));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(refused(path, "is writable by others: chmod 700"));
    }
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

impl Storage for Disk {
    fn claim(&self, directories: &[&str]) -> io::Result<()> {
        own_directory(&self.root)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.path("lock"))?;
        flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another process holds the spool")
            }
            error => error.into(),
        })?;
        *self.lock.lock() = Some(lock);
        for directory in directories {
            own_directory(&self.path(directory))?;
        }
        self.sync_dir("")?;
        if let Some(parent) = self.root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.path(name))?;
        Ok(Arc::new(DiskFile { file: Arc::new(file) }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.path(name);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| {
            // Something is there, so the caller must not take it for nothing.
            let is_dangling = error.kind() == io::ErrorKind::NotFound && std::fs::symlink_metadata(&path).is_ok();
            if is_dangling { io::Error::other("it is a symbolic link that leads nowhere") } else { error }
        })?;
        Ok(Arc::new(DiskFile { file: Arc::new(file) }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(self.path(directory))? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if metadata.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                entries.push(Entry { name, size: metadata.len() });
            }
        }
        Ok(entries)
    }

    fn sync_dir(&self, directory: &str) -> io::Result<()> {
        File::open(self.path(directory))?.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        let status = rustix::fs::statvfs(&self.root)?;
        Ok(Space { total: status.f_blocks * status.f_frsize, free: status.f_bavail * status.f_frsize })
    }
}

#[derive(Debug)]
struct DiskFile {
    file: Arc<File>,
}

impl StorageFile for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn read_from_memory(&self, buffer: &mut [u8], offset: u64) -> bool {
        let length = buffer.len();
        // Not every file system knows the flag; those that do stop short at the first page that is not cached.
        let read = preadv2(&self.file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT);
        read.is_ok_and(|read| read == length)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut offset = offset;
        for parts in parts.chunks(MOST_SLICES) {
            let length: usize = parts.iter().map(|part| part.len()).sum();
            let written = rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.file, parts, offset))?;
            if written < length {
                write_rest(&self.file, parts, written, offset)?;
            }
            offset += length as u64;
        }
        Ok(())
    }

    fn fill_zero(&self, length: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS];
        let mut offset = 0;
        while offset < length {
            let piece = usize::try_from(length - offset).unwrap_or(ZEROS).min(ZEROS);
            self.file.write_all_at(zeros.get(..piece).unwrap_or_default(), offset)?;
            offset += piece as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn as_file(&self) -> Option<Arc<File>> {
        Some(self.file.clone())
    }
}

/// Finishes a short write: rare (a signal, a full disk), so one part at a time.
fn write_rest(file: &File, parts: &[IoSlice<'_>], written: usize, offset: u64) -> io::Result<()> {
    let (mut skip, mut offset) = (written, offset);
    for part in parts {
        let skipped = skip.min(part.len());
        skip -= skipped;
        file.write_all_at(part.get(skipped..).unwrap_or_default(), offset + skipped as u64)?;
        offset += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let first = Disk::new(root.path().join("spool"));
        first.claim(&["a"]).unwrap();

        let second = Disk::new(root.path().join("spool")).claim(&["a"]).unwrap_err();

        assert_eq!(second.kind(), io::ErrorKind::ResourceBusy);
    }

    #[test]
    fn a_directory_of_somebody_else_is_named_with_both_users_and_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid();
        let place = if own.is_root() { root.path() } else { Path::new("/usr") };
        if own.is_root() {
            std::os::unix::fs::chown(place, Some(4_321), None).unwrap();
        }

        let told = Disk::new(place).claim(&[]).unwrap_err().to_string();

        let owner = if own.is_root() { 4_321 } else { 0 };
        let repair = format!("chown -R {} {}", own.as_raw(), place.display());
        assert!(told.starts_with(&format!("{} belongs to user {owner}", place.display())), "{told}");
        assert!(told.contains("`user`") && told.ends_with(&repair), "{told}");
    }

    #[test]
    fn a_symlink_or_a_world_writable_directory_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let open = root.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::create_dir(root.path().join("real")).unwrap();
        std::os::unix::fs::symlink(root.path().join("real"), root.path().join("link")).unwrap();

        for name in ["open", "link"] {
            let error = Disk::new(root.path().join(name)).claim(&[]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{name}");
        }
    }

    #[test]
    fn what_is_read_from_memory_is_what_was_written_and_never_a_part_of_it() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path().join("spool"));
        disk.claim(&["a"]).unwrap();
        let file = disk.create("a/file").unwrap();
        file.write_at(&[IoSlice::new(b"0123456789")], 0).unwrap();

        let (mut within, mut beyond) = ([0; 4], [0; 4]);
        let is_read = file.read_from_memory(&mut within, 3);

        // Some file systems always wait.
        assert!(!is_read || within == *b"3456");
        assert!(!file.read_from_memory(&mut beyond, 8));
    }

    #[test]
    fn the_directory_is_made_private() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path().join("spool"));

        disk.claim(&["segments"]).unwrap();

        for name in ["spool", "spool/segments"] {
            assert_eq!(std::fs::metadata(root.path().join(name)).unwrap().mode() & 0o777, 0o700);
        }
    }
}
