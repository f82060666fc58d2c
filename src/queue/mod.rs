//! The queue: what is to be tried, when, and by which connection.
//!
//! Recipients enter by [`Queue::put`] (after the spool has synced them) and are taken by delivery connections through a
//! [`Slot`]. What became of them comes back through [`Slot::report`].

use std::net::SocketAddr;
use std::sync::Arc;

use crate::message::{MessageId, Report};

/// What `delivery` implements and the daemon hands to the queue.
pub trait Courier: Send + Sync + 'static {
    /// Starts a connection task that delivers `first` and whatever the slot then gives. Must not block.
    fn dispatch(&self, slot: Slot, first: Assignment);
}

/// One transaction's work: recipients of one message in one domain. Given back uncharged when dropped.
#[derive(Debug)]
pub struct Assignment {}

/// Permission to have one connection to a pool; returned when dropped.
#[derive(Debug)]
pub struct Slot {}
