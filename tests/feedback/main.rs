//! Refusals and reports, and whom they cost; against a running daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![allow(missing_docs)]

#[path = "../common/cases.rs"]
mod cases;
#[path = "../common/daemon.rs"]
mod daemon;
#[path = "../common/fake_mx.rs"]
mod fake_mx;
mod hostile;
mod reports;
#[path = "../common/spool.rs"]
mod spool;
mod stage;
mod suppressed;
#[path = "../common/tricks.rs"]
mod tricks;
