//! The queue with a scripted courier: what is tried, when, in which order, and that nothing is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "../common/queue.rs"]
mod common;

mod assurance;
mod budgets;
mod fairness;
mod gates;
mod learning;
mod limits;
mod notices;
mod once;
mod orders;
mod panics;
mod permits;
mod restarts;
mod safety;
mod shares;
mod timing;
mod view;
mod warmup;
mod warmup_chain;
mod warmup_turns;
mod week;
mod whereabouts;
