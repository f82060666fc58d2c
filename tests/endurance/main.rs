//! Endurance of the running program: a wave of a queue that is due at once, domains that have gone quiet, many
//! connections at once. In quick sizes what is certain is asserted; HIKYAKU_FULL=1 runs the sizes of
//! `docs/endurance.md`, whose figures are what these print (HIKYAKU_BIN names another build of the program).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod connections;
#[allow(dead_code, reason = "shared with tests/limits")]
mod daemon;
mod idle;
#[path = "../common/port.rs"]
mod port;
mod probe;
mod sink;
mod wave;

/// Whether the sizes of the documents are run.
fn is_full() -> bool {
    std::env::var_os("HIKYAKU_FULL").is_some()
}
