//! Room in the queue for a message that is about to be stored.
//!
//! Between the check and the put lies a sync, during which any number of sessions would find the same room: it is taken
//! before, under the caps of the tenant and of the whole, and given back when the message is not stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::message::{Envelope, MessageId};

use super::QueueFull;
use super::engine::Engine;
use super::flow::Tenant;

/// Room for so many recipients of one tenant; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    engine: Arc<Engine>,
    tenant: Arc<Tenant>,
    recipients: usize,
}

impl Reservation {
    /// Counts `recipients` in, unless that would be more than a cap allows.
    pub(super) fn take(engine: &Arc<Engine>, tenant: &str, recipients: usize) -> Result<Self, QueueFull> {
        let tenant = engine.tenant(tenant);
        if !add_up_to(&engine.queued, recipients, engine.settings().capacity) {
            return Err(QueueFull::Queue);
        }
        if !add_up_to(&tenant.queued, recipients, tenant.capacity()) {
            engine.queued.fetch_sub(recipients, Ordering::Relaxed);
            return Err(QueueFull::Tenant);
        }
        Ok(Self { engine: engine.clone(), tenant, recipients })
    }

    /// Hands over a message that the spool has accepted. It is the one that the room was taken for: of this tenant and
    /// with so many recipients.
    pub fn put(mut self, id: MessageId, envelope: &Envelope) {
        debug_assert_eq!(envelope.recipients.len(), self.recipients);
        self.engine.flowing.submit(self.recipients);
        // From here on each recipient is counted out when it is finished.
        self.recipients = 0;
        self.engine.put_counted(id, envelope, &self.tenant);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.tenant.queued.fetch_sub(self.recipients, Ordering::Relaxed);
        self.engine.queued.fetch_sub(self.recipients, Ordering::Relaxed);
    }
}

/// Adds to a count unless it would pass `most`.
fn add_up_to(count: &AtomicUsize, more: usize, most: usize) -> bool {
    let fits = |now: usize| now.checked_add(more).filter(|sum| *sum <= most);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
}
