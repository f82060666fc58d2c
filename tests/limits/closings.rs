//! A receiver that says "try again later" and nothing else: whether it closes the connection makes the difference.

use std::time::Duration;

use serde_json::Value;

use crate::daemon::Daemon;
use crate::sink::{Act, At, Sink};
use crate::stage::{LONG, Stage};

const OPAQUE: &str = "451 try again later";

/// Changes of one limit with this in their reasons.
fn changes_of(daemon: &Daemon, limit: &str, part: &str) -> Vec<Value> {
    let is_change = |event: &Value| event["event"] == "limit" && event["limit"] == limit;
    let is_about_it = |event: &Value| event["reason"].as_str().unwrap().contains(part);
    daemon.journal().into_iter().filter(|event| is_change(event) && is_about_it(event)).collect()
}

/// Attempts charged to what was put off by now, by event.
fn attempts(daemon: &Daemon, event: &str) -> Vec<u64> {
    let told = daemon.journal().into_iter().filter(|told| told["event"] == event);
    told.map(|told| told["attempt"].as_u64().unwrap()).collect()
}

/// Changes of the rate by what `act` does to the thirty-first message of forty, and the attempts that this was; there may be no
/// change once all have arrived.
fn changes(act: Act, part: &str) -> (Vec<Value>, [Vec<u64>; 2]) {
    let sink = Sink::start(Duration::from_millis(5), move |at| match at {
        At::Mail { number: 30 } => act,
        _ => Act::Take,
    });
    let stage = Stage::start(&sink);
    stage.submit(40, "far.test");
    let changes = |daemon: &Daemon| changes_of(daemon, "rate", part);
    let daemon = &stage.daemon;
    daemon.until("a change, or all taken", LONG, |daemon| sink.taken() == 40 || !changes(daemon).is_empty());
    daemon.until("its outcome", LONG, |daemon| {
        ["throttled", "deferred"].iter().any(|kind| !attempts(daemon, kind).is_empty())
    });
    (changes(daemon), ["throttled", "deferred"].map(|kind| attempts(daemon, kind)))
}

#[test]
fn an_opaque_refusal_that_closes_the_connection_is_one_for_the_rate() {
    let (changes, attempts) = changes(Act::Close(OPAQUE), OPAQUE);

    assert_eq!(attempts, [vec![0], vec![]], "the message is not to blame");
    let first = changes.first().expect("a change of the rate");
    assert!(first["to"].as_f64() < first["from"].as_f64(), "{first}");
    let reason = first["reason"].as_str().unwrap();
    assert!(reason.contains("451 try again later, and the connection was closed"), "{reason}");
}

#[test]
fn one_opaque_refusal_over_a_connection_that_stays_open_changes_nothing() {
    let (changes, attempts) = changes(Act::Say(OPAQUE), OPAQUE);

    assert_eq!(changes, [] as [Value; 0]);
    assert_eq!(attempts, [vec![1], vec![]], "so it is put down to the message");
}

#[test]
fn service_not_available_at_mail_is_a_refusal_for_the_rate() {
    let (changes, attempts) = changes(Act::Close("421 4.3.2 Service not available"), "421 4.3.2 Service not available");

    let first = changes.first().expect("a change of the rate");
    assert!(first["to"].as_f64() < first["from"].as_f64(), "{first}");
    assert_eq!(attempts, [vec![0], vec![]]);
}

#[test]
fn connections_that_end_at_mail_without_a_word_are_a_refusal_for_the_rate() {
    let sink = Sink::start(Duration::from_millis(5), |at| match at {
        At::Mail { number: 30..90 } => Act::Hang,
        _ => Act::Take,
    });
    let stage = Stage::start(&sink);

    stage.submit(80, "far.test");
    let changes = |daemon: &Daemon| changes_of(daemon, "rate", "connection closed by the receiver (mail)");
    stage.daemon.until("a change", LONG, |daemon| !changes(daemon).is_empty());
    stage.daemon.until("its outcome", LONG, |daemon| !attempts(daemon, "throttled").is_empty());

    let first = changes(&stage.daemon).remove(0);
    assert!(first["to"].as_f64() < first["from"].as_f64(), "{first}");
    let (returned, charged) = (attempts(&stage.daemon, "throttled"), attempts(&stage.daemon, "deferred"));
    assert!(returned.iter().all(|attempt| *attempt == 0), "{returned:?}");
    assert!(charged.len() <= 3, "only those before it was known: {charged:?}");
    let closings = sink.mails().saturating_sub(30);
    assert!(closings <= 20, "{closings}: and then it is left alone");
}

#[test]
fn a_receiver_that_ends_every_connection_before_its_greeting_is_left_alone_and_nobody_charged_for_it() {
    let sink = Sink::start(Duration::ZERO, |_| Act::Hang);
    let stage = Stage::start(&sink);

    stage.submit(20, "far.test");
    stage.daemon.until("one that goes back", LONG, |daemon| !attempts(daemon, "throttled").is_empty());

    assert_eq!(attempts(&stage.daemon, "throttled")[0], 0);
}

#[test]
fn a_greeting_that_refuses_without_a_reason_tells_how_many_connections_may_stand() {
    let sink = Sink::start(Duration::from_millis(100), |at| match at {
        At::Greeting { others: 1.. } => Act::Close("421 try again later"),
        _ => Act::Take,
    });
    let stage = Stage::start(&sink);

    stage.submit(60, "far.test");
    stage.daemon.until("all taken", LONG, |_| sink.taken() == 60);

    let changes = changes_of(&stage.daemon, "connections", "refused connection 2 (421 try again later)");
    assert_eq!(changes.first().and_then(|change| change["to"].as_f64()), Some(1.0), "{changes:?}");
    let attempts = attempts(&stage.daemon, "throttled");
    assert!(attempts.contains(&0), "{attempts:?}");
}
