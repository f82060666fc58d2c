//! Damaged segments: only what is damaged is affected, all of it is kept in quarantine, the spool opens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/spool.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{content, delivered, message, octets, recover, settings, try_open};
use hikyaku::log::simulated::{Random, Simulated};
use hikyaku::log::storage::Storage;
use hikyaku::message::MessageId;
use hikyaku::spool::{LoadError, Recovered, Settings, check_storage};

fn start(storage: &Simulated) -> (hikyaku::spool::Spool, hikyaku::spool::Recovery) {
    let settings = Settings { segment_size: 256 << 10, ..settings() };
    try_open(Arc::new(storage.clone()), settings).unwrap()
}

/// A closed spool: its unfinished messages with their lengths, and the finished ones.
fn sample(seed: u64) -> (Simulated, BTreeMap<MessageId, usize>, BTreeSet<MessageId>) {
    let mut random = Random::new(seed);
    let storage = Simulated::new(seed);
    let (spool, recovery) = start(&storage);
    recover(recovery);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut live, mut finished) = (BTreeMap::new(), BTreeSet::new());
    runtime.block_on(async {
        for _ in 0..120 {
            let id = spool.next_id();
            let length = random.below(8_000) as usize;
            spool.accept(message(id, 1, length)).await.unwrap();
            if random.below(4) == 0 {
                spool.record(id, &[delivered(0)]);
                finished.insert(id);
            } else {
                live.insert(id, length);
            }
        }
    });
    spool.close_blocking();
    drop(spool);
    (storage.after_kill(), live, finished)
}

fn segments(storage: &Simulated) -> Vec<String> {
    let entries = storage.list("segments").unwrap();
    entries.into_iter().map(|entry| format!("segments/{}", entry.name)).filter(|name| name.ends_with(".seg")).collect()
}

/// Changes some octets of a segment in one of the ways disks, controllers and people do.
fn damage(octets: &mut Vec<u8>, random: &mut Random) {
    let used = octets.iter().rposition(|&octet| octet != 0).map_or(0, |last| last + 1);
    let at = random.below(used as u64) as usize;
    let length = (1 + random.below(3_000) as usize).min(used - at);
    match random.below(7) {
        0 => octets.truncate(at),
        1 => octets[at] ^= 1 << random.below(8),
        2 => octets[at..at + length].fill(0),
        3 => octets[at..at + length].iter_mut().for_each(|octet| *octet ^= 0x5a),
        4 => {
            let other = random.below((used - length + 1) as u64) as usize;
            octets.copy_within(other..other + length, at);
        }
        5 => {
            let (at, other) = (at / 512 * 512, random.below(used as u64) as usize / 512 * 512);
            for index in 0..512.min(octets.len() - at.max(other)) {
                octets.swap(at + index, other + index);
            }
        }
        _ => octets[..40].copy_from_slice(&[0xee; 40]),
    }
}

#[test]
fn damage_affects_only_what_it_hits() {
    let count = if std::env::var_os("HIKYAKU_FULL").is_some() { 5_000 } else { 300 };
    println!("runs: {count}");
    for seed in 0..count {
        let mut random = Random::new(seed);
        let (storage, live, finished) = sample(seed % 10);
        let names = segments(&storage);
        let name = &names[random.below(names.len() as u64) as usize];
        let before = whole(&storage, name);
        if random.below(2) == 0 {
            names.iter().for_each(|name| drop(storage.remove(&name.replace(".seg", ".idx"))));
        }
        storage.damage(name, |octets| damage(octets, &mut random)).unwrap();
        let after = whole(&storage, name);
        let is_hit = |id: MessageId, length: usize| !is_intact(&before, &after, id, length);

        let checked = check_storage(Arc::new(storage.clone()), true).unwrap();
        let (spool, recovery) = start(&storage);
        let (found, report) = recover(recovery);
        let raised: BTreeSet<_> = found.iter().map(|found| found.id).collect();

        let mut unreadable = 0;
        for (&id, &length) in &live {
            match raised.contains(&id).then(|| spool.load(id)) {
                Some(Ok(loaded)) => assert_eq!(octets(&loaded.content), content(id, length), "seed {seed}"),
                Some(Err(LoadError::Damaged)) | None => {
                    assert!(is_hit(id, length), "seed {seed}: {id} was not hit and is lost");
                    unreadable += 1;
                }
                Some(Err(error)) => panic!("seed {seed}: {error}"),
            }
        }
        let back = raised.iter().filter(|id| finished.contains(id)).count();
        assert!(raised.iter().all(|id| live.contains_key(id) || finished.contains(id)), "seed {seed}: phantom");
        let stat = spool.stat();
        // Damage that takes the last batches and the one that names their end as synced looks like a torn tail; of one that ends
        // where a record does nothing is left to be seen.
        let reported = stat.damaged + stat.tail;
        assert!(
            unreadable + back == 0 || reported > 0 || unreadable == 0 && is_cut_off(&before, &after),
            "seed {seed}: {unreadable} lost, {back} back, unreported"
        );
        assert!(
            unreadable == 0 || !checked.is_sound() || !checked.tail.is_empty(),
            "seed {seed}: the check saw nothing"
        );
        let kept = storage.list("quarantine").unwrap().len() as u64;
        assert!(stat.damaged == 0 || kept > 0, "seed {seed}: nothing in quarantine");
        assert_eq!(report.messages, raised.len() as u64);
        spool.close_blocking();
    }
}

fn whole(storage: &Simulated, name: &str) -> Vec<u8> {
    let file = storage.open(name).unwrap();
    let mut octets = vec![0; file.size().unwrap() as usize];
    file.read_at(&mut octets, 0).unwrap();
    octets
}

/// Whether nothing is wrong but that the end is missing.
fn is_cut_off(before: &[u8], after: &[u8]) -> bool {
    let used = after.iter().rposition(|&octet| octet != 0).map_or(0, |last| last + 1);
    before.starts_with(&after[..used])
}

/// Whether the record of a message is in the segment and unchanged, with a margin for its header, or not in it at all.
fn is_intact(before: &[u8], after: &[u8], id: MessageId, length: usize) -> bool {
    let needle = [&[1, 8], &id.0.to_le_bytes()[..]].concat();
    let Some(at) = before.windows(needle.len()).position(|window| window == needle) else { return true };
    let range = at - 20..(at + length + 300).min(before.len());
    after.get(range.clone()) == before.get(range)
}

#[test]
fn a_segment_with_both_headers_gone_is_kept_whole() {
    let (storage, live, _) = sample(3);
    let names = segments(&storage);
    for name in &names {
        let _ = storage.remove(&name.replace(".seg", ".idx"));
    }
    storage.damage(&names[0], |octets| octets[..4096].fill(0)).unwrap();

    let (spool, recovery) = start(&storage);
    let (found, report) = recover(recovery);

    assert!(!found.is_empty() && found.len() < live.len());
    assert_eq!((report.damaged, spool.stat().damaged), (1, 1));
    assert_eq!(storage.list("quarantine").unwrap()[0].size, 256 << 10);
}

#[test]
fn recovery_twice_gives_the_same_and_keeps_damage_once() {
    let (storage, ..) = sample(5);
    let names = segments(&storage);
    for name in &names {
        let _ = storage.remove(&name.replace(".seg", ".idx"));
    }
    storage.damage(&names[0], |octets| octets[20_000..20_100].fill(0)).unwrap();

    let once = {
        let (spool, recovery) = start(&storage);
        let found = recover(recovery).0;
        spool.close_blocking();
        found
    };
    let kept = storage.list("quarantine").unwrap();
    let again = {
        let (spool, recovery) = start(&storage.after_kill());
        let found = recover(recovery).0;
        spool.close_blocking();
        found
    };

    let ids = |found: &[hikyaku::spool::Recovered]| found.iter().map(|found| found.id).collect::<BTreeSet<_>>();
    assert_eq!(ids(&once), ids(&again));
    assert_eq!(storage.list("quarantine").unwrap(), kept);
}

/// Accepts one message and closes the spool.
fn accept_one(storage: &Simulated) -> MessageId {
    let (spool, recovery) = start(storage);
    recover(recovery);
    let id = spool.next_id();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(spool.accept(message(id, 1, 500))).unwrap();
    spool.close_blocking();
    id
}

fn raised(storage: &Simulated) -> BTreeSet<MessageId> {
    let (_spool, recovery) = start(storage);
    recover(recovery).0.iter().map(|found| found.id).collect()
}

#[test]
fn ids_are_never_given_twice_though_every_header_of_a_start_is_gone() {
    let kept = ["mark", "index", "both"];
    for keep in kept {
        let mut storage = Simulated::new(1);
        let first = accept_one(&storage);
        storage = storage.after_kill();
        for name in segments(&storage) {
            storage.damage(&name, |octets| octets[..4096].fill(0)).unwrap();
        }
        for entry in storage.list("segments").unwrap() {
            let is_lost = match keep {
                "mark" => entry.name.ends_with(".idx"),
                "index" => entry.name.ends_with(".start"),
                _ => false,
            };
            if is_lost {
                storage.remove(&format!("segments/{}", entry.name)).unwrap();
            }
        }

        let checked = check_storage(Arc::new(storage.clone()), false).unwrap();
        let second = accept_one(&storage);

        assert_ne!(first, second, "{keep}");
        assert!(!checked.is_sound(), "{keep}");
        let expected = if keep == "mark" { vec![second] } else { vec![first, second] };
        assert_eq!(raised(&storage), BTreeSet::from_iter(expected), "{keep}");
        assert!(!storage.list("quarantine").unwrap().is_empty(), "{keep}");
    }
}

/// Puts the octets of one segment into another.
fn overwrite(storage: &Simulated, from: &str, to: &str) {
    let octets = whole(storage, from);
    storage.damage(to, |there| *there = octets).unwrap();
}

#[test]
fn a_segment_under_another_number_is_damage_and_raises_nothing_that_was_delivered() {
    for (seed, has_indexes) in [(1, true), (2, false), (3, true), (4, false)] {
        let (storage, live, finished) = sample(seed);
        let names = segments(&storage);
        let (one, two) = (&names[0], &names[1]);
        let octets_of_one = whole(&storage, one);
        overwrite(&storage, two, one);
        if seed > 2 {
            storage.damage(two, |there| *there = octets_of_one.clone()).unwrap();
        }
        if !has_indexes {
            names.iter().for_each(|name| drop(storage.remove(&name.replace(".seg", ".idx"))));
        }

        let before = check_storage(Arc::new(storage.clone()), true).unwrap();
        let (spool, recovery) = start(&storage);
        let (found, report) = recover(recovery);

        assert!(!before.is_sound() && report.damaged > 0, "seed {seed}");
        let kept = storage.list("quarantine").unwrap();
        assert!(kept.iter().any(|entry| entry.size == 256 << 10), "seed {seed}: {kept:?}");
        for Recovered { id, .. } in found {
            match spool.load(id) {
                Ok(loaded) => assert_eq!(octets(&loaded.content), content(id, live[&id]), "seed {seed}"),
                // Of a segment that is known by its index only.
                Err(LoadError::Damaged) => assert!(has_indexes && live.contains_key(&id), "seed {seed}"),
                Err(error) => panic!("seed {seed}: {error}"),
            }
            assert!(has_indexes || !finished.contains(&id), "seed {seed}: {id} was delivered and is back");
        }
        spool.close_blocking();
    }
}

#[test]
fn a_copy_of_a_segment_under_a_new_number_is_taken_away() {
    let (storage, live, _) = sample(1);
    let names = segments(&storage);
    let copy = "segments/00000000000000ff.seg";
    storage.create(copy).unwrap();
    overwrite(&storage, &names[0], copy);

    let (spool, recovery) = start(&storage);
    let (found, report) = recover(recovery);

    assert_eq!((report.damaged, found.len()), (1, live.len()));
    assert!(storage.open(copy).is_err());
    assert!(!check_storage(Arc::new(storage.clone()), false).unwrap().is_sound());
    spool.close_blocking();
}

#[test]
fn the_header_of_an_older_segment_is_none() {
    for has_index in [true, false] {
        let (storage, live, _) = sample(2);
        let names = segments(&storage);
        let stale = whole(&storage, &names[0])[..4096].to_vec();
        storage.damage(&names[1], |octets| octets[..4096].copy_from_slice(&stale)).unwrap();
        if !has_index {
            storage.remove(&names[1].replace(".seg", ".idx")).unwrap();
        }

        let (spool, recovery) = start(&storage);
        let (found, report) = recover(recovery);

        assert_eq!(report.damaged, 1);
        assert!(found.iter().all(|found| spool.load(found.id).is_ok()));
        assert_eq!(found.len() == live.len(), has_index);
        spool.close_blocking();
    }
}

#[test]
fn mail_accepted_after_damage_to_several_segments_is_kept() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let (mut storage, live, finished) = sample(seed % 10);
        for name in segments(&storage) {
            if random.below(3) > 0 {
                storage.damage(&name, |octets| damage(octets, &mut random)).unwrap();
            }
            if random.below(2) == 0 {
                let _ = storage.remove(&name.replace(".seg", ".idx"));
            }
        }
        let mut later = BTreeSet::new();
        for _ in 0..3 {
            assert!(later.insert(accept_one(&storage)), "seed {seed}: an id came twice");
            storage = storage.after_kill();
        }

        let raised = raised(&storage);

        assert!(later.is_subset(&raised), "seed {seed}: {later:?} are not in {raised:?}");
        assert!(later.iter().all(|id| !live.contains_key(id) && !finished.contains(id)), "seed {seed}");
    }
}
