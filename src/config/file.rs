//! Reading the configuration's files: regular ones, of a size that a configuration can have, which nobody else can have
//! written ([`crate::trusted`]).

use std::io::{self, Read};
use std::path::Path;

use crate::trusted::{self, Holds};

/// Thousands of times what anybody has; more is something else, such as a log.
const MOST: u64 = 16 << 20;

/// The text of the file.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let own = rustix::process::geteuid().as_raw();
    let file = trusted::open(path, Holds::Public, own).map_err(|error| match error {
        trusted::Error::Io { error, .. } => error,
        trusted::Error::Kind { .. } => io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"),
        other => io::Error::new(io::ErrorKind::PermissionDenied, other),
    })?;
    let mut text = String::new();
    file.take(MOST + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MOST {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 16 MiB")),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_no_regular_file_or_too_large_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, large) = (folder.path().join("pipe"), folder.path().join("large"));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        File::create(&large).unwrap().set_len(MOST + 1).unwrap();

        assert_eq!(read(&pipe).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(read(folder.path()).is_err());
        assert_eq!(read(&large).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        File::options().write(true).open(&large).unwrap().set_len(MOST).unwrap();
        assert_eq!(read(&large).unwrap().len() as u64, MOST);
    }
}
