//! What is scraped, its documentation, the dashboard and the alerts: each held to what a running daemon really gives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod alerts;
mod bounds;
#[path = "../common/daemon.rs"]
mod daemon;
mod documented;
#[path = "../common/fake_mx.rs"]
mod fake_mx;
#[path = "../common/port.rs"]
mod port;
mod prometheus;
#[path = "../common/skip.rs"]
mod skip;
mod stage;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A file of the repository.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

/// Runs promtool, which is in Debian's package `prometheus`: whether it was content, and what it said. None: there is
/// none.
fn promtool(case: &str, arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            skip::skip(case, &format!("promtool cannot be started: {error}"));
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}
