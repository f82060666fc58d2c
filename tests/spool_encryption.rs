//! An encrypted spool: everything comes back, nothing of it can be read without the key, keys can be changed, and a key that
//! is missing loses nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/spool.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use common::{content, deferred, delivered, envelope, keys, message, octets, recover, settings, try_open};
use hikyaku::log::disk::Disk;
use hikyaku::log::record::Lengths;
use hikyaku::log::segment::{BATCH, FIRST};
use hikyaku::log::simulated::{Random, Simulated};
use hikyaku::log::storage::Storage;
use hikyaku::message::{Content, MessageId};
use hikyaku::spool::{Event, Keys, LoadError, NewMessage, OpenError, RecipientEvent, Settings, Spool, check_with};

fn start(storage: Arc<dyn Storage>, keys: Keys) -> Spool {
    let settings = Settings { segment_size: 256 << 10, keys, ..settings() };
    let (spool, recovery) = try_open(storage, settings).unwrap();
    let (_, report) = recover(recovery);
    assert_eq!((report.damaged, report.unread), (0, 0));
    spool
}

/// Everything in a storage, by name.
fn files(storage: &Simulated) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for directory in ["segments", "spill", "quarantine", "quarantine/tail", "state"] {
        for entry in storage.list(directory).unwrap() {
            let name = format!("{directory}/{}", entry.name);
            let Ok(file) = storage.open(&name) else { continue };
            let mut octets = vec![0; file.size().unwrap() as usize];
            file.read_at(&mut octets, 0).unwrap();
            found.insert(name, octets);
        }
    }
    found
}

fn contains(octets: &[u8], what: &[u8]) -> bool {
    octets.windows(what.len()).any(|window| window == what)
}

/// A message, its content, its envelope and what became of it, in each way that the spool stores one.
async fn fill(spool: &Spool, canary: &str) -> BTreeMap<MessageId, Bytes> {
    let mut live = BTreeMap::new();
    let mut envelope = (*envelope(2)).clone();
    envelope.recipients[0].forward_path = format!("{canary}@example.com").parse().unwrap();
    envelope.envid = Some(canary.into());
    let envelope = Arc::new(envelope);
    let text = |length: usize| Bytes::from(format!("Subject: {canary}\r\n\r\n").repeat(length / canary.len() + 1));
    let mut put = async |content: Content, whole: Bytes| {
        let id = spool.next_id();
        let new = NewMessage { id, envelope: envelope.clone(), content, ended_at: Instant::now() };
        spool.accept(new).await.unwrap();
        live.insert(id, whole);
        id
    };
    for length in [0, 10_000, 300_000] {
        put(Content::Memory(text(length)), text(length)).await;
    }
    let bounced = put(Content::Memory(text(100)), text(100)).await;
    let deferring = put(Content::Memory(text(100)), text(100)).await;
    if let Ok(mut file) = spool.spill() {
        let whole = text(700_000);
        whole.chunks(100_000).for_each(|chunk| file.write(chunk).unwrap());
        let prefix = Bytes::from(format!("X: {canary}\r\n"));
        let all = [&prefix[..], &whole[1_000..]].concat();
        put(file.content(prefix, 1_000).unwrap(), all.into()).await;
    }
    spool.attempt(deferring, &[0], "127.0.0.1:25".parse().unwrap()).await.unwrap();
    spool.record(deferring, &[deferred(0, 3)]);
    let dsn = spool.next_id();
    let report = NewMessage { id: dsn, envelope, content: Content::Memory(text(2_000)), ended_at: Instant::now() };
    let event = RecipientEvent { recipient: 0, event: Event::Bounced };
    spool.conclude(bounced, &[event], report).await.unwrap();
    live.insert(dsn, text(2_000));
    live
}

async fn keep_house(spool: &Spool) {
    let spool = spool.clone();
    tokio::task::spawn_blocking(move || spool.keep_house()).await.unwrap();
}

fn assert_live(spool: &Spool, live: &BTreeMap<MessageId, Bytes>) {
    assert_eq!(spool.stat().messages, live.len() as u64);
    for (id, whole) in live {
        assert!(octets(&spool.load(*id).unwrap().content) == whole, "{id}");
        assert!(spool.envelope(*id).unwrap().recipients.len() == 2);
    }
}

#[tokio::test]
async fn everything_comes_back_from_indexes_and_from_a_scan_and_no_file_shows_any_of_it() {
    const CANARY: &str = "canary-0123456789";
    let storage = Arc::new(Simulated::new(1));
    let spool = start(storage.clone(), keys(&[1], true));
    let live = fill(&spool, CANARY).await;
    spool.close().await;
    drop(spool);

    for is_scanned in [false, true] {
        let storage = Arc::new(storage.after_kill());
        if is_scanned {
            for name in files(&storage).into_keys().filter(|name| name.ends_with(".idx")) {
                storage.remove(&name).unwrap();
            }
        }
        for full in [false, true] {
            let report = check_with(storage.clone(), full, keys(&[1], false)).unwrap();
            assert!(report.is_sound() && report.messages == live.len() as u64, "{report:?}");
        }
        let spool = start(storage.clone(), keys(&[1], true));
        assert_live(&spool, &live);
        keep_house(&spool).await;
        let found = files(&storage);
        assert!(found.keys().any(|name| name.starts_with("spill/")));
        for (name, octets) in found {
            assert!(!contains(&octets, CANARY.as_bytes()) && !contains(&octets, b"example.com"), "{name}");
        }
    }
}

#[tokio::test]
async fn spill_files_that_sessions_write_are_encrypted_and_read_back_after_a_restart() {
    const CANARY: &str = "canary-0123456789";
    let root = tempfile::tempdir().unwrap();
    let disk = || Arc::new(Disk::new(root.path().join("spool")));
    let spool = start(disk(), keys(&[1], true));
    let live = fill(&spool, CANARY).await;
    assert_live(&spool, &live);
    spool.close().await;
    drop(spool);

    let spool = start(disk(), keys(&[2, 1], true));

    assert_live(&spool, &live);
    // Nothing is deleted while the files are read.
    spool.close().await;
    assert_eq!(std::fs::read_dir(root.path().join("spool/spill")).unwrap().count(), 2);
    assert_no_file_contains(root.path(), CANARY.as_bytes());
}

fn assert_no_file_contains(folder: &Path, what: &[u8]) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => assert_no_file_contains(&path, what),
            false => assert!(!contains(&std::fs::read(&path).unwrap(), what), "{}", path.display()),
        }
    }
}

#[tokio::test]
async fn encryption_is_turned_on_and_off_and_keys_change_while_messages_wait() {
    let storage = Arc::new(Simulated::new(1));
    let mut live = BTreeMap::new();
    let ways = [keys(&[], true), keys(&[1], true), keys(&[2, 1], true), keys(&[2, 1], false), keys(&[3, 2, 1], true)];
    for ring in ways {
        let spool = start(storage.clone(), ring);
        assert_live(&spool, &live);
        live.append(&mut fill(&spool, "waits").await);
        spool.close().await;
    }

    assert_live(&start(storage, keys(&[1, 2, 3], true)), &live);
}

#[tokio::test]
async fn what_is_copied_forward_needs_the_old_key_no_more() {
    let storage = Arc::new(Simulated::new(1));
    let spool = start(storage.clone(), keys(&[1], true));
    let waits = fill(&spool, "waits").await;
    let mut goes = Vec::new();
    for _ in 0..60 {
        let id = spool.next_id();
        spool.accept(message(id, 1, 10_000)).await.unwrap();
        goes.push(id);
    }
    spool.close().await;
    drop(spool);

    // Everything old is thin by then, and copied.
    let spool = start(storage.clone(), keys(&[2, 1], true));
    goes.iter().for_each(|id| spool.record(*id, &[delivered(0)]));
    for _ in 0..100 {
        let id = spool.next_id();
        spool.accept(message(id, 1, 10_000)).await.unwrap();
        spool.record(id, &[delivered(0)]);
        keep_house(&spool).await;
    }
    assert!(spool.stat().copied > 0, "{:?}", spool.stat());
    spool.close().await;
    drop(spool);

    assert_live(&start(storage, keys(&[2], true)), &waits);
}

#[tokio::test]
async fn a_wrong_or_missing_key_is_named_and_nothing_is_touched() {
    let storage = Arc::new(Simulated::new(1));
    let spool = start(storage.clone(), keys(&[1], true));
    let live = fill(&spool, "waits").await;
    spool.close().await;
    drop(spool);
    let storage = Arc::new(storage.after_kill());
    let before = files(&storage);

    for wrong in [keys(&[], true), keys(&[2, 3], true), keys(&[2], false)] {
        let error = try_open(storage.clone(), Settings { keys: wrong.clone(), ..settings() }).unwrap_err();
        let (text, checked) = (error.to_string(), check_with(storage.clone(), true, wrong).unwrap_err().to_string());

        assert!(matches!(error, OpenError::Key(_)), "{text}");
        for text in [text, checked] {
            assert!(text.contains("segments/0000000000000001.seg is encrypted with key "), "{text}");
        }
        assert!(files(&storage) == before);
    }
    assert_live(&start(storage, keys(&[1], true)), &live);
}

/// The records of messages in a segment, by their order.
fn records(octets: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut at, mut found) = (FIRST as usize, Vec::new());
    while at < octets.len() {
        if octets[at..].starts_with(b"HKB1") {
            at += BATCH;
            continue;
        }
        let Some(lengths) = Lengths::read(&octets[at..]) else { break };
        let (end, is_message) = (at + lengths.total() as usize, octets[at + 17] == 1);
        if is_message {
            found.push(at..at + lengths.meta as usize + lengths.content as usize);
        }
        at = end;
    }
    found
}

#[tokio::test]
async fn every_changed_octet_of_a_record_is_seen_and_costs_no_other_message() {
    let storage = Arc::new(Simulated::new(1));
    let spool = start(storage.clone(), keys(&[1], true));
    let ids: Vec<MessageId> = (0..3).map(|_| spool.next_id()).collect();
    for id in &ids {
        spool.accept(message(*id, 1, 100)).await.unwrap();
    }
    spool.close().await;
    drop(spool);
    let storage = storage.after_kill();
    let name = "segments/0000000000000001.seg";
    let places = records(&files(&storage)[name]);
    let range = places[1].clone();
    assert!(range.len() > 200);

    for at in range {
        for has_index in [true, false] {
            let storage = Arc::new(storage.after_kill());
            storage.damage(name, |octets| octets[at] ^= 0x20).unwrap();
            if !has_index {
                storage.remove(&name.replace(".seg", ".idx")).unwrap();
            }
            let settings = Settings { segment_size: 256 << 10, keys: keys(&[1], true), ..settings() };
            let (spool, recovery) = try_open(storage.clone(), settings).unwrap();
            recover(recovery);

            let damaged = spool.load(ids[1]);
            // The checksum of a content is stored with the header; before the last sync the tag alone says that it is whole.
            let is_checksum = (4..8).contains(&(at - places[1].start));
            match damaged {
                Ok(loaded) => {
                    assert!(is_checksum && octets(&loaded.content) == content(ids[1], 100), "octet {at}");
                }
                Err(LoadError::Damaged | LoadError::Unknown) => {
                    assert!(!storage.list("quarantine").unwrap().is_empty(), "octet {at}");
                }
                Err(error) => panic!("octet {at}: {error}"),
            }
            for other in [ids[0], ids[2]] {
                assert_eq!(octets(&spool.load(other).unwrap().content), content(other, 100), "octet {at}");
            }
        }
    }
}

#[test]
fn damage_affects_only_what_it_hits() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for seed in 0..if std::env::var_os("HIKYAKU_FULL").is_some() { 1_000 } else { 80 } {
        let mut random = Random::new(seed);
        let storage = Simulated::new(seed);
        let spool = start(Arc::new(storage.clone()), keys(&[1], true));
        let mut lengths = BTreeMap::new();
        for _ in 0..40 {
            let (id, length) = (spool.next_id(), random.below(4_000) as usize);
            runtime.block_on(spool.accept(message(id, 1, length))).unwrap();
            lengths.insert(id, length);
        }
        spool.close_blocking();
        drop(spool);
        let storage = storage.after_kill();
        let name = "segments/0000000000000001.seg";
        let before = files(&storage)[name].clone();
        let places: BTreeMap<MessageId, _> = lengths.keys().copied().zip(records(&before)).collect();
        assert_eq!(places.len(), 40);
        let used = places.values().next_back().unwrap().end as u64;
        let (at, length) = (FIRST + random.below(used - FIRST), 1 + random.below(2_000));
        let hit = at as usize..(at + length).min(used) as usize;
        let garbage: Vec<u8> = hit.clone().map(|_| random.below(256) as u8).collect();
        storage.open(name).unwrap().write_at(&[IoSlice::new(&garbage)], at).unwrap();
        if random.below(2) == 0 {
            storage.remove(&name.replace(".seg", ".idx")).unwrap();
        }

        let settings = Settings { segment_size: 256 << 10, keys: keys(&[1], true), ..settings() };
        let (spool, recovery) = try_open(Arc::new(storage.clone()), settings).unwrap();
        recover(recovery);

        let mut lost = BTreeSet::new();
        for (id, length) in &lengths {
            match spool.load(*id) {
                Ok(loaded) => assert_eq!(octets(&loaded.content), content(*id, *length), "seed {seed}"),
                Err(LoadError::Damaged | LoadError::Unknown) => drop(lost.insert(*id)),
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        for id in &lost {
            let place = &places[id];
            assert!(
                place.start < hit.end && hit.start < place.end.next_multiple_of(8),
                "seed {seed}: {id} was not hit"
            );
        }
        assert!(lost.is_empty() || !storage.list("quarantine").unwrap().is_empty(), "seed {seed}");
    }
}
