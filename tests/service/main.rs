//! The daemon as a service manager sees it: sockets that are handed over, the watchdog, root given up, and whether what it
//! does is what its unit files allow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod daemon;
mod privileges;
#[path = "../common/skip.rs"]
mod skip;
mod sockets;
mod units;
mod watchdog;
