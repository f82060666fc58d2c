//! systemd's watchdog: fed while everything moves and while the disk stalls, not while the daemon hangs.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::{Client, Daemon, PATIENCE, Place, has, still_seconds, submit};
use crate::skip::skip;

/// `WatchdogSec=`; a third of it is between two looks.
const TIMEOUT: &str = "300000";

/// Delays a system call of all threads for a quarter of an hour, or until it is dropped.
struct Stall(Child);

impl Stall {
    /// `Err` says why that cannot be done here.
    fn begin(daemon: &Daemon<'_>, call: &str) -> Result<Self, String> {
        if !has("strace") {
            return Err("strace is missing".to_owned());
        }
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:delay_enter=1000s"));
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-e", &trace, "-e", &inject, "-p", &daemon.pid().to_string()]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // Threads are attached to one after the other; the first line about it comes when that has begun.
        let mut said = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stderr.take().unwrap()), &mut said).unwrap();
        if said.contains("attached") {
            // A thread that is not attached yet could still sync.
            let begun = Instant::now();
            while !is_traced(daemon.pid()) {
                assert!(begun.elapsed() < PATIENCE, "strace does not come to all threads");
                std::thread::sleep(Duration::from_millis(5));
            }
            return Ok(Self(child));
        }
        let _ = child.kill();
        child.wait().unwrap();
        Err(said)
    }
}

/// Whether every thread of a process is being traced.
fn is_traced(process: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks.filter_map(Result::ok).all(|task| {
        // A thread that has ended meanwhile does nothing more.
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        !status.lines().any(|line| line == "TracerPid:\t0")
    })
}

impl Drop for Stall {
    fn drop(&mut self) {
        // It lets go of the threads, which go on.
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

/// A place whose metrics are at a known address.
fn place() -> (Place, TcpListener) {
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
    let sections = format!("[metrics]\naddress = \"{}\"", metrics.local_addr().unwrap());
    (Place::new("", "address = \"127.0.0.1:0\"", &sections), metrics)
}

fn start<'a>(place: &'a Place, metrics: &TcpListener) -> Daemon<'a> {
    let mut command = place.command_with(&[metrics.try_clone().unwrap()], "metrics");
    command.env("WATCHDOG_USEC", TIMEOUT);
    place.start(command)
}

#[test]
fn the_watchdog_is_fed_while_the_daemon_works_and_not_before_it_is_ready() {
    let (place, metrics) = place();

    let daemon = start(&place, &metrics);

    for _ in 0..10 {
        assert_eq!(place.heard(), "WATCHDOG=1");
        submit(place.listener());
    }
    daemon.stop();
}

#[test]
fn nobody_is_fed_without_a_watchdog() {
    let (place, metrics) = place();

    let daemon = place.start(place.command_with(&[metrics], "metrics"));
    daemon.signal(Signal::TERM);

    assert_eq!(place.heard(), "STOPPING=1");
}

/// In the full size the disk stalls for longer than anything else may.
#[test]
fn a_disk_that_stalls_is_seen_and_does_not_stop_the_feeding() {
    let (place, metrics) = place();
    let scraped = metrics.local_addr().unwrap();
    let daemon = start(&place, &metrics);
    submit(place.listener());
    let stall = match Stall::begin(&daemon, "fdatasync") {
        Ok(stall) => stall,
        Err(reason) => return skip("a_disk_that_stalls_is_seen_and_does_not_stop_the_feeding", &reason),
    };
    let is_full = std::env::var_os("HIKYAKU_FULL").is_some();
    let least = if is_full { 75.0 } else { 2.0 };

    let begun = Instant::now();
    let mut client = Client::connect(place.listener());
    client.submit();
    while client.has_reply() || still_seconds(scraped, "commit") < least {
        assert!(begun.elapsed() < PATIENCE * 3, "the stall is not seen");
        if client.has_reply() {
            // On a busy machine a thread that is traced may still finish what it was doing.
            client = Client::connect(place.listener());
            client.submit();
        }
        // A daemon that is not heard waits a second each time.
        place.set_patience(Duration::from_millis(50));
        while place.try_heard().is_some() {}
    }
    place.set_patience(PATIENCE);
    for _ in 0..20 {
        assert_eq!(place.heard(), "WATCHDOG=1");
    }
    for part in ["runtime", "accept", "timers", "queue"] {
        assert!(still_seconds(scraped, part) < 60.0, "{part}");
    }
    assert!(!client.has_reply(), "it is not synced");
    drop(stall);

    let reply = client.reply();
    // A message that was on its way for over a minute is refused rather than delivered twice.
    assert!(reply.starts_with(if is_full { "451" } else { "250" }), "{reply}");
    daemon.stop();
}

/// Takes a minute: that is how long everything may stand still.
#[test]
fn a_daemon_that_hangs_is_fed_no_more_until_it_moves_again() {
    if std::env::var_os("HIKYAKU_FULL").is_none() {
        return skip("a_daemon_that_hangs_is_fed_no_more_until_it_moves_again", "takes over a minute: HIKYAKU_FULL=1");
    }
    let (place, metrics) = place();
    let daemon = start(&place, &metrics);
    // Nothing is ever woken again.
    let stall = match Stall::begin(&daemon, "epoll_wait") {
        Ok(stall) => stall,
        Err(reason) => return skip("a_daemon_that_hangs_is_fed_no_more_until_it_moves_again", &reason),
    };

    place.set_patience(Duration::from_secs(10));
    let begun = Instant::now();
    while place.try_heard().is_some() {
        assert!(begun.elapsed() < PATIENCE * 3, "it is still fed");
    }
    assert!(place.log().contains("stuck: systemd's watchdog is not fed"), "{}", place.log());
    drop(stall);

    place.set_patience(PATIENCE);
    assert_eq!(place.heard(), "WATCHDOG=1");
    daemon.stop();
}
