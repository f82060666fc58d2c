//! Addresses at which an attempt before the last start has no outcome.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::message::MessageId;

/// Addresses by message and recipient. Filled by recovery, emptied by outcomes.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    table: Mutex<HashMap<(MessageId, u32), SocketAddr>>,
    len: AtomicUsize,
}

impl Doubts {
    /// Remembers an address.
    pub fn insert(&self, id: MessageId, recipient: u32, address: SocketAddr) {
        let mut table = self.table.lock();
        table.insert((id, recipient), address);
        self.len.store(table.len(), Ordering::Relaxed);
    }

    /// The address of a recipient.
    pub fn find(&self, id: MessageId, recipient: u32) -> Option<SocketAddr> {
        self.table.lock().get(&(id, recipient)).copied()
    }

    /// The outcome is known.
    pub fn remove(&self, id: MessageId, recipient: u32) {
        let mut table = self.table.lock();
        table.remove(&(id, recipient));
        self.len.store(table.len(), Ordering::Relaxed);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }
}
