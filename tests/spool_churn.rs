//! The steady state: most messages leave at once, one in a hundred stays long. Disk use stays in proportion to what is
//! live, and indexes, checkpoints and tail say the same as a scan of everything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/spool.rs"]
mod common;
#[path = "common/spool_model.rs"]
mod model;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{content, deferred, delivered, message, octets, recover, settings, try_open};
use hikyaku::log::disk::Disk;
use hikyaku::log::simulated::{Random, Simulated};
use hikyaku::log::storage::Storage;
use hikyaku::message::MessageId;
use hikyaku::spool::{CheckReport, Settings, Spool, Stat, check_storage};
use model::{Model, live};

const SEGMENT: u64 = 256 << 10;
/// Two hours at 18 million an hour, 1:720.
const MESSAGES: usize = 50_000;
/// 10 KB, 1:10.
const LENGTH: usize = 1_000;
/// Those that stay are larger, so that what is live decides and not the constant.
const LONG: usize = 20_000;

async fn round(spool: &Spool, count: usize) -> Vec<MessageId> {
    let session = |_| {
        let spool = spool.clone();
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for index in 0..count / 50 {
                let id = spool.next_id();
                let length = if index == 0 { LONG } else { LENGTH };
                spool.accept(message(id, 1, length)).await.unwrap();
                spool.attempt(id, &[0], "127.0.0.1:25".parse().unwrap()).await.unwrap();
                ids.push(id);
            }
            ids
        })
    };
    let mut ids = Vec::new();
    for session in (0..50).map(session).collect::<Vec<_>>() {
        ids.extend(session.await.unwrap());
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lived_deferrals_do_not_fill_the_disk() {
    let root = tempfile::tempdir().unwrap();
    let disk = || Arc::new(Disk::new(root.path().join("spool")));
    let settings = Settings { segment_size: SEGMENT, ..settings() };
    let (spool, recovery) = try_open(disk(), settings.clone()).unwrap();
    recover(recovery);
    let mut waiting: VecDeque<MessageId> = VecDeque::new();
    let step = 2_500;
    for round_number in 0..MESSAGES / step {
        for (index, id) in round(&spool, step).await.into_iter().enumerate() {
            if index % 100 == 0 {
                spool.record(id, &[deferred(0, 1)]);
                waiting.push_back(id);
            } else {
                spool.record(id, &[delivered(0)]);
            }
        }
        for &id in &waiting {
            spool.attempt(id, &[0], "127.0.0.1:25".parse().unwrap()).await.unwrap();
            spool.record(id, &[deferred(0, 2 + round_number as u16)]);
        }
        if round_number >= 8 {
            waiting.drain(..step / 100).for_each(|id| spool.record(id, &[delivered(0)]));
        }
        let (used, stat) = settled(&spool, root.path()).await;
        assert!(used <= limit(stat.live_octets), "round {round_number}: {used} octets, {stat:?}");
        assert!(round_number < 8 || 3 * stat.live_octets > 2 * CONSTANT, "the constant decides: {stat:?}");
        assert_eq!(stat.messages, waiting.len() as u64);
    }
    // Whole segments of what stays: they are sealed, and too full to be copied.
    waiting.extend(round(&spool, 1_000).await);
    // A pass writes its checkpoint first. One that then deletes and copies nothing leaves what the checkpoint covers.
    let mut stat = spool.stat();
    loop {
        let before = (stat.copied, stat.deleted);
        let keeping = spool.clone();
        tokio::task::spawn_blocking(move || keeping.keep_house()).await.unwrap();
        stat = spool.stat();
        if (stat.copied, stat.deleted) == before {
            break;
        }
    }
    assert!(stat.copied > 0 && stat.deleted > 100, "{stat:?}");
    spool.close().await;
    drop(spool);

    let full = check_storage(disk(), true).unwrap();
    let fast = check_storage(disk(), false).unwrap();
    assert_eq!(live_set(&fast), live_set(&full));
    let (spool, recovery) = try_open(disk(), settings).unwrap();
    let (found, report) = recover(recovery);
    let mut raised: Vec<_> = found.iter().map(|found| found.id).collect();
    raised.sort_unstable();
    let mut waiting = Vec::from(waiting);
    waiting.sort_unstable();
    assert!(raised == waiting, "{} raised, {} waiting", raised.len(), waiting.len());
    for id in raised {
        let found = octets(&spool.load(id).unwrap().content);
        assert!(found == content(id, found.len()) && [LENGTH, LONG].contains(&found.len()), "{id}");
    }
    assert!(full.is_sound(), "{full:?}");
    assert!(report.covered > 0, "{report:?}");
}

/// Sixteen segments, the gibibyte of full size.
const CONSTANT: u64 = 16 * SEGMENT;

/// Three times what is live, and a constant.
fn limit(live: u64) -> u64 {
    3 * live + CONSTANT
}

/// Octets of all files in a directory.
fn used(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().filter_map(Result::ok);
    let octets = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => used(&entry.path()),
        // Deleted meanwhile, or a file.
        metadata => metadata.map_or(0, |metadata| metadata.len()),
    };
    entries.map(octets).sum()
}

/// What the directory takes once the keeper's own thread has done its work, or after a long while.
async fn settled(spool: &Spool, directory: &Path) -> (u64, Stat) {
    let began = Instant::now();
    loop {
        let (used, stat) = (used(directory), spool.stat());
        if used <= limit(stat.live_octets) || began.elapsed() > Duration::from_secs(30) {
            return (used, stat);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn live_set(report: &CheckReport) -> (u64, u64, u32) {
    (report.messages, report.recipients, report.live_set)
}

#[test]
fn indexes_checkpoint_and_tail_say_the_same_as_a_full_scan() {
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let mut storage = Simulated::new(seed);
        let mut model = Model::default();
        for life in 0..4 {
            storage.die_at(300 + random.below(300));
            let orderly = random.below(2) == 0;
            live(&mut model, &storage, &mut random, 60, orderly);
            storage = if random.below(2) == 0 { storage.crash(random.number()) } else { storage.after_kill() };
            let shared: Arc<dyn Storage> = Arc::new(storage.clone());

            let fast = check_storage(shared.clone(), false).unwrap();
            let full = check_storage(shared, true).unwrap();

            assert_eq!(live_set(&fast), live_set(&full), "seed {seed}, life {life}");
        }
    }
}
