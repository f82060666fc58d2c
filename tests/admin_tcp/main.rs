//! The admin interface over TCP: who may do what, what broken and hostile clients do to it, and what goes on record.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod audit;
mod bounds;
#[path = "../common/daemon.rs"]
mod daemon;
mod process;
mod reveal;
mod roles;
mod stage;
