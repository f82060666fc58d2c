//! The suppression list: taken up at the start, and kept in order while the daemon runs.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::log::disk::Disk;
use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::state::suppression::{Finding, FindingKind, Suppression};

use super::Error;

/// How often room is taken back.
const UPKEEP: Duration = Duration::from_secs(60);

/// Takes up the list, where it holds nobody up: about a second a million entries.
pub(super) async fn open(storage: Arc<Disk>, clock: Clock) -> Result<Suppression, Error> {
    let taking = tokio::task::spawn_blocking(move || Suppression::open(storage, clock.wall()));
    let opened = taking.await.map_err(|error| Error::Thread(error.into()))??;
    opened.findings.iter().for_each(tell);
    if opened.has_new_key {
        error!(
            "the key of the suppression list's hashes was damaged, and another one was made: reverse-paths and links that \
             were given out before it mean nothing any more"
        );
    }
    info!(entries = opened.entries, "suppression list taken up");
    Ok(opened.list)
}

fn tell(finding: &Finding) {
    let Finding { file, range, kind } = finding;
    let (from, to) = (range.start, range.end);
    match kind {
        FindingKind::Damaged => {
            error!(file, from, to, "suppressed addresses, or removals of some, are lost: a copy is in quarantine");
        }
        FindingKind::Tail => {
            warn!(file, from, to, "changes of suppressed addresses that nobody was told of are left out")
        }
        FindingKind::Missing => error!(file, "a file of suppressed addresses is not there: what it held is lost"),
    }
}

/// Takes room back from time to time, until `stop`.
pub(super) async fn keep(list: Suppression, clock: Clock, registry: Registry, stop: CancellationToken) {
    let wall = Bulkhead::new(&registry, "suppression");
    let mut has_more = false;
    loop {
        if !has_more && stop.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_none() || stop.is_cancelled() {
            return;
        }
        let (own, behind) = (list.clone(), wall.clone());
        let kept = tokio::task::spawn_blocking(move || behind.call(|| own.upkeep(clock.wall()))).await;
        has_more = match kept {
            Ok(Ok(Ok(kept))) => kept.has_more,
            Ok(Ok(Err(error))) => {
                warn!(%error, "no room can be taken back from the suppression list");
                false
            }
            _ => false,
        };
    }
}
