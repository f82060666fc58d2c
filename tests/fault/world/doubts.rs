//! Recipients that a running daemon tries again although the receiver may have the message: it said nothing after the end
//! of data. The queue names them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use super::daemon::Admin;
use crate::checker::Checker;

/// What the queue says of a recipient whose receiver did not say whether it took the message.
const UNANSWERED: &str = "end-of-data at ";
/// The entries of the queue: more than there ever are in these tests.
const ENTRIES: &str = "/v1/queue/entries?limit=5000";

/// Between two looks of a [`Watch`]: much shorter than the wait before somebody in doubt is tried again.
const EVERY: Duration = Duration::from_millis(150);

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Doubts {
    /// Message, recipient and number of the attempt.
    known: HashSet<(String, u64, u64)>,
}

impl Doubts {
    /// Looks into the queue and tells the checker who is newly in doubt. Gives the entries.
    pub fn look(&mut self, admin: &Admin, checker: &Checker) -> Option<Vec<Value>> {
        let Value::Array(entries) = admin.get(ENTRIES) else { return None };
        for entry in &entries {
            let is_unanswered = entry["last_reply"].as_str().is_some_and(|reply| reply.starts_with(UNANSWERED));
            let (Some(id), Some(index)) = (entry["message_id"].as_str(), entry["recipient"].as_u64()) else { continue };
            let key = (id.to_owned(), index, entry["attempts"].as_u64().unwrap_or_default());
            if !is_unanswered || self.known.contains(&key) {
                continue;
            }
            let message = admin.get(&format!("/v1/message/{id}"));
            let recipient = &message["recipients"][index as usize]["forward_path"];
            // A message that has left the queue meanwhile was not tried again before that.
            if let Some(recipient) = recipient.as_str() {
                checker.note_doubt(recipient);
                self.known.insert(key);
            }
        }
        Some(entries)
    }

    /// How many were named.
    pub fn count(&self) -> u64 {
        self.known.len() as u64
    }
}

/// Looks all the time, whatever daemon is there.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watch {
    pub fn start(admin: Admin, checker: Arc<Checker>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut doubts = Doubts::default();
            while !stopped.load(Ordering::Relaxed) {
                doubts.look(&admin, &checker);
                thread::sleep(EVERY);
            }
            doubts.count()
        });
        Self { stop, thread }
    }

    /// How many were named.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
