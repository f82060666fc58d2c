//! A demonstration on one machine: receivers of different character, a load, and the proof that nothing was lost.
//!
//! The parts know nothing of the daemon, but for [`live`], which shows what its queue has learnt: `hikyaku demo` starts one
//! between them, with a temporary spool, and points its DNS at [`responder`]. Everything is on loopback addresses and needs no
//! privilege.
//!
//! Each message has a number. It is in the forward-path, in the reverse-path (so that a DSN can be counted by the
//! address that it comes to) and in a header field beside a checksum of the body; [`ledger`] keeps what became of it.

pub mod content;
pub mod feed;
pub mod folder;
pub mod latency;
pub mod ledger;
pub mod live;
pub mod load;
pub mod progress;
pub mod receivers;
pub mod report;
pub mod responder;
mod session;
pub mod sites;
pub mod strict;
