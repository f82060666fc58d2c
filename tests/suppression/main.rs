//! The suppression list of a running daemon, as operators keep it: by the command over TCP, with roles, and by its requests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod broken;
#[path = "../common/daemon.rs"]
mod daemon;
mod entries;
mod lists;
mod seen;
#[path = "../admin_tcp/stage.rs"]
mod stage;

use hikyaku::admin::Role;
use serde_json::Value;
use stage::Stage;

/// What a command of this role that must end well prints.
async fn ok(stage: &Stage, role: Role, arguments: &[&str]) -> String {
    let (code, said) = stage.command(role, arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {said}");
    said
}

/// The same as JSON.
async fn json(stage: &Stage, arguments: &[&str]) -> Value {
    let said = ok(stage, Role::Admin, &[arguments, &["--json"]].concat()).await;
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
}

/// What stands against mail of this tenant and class to a mailbox, as delivery asks.
fn meets(stage: &Stage, whose: (&str, &str), mailbox: &str) -> Option<String> {
    let list = stage.daemon.suppression();
    let now = hikyaku::clock::Clock::system().wall();
    let found = list.find(list.whose(whose.0, whose.1), &mailbox.parse().unwrap(), now);
    found.map(|found| found.reason.to_string())
}

/// How many entries stand.
fn standing(stage: &Stage) -> u64 {
    stage.daemon.suppression().stats(hikyaku::clock::Clock::system().wall()).total()
}
