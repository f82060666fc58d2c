//! Reload and stop of the real daemon: what changes, what does not, and that no connection is dropped by it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "../common/fake_mx.rs"]
mod fake_mx;
#[path = "../common/port.rs"]
mod port;

mod blocked;
mod classes;
mod daemon;
mod refusals;
mod stop;
mod table;
mod under_load;

use fake_mx::{FakeMx, Running};
use tokio::runtime::Runtime;

/// Receivers beside a test that blocks.
struct Receivers(Runtime);

impl Receivers {
    fn new() -> Self {
        Self(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
    }

    fn start(&self, receiver: FakeMx) -> Running {
        self.0.block_on(receiver.start())
    }
}

/// The subjects of what a receiver took, in order.
fn subjects(receiver: &Running) -> Vec<String> {
    let subject = |content: &[u8]| {
        let text = String::from_utf8_lossy(content).into_owned();
        text.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned)).unwrap_or_default()
    };
    receiver.transactions().iter().map(|received| subject(&received.content)).collect()
}
