//! A journal whose disk is full or slow: deliveries go on, and what is missing is counted exactly.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::{Value, json};

use super::receiver::Receiver;
use super::skip;
use super::stage::{Daemon, Stage, files, of_kind, wait};

const SENDER: &str = "s@back.sink.test";

/// A small file system of its own; unmounted when the test ends.
struct Mount(tempfile::TempDir);

impl Mount {
    /// None without the right to mount.
    fn tmpfs(size: &str) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=0755");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(place.path()).output().ok()?;
        mounted.status.success().then_some(Self(place))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

/// Takes all the room that is left.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("ballast");
    let mut file = std::fs::File::create(&path).unwrap();
    for size in [4_096, 1] {
        while std::io::Write::write_all(&mut file, &vec![b'x'; size]).is_ok() {}
    }
    path
}

fn submit(daemon: &Daemon, count: usize) {
    let mut client = daemon.client();
    for number in 0..count {
        client.submit(SENDER, &[&format!("u{number}@a.sink.test")]);
    }
}

/// Events there are and events that are missing.
fn account(events: &[Value]) -> (u64, u64) {
    let gaps = of_kind(events, "gap");
    let missing = gaps.iter().map(|gap| gap["count"].as_u64().unwrap()).sum();
    ((events.len() - gaps.len()) as u64, missing)
}

#[test]
fn a_full_disk_stops_no_delivery_and_the_gap_says_exactly_what_is_missing() {
    let Some(mount) = Mount::tmpfs("2m") else {
        return skip::skip("a_full_journal_disk", "cannot mount a tmpfs: not root, or no mount here");
    };
    let receiver = Receiver::start();
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::with_journal(folder, mount.path().join("journal"), receiver.address, "buffer = \"64KiB\"\n");
    let daemon = stage.start();
    submit(&daemon, 10);
    wait("the first are delivered", || receiver.taken() == 10);
    let ballast = fill(mount.path());
    // A full buffer holds about 150 events.
    submit(&daemon, 300);
    wait("all are delivered", || receiver.taken() == 310);
    let full = stage.status();
    std::fs::remove_file(ballast).unwrap();
    submit(&daemon, 10);
    wait("the last are delivered", || receiver.taken() == 320);
    let events = stage.until(|events| {
        let (told, missing) = account(events);
        told + missing == 640
    });
    let empty = stage.status();
    daemon.stop();

    assert!(full.contains("the journal cannot be written") && full.contains("No space left"), "{full}");
    assert!(full.contains("the journal has lost"), "{full}");
    assert!(!empty.contains("cannot be written") && empty.contains("the journal has lost"), "{empty}");
    let (told, missing) = account(&events);
    assert!(missing > 100 && told > 100, "{told} told, {missing} missing");
    let gap = of_kind(&events, "gap")[0];
    assert!(gap["cause"].as_str().unwrap().contains("No space left"), "{gap}");
    assert!(gap["from"].as_str() <= gap["to"].as_str() && gap["to"].as_str() <= gap["time"].as_str(), "{gap}");
    assert_eq!(stage.raw().iter().filter(|line| line["event"] != "file").count(), events.len());
}

/// A journal whose disk is full from the beginning, and the file that fills it; none, and a case skipped, without a mount.
fn on_a_full_disk() -> Option<(Mount, Receiver, Stage, PathBuf)> {
    let Some(mount) = Mount::tmpfs("1m") else {
        skip::skip("a_full_journal_disk", "cannot mount a tmpfs: not root, or no mount here");
        return None;
    };
    let receiver = Receiver::start();
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::with_journal(folder, mount.path().join("journal"), receiver.address, "buffer = \"64KiB\"\n");
    std::fs::create_dir(&stage.journal).unwrap();
    let ballast = fill(mount.path());
    Some((mount, receiver, stage, ballast))
}

#[test]
fn a_daemon_starts_on_a_full_disk_and_tells_what_it_missed() {
    let Some((_mount, receiver, stage, ballast)) = on_a_full_disk() else { return };
    let daemon = stage.start();
    submit(&daemon, 5);
    wait("all are delivered", || receiver.taken() == 5);
    std::fs::remove_file(ballast).unwrap();
    let events = stage.until(|events| events.len() == 10);
    daemon.stop();

    assert_eq!(of_kind(&events, "delivered").len(), 5);
}

#[test]
fn a_kill_is_told_also_of_a_daemon_that_started_on_a_full_disk() {
    let Some((_mount, _receiver, stage, ballast)) = on_a_full_disk() else { return };
    let daemon = stage.start();
    std::fs::remove_file(ballast).unwrap();
    submit(&daemon, 1);
    stage.until(|events| events.len() == 2);
    wait("the lock is marked", || std::fs::metadata(stage.journal.join("lock")).unwrap().len() > 0);
    daemon.kill();

    stage.start().stop();

    assert_eq!(stage.events()[2]["cause"], "crash");
}

#[test]
fn a_crash_is_told_also_when_the_file_that_should_tell_it_is_removed_from_the_full_disk_first() {
    let Some((_mount, _receiver, stage, ballast)) = on_a_full_disk() else { return };
    std::fs::write(&ballast, "").unwrap();
    let daemon = stage.start();
    submit(&daemon, 1);
    // A file without events would be removed at the start, which makes room.
    stage.until(|events| events.len() == 2);
    daemon.kill();
    let ballast = fill(stage.journal.parent().unwrap());
    let daemon = stage.start();
    let empty = files(&stage.journal).pop().unwrap();
    std::fs::remove_file(&empty).unwrap();
    wait("another file is made", || files(&stage.journal).last().is_some_and(|path| *path != empty));
    std::fs::remove_file(ballast).unwrap();
    let events = stage.until(|events| events.len() == 3);
    daemon.stop();

    assert_eq!(events[2]["cause"], "crash", "{events:?}");
}

/// Every write of the journal's thread takes seconds; ended when dropped.
struct Slowness(Child);

impl Slowness {
    fn of(daemon: &Daemon) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap();
        let is_writer =
            |path: &PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "journal\n");
        let writer = threads.map(|entry| entry.unwrap().path()).find(is_writer).unwrap();
        let id = writer.file_name().unwrap().to_str().unwrap();
        let mut command = Command::new("strace");
        command.args(["-qq", "-o", "/dev/null", "-e", "trace=write", "-e", "inject=write:delay_enter=2s", "-p", id]);
        let tracer = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait("strace is attached", || {
            std::fs::read_to_string(writer.join("status")).unwrap().lines().all(|line| line != "TracerPid:\t0")
        });
        Self(tracer)
    }
}

impl Drop for Slowness {
    fn drop(&mut self) {
        if let Some(tracer) = rustix::process::Pid::from_raw(i32::try_from(self.0.id()).unwrap_or_default()) {
            let _ = rustix::process::kill_process(tracer, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// Why writes cannot be slowed down here.
fn obstacle() -> Option<String> {
    let mut command = Command::new("strace");
    let output = command.args(["-qq", "-o", "/dev/null", "-e", "trace=write", "true"]).output();
    match output {
        Err(error) => Some(format!("strace: {error}")),
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn a_slow_disk_stops_no_delivery_and_the_gap_says_exactly_what_is_missing() {
    if let Some(reason) = obstacle() {
        return skip::skip("a_slow_journal_disk", &reason);
    }
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "buffer = \"64KiB\"\n");
    let daemon = stage.start();
    submit(&daemon, 1);
    wait("the first is delivered", || receiver.taken() == 1);
    let slowness = Slowness::of(&daemon);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| submit(&daemon, 150));
        }
    });
    wait("all are delivered", || receiver.taken() == 601);
    drop(slowness);
    let events = stage.until(|events| {
        let (told, missing) = account(events);
        told + missing == 1_202
    });
    daemon.stop();

    let (told, missing) = account(&events);
    assert!(missing > 0, "{told} told");
    assert!(of_kind(&events, "gap").iter().all(|gap| gap["cause"] == json!("slow")), "{events:?}");
}

#[test]
fn finished_files_are_removed_when_they_are_old() {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "max_size = \"64KiB\"\nkeep = \"1d\"\n");
    let daemon = stage.start();
    submit(&daemon, 100);
    wait("a file is compressed", || files(&stage.journal).iter().any(|path| path.extension().unwrap() == "zst"));
    daemon.stop();
    let aged = files(&stage.journal).remove(0);
    let day_and_a_bit = std::time::Duration::from_secs(86_400 + 60);
    let file = std::fs::OpenOptions::new().write(true).open(&aged).unwrap();
    file.set_modified(std::time::SystemTime::now() - day_and_a_bit).unwrap();

    let daemon = stage.start();
    wait("it is removed", || !aged.exists());
    daemon.stop();

    assert!(!files(&stage.journal).is_empty(), "only what is old goes");
}
