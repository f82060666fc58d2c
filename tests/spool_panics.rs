//! Panics in the spool's threads, provoked by a storage that panics: the log fails closed, the others go on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/spool.rs"]
mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{delivered, message, recover, settings, try_open};
use hikyaku::clock::Clock;
use hikyaku::log::simulated::{Operation, Simulated};
use hikyaku::message::MessageId;
use hikyaku::metrics::Registry;
use hikyaku::spool::{AcceptError, Settings, Spool};

fn small() -> Settings {
    Settings { segment_size: 256 << 10, ..settings() }
}

fn start(storage: &Simulated) -> (Spool, Registry) {
    let registry = Registry::new().unwrap();
    let (spool, recovery) = Spool::open(small(), Arc::new(storage.clone()), Clock::system(), &registry).unwrap();
    recover(recovery);
    (spool, registry)
}

/// Panics at the next call that `is_it`, once.
fn panic_once(storage: &Simulated, is_it: impl Fn(Operation, &str) -> bool + Send + 'static) -> Arc<AtomicBool> {
    let (is_over, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (over, tell) = (is_over, told.clone());
    storage.inject(move |operation, name| {
        if is_it(operation, name) && !over.swap(true, Ordering::SeqCst) {
            tell.store(true, Ordering::SeqCst);
            panic!("a bug in the disk");
        }
        None
    });
    told
}

fn panics(registry: &Registry, task: &str) -> u64 {
    let line = format!("hikyaku_task_panics_total{{task=\"{task}\"}} ");
    let text = registry.render();
    text.lines().find_map(|found| found.strip_prefix(&line)).unwrap().parse().unwrap()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn a_panic_while_committing_fails_closed(other: bool) {
    let storage = Simulated::new(1);
    let (spool, registry) = start(&storage);
    let first = spool.next_id();
    spool.accept(message(first, 1, 1_000)).await.unwrap();
    panic_once(&storage, |operation, name| operation == Operation::SyncData && name.ends_with(".seg"));

    // Alone a session commits its message itself; with company the committer's thread does it.
    let (one, two) = (spool.next_id(), spool.next_id());
    let answers = if other {
        let (a, b) = tokio::join!(spool.accept(message(one, 1, 1_000)), spool.accept(message(two, 1, 1_000)));
        vec![a, b]
    } else {
        vec![spool.accept(message(one, 1, 1_000)).await]
    };

    // No 250, and none is claimed to be withdrawn: nobody knows what the disk has.
    let is_open = |answer: &Result<(), AcceptError>| matches!(answer, Err(AcceptError::Unknown | AcceptError::Closed));
    assert!(answers.iter().all(is_open), "{answers:?}");
    // The sessions are told while the committer still unwinds.
    until("421, and not ready", || spool.health() == Err(AcceptError::Closed));
    assert!(spool.stat().fault);
    assert_eq!(spool.accept(message(spool.next_id(), 1, 1_000)).await, Err(AcceptError::Closed));
    assert_eq!(panics(&registry, "committer"), 1);
    spool.close().await;
    drop(spool);
    storage.heal();
    let (_spool, recovery) = try_open(Arc::new(storage.after_kill()), small()).unwrap();
    let raised: BTreeSet<MessageId> = recover(recovery).0.iter().map(|found| found.id).collect();
    assert!(raised.contains(&first), "what was acknowledged is there after a restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_a_session_that_commits_its_message_itself_is_a_fault_of_the_log() {
    a_panic_while_committing_fails_closed(false).await;
}

#[tokio::test]
async fn a_panic_of_the_committer_is_a_fault_of_the_log() {
    a_panic_while_committing_fails_closed(true).await;
}

#[tokio::test]
async fn a_panic_of_whoever_writes_outcomes_is_a_fault_of_the_log() {
    let storage = Simulated::new(2);
    let (spool, registry) = start(&storage);
    let id = spool.next_id();
    spool.accept(message(id, 1, 1_000)).await.unwrap();
    panic_once(&storage, |operation, name| operation == Operation::Write && name.ends_with(".seg"));

    let attempted = spool.attempt(id, &[0], "192.0.2.1:25".parse().unwrap()).await;

    assert!(attempted.is_err(), "content may not leave without its attempt");
    assert!(spool.stat().fault);
    assert_eq!(panics(&registry, "committer"), 1);
}

#[tokio::test]
async fn after_a_panic_the_keeper_goes_on() {
    let storage = Simulated::new(3);
    let (spool, registry) = start(&storage);
    let has_panicked = panic_once(&storage, |operation, name| operation == Operation::Create && name.contains(".idx"));

    for _ in 0..20 {
        let id = spool.next_id();
        spool.accept(message(id, 1, 60_000)).await.unwrap();
        spool.record(id, &[delivered(0)]);
    }

    until("a panic", || has_panicked.load(Ordering::SeqCst));
    until("dead segments deleted", || spool.stat().deleted >= 3);
    assert_eq!(panics(&registry, "keeper"), 1);
    assert_eq!(spool.health(), Ok(()));
}

#[tokio::test]
async fn after_a_panic_segments_are_made_ahead_again() {
    let storage = Simulated::new(4);
    let (spool, registry) = start(&storage);
    let has_panicked = panic_once(&storage, |operation, _| operation == Operation::Fill);

    for _ in 0..20 {
        let id = spool.next_id();
        // A message that comes while there is no segment is refused for now.
        while spool.accept(message(id, 1, 60_000)).await == Err(AcceptError::Full) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    assert!(has_panicked.load(Ordering::SeqCst));
    assert_eq!(panics(&registry, "committer"), 1);
    assert_eq!((spool.health(), spool.stat().messages), (Ok(()), 20));
}

#[test]
fn a_panic_of_recovery_is_told_and_nothing_is_deleted_after_it() {
    let storage = Simulated::new(5);
    let (spool, _) = start(&storage);

    let panic = hikyaku::panics::Bulkhead::default().call(|| panic!("a bug")).map(|()| 0).unwrap_err();
    spool.recovery_panicked(&panic);

    assert_eq!(spool.recovery_failure().as_deref(), Some("panic: a bug"));
}
