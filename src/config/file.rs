//! Reading the configuration file: a regular one, of a size that a configuration can have.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

/// Thousands of times what anybody has; more is something else, such as a log.
const MOST: u64 = 16 << 20;

/// The text of the file.
pub(super) fn read(path: &Path) -> io::Result<String> {
    // A pipe without a writer would be waited for.
    let file = File::from(open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut text = String::new();
    file.take(MOST + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MOST {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 16 MiB")),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_or_too_large_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, large) = (folder.path().join("pipe"), folder.path().join("large"));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        File::create(&large).unwrap().set_len(MOST + 1).unwrap();

        assert_eq!(read(&pipe).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(read(folder.path()).is_err());
        assert_eq!(read(&large).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        File::options().write(true).open(&large).unwrap().set_len(MOST).unwrap();
        assert_eq!(read(&large).unwrap().len() as u64, MOST);
    }
}
