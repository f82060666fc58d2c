//! `hikyaku spool`: the state of the spool.

use serde::Deserialize;
use serde_json::Value;

use super::exit::Exit;
use super::table::{octets, thousands};
use super::{Remote, exit, print_json};

/// Sub-commands of `spool`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Spool {
    /// Show the running daemon's spool in numbers
    Stat(Show),
}

/// Options of `spool stat`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    #[command(flatten)]
    remote: Remote,
}

impl Spool {
    pub(super) async fn execute(self) -> exit::Result {
        match self {
            Self::Stat(show) => show.execute().await,
        }
    }
}

/// The daemon's answer; fields as in [`crate::spool::Stat`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Stat {
    segments: u64,
    octets: u64,
    live_octets: u64,
    messages: u64,
    batches: u64,
    damaged: u64,
    tail: u64,
    copied: u64,
    deleted: u64,
    recovering: bool,
    full: bool,
    fault: bool,
}

impl Show {
    async fn execute(self) -> exit::Result {
        let answer: Value = self.remote.client().get("/v1/spool").await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let stat: Stat = serde_json::from_value(answer)?;
        print!("{}", stat.lines());
        Ok(if stat.has_problem() { Exit::Problem } else { Exit::Ok })
    }
}

impl Stat {
    /// In one line.
    pub(super) fn summary(&self) -> String {
        let live = self.live_octets * 100 / self.octets.max(1);
        let (messages, size) = (thousands(self.messages), octets(self.octets));
        let mut line = format!("{messages} messages, {size} in {} segments, {live} % live", thousands(self.segments));
        for (is_so, text) in [
            (self.recovering, "RECOVERING"),
            (self.full, "FULL"),
            (self.fault, "FAILED"),
            (self.damaged > 0, "DAMAGED"),
        ] {
            if is_so {
                line.push_str(", ");
                line.push_str(text);
            }
        }
        line
    }

    fn has_problem(&self) -> bool {
        self.full || self.fault || self.damaged > 0
    }

    fn lines(&self) -> String {
        let yes = |is_so: bool| if is_so { "YES" } else { "no" }.to_owned();
        let lines = [
            ("unfinished messages", thousands(self.messages)),
            ("segments", thousands(self.segments)),
            ("octets on disk", octets(self.octets)),
            ("of these live", octets(self.live_octets)),
            ("batches synced", thousands(self.batches)),
            ("messages copied forward", thousands(self.copied)),
            ("segments deleted", thousands(self.deleted)),
            ("damaged, in quarantine", thousands(self.damaged)),
            ("unfinished writes met", thousands(self.tail)),
            ("recovering", yes(self.recovering)),
            ("full (452 to submissions)", yes(self.full)),
            ("failed (421 to submissions)", yes(self.fault)),
        ];
        lines.iter().map(|(name, value)| format!("{name:<28}{value:>12}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_in_the_summary_and_by_the_exit_code() {
        let stat = Stat { octets: 1000, live_octets: 250, full: true, damaged: 1, ..Stat::default() };

        assert!(stat.summary().contains("25 % live, FULL, DAMAGED"), "{}", stat.summary());
        assert!(stat.has_problem() && !Stat::default().has_problem());
    }
}
