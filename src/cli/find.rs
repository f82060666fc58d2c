//! `hikyaku message find`: where the messages of a recipient, sender, tenant or campaign are, queued or ended.
//!
//! The queue is asked through the admin interface, what has ended is looked for in the files of the journal: also while the
//! daemon cannot be reached, which is told.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use serde_json::{Value, json};

use super::at::elsewhere;
use super::client::ClientError;
use super::exit::{Exit, Failure};
use super::journal::{KeyFile, Place, print_table, searched, tell_damage};
use super::queue;
use super::selection::{SelectionArguments, query};
use super::table::plain_lines;
use super::{Remote, exit, out, print_json};
use crate::journal::{Kind, Query};
use crate::state::Selection;

/// What ends a recipient.
const ENDS: [Kind; 5] = [Kind::Delivered, Kind::Bounced, Kind::Expired, Kind::Suppressed, Kind::Deleted];

/// Options of `message find`.
#[derive(Debug, clap::Args)]
pub(super) struct Find {
    #[command(flatten)]
    selection: SelectionArguments,
    /// Only what is queued
    #[arg(long)]
    queued: bool,
    /// At most so many that are queued, and so many that have ended, the newest
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    key: KeyFile,
    #[command(flatten)]
    remote: Remote,
}

impl Find {
    pub(super) async fn execute(self) -> exit::Result {
        let selection = self.selection.checked()?;
        if selection.is_everything() {
            let say = "say whose: --recipient, --sender, --tenant, --campaign or --domain";
            return Err(Failure::usage(anyhow!(say)));
        }
        // Whatever is wrong with the usage is told before anything is asked.
        let journal = if self.queued { None } else { Some((self.query(&selection)?, self.folder().await?)) };
        let path = format!("/v1/queue/entries?limit={}{}", self.limit, query(&selection));
        let queued: Option<Value> = match self.remote.get(&path).await {
            Ok(queued) => Some(queued),
            Err(error @ (ClientError::Unreachable { .. } | ClientError::Protocol { .. })) if journal.is_some() => {
                out::remark_line(format_args!("hikyaku: the queue was not asked: {}", plain_lines(&error.to_string())));
                None
            }
            Err(error) => return Err(error.into()),
        };
        let exit = if queued.is_some() { Exit::Ok } else { Exit::Unreachable };
        let ended = journal.map(|(query, folder)| folder.and_then(|folder| ended(&folder, &query)));
        if self.remote.json {
            let lines = ended.transpose()?.unwrap_or_default();
            let lines: Result<Vec<Value>, _> = lines.iter().map(|line| serde_json::from_slice(line)).collect();
            print_json(&json!({ "queued": queued, "ended": lines? }))?;
            return Ok(exit);
        }
        if let Some(queued) = queued {
            out::line("queued:")?;
            queue::print_entries(queued, "  nothing")?;
            out::line("")?;
        }
        if let Some(ended) = ended {
            // What is queued has been told: that the rest cannot be read is a problem all the same.
            let lines = ended?;
            out::line("ended:")?;
            if lines.is_empty() { out::line("  nothing in the journal")? } else { print_table(&lines)? }
        }
        Ok(exit)
    }

    /// Where the journal is; the inner error is not about the usage.
    async fn folder(&self) -> Result<Result<PathBuf, Failure>, Failure> {
        let Some(socket) = self.remote.at.socket() else {
            // The journal that a daemon elsewhere names is a file of its machine.
            return match self.place.is_named() {
                true => Ok(self.place.folder(None).await),
                false => Err(Failure::usage(elsewhere("the journal"))),
            };
        };
        match self.place.folder(Some(&socket)).await {
            Err(failure) if failure.exit == Exit::Usage => Err(failure),
            // The daemon is down: the usual configuration tells, if it is there.
            Err(failure) if failure.exit == Exit::Unreachable => Ok(self.place.usual().map_err(|_| failure)),
            found => Ok(found),
        }
    }

    /// What to look for in the journal.
    fn query(&self, selection: &Selection) -> Result<Query, Failure> {
        let text = |value: &Option<Box<str>>| value.as_deref().map(str::to_owned);
        if [&selection.site, &selection.lane, &selection.source].into_iter().any(Option::is_some) {
            let say = "--site, --lane and --source are asked of the queue only: add --queued";
            return Err(Failure::usage(anyhow!(say)));
        }
        Ok(Query {
            recipient: text(&selection.recipient),
            sender: text(&selection.sender),
            tenant: text(&selection.tenant),
            campaign: text(&selection.campaign),
            domain: text(&selection.domain),
            events: ENDS.to_vec(),
            limit: usize::try_from(self.limit).unwrap_or(usize::MAX),
            mask: self.key.mask(&self.place)?,
            ..Query::default()
        })
    }
}

/// Lines of the journal about recipients that have ended.
fn ended(folder: &Path, query: &Query) -> Result<Vec<Vec<u8>>, Failure> {
    let failed = |error| anyhow!("cannot read the journal in {}: {error}\n--queued leaves it out", folder.display());
    let hits = searched(folder, query).map_err(failed)?;
    // Told, and no more: what is queued is most of the answer.
    tell_damage(&hits);
    Ok(hits.lines)
}
