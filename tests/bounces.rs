//! `bounce::parse` on messages of others, on what has been done to them, and as a command.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "bounces/command.rs"]
mod command;
#[path = "bounces/corpus.rs"]
mod corpus;
#[path = "bounces/hostile.rs"]
mod hostile;
#[path = "bounces/score.rs"]
mod score;
#[path = "bounces/signals.rs"]
mod signals;
