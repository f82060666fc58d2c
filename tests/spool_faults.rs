//! Errors from the disk, a full disk, messages that come too late: the spool never lies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/spool.rs"]
mod common;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{content, deferred, delivered, keys, message, octets, recover, settings, try_open};
use hikyaku::clock::Clock;
use hikyaku::log::simulated::{Operation, Simulated};
use hikyaku::log::storage::Storage;
use hikyaku::message::MessageId;
use hikyaku::metrics::Registry;
use hikyaku::spool::{AcceptError, Attempts, Event, RecipientEvent, Settings, Spool, check_with};

fn small() -> Settings {
    Settings { segment_size: 256 << 10, ..settings() }
}

fn start(storage: &Simulated) -> Spool {
    start_with(storage, small())
}

fn start_with(storage: &Simulated, settings: Settings) -> Spool {
    let (spool, recovery) = try_open(Arc::new(storage.clone()), settings).unwrap();
    recover(recovery);
    spool
}

/// The ids that a start on this storage raises.
fn raised(storage: &Simulated) -> BTreeSet<MessageId> {
    let settings = Settings { keys: keys(&[1], false), ..small() };
    let (_spool, recovery) = try_open(Arc::new(storage.clone()), settings).unwrap();
    recover(recovery).0.iter().map(|found| found.id).collect()
}

fn is_open_segment(name: &str) -> bool {
    name.ends_with(".seg")
}

/// Fails the `count` next syncs of a segment that is being written.
fn fail_syncs(storage: &Simulated, count: u64) {
    let left = AtomicU64::new(count);
    storage.inject(move |operation, name| {
        let is_commit = operation == Operation::SyncData && is_open_segment(name);
        let fails =
            is_commit && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        fails.then_some(ErrorKind::Other)
    });
}

#[tokio::test]
async fn a_failed_sync_withdraws_its_messages_and_keeps_outcomes() {
    for seed in 0..40 {
        let storage = Simulated::new(seed);
        // Half of them encrypted: what is written again must be encrypted anew, for its new place.
        let settings = Settings { keys: keys(&[1], seed % 2 == 1), ..small() };
        let spool = start_with(&storage, settings);
        let (before, lost, dsn) = (spool.next_id(), spool.next_id(), spool.next_id());
        let two = spool.next_id();
        spool.accept(message(before, 1, 1000)).await.unwrap();
        spool.accept(message(two, 2, 1000)).await.unwrap();

        // Appended but not synced when the sync fails.
        spool.record(two, &[delivered(0)]);
        storage.inject(fail_once());
        let result = spool.accept(message(lost, 1, 1000)).await;
        assert_eq!(result, Err(AcceptError::Aborted), "seed {seed}");
        storage.inject(fail_once());
        let bounced = RecipientEvent { recipient: 0, event: Event::Bounced };
        spool.conclude(before, &[bounced], message(dsn, 1, 300)).await.unwrap();
        let after = spool.next_id();
        spool.accept(message(after, 1, 1000)).await.unwrap();

        let crashed = storage.crash(seed);
        assert_eq!(raised(&crashed), BTreeSet::from([two, dsn, after]), "seed {seed}");
        let crashed = Arc::new(storage.crash(seed));
        assert!(check_with(crashed, true, keys(&[1], false)).unwrap().is_sound(), "seed {seed}");
    }
}

/// Fails the next sync of a segment.
fn fail_once() -> impl FnMut(Operation, &str) -> Option<ErrorKind> + Send + 'static {
    let done = AtomicBool::new(false);
    move |operation, name| {
        let fails = operation == Operation::SyncData && is_open_segment(name) && !done.swap(true, Ordering::SeqCst);
        fails.then_some(ErrorKind::Other)
    }
}

#[tokio::test]
async fn segments_given_up_are_counted() {
    let (storage, registry) = (Simulated::new(1), Registry::new().unwrap());
    let open = Spool::open(small(), Arc::new(storage.clone()), Clock::system(), &registry);
    let (spool, recovery) = open.unwrap();
    recover(recovery);
    assert!(registry.render().contains("hikyaku_spool_given_up_total 0\n"), "{}", registry.render());

    fail_syncs(&storage, 1);
    let refused = spool.accept(message(spool.next_id(), 1, 100)).await;

    assert_eq!(refused, Err(AcceptError::Aborted));
    assert!(registry.render().contains("hikyaku_spool_given_up_total 1\n"), "{}", registry.render());
    assert!(!spool.stat().fault);
}

#[tokio::test]
async fn when_nothing_can_be_synced_the_client_gets_no_answer_and_accepting_stops() {
    let storage = Simulated::new(1);
    let spool = start(&storage);
    let (kept, unknown) = (spool.next_id(), spool.next_id());
    spool.accept(message(kept, 1, 1000)).await.unwrap();
    fail_syncs(&storage, u64::MAX);

    let result = spool.accept(message(unknown, 1, 1000)).await;

    assert_eq!(result, Err(AcceptError::Unknown));
    assert_eq!(spool.health(), Err(AcceptError::Closed));
    assert_eq!(spool.accept(message(spool.next_id(), 1, 10)).await, Err(AcceptError::Closed));
    assert!(spool.attempt(kept, &[0], "127.0.0.1:25".parse().unwrap()).await.is_err());
    assert!(spool.stat().fault);
    storage.heal();
    assert!(raised(&storage.crash(1)).contains(&kept));
}

#[tokio::test]
async fn a_write_error_is_treated_like_a_failed_sync() {
    let storage = Simulated::new(1);
    let spool = start(&storage);
    let lost = spool.next_id();
    let done = AtomicBool::new(false);
    storage.inject(move |operation, name| {
        let fails = operation == Operation::Write && is_open_segment(name) && !done.swap(true, Ordering::SeqCst);
        fails.then_some(ErrorKind::StorageFull)
    });

    assert_eq!(spool.accept(message(lost, 1, 1000)).await, Err(AcceptError::Aborted));
    let next = spool.next_id();
    spool.accept(message(next, 1, 1000)).await.unwrap();

    assert_eq!(raised(&storage.crash(1)), BTreeSet::from([next]));
}

#[tokio::test]
async fn a_message_that_comes_too_late_is_withdrawn() {
    let storage = Simulated::new(1);
    let settings = Settings { deadline: Duration::from_millis(40), ..small() };
    let spool = start_with(&storage, settings);
    let (late, slow) = (spool.next_id(), spool.next_id());
    let mut new = message(late, 1, 1000);
    new.ended_at = Instant::now().checked_sub(Duration::from_millis(50)).unwrap();
    assert_eq!(spool.accept(new).await, Err(AcceptError::Aborted));

    // The disk stalls: the deadline passes between the write and the end of the sync.
    storage.inject(|operation, name| {
        if operation == Operation::SyncData && is_open_segment(name) {
            std::thread::sleep(Duration::from_millis(60));
        }
        None
    });
    assert_eq!(spool.accept(message(slow, 1, 1000)).await, Err(AcceptError::Aborted));
    storage.heal();

    assert_eq!(raised(&storage.crash(1)), BTreeSet::new());
    assert_eq!(spool.stat().live_octets, 0);
}

#[tokio::test]
async fn a_message_whose_session_went_away_is_withdrawn() {
    let storage = Simulated::new(1);
    let spool = start(&storage);
    let id = spool.next_id();
    storage.inject(|operation, name| {
        if operation == Operation::SyncData && is_open_segment(name) {
            std::thread::sleep(Duration::from_millis(30));
        }
        None
    });
    let accepted = tokio::time::timeout(Duration::from_millis(5), spool.accept(message(id, 1, 1000))).await;
    assert!(accepted.is_err());
    storage.heal();
    spool.close().await;

    assert_eq!(raised(&storage.after_kill()), BTreeSet::new());
}

#[tokio::test]
async fn at_the_reserve_submissions_stop_outcomes_go_on_and_accepting_resumes_above_it() {
    let storage = Simulated::new(1);
    let reserve = (1 << 40) / 20;
    let spool = start(&storage);
    let held = spool.next_id();
    spool.accept(message(held, 1, 1000)).await.unwrap();
    let look = || {
        let spool = spool.clone();
        tokio::task::spawn_blocking(move || spool.keep_house())
    };

    storage.set_free(reserve - 1);
    look().await.unwrap();
    assert_eq!(spool.health(), Err(AcceptError::Full));
    assert_eq!(spool.accept(message(spool.next_id(), 1, 10)).await, Err(AcceptError::Full));
    spool.attempt(held, &[0], "127.0.0.1:25".parse().unwrap()).await.unwrap();
    spool.record(held, &[deferred(0, 1)]);
    spool.record(held, &[delivered(0)]);

    storage.set_free(reserve + 1);
    look().await.unwrap();
    assert_eq!(spool.health(), Err(AcceptError::Full), "no hysteresis");
    storage.set_free(reserve * 2);
    look().await.unwrap();
    spool.accept(message(spool.next_id(), 1, 10)).await.unwrap();
}

#[tokio::test]
async fn without_room_for_a_segment_messages_are_refused_and_accepting_resumes() {
    let storage = Simulated::new(1);
    let spool = start(&storage);
    let full = Arc::new(AtomicBool::new(true));
    let is_full = full.clone();
    storage.inject(move |operation, _| {
        let allocates = matches!(operation, Operation::Create | Operation::Fill);
        (allocates && is_full.load(Ordering::SeqCst)).then_some(ErrorKind::StorageFull)
    });
    let mut accepted = Vec::new();
    let refused = loop {
        let id = spool.next_id();
        match spool.accept(message(id, 1, 50_000)).await {
            Ok(()) => accepted.push(id),
            Err(error) => break error,
        }
        assert!(accepted.len() < 100, "never full");
    };
    assert_eq!(refused, AcceptError::Full);
    // Delivery frees room.
    for &id in &accepted {
        spool.record(id, &[delivered(0)]);
    }
    full.store(false, Ordering::SeqCst);
    let resumed = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let id = spool.next_id();
            if spool.accept(message(id, 1, 50_000)).await.is_ok() {
                return id;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let resumed = resumed.await.expect("accepting resumes");
    spool.close().await;

    assert_eq!(raised(&storage.after_kill()), BTreeSet::from([resumed]));
}

#[tokio::test]
async fn attempts_in_sync_mode_survive_a_power_cut() {
    let storage = Simulated::new(1);
    let spool = start_with(&storage, Settings { attempts: Attempts::Sync, ..small() });
    let id = spool.next_id();
    let mx = "127.0.0.1:25".parse().unwrap();
    spool.accept(message(id, 1, 100)).await.unwrap();
    spool.attempt(id, &[0], mx).await.unwrap();

    let (_spool, recovery) = try_open(Arc::new(storage.crash(7)), small()).unwrap();
    let (found, _) = recover(recovery);

    assert_eq!(found[0].pending[0].in_doubt, Some(mx));
}

#[tokio::test]
async fn outcomes_are_written_and_synced_without_being_waited_for() {
    let storage = Simulated::new(1);
    let spool = start(&storage);
    let id = spool.next_id();
    spool.accept(message(id, 1, 100)).await.unwrap();
    spool.record(id, &[delivered(0)]);

    // Nobody asks for it.
    assert!(until(|| raised(&storage.after_kill()).is_empty()).await, "never written");
    assert!(until(|| (0..20).all(|seed| raised(&storage.crash(seed)).is_empty())).await, "never synced");
}

/// Waits for a condition; false if it does not come true.
async fn until(condition: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > Duration::from_secs(30) {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    true
}

#[tokio::test]
async fn a_full_disk_found_out_by_sync_withdraws_and_keeps_attempts_of_the_batch() {
    for seed in 0..20 {
        let storage = Simulated::new(seed);
        let spool = start(&storage);
        let (held, lost) = (spool.next_id(), spool.next_id());
        let mx = "127.0.0.1:25".parse().unwrap();
        spool.accept(message(held, 1, 1000)).await.unwrap();
        spool.attempt(held, &[0], mx).await.unwrap();
        let mut fails = fail_once();
        storage.inject(move |operation, name| fails(operation, name).map(|_| ErrorKind::StorageFull));

        assert_eq!(spool.accept(message(lost, 1, 1000)).await, Err(AcceptError::Aborted), "seed {seed}");

        let (_spool, recovery) = try_open(Arc::new(storage.crash(seed)), small()).unwrap();
        let (found, _) = recover(recovery);
        assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [held], "seed {seed}");
        // The 50 ms may have been over before the failure; either way it is known.
        assert_eq!(found[0].pending[0].in_doubt, Some(mx), "seed {seed}");
    }
}

/// A spool with a message in each of two segments, the second one of a later start; the first segment's file.
async fn two_starts(storage: &Simulated) -> (MessageId, MessageId, String) {
    let mut ids = Vec::new();
    for _ in 0..2 {
        let spool = start(storage);
        let id = spool.next_id();
        // Enough for its segment not to be thin.
        spool.accept(message(id, 1, 90_000)).await.unwrap();
        ids.push(id);
        spool.close().await;
    }
    (ids[0], ids[1], "segments/0000000000000001.seg".to_owned())
}

#[tokio::test]
async fn a_segment_that_cannot_be_read_is_left_for_a_later_start() {
    let storage = Simulated::new(1);
    let (first, second, bad) = two_starts(&storage).await;
    storage.inject(move |operation, name| (operation == Operation::Read && name == bad).then_some(ErrorKind::Other));

    let (spool, recovery) = try_open(Arc::new(storage.clone()), small()).unwrap();
    let (found, report) = recover(recovery.with_waits(&[]));
    spool.record(second, &[delivered(0)]);
    spool.keep_house();
    let failure = spool.recovery_failure().unwrap();
    let stat = spool.stat();
    spool.close().await;
    storage.heal();
    let later = start(&storage);

    assert_eq!((found.len(), report.unread, found[0].id), (1, 1, second));
    assert!(failure.contains("0000000000000001.seg"), "{failure}");
    assert!(!stat.recovering);
    assert_eq!(later.recovery_failure(), None);
    assert_eq!(octets(&later.load(first).unwrap().content), content(first, 90_000));
    assert_eq!(later.stat().messages, 1);
}

#[tokio::test]
async fn a_read_error_that_passes_is_tried_again() {
    let storage = Simulated::new(1);
    let (first, second, bad) = two_starts(&storage).await;
    let left = AtomicU64::new(0);
    let (spool, recovery) = try_open(Arc::new(storage.clone()), small()).unwrap();
    storage.inject(move |operation, name| {
        let fails = operation == Operation::Read && name == bad && left.fetch_add(1, Ordering::SeqCst) < 2;
        fails.then_some(ErrorKind::Other)
    });

    let (found, report) = recover(recovery.with_waits(&[Duration::ZERO; 2]));

    assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [first, second]);
    assert_eq!((report.unread, spool.recovery_failure()), (0, None));
}

#[tokio::test]
async fn what_became_of_an_unreadable_message_stays_with_it() {
    let storage = Simulated::new(1);
    let (first, _, bad) = two_starts(&storage).await;
    let spool = start(&storage);
    storage.inject(|operation, _| (operation == Operation::Remove).then_some(ErrorKind::Other));
    spool.record(first, &[delivered(0)]);
    spool.close().await;
    drop(spool);
    assert!(storage.open(&bad).is_ok());
    storage.inject(move |operation, name| (operation == Operation::Read && name == bad).then_some(ErrorKind::Other));
    let (spool, recovery) = try_open(Arc::new(storage.clone()), small()).unwrap();
    recover(recovery.with_waits(&[]));
    spool.keep_house();
    spool.keep_house();
    spool.close().await;
    drop(spool);

    storage.heal();

    assert!(!raised(&storage).contains(&first), "its outcome was deleted before it");
}

#[tokio::test]
async fn segments_of_earlier_starts_are_not_written_while_recovering() {
    for has_indexes in [true, false] {
        let storage = Simulated::new(1);
        let (first, second, _) = two_starts(&storage).await;
        let entries = storage.list("segments").unwrap();
        let old: Vec<String> = entries.iter().map(|entry| format!("segments/{}", entry.name)).collect();
        let segments: Vec<String> = old.iter().filter(|name| name.ends_with(".seg")).cloned().collect();
        let touched = Arc::new(AtomicBool::new(false));
        let is_touched = touched.clone();
        if !has_indexes {
            old.iter().filter(|name| name.ends_with(".idx")).for_each(|name| storage.remove(name).unwrap());
        }
        let (spool, recovery) = try_open(Arc::new(storage.clone()), small()).unwrap();
        let written = segments.clone();
        storage.inject(move |operation, name| {
            let changes = matches!(operation, Operation::Write | Operation::Fill | Operation::Rename);
            if changes && written.iter().any(|old| old == name) {
                is_touched.store(true, Ordering::SeqCst);
            }
            None
        });

        let mut found = Vec::new();
        recovery.run(&mut |recovered| {
            spool.record(recovered.id, &[deferred(0, 1)]);
            spool.keep_house();
            assert!(segments.iter().all(|name| storage.open(name).is_ok()), "one was removed");
            found.push(recovered.id);
        });

        assert_eq!(BTreeSet::from_iter(found), BTreeSet::from([first, second]));
        assert!(!touched.load(Ordering::SeqCst), "indexes: {has_indexes}");
    }
}

#[test]
fn a_header_that_nothing_can_replace_is_named() {
    let storage = Simulated::new(1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (.., bad) = runtime.block_on(two_starts(&storage));
    for entry in storage.list("segments").unwrap().iter().filter(|entry| entry.name.ends_with(".start")) {
        storage.remove(&format!("segments/{}", entry.name)).unwrap();
    }
    let name = bad.clone();
    storage.inject(move |operation, name| (operation == Operation::Read && name == bad).then_some(ErrorKind::Other));

    let error = try_open(Arc::new(storage.clone()), small()).unwrap_err();

    assert!(error.to_string().contains(&name), "{error}");
}
