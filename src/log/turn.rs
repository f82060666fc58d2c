//! The committer's turn, lent to a caller who would otherwise wait for that thread: two wake-ups less a message.
//!
//! Only one thread at a time may write entries and sync. That is the committer's, unless a turn is out. What comes in
//! meanwhile waits in `Pending`, as it does while the committer works.

use std::sync::Arc;

use super::committer;
use super::writer::{Pending, Shared, Waiting};

/// The right to do what the committer would do next; given back when dropped.
#[must_use = "an entry waits to be committed"]
pub struct Turn {
    shared: Arc<Shared>,
    /// How the committer's thread waits.
    waiting: Waiting,
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Turn {
    /// The turn, if the committer's thread has nothing to do.
    pub(super) fn take(shared: &Arc<Shared>, pending: &mut Pending) -> Option<Self> {
        if pending.is_lent || pending.is_waiting == Waiting::No {
            return None;
        }
        pending.is_lent = true;
        // Nobody needs to wake it before the turn is back.
        let waiting = std::mem::take(&mut pending.is_waiting);
        Some(Self { shared: shared.clone(), waiting })
    }

    /// Writes, syncs and answers. Blocks on the disk.
    pub fn commit(self) {
        committer::run_once(&self.shared);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut pending = self.shared.pending.lock();
        pending.is_lent = false;
        let has_deadline = pending.small_since.is_some() || pending.unsynced_since.is_some();
        if pending.awaits_turn || pending.has_work() || (has_deadline && self.waiting == Waiting::Long) {
            self.shared.wake.notify_one();
        } else {
            pending.is_waiting = self.waiting;
        }
    }
}
