//! The limits' controller against simulated receivers: the acceptance criteria of docs/limits.md, on a virtual clock.
//!
//! Every case runs three seeds of four hours. What is measured stands in docs/limits.md; a case fails at its target.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod calibration;
mod command;
mod limits;
mod profiles;
mod random;
mod receiver;
mod restart;
#[path = "../common/skip.rs"]
mod skip;
mod stage;
mod tenants;
mod wire;
