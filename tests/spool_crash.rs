//! Power cuts and kills at any storage call, on the simulated storage: nothing accepted is lost, nothing refused comes
//! back, every content is the one that was submitted.
//!
//! `HIKYAKU_FULL=1` runs the long sizes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/spool.rs"]
mod common;
#[path = "common/spool_model.rs"]
mod model;

use hikyaku::log::simulated::{Random, Simulated};
use model::{Model, live};

fn size(quick: u64, full: u64) -> u64 {
    if std::env::var_os("HIKYAKU_FULL").is_some() { full } else { quick }
}

/// Runs `body` for all seeds on as many threads as there are processors.
fn for_seeds(count: u64, body: impl Fn(u64) + Sync) {
    println!("runs: {count}");
    let next = std::sync::atomic::AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(seed)));
                    assert!(caught.is_ok(), "seed {seed}");
                }
            });
        }
    });
}

/// Calls that a life of `count` operations makes, roughly.
const CALLS: u64 = 130;

#[test]
fn a_power_cut_at_any_moment_loses_nothing_accepted() {
    power_cuts(size(2_000, 200_000), false);
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_accepted_while_keys_come_and_go() {
    power_cuts(size(600, 60_000), true);
}

fn power_cuts(count: u64, has_keys: bool) {
    for_seeds(count, |seed| {
        let mut random = Random::new(seed);
        let mut storage = Simulated::new(seed);
        let mut model = Model { has_keys, ..Model::default() };
        for _ in 0..3 {
            storage.die_at(random.below(CALLS));
            live(&mut model, &storage, &mut random, 12, false);
            storage = storage.crash(random.number());
        }
        live(&mut model, &storage, &mut random, 0, true);
    });
}

#[test]
fn a_kill_at_every_kth_call_loses_nothing_accepted_and_recovery_can_be_killed_too() {
    kills(size(60, 600), false);
}

#[test]
fn a_kill_at_every_kth_call_loses_nothing_accepted_while_keys_come_and_go() {
    kills(size(20, 200), true);
}

fn kills(count: u64, has_keys: bool) {
    for_seeds(count, |seed| {
        let mut random = Random::new(seed);
        let mut storage = Simulated::new(seed);
        let mut model = Model { has_keys, ..Model::default() };
        storage.die_at(CALLS + seed * 3);
        live(&mut model, &storage, &mut random, 60, false);
        for step in 0..40 {
            storage = storage.after_kill();
            storage.die_at(2 + step * 2);
            live(&mut model, &storage, &mut random, 2, false);
        }
        storage = storage.after_kill();
        live(&mut model, &storage, &mut random, 30, true);
        live(&mut model, &storage.after_kill(), &mut random, 0, true);
    });
}
