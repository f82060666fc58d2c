//! Appends to the log: group commit for large records, flat combining for small ones.
//!
//! *Entries* ([`Writer::submit`]) carry content and somebody waits until they are synced. The committer thread takes all
//! that is pending, does one `pwritev` and one `fdatasync`, and answers. *Small* records ([`Writer::append`]) are collected in a buffer. They reach the kernel with the next batch, or 5 ms later, or when
//! somebody needs them there: then the caller itself takes the tail and writes everything pending, and if another thread
//! holds the tail, that one does it before it lets go. They are synced with the next entries, or 50 ms later.
//!
//! A sync that fails is never tried again: the kernel has marked the pages clean, the next one would lie. The segment is
//! given up; what was not synced is still in memory and is appended to the next one. Entries that can be withdrawn are
//! withdrawn there instead. If that fails too the log is faulty for good: entries get [`CommitError::Unknown`].
//!
//! A caller that is alone need not wait for another thread: when the committer has nothing to do, it may have the
//! committer's [`Turn`] and commit its entry itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::panics::Bulkhead;

use super::Position;
use super::cipher::Keys;
use super::committer;
use super::sealed;
use super::storage::{Storage, is_full};
use super::supply::{self, Plan, Supply};
use super::tail::Tail;
use super::turn::Turn;
pub use super::watch::{Appended, Sealed, Watch};
use crate::pulse::Pulse;

/// Small records are written when there are this many octets of them.
const SMALL_FULL: usize = 64 << 10;
/// They are written at most this long after they were appended: what a kill -9 can lose.
pub(super) const WRITE_WITHIN: Duration = Duration::from_millis(5);
/// They are synced at most this long after they were written: what a power cut can lose.
pub(super) const SYNC_WITHIN: Duration = Duration::from_millis(50);

/// A thread of the runtime may wait this long for the disk: about what a wake-up of the committer and one back cost, ten
/// times over. After a slower commit the committer's thread does the next one.
const QUICK: Duration = Duration::from_millis(1);

/// The log cannot be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be written")]
pub struct Fault;

/// Why an entry was not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// No room for another segment.
    #[error("no room")]
    Full,
    /// Too late or not synced, and a withdrawal is synced (or nothing had been written).
    #[error("withdrawn")]
    Withdrawn,
    /// It may or may not be in the log.
    #[error("unknown")]
    Unknown,
    /// The log is closed or faulty.
    #[error("closed")]
    Closed,
}

/// How an entry can be taken back.
#[derive(Clone, Copy, Debug)]
pub struct Withdrawal {
    /// Names it in the withdrawing record.
    pub key: u64,
    /// When it is too late to acknowledge it.
    pub deadline: Instant,
}

/// A record with content that somebody waits for.
#[derive(Debug)]
pub struct Entry {
    /// Header and fields, as [`super::record::Builder::finish_with`] leaves them.
    pub meta: Vec<u8>,
    /// Its content.
    pub content: Bytes,
    /// CRC32C of the content.
    pub checksum: u32,
    /// Segments whose records this one is about.
    pub refers: Vec<u32>,
    /// If it may be withdrawn; otherwise it is written again.
    pub withdrawal: Option<Withdrawal>,
    /// Told when it is synced or given up.
    pub done: oneshot::Sender<Result<Position, CommitError>>,
}

/// Records without content, ready to be written.
#[derive(Debug, Default)]
pub(super) struct Small {
    pub bytes: Vec<u8>,
    pub refers: Vec<u32>,
}

/// How the writer works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether commits are synced; false for a benchmark's comparison only.
    pub sync: bool,
    /// Writes the record that withdraws the entry with this key.
    pub withdraw: fn(u64, &mut Vec<u8>),
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub small: Small,
    /// When the oldest small record was appended.
    pub small_since: Option<Instant>,
    /// Tickets given to small records; a record is written when `Shared::written` has reached its ticket.
    pub ticket: u64,
    pub waiters: Vec<oneshot::Sender<Result<(), Fault>>>,
    pub entries: Vec<Entry>,
    pub sync_waiters: Vec<oneshot::Sender<Result<(), Fault>>>,
    /// When the oldest octet that is not synced was written.
    pub unsynced_since: Option<Instant>,
    /// The committer waits without a time limit or for a deadline.
    pub is_waiting: Waiting,
    /// A [`Turn`] is out: only its holder writes entries and syncs.
    pub is_lent: bool,
    /// The committer waits for the turn to come back.
    pub awaits_turn: bool,
    pub closing: bool,
    /// Set before `closing`: a last segment without records is not sealed but removed.
    pub abandoned: bool,
}

/// What would wake the committer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Waiting {
    /// At work.
    #[default]
    No,
    /// Wakes by itself within [`WRITE_WITHIN`].
    Short,
    /// Wakes only when told.
    Long,
}

pub(super) struct Shared {
    pub settings: Settings,
    /// All segments of this writer hold encrypted records: what is handed in gets room for the tags.
    is_sealed: bool,
    pub pending: Mutex<Pending>,
    pub wake: Condvar,
    /// Taken before `pending`, never after it.
    pub tail: Mutex<Tail>,
    pub supply: Supply,
    pub watch: Arc<dyn Watch>,
    wall: Bulkhead,
    /// The highest ticket whose record has been handed to the kernel.
    pub written: AtomicU64,
    pub fault: AtomicBool,
    /// How many sessions are active; more than 64 allow a linger.
    pub sessions: AtomicUsize,
    /// The last commit took no longer than [`QUICK`]; written by who commits, read before a turn is lent.
    is_quick: AtomicBool,
    /// At work while a batch is written, synced and answered.
    pub committing: Pulse,
    /// At work while small records are written without a sync; only by the holder of the tail.
    pub writing: Pulse,
}

/// Names an appended record.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    number: u64,
    /// Octets in the buffer after it.
    pending: usize,
}

/// The writing end of a log.
pub struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    /// Makes the first segment, which must have a sequence above all existing ones, and starts the threads. On a full disk
    /// the first segment is made when there is room.
    pub fn start(
        settings: Settings,
        storage: Arc<dyn Storage>,
        plan: Plan,
        keys: Keys,
        watch: Arc<dyn Watch>,
    ) -> io::Result<Self> {
        let is_sealed = keys.writes();
        let first = match supply::make(&*storage, plan.first, plan, &keys) {
            Err(error) if is_full(&error) => None,
            made => Some(made?),
        };
        let made = u32::from(first.is_some());
        let tail = Tail::new(plan.first, first);
        let wall = watch.wall();
        let plan = Plan { first: plan.first.saturating_add(made), ..plan };
        let supply = Supply::start(storage, wall.clone(), plan, keys)?;
        let shared = Arc::new(Shared {
            settings,
            is_sealed,
            pending: Mutex::default(),
            wake: Condvar::new(),
            tail: Mutex::new(tail),
            supply,
            watch,
            wall,
            written: AtomicU64::new(0),
            fault: AtomicBool::new(false),
            sessions: AtomicUsize::new(0),
            is_quick: AtomicBool::new(false),
            committing: Pulse::default(),
            writing: Pulse::default(),
        });
        let thread = std::thread::Builder::new().name("spool-commit".into()).spawn({
            let shared = shared.clone();
            move || shared.guarded(|| committer::run(&shared))
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Hands an entry to the committer.
    pub fn submit(&self, entry: Entry) {
        if let Some(mut pending) = self.push_entry(entry) {
            self.shared.wake_committer(&mut pending, Waiting::Short);
        }
    }

    /// Hands an entry over. If the committer has nothing to do and the disk is quick, the caller gets its turn and is to
    /// commit it, which blocks for one sync.
    pub fn submit_alone(&self, entry: Entry) -> Option<Turn> {
        let mut pending = self.push_entry(entry)?;
        let is_quick = self.shared.is_quick.load(Ordering::Relaxed);
        let turn = if is_quick { Turn::take(&self.shared, &mut pending) } else { None };
        if turn.is_none() {
            self.shared.wake_committer(&mut pending, Waiting::Short);
        }
        turn
    }

    /// Octets that an entry will take in its segment: `meta` and `content` are those of [`Entry`].
    pub fn octets(&self, meta: usize, content: usize) -> u64 {
        sealed::octets(meta, content, self.shared.is_sealed)
    }

    fn push_entry(&self, mut entry: Entry) -> Option<MutexGuard<'_, Pending>> {
        if self.shared.is_sealed {
            sealed::widen(&mut entry.meta);
        }
        let mut pending = self.shared.pending.lock();
        if pending.closing || self.shared.has_fault() {
            drop(pending);
            let _ = entry.done.send(Err(CommitError::Closed));
            return None;
        }
        pending.entries.push(entry);
        Some(pending)
    }

    /// Appends small records about records in segment `refers`; written and synced later. Only touches memory, so it may
    /// be called with locks of the layer above held.
    pub fn append(&self, refers: u32, encode: impl FnOnce(&mut Vec<u8>)) -> Ticket {
        self.shared.push(refers, encode)
    }

    /// Writes what is pending if there is much of it.
    pub fn relieve(&self, ticket: Ticket) {
        if ticket.pending >= SMALL_FULL {
            self.shared.flush();
        }
    }

    /// Waits until an appended record is handed to the kernel.
    pub async fn written(&self, ticket: Ticket) -> Result<(), Fault> {
        self.shared.flush();
        let Some(waiter) = self.shared.wait_for(ticket.number)? else { return Ok(()) };
        // The holder of the tail may have let go before it could see us.
        self.shared.flush();
        waiter.await.unwrap_or(Err(Fault))
    }

    /// Waits until everything appended so far is synced.
    pub async fn sync(&self) -> Result<(), Fault> {
        match self.shared.ask_sync() {
            Some(waiter) => waiter.await.unwrap_or(Err(Fault)),
            None => Err(Fault),
        }
    }

    /// [`Writer::sync`] for a thread that may block.
    pub fn sync_blocking(&self) -> Result<(), Fault> {
        match self.shared.ask_sync() {
            Some(waiter) => waiter.blocking_recv().unwrap_or(Err(Fault)),
            None => Err(Fault),
        }
    }

    /// Whether the log has failed for good.
    pub fn has_fault(&self) -> bool {
        self.shared.has_fault()
    }

    /// At work while a batch is written, synced and answered.
    pub fn committing(&self) -> &Pulse {
        &self.shared.committing
    }

    /// At work while records are written that nobody waits to have synced.
    pub fn writing(&self) -> &Pulse {
        &self.shared.writing
    }

    /// Whether something waits for the committer.
    pub fn has_work(&self) -> bool {
        self.shared.pending.lock().has_work()
    }

    /// Whether there is no room for another segment.
    pub fn is_full(&self) -> bool {
        self.shared.supply.failure().is_some()
    }

    /// Octets that the segment that is made ahead of need may still take.
    pub fn making(&self) -> u64 {
        self.shared.supply.making()
    }

    /// Changes the size of segments to come, and what a whole one leaves free.
    pub fn change_supply(&self, size: u64, spare: u64) {
        self.shared.supply.change(size, spare);
    }

    /// Room was made on the disk.
    pub fn retry_supply(&self) {
        self.shared.supply.retry();
    }

    /// Tells how many sessions are active.
    pub fn note_sessions(&self, count: usize) {
        self.shared.sessions.store(count, Ordering::Relaxed);
    }

    /// The sequence of the segment that is written to.
    pub fn open_segment(&self) -> u32 {
        self.shared.tail.lock().open.sequence()
    }

    /// Ends the threads; segments that hold nothing are removed. Only for a log of which nothing was deleted yet: the next
    /// one goes on from the highest sequence that it finds, and none may be used twice. Blocks.
    pub fn abandon(&self) {
        self.shared.pending.lock().abandoned = true;
        self.close();
        let tail = self.shared.tail.lock();
        let is_unused = !tail.open.is_none && !tail.broken && tail.retired.is_empty() && tail.open.is_unused();
        self.shared.supply.remove_unused(is_unused.then(|| tail.open.sequence()));
    }

    /// Writes, syncs and seals what there is and ends the threads. Blocks.
    pub fn close(&self) {
        {
            let mut pending = self.shared.pending.lock();
            pending.closing = true;
            self.shared.wake.notify_all();
        }
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
        self.shared.supply.stop();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    pub fn note_commit(&self, took: Duration) {
        self.is_quick.store(took <= QUICK, Ordering::Relaxed);
    }

    pub fn has_fault(&self) -> bool {
        self.fault.load(Ordering::Acquire)
    }

    fn wake_committer(&self, pending: &mut Pending, least: Waiting) {
        let wakes = match least {
            Waiting::Short => pending.is_waiting != Waiting::No,
            _ => pending.is_waiting == Waiting::Long,
        };
        if wakes {
            // Once is enough.
            pending.is_waiting = Waiting::No;
            self.wake.notify_one();
        }
    }

    /// Appends what `encode` writes, as it will be in a segment.
    fn encode(&self, out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        encode(out);
        if self.is_sealed {
            sealed::widen_small(out, start);
        }
    }

    /// Writes the record that withdraws the entry with this key.
    pub fn withdraw(&self, key: u64, out: &mut Vec<u8>) {
        self.encode(out, |out| (self.settings.withdraw)(key, out));
    }

    /// Appends to the buffer of small records.
    fn push(&self, refers: u32, encode: impl FnOnce(&mut Vec<u8>)) -> Ticket {
        let mut pending = self.pending.lock();
        if self.has_fault() {
            return Ticket { number: u64::MAX, pending: 0 };
        }
        self.encode(&mut pending.small.bytes, encode);
        if !pending.small.refers.contains(&refers) {
            pending.small.refers.push(refers);
        }
        pending.ticket += 1;
        if pending.small_since.is_none() {
            pending.small_since = Some(Instant::now());
            self.wake_committer(&mut pending, Waiting::Long);
        }
        Ticket { number: pending.ticket, pending: pending.small.bytes.len() }
    }

    /// `None` if the record with this ticket is written already.
    fn wait_for(&self, ticket: u64) -> Result<Option<oneshot::Receiver<Result<(), Fault>>>, Fault> {
        if self.written.load(Ordering::Acquire) >= ticket {
            return Ok(None);
        }
        let mut pending = self.pending.lock();
        if self.written.load(Ordering::Acquire) >= ticket {
            return Ok(None);
        }
        if pending.closing || self.has_fault() {
            return Err(Fault);
        }
        let (sender, receiver) = oneshot::channel();
        pending.waiters.push(sender);
        Ok(Some(receiver))
    }

    fn ask_sync(&self) -> Option<oneshot::Receiver<Result<(), Fault>>> {
        let mut pending = self.pending.lock();
        if pending.closing || self.has_fault() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        pending.sync_waiters.push(sender);
        self.wake_committer(&mut pending, Waiting::Short);
        Some(receiver)
    }

    /// Writes. What panics there leaves the log faulty for good.
    pub fn guarded(&self, write: impl FnOnce()) {
        if self.wall.call(write).is_err() {
            committer::fail(self, Vec::new());
        }
    }

    /// Writes the pending small records unless another thread holds the tail, which then does it.
    pub fn flush(&self) {
        self.guarded(|| self.write_pending());
    }

    fn write_pending(&self) {
        loop {
            let Some(mut tail) = self.tail.try_lock() else { return };
            let is_done = !self.write_small(&mut tail);
            drop(tail);
            if is_done || self.pending.lock().small.bytes.is_empty() {
                return;
            }
        }
    }

    /// Writes the pending small records; false if it could not, which the committer is then told.
    fn write_small(&self, tail: &mut Tail) -> bool {
        let mut pending = self.pending.lock();
        if pending.small.bytes.is_empty() {
            return true;
        }
        let has_room = tail.open.has_room(pending.small.bytes.len() as u64);
        if tail.broken || !has_room || self.has_fault() {
            self.wake_committer(&mut pending, Waiting::Short);
            return false;
        }
        let (small, ticket, waiters) = pending.take_small();
        drop(pending);
        let work = self.writing.work();
        let written = self.write_batch(tail, Some(small), &mut [], &mut Vec::new());
        drop(work);
        if written.is_ok() {
            self.written.fetch_max(ticket, Ordering::AcqRel);
        }
        let mut pending = self.pending.lock();
        if pending.unsynced_since.is_none() {
            pending.unsynced_since = Some(Instant::now());
        }
        self.wake_committer(&mut pending, if written.is_ok() { Waiting::Long } else { Waiting::Short });
        drop(pending);
        for waiter in waiters {
            let _ = waiter.send(written.as_ref().map(|_| ()).map_err(|_| Fault));
        }
        written.is_ok()
    }

    /// Writes one batch that fits and keeps its small records until they are synced.
    pub fn write_batch(
        &self,
        tail: &mut Tail,
        small: Option<Small>,
        entries: &mut [Entry],
        placed: &mut Vec<u64>,
    ) -> io::Result<()> {
        let mut small = small.unwrap_or_default();
        let written = tail.write(&mut small.bytes, entries, placed);
        match &written {
            Ok(()) => {
                let octets = entries.iter().map(super::tail::entry_octets).sum();
                let (segment, end) = (tail.open.sequence(), tail.open.offset);
                let entries_count = entries.len() as u64;
                let size = tail.open.fresh.header.size;
                let tell = |refers: &[u32], entries, octets| {
                    self.watch.appended(&Appended { segment, size, end, entries, octets, refers });
                };
                tell(&small.refers, entries_count, octets);
                for entry in entries.iter().filter(|entry| !entry.refers.is_empty()) {
                    tell(&entry.refers, 0, 0);
                }
            }
            Err(_) => tail.broken = true,
        }
        if !small.bytes.is_empty() && (self.settings.sync || written.is_err()) {
            tail.unsynced.push(small);
        }
        written
    }
}

impl Pending {
    /// Whether somebody waits for the committer, or its end.
    pub fn has_work(&self) -> bool {
        !self.entries.is_empty() || !self.sync_waiters.is_empty() || !self.waiters.is_empty() || self.closing
    }

    /// Takes the small records, the ticket of the last one and those who wait for them.
    pub fn take_small(&mut self) -> (Small, u64, Vec<oneshot::Sender<Result<(), Fault>>>) {
        self.small_since = None;
        (std::mem::take(&mut self.small), self.ticket, std::mem::take(&mut self.waiters))
    }
}
