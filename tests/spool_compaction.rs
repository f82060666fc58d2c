//! Compaction after kills: what was copied when the process ended must not hold segments back for ever, and copying
//! must not go on when it frees nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/spool.rs"]
mod common;
#[path = "common/spool_model.rs"]
mod model;

use std::sync::Arc;

use common::{deferred, delivered, message, recover, try_open};
use hikyaku::log::segment;
use hikyaku::log::simulated::{Random, Simulated};
use hikyaku::message::MessageId;
use hikyaku::spool::{Spool, Stat};
use model::{Model, live, small_segments};
use tokio::runtime::Runtime;

const SEGMENT: u64 = 256 << 10;
/// Octets of a message.
const LENGTH: usize = 10_000;
/// Messages that fill most of a segment.
const ROUND: usize = 20;
/// Times that mail comes and goes.
const ROUNDS: u16 = 60;
/// Messages that stay in the queue.
const KEPT: usize = 6;

/// Spools that are killed again and again; more with `HIKYAKU_FULL=1`.
fn seeds() -> u64 {
    if std::env::var_os("HIKYAKU_FULL").is_some() { 600 } else { 60 }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn start(storage: &Simulated) -> (Spool, Vec<MessageId>) {
    let (spool, recovery) = try_open(Arc::new(storage.clone()), small_segments()).unwrap();
    let (found, _) = recover(recovery);
    (spool, found.into_iter().map(|found| found.id).collect())
}

fn accept(spool: &Spool, count: usize) -> Vec<MessageId> {
    let runtime = runtime();
    let accept = |_| {
        let id = spool.next_id();
        runtime.block_on(spool.accept(message(id, 1, LENGTH))).unwrap();
        id
    };
    (0..count).map(accept).collect()
}

/// Lets mail come and go while some stays, with an outcome each round; the state after each round.
fn churn(spool: &Spool, kept: &[MessageId], rounds: u16, mut each: impl FnMut(u16, &Stat)) {
    let mut before = Vec::new();
    for round in 0..rounds {
        let ids = accept(spool, ROUND);
        kept.iter().for_each(|id| spool.record(*id, &[deferred(0, round + 1)]));
        // Their outcomes come after the segment that holds them, mostly.
        before.iter().for_each(|id| spool.record(*id, &[delivered(0)]));
        before = ids;
        spool.keep_house();
        each(round, &spool.stat());
    }
    before.iter().for_each(|id| spool.record(*id, &[delivered(0)]));
}

/// Octets copied forward do not exceed what was found and what was written otherwise.
fn assert_bounded(stat: &Stat, context: &str) {
    let otherwise = stat.log_octets - stat.copied_octets;
    assert!(stat.copied_octets <= otherwise * 4 / 3 + 8 * SEGMENT, "{context}: {stat:?}");
}

#[test]
fn after_kills_no_segments_pile_up_while_mail_comes_and_goes_and_some_stays() {
    let mut copied = 0;
    for seed in 0..seeds() {
        let storage = killed_often(seed);
        let (spool, mut kept) = start(&storage);
        kept.extend(accept(&spool, KEPT));

        churn(&spool, &kept, ROUNDS, |round, stat| {
            let bound = 16 + 3 * stat.live_octets / SEGMENT;
            assert!(stat.segments <= bound, "seed {seed}, round {round}: {stat:?}");
        });

        assert_bounded(&spool.stat(), &format!("seed {seed}"));
        copied += spool.stat().copied;
    }
    assert!(copied > 0);
}

#[test]
fn a_damaged_message_that_stays_does_not_make_copying_run_away() {
    let storage = Simulated::new(1);
    let (spool, _) = start(&storage);
    let kept = accept(&spool, 2 * ROUND);
    // In the middle of a content of the first segment.
    storage.damage(&segment::path(1), |octets| octets[50_000] ^= 1).unwrap();

    churn(&spool, &kept, ROUNDS, |round, stat| assert_bounded(stat, &format!("round {round}")));

    let stat = spool.stat();
    assert_eq!(stat.damaged, 1);
    assert!(stat.segments > u64::from(ROUNDS) / 2, "the damaged message holds the rest back: {stat:?}");
}

/// Lives that were killed or lost power at any moment.
fn killed_often(seed: u64) -> Simulated {
    let mut random = Random::new(seed);
    let mut storage = Simulated::new(seed);
    let mut model = Model::default();
    for _ in 0..6 {
        storage.die_at(200 + random.below(400));
        live(&mut model, &storage, &mut random, 60, false);
        storage = if random.below(2) == 0 { storage.crash(random.number()) } else { storage.after_kill() };
    }
    storage
}

/// Finishes all that is left; what there is after each of two more starts.
fn finish_all(storage: &Simulated) -> Stat {
    let runtime = runtime();
    let _entered = runtime.enter();
    let mut stat = Stat::default();
    for start in 0..3 {
        let (spool, recovery) = try_open(Arc::new(storage.clone()), small_segments()).unwrap();
        let (found, _) = recover(recovery);
        assert!(start == 0 || found.is_empty(), "what was finished came back");
        for recovered in found {
            let events: Vec<_> = recovered.pending.iter().map(|pending| delivered(pending.recipient)).collect();
            spool.record(recovered.id, &events);
        }
        spool.keep_house();
        stat = spool.stat();
        spool.close_blocking();
    }
    stat
}

#[test]
fn whatever_was_killed_no_segment_stays_when_the_queue_is_empty() {
    for seed in 0..seeds() {
        let storage = killed_often(seed);

        let stat = finish_all(&storage);

        // Not even the open one, as nothing was written to it.
        assert_eq!((stat.segments, stat.messages), (0, 0), "seed {seed}: {stat:?}");
    }
}
