//! Submission: mail comes in by SMTP (RFC 5321, RFC 6409), is admitted, stored and put into the queue.
//!
//! [`session`] is the protocol as a pure state machine, [`collector`] takes content, [`admit`] rewrites the header section
//! and makes the envelope. [`Settings`] is what one listener allows; the daemon makes it from the configuration.

pub mod admit;
pub mod collector;
pub mod refusal;
pub mod session;
pub mod settings;

pub use collector::LineEndings;
pub use settings::Settings;
