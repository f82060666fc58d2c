//! A receiver that resets connections: at a provider that throttles by it, and elsewhere.

use std::time::Duration;

use serde_json::Value;

use crate::sink::{Act, At, Sink};
use crate::stage::{LONG, Stage};

fn until_delivered(stage: &Stage, count: usize) -> Vec<Value> {
    stage.daemon.until("delivered", LONG, |daemon| of_kind(&daemon.journal(), "delivered").len() == count);
    stage.daemon.journal()
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

fn is_once_each(sink: &Sink, count: usize) -> bool {
    let mut from: Vec<String> = sink.arrivals().into_iter().map(|arrival| arrival.from).collect();
    from.sort_unstable();
    from.dedup();
    from.len() == count && sink.taken() == count
}

/// Takes twenty messages, resets the connection at the next MAIL, then takes all.
fn cutting_off() -> Sink {
    Sink::start(Duration::from_millis(5), |at| match at {
        At::Mail { number: 20 } => Act::Reset,
        _ => Act::Take,
    })
}

#[test]
fn a_reset_in_a_session_with_au_is_a_refusal_for_its_rate() {
    let sink = cutting_off();
    let stage = Stage::start(&sink);

    // What is left goes at the rate that was learnt, which is not waited for.
    stage.submit(40, "ezweb.ne.jp");
    stage.daemon.until("a change", LONG, |daemon| !of_kind(&daemon.journal(), "limit").is_empty());
    let events = stage.daemon.journal();

    let throttled = of_kind(&events, "throttled");
    assert_eq!(throttled.len(), 1, "{throttled:?}");
    assert_eq!((&throttled[0]["class"], &throttled[0]["rule"]), (&"rate-limited".into(), &"au-reset".into()));
    assert_eq!((&throttled[0]["site"], &throttled[0]["attempt"]), (&"au".into(), &0.into()), "{:?}", throttled[0]);
    let rate = of_kind(&events, "limit").into_iter().find(|event| event["limit"] == "rate").unwrap();
    let reason = rate["reason"].as_str().unwrap();
    assert!(reason.contains("Connection reset by peer"), "{reason}");
    assert!(rate["to"].as_f64() < rate["from"].as_f64(), "{rate}");
    assert!(of_kind(&events, "deferred").is_empty());
    let totals = stage.daemon.totals();
    assert_eq!((sink.taken(), &totals["queued"], &totals["scheduled"]), (20, &20.into(), &0.into()), "{totals}");
}

#[test]
fn a_reset_in_a_session_with_others_is_a_fault_of_the_network() {
    let sink = cutting_off();
    let stage = Stage::start(&sink);

    stage.submit(40, "other.test");
    let events = until_delivered(&stage, 40);

    assert!(of_kind(&events, "throttled").is_empty());
    let is_told = |event: &&Value| event["reason"].as_str().unwrap().contains("reset");
    assert_eq!(of_kind(&events, "limit").into_iter().filter(is_told).count(), 0);
    assert!(is_once_each(&sink, 40));
}

#[test]
fn a_reset_in_place_of_a_greeting_tells_how_many_connections_au_takes() {
    let most = 1;
    let sink = Sink::start(Duration::from_millis(100), move |at| match at {
        At::Greeting { others } if others >= most => Act::Reset,
        _ => Act::Take,
    });
    let stage = Stage::start(&sink);

    stage.submit(60, "ezweb.ne.jp");
    let events = until_delivered(&stage, 60);

    let limits = of_kind(&events, "limit");
    let connections =
        limits.iter().find(|event| event["limit"] == "connections").unwrap_or_else(|| panic!("{limits:?}"));
    assert_eq!(connections["to"], 1.0, "{connections}");
    let reason = connections["reason"].as_str().unwrap();
    assert!(reason.contains("refused connection 2") && reason.contains("Connection reset by peer"), "{reason}");
    let throttled = of_kind(&events, "throttled");
    let is_right = |event: &&&Value| event["class"] == "too-many-connections" && event["rule"] == "au-reset-opening";
    assert_eq!(throttled.iter().filter(is_right).count(), throttled.len(), "{throttled:?}");
    assert!(throttled.iter().any(|event| event["attempt"] == 0), "{throttled:?}");
    assert!(is_once_each(&sink, 60));
}

#[test]
fn a_hosted_domain_with_a_rule_of_its_own_keeps_what_is_said_of_its_provider() {
    let sink = cutting_off();
    let rules = "[[limits.rule]]\ndomain = \"House.test\"\nconnections = 1\n\
                 [[limits.rule]]\nsite = \"au\"\nconnections = 9\nmessages_per_connection = 15\n";
    let stage = Stage::with(&sink, rules);

    stage.submit(40, "house.test");
    stage.daemon.until("a change", LONG, |daemon| !of_kind(&daemon.journal(), "limit").is_empty());
    let events = stage.daemon.journal();

    let throttled = of_kind(&events, "throttled");
    assert_eq!((&throttled[0]["site"], &throttled[0]["rule"]), (&"house.test".into(), &"au-reset".into()));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    command.args(["limits", "explain", "a@house.test", "--json", "--socket"]);
    let told = command.arg(stage.daemon.folder().join("admin.sock")).output().unwrap();
    let answer: Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|error| panic!("{error}: {told:?}"));
    let lines = answer["limits"].as_array().unwrap().iter().filter(|line| line["scope"] == "site");
    let lines: Vec<_> = lines.map(|line| (line["what"].clone(), line["most"].as_f64(), &line["set_by"])).collect();
    assert!(lines.contains(&("connections".into(), Some(1.0), &"rule domain House.test".into())), "{lines:?}");
    assert!(lines.contains(&("messages per connection".into(), Some(15.0), &"rule site au".into())), "{lines:?}");
}
