//! `hikyaku status`: the daemon at a glance.

use super::exit::Exit;
use super::table::{plain, span};
use super::{Remote, exit, print_json};
use crate::admin;

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    remote: Remote,
}

impl Status {
    pub(super) async fn execute(self) -> exit::Result {
        let status: admin::Status = self.remote.client().get("/v1/status").await?;
        if self.remote.json {
            return print_json(&status);
        }
        println!("{} hikyaku {} pid {}", plain(&status.hostname), plain(&status.version), status.pid);
        println!("up {}", span(status.uptime_seconds));
        match status.not_ready {
            None => Ok(Exit::Ok),
            Some(reason) => {
                println!("NOT ACCEPTING MESSAGES: {}", plain(&reason));
                Ok(Exit::Problem)
            }
        }
    }
}
