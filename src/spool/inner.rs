//! What all handles of a [`Spool`](super::Spool) share: accepting and finishing messages.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::log::Position;
use crate::log::record::Builder;
use crate::log::storage::{Storage, is_full};
use crate::log::writer::{CommitError, Entry, Withdrawal, Writer};
use crate::message::{Content, Message, MessageId};

use super::contract::{AcceptError, NewMessage, RecipientEvent, Settings};
use super::keeper::Keeper;
use super::ledger::Ledger;
use super::map::{Location, Map};
use super::room::Room;
use super::spill::{self, Spills};
use super::{codec, read};

/// The spool's parts.
#[derive(Debug)]
pub struct Inner {
    /// Replaced by [`super::Spool::apply`].
    pub settings: ArcSwap<Settings>,
    pub storage: Arc<dyn Storage>,
    pub writer: Writer,
    pub ledger: Arc<Ledger>,
    pub map: Map,
    pub cache: Cache<MessageId, Message, Weigh>,
    pub spills: Spills,
    pub keeper: Arc<Keeper>,
    /// Which start of the daemon on this spool this is, and how many ids it has given out.
    pub start: u32,
    pub count: AtomicU64,
    /// Sessions inside [`super::Spool::accept`].
    pub accepting: AtomicUsize,
    pub room: Arc<Room>,
    /// The last segment that a checkpoint covers.
    pub checkpoint: AtomicU32,
    /// Cleared by recovery; nothing is deleted or copied before.
    pub recovering: AtomicBool,
    /// What recovery could not read; set at its end, for the operator.
    pub recovery_failure: Mutex<Option<String>>,
    pub tally: Tally,
    /// Messages found damaged when read: reported once each.
    pub damaged: Mutex<HashSet<MessageId>>,
    /// Spill files of finished messages, removed by the keeper once the outcomes are synced.
    pub dead_spills: Mutex<Vec<u64>>,
}

/// What happened since the start.
#[derive(Debug)]
pub struct Tally {
    pub damaged: AtomicU64,
    pub tail: AtomicU64,
    /// Messages copied forward, and their octets.
    pub copied: AtomicU64,
    pub copied_octets: AtomicU64,
    /// Octets copied out of segments that were not thin, so that what they held back could go.
    pub carried: AtomicU64,
    pub deleted: AtomicU64,
    pub damaged_total: metrics::Counter,
    pub tail_total: metrics::Counter,
}

/// Weighs a cached message by the memory it holds.
#[derive(Clone, Copy, Debug)]
pub struct Weigh;

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
pub struct Encoded {
    meta: Vec<u8>,
    content: Bytes,
    checksum: u32,
    /// Where the content is, if in a spill file.
    spill: Option<codec::SpillPlace>,
}

/// Counts a session while it waits for its commit.
pub struct Active<'a>(&'a Inner);

impl<'a> Active<'a> {
    pub fn new(inner: &'a Inner) -> Self {
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

/// Keeps a message from being copied while a DSN about it is on its way to the disk: its events are in the log before
/// the map knows of them.
pub struct Concluding<'a>(&'a Inner, MessageId);

impl<'a> Concluding<'a> {
    pub fn new(inner: &'a Inner, id: MessageId) -> Self {
        inner.map.shard(id).begin_conclusion(id);
        Self(inner, id)
    }
}

impl Drop for Concluding<'_> {
    fn drop(&mut self) {
        self.0.map.shard(self.1).end_conclusion(self.1);
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
        let committed = self.receiver.try_recv().ok().and_then(Result::ok);
        if let Some(position) = committed
            && self.can_withdraw
        {
            let id = self.id.0;
            self.inner.writer.append(position.segment, |out| codec::write_withdrawn(id, out));
            self.inner.ledger.release(Location { position, octets: self.octets });
        }
        if let Some(position) = committed {
            self.inner.ledger.settle(position.segment);
        }
    }
}

/// What an error while preparing a record means to the client.
fn accept_error(error: &io::Error) -> AcceptError {
    if is_full(error) { AcceptError::Full } else { AcceptError::Aborted }
}

/// The message that a DSN reports about, and the events that it reports.
type Conclusion<'a> = Option<(MessageId, &'a [RecipientEvent])>;

/// Lays a message out as a record. A large content is synced in its spill file, on a thread that may block.
pub async fn encode(
    inner: &Arc<Inner>,
    message: &NewMessage,
    concludes: Conclusion<'_>,
) -> Result<Encoded, AcceptError> {
    let is_small = matches!(&message.content, Content::Memory(bytes) if bytes.len() <= spill::THRESHOLD);
    let result = if is_small {
        inner.lay_out(message, concludes)
    } else {
        let (inner, message) = (inner.clone(), message.clone());
        let concludes = concludes.map(|(id, events)| (id, events.to_vec()));
        let lay_out = move || inner.lay_out(&message, concludes.as_ref().map(|(id, events)| (*id, events.as_slice())));
        tokio::task::spawn_blocking(lay_out).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    result.map_err(|error| accept_error(&error))
}

impl Inner {
    /// Lays a message out as a record; large contents go to a spill file, which is synced here.
    fn lay_out(&self, message: &NewMessage, concludes: Conclusion<'_>) -> io::Result<Encoded> {
        let mut meta = Vec::with_capacity(256);
        let mut builder = Builder::new(&mut meta, codec::MESSAGE);
        codec::put_envelope(&mut builder, message.id, &message.envelope);
        if let Some((concluded, events)) = concludes {
            codec::put_concludes(&mut builder, concluded, events);
        }
        let mut spill = None;
        let content = match &message.content {
            Content::Memory(bytes) if bytes.len() <= spill::THRESHOLD => bytes.clone(),
            Content::Memory(bytes) => {
                let (spilled, written) = self.spills.put(message.id.0, bytes);
                let settled = written.and_then(|()| {
                    let spilled = spilled.as_ref().ok_or(io::ErrorKind::NotFound)?;
                    self.settle(spilled, 0, bytes.len() as u64)
                });
                if let (Some(spilled), Err(_)) = (spilled, &settled) {
                    self.dead_spills.lock().push(spilled.number);
                }
                let place = settled?;
                codec::put_spill(&mut builder, &place);
                spill = Some(place);
                Bytes::new()
            }
            Content::File { prefix, file, offset, length } => {
                let spilled = self.spills.submit(file).ok_or(io::ErrorKind::NotFound)?;
                let place = self.settle(&spilled, *offset, *length)?;
                codec::put_spill(&mut builder, &place);
                spill = Some(place);
                prefix.clone()
            }
        };
        let checksum = crc32c::crc32c(&content);
        let length = u32::try_from(content.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        builder.finish_with(length, checksum);
        Ok(Encoded { meta, content, checksum, spill })
    }

    /// Syncs a spill file and its name.
    fn settle(&self, spilled: &spill::Spilled, offset: u64, length: u64) -> io::Result<codec::SpillPlace> {
        let checksum = read::checksum(&*spilled.reader(offset + length)?, offset, length)?;
        if self.settings.load().sync {
            spilled.file.sync_data()?;
            self.storage.sync_dir(spill::DIRECTORY)?;
        }
        Ok(codec::SpillPlace { file: spilled.number, offset, length, checksum, key: spilled.key })
    }

    /// Hands a record to the committer and waits until it is synced; the message is ours then. The caller settles it in
    /// the segment that is returned.
    pub async fn commit(
        &self,
        message: NewMessage,
        encoded: Encoded,
        refers: Vec<u32>,
        withdrawal: Option<Withdrawal>,
    ) -> Result<u32, AcceptError> {
        let (done, receiver) = oneshot::channel();
        let Encoded { meta, content, checksum, spill } = encoded;
        let octets = self.writer.octets(meta.len(), content.len());
        let can_withdraw = withdrawal.is_some();
        let entry = Entry { meta, content, checksum, refers, withdrawal, done };
        if self.is_alone() {
            if let Some(turn) = self.writer.submit_alone(entry) {
                turn.commit();
            }
        } else {
            self.writer.submit(entry);
        }
        let mut guard = Guard { inner: self, id: message.id, octets, can_withdraw, receiver };
        let result = (&mut guard.receiver).await;
        let error = match result {
            Ok(Ok(position)) => {
                self.adopt(message, Location { position, octets }, spill);
                return Ok(position.segment);
            }
            Ok(Err(CommitError::Full)) => AcceptError::Full,
            Ok(Err(CommitError::Withdrawn)) => AcceptError::Aborted,
            Ok(Err(CommitError::Closed)) => AcceptError::Closed,
            Ok(Err(CommitError::Unknown)) | Err(_) => AcceptError::Unknown,
        };
        if let (Some(place), AcceptError::Full | AcceptError::Aborted) = (spill, error)
            && matches!(message.content, Content::Memory(_))
        {
            self.dead_spills.lock().push(place.file);
        }
        Err(error)
    }

    /// Whether nobody else waits for a commit, so that none would be shared, and another thread of the runtime goes on
    /// with its tasks while this one waits for the disk.
    fn is_alone(&self) -> bool {
        self.accepting.load(Ordering::Relaxed) <= 1
            && Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_workers() > 1)
    }

    /// A committed message becomes one of ours. Its segment has counted it as live since it was written.
    fn adopt(&self, message: NewMessage, location: Location, spill: Option<codec::SpillPlace>) {
        if let Content::File { file, .. } = &message.content {
            self.spills.adopt(file);
        }
        let recipients = u32::try_from(message.envelope.recipients.len()).unwrap_or(u32::MAX);
        let mut shard = self.map.shard(message.id);
        shard.insert(message.id, location, &codec::fresh(recipients));
        if let Some(place) = spill {
            shard.note_spill(message.id, place.into());
        }
        drop(shard);
        let NewMessage { id, envelope, content, .. } = message;
        self.cache.insert(id, Message { id, envelope, content });
    }

    /// Applies events. They are appended to the log unless it has them, with a reference to segment `known`, which is
    /// the message's unless it was copied meanwhile.
    pub fn finish(&self, id: MessageId, events: &[RecipientEvent], known: Option<u32>) {
        let (applied, ticket, spill) = {
            let mut shard = self.map.shard(id);
            let Some(applied) = shard.apply(id, events) else { return };
            let segment = applied.location.position.segment;
            let ticket = (known != Some(segment))
                .then(|| self.writer.append(segment, |out| codec::write_events(out, id, events)));
            let spill = if applied.is_finished { shard.take_spill(id) } else { None };
            (applied, ticket, spill)
        };
        if let Some(ticket) = ticket {
            self.writer.relieve(ticket);
        }
        if applied.is_finished {
            self.cache.remove(&id);
            self.ledger.release(applied.location);
            self.dead_spills.lock().extend(spill);
        }
    }
}
