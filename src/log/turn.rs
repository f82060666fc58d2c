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
        self.shared.guarded(|| committer::run_once(&self.shared));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::sync::oneshot;

    use super::super::Position;
    use super::super::record::Builder;
    use super::super::scan;
    use super::super::segment::{DIRECTORY, Header};
    use super::super::simulated::{Operation, Simulated};
    use super::super::storage::{Storage, read_exact};
    use super::super::supply::Plan;
    use super::super::writer::{Appended, CommitError, Entry, Sealed, Settings, Watch, Writer};

    struct Nobody;

    impl Watch for Nobody {
        fn appended(&self, _: &Appended<'_>) {}
        fn sealed(&self, _: Sealed) {}
        fn withdrawn(&self, _: u32, _: u64) {}
        fn committed(&self, _: usize, _: Duration) {}
    }

    fn writer(storage: &Simulated) -> Writer {
        let settings = Settings { sync: true, withdraw: |_, _| {} };
        let plan = Plan { first: 1, size: 256 << 10, start: 1, spare: 0 };
        Writer::start(
            settings,
            std::sync::Arc::new(storage.clone()),
            plan,
            super::super::cipher::Keys::default(),
            std::sync::Arc::new(Nobody),
        )
        .unwrap()
    }

    type Answer = oneshot::Receiver<Result<Position, CommitError>>;

    fn entry(key: u64) -> (Entry, Answer) {
        let (done, answer) = oneshot::channel();
        let content = Bytes::from(vec![7; 200]);
        let checksum = crc32c::crc32c(&content);
        let mut meta = Vec::new();
        let mut builder = Builder::new(&mut meta, 1);
        builder.field(1, &key.to_le_bytes());
        builder.finish_with(200, checksum);
        (Entry { meta, content, checksum, refers: Vec::new(), withdrawal: None, done }, answer)
    }

    /// The keys of all records on disk.
    fn written(storage: &Simulated) -> BTreeSet<u64> {
        let mut keys = BTreeSet::new();
        for name in storage.list(DIRECTORY).unwrap() {
            let file = storage.open(&format!("{DIRECTORY}/{}", name.name)).unwrap();
            let bytes = read_exact(&*file, 0, usize::try_from(name.size).unwrap()).unwrap();
            scan::segment(&bytes, &Header::decode(&bytes).unwrap(), 0, &mut |found| {
                let key = found.frame.fields().find(1).and_then(|key| key.first_chunk()).unwrap();
                keys.insert(u64::from_le_bytes(*key));
            });
        }
        keys
    }

    /// Commits from many threads, by turns and through the committer, until the writer is closed under them. Keys that
    /// were acknowledged, and how many were not.
    fn race(storage: &Simulated, writer: &Writer) -> (BTreeSet<u64>, usize) {
        let (next, is_over) = (AtomicU64::new(1), AtomicBool::new(false));
        let session = |number: u64| {
            let (mut acknowledged, mut refused) = (BTreeSet::new(), 0);
            while !is_over.load(Ordering::Relaxed) {
                let key = next.fetch_add(1, Ordering::Relaxed);
                let (entry, answer) = entry(key);
                if (key + number).is_multiple_of(3) {
                    writer.submit(entry);
                } else if let Some(turn) = writer.submit_alone(entry) {
                    turn.commit();
                }
                writer.append(1, |out| {
                    let mut builder = Builder::new(out, 2);
                    builder.field(1, &0_u64.to_le_bytes());
                    builder.finish();
                });
                match answer.blocking_recv() {
                    Ok(Ok(_)) => drop(acknowledged.insert(key)),
                    Ok(Err(_)) | Err(_) => refused += 1,
                }
            }
            (acknowledged, refused)
        };
        let (mut acknowledged, mut refused) = (BTreeSet::new(), 0);
        std::thread::scope(|scope| {
            let session = &session;
            let sessions: Vec<_> = (0..8).map(|number| scope.spawn(move || session(number))).collect();
            while next.load(Ordering::Relaxed) < 2_000 && !writer.has_fault() {
                std::thread::yield_now();
            }
            writer.close();
            is_over.store(true, Ordering::Relaxed);
            for session in sessions {
                let (keys, count) = session.join().unwrap();
                acknowledged.extend(keys);
                refused += count;
            }
        });
        assert!(!storage.is_dead());
        (acknowledged, refused)
    }

    #[test]
    fn nothing_acknowledged_is_lost_when_the_writer_is_closed_under_turns() {
        for seed in 0..8 {
            let storage = Simulated::new(seed);
            storage.claim(&[DIRECTORY]).unwrap();
            let writer = writer(&storage);

            let (acknowledged, _) = race(&storage, &writer);

            assert!(acknowledged.len() > 1_000, "seed {seed}: {}", acknowledged.len());
            assert!(acknowledged.is_subset(&written(&storage.crash(seed))), "seed {seed}");
        }
    }

    #[test]
    fn nothing_acknowledged_is_lost_when_syncs_fail_under_turns() {
        for seed in 0..8 {
            let storage = Simulated::new(seed);
            storage.claim(&[DIRECTORY]).unwrap();
            let writer = writer(&storage);
            let count = AtomicU64::new(0);
            storage.inject(move |operation, name| {
                let is_commit = operation == Operation::SyncData && name.ends_with(".seg");
                let fails = is_commit && count.fetch_add(1, Ordering::Relaxed) % 50 == 49;
                fails.then_some(std::io::ErrorKind::Other)
            });

            let (acknowledged, _) = race(&storage, &writer);

            storage.heal();
            assert!(!acknowledged.is_empty());
            assert!(acknowledged.is_subset(&written(&storage.crash(seed))), "seed {seed}");
        }
    }

    #[test]
    fn a_turn_that_ends_in_a_panic_is_given_back() {
        let storage = Simulated::new(1);
        storage.claim(&[DIRECTORY]).unwrap();
        let writer = writer(&storage);
        loop {
            let (entry, answer) = entry(1);
            if let Some(turn) = writer.submit_alone(entry) {
                let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let _turn = turn;
                    std::panic::panic_any("in the middle");
                }));
                assert!(panicked.is_err());
                // The committer does what was left.
                assert!(answer.blocking_recv().unwrap().is_ok());
                break;
            }
            answer.blocking_recv().unwrap().unwrap();
        }
        writer.close();
    }
}
