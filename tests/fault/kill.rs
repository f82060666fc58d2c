//! F1, F2 and F7: killed at random times under load, and at chosen system calls; and a disk that gives errors.

use std::time::Duration;

use parking_lot::Mutex;

use super::letter::scrambled;
use super::row::{Row, in_parallel, seed, sized};
use super::world::World;
use super::world::client::Numbers;
use super::world::strace::{Fault, strace_obstacle};

/// Daemons under strace at once: each spends most of its time waiting for its tracer or its disk.
const PARALLEL: usize = 4;
/// The system calls through which the spool changes the disk, with how far apart the chosen ones are. Each thread has a
/// count of its own.
const STORAGE_CALLS: [(&str, usize); 5] = [
    ("fdatasync,fsync", 3),
    ("pwritev,pwritev2,pwrite64,write", 6),
    ("openat", 1),
    ("rename,renameat,renameat2", 1),
    ("unlink,unlinkat", 1),
];
/// So many are chosen, then it begins again: other calls at other times.
const CHOSEN: usize = 10;

#[test]
fn killed_under_load_again_and_again_loses_nothing_and_repeats_only_what_it_names() {
    let mut row = Row::of("F1 kill -9");
    let rounds = sized(20, 500);
    let mut world = World::new("kill -9", Numbers::from(0));

    for round in 0..rounds {
        let moment = Duration::from_millis(50 + scrambled(seed() ^ (0xf1 + round as u64)) % 300);
        world.run_and_kill(moment);
    }

    row.add(rounds, world.finish());
    assert!(row.sum().accepted > rounds as u64 * 10, "hardly any load: {}", row.sum());
}

#[test]
fn killed_at_any_storage_call_loses_nothing() {
    let mut row = Row::of("F2 kill at a storage call");
    if let Some(obstacle) = strace_obstacle() {
        return row.skip("killed_at_any_storage_call_loses_nothing", &obstacle);
    }
    let cases = sized(60, 600);
    let reached = Mutex::new(0);

    let ending = in_parallel(PARALLEL, cases, |number| {
        let (calls, apart) = STORAGE_CALLS[number % STORAGE_CALLS.len()];
        let step = number / STORAGE_CALLS.len();
        // Every other case spares the start, where most of the few calls of this kind are.
        let spares_start = step.is_multiple_of(2);
        // Loading the program opens files, too.
        let first = |spares_start: bool| if calls == "openat" && !spares_start { 14 } else { 1 };
        let nth = first(spares_start) + step / 2 % CHOSEN * apart;
        let mut world = World::new(&format!("killed at {calls} {nth}"), Numbers::from(number as u32 * 1_000));
        world.run_with(&Fault { calls, action: "signal=SIGKILL", when: nth.to_string(), spares_start });
        if number.is_multiple_of(3) {
            // Once more, while it recovers.
            let nth = first(false) + step % 4;
            world.run_with(&Fault { calls, action: "signal=SIGKILL", when: nth.to_string(), spares_start: false });
        }
        let ending = world.finish();
        *reached.lock() += usize::from(ending.deaths + ending.early_deaths > 0);
        ending
    });

    row.add(cases, ending);
    let reached = reached.into_inner();
    row.note(&format!("the call was reached in {reached}"));
    assert!(reached * 2 > cases, "the call was reached in {reached} of {cases} cases only");
    // A start makes many of these calls, too: the audit log alone syncs several times.
    assert!(row.sum().deaths * 3 > cases as u64, "hardly any die at work: {}", row.sum());
}

#[test]
fn failed_sync_is_never_answered_with_250() {
    let mut row = Row::of("F7 EIO from fdatasync");
    if let Some(obstacle) = strace_obstacle() {
        return row.skip("failed_sync_is_never_answered_with_250", &obstacle);
    }
    let cases = sized(10, 60);

    let ending = in_parallel(PARALLEL, cases, |number| {
        // Once, or from then on.
        let when = format!("{}{}", 2 + number / 2, if number.is_multiple_of(2) { "" } else { "+" });
        let mut world = World::new(&format!("EIO at fdatasync {when}"), Numbers::from(number as u32 * 1_000));
        world.run_with(&Fault { calls: "fdatasync", action: "error=EIO", when, spares_start: false });
        world.finish()
    });

    row.add(cases, ending);
    assert_eq!(row.sum().deaths, 0, "a disk error ends no daemon");
    assert!(row.sum().refused + row.sum().unknown > 0, "no sync failed: {}", row.sum());
}
