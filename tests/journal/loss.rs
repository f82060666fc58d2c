//! Files of the journal that others remove, move, cut or damage: what is missing is counted, and reading goes on.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::receiver::Receiver;
use super::stage::{Daemon, Stage, files, of_kind, wait};

const SENDER: &str = "s@back.sink.test";

fn submit(daemon: &Daemon, count: usize) {
    let mut client = daemon.client();
    for number in 0..count {
        client.submit(SENDER, &[&format!("u{number}@a.sink.test")]);
    }
}

fn current(stage: &Stage) -> PathBuf {
    files(&stage.journal).pop().unwrap()
}

/// Has the daemon write 10 events, does `harm` to the journal, and has it write 10 more. The events there are then.
fn harmed(harm: impl Fn(&Stage)) -> (Stage, Vec<Value>) {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "");
    let daemon = stage.start();
    submit(&daemon, 5);
    stage.until(|events| events.len() == 10);
    harm(&stage);
    submit(&daemon, 5);
    wait("all is delivered", || receiver.taken() == 10);
    daemon.stop();
    let events = stage.events();
    (stage, events)
}

/// What the one gap says.
fn gap(events: &[Value]) -> (u64, &str) {
    let gaps = of_kind(events, "gap");
    assert_eq!(gaps.len(), 1, "{events:#?}");
    assert!(gaps[0]["from"].as_str() <= gaps[0]["to"].as_str(), "{gaps:?}");
    (gaps[0]["count"].as_u64().unwrap(), gaps[0]["cause"].as_str().unwrap())
}

#[test]
fn a_current_file_that_is_deleted_leaves_a_gap_with_the_count_of_its_events() {
    let (stage, events) = harmed(|stage| fs::remove_file(current(stage)).unwrap());

    let (missing, cause) = gap(&events);
    assert_eq!((events.len() as u64 - 1 + missing, cause), (20, "file removed"), "{events:#?}");
    assert!(missing >= 10, "{missing}");
    assert_eq!(stage.raw().len(), events.len() + 1, "one file is left");
}

#[test]
fn a_current_file_that_is_rotated_by_another_program_leaves_a_gap() {
    let (_stage, events) = harmed(|stage| {
        let path = current(stage);
        fs::rename(&path, stage.journal.join("aside")).unwrap();
        fs::write(path, "").unwrap();
    });

    let (missing, cause) = gap(&events);
    assert_eq!((events.len() as u64 - 1 + missing, cause), (20, "file removed"), "{events:#?}");
}

#[test]
fn a_current_file_that_is_cut_in_a_line_leaves_a_gap_and_nothing_is_glued_to_the_rest() {
    let (stage, events) = harmed(|stage| {
        let file = OpenOptions::new().write(true).open(current(stage)).unwrap();
        file.set_len(file.metadata().unwrap().len() - 30).unwrap();
    });

    assert_eq!(gap(&events), (1, "file truncated"));
    assert_eq!(events.len(), 20, "{events:#?}");
    // Each line of each file is whole.
    assert_eq!(stage.raw().len(), 22);
}

#[test]
fn a_folder_that_is_moved_away_is_made_anew_and_locked() {
    let (stage, events) = harmed(|stage| fs::rename(&stage.journal, stage.spool().join("../aside")).unwrap());

    let (missing, cause) = gap(&events);
    assert_eq!((events.len() as u64 - 1 + missing, cause), (20, "file removed"), "{events:#?}");
    assert_eq!(fs::metadata(stage.journal.join("lock")).unwrap().len(), 0, "ended in good order");
}

#[test]
fn an_idle_daemon_notices_a_deleted_file_and_a_kill_afterwards_is_told() {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "");
    let daemon = stage.start();
    submit(&daemon, 1);
    stage.until(|events| events.len() == 2);
    fs::remove_dir_all(&stage.journal).unwrap();
    wait("the folder is there again", || stage.journal.exists() && !files(&stage.journal).is_empty());
    let gaps = stage.until(|events| events.len() == 1);
    daemon.kill();
    stage.start().stop();

    assert_eq!(gap(&gaps), (2, "file removed"));
    let events = stage.events();
    assert_eq!(events.iter().map(|event| &event["cause"]).collect::<Vec<_>>(), ["file removed", "crash"]);
    assert_eq!(events[1]["from"], json!(events[0]["time"]));
}
