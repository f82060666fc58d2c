//! The whole list against a model, over power cuts, failed syncs and damage.

mod missing;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use proptest::prelude::*;

use crate::log::simulated::{Operation, Random, Simulated};

use super::*;

/// Segments so small that a few dozen changes fill one.
const SMALL: Tuning = Tuning { segment: 16 << 10, slack: 40, few: 6 };
const NOW: UnixTime = UnixTime(6_000);

fn storage(seed: u64) -> Arc<Simulated> {
    let storage = Simulated::new(seed);
    storage.claim(&Suppression::DIRECTORIES).unwrap();
    Arc::new(storage)
}

fn open_at(storage: Simulated, now: UnixTime) -> Opened {
    Suppression::open_with(Arc::new(storage), now, SMALL).unwrap()
}

fn fresh(storage: &Arc<Simulated>) -> Suppression {
    Suppression::open_with(storage.clone(), NOW, SMALL).unwrap().list
}

fn entry(target: &str, scope: Scope, reason: Reason, until: Option<u32>) -> Entry {
    let until = until.map(UnixTime);
    Entry { target: target.parse().unwrap(), scope, reason, source: "test".into(), added: NOW, until }
}

fn add(target: &str) -> Change {
    Change::Add(entry(target, Scope::Global, Reason::Operator, None))
}

fn remove(target: &str) -> Change {
    Change::Remove { target: target.parse().unwrap(), scope: Scope::Global }
}

fn targets(list: &Suppression, now: UnixTime) -> Vec<String> {
    list.entries(now).map(|entry| entry.unwrap().target.to_string()).collect()
}

fn is_suppressed(list: &Suppression, address: &str) -> bool {
    list.find(list.whose("shop", "news"), &address.parse().unwrap(), NOW).is_some()
}

/// What the model knows of a subject: reason, minute at which it is over.
type Model = BTreeMap<(String, Scope), (Reason, Option<UnixTime>)>;

fn standing(model: &Model, key: &(String, Scope), now: UnixTime) -> Option<(Reason, Option<UnixTime>)> {
    model.get(key).copied().filter(|(_, until)| until.is_none_or(|until| now < until))
}

fn model_apply(model: &mut Model, change: &Change, now: UnixTime) -> Outcome {
    let (target, scope) = change.subject();
    let key = (target.to_string(), scope.clone());
    let before = standing(model, &key, now);
    match (change, before) {
        (Change::Remove { .. }, None) => Outcome::Absent,
        (Change::Remove { .. }, Some(_)) => {
            model.remove(&key);
            Outcome::Removed
        }
        (Change::Add(Entry { reason, until, .. }), before) => {
            let weight = |(reason, until): (Reason, Option<UnixTime>)| {
                (until.map_or(u32::MAX, |until| until.0), reason.weight())
            };
            if before.is_some_and(|before| weight(before) >= weight((*reason, *until))) {
                return Outcome::Stands;
            }
            model.insert(key, (*reason, *until));
            before.map_or(Outcome::Added, |_| Outcome::Replaced)
        }
    }
}

fn model_find(model: &Model, tenant: &str, class: &str, address: &str, now: UnixTime) -> Option<Reason> {
    let domain = format!("@{}", address.split_once('@').unwrap().1);
    let scopes = [Some(Scope::Global), Scope::of(tenant, ""), Scope::of(tenant, class)];
    let targets = [address.to_owned(), domain];
    let keys =
        targets.iter().flat_map(|target| scopes.iter().flatten().map(move |scope| (target.clone(), scope.clone())));
    keys.filter_map(|key| standing(model, &key, now)).map(|(reason, _)| reason).next()
}

const TARGETS: [&str; 8] = [
    "a@x.example",
    "b@x.example",
    "c@x.example",
    "a@y.example",
    "b@y.example",
    "@x.example",
    "@y.example",
    "c@z.example",
];

fn scope() -> impl Strategy<Value = Scope> {
    proptest::sample::select(vec![
        Scope::Global,
        Scope::of("shop", "").unwrap(),
        Scope::of("post", "").unwrap(),
        Scope::of("shop", "news").unwrap(),
        Scope::of("post", "news").unwrap(),
    ])
}

fn change() -> impl Strategy<Value = Change> {
    let target = proptest::sample::select(TARGETS.to_vec());
    let until = prop_oneof![Just(None), (100..130_u32).prop_map(|minute| Some(minute * 60))];
    let parts = (target, scope(), proptest::sample::select(Reason::ALL.to_vec()), until, 0..4_u8);
    parts.prop_map(|(target, scope, reason, until, kind)| match kind {
        0 => Change::Remove { target: target.parse().unwrap(), scope },
        _ => Change::Add(entry(target, scope, reason, until)),
    })
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Change>),
    Pass(u32),
    Upkeep,
    Restart,
    /// As many changes as make a run of their own.
    Bulk(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => proptest::collection::vec(change(), 1..40).prop_map(Step::Apply),
        2 => (1..400_u32).prop_map(Step::Pass),
        3 => Just(Step::Upkeep),
        1 => Just(Step::Restart),
        1 => (0..3_u32).prop_map(Step::Bulk),
    ]
}

fn check(list: &Suppression, model: &Model, now: UnixTime) {
    for address in
        ["a@x.example", "b@x.example", "c@x.example", "a@y.example", "b@y.example", "c@z.example", "d@y.example"]
    {
        for (tenant, class) in
            [("shop", "news"), ("shop", ""), ("shop", "other"), ("post", "news"), ("", ""), ("new", "news")]
        {
            let found = list.find(list.whose(tenant, class), &address.parse().unwrap(), now).map(|found| found.reason);
            assert_eq!(found, model_find(model, tenant, class, address, now), "{address} of {tenant}/{class}");
        }
    }
    let listed: Vec<_> = list.entries(now).map(Result::unwrap).collect();
    let keys: BTreeSet<_> = listed.iter().map(|entry| (entry.target.to_string(), entry.scope.clone())).collect();
    let expected: BTreeSet<_> = model.keys().filter(|key| standing(model, key, now).is_some()).cloned().collect();
    assert_eq!((listed.len(), &keys), (expected.len(), &expected));
    assert_eq!(list.stats(now).total(), expected.len() as u64);
    for entry in listed.iter().take(20) {
        assert_eq!(list.entry(&entry.target, &entry.scope, now).unwrap().as_ref(), Some(entry));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_list_is_as_the_model_whatever_is_done(steps in proptest::collection::vec(step(), 1..40)) {
        let storage = storage(1);
        let (mut list, mut model, mut now) = (fresh(&storage), Model::new(), NOW);
        for step in steps {
            let changes = match step {
                Step::Apply(changes) => changes,
                Step::Bulk(from) => (from * 500..from * 500 + 1_200).map(|number| add(&format!("{number}@bulk.example"))).collect(),
                Step::Pass(seconds) => {
                    now = UnixTime(now.0 + seconds);
                    continue;
                }
                Step::Upkeep => {
                    while list.upkeep(now).unwrap().has_more {}
                    continue;
                }
                Step::Restart => {
                    let opened = Suppression::open_with(storage.clone(), now, SMALL).unwrap();
                    prop_assert_eq!(opened.findings, []);
                    list = opened.list;
                    continue;
                }
            };
            let expected: Vec<_> = changes.iter().map(|change| model_apply(&mut model, change, now)).collect();
            prop_assert_eq!(list.apply(&changes, now).unwrap(), expected);
        }
        check(&list, &model, now);
        check(&open_at(storage.after_kill(), now).list, &model, now);
    }
}

#[test]
fn what_was_confirmed_survives_a_power_cut_at_any_call() {
    // So that the oldest segment is rewritten all the time.
    let tuning = Tuning { slack: 4, few: 2, ..SMALL };
    let mut compacted = 0;
    for seed in 0..600 {
        let storage = storage(seed);
        let list = Suppression::open_with(storage.clone(), NOW, tuning).unwrap().list;
        let mut random = Random::new(seed);
        storage.die_at(storage.calls() + random.below(600));
        // What stands, and what was begun since and not confirmed.
        let (mut model, mut begun) = (BTreeSet::new(), BTreeSet::new());
        while !storage.is_dead() {
            // Some syncs fail, and it goes on.
            let mut dice = Random::new(random.number());
            storage.inject(move |operation, _| {
                (operation == Operation::SyncData && dice.below(40) == 0).then_some(ErrorKind::Other)
            });
            let target = format!("{}{}@x.example", "long".repeat(12), random.below(12));
            let change = if random.below(3) == 0 { remove(&target) } else { add(&target) };
            begun.insert(target.clone());
            let is_added = matches!(change, Change::Add(_));
            if list.apply(&[change], NOW).is_ok() {
                if is_added {
                    model.insert(target)
                } else {
                    model.remove(&target)
                };
                begun.clear();
            }
            if random.below(4) == 0 {
                compacted += u64::from(list.upkeep(NOW).is_ok_and(|upkeep| upkeep.has_compacted));
            }
            if random.below(8) == 0 {
                let _ = list.close();
            }
        }

        let crashed = storage.crash(seed);
        let opened = open_at(crashed.after_kill(), NOW);
        let found: BTreeSet<_> = targets(&opened.list, NOW).into_iter().collect();
        let again: BTreeSet<_> = targets(&open_at(crashed, NOW).list, NOW).into_iter().collect();

        assert!(
            found.symmetric_difference(&model).all(|target| begun.contains(target)),
            "{seed}: {found:?}, not {model:?}"
        );
        assert_eq!(found, again, "{seed}");
        assert!(
            opened.findings.iter().all(|finding| finding.kind == FindingKind::Tail),
            "{seed}: {:?}",
            opened.findings
        );
        // And it goes on from there.
        opened.list.apply(&[add("new@x.example")], NOW).unwrap();
        assert!(is_suppressed(&opened.list, "new@x.example"), "{seed}");
    }
    assert!(compacted > 100, "{compacted}");
}

#[test]
fn a_change_whose_sync_failed_is_not_in_force_once_anything_was_confirmed_after_it() {
    for seed in 0..200 {
        let storage = storage(seed);
        let list = fresh(&storage);
        list.apply(&[add("stays@x.example")], NOW).unwrap();
        storage.inject(|operation, name| {
            (operation == Operation::SyncData && name.ends_with(".log")).then_some(ErrorKind::Other)
        });
        list.apply(&[add("fails@x.example")], NOW).unwrap_err();
        list.apply(&[remove("stays@x.example")], NOW).unwrap_err();
        storage.heal();
        assert!(is_suppressed(&list, "stays@x.example") && !is_suppressed(&list, "fails@x.example"));

        // Nothing is to be done for it, and so it must be after a restart.
        assert_eq!(list.apply(&[remove("fails@x.example")], NOW).unwrap(), [Outcome::Absent]);

        for found in [storage.after_kill(), storage.crash(seed)] {
            assert_eq!(targets(&open_at(found, NOW).list, NOW), ["stays@x.example"], "{seed}");
        }
    }
}

#[test]
fn damage_is_kept_and_told_once_and_costs_only_what_it_hit() {
    let storage = storage(1);
    let list = fresh(&storage);
    let first: Vec<_> = (0..50).map(|number| add(&format!("{number}@x.example"))).collect();
    list.apply(&first, NOW).unwrap();
    list.apply(&[add("last@x.example")], NOW).unwrap();
    let file = segments::path(1);
    let damaged = storage.after_kill();
    // A record in the middle of the first batch.
    damaged
        .damage(&file, |octets| {
            let at = octets.windows(12).position(|part| part == b"20@x.example").unwrap();
            octets[at] ^= 1;
        })
        .unwrap();
    let damaged = Arc::new(damaged);

    let opened = Suppression::open_with(damaged.clone(), NOW, SMALL).unwrap();
    let again = Suppression::open_with(damaged.clone(), NOW, SMALL).unwrap();

    let [Finding { file: told, range, kind: FindingKind::Damaged }] = &*opened.findings else {
        panic!("{:?}", opened.findings)
    };
    assert_eq!(*told, file);
    assert_eq!(targets(&opened.list, NOW).len(), 50);
    assert!(!is_suppressed(&opened.list, "20@x.example") && is_suppressed(&opened.list, "last@x.example"));
    let copies = damaged.list("quarantine").unwrap();
    assert_eq!(copies.iter().map(|copy| copy.size).collect::<Vec<_>>(), [range.end - range.start]);
    assert_eq!((again.findings, targets(&again.list, NOW).len()), (vec![], 50));
}

#[test]
fn a_segment_without_header_or_that_is_gone_is_told_and_the_others_are_read() {
    let storage = storage(1);
    let list = fresh(&storage);
    for number in 0..3 {
        // Each start begins a segment.
        let list = if number == 0 { list.clone() } else { fresh(&storage) };
        list.apply(&[add(&format!("{number}@x.example"))], NOW).unwrap();
    }
    let damaged = storage.after_kill();
    damaged.damage(&segments::path(2), |octets| octets[..4_096].fill(0)).unwrap();
    let gone = storage.after_kill();
    gone.remove(&segments::path(2)).unwrap();

    for (storage, kind, copies) in [(damaged, FindingKind::Damaged, 1), (gone, FindingKind::Missing, 0)] {
        let storage = Arc::new(storage);
        let opened = Suppression::open_with(storage.clone(), NOW, SMALL).unwrap();
        assert_eq!(targets(&opened.list, NOW), ["0@x.example", "2@x.example"]);
        assert_eq!(
            opened.findings.iter().map(|finding| (finding.kind, &*finding.file)).collect::<Vec<_>>(),
            [(kind, &*segments::path(2))]
        );
        assert_eq!(storage.list("quarantine").unwrap().len(), copies);
    }
}

#[test]
fn a_disk_that_cannot_be_read_is_an_error_and_not_an_empty_list() {
    let storage = storage(1);
    fresh(&storage).apply(&[add("a@x.example")], NOW).unwrap();
    storage
        .inject(|operation, name| (operation == Operation::Read && name.ends_with(".log")).then_some(ErrorKind::Other));

    let opened = Suppression::open_with(storage, NOW, SMALL);

    assert!(matches!(opened, Err(OpenError::Io(_))));
}

#[test]
fn a_record_of_a_newer_version_is_refused_by_its_place() {
    let storage = storage(1);
    let (mut segments, _) = Segments::open(storage.clone(), MOST_SEGMENT, |_, _| Ok(()), |_: Vec<()>| ()).unwrap();
    let mut record = Vec::new();
    crate::log::record::Builder::new(&mut record, 77).finish();
    let place = segments.append(&mut record, &[0]).unwrap();

    let opened = Suppression::open_with(storage, NOW, SMALL);

    assert!(matches!(opened, Err(OpenError::Unknown { offset, .. }) if offset == place.offset));
}

#[test]
fn a_key_that_is_lost_is_made_anew_and_told_and_entries_stand() {
    let storage = storage(1);
    let list = fresh(&storage);
    list.apply(&[add("a@x.example")], NOW).unwrap();
    let hash = |list: &Suppression| list.hash(&"a@x.example".parse().unwrap());
    let damaged = storage.after_kill();
    damaged.damage(KEY_FILE, |octets| octets[30] ^= 1).unwrap();
    let gone = storage.after_kill();
    gone.remove(KEY_FILE).unwrap();

    let [same, other, third] = [storage.after_kill(), damaged, gone].map(|storage| open_at(storage, NOW));

    assert_eq!([&same, &other, &third].map(|opened| opened.has_new_key), [false, true, true]);
    assert_eq!(hash(&same.list), hash(&list));
    assert!(hash(&other.list) != hash(&list) && hash(&third.list) != hash(&list));
    assert!([same, other, third].iter().all(|opened| is_suppressed(&opened.list, "A@X.example")));
}

#[test]
fn an_entry_by_hash_alone_is_one_about_the_mailbox() {
    let list = fresh(&storage(1));
    let hash = list.hash(&"ann@x.example".parse().unwrap());
    let by_hash = |scope| match add("ann@x.example") {
        Change::Add(entry) => Change::Add(Entry { target: Target::Hash(hash), scope, ..entry }),
        change @ Change::Remove { .. } => change,
    };

    list.apply(&[by_hash(Scope::Tenant("shop".into()))], NOW).unwrap();

    let find = |tenant, address: &str| list.find(list.whose(tenant, ""), &address.parse().unwrap(), NOW).is_some();
    assert!(find("shop", "Ann@X.example") && !find("post", "ann@x.example") && !find("shop", "bob@x.example"));
    assert_eq!(list.apply(&[add("ann@x.example")], NOW).unwrap(), [Outcome::Added]);
    assert_eq!(list.apply(&[by_hash(Scope::Global)], NOW).unwrap(), [Outcome::Stands]);
}

#[test]
fn room_is_taken_back_without_losing_an_entry_or_raising_one_that_was_removed() {
    let storage = storage(1);
    let list = fresh(&storage);
    list.apply(&[add("old@x.example"), add("gone@x.example")], NOW).unwrap();
    list.apply(&[remove("gone@x.example")], NOW).unwrap();
    for round in 0..2_000_u32 {
        let change = if round % 2 == 0 { add("busy@x.example") } else { remove("busy@x.example") };
        list.apply(&[change], NOW).unwrap();
        list.upkeep(NOW).unwrap();
    }

    let stats = list.stats(NOW);
    assert_eq!(targets(&list, NOW), ["old@x.example"]);
    assert!(stats.records < 400 && storage.list(segments::DIRECTORY).unwrap().len() < 12, "{stats:?}");
    assert_eq!(targets(&open_at(storage.after_kill(), NOW).list, NOW), ["old@x.example"]);
}

#[test]
fn an_entry_that_was_over_when_its_segment_went_is_gone_whatever_the_clock_says_later() {
    let storage = storage(1);
    let list = Suppression::open_with(storage.clone(), NOW, Tuning { slack: 0, few: 0, ..SMALL }).unwrap().list;
    let short = entry("short@x.example", Scope::Global, Reason::MailboxFull, Some(NOW.0 + 60));
    list.apply(&[Change::Add(short.clone())], NOW).unwrap();
    for number in 0..300 {
        list.apply(&[add("busy@x.example"), remove("busy@x.example"), add(&format!("{number}@x.example"))], NOW)
            .unwrap();
    }
    let later = UnixTime(NOW.0 + 100);

    assert!(list.upkeep(later).unwrap().has_compacted);

    assert_eq!(list.entry(&short.target, &short.scope, NOW).unwrap(), None);
    assert!(!is_suppressed(&list, "short@x.example"));
    assert!(!is_suppressed(&open_at(storage.after_kill(), NOW).list, "short@x.example"));
}

#[test]
fn an_export_has_each_entry_once_though_room_is_taken_back_meanwhile() {
    let storage = storage(1);
    let list = fresh(&storage);
    let all: Vec<_> = (0..300).map(|number| add(&format!("{number}@x.example"))).collect();
    list.apply(&all, NOW).unwrap();
    let half: Vec<_> = (0..250).map(|number| remove(&format!("{number}@x.example"))).collect();
    list.apply(&half, NOW).unwrap();

    let mut export = list.entries(NOW);
    let first = export.next().unwrap().unwrap().target.to_string();
    assert!(!list.upkeep(NOW).unwrap().has_compacted);
    let rest: Vec<_> = export.by_ref().map(|entry| entry.unwrap().target.to_string()).collect();
    drop(export);

    assert_eq!(first, "250@x.example");
    assert_eq!(rest, (251..300).map(|number| format!("{number}@x.example")).collect::<Vec<_>>());
    assert!(list.upkeep(NOW).unwrap().has_compacted);
}

#[test]
fn an_import_says_which_lines_are_bad_and_takes_the_others_and_an_export_is_imported_again() {
    let list = fresh(&storage(1));
    let text = "\u{feff}a@x.example\n\n# a remark\nnobody\u{7}\r\nB@x.example\tcomplaint\t\tshop\r\na@x.example\nc@x.example\t\t60\n@y.example\tunsubscribe\tnever\tshop\tnews\t7\tclick";
    let (mut bad, mut reports) = (Vec::new(), 0);

    let counts = list
        .import(&mut text.as_bytes(), &Defaults::default(), NOW, &mut |told| match told {
            Imported::Bad(line, _) => bad.push(line),
            Imported::Progress(_) => reports += 1,
        })
        .unwrap();

    let expected =
        Counts { lines: 8, octets: text.len() as u64, added: 3, stood: 1, over: 1, skipped: 2, bad: 1, replaced: 0 };
    assert_eq!((counts, bad, reports), (expected, vec![4], 1));
    let mut lines = String::new();
    list.entries(NOW).for_each(|entry| entry.unwrap().put_line(&mut lines));
    let copy = fresh(&storage(2));
    copy.import(&mut lines.as_bytes(), &Defaults::default(), NOW, &mut |_| ()).unwrap();
    let all = |list: &Suppression| list.entries(NOW).map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(
        all(&copy),
        all(&list)
            .into_iter()
            .map(|entry| {
                let source = if entry.source.is_empty() { Box::default() } else { entry.source.clone() };
                Entry { source, ..entry }
            })
            .collect::<Vec<_>>()
    );
    assert_eq!(all(&list).len(), 3);
}

#[test]
fn an_import_that_cannot_be_stored_says_how_far_it_came() {
    let storage = storage(1);
    let list = fresh(&storage);
    let text: String = (0..40_000).map(|number| format!("{number}@x.example\n")).collect();
    let mut counts = None;
    storage.set_free(0);

    let result = list.import(&mut text.as_bytes(), &Defaults::default(), NOW, &mut |told| {
        if let Imported::Progress(progress) = told {
            counts.get_or_insert(*progress);
            storage.inject(|operation, _| (operation == Operation::Write).then_some(ErrorKind::StorageFull));
        }
    });

    let Err(ImportError::Store { counts: told, error }) = result else { panic!("{result:?}") };
    assert_eq!((Some(told), told.added, error.kind()), (counts, 32_768, ErrorKind::StorageFull));
    storage.heal();
    assert_eq!(targets(&list, NOW).len(), 32_768);
    assert_eq!(list.import(&mut text.as_bytes(), &Defaults::default(), NOW, &mut |_| ()).unwrap().added, 7_232);
}

#[test]
fn look_ups_and_exports_hold_while_others_come_and_go_and_room_is_taken_back() {
    let storage = storage(1);
    let list = Suppression::open_with(storage.clone(), NOW, Tuning { slack: 0, few: 1, ..SMALL }).unwrap().list;
    let stays: Vec<_> = (0..200).map(|number| format!("stays{number}@x.example")).collect();
    list.apply(&stays.iter().map(|target| add(target)).collect::<Vec<_>>(), NOW).unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let goes_on = || !is_over.load(std::sync::atomic::Ordering::Relaxed);

    let compacted = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while goes_on() {
                assert!(stays.iter().all(|target| is_suppressed(&list, target)));
            }
        });
        let exporter = scope.spawn(|| {
            while goes_on() {
                let listed = targets(&list, NOW);
                let kept: BTreeSet<_> = listed.iter().filter(|target| target.starts_with("stays")).collect();
                assert_eq!((kept.len(), listed.iter().collect::<BTreeSet<_>>().len()), (stays.len(), listed.len()));
            }
        });
        let mut compacted = 0;
        for round in 0..400 {
            let others: Vec<_> = (0..300).map(|number| format!("{number}@x.example")).collect();
            let change = if round % 2 == 0 { add } else { remove };
            list.apply(&others.iter().map(|target| change(target)).collect::<Vec<_>>(), NOW).unwrap();
            compacted += u64::from(list.upkeep(NOW).unwrap().has_compacted);
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap();
        exporter.join().unwrap();
        compacted
    });

    while list.upkeep(NOW).unwrap().has_more {}
    assert_eq!(targets(&open_at(storage.after_kill(), NOW).list, NOW).len(), 200, "{compacted}");
    assert_eq!(list.stats(NOW).total(), 200);
}

#[test]
fn changes_that_cannot_be_kept_are_refused_and_none_is_made() {
    let list = fresh(&storage(1));
    let bad = entry("b@x.example", Scope::Tenant("a\nb".into()), Reason::Operator, None);

    let error = list.apply(&[add("a@x.example"), Change::Add(bad)], NOW).unwrap_err();

    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(!is_suppressed(&list, "a@x.example"));
}

#[test]
fn a_look_up_never_reads_the_disk() {
    let storage = storage(1);
    let list = fresh(&storage);
    list.apply(&(0..2_000).map(|number| add(&format!("{number}@x.example"))).collect::<Vec<_>>(), NOW).unwrap();
    let calls = storage.calls();

    assert!((0..2_000).all(|number| is_suppressed(&list, &format!("{number}@x.example"))));
    assert!(!is_suppressed(&list, "other@x.example"));

    assert_eq!(storage.calls(), calls);
}

#[test]
fn the_newest_come_first_the_other_way_round_and_over_segments() {
    let storage = storage(31);
    let list = fresh(&storage);
    for number in 0..300 {
        list.apply(&[add(&format!("user{number}@example.com"))], NOW).unwrap();
    }
    list.apply(&[remove("user298@example.com")], NOW).unwrap();
    let stats = list.stats(NOW);

    let mut latest: Vec<_> = list.latest(NOW).map(|entry| entry.unwrap().target.to_string()).collect();

    assert!(stats.segments > 2 && stats.memory > 300 * 24 && stats.changed == Some(NOW), "{stats:?}");
    assert_eq!(latest[..2], ["user299@example.com", "user297@example.com"]);
    latest.reverse();
    assert_eq!(latest, targets(&list, NOW));
}
