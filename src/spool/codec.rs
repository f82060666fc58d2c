//! Messages and events as records of the log.
//!
//! Every value is a field with a tag; readers ignore tags they do not know and a compacted message keeps them. Tags and
//! kinds are never reused for another meaning.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::clock::UnixTime;
use crate::log::Position;
use crate::log::record::{Builder, Fields, Frame, put_field};
use crate::log::wire::{put_varint, take_varint, take_varint_u32};
use crate::message::{BodyType, ContentTraits, Envelope, Kind, Lane, MessageId, Notify, Recipient, Ret, TlsWish};
use crate::smtp::address::{Address, ReversePath};

use super::chunks::SpillKey;
use super::contract::{Event, Pending, RecipientEvent};
use super::map::Spill;

/// An envelope with its content.
pub const MESSAGE: u8 = 1;
/// What became of recipients.
pub const EVENTS: u8 = 2;
/// Content is about to leave.
pub const ATTEMPT: u8 = 3;
/// A message is void.
pub const WITHDRAWN: u8 = 4;
/// A copy of a message is void; other records of the message are not.
pub const VOID: u8 = 5;

/// Tags of fields.
pub mod tag {
    /// The message's id: 8 octets.
    pub const ID: u64 = 1;
    /// Reverse-path; empty when null.
    pub const REVERSE_PATH: u64 = 2;
    /// One recipient: NOTIFY, length of the forward-path, forward-path, ORCPT.
    pub const RECIPIENT: u64 = 3;
    /// Seconds since 1970.
    pub const ACCEPTED_AT: u64 = 4;
    /// Tenant.
    pub const TENANT: u64 = 5;
    /// Campaign.
    pub const CAMPAIGN: u64 = 6;
    /// Lane, BODY, SMTPUTF8, traits, RET, kind and what is asked of TLS, an octet each; one that is missing is 0.
    pub const FLAGS: u64 = 7;
    /// ENVID.
    pub const ENVID: u64 = 8;
    /// Where the content is when it is not in the record: see [`super::SpillPlace`]; numbers, then the key if there is one.
    pub const SPILL: u64 = 9;
    /// Class of campaigns.
    pub const CLASS: u64 = 10;
    /// An unfinished recipient of a copied message; the others are finished.
    pub const PENDING: u64 = 20;
    /// The message is a copy of an earlier record with the same id, in the segment with this number (4 octets).
    pub const COPIED: u64 = 21;
    /// The DSN's events: those of [`super::EVENTS`] about another message.
    pub const CONCLUDES: u64 = 22;
    /// Delivered recipients.
    pub const DELIVERED: u64 = 30;
    /// A deferred recipient.
    pub const DEFERRED: u64 = 31;
    /// A bounced recipient.
    pub const BOUNCED: u64 = 32;
    /// An expired recipient.
    pub const EXPIRED: u64 = 33;
    /// Recipients of an attempt.
    pub const RECIPIENTS: u64 = 34;
    /// A recipient that is finished; which way stands in a record that a copy of the message came after.
    pub const FINISHED: u64 = 36;
    /// Address and port of the MX host.
    pub const MX_ADDRESS: u64 = 35;
    /// A recipient that an operator deleted.
    pub const DELETED: u64 = 38;
    /// Where a void copy is: segment (4 octets) and offset (8 octets).
    pub const PLACE: u64 = 37;
}

/// The content's place in a spill file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillPlace {
    /// Number of the file.
    pub file: u64,
    /// Where the content begins in it.
    pub offset: u64,
    /// How many octets of it belong to the content.
    pub length: u64,
    /// Their CRC32C.
    pub checksum: u32,
    /// What the file is encrypted with, if it is.
    pub key: Option<SpillKey>,
}

impl From<SpillPlace> for Spill {
    fn from(place: SpillPlace) -> Self {
        Self { file: place.file, length: place.length }
    }
}

fn flags(envelope: &Envelope) -> [u8; 7] {
    let lane = match envelope.lane {
        Lane::Urgent => 0,
        Lane::Normal => 1,
        Lane::Bulk => 2,
    };
    let body = u8::from(envelope.body == BodyType::EightBitMime);
    let traits = u8::from(envelope.traits.has_eight_bit) | u8::from(envelope.traits.has_eight_bit_header) << 1;
    let ret = match envelope.ret {
        None => 0,
        Some(Ret::Full) => 1,
        Some(Ret::Headers) => 2,
    };
    let kind = match envelope.kind {
        Kind::Submitted => 0,
        Kind::Dsn => 1,
        Kind::TlsReport => 2,
        Kind::Returned => 3,
    };
    let tls = match envelope.tls {
        TlsWish::Unsaid => 0,
        TlsWish::Required => 1,
        TlsWish::Waived => 2,
    };
    [lane, body, u8::from(envelope.smtputf8), traits, ret, kind, tls]
}

/// Appends id and envelope as fields.
pub fn put_envelope(builder: &mut Builder<'_>, id: MessageId, envelope: &Envelope) {
    builder.field(tag::ID, &id.0.to_le_bytes());
    builder.field(tag::REVERSE_PATH, envelope.reverse_path.as_str().as_bytes());
    builder.field(tag::ACCEPTED_AT, &envelope.accepted_at.0.to_le_bytes());
    builder.field(tag::TENANT, envelope.tenant.as_bytes());
    if !envelope.campaign.is_empty() {
        builder.field(tag::CAMPAIGN, envelope.campaign.as_bytes());
    }
    if !envelope.class.is_empty() {
        builder.field(tag::CLASS, envelope.class.as_bytes());
    }
    builder.field(tag::FLAGS, &flags(envelope));
    if let Some(envid) = &envelope.envid {
        builder.field(tag::ENVID, envid.as_bytes());
    }
    let mut value = Vec::with_capacity(64);
    for recipient in &envelope.recipients {
        let path = recipient.forward_path.as_str().as_bytes();
        value.clear();
        value.push(recipient.notify.0);
        put_varint(&mut value, path.len() as u64);
        value.extend_from_slice(path);
        if let Some(orcpt) = &recipient.orcpt {
            value.push(b'=');
            value.extend_from_slice(orcpt.as_bytes());
        }
        builder.field(tag::RECIPIENT, &value);
    }
}

/// Appends the place of a spilled content.
pub fn put_spill(builder: &mut Builder<'_>, place: &SpillPlace) {
    let mut value = Vec::with_capacity(64);
    for number in [place.file, place.offset, place.length, u64::from(place.checksum)] {
        put_varint(&mut value, number);
    }
    if let Some(key) = &place.key {
        value.extend_from_slice(&key.0);
    }
    builder.field(tag::SPILL, &value);
}

/// The place of a spilled content, if this message has one.
pub fn spill(frame: &Frame<'_>) -> Option<SpillPlace> {
    let mut value = frame.fields().find(tag::SPILL)?;
    let (file, offset) = (take_varint(&mut value)?, take_varint(&mut value)?);
    let (length, checksum) = (take_varint(&mut value)?, take_varint_u32(&mut value)?);
    let key = value.first_chunk().map(|key| SpillKey(*key));
    Some(SpillPlace { file, offset, length, checksum, key })
}

/// Appends events as fields.
fn put_events(out: &mut Vec<u8>, events: &[RecipientEvent]) {
    let mut value = Vec::with_capacity(16);
    for RecipientEvent { recipient, event } in events {
        value.clear();
        put_varint(&mut value, u64::from(*recipient));
        let tag = match event {
            Event::Delivered => tag::DELIVERED,
            Event::Bounced => tag::BOUNCED,
            Event::Expired => tag::EXPIRED,
            Event::Deleted => tag::DELETED,
            Event::Deferred { attempts, due, delay_reported } => {
                put_varint(&mut value, u64::from(*attempts));
                put_varint(&mut value, u64::from(due.0));
                value.push(u8::from(*delay_reported));
                tag::DEFERRED
            }
        };
        put_field(out, tag, &value);
    }
}

/// Writes a record of events.
pub fn write_events(out: &mut Vec<u8>, id: MessageId, events: &[RecipientEvent]) {
    let mut fields = Vec::with_capacity(16 * events.len());
    put_events(&mut fields, events);
    let mut builder = Builder::new(out, EVENTS);
    builder.field(tag::ID, &id.0.to_le_bytes());
    builder.raw(&fields);
    builder.finish();
}

/// Appends the events of another message that this DSN reports.
pub fn put_concludes(builder: &mut Builder<'_>, id: MessageId, events: &[RecipientEvent]) {
    let mut value = Vec::with_capacity(16 + 16 * events.len());
    put_field(&mut value, tag::ID, &id.0.to_le_bytes());
    put_events(&mut value, events);
    builder.field(tag::CONCLUDES, &value);
}

/// The events of another message that this DSN reports.
pub fn concludes(frame: &Frame<'_>) -> Option<(MessageId, Vec<RecipientEvent>)> {
    let value = frame.fields().find(tag::CONCLUDES)?;
    let fields = Fields::nested(value);
    Some((id_in(fields)?, events_in(fields)))
}

/// Writes a record of an attempt.
pub fn write_attempt(out: &mut Vec<u8>, id: MessageId, recipients: &[u32], mx: SocketAddr) {
    let mut builder = Builder::new(out, ATTEMPT);
    builder.field(tag::ID, &id.0.to_le_bytes());
    let mut value = Vec::with_capacity(24);
    for recipient in recipients {
        put_varint(&mut value, u64::from(*recipient));
    }
    builder.field(tag::RECIPIENTS, &value);
    value.clear();
    put_socket_address(&mut value, mx);
    builder.field(tag::MX_ADDRESS, &value);
    builder.finish();
}

/// Writes a record that makes a message void.
pub fn write_withdrawn(id: u64, out: &mut Vec<u8>) {
    let mut builder = Builder::new(out, WITHDRAWN);
    builder.field(tag::ID, &id.to_le_bytes());
    builder.finish();
}

/// Writes a record that makes one copy of a message void.
pub fn write_void(out: &mut Vec<u8>, id: MessageId, place: Position) {
    let mut builder = Builder::new(out, VOID);
    builder.field(tag::ID, &id.0.to_le_bytes());
    let mut value = place.segment.to_le_bytes().to_vec();
    value.extend_from_slice(&place.offset.to_le_bytes());
    builder.field(tag::PLACE, &value);
    builder.finish();
}

/// Where the void copy is.
pub fn void_place(frame: &Frame<'_>) -> Option<Position> {
    let (segment, offset) = frame.fields().find(tag::PLACE)?.split_first_chunk()?;
    Some(Position { segment: u32::from_le_bytes(*segment), offset: u64::from_le_bytes(*offset.first_chunk()?) })
}

/// The recipients and the MX address of an attempt.
pub fn attempt(frame: &Frame<'_>) -> Option<(Vec<u32>, SocketAddr)> {
    let mut value = frame.fields().find(tag::RECIPIENTS)?;
    let mut recipients = Vec::new();
    while !value.is_empty() {
        recipients.push(take_varint_u32(&mut value)?);
    }
    Some((recipients, socket_address(frame.fields().find(tag::MX_ADDRESS)?)?))
}

/// The message a record is about.
pub fn id(frame: &Frame<'_>) -> Option<MessageId> {
    id_in(frame.fields())
}

fn id_in(mut fields: Fields<'_>) -> Option<MessageId> {
    let value = fields.find_map(|(tag, value)| (tag == tag::ID).then_some(value))?;
    value.first_chunk().map(|bytes| MessageId(u64::from_le_bytes(*bytes)))
}

/// The events of a record.
pub fn events(frame: &Frame<'_>) -> Vec<RecipientEvent> {
    events_in(frame.fields())
}

fn events_in(fields: Fields<'_>) -> Vec<RecipientEvent> {
    fields.filter_map(|(tag, value)| event(tag, value)).collect()
}

fn event(tag: u64, mut value: &[u8]) -> Option<RecipientEvent> {
    if !(tag::DELIVERED..=tag::EXPIRED).contains(&tag) && ![tag::FINISHED, tag::DELETED].contains(&tag) {
        return None;
    }
    let recipient = take_varint_u32(&mut value)?;
    let event = match tag {
        tag::DELIVERED | tag::FINISHED => Event::Delivered,
        tag::BOUNCED => Event::Bounced,
        tag::EXPIRED => Event::Expired,
        tag::DELETED => Event::Deleted,
        _ => {
            let attempts = u16::try_from(take_varint(&mut value)?).unwrap_or(u16::MAX);
            let due = UnixTime(take_varint_u32(&mut value)?);
            Event::Deferred { attempts, due, delay_reported: value.first() == Some(&1) }
        }
    };
    Some(RecipientEvent { recipient, event })
}

fn put_socket_address(out: &mut Vec<u8>, address: SocketAddr) {
    out.extend_from_slice(&address.port().to_le_bytes());
    match address.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
}

fn socket_address(value: &[u8]) -> Option<SocketAddr> {
    let (port, ip) = value.split_first_chunk::<2>()?;
    let ip: IpAddr = match ip.len() {
        4 => <[u8; 4]>::try_from(ip).ok()?.into(),
        _ => <[u8; 16]>::try_from(ip).ok()?.into(),
    };
    Some(SocketAddr::new(ip, u16::from_le_bytes(*port)))
}

/// Writes records that bring a copy, made with the recipients `then`, up to what is left `now`.
pub fn write_difference(out: &mut Vec<u8>, id: MessageId, then: &[Pending], now: &[Pending]) {
    let mut fields = Vec::new();
    let mut value = Vec::new();
    for before in then {
        let after = now.iter().find(|after| after.recipient == before.recipient);
        match after {
            None => {
                value.clear();
                put_varint(&mut value, u64::from(before.recipient));
                put_field(&mut fields, tag::FINISHED, &value);
            }
            Some(after) if after != before => {
                let (attempts, due, delay_reported) = (after.attempts, after.due, after.delay_reported);
                let event = Event::Deferred { attempts, due, delay_reported };
                put_events(&mut fields, &[RecipientEvent { recipient: after.recipient, event }]);
            }
            Some(_) => {}
        }
    }
    if !fields.is_empty() {
        let mut builder = Builder::new(out, EVENTS);
        builder.field(tag::ID, &id.0.to_le_bytes());
        builder.raw(&fields);
        builder.finish();
    }
    for after in now.iter().filter(|after| !then.contains(after)) {
        if let Some(mx) = after.in_doubt {
            write_attempt(out, id, &[after.recipient], mx);
        }
    }
}

/// Lays out a copy of a message with what is left to do for it; its other fields stay, known or not.
pub fn copy(frame: &Frame<'_>, from: u32, pending: &[Pending], content: u32, checksum: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame.bytes().len() + 16 * pending.len() + 8);
    let mut builder = Builder::new(&mut out, MESSAGE);
    for (tag, value) in frame.fields() {
        if !matches!(tag, tag::PENDING | tag::COPIED | tag::CONCLUDES) {
            builder.field(tag, value);
        }
    }
    builder.field(tag::COPIED, &from.to_le_bytes());
    let mut fields = Vec::new();
    pending.iter().for_each(|pending| put_pending(&mut fields, pending));
    builder.raw(&fields);
    builder.finish_with(content, checksum);
    out
}

/// Appends an unfinished recipient of a copied message.
pub fn put_pending(out: &mut Vec<u8>, pending: &Pending) {
    let mut value = Vec::with_capacity(32);
    put_varint(&mut value, u64::from(pending.recipient));
    put_varint(&mut value, u64::from(pending.attempts));
    put_varint(&mut value, u64::from(pending.due.0));
    value.push(u8::from(pending.delay_reported));
    if let Some(mx) = pending.in_doubt {
        put_socket_address(&mut value, mx);
    }
    put_field(out, tag::PENDING, &value);
}

fn pending(mut value: &[u8]) -> Option<Pending> {
    let recipient = take_varint_u32(&mut value)?;
    let attempts = u16::try_from(take_varint(&mut value)?).unwrap_or(u16::MAX);
    let due = UnixTime(take_varint_u32(&mut value)?);
    let (reported, mx) = value.split_first()?;
    Some(Pending { recipient, attempts, due, delay_reported: *reported == 1, in_doubt: socket_address(mx) })
}

/// All unfinished recipients among these fields.
pub fn pendings(fields: Fields<'_>) -> Vec<Pending> {
    fields.filter_map(|(tag, value)| (tag == tag::PENDING).then(|| pending(value)).flatten()).collect()
}

/// The unfinished recipients that a message record names: all of them unless it is a copy.
pub fn unfinished(frame: &Frame<'_>) -> Vec<Pending> {
    let (mut named, mut count, mut is_copy) = (Vec::new(), 0, false);
    for (tag, value) in frame.fields() {
        match tag {
            tag::RECIPIENT => count += 1,
            tag::COPIED => is_copy = true,
            tag::PENDING => named.extend(pending(value)),
            _ => {}
        }
    }
    if is_copy { named } else { fresh(count) }
}

/// The segment that this message was copied from, if it is a copy.
pub fn copied_from(frame: &Frame<'_>) -> Option<u32> {
    frame.fields().find(tag::COPIED)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The recipients of a message that was just accepted.
pub fn fresh(count: u32) -> Vec<Pending> {
    let pending =
        |recipient| Pending { recipient, attempts: 0, due: UnixTime(0), delay_reported: false, in_doubt: None };
    (0..count).map(pending).collect()
}

/// The envelope of a message record; `None` if a field does not make sense.
pub fn envelope(frame: &Frame<'_>) -> Option<Arc<Envelope>> {
    let mut envelope = Envelope { tenant: Box::default(), ..Envelope::new(ReversePath::Null, Vec::new(), UnixTime(0)) };
    for (tag, value) in frame.fields() {
        match tag {
            tag::REVERSE_PATH if value.is_empty() => envelope.reverse_path = ReversePath::Null,
            tag::REVERSE_PATH => envelope.reverse_path = ReversePath::Mailbox(address(value)?),
            tag::ACCEPTED_AT => envelope.accepted_at = UnixTime(u32::from_le_bytes(value.try_into().ok()?)),
            tag::TENANT => envelope.tenant = text(value)?,
            tag::CAMPAIGN => envelope.campaign = text(value)?,
            tag::CLASS => envelope.class = text(value)?,
            tag::ENVID => envelope.envid = Some(text(value)?),
            tag::FLAGS => read_flags(value, &mut envelope),
            tag::RECIPIENT => envelope.recipients.push(recipient(value)?),
            _ => {}
        }
    }
    Some(Arc::new(envelope))
}

fn read_flags(value: &[u8], envelope: &mut Envelope) {
    let flag = |at: usize| value.get(at).copied().unwrap_or_default();
    envelope.lane = match flag(0) {
        0 => Lane::Urgent,
        2 => Lane::Bulk,
        _ => Lane::Normal,
    };
    envelope.body = if flag(1) == 1 { BodyType::EightBitMime } else { BodyType::SevenBit };
    envelope.smtputf8 = flag(2) == 1;
    envelope.traits = ContentTraits { has_eight_bit: flag(3) & 1 != 0, has_eight_bit_header: flag(3) & 2 != 0 };
    envelope.ret = match flag(4) {
        1 => Some(Ret::Full),
        2 => Some(Ret::Headers),
        _ => None,
    };
    envelope.kind = match flag(5) {
        1 => Kind::Dsn,
        2 => Kind::TlsReport,
        3 => Kind::Returned,
        _ => Kind::Submitted,
    };
    envelope.tls = match flag(6) {
        1 => TlsWish::Required,
        2 => TlsWish::Waived,
        _ => TlsWish::Unsaid,
    };
}

fn text(value: &[u8]) -> Option<Box<str>> {
    std::str::from_utf8(value).ok().map(Into::into)
}

fn address(value: &[u8]) -> Option<Address> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn recipient(mut value: &[u8]) -> Option<Recipient> {
    let (&notify, rest) = value.split_first()?;
    value = rest;
    let length = usize::try_from(take_varint(&mut value)?).ok()?;
    let (path, rest) = value.split_at_checked(length)?;
    let orcpt = match rest.split_first() {
        Some((b'=', orcpt)) => Some(text(orcpt)?),
        _ => None,
    };
    Some(Recipient { forward_path: address(path)?, notify: Notify(notify), orcpt })
}

#[cfg(test)]
mod tests;
