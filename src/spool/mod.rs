//! The spool: messages in the log. Contract in `docs/spool.md`.
//!
//! [`Spool::accept`] resolves only when the message is on stable storage. [`Spool::attempt`] resolves when the attempt
//! has been handed to the kernel. [`Spool::record`] appends outcomes in memory; they reach the kernel within 5 ms and
//! the disk within 50 ms. The spool owns each message's count of unfinished recipients and releases its space.
//!
//! Locks are taken in this order: a shard of the map, then the log's tail, then its pending buffer or the
//! ledger; none is held across an await.

mod check;
mod checkpoint;
mod chunks;
pub mod codec;
mod compaction;
mod contract;
mod image;
mod inner;
mod keeper;
mod ledger;
mod map;
mod open;
mod pace;
mod quarantine;
mod read;
mod recovery;
mod room;
mod source;
pub mod spill;
mod start;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::log::writer::Withdrawal;
use crate::message::{Content, Envelope, Message, MessageId};
use crate::panics::Panic;
use crate::pulse::Pulse;

pub use crate::log::cipher::{KeyId, Keys, MissingKey};
pub use check::{CheckError, CheckReport, Region, check, check_storage, check_with, stat};
pub use contract::*;
use inner::{Active, Concluding, Inner};
use map::Location;
pub use open::Claimed;
pub use recovery::Recovery;
pub use spill::SpillFile;

/// The spool. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Spool {
    inner: Arc<Inner>,
}

impl Spool {
    /// A new identity.
    pub fn next_id(&self) -> MessageId {
        MessageId::new(self.inner.start, self.inner.count.fetch_add(1, Ordering::AcqRel))
    }

    /// The least identity that has not been given yet: every message so far, of this start or an earlier one, is below it.
    /// What happened before one below it was given has happened before this returns.
    pub fn frontier(&self) -> MessageId {
        MessageId::new(self.inner.start, self.inner.count.load(Ordering::Acquire))
    }

    /// Whether messages of earlier starts are still being raised.
    pub fn is_recovering(&self) -> bool {
        self.inner.recovering.load(Ordering::Acquire)
    }

    /// Whether a message could be accepted now, as far as can be told without trying.
    pub fn health(&self) -> Result<(), AcceptError> {
        if self.inner.writer.has_fault() {
            return Err(AcceptError::Closed);
        }
        if self.inner.room.is_full() || self.inner.writer.is_full() {
            return Err(AcceptError::Full);
        }
        Ok(())
    }

    /// A file for a content over 256 KiB. [`io::ErrorKind::StorageFull`] if no message could be accepted.
    pub fn spill(&self) -> io::Result<SpillFile> {
        if self.health() == Err(AcceptError::Full) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.spills.lend(self.next_id().0)
    }

    /// Stores a message; resolves when it is synced. If the caller goes away before that, the message is withdrawn.
    pub async fn accept(&self, message: NewMessage) -> Result<(), AcceptError> {
        self.health()?;
        let in_memory = match &message.content {
            Content::Memory(content) => content.len(),
            // The rest was counted when it was written.
            Content::File { prefix, .. } => prefix.len(),
        };
        if !self.inner.room.take(in_memory as u64) {
            return Err(AcceptError::Full);
        }
        let _active = Active::new(&self.inner);
        let encoded = inner::encode(&self.inner, &message, None).await?;
        let deadline = message.ended_at + self.inner.settings.load().deadline;
        let withdrawal = Some(Withdrawal { key: message.id.0, deadline });
        let committed = self.inner.commit(message, encoded, Vec::new(), withdrawal).await?;
        self.inner.ledger.settle(committed);
        Ok(())
    }

    /// Stores a DSN together with the events that it reports; resolves when both are synced.
    pub async fn conclude(&self, id: MessageId, events: &[RecipientEvent], dsn: NewMessage) -> Result<(), AcceptError> {
        let inner = &self.inner;
        let _concluding = Concluding::new(inner, id);
        let segment = inner.map.shard(id).find(id).map(|location| location.position.segment);
        let encoded = inner::encode(inner, &dsn, Some((id, events))).await?;
        let committed = inner.commit(dsn, encoded, segment.into_iter().collect(), None).await?;
        inner.finish(id, events, segment);
        inner.ledger.settle(committed);
        Ok(())
    }

    /// A message that was accepted lately or that the kernel still has in memory. Never waits for the disk.
    pub fn cached(&self, id: MessageId) -> Option<Message> {
        if let Some(message) = self.inner.cache.get(&id) {
            return Some(message);
        }
        let location = self.inner.map.shard(id).find(id)?;
        self.inner.read_from_memory(id, location)
    }

    /// Reads a message; blocks on the disk unless it was accepted lately.
    pub fn load(&self, id: MessageId) -> Result<Message, LoadError> {
        if let Some(message) = self.inner.cache.get(&id) {
            return Ok(message);
        }
        self.find(id, |location| self.inner.read(id, location))
    }

    /// The envelope of a message, also of one that [`Spool::load`] calls damaged; blocks on the disk unless the message was
    /// accepted lately.
    pub fn envelope(&self, id: MessageId) -> Result<Arc<Envelope>, LoadError> {
        if let Some(message) = self.inner.cache.get(&id) {
            return Ok(message.envelope);
        }
        self.find(id, |location| self.inner.read_envelope(id, location))
    }

    fn find<T>(&self, id: MessageId, read: impl Fn(Location) -> Result<T, LoadError>) -> Result<T, LoadError> {
        let mut location = self.inner.map.shard(id).find(id).ok_or(LoadError::Unknown)?;
        loop {
            let result = read(location);
            let Err(LoadError::Io(error)) = &result else { return result };
            // It may have been copied and its segment deleted since we asked where it is.
            let now = self.inner.map.shard(id).find(id).ok_or(LoadError::Unknown)?;
            if error.kind() != io::ErrorKind::NotFound || now == location {
                return result;
            }
            location = now;
        }
    }

    /// Notes that content is about to leave for `mx`; resolves when that survives a kill of this process.
    pub async fn attempt(&self, id: MessageId, recipients: &[u32], mx: SocketAddr) -> Result<(), Fault> {
        if self.inner.settings.load().attempts == Attempts::Off {
            return Ok(());
        }
        let ticket = {
            let mut shard = self.inner.map.shard(id);
            let Some(location) = shard.find(id) else { return Ok(()) };
            shard.attempt(id, recipients, mx);
            let segment = location.position.segment;
            self.inner.writer.append(segment, |out| codec::write_attempt(out, id, recipients, mx))
        };
        self.inner.writer.written(ticket).await?;
        if self.inner.settings.load().attempts == Attempts::Sync {
            self.inner.writer.sync().await?;
        }
        Ok(())
    }

    /// Notes what became of recipients; written within 5 ms, synced within 50 ms.
    pub fn record(&self, id: MessageId, events: &[RecipientEvent]) {
        self.inner.finish(id, events, None);
    }

    /// Waits until everything recorded so far is synced; whether it is. Blocks on the disk.
    pub fn sync_blocking(&self) -> bool {
        self.inner.writer.sync_blocking().is_ok()
    }

    /// What is left to do for a message, with the address of an attempt that has no outcome yet; nothing if it is finished.
    pub fn pending(&self, id: MessageId) -> Vec<Pending> {
        self.inner.map.shard(id).pending(id)
    }

    /// About how many octets a message is: its content, if that is known, and what is stored with it. 0 if there is no such
    /// message. Asks no disk.
    pub fn length(&self, id: MessageId) -> u64 {
        self.inner.map.shard(id).length(id)
    }

    /// What recovery could not read, if there is anything: messages that are neither tried nor reported until a later
    /// start can read them.
    pub fn recovery_failure(&self) -> Option<String> {
        self.inner.recovery_failure.lock().clone()
    }

    /// Goes by other settings from now on, save the path, the keys and whether there are syncs. One segment of the size before is ready.
    pub fn apply(&self, settings: Settings) {
        let inner = &self.inner;
        let before = inner.settings.load_full();
        let settings = Settings { path: before.path.clone(), sync: before.sync, keys: before.keys.clone(), ..settings };
        if settings.cache != before.cache {
            inner.cache.set_capacity(settings.cache);
        }
        // Without a look at the disk its reserve is that of the configuration; the log's next segment asks again.
        let spare = inner.storage.space().map_or(settings.reserve, |space| keeper::reserve(&settings, space.total));
        inner.writer.change_supply(settings.segment_size, spare);
        inner.settings.store(Arc::new(settings));
    }

    /// Recovery panicked: what it had not raised waits for the next start. Nothing is deleted until then.
    pub fn recovery_panicked(&self, panic: &Panic) {
        *self.inner.recovery_failure.lock() = Some(panic.to_string());
    }

    /// The log's committer: its pulse, and whether something waits for it. For the watchdog.
    pub fn committing(&self) -> (&Pulse, bool) {
        (self.inner.writer.committing(), self.inner.writer.has_work())
    }

    /// Writes to the log without a sync, as [`Spool::committing`].
    pub fn writing(&self) -> &Pulse {
        self.inner.writer.writing()
    }

    /// The state in numbers.
    pub fn stat(&self) -> Stat {
        let inner = &self.inner;
        let mut stat = Stat {
            messages: inner.map.len() as u64,
            batches: inner.ledger.batches(),
            damaged: inner.tally.damaged.load(Ordering::Relaxed),
            tail: inner.tally.tail.load(Ordering::Relaxed),
            copied: inner.tally.copied.load(Ordering::Relaxed),
            copied_octets: inner.tally.copied_octets.load(Ordering::Relaxed),
            log_octets: inner.ledger.octets(),
            deleted: inner.tally.deleted.load(Ordering::Relaxed),
            recovering: inner.recovering.load(Ordering::Relaxed),
            full: self.health() == Err(AcceptError::Full),
            fault: inner.writer.has_fault(),
            free: inner.storage.space().map_or(0, |space| space.free),
            cached: inner.cache.weight(),
            ..Stat::default()
        };
        inner.ledger.sum(&mut stat);
        stat
    }

    /// Writes and syncs what there is, seals the open segment and ends the threads.
    pub async fn close(&self) {
        let spool = self.clone();
        let _ = tokio::task::spawn_blocking(move || spool.close_blocking()).await;
    }

    /// [`Spool::close`] for a thread that may block.
    pub fn close_blocking(&self) {
        self.inner.keeper.stop();
        self.inner.writer.close();
        keeper::write_indexes(&self.inner);
    }

    /// Ends a spool that came to nothing: no recovery has run and no message was accepted. The segments that were made for
    /// it are removed, so that starts that fail one after the other do not fill the disk.
    pub async fn abandon(&self) {
        let spool = self.clone();
        let abandon = move || {
            spool.inner.keeper.stop();
            spool.inner.writer.abandon();
        };
        let _ = tokio::task::spawn_blocking(abandon).await;
    }

    /// Does at once what the keeper's thread would do next: indexes, a checkpoint, deletions, copies. Blocks.
    pub fn keep_house(&self) {
        keeper::pass(&self.inner, true);
    }
}
