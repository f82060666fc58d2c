//! What a receiver's reply means beyond its severity.
//!
//! One classifier for everyone above: limits and bounces must not disagree on a reply.

pub mod classify;
