//! Every kind of line that is written, with its fields.

use std::os::unix::fs::FileExt;

use serde_json::{Value, json};

use super::receiver::Receiver;
use super::stage::{Stage, of_kind, wait};

const SENDER: &str = "News@back.sink.test";

/// The event of `kind` of a recipient.
fn find<'a>(events: &'a [Value], kind: &str, recipient: &str) -> Option<&'a Value> {
    events.iter().find(|event| event["event"] == kind && event["recipient"] == recipient)
}

/// Takes id and times out of a line, after a look at them; what is left is compared.
fn timeless(event: &Value, times: &[&str]) -> Value {
    let mut event = event.clone();
    let fields = event.as_object_mut().unwrap();
    assert_eq!(fields.remove("v"), Some(json!(1)));
    assert_eq!(fields.remove("id").unwrap().as_str().unwrap().len(), 13);
    for name in ["time", "accepted"].iter().chain(times) {
        let value = fields.remove(*name).unwrap_or_else(|| panic!("no {name}: {fields:?}"));
        assert!(hikyaku::journal::time::parse(value.as_str().unwrap()).is_some(), "{name}: {value}");
    }
    event
}

#[test]
fn each_outcome_is_told_with_all_its_fields() {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "---\n[retry]\nschedule = [\"1h\"]\njitter_percent = 0\n");
    let daemon = stage.start();
    let id = daemon.client().submit(
        SENDER,
        &["Ok@a.sink.test", "bounce@b.sink.test", "defer@c.sink.test", "throttle@d.sink.test", "lost@nowhere.test"],
    );
    let is_enough = |events: &[Value]| {
        let told = ["delivered", "bounced", "deferred", "throttled", "dsn-sent"];
        told.iter().all(|kind| !of_kind(events, kind).is_empty())
            && find(events, "deferred", "lost@nowhere.test").is_some()
            && find(events, "delivered", "Ok@a.sink.test").is_some()
            && find(events, "delivered", SENDER).is_some()
    };
    let events = stage.until(is_enough);
    daemon.stop();

    let site = format!("127.0.0.1:{}", receiver.address.port());
    let subject = |kind: &str, recipient: &str| {
        let domain = recipient.split_once('@').unwrap().1;
        json!({"event": kind, "message_id": id, "tenant": "shop", "campaign": "spring \"sale\"", "lane": "normal",
            "reverse_path": SENDER, "recipient": recipient, "domain": domain})
    };
    let with = |mut base: Value, more: Value| {
        base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        base
    };
    let received = timeless(find(&events, "received", "Ok@a.sink.test").unwrap(), &[]);
    let size = received["size"].as_u64().unwrap();
    assert!(size > 200, "{size}");
    let expected = with(subject("received", "Ok@a.sink.test"), json!({"client": "127.0.0.1", "size": size}));
    assert_eq!(received, expected);

    let site_name = find(&events, "delivered", "Ok@a.sink.test").unwrap()["site"].clone();
    let attempt = |step: &str, code: u16, status: &str, text: &str| {
        json!({"site": site_name, "mx_host": "127.0.0.1", "mx_address": site, "egress_source": "default",
            "tls": "none", "tls_policy": "none", "step": step, "reply_code": code, "enhanced_status": status, "reply_text": text,
            "attempt": 1, "size": size})
    };
    let refused = |told: Value, class: &str, rule: &str| {
        with(told, json!({"class": class, "rule": rule, "permanent": class == "bad-mailbox"}))
    };
    for (kind, recipient, told, times) in [
        (
            "delivered",
            "Ok@a.sink.test",
            attempt("end-of-data", 250, "2.0.0", "taken"),
            &["due", "attempted", "answered"][..],
        ),
        (
            "bounced",
            "bounce@b.sink.test",
            refused(attempt("rcpt", 550, "5.1.1", "no \"such\" user"), "bad-mailbox", "x.1.1"),
            &["due", "attempted", "answered"],
        ),
        (
            "deferred",
            "defer@c.sink.test",
            refused(attempt("rcpt", 450, "4.2.1", "mailbox busy"), "unknown", "none"),
            &["due", "attempted", "answered", "retry"],
        ),
        (
            "throttled",
            "throttle@d.sink.test",
            // It counts as no attempt.
            with(refused(attempt("rcpt", 421, "4.7.0", "slow down"), "rate-limited", "rate"), json!({"attempt": 0})),
            &["due", "attempted", "answered", "retry"],
        ),
    ] {
        let found = timeless(find(&events, kind, recipient).unwrap_or_else(|| panic!("no {kind}")), times);
        assert_eq!(found, with(subject(kind, recipient), told));
    }

    let by_dns = timeless(find(&events, "deferred", "lost@nowhere.test").unwrap(), &["due", "retry"]);
    assert_eq!((&by_dns["step"], &by_dns["attempt"]), (&json!("dns"), &json!(1)), "{by_dns}");
    assert!(by_dns.get("mx_host").is_none() && by_dns.get("reply_code").is_none(), "{by_dns}");

    let dsn = timeless(find(&events, "dsn-sent", "bounce@b.sink.test").unwrap(), &[]);
    let dsn_id = dsn["dsn_id"].clone();
    let told = json!({"site": site_name, "action": "failed", "dsn_id": dsn_id});
    assert_eq!(dsn, with(subject("dsn-sent", "bounce@b.sink.test"), told));
    for kind in ["received", "delivered"] {
        let of_dsn = find(&events, kind, SENDER).unwrap();
        assert_eq!((&of_dsn["message_id"], &of_dsn["message_kind"]), (&dsn_id, &json!("dsn")), "{of_dsn}");
        assert_eq!(of_dsn["reverse_path"], "");
    }
    let ids: Vec<&str> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
}

#[test]
fn an_expiry_that_nobody_is_told_of_names_its_recipient() {
    let receiver = Receiver::start();
    let stage =
        Stage::new(receiver.address, "---\n[retry]\nschedule = [\"1s\"]\njitter_percent = 0\nmax_age = \"2s\"\n");
    let daemon = stage.start();
    let id = daemon.client().submit(SENDER, &["lost@nowhere.test NOTIFY=NEVER"]);
    let events = stage.until(|events| !of_kind(events, "expired").is_empty());
    daemon.stop();

    let expired = of_kind(&events, "expired")[0];
    assert_eq!((&expired["message_id"], &expired["recipient"]), (&json!(id), &json!("lost@nowhere.test")));
    assert_eq!(expired["reverse_path"], SENDER);
    assert!(expired["attempt"].as_u64().unwrap() >= 1 && expired.get("retry").is_none(), "{expired}");
    assert_eq!(of_kind(&events, "dsn-sent"), Vec::<&Value>::new());
}

#[test]
fn a_kill_leaves_a_gap_and_what_was_in_doubt_is_told_by_its_policy() {
    for (policy, kind) in [("hold", "held"), ("assume-delivered", "delivered")] {
        let receiver = Receiver::start();
        let stage = Stage::new(receiver.address, &format!("---\n[queue]\nin_doubt = \"{policy}\"\n"));
        let daemon = stage.start();
        let id = daemon.client().submit(SENDER, &["silent@a.sink.test"]);
        wait("the content has left", || receiver.silent() == 1);
        daemon.kill();
        let daemon = stage.start();
        let events = stage.until(|events| !of_kind(events, kind).is_empty());
        daemon.stop();

        let told = of_kind(&events, kind)[0];
        assert_eq!((&told["message_id"], &told["recipient"]), (&json!(id), &json!("silent@a.sink.test")));
        match kind {
            "held" => assert_eq!(told["reason"], "in-doubt"),
            _ => assert_eq!(
                (&told["step"], &told["mx_address"]),
                (&json!("queue"), &json!(receiver.address.to_string()))
            ),
        }
        let gap = of_kind(&events, "gap")[0];
        assert_eq!((&gap["cause"], gap.get("count")), (&json!("crash"), None), "{gap}");
    }
}

#[test]
fn a_damaged_message_is_told_as_held() {
    let receiver = Receiver::start();
    let stage = Stage::new(receiver.address, "---\n[retry]\nschedule = [\"3s\"]\njitter_percent = 0\n");
    let daemon = stage.start();
    let id = daemon.client().submit(SENDER, &["defer@a.sink.test"]);
    stage.until(|events| !of_kind(events, "deferred").is_empty());
    // The next start has it on disk only.
    daemon.stop();
    let segments = std::fs::read_dir(stage.spool().join("segments")).unwrap().map(|entry| entry.unwrap().path());
    let mut harmed = 0;
    for path in segments.filter(|path| path.is_file()) {
        let bytes = std::fs::read(&path).unwrap();
        for at in memchr::memmem::find_iter(&bytes, b"body-of-it") {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(b"B", at as u64).unwrap();
            harmed += 1;
        }
    }
    assert!(harmed > 0);
    let daemon = stage.start();
    let events = stage.until(|events| !of_kind(events, "held").is_empty());
    daemon.stop();

    let mut held = timeless(of_kind(&events, "held")[0], &[]);
    // As far as the queue knows it.
    held.as_object_mut().unwrap().remove("site");
    let expected = json!({"event": "held", "message_id": id, "tenant": "shop", "campaign": "spring \"sale\"",
        "lane": "normal", "reverse_path": SENDER, "recipient": "defer@a.sink.test", "domain": "a.sink.test",
        "reason": "damaged"});
    assert_eq!(held, expected);
    assert_eq!(of_kind(&events, "gap"), Vec::<&Value>::new(), "both runs ended in good order");
}
