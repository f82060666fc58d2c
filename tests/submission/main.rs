//! Submission: the session as a pure state machine (dialogs, end of data, injection, limits, against a reference), and
//! the listener on a real socket with the real spool.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod admission;
#[path = "../common/cases.rs"]
mod cases;
#[path = "../common/daemon.rs"]
mod daemon;
mod dialogs;
mod driver;
mod end_of_data;
mod front;
#[path = "../common/hostile.rs"]
mod hostile;
mod injection;
mod limits;
mod panics;
mod reference;
mod server;
mod socket;
mod stopping;
