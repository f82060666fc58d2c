//! Bounces: the DSNs that we send (RFC 3464).

pub mod dsn;
