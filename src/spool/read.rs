//! Reading a message's record back. What does not agree with its checksums goes to quarantine.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::log::record::{Frame, HEADER, Lengths};
use crate::log::sealed::Opener;
use crate::log::segment;
use crate::log::storage::read_exact;
use crate::message::{Content, Envelope, Message, MessageId, ReadAt};

use super::contract::LoadError;
use super::inner::Inner;
use super::map::Location;
use super::quarantine::{self, Shelf};
use super::{codec, spill};

/// A message's record, checked.
struct Record {
    envelope: Arc<Envelope>,
    /// The content, or what comes before the part that was spilled.
    inline: Bytes,
    spill: Option<codec::SpillPlace>,
}

impl Record {
    /// `None` if the octets do not agree with their checksums or are another message's.
    fn read(id: MessageId, mut bytes: Vec<u8>, opener: &Opener, offset: u64) -> Option<Self> {
        let content = opener.open(&mut bytes, offset)?;
        let bytes = Bytes::from(bytes);
        let frame = Frame::trusted(&bytes).filter(|frame| codec::id(frame) == Some(id))?;
        let envelope = codec::envelope(&frame)?;
        Some(Self { envelope, inline: bytes.slice(content), spill: codec::spill(&frame) })
    }
}

impl Inner {
    /// Reads a message's record and checks it; what is damaged is copied to quarantine, once.
    pub fn read(&self, id: MessageId, location: Location) -> Result<Message, LoadError> {
        let result = self.try_read(id, location);
        if matches!(result, Err(LoadError::Damaged)) {
            // Held while the copy is made: whoever is told of the damage finds it counted and kept.
            let mut known = self.damaged.lock();
            if known.insert(id) {
                self.keep_damaged(id, location);
            }
        }
        result
    }

    /// The envelope of a message, from the part of its record that has a checksum of its own: it may be whole although
    /// the content is damaged.
    pub fn read_envelope(&self, id: MessageId, location: Location) -> Result<Arc<Envelope>, LoadError> {
        let (file, opener) = self.ledger.reader(location.position.segment).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => LoadError::Damaged,
            _ => LoadError::Io(error),
        })?;
        let offset = location.position.offset;
        let octets = |length| {
            read_exact(&*file, offset, length).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => LoadError::Damaged,
                _ => LoadError::Io(error),
            })
        };
        let lengths = Lengths::read(&octets(HEADER)?).ok_or(LoadError::Damaged)?;
        let mut meta = octets(lengths.meta as usize)?;
        let frame = opener.open_meta(&mut meta, offset).filter(|frame| codec::id(frame) == Some(id));
        frame.and_then(|frame| codec::envelope(&frame)).ok_or(LoadError::Damaged)
    }

    /// Copies a damaged record to quarantine. It also stays where it is: its segment is not deleted while the message is
    /// unfinished.
    fn keep_damaged(&self, id: MessageId, location: Location) {
        let (segment, offset) = (location.position.segment, location.position.offset);
        let copied = self.storage.open(&segment::path(segment)).and_then(|file| {
            let range = offset..offset + location.octets;
            quarantine::copy(&*self.storage, Shelf::Damaged, segment, &*file, range)
        });
        if let Err(error) = copied {
            tracing::error!(message_id = %id, %error, "cannot copy a damaged message to quarantine");
        }
        tracing::error!(message_id = %id, segment, offset, "message is damaged");
        self.tally.damaged.fetch_add(1, Ordering::Relaxed);
        self.tally.damaged_total.increment(1);
    }

    fn try_read(&self, id: MessageId, location: Location) -> Result<Message, LoadError> {
        let (file, opener) = self.ledger.reader(location.position.segment).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => LoadError::Damaged,
            _ => LoadError::Io(error),
        })?;
        let octets = usize::try_from(location.octets).map_err(|_| LoadError::Damaged)?;
        let offset = location.position.offset;
        let bytes = read_exact(&*file, offset, octets).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => LoadError::Damaged,
            _ => LoadError::Io(error),
        })?;
        let Record { envelope, inline, spill } = Record::read(id, bytes, &opener, offset).ok_or(LoadError::Damaged)?;
        let content = match spill {
            None => Content::Memory(inline),
            Some(place) => self.spilled(inline, place)?,
        };
        Ok(Message { id, envelope, content })
    }

    /// The message, if reading it does not wait for the disk. Whatever else is the matter, [`Inner::read`] tells.
    pub fn read_from_memory(&self, id: MessageId, location: Location) -> Option<Message> {
        let (file, opener) = self.ledger.open_reader(location.position.segment)?;
        let offset = location.position.offset;
        let mut bytes = vec![0; usize::try_from(location.octets).ok()?];
        if !file.read_from_memory(&mut bytes, offset) {
            return None;
        }
        match Record::read(id, bytes, &opener, offset)? {
            Record { envelope, inline, spill: None } => {
                Some(Message { id, envelope, content: Content::Memory(inline) })
            }
            Record { .. } => None,
        }
    }

    fn spilled(&self, prefix: Bytes, place: codec::SpillPlace) -> Result<Content, LoadError> {
        let file = self.storage.open(&spill::path(place.file)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LoadError::Damaged,
            _ => LoadError::Io(error),
        })?;
        let codec::SpillPlace { offset, length, .. } = place;
        let is_file = file.as_file().is_some();
        let file = spill::reader(file, place.key, offset.saturating_add(length))?;
        let is_damage = |error: &io::Error| matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData);
        match checksum(&*file, offset, length) {
            Ok(found) if found == place.checksum => {}
            Err(error) if !is_damage(&error) => return Err(error.into()),
            _ => return Err(LoadError::Damaged),
        }
        if is_file {
            return Ok(Content::File { prefix, file, offset, length });
        }
        let mut whole = prefix.to_vec();
        whole.resize(prefix.len() + usize::try_from(length).map_err(|_| LoadError::Damaged)?, 0);
        file.read_exact_at(whole.get_mut(prefix.len()..).unwrap_or_default(), offset)?;
        Ok(Content::Memory(whole.into()))
    }
}

/// CRC32C of a part of a content.
pub fn checksum(file: &dyn ReadAt, offset: u64, length: u64) -> io::Result<u32> {
    const PIECE: usize = 256 << 10;
    let (mut checksum, mut done) = (0, 0);
    let mut buffer = vec![0; usize::try_from(length).unwrap_or(PIECE).min(PIECE)];
    while done < length {
        let piece = usize::try_from(length - done).unwrap_or(PIECE).min(PIECE);
        let Some(octets) = buffer.get_mut(..piece) else { break };
        file.read_exact_at(octets, offset + done)?;
        checksum = crc32c::crc32c_append(checksum, octets);
        done += piece as u64;
    }
    Ok(checksum)
}
