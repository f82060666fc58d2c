//! An assignment in the hands of a connection's task, and what is left of them when the task panics.
//!
//! While the task unwinds, what it held is dropped; a [`Carried`] then leaves its assignment in the [`Wreck`] instead of
//! giving it back, and [`Wreck::salvage`] has the queue decide which one is held and which ones are tried again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use super::work::Ticket;
use crate::message::{Message, MessageId};
use crate::panics::Panic;
use crate::queue::Assignment;

/// Assignments that a task held when it panicked, with their numbers.
#[derive(Debug, Default)]
pub(super) struct Wreck {
    /// Written while the task unwinds, read afterwards.
    lost: Mutex<Vec<(u32, Assignment)>>,
}

impl Wreck {
    /// Takes care of what is there.
    pub(super) fn salvage(&self, panic: &Panic) {
        let mut lost = std::mem::take(&mut *self.lost.lock());
        lost.sort_by_key(|(number, _)| *number);
        Assignment::salvage(lost.into_iter().map(|(_, assignment)| assignment).collect(), panic);
    }
}

/// An assignment, and where it goes in a panic.
#[derive(Debug)]
pub(super) struct Carried {
    /// None only when it has been handed on.
    assignment: Option<Assignment>,
    /// In which order the connection drew it.
    number: u32,
    wreck: Arc<Wreck>,
}

impl Carried {
    pub(super) fn new(assignment: Assignment, number: u32, wreck: &Arc<Wreck>) -> Self {
        Self { assignment: Some(assignment), number, wreck: wreck.clone() }
    }

    /// Hands it on.
    pub(super) fn into_assignment(mut self) -> Option<Assignment> {
        self.assignment.take()
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if thread::panicking() {
            self.wreck.lost.lock().extend(self.assignment.take().map(|assignment| (self.number, assignment)));
        }
    }
}

impl Ticket for Carried {
    fn id(&self) -> MessageId {
        self.assignment.as_ref().map_or(MessageId(0), Assignment::id)
    }

    fn recipients(&self) -> &[u32] {
        self.assignment.as_ref().map_or(&[], Assignment::recipients)
    }

    fn in_doubt(&self) -> Option<SocketAddr> {
        self.assignment.as_ref().and_then(Assignment::in_doubt)
    }

    fn carry(&mut self, message: &Message) {
        if let Some(assignment) = &mut self.assignment {
            assignment.carry(message);
        }
    }
}
