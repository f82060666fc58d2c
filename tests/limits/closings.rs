//! A receiver that says "try again later" and nothing else: whether it closes the connection makes the difference.

use std::fmt::Write;
use std::time::Duration;

use hikyaku::demo::responder::{Responder, Zone};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::daemon::Daemon;
use crate::letter::Client;
use crate::sink::{Act, At, Sink};

const LONG: Duration = Duration::from_secs(120);
const OPAQUE: &str = "451 try again later";

/// Changes of the rate by what `act` does to the thirty-first message of forty; there may be none once all have arrived.
fn changes(act: Act) -> Vec<Value> {
    let sink = Sink::start(Duration::from_millis(5), move |at| match at {
        At::Mail { number: 30 } => act,
        _ => Act::Take,
    });
    let runtime = Runtime::new().unwrap();
    let mut zone = Zone::new();
    zone.mx("far.test", 10, "mx.far.test").address("mx.far.test", [127, 0, 0, 1]);
    let responder = runtime.block_on(Responder::start(([127, 0, 0, 1], 0).into(), zone)).unwrap();
    let mut more = String::new();
    write!(more, "[delivery]\ntls = \"none\"\nport = {}\n", sink.address.port()).unwrap();
    write!(more, "[dns]\nresolvers = [\"{}\"]\nallow_networks = [\"127.0.0.0/8\"]\n", responder.address()).unwrap();
    more.push_str("[retry]\nschedule = [\"2s\"]\n");
    let daemon = Daemon::start(tempfile::tempdir().unwrap(), "first_rate = \"50/s\"", &more);
    let mut client = Client::open(daemon.address);
    for number in 0..40 {
        client.submit(&format!("n{number}@client.test"), "a@far.test", "");
    }
    let changes = |daemon: &Daemon| -> Vec<Value> {
        let is_change = |event: &Value| event["event"] == "limit" && event["limit"] == "rate";
        let is_about_it = |event: &Value| event["reason"].as_str().unwrap().contains(OPAQUE);
        daemon.journal().into_iter().filter(|event| is_change(event) && is_about_it(event)).collect()
    };
    daemon.until("a change, or all taken", LONG, |daemon| sink.taken() == 40 || !changes(daemon).is_empty());
    changes(&daemon)
}

#[test]
fn an_opaque_refusal_that_closes_the_connection_is_one_for_the_rate() {
    let changes = changes(Act::Close(OPAQUE));

    let first = changes.first().expect("a change of the rate");
    assert!(first["to"].as_f64() < first["from"].as_f64(), "{first}");
    let reason = first["reason"].as_str().unwrap();
    assert!(reason.contains("451 try again later, and the connection was closed"), "{reason}");
}

#[test]
fn one_opaque_refusal_over_a_connection_that_stays_open_changes_nothing() {
    assert_eq!(changes(Act::Say(OPAQUE)), [] as [Value; 0]);
}
