//! Upkeep: every few seconds the gauges are set, the dead among the ready are expired, and what is unused is forgotten.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::entry::Entry;
use super::site::Site;

/// How often the gauges are set and the dead are looked for.
const SHOW: Duration = Duration::from_secs(2);
/// The unused is forgotten every so many times.
const SWEEP: u32 = 12;

/// Runs until the queue is stopped.
pub(super) async fn run(engine: Arc<Engine>) {
    let mut round: u32 = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(SHOW) => {}
            () = engine.stopped.cancelled() => return,
        }
        round = round.wrapping_add(1);
        let mut sites = engine.all_sites().len();
        for (number, site) in engine.all_sites().into_iter().enumerate() {
            site.expire_dead(&engine);
            if number.is_multiple_of(100) {
                tokio::task::yield_now().await;
            }
        }
        if round.is_multiple_of(SWEEP) {
            sites = forget(&engine, engine.clock.now());
        }
        engine.meters.show(&engine.look(), sites, engine.doubts.len(), &engine.held);
    }
}

/// Forgets what nothing refers to; tells how many sites are left.
pub(super) fn forget(engine: &Arc<Engine>, now: Instant) -> usize {
    engine.domains.sweep();
    engine.tenants.sweep();
    engine.sweep_sites(now)
}

impl Site {
    /// Expires ready entries whose time is over. Those that are drawn are looked at anyway; this is for paths from
    /// which nothing is drawn, because of a back-off for example.
    pub fn expire_dead(self: &Arc<Self>, engine: &Arc<Engine>) {
        let now = engine.clock.now();
        self.with(engine, now, |context, state, out| {
            let dead_before = context.take.dead_before;
            let is_alive = |entry: &Entry| entry.accepted >= dead_before;
            for path in state.paths.iter_mut().flatten() {
                if !path.ready.is_empty() && path.ready.accepted_since() < dead_before {
                    path.ready.extract(is_alive, &mut out.expired);
                }
            }
        });
    }
}

/// Serves one shard of the timers until the queue is stopped.
pub(super) async fn tick(engine: Arc<Engine>, shard: usize) {
    let Some(shard) = engine.timers.shards().get(shard) else { return };
    loop {
        let due = tokio::select! {
            due = shard.due(&engine.clock) => due,
            () = engine.stopped.cancelled() => return,
        };
        let now = engine.clock.now();
        for site in due.sites {
            site.on_alarm(&engine, now);
        }
        if !due.entries.is_empty() {
            let dead_before = engine.dead_before();
            let (dead, alive) = due.entries.into_iter().partition(|entry: &Entry| entry.accepted < dead_before);
            engine.expire(dead);
            engine.admit_all(alive);
        }
        // A second may hold a hundred thousand entries: others run between the batches.
        tokio::task::yield_now().await;
    }
}
