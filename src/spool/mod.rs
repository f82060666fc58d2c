//! The spool: messages in the log. Contract in `docs/spool.md`.
//!
//! [`Spool::accept`] resolves only when the message is on stable storage. [`Spool::attempt`] resolves when the attempt
//! has been handed to the kernel. [`Spool::record`] appends outcomes in memory; they reach the kernel within 5 ms and
//! the disk within 50 ms. The spool owns each message's count of unfinished recipients and releases its space.
//!
//! Locks are taken in this order: a shard of the [`map`], then the log's tail, then its pending buffer or the
//! [`ledger`]; none is held across an await.

pub mod codec;
mod contract;
mod ledger;
mod map;
mod open;
mod recovery;
pub mod spill;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use quick_cache::sync::Cache;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::log::Position;
use crate::log::record::{Builder, Frame};
use crate::log::storage::{Storage, StorageFile, read_exact};
use crate::log::wire::aligned;
use crate::log::writer::{CommitError, Entry, Withdrawal, Writer};
use crate::message::{Content, Envelope, Message, MessageId};

pub use contract::*;
use ledger::Ledger;
use map::{Location, Map};
pub use recovery::Recovery;
pub use spill::SpillFile;
use spill::Spills;

/// The spool. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Spool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    storage: Arc<dyn Storage>,
    #[expect(dead_code, reason = "deadlines count from the caller's instants")]
    clock: Clock,
    writer: Writer,
    ledger: Arc<Ledger>,
    map: Map,
    cache: Cache<MessageId, Message, Weigh>,
    spills: Spills,
    /// Which start of the daemon on this spool this is, and how many ids it has given out.
    start: u32,
    count: AtomicU64,
    /// Sessions inside [`Spool::accept`].
    accepting: AtomicUsize,
    /// Set by the keeper while free space is below the reserve.
    full: AtomicBool,
    recovering: AtomicBool,
    damaged: AtomicU64,
    tail: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Weigh;

impl quick_cache::Weighter<MessageId, Message> for Weigh {
    fn weight(&self, _: &MessageId, message: &Message) -> u64 {
        // Envelope, handles and table entry take about half a kilobyte.
        let content = match &message.content {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File { prefix, .. } => prefix.len() as u64,
        };
        content + 512
    }
}

/// A message record that is ready for its place in a segment.
struct Encoded {
    meta: Vec<u8>,
    content: Bytes,
    checksum: u32,
}

impl Encoded {
    fn location(&self, position: Position) -> Location {
        Location { position, octets: aligned(self.meta.len() as u64 + self.content.len() as u64) }
    }
}

impl Spool {
    /// A new identity.
    pub fn next_id(&self) -> MessageId {
        MessageId::new(self.inner.start, self.inner.count.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether a message could be accepted now, as far as can be told without trying.
    pub fn health(&self) -> Result<(), AcceptError> {
        if self.inner.writer.has_fault() {
            return Err(AcceptError::Closed);
        }
        if self.inner.full.load(Ordering::Relaxed) || self.inner.writer.is_full() {
            return Err(AcceptError::Full);
        }
        Ok(())
    }

    /// A file for a content over 256 KiB.
    pub fn spill(&self) -> io::Result<SpillFile> {
        self.inner.spills.lend(self.next_id().0)
    }

    /// Stores a message; resolves when it is synced. If the caller goes away before that, the message is withdrawn.
    pub async fn accept(&self, message: NewMessage) -> Result<(), AcceptError> {
        self.health()?;
        let _active = Active::new(&self.inner);
        let encoded = self.inner.encode(&message, |_| {}).map_err(|error| accept_error(&error))?;
        let deadline = message.ended_at + self.inner.settings.deadline;
        let withdrawal = Some(Withdrawal { key: message.id.0, deadline });
        let location = self.inner.commit(message.id, encoded, Vec::new(), withdrawal).await?;
        self.inner.adopt(message, location);
        Ok(())
    }

    /// Stores a DSN together with the events that it reports; resolves when both are synced.
    pub async fn conclude(&self, id: MessageId, events: &[RecipientEvent], dsn: NewMessage) -> Result<(), AcceptError> {
        let inner = &self.inner;
        let refers = inner.map.shard(id).find(id).map(|location| location.position.segment);
        let encoded = inner.encode(&dsn, |builder| codec::put_concludes(builder, id, events));
        let encoded = encoded.map_err(|error| accept_error(&error))?;
        let location = inner.commit(dsn.id, encoded, refers.into_iter().collect(), None).await?;
        inner.adopt(dsn, location);
        inner.finish(id, events, false);
        Ok(())
    }

    /// Reads a message; blocks on the disk unless it was accepted lately.
    pub fn load(&self, id: MessageId) -> Result<Message, LoadError> {
        if let Some(message) = self.inner.cache.get(&id) {
            return Ok(message);
        }
        let location = self.inner.map.shard(id).find(id).ok_or(LoadError::Unknown)?;
        self.inner.read(id, location)
    }

    /// Notes that content is about to leave for `mx`; resolves when that survives a kill of this process.
    pub async fn attempt(&self, id: MessageId, recipients: &[u32], mx: SocketAddr) -> Result<(), Fault> {
        if self.inner.settings.attempts == Attempts::Off {
            return Ok(());
        }
        let segment = {
            let mut shard = self.inner.map.shard(id);
            shard.attempt(id, recipients, mx);
            shard.find(id).map(|location| location.position.segment)
        };
        let Some(segment) = segment else { return Ok(()) };
        self.inner.writer.append_now(segment, |out| codec::write_attempt(out, id, recipients, mx)).await?;
        if self.inner.settings.attempts == Attempts::Sync {
            self.inner.writer.sync().await?;
        }
        Ok(())
    }

    /// Notes what became of recipients; written within 5 ms, synced within 50 ms.
    pub fn record(&self, id: MessageId, events: &[RecipientEvent]) {
        self.inner.finish(id, events, true);
    }

    /// The state in numbers.
    pub fn stat(&self) -> Stat {
        let inner = &self.inner;
        let mut stat = Stat {
            messages: inner.map.len() as u64,
            batches: inner.ledger.batches(),
            damaged: inner.damaged.load(Ordering::Relaxed),
            tail: inner.tail.load(Ordering::Relaxed),
            recovering: inner.recovering.load(Ordering::Relaxed),
            full: self.health() == Err(AcceptError::Full),
            fault: inner.writer.has_fault(),
            ..Stat::default()
        };
        inner.ledger.with(|segments| {
            for segment in segments.values() {
                stat.segments += 1;
                stat.octets += segment.size;
                stat.live_octets += segment.live_octets;
            }
        });
        stat
    }

    /// Writes and syncs what there is, seals the open segment and ends the threads.
    pub async fn close(&self) {
        let spool = self.clone();
        let _ = tokio::task::spawn_blocking(move || spool.close_blocking()).await;
    }

    /// [`Spool::close`] for a thread that may block.
    pub fn close_blocking(&self) {
        self.inner.writer.close();
    }
}

/// What an error while preparing a record means to the client.
fn accept_error(error: &io::Error) -> AcceptError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AcceptError::Full,
        _ => AcceptError::Aborted,
    }
}

/// Counts a session while it waits for its commit.
struct Active<'a>(&'a Inner);

impl<'a> Active<'a> {
    fn new(inner: &'a Inner) -> Self {
        let count = inner.accepting.fetch_add(1, Ordering::Relaxed) + 1;
        inner.writer.note_sessions(count);
        Self(inner)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.accepting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Withdraws a message that was committed when nobody was waiting any more.
struct Guard<'a> {
    inner: &'a Inner,
    id: MessageId,
    octets: u64,
    can_withdraw: bool,
    receiver: oneshot::Receiver<Result<Position, CommitError>>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(Ok(position)) = self.receiver.try_recv()
            && self.can_withdraw
        {
            let id = self.id.0;
            self.inner.writer.append(position.segment, |out| codec::write_withdrawn(id, out));
            self.inner.ledger.release(Location { position, octets: self.octets });
        }
    }
}

impl Inner {
    /// Lays a message out as a record; large contents go to a spill file, which is synced here.
    fn encode(&self, message: &NewMessage, more: impl FnOnce(&mut Builder<'_>)) -> io::Result<Encoded> {
        let mut meta = Vec::with_capacity(256);
        let mut builder = Builder::new(&mut meta, codec::MESSAGE);
        codec::put_envelope(&mut builder, message.id, &message.envelope);
        more(&mut builder);
        let content = match &message.content {
            Content::Memory(bytes) if bytes.len() <= spill::THRESHOLD => bytes.clone(),
            Content::Memory(bytes) => {
                let spilled = self.spills.create(message.id.0)?;
                spilled.file.write_at(&[io::IoSlice::new(bytes)], 0)?;
                codec::put_spill(&mut builder, &self.settle(&spilled, 0, bytes.len() as u64)?);
                Bytes::new()
            }
            Content::File { prefix, file, offset, length } => {
                let spilled = self.spills.find(file).ok_or(io::ErrorKind::NotFound)?;
                codec::put_spill(&mut builder, &self.settle(&spilled, *offset, *length)?);
                prefix.clone()
            }
        };
        let checksum = crc32c::crc32c(&content);
        let length = u32::try_from(content.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        builder.finish_with(length, checksum);
        Ok(Encoded { meta, content, checksum })
    }

    /// Syncs a spill file and its name.
    fn settle(&self, spilled: &spill::Spilled, offset: u64, length: u64) -> io::Result<codec::SpillPlace> {
        let checksum = checksum(&*spilled.file, offset, length)?;
        if self.settings.sync {
            spilled.file.sync_data()?;
            self.storage.sync_dir(spill::DIRECTORY)?;
        }
        Ok(codec::SpillPlace { file: spilled.number, offset, length, checksum })
    }

    /// Hands a record to the committer and waits for it.
    async fn commit(
        &self,
        id: MessageId,
        encoded: Encoded,
        refers: Vec<u32>,
        withdrawal: Option<Withdrawal>,
    ) -> Result<Location, AcceptError> {
        let (done, receiver) = oneshot::channel();
        let location = encoded.location(Position::default());
        let can_withdraw = withdrawal.is_some();
        let Encoded { meta, content, checksum } = encoded;
        self.writer.submit(Entry { meta, content, checksum, refers, withdrawal, done });
        let mut guard = Guard { inner: self, id, octets: location.octets, can_withdraw, receiver };
        let result = (&mut guard.receiver).await;
        match result {
            Ok(Ok(position)) => Ok(Location { position, ..location }),
            Ok(Err(CommitError::Full)) => Err(AcceptError::Full),
            Ok(Err(CommitError::Withdrawn)) => Err(AcceptError::Aborted),
            Ok(Err(CommitError::Closed)) => Err(AcceptError::Closed),
            Ok(Err(CommitError::Unknown)) | Err(_) => Err(AcceptError::Unknown),
        }
    }

    /// A committed message becomes one of ours. Its segment has counted it as live since it was written.
    fn adopt(&self, message: NewMessage, location: Location) {
        if let Content::File { file, .. } = &message.content {
            self.spills.adopt(file);
        }
        let recipients = u32::try_from(message.envelope.recipients.len()).unwrap_or(u32::MAX);
        let pending: Vec<_> = codec::fresh(recipients).collect();
        self.map.shard(message.id).insert(message.id, location, &pending);
        let NewMessage { id, envelope, content, .. } = message;
        self.cache.insert(id, Message { id, envelope, content });
    }

    /// Applies events, and appends them to the log unless they are there already.
    fn finish(&self, id: MessageId, events: &[RecipientEvent], append: bool) {
        let applied = {
            let mut shard = self.map.shard(id);
            let Some(applied) = shard.apply(id, events) else { return };
            if append {
                self.writer.append(applied.location.position.segment, |out| codec::write_events(out, id, events));
            }
            applied
        };
        if applied.is_finished {
            self.cache.remove(&id);
            self.ledger.release(applied.location);
        }
    }

    /// Reads a message's record and checks it.
    fn read(&self, id: MessageId, location: Location) -> Result<Message, LoadError> {
        let (file, seal) = self.ledger.reader(location.position.segment)?;
        let octets = usize::try_from(location.octets).map_err(|_| LoadError::Damaged)?;
        let offset = location.position.offset;
        let bytes = Bytes::from(read_exact(&*file, offset, octets)?);
        let frame = Frame::read(&bytes, seal, offset).ok_or(LoadError::Damaged)?;
        let (meta, length) = (frame.lengths.meta as usize, frame.lengths.content as usize);
        let inline = bytes.get(meta..meta + length).ok_or(LoadError::Damaged)?;
        if !frame.is_content(inline, seal, offset) || codec::id(&frame) != Some(id) {
            return Err(LoadError::Damaged);
        }
        let envelope: Arc<Envelope> = codec::envelope(&frame).ok_or(LoadError::Damaged)?;
        let inline = bytes.slice(meta..meta + length);
        let content = match codec::spill(&frame) {
            None => Content::Memory(inline),
            Some(place) => self.spilled(inline, place)?,
        };
        Ok(Message { id, envelope, content })
    }

    fn spilled(&self, prefix: Bytes, place: codec::SpillPlace) -> Result<Content, LoadError> {
        let file = self.storage.open(&spill::path(place.file)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LoadError::Damaged,
            _ => LoadError::Io(error),
        })?;
        match checksum(&*file, place.offset, place.length) {
            Ok(found) if found == place.checksum => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => return Err(LoadError::Damaged),
        }
        if let Some(file) = file.as_file() {
            return Ok(Content::File { prefix, file, offset: place.offset, length: place.length });
        }
        let mut whole = prefix.to_vec();
        let length = usize::try_from(place.length).map_err(|_| LoadError::Damaged)?;
        whole.extend(read_exact(&*file, place.offset, length)?);
        Ok(Content::Memory(whole.into()))
    }
}

/// CRC32C of a part of a file.
fn checksum(file: &dyn StorageFile, offset: u64, length: u64) -> io::Result<u32> {
    const PIECE: usize = 256 << 10;
    let (mut checksum, mut done) = (0, 0);
    while done < length {
        let piece = usize::try_from(length - done).unwrap_or(PIECE).min(PIECE);
        checksum = crc32c::crc32c_append(checksum, &read_exact(file, offset + done, piece)?);
        done += piece as u64;
    }
    Ok(checksum)
}
