//! What a connection is doing, for people: written by its task, read by whoever looks at its site.
//!
//! The task stores one word when it goes on to another step, and two when a message is done; nobody waits for anybody.
//! Nothing is decided by what stands here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::message::{Encryption, Phase};

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// On the way to EHLO: in this step.
    Opening(Phase),
    /// In a mail transaction: waits for this step, or sends content.
    Transaction(Phase),
    /// Waits for work.
    Idle,
    /// Says goodbye.
    Closing,
}

/// Every state that can be stored; its place is how it is stored.
const STATES: [Doing; 11] = [
    Doing::Opening(Phase::Connect),
    Doing::Opening(Phase::Greeting),
    Doing::Opening(Phase::Ehlo),
    Doing::Opening(Phase::StartTls),
    Doing::Transaction(Phase::Mail),
    Doing::Transaction(Phase::Rcpt),
    Doing::Transaction(Phase::Data),
    Doing::Transaction(Phase::Content),
    Doing::Transaction(Phase::EndOfData),
    Doing::Idle,
    Doing::Closing,
];

impl Doing {
    /// As tables show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening(_) => "opening",
            Self::Transaction(_) => "transaction",
            Self::Idle => "idle",
            Self::Closing => "closing",
        }
    }

    /// The step, where there is one.
    pub const fn step(self) -> Option<Phase> {
        match self {
            Self::Opening(phase) | Self::Transaction(phase) => Some(phase),
            Self::Idle | Self::Closing => None,
        }
    }

    const fn place(self) -> u8 {
        match self {
            Self::Opening(Phase::Greeting) => 1,
            Self::Opening(Phase::Ehlo) => 2,
            Self::Opening(Phase::StartTls) => 3,
            Self::Opening(_) => 0,
            Self::Transaction(Phase::Rcpt) => 5,
            Self::Transaction(Phase::Data) => 6,
            Self::Transaction(Phase::Content) => 7,
            Self::Transaction(Phase::EndOfData) => 8,
            Self::Transaction(_) => 4,
            Self::Idle => 9,
            Self::Closing => 10,
        }
    }
}

/// The peer of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub host: Arc<str>,
    pub address: SocketAddr,
    /// How it is encrypted, once transactions may begin.
    pub tls: Option<Encryption>,
    /// Name of the TLS policy, from then on.
    pub tls_policy: Option<&'static str>,
}

/// One connection's register.
#[derive(Debug)]
pub struct Watch {
    /// When its slot was given out; times are counted from here.
    since: Instant,
    /// What it does (the lowest octet) and since when (milliseconds after `since`). Written by its task alone.
    state: AtomicU64,
    /// Messages with an outcome. Written by its task alone.
    messages: AtomicU32,
    /// Written once for each address that is tried, and once when transactions may begin.
    peer: Mutex<Option<Peer>>,
}

impl Watch {
    /// Of a connection that is about to be opened.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            state: AtomicU64::new(u64::from(Doing::Opening(Phase::Connect).place())),
            messages: AtomicU32::new(0),
            peer: Mutex::new(None),
        }
    }

    /// It does something else from `now` on.
    pub fn note(&self, doing: Doing, now: Instant) {
        let millis = u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX >> 8);
        self.state.store((millis << 8) | u64::from(doing.place()), Ordering::Relaxed);
    }

    /// It turns to this address of a host.
    pub fn note_peer(&self, host: &Arc<str>, address: SocketAddr, now: Instant) {
        *self.peer.lock() = Some(Peer { host: host.clone(), address, tls: None, tls_policy: None });
        self.note(Doing::Opening(Phase::Connect), now);
    }

    /// Transactions may begin.
    pub fn note_open(&self, tls: Option<Encryption>, tls_policy: &'static str, now: Instant) {
        if let Some(peer) = &mut *self.peer.lock() {
            (peer.tls, peer.tls_policy) = (tls, Some(tls_policy));
        }
        self.note(Doing::Idle, now);
    }

    /// One message more has its outcomes.
    pub(super) fn note_message(&self) {
        // No other task writes it, so nothing is lost between the two.
        self.messages.store(self.messages.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
    }

    /// What it does, and for how long it has.
    pub(super) fn doing(&self, now: Instant) -> (Doing, Duration) {
        let word = self.state.load(Ordering::Relaxed);
        let doing = STATES.get(usize::try_from(word & 0xff).unwrap_or(0)).copied().unwrap_or(Doing::Idle);
        let began = self.since + Duration::from_millis(word >> 8);
        (doing, now.saturating_duration_since(began))
    }

    pub(super) fn messages(&self) -> u32 {
        self.messages.load(Ordering::Relaxed)
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    pub(super) fn peer(&self) -> Option<Peer> {
        self.peer.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_read_as_it_was_noted() {
        let began = Instant::now();
        let watch = Watch::new(began);
        assert_eq!(watch.doing(began).0, Doing::Opening(Phase::Connect));

        for (number, doing) in (1..).zip(STATES) {
            let at = began + Duration::from_secs(number);
            watch.note(doing, at);

            assert_eq!(watch.doing(at + Duration::from_secs(7)), (doing, Duration::from_secs(7)));
        }
    }

    #[test]
    fn a_connection_is_known_by_the_address_that_it_tried_last() {
        let now = Instant::now();
        let watch = Watch::new(now);
        let (first, second) = ("192.0.2.1:25".parse().unwrap(), "192.0.2.2:25".parse().unwrap());

        watch.note_peer(&Arc::from("mx1.test"), first, now);
        watch.note_peer(&Arc::from("mx2.test"), second, now);
        let tls = Some(Encryption { version: "TLSv1.3", cipher: "x", proof: crate::message::Proof::Pkix });
        watch.note_open(tls, "dane", now);
        watch.note_message();

        let peer = Peer { host: Arc::from("mx2.test"), address: second, tls, tls_policy: Some("dane") };
        assert_eq!(watch.peer(), Some(peer));
        assert_eq!((watch.messages(), watch.doing(now).0), (1, Doing::Idle));
    }
}
