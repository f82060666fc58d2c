//! The operator's commands against the running daemon: what they say, what they end with, and that they say it again
//! as JSON.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "../common/daemon.rs"]
mod daemon;
#[path = "../common/fake_mx.rs"]
mod fake_mx;
#[path = "../common/skip.rs"]
mod skip;

mod bench;
mod check;
mod limits;
mod output;
mod running;
mod top;
mod views;
mod warmup;
