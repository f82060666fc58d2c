//! Limits: rates, windows, permits taken from several of them at once, and fair order among those that compete.
//!
//! Everything here is pure: time comes in as an `Instant`, nothing sleeps and nothing is spawned.

pub mod budget;
pub mod controller;
pub mod fair;
pub mod permit;
pub mod rate;
pub mod turns;
pub mod warmup;
pub mod window;
