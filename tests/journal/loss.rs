//! Files of the journal that others remove, move, cut or damage: what is missing is counted, and reading goes on.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::receiver::Receiver;
use super::stage::{Daemon, Stage, files, of_kind, values, wait};

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
    wait("status tells of it", || stage.status().contains("the journal has lost"));
    let told = stage.status();
    daemon.stop();
    let (events, ..) = run(&stage, &["follow", "--json", "--once", "--from", "start"]);
    let missing = format!("the journal has lost {} events since", gap(&events).0);
    assert!(told.contains(&missing), "{missing}: {told}");
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

/// A journal of a daemon that has ended, of several finished files.
fn finished() -> Stage {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "max_size = \"64KiB\"\n");
    let daemon = stage.start();
    submit(&daemon, 400);
    wait("all is delivered", || receiver.taken() == 400);
    let compressed = || files(&stage.journal).iter().filter(|path| path.extension().unwrap() == "zst").count();
    wait("files are compressed", || compressed() >= 3 && compressed() + 1 == files(&stage.journal).len());
    daemon.stop();
    stage
}

/// What the command prints, what it says, and its exit code.
fn run(stage: &Stage, arguments: &[&str]) -> (Vec<Value>, String, Option<i32>) {
    let output = stage.command(arguments);
    (values(&output.stdout), String::from_utf8(output.stderr).unwrap(), output.status.code())
}

#[test]
fn a_finished_file_that_is_damaged_is_named_and_passed() {
    let stage = finished();
    let all = stage.events();
    let damaged = files(&stage.journal).remove(1);
    let whole = fs::read(&damaged).unwrap();
    let inside = zstd::decode_all(&whole[..]).unwrap();
    let inside = values(&inside);
    let lost = |events: &[Value]| all.iter().filter(|event| !events.contains(event)).cloned().collect::<Vec<_>>();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle..middle + 8].iter_mut().for_each(|octet| *octet ^= 0x55);
    let foreign = zstd::encode_all(&b"something else\n"[..], 1).unwrap();

    for harm in [Vec::new(), whole[..whole.len() / 2].to_vec(), flipped, b"no zstd".to_vec(), foreign] {
        fs::write(&damaged, harm).unwrap();
        let name = damaged.file_name().unwrap().to_str().unwrap();
        for arguments in [
            &["search", "--json", "--limit", "10000"][..],
            &["follow", "--json", "--once", "--from", "start"],
            &["follow", "--json", "--once", "--from", all[0]["id"].as_str().unwrap()],
        ] {
            let (events, said, code) = run(&stage, arguments);
            assert!(said.contains(name) && code == Some(1), "{arguments:?}: {code:?} {said}");
            assert!(lost(&events).iter().all(|event| inside.contains(event) || *event == all[0]), "{arguments:?}");
            assert_eq!(events.last(), all.last(), "{arguments:?}");
        }
        // Nothing behind this cursor is damaged.
        let cursor = inside.last().unwrap()["id"].as_str().unwrap();
        let (events, said, code) = run(&stage, &["follow", "--json", "--once", "--from", cursor]);
        assert_eq!((events.is_empty(), said.as_str(), code), (false, "", Some(0)));
    }
}

#[test]
fn a_finished_file_that_is_removed_from_the_middle_is_told_and_the_reader_ends_with_exit_code_1() {
    let stage = finished();
    let all = stage.events();
    let removed = files(&stage.journal).remove(1);
    let inside = values(&zstd::decode_all(&fs::read(&removed).unwrap()[..]).unwrap());
    fs::remove_file(removed).unwrap();

    let (events, said, code) = run(&stage, &["follow", "--json", "--once", "--from", all[0]["id"].as_str().unwrap()]);

    assert!(said.contains("were removed before they could be read") && code == Some(1), "{code:?} {said}");
    let there = all[1..].iter().filter(|event| !inside.contains(event)).count();
    assert_eq!(events.len(), there);
}

#[test]
fn damaged_lines_are_counted_and_never_handed_on() {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "");
    let daemon = stage.start();
    submit(&daemon, 5);
    let all = stage.until(|events| events.len() == 10);
    daemon.stop();
    let path = current(&stage);
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[2].replace_range(150..160, &"\0".repeat(10));
    let (cut, whole) = (lines[4][..170].to_owned(), lines.remove(5));
    lines[4] = format!("{cut}{whole}");
    lines[6].truncate(140);
    lines[6].push('}');
    fs::write(&path, lines.join("\n") + "\n").unwrap();

    for arguments in [&["search", "--json"][..], &["follow", "--json", "--once", "--from", "start"]] {
        let (events, said, code) = run(&stage, arguments);
        assert!(said.contains("3 damaged lines") && code == Some(1), "{code:?} {said}");
        assert_eq!(events.len(), 6, "{events:#?}");
        assert!(events.iter().all(|event| all.contains(event)));
    }
}

#[test]
fn a_crash_says_from_when_also_if_the_last_events_are_compressed() {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "");
    let daemon = stage.start();
    submit(&daemon, 1);
    let before = stage.until(|events| events.len() == 2);
    daemon.stop();
    let daemon = stage.start();
    wait("it is compressed", || {
        files(&stage.journal)[0].extension().unwrap() == "zst" && files(&stage.journal).len() == 2
    });
    daemon.kill();

    stage.start().stop();

    let events = stage.events();
    assert_eq!((&events[2]["cause"], &events[2]["from"]), (&json!("crash"), &before[1]["time"]));
}
