//! A temporary folder for the demonstration, for its owner only and removed at the end.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The folder; removed with all that is in it when this is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes one, mode 0700, in `place` or the system's temporary folder. Never takes over what is there already.
    pub fn make(place: Option<&Path>) -> io::Result<Self> {
        let place = place.map_or_else(std::env::temp_dir, Path::to_owned);
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for attempt in 0..100_u32 {
            let path = place.join(format!("hikyaku-demo-{}-{attempt}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path: fs::canonicalize(path)? }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", place.display()))),
            }
        }
        Err(last)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A second try: something may still have been writing during the first.
        if fs::remove_dir_all(&self.path).is_err() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn folder_is_private_new_and_gone_afterwards() {
        let place = tempfile::tempdir().unwrap();

        let (first, second) = (Folder::make(Some(place.path())).unwrap(), Folder::make(Some(place.path())).unwrap());
        fs::write(first.path().join("file"), "x").unwrap();

        assert_ne!(first.path(), second.path());
        assert_eq!(fs::metadata(first.path()).unwrap().permissions().mode() & 0o777, 0o700);
        drop((first, second));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
