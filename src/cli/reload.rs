//! `hikyaku reload`: has the daemon read its configuration file again, and tells what that changed.
//!
//! The file is the one that the daemon was started with. Exit code 2: it cannot be used; 1: it asks for what cannot be had
//! now. Nothing has changed then. What holds only after a restart is told and is no failure.

use serde::Deserialize;
use serde_json::Value;

use super::client::ClientError;
use super::exit::{Exit, Failure};
use super::patience::patiently;
use super::table::plain;
use super::{Remote, exit, out, print_json};

/// The admin interface's status for a file that cannot be used.
const UNUSABLE: u16 = 422;

/// Options of `reload`.
#[derive(Debug, clap::Args)]
pub(super) struct Reload {
    #[command(flatten)]
    remote: Remote,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    file: String,
    changed: Vec<Change>,
    needs_restart: Vec<Change>,
    warnings: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Change {
    key: String,
    old: Option<String>,
    new: Option<String>,
}

impl Reload {
    pub(super) async fn execute(self) -> exit::Result {
        let client = self.remote.client();
        let answer: Result<Value, ClientError> =
            patiently("waiting for the daemon", client.post("/v1/reload", &())).await;
        let answer = answer.map_err(|error| match error {
            ClientError::Refused { status: UNUSABLE, .. } => Failure::usage(error),
            error => error.into(),
        })?;
        if self.remote.json {
            return print_json(&answer);
        }
        let answer: Answer = serde_json::from_value(answer)?;
        for line in lines(&answer) {
            out::line(line)?;
        }
        Ok(Exit::Ok)
    }
}

fn lines(answer: &Answer) -> Vec<String> {
    let file = plain(&answer.file);
    let mut out = vec![match answer.changed.len() {
        0 => format!("{file}: nothing else than before"),
        1 => format!("{file}: 1 change"),
        count => format!("{file}: {count} changes"),
    }];
    out.extend(answer.changed.iter().map(line));
    if !answer.needs_restart.is_empty() {
        out.push("only after a restart:".to_owned());
        out.extend(answer.needs_restart.iter().map(line));
    }
    out.extend(answer.warnings.iter().map(|warning| format!("warning: {}", plain(warning))));
    out
}

fn line(change: &Change) -> String {
    let key = plain(&change.key);
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => format!("  {key}: {} -> {}", plain(old), plain(new)),
        (None, Some(new)) => format!("  {key}: added: {}", plain(new)),
        (Some(old), None) => format!("  {key}: removed: {}", plain(old)),
        (None, None) => format!("  {key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_with_both_values_and_those_that_need_a_restart_apart() {
        let change = |key: &str, old: Option<&str>, new: Option<&str>| Change {
            key: key.to_owned(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
        };
        let answer = Answer {
            file: "/etc/x.toml".to_owned(),
            changed: vec![change("limits.connections", Some("1"), Some("2")), change("source[a]", Some("{}"), None)],
            needs_restart: vec![change("threads", Some("0"), Some("4"))],
            warnings: vec!["source a: 192.0.2.1 is no address of this machine".to_owned()],
        };

        assert_eq!(
            lines(&answer),
            [
                "/etc/x.toml: 2 changes",
                "  limits.connections: 1 -> 2",
                "  source[a]: removed: {}",
                "only after a restart:",
                "  threads: 0 -> 4",
                "warning: source a: 192.0.2.1 is no address of this machine"
            ]
        );
        assert_eq!(lines(&Answer::default()), [": nothing else than before"]);
    }
}
