//! `limits`: what is learnt about receivers, and its steering.

use std::path::Path;

use hikyaku::config::LimitRule;
use serde_json::Value;

use crate::running::{Character, Running};

/// Submits until the receiver says that it is too much.
async fn throttled(running: &Running) -> Value {
    for _ in 0..12 {
        running.submit(&["a@busy.test"]).await;
    }
    let is_rate =
        |change: &Value| change["limit"] == "rate" && change["reason"].as_str().unwrap().contains("421 4.7.28");
    let has_rate = |answer: &Value| answer.as_array().unwrap().iter().any(is_rate);
    running.until_json(&["limits", "history"], has_rate).await
}

/// The lines of `explain` of one scope: limit, most, and who set it.
fn scope(answer: &Value, scope: &str) -> Vec<(String, Option<f64>, String)> {
    let lines = answer["limits"].as_array().unwrap().iter().filter(|line| line["scope"] == scope);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    lines.map(|line| (text(&line["what"]), line["most"].as_f64(), text(&line["set_by"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_limit_of_some_mail_is_explained_with_who_set_it_and_its_room() {
    let rule = |text: &str| toml::from_str::<LimitRule>(text).unwrap();
    let running = Running::start_with(&[("fine.test", Character::Takes)], |config| {
        config.limits.rules = vec![
            rule("tenant = \"shop\"\nrate = \"90/min\""),
            rule("tenant = \"*\"\ncampaign = \"spring\"\nbytes = \"1MB/s\""),
            rule("source = \"*\"\nsite = \"*\"\nconnections = 7"),
        ];
    })
    .await;
    let pin = ["limits", "pin", "fine.test", "--rate", "60/min", "--reason", "ticket 4711"];
    assert_eq!(running.command(&pin).await.0, 0);

    let about = ["limits", "explain", "Someone@Fine.Test", "--tenant", "shop", "--campaign", "spring"];
    let (code, told, errors) = running.command(&about).await;
    let (_, json, _) = running.command(&[&about[..], &["--json"]].concat()).await;
    let answer: Value = serde_json::from_str(&json).unwrap();

    assert_eq!(code, 0, "{errors}");
    assert!(told.starts_with("mail for fine.test goes to 127.0.0.1:") && told.contains("from default"), "{told}");
    assert_eq!(scope(&answer, "global"), [("connections".into(), Some(20_000.0), "[limits]".into())]);
    assert_eq!(scope(&answer, "source"), [("anything".into(), None, String::new())]);
    assert!(scope(&answer, "site").contains(&("connections".into(), Some(20.0), "[limits]".into())), "{answer}");
    let both = scope(&answer, "source at site");
    assert!(both.contains(&("connections".into(), Some(7.0), "rule site *, source *".into())), "{both:?}");
    let pinned = both.iter().find(|(what, ..)| what == "messages").unwrap();
    assert!(pinned.1 == Some(60.0) && pinned.2.contains("ticket 4711"), "{both:?}");
    assert_eq!(scope(&answer, "tenant"), [("messages".into(), Some(90.0), "rule tenant shop".into())]);
    assert_eq!(scope(&answer, "tenant at site"), [("anything".into(), None, String::new())]);
    let campaign = scope(&answer, "campaign");
    assert_eq!(campaign, [("octets".into(), Some(1e6), "rule tenant *, campaign spring".into())]);

    for (wrong, ends, word) in [
        (&["limits", "explain", "nobody"][..], 1, "no address"),
        (&["limits", "explain", "a@fine.test", "--source", "x"], 1, "no egress source"),
        (&["limits", "explain", "a@fine.test", "--campaign", "x"], 2, "--tenant"),
    ] {
        let (code, _, errors) = running.command(wrong).await;
        assert!(code == ends && errors.contains(word), "{wrong:?}: {errors}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_learnt_is_shown_and_listed_and_is_in_the_journal() {
    let running = Running::start(&[("busy.test", Character::Throttles)]).await;
    let (code, empty, _) = running.command(&["limits", "show"]).await;
    assert!(code == 0 && empty == "nothing is learnt yet\n", "{empty}");
    throttled(&running).await;

    let (code, shown, _) = running.command(&["limits", "show", "--site", "busy.test"]).await;
    let (_, history, remark) = running.command(&["limits", "history"]).await;
    // What is told goes to the file a little later.
    let is_told = |text: &str| text.contains("421 4.7.28");
    let (_, journal) = running.until(&["journal", "search", "--event", "limit"], is_told).await;
    let (code_of_none, _, _) = running.command(&["limits", "show", "--source", "x"]).await;

    assert_eq!((code, code_of_none), (0, 1), "there is no such source");
    for text in [&shown, &history, &journal] {
        assert!(text.contains("421 4.7.28 unusual rate of mail") && !text.contains('\u{1b}'), "{text}");
    }
    assert!(shown.contains("STATE") && shown.contains("A MINUTE"), "{shown}");
    assert!(remark.contains("journal search --event limit"), "{remark}");
    assert!(journal.contains("from default: rate "), "{journal}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_are_set_shown_survive_a_restart_and_are_ended() {
    let running = Running::start(&[("fine.test", Character::Takes)]).await;
    running.submit(&["a@fine.test"]).await;
    let has_path = |answer: &Value| answer[0]["phase"] == "start";
    running.until_json(&["limits", "show"], has_path).await;

    let pin = ["limits", "pin", "fine.test", "--rate", "..120/min", "--connections", "3", "--reason", "ticket 4711"];
    let (code, said, errors) = running.command(&pin).await;

    assert_eq!(code, 0, "{errors}");
    assert!(said.contains("rate is at most 120, pinned by") && said.contains("uid "), "{said}");
    assert!(said.contains("connections is 3") && said.contains("it holds at 1 paths now"), "{said}");

    let running = running.restarted().await;
    running.submit(&["a@fine.test"]).await;
    let is_pinned = |answer: &Value| answer[0]["is_in_memory"] == true && answer[0]["connections"] == 3;
    let answer = running.until_json(&["limits", "show"], is_pinned).await;
    assert_eq!(answer[0]["pins"].as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(answer[0]["rate_per_minute"], 120.0, "{answer}");

    let (code, said, _) = running.command(&["limits", "unpin", "fine.test"]).await;
    let (again, _, refusal) = running.command(&["limits", "unpin", "fine.test"]).await;
    assert!(code == 0 && said.lines().count() == 2, "{said}");
    assert!(again == 1 && refusal.contains("no such limit is pinned"), "{refusal}");
    // The journal is written beside what it tells of.
    let is_told = |journal: &str| journal.contains("ticket 4711") && journal.contains("unpinned by");
    running.until(&["journal", "search", "--event", "limit", "--json"], is_told).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_that_nothing_was_sent_to_yet_is_pinned_and_shown_and_a_mistyped_one_is_refused() {
    let running = Running::start(&[("fine.test", Character::Takes)]).await;

    let (code, said, errors) =
        running.command(&["limits", "pin", "Fine.test.", "--connections", "2", "--reason", "x"]).await;
    let (_, shown, _) = running.command(&["limits", "show"]).await;
    let (wrong, _, refusal) =
        running.command(&["limits", "pin", "foo bar", "--connections", "2", "--reason", "x"]).await;
    let (none, _, no_plan) =
        running.command(&["limits", "pin", "nowhere.test", "--connections", "2", "--reason", "x"]).await;
    running.submit(&["a@fine.test"]).await;
    let is_pinned = |answer: &Value| answer[0]["is_in_memory"] == true && answer[0]["connections"] == 2;
    running.until_json(&["limits", "show"], is_pinned).await;
    let running = running.restarted().await;
    let (lost, _, unknown) = running.command(&["limits", "unpin", "nowhere.test"]).await;
    let (stranger, _, no_source) = running.command(&["limits", "show", "--source", "nosuch"]).await;
    let (slow, _, too_slow) = running.command(&["limits", "pin", "fine.test", "--rate", "1/d", "--reason", "x"]).await;
    let (ended, what, _) = running.command(&["limits", "unpin", "fine.test"]).await;

    assert!(lost == 1 && unknown.contains("no site that is known"), "not that nothing is pinned there: {unknown}");
    assert!(stranger == 1 && no_source.contains("there is no egress source \"nosuch\""), "{no_source}");
    assert!(slow == 1 && too_slow.contains("a rate is 1 to 1000000000 messages a minute"), "{too_slow}");
    assert!(code == 0 && said.contains("127.0.0.1:"), "its site: {said}{errors}");
    assert!(shown.contains("connections is 2, pinned by"), "{shown}");
    assert!(wrong == 1 && refusal.contains("no site that is known"), "{refusal}");
    assert!(none == 1 && no_plan.contains("no site that is known"), "{no_plan}");
    assert!(ended == 0 && what.starts_with("ended: 127.0.0.1:"), "{what}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_undone_and_what_was_learnt_is_forgotten() {
    let running = Running::start(&[("busy.test", Character::Throttles)]).await;
    let history = throttled(&running).await;
    let first = history.as_array().unwrap().iter().rev().find(|change| change["limit"] == "rate").unwrap();
    let id = first["id"].to_string();

    let (undone, said, errors) = running.command(&["limits", "undo", &id]).await;
    let (twice, _, already) = running.command(&["limits", "undo", &id]).await;
    let (reset, forgot, _) = running.command(&["limits", "reset", "busy.test"]).await;
    let (unknown, _, refusal) = running.command(&["limits", "undo", "99999"]).await;
    let (nothing, _, none) = running.command(&["limits", "reset", "elsewhere.test"]).await;
    let (wrong, _, which) = running.command(&["limits", "reset", "busy.test", "--limit", "speed"]).await;

    assert!(undone == 0 && said.contains("rate"), "{said}{errors}");
    assert!(twice == 1 && already.contains("undone already"), "{already}");
    assert!(reset == 0 && forgot.contains("1 paths begin anew"), "{forgot}");
    assert!(unknown == 1 && refusal.contains("limits history"), "{refusal}");
    assert!(nothing == 1 && none.contains("nothing is learnt about"), "{none}");
    assert!(wrong == 1 && which.contains("hourly-cap"), "{which}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_words_are_wrong_usage_and_a_daemon_that_is_not_there_is_told() {
    let ask = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        let output = command.args(arguments).env("HIKYAKU_SOCKET", Path::new("/nonexistent/x.sock")).output().await;
        output.unwrap().status.code()
    };

    for wrong in [
        &["limits", "pin", "a.test", "--rate", "1/min"][..],
        &["limits", "pin", "a.test", "--reason", "x"],
        &["limits", "pin", "a.test", "--rate", "fast", "--reason", "x"],
        &["limits", "unpin", "a.test", "--limit", "breaker"],
    ] {
        assert_eq!(ask(wrong).await, Some(2), "{wrong:?}");
    }
    for right in [&["limits", "show"][..], &["limits", "pin", "a.test", "--rate", "1/min", "--reason", "x"]] {
        assert_eq!(ask(right).await, Some(3), "{right:?}");
    }
}
