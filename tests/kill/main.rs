//! The real daemon, killed: at random times under load, and at chosen system calls; and a disk that gives errors.
//!
//! Every case ends with a start that nothing disturbs, and with the same check over three logs: what clients were told,
//! what arrived at the sink (DSNs too), and which recipients recovery named as in doubt. `HIKYAKU_FULL=1` runs the long
//! sizes. Cases at system calls need strace; without it they print SKIPPED and why, and fail for that in continuous
//! integration unless tests/skips.txt lists them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![allow(missing_docs)]

mod case;
mod client;
mod daemon;
mod ledger;
mod letter;
mod sink;
#[path = "../common/skip.rs"]
mod skip;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use case::{Case, Ending};
use daemon::{Fault, strace_obstacle};
use letter::scrambled;
use parking_lot::Mutex;

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

fn sized(quick: usize, full: usize) -> usize {
    if std::env::var_os("HIKYAKU_FULL").is_some() { full } else { quick }
}

/// Whether the case can run; else it says why not, which continuous integration permits only to those on the list.
fn can_trace(case: &str) -> bool {
    let Some(reason) = strace_obstacle() else { return true };
    skip::skip(case, &reason);
    false
}

/// Runs `count` cases, several at a time; gives how each ended.
fn in_parallel(count: usize, run: impl Fn(usize) -> Ending + Sync) -> Vec<Ending> {
    let (next, endings) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let ending = run(number);
                    endings.lock().push(ending);
                }
            });
        }
    });
    endings.into_inner()
}

#[test]
fn killed_under_load_again_and_again_loses_nothing_and_repeats_only_what_it_names() {
    let rounds = sized(20, 500);
    let mut case = Case::new("kill -9", 0);

    for round in 0..rounds {
        let moment = Duration::from_millis(50 + scrambled(0xf1 + round as u64) % 300);
        case.run_and_kill(moment);
    }

    let ending = case.finish();
    println!("kill -9: {rounds} rounds, {ending}");
    assert!(ending.accepted > rounds as u64 * 10, "hardly any load: {ending}");
}

#[test]
fn killed_at_any_storage_call_loses_nothing() {
    if !can_trace("killed_at_any_storage_call_loses_nothing") {
        return;
    }
    let cases = sized(60, 600);

    let endings = in_parallel(cases, |number| {
        let (calls, apart) = STORAGE_CALLS[number % STORAGE_CALLS.len()];
        let step = number / STORAGE_CALLS.len();
        // Every other case spares the start, where most of the few calls of this kind are.
        let spares_start = step.is_multiple_of(2);
        // Loading the program opens files, too.
        let first = |spares_start: bool| if calls == "openat" && !spares_start { 14 } else { 1 };
        let nth = first(spares_start) + step / 2 % CHOSEN * apart;
        let mut case = Case::new(&format!("killed at {calls} {nth}"), number as u32);
        case.run_with(&Fault { calls, action: "signal=SIGKILL", when: nth.to_string(), spares_start });
        if number.is_multiple_of(3) {
            // Once more, while it recovers.
            let nth = first(false) + step % 4;
            case.run_with(&Fault { calls, action: "signal=SIGKILL", when: nth.to_string(), spares_start: false });
        }
        case.finish()
    });

    let reached = endings.iter().filter(|ending| ending.deaths + ending.early_deaths > 0).count();
    let sum = Ending::sum(&endings);
    println!("killed at a system call: {cases} cases, reached in {reached}; {sum}");
    assert!(reached * 2 > cases, "the call was reached in {reached} of {cases} cases only");
    assert!(sum.deaths > sum.early_deaths, "most die before they have work: {sum}");
}

#[test]
fn failed_sync_is_never_answered_with_250() {
    if !can_trace("failed_sync_is_never_answered_with_250") {
        return;
    }
    let cases = sized(10, 60);

    let endings = in_parallel(cases, |number| {
        // Once, or from then on.
        let when = format!("{}{}", 2 + number / 2, if number.is_multiple_of(2) { "" } else { "+" });
        let mut case = Case::new(&format!("EIO at fdatasync {when}"), 1_000 + number as u32);
        case.run_with(&Fault { calls: "fdatasync", action: "error=EIO", when, spares_start: false });
        case.finish()
    });

    let sum = Ending::sum(&endings);
    println!("EIO from fdatasync: {cases} cases; {sum}");
    assert_eq!(sum.deaths, 0, "a disk error ends no daemon");
    assert!(sum.refused + sum.unknown > 0, "no sync failed: {sum}");
}
