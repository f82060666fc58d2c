//! What goes on while the demonstration stays up: mail for the receiver that limits, and what the daemon finds out about it.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::super::out;
use super::Stage;
use crate::demo::feed::{Fed, Feed, feed};
use crate::demo::live::{self, Look};
use crate::queue::limit_views::{ChangeView, PathFilter};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Between two lines, where they stay.
const LINE: Duration = Duration::from_secs(10);
/// Messages that are kept waiting for the receiver: what it takes in half a minute.
const BACKLOG: u64 = 120;
/// Octets of each, about.
const SIZE: usize = 4_000;

/// How it is shown.
#[derive(Debug)]
enum Show {
    /// A line that changes, and above it what stays.
    Terminal(ProgressBar),
    /// A line every now and then.
    Lines,
    /// An object a second, each a line.
    Json,
}

impl Show {
    fn new(json: bool) -> Self {
        if json {
            return Self::Json;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines;
        }
        let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        // What was seen last is left there.
        Self::Terminal(ProgressBar::new_spinner().with_style(style).with_finish(ProgressFinish::Abandon))
    }

    fn look(&self, look: &Look) -> std::io::Result<()> {
        match self {
            Self::Terminal(bar) => bar.set_message(look.to_string()),
            Self::Lines if look.after.as_secs().is_multiple_of(LINE.as_secs()) => return out::line(look),
            Self::Lines => {}
            Self::Json => return out::line(look.json()),
        }
        Ok(())
    }

    fn change(&self, change: &ChangeView, after: Duration) -> std::io::Result<()> {
        match self {
            Self::Terminal(bar) => bar.println(live::told(change, after)),
            Self::Lines => return out::line(live::told(change, after)),
            // The next look has it.
            Self::Json => {}
        }
        Ok(())
    }
}

/// Sends mail to the receiver that limits, and shows how the daemon comes to keep to that; until it is dropped, or cannot go on.
pub(super) async fn stay(stage: &mut Stage, json: bool) -> anyhow::Result<std::convert::Infallible> {
    let mut config = stage.daemon.config().clone();
    config.limits.learn = true;
    stage.daemon.reload(config).await.context("learning cannot be turned on")?;
    let server = *stage.daemon.submission_addresses().first().context("the daemon does not listen")?;
    let (strict, fed) = (Arc::clone(&stage.receivers.limited), Arc::new(Fed::default()));
    let stream = Feed { server, backlog: BACKLOG, connections: 1, size: SIZE };
    let show = Show::new(json);
    tokio::select! {
        ended = feed(stream, &strict, &fed) => Ok(ended.context("mail cannot be submitted any more")?),
        ended = watch(stage, &fed, &show) => Ok(ended?),
    }
}

async fn watch(stage: &Stage, fed: &Fed, show: &Show) -> std::io::Result<std::convert::Infallible> {
    let strict = &stage.receivers.limited;
    let began = Instant::now();
    let filter = PathFilter { site: Some(format!("mx.{}", strict.domain())), source: None, limit: 1_000 };
    let mut seen = 0;
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        let queue = stage.daemon.queue().clone();
        let wanted = filter.clone();
        // It looks into the store of what was learnt, which is on a disk.
        let looked = tokio::task::spawn_blocking(move || (queue.path_limits(&wanted), queue.limit_changes(&wanted)));
        let (paths, changes) = looked.await?;
        for change in changes.iter().rev().filter(|change| change.id > seen) {
            show.change(change, began.elapsed())?;
        }
        seen = changes.first().map_or(seen, |change| change.id);
        let look = Look::at(strict, strict.time(began), strict.time(Instant::now()), fed, paths.into_iter().next());
        show.look(&look)?;
    }
}
