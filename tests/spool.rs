//! The spool on a real directory: acceptance, outcomes, restart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/spool.rs"]
mod common;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use common::{content, deferred, delivered, envelope, message, octets, open, recover};
use hikyaku::log::disk::Disk;
use hikyaku::log::simulated::Simulated;
use hikyaku::log::storage::Storage;
use hikyaku::spool::NewMessage;

struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn disk(&self) -> Arc<Disk> {
        Arc::new(Disk::new(self.0.path().join("spool")))
    }
}

#[tokio::test]
async fn an_accepted_message_is_read_back_before_and_after_a_restart() {
    let root = Root::new();
    let (spool, recovery) = open(root.disk());
    drop(recovery);
    let id = spool.next_id();
    spool.accept(message(id, 2, 10_000)).await.unwrap();
    assert_eq!(octets(&spool.load(id).unwrap().content), content(id, 10_000));
    spool.close().await;
    drop(spool);

    let (spool, recovery) = open(root.disk());
    let (found, report) = recover(recovery);

    assert_eq!((found.len(), report.recipients, report.damaged), (1, 2, 0));
    assert_eq!((found[0].id, &found[0].envelope), (id, &envelope(2)));
    assert_eq!(octets(&spool.load(id).unwrap().content), content(id, 10_000));
    assert_ne!(spool.next_id(), id);
}

#[tokio::test]
async fn finished_recipients_do_not_come_back() {
    let root = Root::new();
    let (spool, recovery) = open(root.disk());
    drop(recovery);
    let (one, two) = (spool.next_id(), spool.next_id());
    let mx = "127.0.0.1:25".parse().unwrap();
    spool.accept(message(one, 1, 100)).await.unwrap();
    spool.accept(message(two, 3, 100)).await.unwrap();
    spool.record(one, &[delivered(0)]);
    spool.record(two, &[delivered(0), deferred(2, 2)]);
    spool.attempt(two, &[1], mx).await.unwrap();
    spool.close().await;
    drop(spool);

    let (_spool, recovery) = open(root.disk());
    let (found, report) = recover(recovery);

    assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [two]);
    let mut pending = found[0].pending.clone();
    pending.sort_by_key(|pending| pending.recipient);
    assert_eq!(pending.iter().map(|pending| pending.recipient).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((pending[0].in_doubt, pending[1].attempts), (Some(mx), 2));
    assert_eq!(report.in_doubt, 1);
}

#[tokio::test]
async fn large_contents_go_through_spill_files() {
    let root = Root::new();
    let (spool, recovery) = open(root.disk());
    drop(recovery);
    let (one, two) = (spool.next_id(), spool.next_id());
    spool.accept(message(one, 1, 1_000_000)).await.unwrap();
    let mut file = spool.spill().unwrap();
    let whole = content(two, 700_000);
    whole.chunks(65_536).for_each(|chunk| file.write(chunk).unwrap());
    let content_of_two = file.content(Bytes::from_static(b"Received: x\r\n"), 100_000).unwrap();
    let new = NewMessage { id: two, envelope: envelope(1), content: content_of_two, ended_at: Instant::now() };
    spool.accept(new).await.unwrap();
    spool.close().await;
    drop(spool);

    let (spool, recovery) = open(root.disk());
    recover(recovery);

    assert_eq!(octets(&spool.load(one).unwrap().content), content(one, 1_000_000));
    let loaded = octets(&spool.load(two).unwrap().content);
    assert_eq!(loaded[..13], b"Received: x\r\n"[..]);
    assert_eq!(loaded[13..], whole[100_000..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_share_commits_over_many_segments() {
    let root = Root::new();
    let (spool, recovery) = open(root.disk());
    drop(recovery);
    let session = |_| {
        let spool = spool.clone();
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..20 {
                let id = spool.next_id();
                spool.accept(message(id, 1, 5_000)).await.unwrap();
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
    let batches = spool.stat().batches;
    spool.close().await;
    drop(spool);

    let (_spool, recovery) = open(root.disk());
    let (found, report) = recover(recovery);

    assert!(batches < 1000, "{batches} commits");
    assert_eq!((found.len(), report.in_doubt), (1000, 1000));
    ids.sort_unstable();
    let mut raised: Vec<_> = found.iter().map(|found| found.id).collect();
    raised.sort_unstable();
    assert_eq!(raised, ids);
}

#[tokio::test]
async fn starts_that_are_killed_before_they_recover_do_not_add_up() {
    let mut storage = Arc::new(Simulated::new(1));
    let (spool, recovery) = open(storage.clone());
    drop(recovery);
    let id = spool.next_id();
    spool.accept(message(id, 1, 1_000)).await.unwrap();
    let segments = |storage: &Simulated| {
        let files = storage.list("segments").unwrap();
        files.iter().filter(|file| file.name.ends_with(".seg")).count()
    };

    for _ in 0..6 {
        let killed = Arc::new(storage.after_kill());
        let opened = open(killed.clone());
        storage = Arc::new(killed.after_kill());
        drop(opened);
    }

    // The one with the message, one that was never used, and two of the last start.
    assert!(segments(&storage.after_kill()) <= 4, "{}", segments(&storage.after_kill()));
    let (spool, recovery) = open(Arc::new(storage.after_kill()));
    let (found, report) = recover(recovery);
    assert_eq!((found.len(), found[0].id, report.damaged), (1, id, 0));
    assert_eq!(octets(&spool.load(id).unwrap().content), content(id, 1_000));
}

#[tokio::test]
async fn a_start_that_is_abandoned_leaves_the_segments_that_it_found() {
    let root = Root::new();
    let (spool, recovery) = open(root.disk());
    drop(recovery);
    let id = spool.next_id();
    spool.accept(message(id, 1, 1_000)).await.unwrap();
    spool.close().await;
    drop(spool);
    let segments = || {
        let files = std::fs::read_dir(root.0.path().join("spool/segments")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".seg")).collect::<std::collections::BTreeSet<_>>()
    };
    let before = segments();

    for _ in 0..3 {
        let (spool, recovery) = open(root.disk());
        drop(recovery);
        spool.abandon().await;
        assert_eq!(segments(), before);
    }

    let (spool, recovery) = open(root.disk());
    let (found, report) = recover(recovery);
    assert_eq!((found.len(), report.damaged, found[0].id), (1, 0, id));
    let second = spool.next_id();
    spool.accept(message(second, 1, 1_000)).await.unwrap();
    spool.abandon().await;
    drop((spool, found));
    let (found, _) = recover(open(root.disk()).1);
    assert_eq!(found.len(), 2, "what holds something stays");
}
