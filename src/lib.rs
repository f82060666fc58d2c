//! hikyaku: a mail delivery daemon.
//!
//! The life of a message:
//!
//! 1. a [`submission`] session takes the envelope and the content of a mail transaction;
//! 2. admission checks it, adds the trace fields and reads the `X-Hikyaku-*` fields;
//! 3. the [`spool`] appends it to the [`log`] and syncs; only then comes the 250;
//! 4. the [`queue`] makes an entry of each recipient: by domain until it is due, by site when ready;
//! 5. [`delivery`] connections take entries within their permits and run mail transactions;
//! 6. each recipient's outcome goes back through the queue into the spool, the metrics, the [`journal`] and, when due, a DSN;
//! 7. a message without unfinished recipients is dead, and its segment is deleted or compacted.
//!
//! Arrows between modules point only downward in this list (`tests/layering.rs` holds them):
//! main, [`cli`] → [`daemon`] → [`config`] → [`submission`], [`inbound`], [`delivery`], [`admin`], [`demo`] → [`queue`], [`simulate`], [`audit`], [`unsubscribe`] →
//! [`feedback`] → [`spool`], [`state`], [`dns`], [`web`] → [`bounce`], [`dkim`], [`limit`], [`log`], [`tls`], [`tlsrpt`], [`users`] → [`reply`], [`provider`] →
//! [`journal`] → [`message`] →
//! [`smtp`] → [`config::units`] → [`panics`] → [`clock`], [`metrics`], [`pulse`].

// Tests shrink numbers they made themselves; the library proper is linted without this.
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

pub mod admin;
pub mod audit;
pub mod bounce;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod delivery;
pub mod demo;
pub mod dkim;
pub mod dns;
pub mod feedback;
pub mod inbound;
pub mod journal;
pub mod limit;
pub mod log;
pub mod mask;
pub mod message;
pub mod metrics;
pub mod panics;
pub mod provider;
pub mod pulse;
pub mod queue;
pub mod reply;
pub mod simulate;
pub mod smtp;
pub mod spool;
pub mod state;
pub mod submission;
pub mod text;
pub mod tls;
pub mod tlsrpt;
pub mod trusted;
pub mod unseen;
pub mod unsubscribe;
pub mod users;
pub mod web;
