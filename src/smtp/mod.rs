//! RFC 5321 without I/O: addresses, commands, replies, status codes, extensions and the data phase.
//!
//! Everything here takes bytes and gives values; no socket, task, file or clock.

pub mod address;
pub mod command;
pub mod content;
pub mod data;
pub mod extension;
pub mod parameter;
pub mod reply;
pub mod status;
