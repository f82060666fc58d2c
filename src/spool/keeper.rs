//! The thread that keeps house: writes indexes, deletes dead segments, copies live messages out of thin ones, watches
//! the disk.
//!
//! It runs when a segment was sealed or emptied, and every second for the free space and for spill files of uploads that
//! were given up.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::log::index::{self, Index};
use crate::log::segment;
use crate::log::storage::Storage;
use crate::log::writer::Sealed;
use crate::metrics::Registry;
use crate::panics::Bulkhead;

use super::checkpoint;
use super::compaction;
use super::contract::Settings;
use super::inner::Inner;
use super::spill;

/// How often free space is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// At most this many segments are copied in one pass, so that indexes and deletions do not wait.
const MOST_COPIED: usize = 4;

#[derive(Debug, Default)]
struct State {
    nudged: bool,
    stopping: bool,
}

/// The keeper's thread and how to wake it.
#[derive(Debug, Default)]
pub struct Keeper {
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held during a pass.
    passing: Mutex<()>,
    /// Around each pass.
    wall: Bulkhead,
}

impl Keeper {
    /// Not started yet.
    pub fn new(registry: &Registry) -> Self {
        Self { wall: Bulkhead::new(registry, "keeper"), ..Self::default() }
    }

    /// Starts the thread; it ends with the spool.
    pub fn start(self: &Arc<Self>, inner: Weak<Inner>) -> io::Result<()> {
        let keeper = self.clone();
        let run = move || keeper.run(&inner);
        *self.thread.lock() = Some(std::thread::Builder::new().name("spool-keeper".into()).spawn(run)?);
        Ok(())
    }

    /// There may be something to do.
    pub fn nudge(&self) {
        let mut state = self.state.lock();
        if !state.nudged {
            state.nudged = true;
            self.changed.notify_all();
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }

    fn run(&self, inner: &Weak<Inner>) {
        loop {
            {
                let mut state = self.state.lock();
                if !state.nudged && !state.stopping {
                    self.changed.wait_for(&mut state, PERIOD);
                }
                if state.stopping {
                    return;
                }
                state.nudged = false;
            }
            let Some(inner) = inner.upgrade() else { return };
            // Each step of a pass may be the last one of a process, so it may be so of a pass. The next one is a second away.
            let _ = self.wall.call(|| pass(&inner, false));
        }
    }
}

/// Does everything that is to be done now; a checkpoint only if it is time for one or `thorough`.
pub fn pass(inner: &Inner, thorough: bool) {
    let _passing = inner.keeper.passing.lock();
    sweep_spills(inner);
    watch_space(inner);
    write_indexes(inner);
    if inner.recovering.load(Ordering::Acquire) || inner.writer.has_fault() {
        return;
    }
    if let Err(error) = checkpoint::write_if_due(inner, thorough) {
        tracing::warn!(%error, "cannot write a checkpoint");
    }
    if let Err(error) = remove_spills(inner) {
        tracing::warn!(%error, "cannot remove spill files");
    }
    if let Err(error) = delete_dead(inner) {
        tracing::warn!(%error, "cannot free space in the spool");
        return;
    }
    let mut last = None;
    for _ in 0..MOST_COPIED {
        let Some(source) = compaction::candidate(inner) else { return };
        let sequence = source.sequence;
        if last.replace(sequence) == Some(sequence) {
            // Something in it cannot be moved now.
            return;
        }
        match compaction::run(inner, source) {
            Ok(copied) => tracing::debug!(segment = sequence, copied, reason = ?source.reason, "segment compacted"),
            Err(error) => {
                tracing::warn!(segment = sequence, %error, "cannot compact a segment");
                return;
            }
        }
        if let Err(error) = delete_dead(inner) {
            tracing::warn!(%error, "cannot free space in the spool");
            return;
        }
    }
    if compaction::candidate(inner).is_some() {
        inner.keeper.nudge();
    }
}

/// The least free space at which messages are accepted.
pub fn reserve(settings: &Settings, total: u64) -> u64 {
    settings.reserve.max(total / 20)
}

/// Looks how much room there is.
fn watch_space(inner: &Inner) {
    // Asked first: what is ready by then is in the figures of the disk.
    let making = inner.writer.making();
    let Ok(space) = inner.storage.space() else { return };
    let reserve = reserve(&inner.settings.load(), space.total);
    if let Some(is_full) = inner.room.look(space, reserve, inner.settings.load().segment_size) {
        tracing::warn!(free = space.free, reserve, accepting = !is_full, "free space of the spool");
    }
    inner.room.set_aside(making);
    if !inner.room.is_full() {
        inner.writer.retry_supply();
    }
}

/// Gives sealed segments their indexes.
pub fn write_indexes(inner: &Inner) {
    for sealed in inner.ledger.take_sealed() {
        let Sealed { segment, salt, binding, end, index: Some(entries) } = sealed else { continue };
        // Without an index the segment is scanned at the next start.
        if let Err(error) = index::write(&*inner.storage, segment, &Index { salt, binding, end, entries }) {
            tracing::warn!(segment, %error, "cannot write the index of a segment");
        }
    }
}

/// Removes what was written of messages that did not become ours. A record may refer to those that are returned to the
/// list of dead ones: their sessions went away while they were committed.
fn sweep_spills(inner: &Inner) {
    let mut abandoned = inner.spills.sweep();
    if !abandoned.is_empty() && !inner.recovering.load(Ordering::Acquire) {
        // The committer sees only now that nobody waits, and says so with the next sync, which `remove_spills` asks for.
        let _ = inner.writer.sync_blocking();
    }
    inner.dead_spills.lock().append(&mut abandoned);
}

/// Spill files go when it is durable that nobody needs them.
fn remove_spills(inner: &Inner) -> io::Result<()> {
    let dead = std::mem::take(&mut *inner.dead_spills.lock());
    if dead.is_empty() {
        return Ok(());
    }
    if inner.writer.sync_blocking().is_err() {
        inner.dead_spills.lock().extend(dead);
        return Ok(());
    }
    let mut result = Ok(());
    for number in dead {
        if let Err(error) = remove(&*inner.storage, &spill::path(number)) {
            inner.dead_spills.lock().push(number);
            result = Err(error);
        }
    }
    result
}

/// Deletes segments that hold nothing: no live message, no record about one in a segment that still exists. What one
/// deletion allows is done only after that deletion is durable.
fn delete_dead(inner: &Inner) -> io::Result<()> {
    loop {
        let mut dead: Vec<(u32, bool)> = inner.ledger.with(|segments| {
            let is_dead = |segment: &super::ledger::Segment| {
                segment.is_sealed
                    && !segment.must_stay
                    && segment.live == 0
                    && !segment.refers.iter().any(|other| segments.contains_key(other))
            };
            let dead = segments.iter().filter(|(_, segment)| is_dead(segment));
            dead.map(|(sequence, segment)| (*sequence, segment.is_source)).collect()
        });
        // Those without copies may go even if nothing can be written, or a full disk would stay full.
        if dead.iter().any(|(_, is_source)| *is_source) && inner.writer.sync_blocking().is_err() {
            dead.retain(|(_, is_source)| !is_source);
        }
        let dead: Vec<u32> = dead.into_iter().map(|(sequence, _)| sequence).collect();
        if dead.is_empty() {
            return Ok(());
        }
        for &sequence in &dead {
            remove(&*inner.storage, &segment::path(sequence))?;
            remove(&*inner.storage, &index::path(sequence))?;
        }
        inner.storage.sync_dir(segment::DIRECTORY)?;
        inner.ledger.forget(&dead);
        inner.tally.deleted.fetch_add(dead.len() as u64, Ordering::Relaxed);
        inner.writer.retry_supply();
    }
}

/// Removes a file that may be gone already.
pub fn remove(storage: &dyn Storage, name: &str) -> io::Result<()> {
    match storage.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
