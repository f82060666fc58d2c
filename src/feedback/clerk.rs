//! The thread that writes entries which follow from refusals, and on which days mailboxes were full.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::state::Note;
use crate::state::suppression::{Change, Entry, MailboxHash, Outcome, Reason, Target};

use super::Feedback;

/// Entries that one write takes.
const AT_ONCE: usize = 4_096;
/// How long the disk rests after an error.
const REST: Duration = Duration::from_secs(1);
/// How often it is written down on which days mailboxes were full.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// What the thread is told.
#[derive(Debug)]
pub enum Order {
    /// Somebody is to get no mail.
    Add(Entry),
    /// That was all.
    Stop,
}

/// The thread.
#[derive(Debug)]
pub struct Clerk {
    feedback: Feedback,
    thread: JoinHandle<()>,
}

impl Clerk {
    pub(super) fn start(
        feedback: Feedback,
        orders: Receiver<Order>,
        note: Note,
        registry: &Registry,
    ) -> io::Result<Self> {
        let wall = Bulkhead::new(registry, "suppression-clerk");
        let mut desk = Desk { feedback: feedback.clone(), note, noted: Instant::now(), entries: Vec::new() };
        let run = move || while wall.call(|| desk.serve(&orders)).unwrap_or(true) {};
        let thread = thread::Builder::new().name("clerk".to_owned()).spawn(run)?;
        Ok(Self { feedback, thread })
    }

    /// Writes what still waits, and ends. Blocks on the disk.
    pub fn stop(self) {
        // Only a thread that has ended takes no more.
        if self.feedback.shared.clerk.send(Order::Stop).is_ok() && self.thread.join().is_err() {
            tracing::error!("the thread that writes the suppression list panicked");
        }
    }
}

struct Desk {
    feedback: Feedback,
    note: Note,
    noted: Instant,
    /// To be written.
    entries: Vec<Entry>,
}

impl Desk {
    /// One round; false: it was the last.
    fn serve(&mut self, orders: &Receiver<Order>) -> bool {
        let wait = if self.entries.is_empty() { NOTE_EVERY.saturating_sub(self.noted.elapsed()) } else { REST };
        let mut goes_on = self.entries.len() >= AT_ONCE;
        if goes_on {
            // Of a disk that takes nothing: those that follow wait in the channel.
            thread::sleep(REST);
        } else {
            goes_on = match orders.recv_timeout(wait) {
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            while goes_on && self.entries.len() < AT_ONCE {
                let Ok(order) = orders.try_recv() else { break };
                goes_on = self.take(order);
            }
        }
        self.write();
        if !goes_on || self.noted.elapsed() >= NOTE_EVERY {
            self.write_down();
        }
        goes_on
    }

    fn take(&mut self, order: Order) -> bool {
        match order {
            Order::Add(entry) => {
                self.feedback.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                self.entries.push(entry);
            }
            Order::Stop => return false,
        }
        true
    }

    /// Writes what is there; after an error it stays there.
    fn write(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        let written = self.feedback.add(self.entries.clone());
        if written.is_ok() {
            self.entries.clear();
        }
    }

    fn write_down(&mut self) {
        self.noted = Instant::now();
        let Some(content) = self.feedback.shared.full.lock().take_note() else { return };
        if let Err(error) = self.note.replace(&content) {
            tracing::warn!(%error, "it cannot be written down on which days mailboxes were full");
            self.feedback.shared.full.lock().mark();
        }
    }
}

impl Feedback {
    /// Puts entries on the list: they are on stable storage when it returns, and told to the journal if they are new. Blocks on the
    /// disk.
    pub fn add(&self, entries: Vec<Entry>) -> io::Result<Vec<Outcome>> {
        let changes: Vec<Change> = entries.into_iter().map(Change::Add).collect();
        let applied = self.list().apply(&changes, self.shared.clock.wall());
        let outcomes =
            applied.inspect_err(|error| tracing::error!(%error, "the suppression list cannot be written"))?;
        for (change, outcome) in changes.iter().zip(&outcomes) {
            let Change::Add(entry) = change else { continue };
            if entry.reason == Reason::MailboxFull
                && let Some(mailbox) = self.mailbox(&entry.target)
            {
                self.shared.full.lock().forget(mailbox.0);
            }
            if matches!(outcome, Outcome::Added | Outcome::Replaced) {
                entry.tell(&self.shared.journal, "add", "");
            }
        }
        Ok(outcomes)
    }

    fn mailbox(&self, target: &Target) -> Option<MailboxHash> {
        match target {
            Target::Address(address) => Some(self.list().hash(address)),
            Target::Hash(_) | Target::Domain(_) => target.mailbox(),
        }
    }
}
