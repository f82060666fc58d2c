//! The chain, and what attacks on it look like.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::Head;
use super::verify::{Anchor, Report, verify};
use super::*;
use crate::log::disk::Disk;
use crate::log::storage::Storage;

/// A log in a folder, with its head beside it.
struct Case {
    folder: tempfile::TempDir,
    max_size: u64,
}

impl Case {
    fn new(max_size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        Self { folder, max_size }
    }

    /// One with records 1 (the start) to `last`.
    fn with_records(max_size: u64, last: u64) -> Self {
        let case = Self::new(max_size);
        let audit = case.open();
        (2..=last).for_each(|number| assert_eq!(audit.write(&event(number)).unwrap(), number));
        case
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    fn note(&self) -> Note {
        Note::of_audit(Arc::new(Disk::new(self.folder.path())) as Arc<dyn Storage>)
    }

    fn open(&self) -> Audit {
        let settings = Settings { folder: self.place(), max_size: self.max_size };
        Audit::open(settings, self.note(), Clock::system(), &Registry::new().unwrap())
    }

    fn head(&self) -> Option<Head> {
        String::from_utf8(self.note().read()?).unwrap().parse().ok()
    }

    fn verify(&self) -> Report {
        let anchor = || Some(Anchor { name: "the state", head: self.head()? });
        let before: Vec<Anchor> = anchor().into_iter().collect();
        verify(&self.place(), None, &before, anchor).unwrap()
    }

    fn problem(&self) -> String {
        self.verify().problem.expect("nothing was found").what
    }

    fn files(&self) -> Vec<PathBuf> {
        files(&self.place()).unwrap().into_iter().map(|(_, path)| path).collect()
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.files()[0]).unwrap().split_inclusive('\n').map(str::to_owned).collect()
    }

    fn replace(&self, lines: &[String]) {
        fs::write(&self.files()[0], lines.concat()).unwrap();
    }
}

/// What is done to the lines of a file.
type Attack = fn(&mut Vec<String>);

fn event(number: u64) -> Event {
    Event { who: "token ops".to_owned(), action: format!("test.{number}"), ..Event::default() }
}

fn actions(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| record::read(line.as_bytes()).unwrap().action).collect()
}

#[test]
fn a_log_that_was_left_alone_is_right_over_files_and_starts() {
    let case = Case::with_records(1_000, 9);
    assert!(case.files().len() > 2);

    drop(case.open());
    let report = case.verify();

    assert_eq!((report.records, report.problem), (10, None));
    assert_eq!(report.head, case.head());
}

#[test]
fn a_record_that_was_altered_taken_out_put_in_or_moved_is_told_by_its_line() {
    let attacks: [(&str, Attack, &str, u64); 6] = [
        ("altered", |lines| lines[3] = lines[3].replace("ops", "opt"), "altered", 4),
        ("taken out", |lines| drop(lines.remove(3)), "does not follow record 3", 4),
        ("the first taken out", |lines| drop(lines.remove(0)), "begins with record 2", 1),
        ("put in twice", |lines| lines.insert(3, lines[3].clone()), "does not follow record 4", 5),
        ("moved", |lines| lines.swap(3, 4), "does not follow record 3", 4),
        ("put in", |lines| lines.insert(3, "{}\n".to_owned()), "is not a record", 4),
    ];
    for (name, attack, part, line) in attacks {
        let case = Case::with_records(1 << 20, 8);
        let mut lines = case.lines();

        attack(&mut lines);
        case.replace(&lines);

        let problem = case.verify().problem.expect(name);
        assert!(problem.what.contains(part) && problem.line == line, "{name}: {problem:?}");
    }
}

#[test]
fn a_cut_off_end_is_told_by_the_head_and_stays_told_after_the_next_start() {
    let case = Case::with_records(1 << 20, 8);
    let lines = case.lines();

    case.replace(&lines[..5]);
    assert!(case.problem().contains("records 6 to 8 are missing"), "{}", case.problem());
    let audit = case.open();

    assert!(audit.state().broken.unwrap().contains("records 6 to 8"));
    assert!(case.problem().contains("where record 6 should be") || case.problem().contains("does not follow"));
    drop(audit);
    let audit = case.open();
    assert!(audit.state().broken.is_some(), "it is not forgotten");
    assert_eq!(actions(&case.files()[0]).iter().filter(|action| *action == BROKEN).count(), 1, "and told once");
}

#[test]
fn files_and_heads_that_are_gone_are_told() {
    let case = Case::with_records(1_000, 12);
    let middle = case.files()[1].clone();
    fs::rename(&middle, case.folder.path().join("kept")).unwrap();
    assert!(case.problem().contains("the file before this one is missing"));
    fs::rename(case.folder.path().join("kept"), middle).unwrap();
    assert_eq!(case.verify().problem, None);

    fs::remove_file(case.files().last().unwrap()).unwrap();
    assert!(case.problem().contains("missing at the end"));

    let case = Case::with_records(1 << 20, 4);
    fs::remove_file(case.folder.path().join("state/audit")).unwrap();
    assert!(case.open().state().broken.unwrap().contains("is gone"));
    assert!(case.problem().contains("is gone"));

    let case = Case::with_records(1 << 20, 4);
    fs::remove_dir_all(case.place()).unwrap();
    assert!(case.open().state().broken.unwrap().contains("4 were written"));
}

#[test]
fn a_chain_made_anew_is_told_by_a_head_that_was_noted() {
    let case = Case::with_records(1 << 20, 6);
    let noted = Head { sequence: 4, hash: "a".repeat(64) };

    let anchors = [Anchor { name: "--head", head: noted }];
    let problem = verify(&case.place(), None, &anchors, || None).unwrap().problem.unwrap();

    assert!(problem.what.contains("made anew") && problem.line == 4, "{problem:?}");
}

#[test]
fn records_put_at_the_end_are_told() {
    let case = Case::with_records(1 << 20, 3);
    let mut forged = case.lines();
    let mut head = case.head().unwrap();
    for number in 4..=5 {
        let (line, next) = record::line(&event(number), Some(&head), std::time::Duration::ZERO).unwrap();
        forged.push(String::from_utf8(line).unwrap());
        head = next;
    }

    case.replace(&forged);

    assert!(case.problem().contains("2 records were put at the end"), "{}", case.problem());
    assert!(case.open().state().broken.is_some());
}

#[test]
fn an_end_that_a_crash_cut_off_is_taken_away_and_on_record() {
    for kept in [1, 40, 200] {
        let case = Case::with_records(1 << 20, 5);
        let mut lines = case.lines();
        let (line, _) = record::line(&event(6), case.head().as_ref(), std::time::Duration::ZERO).unwrap();
        lines.push(String::from_utf8(line).unwrap()[..kept].to_owned());
        case.replace(&lines);
        let before = case.verify();
        assert_eq!((before.torn, before.problem), (kept, None), "a crash is no attack");

        let audit = case.open();

        assert_eq!(audit.state().broken, None);
        let found = actions(&case.files()[0]);
        assert_eq!(found[5..], [TORN.to_owned(), "start".to_owned()]);
        assert_eq!((case.verify().torn, case.verify().problem), (0, None));
    }
}

#[test]
fn a_record_whose_head_was_not_kept_before_a_crash_is_kept() {
    let case = Case::with_records(1 << 20, 5);
    let before = case.head().unwrap();
    assert_eq!(case.open().state().head.unwrap().sequence, 6);

    case.note().replace(format!("{before}\n").as_bytes()).unwrap();
    assert_eq!(case.verify().problem, None);
    let audit = case.open();

    assert_eq!((audit.state().broken, audit.state().head.unwrap().sequence), (None, 7));
    assert_eq!(case.verify().problem, None);
}

#[test]
fn a_file_that_is_taken_away_while_it_is_written_is_noticed_at_the_next_record() {
    let case = Case::new(1 << 20);
    let audit = case.open();
    audit.write(&event(2)).unwrap();
    fs::remove_file(&case.files()[0]).unwrap();

    audit.write(&event(3)).unwrap();

    assert!(audit.state().broken.unwrap().contains("though 2 were written"));
    assert_eq!(actions(&case.files()[0]), [BROKEN, "test.3"]);
    assert!(case.verify().problem.is_some());
}

#[test]
fn a_log_that_cannot_be_written_is_told_and_written_again_when_it_can_be() {
    let case = Case::new(1 << 20);
    fs::write(case.place(), "no directory").unwrap();

    let audit = case.open();
    let refused = audit.write(&event(1));
    fs::remove_file(case.place()).unwrap();
    let written = audit.write(&event(1));

    assert!(refused.is_err());
    assert_eq!(written.unwrap(), 1);
    assert_eq!((audit.state().failure, case.verify().problem), (None, None));
}

#[test]
fn two_daemons_do_not_write_one_log() {
    let case = Case::new(1 << 20);
    let _first = case.open();

    assert!(case.open().state().failure.unwrap().contains("another process writes it"));
    assert_eq!(case.verify().problem, None);
}
