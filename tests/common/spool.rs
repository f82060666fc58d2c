//! Messages and spools for the spool's tests.

#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hikyaku::clock::{Clock, UnixTime};
use hikyaku::log::storage::Storage;
use hikyaku::message::{Content, Envelope, MessageId, Recipient};
use hikyaku::metrics::Registry;
use hikyaku::smtp::address::ReversePath;
use hikyaku::spool::{
    Attempts, Event, Keys, NewMessage, OpenError, RecipientEvent, Recovered, Recovery, RecoveryReport, Settings, Spool,
};
use hikyaku::trusted::key::Secret;

pub fn settings() -> Settings {
    Settings {
        path: "unused".into(),
        segment_size: 1 << 20,
        reserve: 0,
        sync: true,
        attempts: Attempts::Write,
        deadline: Duration::from_secs(60),
        cache: 0,
        keys: Keys::default(),
    }
}

/// Keys by their numbers, the first of which writes if `writes`.
pub fn keys(numbers: &[u8], writes: bool) -> Keys {
    Keys::new(numbers.iter().map(|number| Secret::new([*number; 32])), writes)
}

pub fn try_open(storage: Arc<dyn Storage>, settings: Settings) -> Result<(Spool, Recovery), OpenError> {
    Spool::open(settings, storage, Clock::system(), &Registry::new().unwrap())
}

pub fn open(storage: Arc<dyn Storage>) -> (Spool, Recovery) {
    try_open(storage, settings()).unwrap()
}

pub fn recover(recovery: Recovery) -> (Vec<Recovered>, RecoveryReport) {
    let mut found = Vec::new();
    let report = recovery.run(&mut |recovered| found.push(recovered));
    (found, report)
}

pub fn envelope(recipients: usize) -> Arc<Envelope> {
    let recipient = |index: usize| Recipient::new(format!("user{index}@example.com").parse().unwrap());
    Arc::new(Envelope::new(
        ReversePath::Mailbox("bounce@example.org".parse().unwrap()),
        (0..recipients).map(recipient).collect(),
        UnixTime(1_800_000_000),
    ))
}

/// Octets that depend on the id, so that a content under a wrong id is seen.
pub fn content(id: MessageId, length: usize) -> Bytes {
    let mut state = id.0 | 1 << 63;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out.into()
}

pub fn message(id: MessageId, recipients: usize, length: usize) -> NewMessage {
    let content = Content::Memory(content(id, length));
    NewMessage { id, envelope: envelope(recipients), content, ended_at: Instant::now() }
}

pub fn octets(content: &Content) -> Bytes {
    let mut whole = Vec::new();
    while (whole.len() as u64) < content.len() {
        whole.extend_from_slice(&content.chunk(whole.len() as u64, 1 << 20).unwrap());
    }
    whole.into()
}

pub fn delivered(recipient: u32) -> RecipientEvent {
    RecipientEvent { recipient, event: Event::Delivered }
}

pub fn deferred(recipient: u32, attempts: u16) -> RecipientEvent {
    let due = UnixTime(1_800_000_000 + u32::from(attempts) * 300);
    RecipientEvent { recipient, event: Event::Deferred { attempts, due, delay_reported: false } }
}
