//! The suppression list: taken up at the start, and kept in order while the daemon runs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::log::disk::Disk;
use crate::metrics::Registry;
use crate::panics::Bulkhead;
use crate::state::suppression::{Entry, Finding, FindingKind, OpenError, Suppression, Target};

use super::Error;

/// How often room is taken back.
const UPKEEP: Duration = Duration::from_secs(60);
/// Between two counts of what stands is so many times what one takes: a second for ten million.
const COUNTING: u32 = 600;

/// Takes up the list, where it holds nobody up: about half a second a million entries.
pub(super) async fn open(storage: Arc<Disk>, clock: Clock, registry: &Registry) -> Result<Suppression, Error> {
    let taking = tokio::task::spawn_blocking(move || {
        let opened = Suppression::open(storage, clock.wall())?;
        let is_lost = |entry: &io::Result<Entry>| matches!(entry, Ok(Entry { target: Target::Hash(_), .. }));
        let lost = if opened.has_new_key { opened.list.entries(clock.wall()).filter(is_lost).count() } else { 0 };
        Ok::<_, OpenError>((opened, lost))
    });
    let (opened, lost) = taking.await.map_err(|error| Error::Thread(error.into()))??;
    opened.list.count_in(registry);
    opened.findings.iter().for_each(tell);
    if opened.has_new_key {
        error!(
            entries_by_hash = lost,
            "the key of the suppression list's hashes was damaged or is gone, and another one was made: reverse-paths and links \
             that were given out before it mean nothing any more, and entries by hash suppress nobody (docs/suppression.md)"
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
        FindingKind::Unlisted => {
            warn!(
                file,
                "what says which files of suppressed addresses there are is damaged: if one is missing, it may not be told"
            )
        }
    }
}

/// Closes the list when whoever keeps it ends, which a stop does from outside.
struct Closing(Suppression);

impl Drop for Closing {
    fn drop(&mut self) {
        if let Err(error) = self.0.close() {
            warn!(%error, "where the suppression list ended is not noted: damage to its end may be taken for a cut-off write");
        }
    }
}

/// Takes room back from time to time, and shows in the metrics what stands, until `stop`; then everybody else has ended.
pub(super) async fn keep(list: Suppression, clock: Clock, registry: Registry, stop: CancellationToken) {
    let _closing = Closing(list.clone());
    let wall = Bulkhead::new(&registry, "suppression");
    let mut due = clock.now();
    loop {
        let (own, behind, shows) = (list.clone(), wall.clone(), due <= clock.now());
        let keep = move || {
            let kept = own.upkeep(clock.wall());
            let begun = clock.now();
            if shows {
                own.show(clock.wall());
            }
            (kept, clock.now() - begun)
        };
        let kept = tokio::task::spawn_blocking(move || behind.call(keep)).await;
        let mut has_more = false;
        if let Ok(Ok((kept, took))) = kept {
            if shows {
                due = clock.now() + took * COUNTING;
            }
            match kept {
                Ok(kept) => has_more = kept.has_more,
                Err(error) => warn!(%error, "no room can be taken back from the suppression list"),
            }
        }
        let pause = if has_more { Duration::ZERO } else { UPKEEP };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}
