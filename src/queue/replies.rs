//! What was last said about deferred recipients: for people, and for the DSN of one that expires.
//!
//! Bounded by memory: of many millions of deferred recipients some are forgotten. Nothing is done here for a recipient
//! that is delivered at its first attempt.

use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::message::{MessageId, Report};

use super::entry::Entry;

/// Memory for replies in octets: about 100,000 of them.
const ROOM: u64 = 24 << 20;
/// Of a reply beside its text, and of its place in the table.
const OVERHEAD: u64 = 160;

#[derive(Clone, Copy, Debug)]
struct Weigh;

impl quick_cache::Weighter<(MessageId, u32), Arc<Report>> for Weigh {
    fn weight(&self, _: &(MessageId, u32), report: &Arc<Report>) -> u64 {
        // Those of one transaction share it, which is not known here: then there are fewer than would fit.
        OVERHEAD + u64::try_from(report.reply.text.len()).unwrap_or(u64::MAX >> 1)
    }
}

/// Reports by message and recipient.
#[derive(Debug)]
pub(super) struct Replies {
    table: Cache<(MessageId, u32), Arc<Report>, Weigh>,
}

impl Default for Replies {
    fn default() -> Self {
        // The table grows as it fills; estimating few items keeps an idle daemon small.
        Self { table: Cache::with_weighter(1_024, ROOM, Weigh) }
    }
}

impl Replies {
    /// Remembers what a recipient was deferred for.
    pub fn note(&self, entry: &Entry, report: Arc<Report>) {
        self.table.insert((entry.id, entry.recipient), report);
    }

    /// What a recipient was deferred for the last time.
    pub fn of(&self, entry: &Entry) -> Option<Arc<Report>> {
        self.of_recipient(entry.id, entry.recipient)
    }

    /// The same of a recipient that is in no line of the queue.
    pub fn of_recipient(&self, id: MessageId, recipient: u32) -> Option<Arc<Report>> {
        self.table.get(&(id, recipient))
    }

    /// Forgets a recipient that is finished.
    pub fn forget(&self, entry: &Entry) {
        if entry.attempts > 0 {
            self.table.remove(&(entry.id, entry.recipient));
        }
    }
}
