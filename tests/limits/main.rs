//! Limits and fairness of the running program at receivers on loopback. In quick sizes; HIKYAKU_FULL=1 runs those of
//! `docs/limits.md` (HIKYAKU_BIN names another build of the program).
//!
//! What is promised in seconds at a path that is at its limit is asserted in messages: how many others went before. A
//! slow machine changes the seconds, not the order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod closings;
#[path = "../endurance/daemon.rs"]
#[allow(dead_code, reason = "shared with tests/endurance")]
mod daemon;
mod letter;
mod lines;
#[path = "../common/port.rs"]
mod port;
mod resets;
mod sink;
mod stage;
mod stock;

/// Whether the sizes of the documents are run.
fn is_full() -> bool {
    std::env::var_os("HIKYAKU_FULL").is_some()
}
