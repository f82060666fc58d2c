//! Entries of links get the addresses that the journal has of their messages, a little later: whoever has clicked does not wait for it.
//!
//! What waits at a stop, or is more than can wait, stays by hash, and suppresses as well.

use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::message::MessageId;
use crate::state::suppression::Entry;

/// Entries that wait at most, for each listener.
pub(super) const WAITING: usize = 1 << 16;
/// Entries that share a look into the journal.
const AT_ONCE: usize = 8_192;
/// How long a first one waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// After a look nothing is looked up for so many times as long as it took: a long journal takes minutes, and nobody waits.
const REST: u32 = 10;

/// An entry that was just made.
#[derive(Debug)]
pub(super) struct Fresh {
    /// The message that the link was in.
    pub message: MessageId,
    /// The day of its acceptance, since 1970.
    pub day: u16,
    /// By hash.
    pub entry: Entry,
}

impl super::Unsubscribe {
    /// Names what comes until `stop`, or until nothing comes any more.
    pub(super) async fn name(self, mut fresh: Receiver<Fresh>, stop: CancellationToken) {
        let mut rest = GATHER;
        loop {
            let Some(Some(first)) = stop.run_until_cancelled(fresh.recv()).await else { return };
            if stop.run_until_cancelled(tokio::time::sleep(rest)).await.is_none() {
                return;
            }
            let mut batch = vec![first];
            while batch.len() < AT_ONCE {
                let Ok(next) = fresh.try_recv() else { break };
                batch.push(next);
            }
            let (inner, begun) = (self.clone(), self.0.clock.now());
            // To its end: the disk must be left alone after a stop.
            let work = move || inner.0.wall.clone().call(|| inner.0.name_all(&batch));
            if !matches!(tokio::task::spawn_blocking(work).await, Ok(Ok(()))) {
                tracing::error!("the addresses of recipients who unsubscribe cannot be looked up");
            }
            rest = GATHER.max((self.0.clock.now() - begun) * REST);
        }
    }
}

impl Inner {
    /// Blocks on the disk.
    fn name_all(&self, fresh: &[Fresh]) {
        let messages = fresh.iter().map(|fresh| fresh.message).collect();
        let origins = self.naming.origins(&messages, fresh.iter().map(|fresh| fresh.day).min().unwrap_or_default());
        let made: Vec<_> = fresh
            .iter()
            .map(|Fresh { message, entry, .. }| {
                let mailbox = entry.target.mailbox();
                let origin = mailbox.and_then(|mailbox| self.naming.of_mailbox(origins.get(message)?, mailbox));
                (entry, origin)
            })
            .collect();
        self.naming.name(&made, self.clock.wall());
    }
}
