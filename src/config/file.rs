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
        // Whoever tells it says which file it is.
        other => {
            let (text, name) = (other.to_string(), path.display().to_string());
            let bare = text.strip_prefix(&name).unwrap_or(&text).trim_start_matches([':', ' ']).to_owned();
            io::Error::new(io::ErrorKind::PermissionDenied, bare)
        }
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

    #[test]
    fn what_others_could_have_written_is_refused_with_what_to_do() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "").unwrap();
        let told = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            read(&path).map_err(|error| (error.kind(), error.to_string()))
        };

        assert_eq!(told(0o644), Ok(String::new()));
        let (kind, text) = told(0o646).unwrap_err();
        assert_eq!(kind, io::ErrorKind::PermissionDenied);
        assert!(text.starts_with("has mode 0646") && text.contains("chmod go-w"), "{text}");
    }
}
