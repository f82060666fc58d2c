//! The real daemon under the faults of an operator's life, and one checker over all of them.
//!
//! Each file holds a fault (`F1` and so on; docs/reliability.md has the list): it makes a [`world`] of a daemon in a process of
//! its own, a sink and clients, does harm to it, and ends with a daemon that nothing disturbs and with the same check over
//! three logs ([`checker`]): what clients were told, what arrived (DSNs too), and which recipients the daemon named as in
//! doubt. Quick sizes run with the other tests; `tests/faults` runs single faults, the full sizes (HIKYAKU_FULL=1) and the
//! soak, and prints the table ([`row`]). What cannot run where it is prints SKIPPED and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![allow(missing_docs)]

mod checker;
mod letter;
mod row;
#[path = "../common/skip.rs"]
mod skip;
mod world;

mod clock;
mod descriptors;
mod half_open;
mod kill;
mod loris;
mod power_cut;
mod resolver;
mod signals;
mod slow_disk;
mod soak;
mod start;
mod storm;
