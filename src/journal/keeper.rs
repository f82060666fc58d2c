//! The thread that keeps finished files: compresses them, and removes those that are too old or too many.
//!
//! A file is compressed under another name, synced, renamed and only then removed in its plain form, so that readers
//! find each event at any time and a crash at any point leaves all of them. The file that is being written is never
//! touched.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

use super::Shared;
use super::folder::{self, JournalFile};
use super::id::EventId;

/// How often it looks for files that have become too old.
const LOOK: Duration = Duration::from_secs(60);
/// The fastest of zstd's usual levels: higher ones save a few percent of such lines for twice the time.
const LEVEL: i32 = 1;
/// Octets compressed between two looks at whether the daemon ends.
const PIECE: usize = 256 << 10;
/// How much less than others this thread gets of a busy processor.
const NICE: i32 = 10;

/// What the keeper is told.
#[derive(Debug, Default)]
pub(super) struct Orders {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The file that is being written.
    current: Option<EventId>,
    has_work: bool,
    is_closing: bool,
}

impl Orders {
    /// From now on files before this one are finished.
    pub fn set_current(&self, first: EventId) {
        let mut state = self.state.lock();
        state.current = Some(first);
        state.has_work = true;
        self.wake.notify_one();
    }

    /// The daemon ends.
    pub fn close(&self) {
        self.state.lock().is_closing = true;
        self.wake.notify_one();
    }

    fn is_closing(&self) -> bool {
        self.state.lock().is_closing
    }

    /// Waits for something to do; none: the daemon ends.
    fn next(&self) -> Option<EventId> {
        let mut state = self.state.lock();
        if !state.has_work && !state.is_closing {
            self.wake.wait_for(&mut state, LOOK);
        }
        state.has_work = false;
        state.current.filter(|_| !state.is_closing)
    }
}

/// Runs until the journal is closed.
pub(super) fn run(shared: &Shared) {
    // Of this thread alone (setpriority(2)). Without it compression competes with deliveries, nothing worse.
    let _ = rustix::process::nice(NICE);
    let mut is_failing = false;
    while let Some(current) = shared.keeper.next() {
        let kept = pass(shared, current);
        if let Err(error) = &kept
            && !is_failing
        {
            tracing::warn!(%error, "files of the journal cannot be compressed or removed; tried again every minute");
        }
        is_failing = kept.is_err();
    }
}

/// Does everything once. What fails does not keep the rest from being done.
fn pass(shared: &Shared, current: EventId) -> io::Result<()> {
    let place = &shared.settings.path;
    let mut result = Ok(());
    let mut note = |done: io::Result<()>| {
        if done.is_err() {
            result = done;
        }
    };
    for path in folder::leftovers(place)? {
        note(fs::remove_file(path));
    }
    // First, since compression needs room.
    note(clean(shared, current));
    for file in folder::files(place)? {
        if !file.is_compressed() && file.first < current && !shared.keeper.is_closing() {
            note(compress(shared, &file));
        }
    }
    note(clean(shared, current));
    result
}

fn compress(shared: &Shared, file: &JournalFile) -> io::Result<()> {
    let place = &shared.settings.path;
    let mut plain = File::open(&file.path)?;
    let Some(last) = folder::last_id(&plain)? else {
        // Not a single line of it was written.
        return fs::remove_file(&file.path);
    };
    let target = folder::compressed_path(place, file.first, last);
    let unfinished = PathBuf::from(format!("{}{}", target.display(), folder::UNFINISHED));
    let result = copy(shared, &mut plain, &unfinished);
    if !matches!(result, Ok(true)) {
        let _ = fs::remove_file(&unfinished);
        return result.map(|_| ());
    }
    fs::rename(&unfinished, &target)?;
    folder::sync(place)?;
    fs::remove_file(&file.path)
}

/// Compresses into a new file, which gets the time of the plain one; false: not done, the daemon ends.
fn copy(shared: &Shared, plain: &mut File, to: &Path) -> io::Result<bool> {
    let modified = plain.metadata()?.modified()?;
    io::Seek::seek(plain, io::SeekFrom::Start(0))?;
    let mut encoder = zstd::Encoder::new(folder::replace(to)?, LEVEL)?;
    encoder.include_checksum(true)?;
    let mut piece = vec![0; PIECE];
    loop {
        if shared.keeper.is_closing() {
            return Ok(false);
        }
        match plain.read(&mut piece)? {
            0 => break,
            read => encoder.write_all(piece.get(..read).unwrap_or_default())?,
        }
    }
    let file = encoder.finish()?;
    file.set_modified(modified)?;
    file.sync_all()?;
    Ok(true)
}

/// Removes finished files that are too old, then the oldest ones while there is too much.
fn clean(shared: &Shared, current: EventId) -> io::Result<()> {
    let settings = &shared.settings;
    // Derived from the monotonic clock: a step of the system's clock must not empty the journal.
    let now = UNIX_EPOCH + shared.clock.wall_precise();
    let mut files = Vec::new();
    for file in folder::files(&settings.path)? {
        let seen = fs::metadata(&file.path)?;
        files.push((file, seen.len(), seen.modified()?));
    }
    let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
    for (file, length, modified) in files {
        let is_old = now.duration_since(modified).is_ok_and(|age| age > settings.keep);
        let is_too_much = settings.max_total.is_some_and(|most| total > most);
        if file.first < current && (is_old || is_too_much) {
            fs::remove_file(&file.path)?;
            total -= length;
            tracing::info!(file = %file.path.display(), "an old file of the journal was removed");
        }
    }
    shared.meters.stored.set(total as f64);
    Ok(())
}
