//! Reading: from an event on, through rotation, compression, kills and a torn line; and searching.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use hikyaku::journal::EventId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::receiver::Receiver;
use super::stage::{Stage, files, values, wait};

const SENDER: &str = "s@back.sink.test";

fn id(event: &Value) -> &str {
    event["id"].as_str().unwrap()
}

fn ids(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| id(event).to_owned()).collect()
}

/// Submits until it is told to stop or the daemon goes away.
fn submit(address: std::net::SocketAddr, is_over: &AtomicBool, sent: &AtomicUsize) {
    let Ok(mut client) = super::stage::Client::open(address) else { return };
    while !is_over.load(Ordering::Acquire) {
        let number = sent.fetch_add(1, Ordering::AcqRel);
        if client.try_submit(SENDER, &[&format!("u{number}@d{}.sink.test", number % 7)]).is_err() {
            return;
        }
    }
}

/// Reads `most` lines from `cursor` on, kills the reader, and gives what it printed.
fn read_some(stage: &Stage, cursor: &str, most: usize) -> Vec<Value> {
    let mut command = stage.reader(&["follow", "--json", "--from", cursor]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).take(most) {
        lines.push(serde_json::from_str(&line).unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    lines
}

#[test]
fn a_reader_that_resumes_gets_every_event_once_through_rotation_compression_and_kills() {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "max_size = \"64KiB\"\n");
    let (is_over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut seen: Vec<Value> = Vec::new();

    for run in 0..3 {
        let daemon = stage.start();
        thread::scope(|scope| {
            is_over.store(false, Ordering::Release);
            let before = sent.load(Ordering::Acquire);
            let sender = scope.spawn(|| submit(daemon.address, &is_over, &sent));
            for most in [1, 40, 7] {
                let cursor = seen.last().map_or("start", id).to_owned();
                seen.extend(read_some(&stage, &cursor, most));
            }
            wait("enough is sent", || sent.load(Ordering::Acquire) > before + 150);
            is_over.store(true, Ordering::Release);
            sender.join().unwrap();
        });
        if run == 2 {
            wait("all is delivered", || receiver.taken() >= sent.load(Ordering::Acquire));
            daemon.stop();
        } else {
            // In the middle of it.
            daemon.kill();
        }
    }
    let daemon = stage.start();
    wait("all but the current file is compressed", || {
        files(&stage.journal).iter().filter(|path| path.extension().unwrap() == "jsonl").count() == 1
    });
    let cursor = seen.last().map_or("start", id).to_owned();
    seen.extend(values(&stage.command(&["follow", "--json", "--once", "--from", &cursor]).stdout));
    daemon.stop();

    let all = stage.raw();
    let compressed = files(&stage.journal).iter().filter(|path| path.extension().unwrap() == "zst").count();
    assert!(compressed >= 6, "{compressed} files");
    let events: Vec<Value> = all.iter().filter(|event| event["event"] != "file").cloned().collect();
    assert_eq!(ids(&seen), ids(&events));
    let unique: HashSet<String> = ids(&all).into_iter().collect();
    assert_eq!(unique.len(), all.len(), "an id was used twice");
    assert!(ids(&all).is_sorted(), "order of files is not order of ids");
    // Each file says which event came before it.
    for pair in all.windows(2).filter(|pair| pair[1]["event"] == "file") {
        assert_eq!(pair[1]["previous"], pair[0]["id"]);
    }
    let crashes = events.iter().filter(|event| event["cause"] == "crash").count();
    assert_eq!(crashes, 2);
}

#[test]
fn a_cursor_whose_events_are_removed_or_never_were_is_refused() {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "max_size = \"64KiB\"\nmax_total = \"96KiB\"\n");
    let daemon = stage.start();
    let mut client = daemon.client();
    client.submit(SENDER, &["first@a.sink.test"]);
    let first = stage.until(|events| events.len() >= 2)[0].clone();
    let oldest = files(&stage.journal).remove(0);
    let oldest = oldest.file_name().unwrap().to_str().unwrap()[..21].to_owned();
    let is_there = || files(&stage.journal).iter().any(|path| path.to_str().unwrap().contains(&oldest));
    for number in 0..5_000 {
        client.submit(SENDER, &[&format!("u{number}@a.sink.test")]);
        if !is_there() {
            break;
        }
    }
    wait("the oldest file is removed", || !is_there());
    daemon.stop();

    let refused = stage.command(&["follow", "--once", "--from", id(&first)]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("have been removed") && text.contains(id(&first)), "{text}");
    let never = EventId::new(1 << 19, 1).to_string();
    let refused = stage.command(&["follow", "--once", "--from", &never]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no event of this journal"), "{refused:?}");
    assert_eq!(refused.status.code(), Some(1));
    let rest = stage.events();
    assert!(!rest.is_empty() && id(&rest[0]) > id(&first));
}

#[test]
fn a_torn_last_line_is_cut_off_and_everything_else_stays() {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "");
    let daemon = stage.start();
    daemon.client().submit(SENDER, &["ok@a.sink.test"]);
    let before = stage.until(|events| events.len() == 2);
    daemon.kill();
    let file = files(&stage.journal).remove(0);
    std::fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"{\"v\":1,\"id\":\"00000").unwrap();
    assert_eq!(stage.events(), before, "a torn line is no event");

    let daemon = stage.start();
    daemon.client().submit(SENDER, &["ok@b.sink.test"]);
    let after = stage.until(|events| events.len() == 5);
    daemon.stop();

    assert_eq!(after[..2], before[..]);
    assert_eq!(after[2]["event"], "gap");
    assert!(after[3..].iter().all(|event| event["recipient"] == "ok@b.sink.test"), "{after:?}");
    assert_eq!(stage.raw().len(), 7, "two lines of files and five events");
}

#[test]
fn a_recipient_is_found_in_compressed_files_and_the_newest_come_first_to_the_limit() {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "max_size = \"64KiB\"\n");
    let daemon = stage.start();
    let mut client = daemon.client();
    let wanted = client.submit(SENDER, &["Needle@a.sink.test"]);
    for number in 0..150 {
        client.submit("other@back.sink.test", &[&format!("u{number}@b.sink.test")]);
    }
    wait("a file is compressed", || files(&stage.journal)[0].extension().unwrap() == "zst");
    let count = |arguments: &[&str]| {
        let output = stage.command(&[&["search", "--json"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        values(&output.stdout)
    };
    wait("all is delivered", || count(&["--event", "delivered", "--limit", "1000"]).len() == 151);

    let found = count(&["--recipient", "<Needle@A.sink.test.>"]);
    assert_eq!(
        found.iter().map(|event| event["event"].as_str().unwrap()).collect::<Vec<_>>(),
        ["received", "delivered"]
    );
    assert!(found.iter().all(|event| event["message_id"] == wanted.as_str()));
    assert_eq!(count(&["--message", &wanted]), found);
    assert_eq!(count(&["--recipient", "Needle@a.sink.test"]), found);
    assert_eq!(count(&["--sender", &format!("<{}>", SENDER.replace("sink", "SINK"))]), found);
    // As the queue has it: local parts and tenants are what they are.
    assert_eq!(count(&["--recipient", "needle@a.sink.test"]), Vec::<Value>::new());
    assert_eq!(count(&["--tenant", "SHOP"]), Vec::<Value>::new());
    assert_eq!(count(&["--domain", "A.sink.test."]), found);
    assert_eq!(count(&["--campaign", "spring \"sale\"", "--tenant", "shop", "--limit", "1000"]).len(), 302);
    assert_eq!(count(&["--recipient", "eedle@a.sink.test"]), Vec::<Value>::new());
    let newest = count(&["--event", "received", "--limit", "3"]);
    let recipients: Vec<&str> = newest.iter().map(|event| event["recipient"].as_str().unwrap()).collect();
    assert_eq!(recipients, ["u147@b.sink.test", "u148@b.sink.test", "u149@b.sink.test"]);
    let split = newest[1]["time"].as_str().unwrap();
    let (before, since) =
        (count(&["--until", split, "--limit", "1000"]), count(&["--since", split, "--limit", "1000"]));
    assert_eq!(before.len() + since.len(), 302);
    assert!(before.iter().all(|event| event["time"].as_str().unwrap() < split));
    let table = String::from_utf8(stage.command(&["search", "--message", &wanted]).stdout).unwrap();
    assert!(table.contains("delivered") && table.contains("Needle@a.sink.test"), "{table}");
    daemon.stop();
}

#[test]
fn a_reader_ends_in_good_order_by_a_signal_and_when_its_output_is_closed() {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "");
    let daemon = stage.start();
    for (signal, from) in [(Some(Signal::INT), "start"), (Some(Signal::TERM), "start"), (None, "end")] {
        let mut child = stage.reader(&["follow", "--from", from]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut client = daemon.client();
        client.submit(SENDER, &["ok@a.sink.test"]);
        match signal {
            Some(signal) => {
                let mut line = String::new();
                output.read_line(&mut line).unwrap();
                assert!(line.contains("received"), "{line}");
                kill_process(Pid::from_child(&child), signal).unwrap();
            }
            None => {
                drop(output);
                // Whatever it prints next finds nobody.
                while child.try_wait().unwrap().is_none() {
                    client.submit(SENDER, &["ok@a.sink.test"]);
                }
            }
        }
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    daemon.stop();
}

#[test]
fn a_folder_that_cannot_be_written_or_is_another_daemons_is_an_error_of_the_start() {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "");
    let daemon = stage.start();
    let refused = |other: &Stage| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        let output = command.args(["run", "--config"]).arg(other.config()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };

    let folder = tempfile::tempdir().unwrap();
    let shared = Stage::with_journal(folder, stage.journal.clone(), receiver.address, "");
    let text = refused(&shared);
    assert!(text.contains("journal.path") && text.contains("another daemon"), "{text}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let blocked = Stage::with_journal(folder, file.join("journal"), receiver.address, "");
    let text = refused(&blocked);
    assert!(text.contains("journal.path: cannot write a journal in") && text.contains("enabled = false"), "{text}");
    daemon.stop();
}
