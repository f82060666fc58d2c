//! The stop: accepting ends first, then transactions finish within a grace, then the spool is closed.
//!
//! What is still open at the end of the grace is in doubt: its receiver may have the message. It is named in the log here,
//! and again by the next start, which tries it once more.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::admin;
use crate::delivery::Deliverer;
use crate::queue::Queue;
use crate::spool::Spool;
use crate::submission::Door;

use super::{Daemon, MAX_NAMED_DOUBTS, accounts};

/// How long a stop waits for the journal's disk, which may hang.
const JOURNAL_GRACE: Duration = Duration::from_secs(5);

/// What a stop waits for; still there when the daemon itself is being stopped.
#[derive(Clone)]
pub struct Remains {
    queue: Queue,
    deliverer: Arc<Deliverer>,
    doors: Vec<Arc<Door>>,
}

impl std::fmt::Debug for Remains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use admin::Left;
        f.debug_struct("Remains").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl admin::Left for Remains {
    fn sessions(&self) -> usize {
        self.doors.iter().map(|door| door.open()).sum()
    }

    fn connections(&self) -> usize {
        self.deliverer.connections()
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }
}

impl Daemon {
    /// What a stop would wait for.
    pub fn remains(&self) -> Remains {
        Remains { queue: self.queue.clone(), deliverer: self.deliverer.clone(), doors: self.doors.all() }
    }

    /// Ends accepting, lets what is under way finish within `grace`, and closes the spool.
    pub async fn stop(mut self, grace: Duration) {
        let end = Instant::now() + grace;
        let left = || end.saturating_duration_since(Instant::now());
        let _ = self.control.drain.set(admin::Drain { until: end, left: Box::new(self.remains()) });
        self.doors.stop.cancel();
        self.queue.stop_dispatch();
        let sessions = &mut self.doors.tasks;
        if tokio::time::timeout(left(), async { while sessions.join_next().await.is_some() {} }).await.is_err() {
            warn!("submission sessions did not end in time");
        }
        sessions.shutdown().await;
        if !self.deliverer.drain(left()).await {
            self.name_open().await;
        }
        // Until its DSN is stored a delivered recipient counts as unfinished, and would be sent to again.
        if tokio::time::timeout(left(), self.queue.settled()).await.is_err() {
            warn!(
                in_flight = self.queue.in_flight(),
                "DSNs were not stored in time; what they report will be tried again"
            );
        }
        if !self.returns.settled(left()).await {
            warn!("what came back was not read in time; the next start reads it");
        }
        // Who has pressed a button is told whether it is done.
        if tokio::time::timeout(left(), async { while self.clicking.join_next().await.is_some() {} }).await.is_err() {
            warn!("requests to unsubscribe were not answered in time");
        }
        self.clicking.shutdown().await;
        let queue = self.queue.clone();
        let (users, sent) = (self.users.clone(), self.sent.clone());
        let (reports, sessions) = (self.tls_reports.clone(), self.tls_note.clone());
        let clerk = self.returns.clerk.take();
        let last = move || {
            // What was refused until now.
            if let Some(clerk) = clerk {
                clerk.stop();
            }
            accounts::write_down(&users, &sent);
            reports.write_down(&sessions);
            queue.finish_orders();
            queue.save_all();
        };
        let _ = tokio::task::spawn_blocking(last).await;
        self.spool.close().await;
        let journal = self.journal.clone();
        let closed = tokio::task::spawn_blocking(move || journal.close());
        if !matches!(tokio::time::timeout(JOURNAL_GRACE, closed).await, Ok(Ok(()))) {
            warn!("the journal's disk did not take the last events in time");
        }
        self.stop_watching.cancel();
        self.watchers.shutdown().await;
        if let Some(recovery) = self.recovery.take().filter(thread::JoinHandle::is_finished)
            && recovery.join().is_err()
        {
            error!("the recovery thread panicked");
        }
        info!(in_flight = self.queue.in_flight(), "stopped");
    }

    /// Logs recipients whose content has begun to leave and whose outcome is not known.
    async fn name_open(&self) {
        let (queue, spool) = (self.queue.clone(), self.spool.clone());
        // Envelopes may have to be read from the disk.
        let _ = tokio::task::spawn_blocking(move || name_open(&queue, &spool)).await;
    }
}

fn name_open(queue: &Queue, spool: &Spool) {
    let mut named = 0_usize;
    for id in queue.in_hand() {
        let pending = spool.pending(id);
        let open = pending.iter().filter_map(|pending| Some((pending.recipient, pending.in_doubt?)));
        let envelope = spool.envelope(id).ok();
        for (recipient, mx_address) in open {
            named += 1;
            if named > MAX_NAMED_DOUBTS {
                continue;
            }
            let index = usize::try_from(recipient).unwrap_or(usize::MAX);
            let known = envelope.as_ref().and_then(|envelope| envelope.recipients.get(index));
            let recipient = known.map_or("?", |recipient| recipient.forward_path.as_str());
            warn!(message_id = %id, recipient, %mx_address, "in doubt: it was under way when the drain ended");
        }
    }
    warn!(recipients = named, "in doubt at the end of the drain; the next start tries them again");
}
