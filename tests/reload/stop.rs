//! The stop: what a drain waits for and tells, what is in doubt at its end, and the second signal.

use std::time::Duration;

use rustix::process::Signal;

use super::Receivers;
use super::daemon::{Daemon, route, until};
use super::fake_mx::{Act, FakeMx, Running, Step};

/// A daemon with a message under way to a receiver that never replies to its end of data.
fn stalled(receivers: &Receivers, drain: &str) -> (Daemon, Running) {
    let receiver = receivers.start(FakeMx::new().always(Step::EndOfData, Act::Delay(Duration::from_secs(600))));
    let text = format!("[delivery]\ndrain = \"1h\"\n{}", route("*", receiver.address));
    let daemon = Daemon::start(&text);
    // The drain is that of the configuration that holds when the stop begins.
    daemon.reload(&text.replace("1h", drain));
    assert!(daemon.client().send("x", "stuck@a.test").starts_with("250"));
    until("the content has left", || receiver.commands().iter().any(|command| command.starts_with("DATA")));
    until("the attempt is noted", || daemon.json(&["status"])["queue"]["in_flight"] == 1);
    (daemon, receiver)
}

#[test]
fn a_drain_tells_how_much_is_left_and_a_second_signal_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let receivers = Receivers::new();
        let (mut daemon, _receiver) = stalled(&receivers, "10m");

        daemon.signal(signal);
        until("it drains", || daemon.json(&["status"])["draining"]["sessions"] == 0);
        let status = daemon.json(&["status"]);
        let said = String::from_utf8_lossy(&daemon.cli(&["status"]).stdout).into_owned();
        let (code, ready) = daemon.ask("/readyz");
        let reload = daemon.cli(&["reload"]);
        daemon.signal(signal);
        let ended = daemon.ended();

        assert_eq!((&status["draining"]["in_flight"], &status["draining"]["connections"]), (&1.into(), &1.into()));
        let seconds = status["draining"]["seconds_left"].as_u64().unwrap();
        assert!((1..600).contains(&seconds), "{status}");
        assert!(said.contains("draining for") && said.contains("1 transactions"), "{said}");
        assert_eq!(code, 503, "{ready}");
        assert!(ready.contains("draining"), "{ready}");
        assert_eq!(reload.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&reload.stderr).contains("stopping"));
        assert_eq!(ended, Some(1));
        until("it is logged", || !daemon.logged("ended by a second signal").is_empty());
        assert_eq!(daemon.logged("ended by a second signal")[0]["in_flight"], 1);
    }
}

#[test]
fn what_is_open_at_the_end_of_the_drain_is_in_doubt_by_name() {
    let receivers = Receivers::new();
    let (mut daemon, _receiver) = stalled(&receivers, "500ms");

    daemon.signal(Signal::TERM);

    assert_eq!(daemon.ended(), Some(0));
    until("it is logged", || !daemon.logged("in doubt: it was under way").is_empty());
    let doubts = daemon.logged("in doubt: it was under way");
    assert_eq!(doubts.len(), 1);
    assert_eq!(doubts[0]["recipient"], "stuck@a.test");
}
