//! What is fuzzed: each target is one function that takes any octets and panics where a promise is broken.
//!
//! libFuzzer calls them (`fuzz_targets/`; docs/security.md says how), and so does the stable test
//! `tests/hostile_input/fuzz.rs`, which runs the corpus and variants of it. "No panic" is the least of the promises: what
//! was taken can be written out and is taken again as the same, the result does not depend on where the input was split,
//! and what comes out is bounded and has no control character.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod bounce;
mod dkim;
mod files;
mod open;
mod outside;
mod proxy;
mod session;
mod smtp;

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As its corpus is called.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 15] = [
    Target { name: "command", run: smtp::command },
    Target { name: "address", run: smtp::address },
    Target { name: "data", run: smtp::data },
    Target { name: "header", run: smtp::header },
    Target { name: "session", run: session::session },
    Target { name: "reply", run: smtp::reply },
    Target { name: "dsn", run: outside::dsn },
    Target { name: "sasl", run: outside::sasl },
    Target { name: "policy", run: outside::policy },
    Target { name: "record", run: files::record },
    Target { name: "configuration", run: files::configuration },
    Target { name: "users", run: files::users },
    Target { name: "proxy", run: proxy::proxy },
    Target { name: "dkim", run: dkim::dkim },
    Target { name: "bounce", run: bounce::bounce },
];

/// Runs the target of this name: what libFuzzer calls.
#[allow(dead_code, reason = "the stable test takes targets from the list")]
pub fn run(name: &str, octets: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    (target.run)(octets);
}

/// Whether text can be shown, logged and written into a command.
fn is_plain(text: &str) -> bool {
    let is_separator = |c| matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}');
    !text.chars().any(|c| c.is_control() || is_separator(c))
}

/// Cuts octets into pieces of this size, at least 1.
fn pieces(octets: &[u8], size: u8) -> impl Iterator<Item = &[u8]> {
    octets.chunks(usize::from(size).max(1))
}
