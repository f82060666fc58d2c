//! The journal of the running daemon: each kind of line with its fields, reading on through whatever happens to the
//! files, and disks that are full or slow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod disk;
mod follow;
mod kinds;
mod loss;
mod masked;
mod receiver;
#[path = "../common/skip.rs"]
mod skip;
mod stage;
