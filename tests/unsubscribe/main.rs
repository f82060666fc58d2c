//! Links by which recipients take themselves off: in which messages they are and under which signature, what those who click get,
//! what hostile clients get, and what a person sees in a browser.
//!
//! The cases of verifiers and of the browser print SKIPPED where those cannot be had.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod bounds;
mod browser;
mod clicks;
#[path = "../common/daemon.rs"]
mod daemon;
#[path = "../common/fake_mx.rs"]
mod fake_mx;
mod fields;
#[path = "../interop/packages.rs"]
#[allow(dead_code)]
mod packages;
mod reload;
#[path = "../common/skip.rs"]
mod skip;
mod stage;
#[path = "../dkim/verifiers.rs"]
mod verifiers;
