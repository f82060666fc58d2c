//! What the wire shows and who is believed: TLS and the PROXY protocol at listeners.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod auth;
mod authority;
mod clients;
mod files;
mod proxy;
mod requiretls;
#[path = "../submission/server.rs"]
#[allow(dead_code)]
mod server;
mod tls;
#[path = "../common/tricks.rs"]
mod tricks;
