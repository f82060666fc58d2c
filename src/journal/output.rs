//! The file that is written now, and whether it is still where readers look for it.
//!
//! It may be deleted, renamed or cut by others while it is written (a clean-up, logrotate, a folder that is moved). What
//! was written to it is then no longer in the journal, so it must be noticed: a write into a file without a name succeeds.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::event::Kind;
use super::folder;
use super::lines::Lines;
use super::record::Record;
use super::time;

/// The current file.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    path: PathBuf,
    /// Octets and events written to it.
    pub length: u64,
    pub events: u64,
    pub since: Instant,
    /// When the first event in it may have happened, as the time since 1970-01-01 UTC.
    pub began: Duration,
}

/// What others did to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its name is gone, or is that of another file.
    Removed,
    /// It is shorter than what was written.
    Truncated,
}

impl Loss {
    /// For the line of the gap.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Removed => "file removed",
            Self::Truncated => "file truncated",
        }
    }
}

/// What is left in a file that was cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    /// Events, lines of gaps among them.
    pub events: u64,
    /// When the last one happened.
    pub last_time: Option<Duration>,
}

impl Output {
    /// Makes the file.
    pub fn create(path: PathBuf, began: Duration) -> io::Result<Self> {
        let file = folder::create(&path)?;
        Ok(Self { file, path, length: 0, events: 0, since: Instant::now(), began })
    }

    /// Appends some of it; how much.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.file.write(octets)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.length += written as u64;
        Ok(written)
    }

    /// What happened to it, if anything did. What the system does not tell is taken as well.
    pub fn loss(&self) -> Option<Loss> {
        let Ok(own) = self.file.metadata() else { return None };
        if is_elsewhere(&own, &self.path) {
            return Some(Loss::Removed);
        }
        (own.len() < self.length).then_some(Loss::Truncated)
    }

    /// Leaves whole lines up to `most` octets in a file that was cut, and says what they are: nothing may be glued to a
    /// line that was cut.
    pub fn trim(&self, most: u64) -> io::Result<Rest> {
        let file = &self.file;
        let own = file.metadata()?;
        if is_elsewhere(&own, &self.path) {
            // Removed since it was cut.
            return Ok(Rest::default());
        }
        if own.len() > most {
            file.set_len(most)?;
        }
        let tail = folder::tail(file)?;
        if tail.torn > 0 {
            file.set_len(tail.length)?;
        }
        let (mut events, mut last_time) = (0, None);
        let mut lines = Lines::of(file)?;
        while let Some(line) = lines.next()? {
            let Some(record) = Record::of(line) else { continue };
            events += u64::from(record.raw("event") != Some(Kind::File.as_str().as_bytes()));
            last_time = record.raw("time").map(<[u8]>::to_vec);
        }
        let last_time = last_time.and_then(|text| time::parse(std::str::from_utf8(&text).ok()?));
        Ok(Rest { events, last_time })
    }
}

/// Whether the file that has this name is another one, or there is none.
pub(super) fn is_elsewhere(own: &Metadata, path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(named) => (named.dev(), named.ino()) != (own.dev(), own.ino()),
        Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] =
        b"{\"v\":1,\"id\":\"0000000000001\",\"time\":\"1970-01-01T00:00:02.000Z\",\"event\":\"order\"}\n";

    #[test]
    fn a_file_that_is_removed_replaced_or_cut_is_noticed_and_cut_to_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut output = Output::create(path.clone(), Duration::ZERO).unwrap();
        for _ in 0..3 {
            assert_eq!(output.write(LINE).unwrap(), LINE.len());
        }
        assert_eq!(output.loss(), None);

        output.file.set_len(LINE.len() as u64 + 9).unwrap();
        assert_eq!(output.loss(), Some(Loss::Truncated));
        let rest = Rest { events: 1, last_time: Some(Duration::from_secs(2)) };
        assert_eq!(output.trim(u64::MAX).unwrap(), rest);
        assert_eq!(fs::read(&path).unwrap(), LINE);
        assert_eq!(output.trim(5).unwrap(), Rest::default());
        assert_eq!(output.write(LINE).unwrap(), LINE.len());
        assert_eq!(fs::read(&path).unwrap(), LINE, "still appended to");

        fs::rename(&path, folder.path().join("y")).unwrap();
        assert_eq!(output.loss(), Some(Loss::Removed));
        fs::write(&path, vec![b'x'; 1_000]).unwrap();
        assert_eq!(output.loss(), Some(Loss::Removed));
        assert_eq!(output.trim(u64::MAX).unwrap(), Rest::default(), "nothing is left where readers look");
        assert_eq!(fs::read(&path).unwrap(), vec![b'x'; 1_000], "the other file is left alone");
    }
}
