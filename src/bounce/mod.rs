//! Bounces: the DSNs that we send (RFC 3464), and what comes back from others.
//!
//! [`parse`] reads what comes back; a [`token`] in it tells what it is about.
//!
//! [`dsn`] makes the message; `field` and `text` are how its lines are written, `encoding` how its parts stay ASCII. Pure but for reading the reported
//! content, which may be in a file.

pub mod dsn;
mod field;
pub mod parse;
mod text;
pub mod token;
