//! Segments ready to be written, made ahead of need by a thread of their own.
//!
//! A segment is zero-filled because the first write to an unwritten extent makes `fdatasync` a journal commit (measured
//! on ext4: 78 us against 33 us), and it is synced and named before its first batch, so an acknowledgement never waits
//! for a directory. When one cannot be made (a full disk), [`Supply::take`] fails at once and the thread tries again
//! every second or when told that room was made.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::panics::Bulkhead;

use super::cipher::{Cipher, Keys};
use super::segment::{self, Header};
use super::storage::{Storage, StorageFile, is_full};

/// How long to wait before another try after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Size of a segment on a disk without room for a whole one: outcomes fit, so that delivery can free room. At 64 octets
/// each these are those of 16,000 messages.
const SMALL: u64 = 1 << 20;

/// A segment that nothing has been written to.
#[derive(Debug)]
pub struct Fresh {
    /// Its header, already on disk.
    pub header: Header,
    /// Its file.
    pub file: Arc<dyn StorageFile>,
    /// What its records are encrypted with, if they are.
    pub cipher: Option<Arc<Cipher>>,
}

#[derive(Debug)]
struct State {
    /// Made by the thread, taken by the committer.
    ready: Option<Fresh>,
    /// Why the last try failed; cleared by a success.
    failure: Option<io::ErrorKind>,
    /// Size of the segment that is being made; its zeros may still be to be written.
    making: u64,
    /// Set by the owner to end the thread.
    stopping: bool,
    /// What is made next; `size` and `spare` may be changed by [`Supply::change`].
    plan: Plan,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The thread that makes segments, and what it made.
#[derive(Debug)]
pub struct Supply {
    storage: Arc<dyn Storage>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What every segment of this start has in common.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Sequence of the first one.
    pub first: u32,
    /// Size of the files.
    pub size: u64,
    /// Start count for the headers.
    pub start: u32,
    /// Octets that a whole segment must leave free.
    pub spare: u64,
}

impl Plan {
    /// The size of the next segment with this much free, if any fits.
    pub fn size_for(&self, free: u64) -> Option<u64> {
        let small = SMALL.min(self.size);
        if free >= self.size.saturating_add(self.spare) { Some(self.size) } else { (free >= small).then_some(small) }
    }
}

/// A random salt.
fn salt() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Makes one segment; a small one if there is no room for more. What cannot fit is not tried, because the zeros of the
/// attempt would take the last room from everybody for a while.
pub fn make(storage: &dyn Storage, sequence: u32, plan: Plan, keys: &Keys) -> io::Result<Fresh> {
    let free = storage.space().map_or(u64::MAX, |space| space.free);
    let create = |size| {
        let header = Header { sequence, salt: salt()?, size, start: plan.start, binding: keys.bind()? };
        let cipher = keys.cipher(sequence, header.binding.as_ref())?;
        Ok(Fresh { header, file: segment::create(storage, header)?, cipher })
    };
    let size = plan.size_for(free).ok_or(io::ErrorKind::StorageFull)?;
    match create(size) {
        // A quota allows less than is free.
        Err(error) if is_full(&error) && size > SMALL => create(SMALL),
        made => made,
    }
}

impl Supply {
    /// Starts the thread; it makes the first segment at once.
    pub fn start(storage: Arc<dyn Storage>, wall: Bulkhead, plan: Plan, keys: Keys) -> io::Result<Self> {
        let making = next_size(&*storage, plan);
        let state = Mutex::new(State { ready: None, failure: None, making, stopping: false, plan });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let thread = std::thread::Builder::new().name("spool-supply".into()).spawn({
            let (shared, storage) = (shared.clone(), storage.clone());
            move || run(&shared, &*storage, &wall, &keys)
        })?;
        Ok(Self { storage, shared, thread: Mutex::new(Some(thread)) })
    }

    /// The next segment, waiting for the thread if it is at work; an error if it cannot make one now.
    pub fn take(&self) -> io::Result<Fresh> {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(fresh) = state.ready.take() {
                self.shared.changed.notify_all();
                return Ok(fresh);
            }
            if state.stopping {
                return Err(io::ErrorKind::NotConnected.into());
            }
            if let Some(failure) = state.failure {
                return Err(failure.into());
            }
            self.shared.changed.wait(&mut state);
        }
    }

    /// Whether the last try to make a segment failed.
    pub fn failure(&self) -> Option<io::ErrorKind> {
        self.shared.state.lock().failure
    }

    /// Octets that the segment that is being made may still take.
    pub fn making(&self) -> u64 {
        self.shared.state.lock().making
    }

    /// Segments that are made from now on are of this size and leave so much free; one is always ready before.
    pub fn change(&self, size: u64, spare: u64) {
        let mut state = self.shared.state.lock();
        state.plan = Plan { size, spare, ..state.plan };
    }

    /// Room was made: try again now.
    pub fn retry(&self) {
        if self.shared.state.lock().failure.is_some() {
            self.shared.changed.notify_all();
        }
    }

    /// Removes `open`, to which nothing was written, and the segment that is ready; to be called when the thread has ended.
    pub fn remove_unused(&self, open: Option<u32>) {
        let ready = self.shared.state.lock().ready.take().map(|fresh| fresh.header.sequence);
        for sequence in ready.into_iter().chain(open) {
            // One that stays is found empty, and deleted, by the next start that works.
            let _ = self.storage.remove(&segment::path(sequence));
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.shared.state.lock().stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Supply {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the next segment will take; 0 if none fits.
fn next_size(storage: &dyn Storage, plan: Plan) -> u64 {
    let free = storage.space().map_or(u64::MAX, |space| space.free);
    plan.size_for(free).unwrap_or_default()
}

fn run(shared: &Shared, storage: &dyn Storage, wall: &Bulkhead, keys: &Keys) {
    let mut sequence = shared.state.lock().plan.first;
    loop {
        let made = wall.call(|| {
            let plan = shared.state.lock().plan;
            let next = next_size(storage, plan);
            shared.state.lock().making = next;
            make(storage, sequence, plan, keys)
        });
        // Tried again like what an error prevented.
        let made = made.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let mut state = shared.state.lock();
        state.making = 0;
        match made {
            Ok(fresh) => {
                sequence += 1;
                state.ready = Some(fresh);
                state.failure = None;
            }
            Err(error) => {
                state.failure = Some(error.kind());
            }
        }
        shared.changed.notify_all();
        if state.failure.is_some() && !state.stopping {
            shared.changed.wait_for(&mut state, RETRY);
        }
        while state.ready.is_some() && !state.stopping {
            shared.changed.wait(&mut state);
        }
        if state.stopping {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_segment_leaves_the_spare_and_a_small_one_may_use_it() {
        let plan = Plan { first: 1, size: 64 << 20, start: 1, spare: 8 << 20 };

        assert_eq!(plan.size_for(72 << 20), Some(64 << 20));
        assert_eq!(plan.size_for((72 << 20) - 1), Some(SMALL));
        assert_eq!(plan.size_for(SMALL), Some(SMALL));
        assert_eq!(plan.size_for(SMALL - 1), None);
    }
}
