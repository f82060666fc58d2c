//! `hikyaku status`: the daemon at a glance.

use serde::Deserialize;
use serde_json::Value;

use super::exit::Exit;
use super::queue::Totals;
use super::spool::Stat;
use super::table::{plain, span};
use super::{Remote, exit, print_json};

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    remote: Remote,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    hostname: String,
    version: String,
    pid: u32,
    uptime_seconds: u64,
    not_ready: Option<String>,
    queue: Totals,
    spool: Stat,
}

impl Status {
    pub(super) async fn execute(self) -> exit::Result {
        let answer: Value = self.remote.client().get("/v1/status").await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let status: Answer = serde_json::from_value(answer)?;
        println!(
            "{}  hikyaku {}  pid {}  up {}",
            plain(&status.hostname),
            plain(&status.version),
            status.pid,
            span(status.uptime_seconds)
        );
        for (title, line) in ["queue", ""].into_iter().zip(status.queue.summary()) {
            println!("{title:<7}{line}");
        }
        println!("spool  {}", status.spool.summary());
        match status.not_ready {
            None => {
                println!("accepting messages");
                Ok(Exit::Ok)
            }
            Some(reason) => {
                println!("NOT READY: {}", plain(&reason));
                Ok(Exit::Problem)
            }
        }
    }
}
