//! What a file that is trusted says, in memory, and read again when the file has changed.
//!
//! [`Watched::look`] is called every [`LOOK_EVERY`]. A file that has a mistake, or is gone, leaves what was read before in
//! force and is told once.

use std::fmt::{self, Debug, Display, Formatter};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::Gauge;
use parking_lot::Mutex;

use super::{Error, Holds, read_text};

/// How often a file's metadata is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a file says.
pub trait Content: Default {
    /// Why a file is not taken.
    type Error: Display + From<Error>;

    /// Reads the text of a file; `path` is for messages.
    fn parse(text: &str, path: &Path) -> Result<Self, Self::Error>;

    /// Reads a file, which holds secrets. Blocks on the disk.
    fn read(path: &Path) -> Result<Self, Self::Error> {
        Self::parse(&read_text(path, Holds::Secret)?, path)
    }

    /// How many entries it has.
    fn entries(&self) -> usize;

    /// What is put in force in place of `before`: it may go on with what is the same there.
    fn after(self, _before: &Self) -> Self {
        self
    }
}

/// What was read of a file, to be put in force by [`Watched::apply`].
#[derive(Default)]
pub struct Reading<C> {
    content: C,
    source: Source,
}

/// What the file says is not shown: there are secrets in it.
impl<C> Debug for Reading<C> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("source", &self.source).finish_non_exhaustive()
    }
}

impl<C: Content> Reading<C> {
    /// Reads a file; without one there are no entries. Blocks on the disk.
    pub fn of(path: Option<&Path>) -> Result<Self, C::Error> {
        let Some(path) = path else { return Ok(Self::default()) };
        // Before the reading: what changes meanwhile is read again.
        let stamp = Stamp::of(path);
        let content = C::read(path)?;
        Ok(Self { content, source: Source { path: Some(path.to_owned()), stamp, error: None } })
    }
}

/// Where the content comes from, and how that went.
#[derive(Clone, Debug, Default)]
struct Source {
    path: Option<PathBuf>,
    /// Of what was read last, good or bad.
    stamp: Option<Stamp>,
    error: Option<String>,
}

/// What tells that a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([i64; 6]);

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let of = |metadata: Metadata| {
            let number = |value: u64| i64::from_ne_bytes(value.to_ne_bytes());
            let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
            let [a, b, c, d] = times;
            Self([number(metadata.ino()), number(metadata.size()), a, b, c, d])
        };
        std::fs::metadata(path).ok().map(of)
    }
}

/// What is told of a file in the metrics.
#[derive(Clone, Debug)]
pub struct Gauges {
    /// Entries in force.
    pub entries: Gauge,
    /// 1: the file as it is now is in force, or there is none; 0: it has a mistake.
    pub is_valid: Gauge,
}

/// The content of a file, which others read while it is replaced.
pub struct Watched<C> {
    /// Written under the lock of `source`.
    content: ArcSwap<C>,
    source: Mutex<Source>,
    gauges: Gauges,
}

/// What the file says is not shown: there are secrets in it.
impl<C> Debug for Watched<C> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("source", &*self.source.lock()).finish_non_exhaustive()
    }
}

/// A file that was read again.
pub struct Change<C> {
    /// The file.
    pub path: PathBuf,
    /// What was in force.
    pub before: Arc<C>,
    /// What is in force now.
    pub after: Arc<C>,
}

impl<C: Content> Watched<C> {
    /// A file that has been read.
    pub fn new(reading: Reading<C>, gauges: Gauges) -> Self {
        let watched = Self { content: ArcSwap::default(), source: Mutex::default(), gauges };
        watched.apply(reading);
        watched
    }

    /// Puts in force what has been read, of this file or of another one that is watched from now on.
    pub fn apply(&self, reading: Reading<C>) {
        self.replace(&mut self.source.lock(), reading);
    }

    /// Gives what was in force before and what is.
    fn replace(&self, own: &mut Source, Reading { content, source }: Reading<C>) -> (Arc<C>, Arc<C>) {
        let before = self.content.load_full();
        let after = Arc::new(content.after(&before));
        self.content.store(Arc::clone(&after));
        *own = source;
        self.show(true, after.entries());
        (before, after)
    }

    /// Reads the file again if it has changed; gives what that changes. A bad one changes nothing, and is told once. Blocks
    /// on the disk.
    pub fn look(&self) -> Option<Result<Change<C>, String>> {
        let seen = self.source.lock().clone();
        let path = seen.path.clone()?;
        let stamp = Stamp::of(&path);
        if stamp == seen.stamp && stamp.is_some() {
            return None;
        }
        self.take(&seen, stamp, Reading::of(Some(&path)))
    }

    /// Takes what came of reading the file, unless another one was put in force meanwhile: it may be of another file.
    fn take(
        &self,
        seen: &Source,
        stamp: Option<Stamp>,
        read: Result<Reading<C>, C::Error>,
    ) -> Option<Result<Change<C>, String>> {
        let mut source = self.source.lock();
        if (&source.path, source.stamp) != (&seen.path, seen.stamp) {
            return None;
        }
        match read {
            Ok(reading) => {
                let (before, after) = self.replace(&mut source, reading);
                Some(Ok(Change { path: source.path.clone()?, before, after }))
            }
            Err(error) => {
                source.stamp = stamp;
                self.show(false, self.content.load().entries());
                let error = error.to_string();
                let told = source.error.replace(error.clone());
                (told.as_ref() != Some(&error)).then_some(Err(error))
            }
        }
    }

    fn show(&self, is_valid: bool, entries: usize) {
        self.gauges.is_valid.set(f64::from(u8::from(is_valid)));
        self.gauges.entries.set(u32::try_from(entries).map_or(f64::INFINITY, f64::from));
    }

    /// What is in force, for a moment: many that are kept make [`Self::apply`] slow.
    pub fn load(&self) -> arc_swap::Guard<Arc<C>> {
        self.content.load()
    }

    /// What is in force, to keep.
    pub fn load_full(&self) -> Arc<C> {
        self.content.load_full()
    }

    /// Whether there is a file at all.
    pub fn has_file(&self) -> bool {
        self.source.lock().path.is_some()
    }

    /// Why the file as it is now is not in force.
    pub fn error(&self) -> Option<String> {
        self.source.lock().error.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Text(String);

    impl Content for Text {
        type Error = Error;

        fn parse(text: &str, _path: &Path) -> Result<Self, Error> {
            Ok(Self(text.to_owned()))
        }

        fn entries(&self) -> usize {
            1
        }
    }

    fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn watched(path: &Path) -> Watched<Text> {
        let gauges = Gauges { entries: Gauge::noop(), is_valid: Gauge::noop() };
        Watched::new(Reading::of(Some(path)).unwrap(), gauges)
    }

    #[test]
    fn a_file_that_was_exchanged_for_another_one_while_it_was_read_stays_out() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (write(&folder, "old", "a"), write(&folder, "new", "b"));
        let watched = watched(&old);
        let seen = watched.source.lock().clone();
        write(&folder, "old", "a of late");

        watched.apply(Reading::of(Some(&new)).unwrap());
        let late = watched.take(&seen, Stamp::of(&old), Reading::of(Some(&old)));
        let failed = watched.take(&seen, None, Reading::of(Some(&folder.path().join("gone"))));

        assert!(late.is_none() && failed.is_none());
        assert_eq!((watched.load_full().0.as_str(), watched.error()), ("b", None));
        write(&folder, "new", "b of late");
        assert_eq!(watched.look().unwrap().unwrap().after.0, "b of late", "it is the new one that is watched");
    }

    #[test]
    fn what_a_file_says_is_not_in_what_is_shown_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(&folder, "file", "secret");

        let shown = format!("{:?} {:?}", Reading::<Text>::of(Some(&path)).unwrap(), watched(&path));

        assert!(shown.contains("file") && !shown.contains("secret"), "{shown}");
    }
}
