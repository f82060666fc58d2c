//! Segments that are gone, and damage to the end, as the inventory tells them.

use super::*;
use crate::log::segment::FIRST;
use crate::state::suppression::inventory::FILE;

/// A list of as many starts and segments; the last one ends as a stop does, or as a kill does.
fn list_of(starts: u32, is_closed: bool) -> Arc<Simulated> {
    let storage = storage(1);
    for number in 1..=starts {
        let list = fresh(&storage);
        let changes = ["a", "b"].map(|name| add(&format!("{name}{number}@x.example")));
        list.apply(&changes, NOW).unwrap();
        if is_closed {
            list.close().unwrap();
        }
    }
    storage
}

fn without(storage: &Simulated, sequences: &[u32]) -> Arc<Simulated> {
    let storage = storage.after_kill();
    sequences.iter().for_each(|sequence| storage.remove(&segments::path(*sequence)).unwrap());
    Arc::new(storage)
}

fn found(storage: &Arc<Simulated>) -> Vec<(FindingKind, String)> {
    let opened = Suppression::open_with(storage.clone(), NOW, SMALL).unwrap();
    opened.findings.into_iter().map(|finding| (finding.kind, finding.file)).collect()
}

fn missing(sequences: &[u32]) -> Vec<(FindingKind, String)> {
    sequences.iter().map(|sequence| (FindingKind::Missing, segments::path(*sequence))).collect()
}

#[test]
fn segments_that_are_gone_are_told_at_every_start_until_another_one_is_made() {
    for is_closed in [true, false] {
        let whole = list_of(3, is_closed);
        assert_eq!(found(&without(&whole, &[])), []);
        // One with older ones beside it is told for as long as they are there.
        for (gone, still) in [(&[1][..], &[][..]), (&[2], &[2]), (&[3], &[3]), (&[1, 2, 3], &[])] {
            let storage = without(&whole, gone);

            assert_eq!(found(&storage), missing(gone));
            let list = fresh(&storage);
            assert_eq!(targets(&list, NOW).len(), 2 * (3 - gone.len()));
            list.close().unwrap();
            assert_eq!(found(&storage), missing(gone), "again");
            list.apply(&[add("new@x.example")], NOW).unwrap();
            assert!(storage.open(&segments::path(4)).is_ok(), "no number comes twice");
            assert_eq!(found(&storage), missing(still));
        }
    }
}

#[test]
fn a_list_of_an_earlier_version_is_taken_up_as_it_is_and_noted_from_the_first_change_on() {
    let storage = without(&list_of(3, true), &[3]);
    storage.remove(FILE).unwrap();
    assert_eq!(found(&storage), []);

    fresh(&storage).apply(&[add("new@x.example")], NOW).unwrap();

    assert_eq!(found(&storage), []);
    assert_eq!(found(&without(&storage, &[3])), missing(&[3]));
}

#[test]
fn an_inventory_that_is_damaged_is_told_and_that_of_a_backup_says_nothing_of_newer_segments() {
    let storage = list_of(2, true);
    let damaged = Arc::new(storage.after_kill());
    damaged.damage(FILE, |octets| octets[30] ^= 1).unwrap();
    let file = storage.open(FILE).unwrap();
    let mut early = vec![0; file.size().unwrap() as usize];
    file.read_at(&mut early, 0).unwrap();
    let list = Suppression::open_with(storage.clone(), NOW, Tuning { slack: 0, few: 0, ..SMALL }).unwrap().list;
    list.apply(&["a1", "b1", "a2"].map(|name| remove(&format!("{name}@x.example"))), NOW).unwrap();
    while list.upkeep(NOW).unwrap().has_more {}
    assert!(storage.open(&segments::path(1)).is_err());
    let mixed = Arc::new(storage.after_kill());
    mixed.damage(FILE, |octets| *octets = early).unwrap();

    assert_eq!(found(&damaged), [(FindingKind::Unlisted, FILE.to_owned())]);
    assert_eq!((found(&mixed), targets(&fresh(&mixed), NOW)), (vec![], vec!["b2@x.example".to_owned()]));
}

#[test]
fn what_cannot_be_read_at_the_end_is_damage_after_a_stop_and_a_tail_after_a_kill() {
    for (is_closed, kind) in [(true, FindingKind::Damaged), (false, FindingKind::Tail)] {
        let storage = list_of(2, is_closed);
        storage
            .damage(&segments::path(2), |octets| {
                let at = octets.windows(12).position(|part| part == b"b2@x.example").unwrap();
                octets[at] ^= 1;
            })
            .unwrap();

        assert_eq!(found(&storage), [(kind, segments::path(2))]);
        assert_eq!(targets(&fresh(&storage), NOW), ["a1@x.example", "b1@x.example", "a2@x.example"]);
        assert_eq!(found(&storage), [], "told once");
    }
}

#[test]
fn records_that_were_cut_off_between_two_of_them_are_damage() {
    // Of the last segment the inventory says how long it was, of others the next one does.
    for sequence in [1, 2] {
        let storage = list_of(2, true);
        let list = fresh(&storage);
        let places: Vec<_> = ["a", "b"]
            .map(|name| {
                let key =
                    list.shared.keyed.key(&format!("{name}{sequence}@x.example").parse().unwrap(), &Scope::Global);
                list.shared.index.snapshot().find(key, Reach::ALL[0]).unwrap().offset()
            })
            .into();
        let mut end = 0;
        storage
            .damage(&segments::path(sequence), |octets| {
                end = octets.len() as u64;
                octets.truncate(places[1] as usize);
            })
            .unwrap();

        let opened = Suppression::open_with(storage.clone(), NOW, SMALL).unwrap();

        let (file, kind) = (segments::path(sequence), FindingKind::Damaged);
        assert_eq!(opened.findings, [Finding { file, range: places[1]..end, kind }]);
        assert_eq!(targets(&opened.list, NOW).len(), 3);
        assert_eq!(found(&storage), [], "told once");
    }
}

#[test]
fn a_change_that_comes_after_the_stop_was_noted_is_kept() {
    let storage = list_of(1, true);
    let list = fresh(&storage);
    list.apply(&[add("a@x.example")], NOW).unwrap();
    list.close().unwrap();

    list.apply(&[add("late@x.example")], NOW).unwrap();

    assert_eq!(found(&storage), []);
    assert!(is_suppressed(&fresh(&storage), "late@x.example"));
}

#[test]
fn the_newest_segment_with_anything_in_it_is_missed_whenever_the_power_was_cut() {
    let mut seen = 0;
    for seed in 0..200 {
        let storage = storage(seed);
        let list = fresh(&storage);
        storage.die_at(storage.calls() + Random::new(seed).below(300));
        for number in 0.. {
            if storage.is_dead() {
                break;
            }
            let changes: Vec<_> = (0..50).map(|one| add(&format!("{number}.{one}@x.example"))).collect();
            let _ = list.apply(&changes, NOW);
        }
        let crashed = storage.crash(seed);
        let names = crashed.list(segments::DIRECTORY).unwrap().into_iter();
        let newest = names.filter(|entry| entry.name.ends_with(".log") && entry.size > FIRST).map(|entry| entry.name);
        let Some(newest) = newest.max() else { continue };
        let newest = format!("{}/{newest}", segments::DIRECTORY);

        crashed.remove(&newest).unwrap();

        let opened = open_at(crashed, NOW);
        assert!(opened.findings.iter().any(|it| it.file == newest && it.kind == FindingKind::Missing), "{seed}");
        seen += 1;
    }
    assert!(seen > 100, "{seen}");
}
