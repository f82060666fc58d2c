//! What goes on record, and what becomes of a change that cannot.

use std::fs;

use hikyaku::admin::Role;
use hikyaku::audit::record::read;
use hikyaku::audit::{Kind, Record, files};
use hikyaku::config::Route;
use serde_json::json;

use crate::stage::Stage;

fn records(stage: &Stage) -> Vec<Record> {
    let mut found = Vec::new();
    for (_, path) in files(&stage.audit()).unwrap() {
        found.extend(fs::read_to_string(path).unwrap().lines().map(|line| read(line.as_bytes()).unwrap()));
    }
    found
}

const ORDER: &str = "{\"action\":\"suspend\",\"selection\":{\"domain\":\"a.test\"},\"reason\":\"they asked\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_on_record_before_it_is_made_and_with_its_outcome() {
    let stage = Stage::start().await;
    let operator = Some(stage.secret(Role::Operator));
    let placed = stage.ask(operator, "POST", "/v1/orders", ORDER).await;
    assert_eq!(placed.status, 200, "{placed:?}");
    let id = placed.body["order"]["id"].to_string();
    assert_eq!(stage.ask(operator, "DELETE", &format!("/v1/orders/{id}"), "").await.status, 200);
    assert_eq!(stage.ask(operator, "DELETE", &format!("/v1/orders/{id}"), "").await.status, 404);

    let found = records(&stage);

    let kinds: Vec<_> = found.iter().map(|record| (record.kind, record.action.as_str())).collect();
    assert_eq!(kinds[0], (Kind::Seen, "start"));
    assert_eq!(kinds[1..3], [(Kind::Begun, "order.place"), (Kind::Done, "order.place")]);
    let [begun, done] = [&found[1], &found[2]];
    assert_eq!((begun.who.as_str(), begun.role.as_str()), ("token operator", "operator"));
    assert!(begun.from.starts_with("127.0.0.1:") && begun.request == "POST /v1/orders");
    assert_eq!((begun.reason.as_str(), &begun.parameters["selection"]["domain"]), ("they asked", &json!("a.test")));
    assert_eq!((done.of, done.outcome.as_str()), (Some(begun.sequence), "ok"));
    assert_eq!(done.after["order"]["id"], placed.body["order"]["id"]);
    assert_eq!(found[4].before["selection"]["domain"], "a.test", "what was undone: {:?}", found[4]);
    assert!(found[6].outcome.starts_with("404: no order"), "{:?}", found[6]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_too_low_and_changes_on_the_socket_are_on_record_and_looks_are_not() {
    let stage = Stage::start().await;
    let viewer = Some(stage.secret(Role::Viewer));
    assert_eq!(stage.ask(viewer, "POST", "/v1/orders", ORDER).await.status, 403);
    assert_eq!(stage.ask(viewer, "GET", "/v1/orders", "").await.body, json!([]));
    let socket = stage.folder.path().join("admin.sock");
    let arguments = ["queue", "flush", "--all", "--socket", socket.to_str().unwrap()];
    let (code, said) = stage.command(Role::Viewer, &arguments).await;
    assert_eq!(code, 0, "{said}");

    let found = records(&stage);

    assert_eq!(found.len(), 4, "{found:?}");
    let refused = &found[1];
    assert_eq!((refused.kind, refused.who.as_str()), (Kind::Refused, "token viewer"));
    assert!(refused.outcome.starts_with("403") && refused.parameters["reason"] == "they asked", "{refused:?}");
    let uid = format!("uid {}", rustix::process::geteuid().as_raw());
    assert!(found[2].who.starts_with(&uid) && found[2].from == "socket", "{:?}", found[2]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_again_and_again_does_not_fill_the_record() {
    let stage = Stage::start().await;
    let viewer = Some(stage.secret(Role::Viewer));

    for _ in 0..300 {
        assert_eq!(stage.ask(viewer, "POST", "/v1/reload", "").await.status, 403);
    }
    let of_refusals = records(&stage).into_iter().filter(|record| record.kind == Kind::Refused).count();
    let (code, said) = stage.command(Role::Operator, &["queue", "flush", "--all"]).await;
    let head = |reason: &str| {
        let secret = stage.secret(Role::Operator);
        format!(
            "POST /v1/queue/flush HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\n{reason}Content-Length: 2\r\n\r\n{{}}"
        )
    };
    let wide = stage.send(head("Hikyaku-Reason: \u{5831}\u{544a}\r\n").as_bytes()).await.unwrap();
    let long = stage.send(head(&format!("Hikyaku-Reason: {}\r\n", "x".repeat(501))).as_bytes()).await.unwrap();

    assert_eq!((wide.status, long.status), (200, 400));
    assert!(records(&stage).iter().any(|record| record.reason == "\u{5831}\u{544a}"));
    // More than 30 where the machine is so slow that the minute ends meanwhile.
    assert!((30..250).contains(&of_refusals), "{of_refusals}");
    assert_eq!(code, 0, "{said}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_is_on_record_with_what_was_pinned_before() {
    let route = Route { domain: "big.test".to_owned(), next_hop: "smtp://127.0.0.1:9".to_owned() };
    let stage = Stage::with(|config, _| config.routes.push(route)).await;
    for most in [3, 5] {
        let body = json!({ "site": "big.test", "limit": "connections", "most": most }).to_string();
        let answer = stage.ask(Some(stage.secret(Role::Operator)), "POST", "/v1/limits/pin", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    let found = records(&stage);

    let done: Vec<_> = found.iter().filter(|record| record.kind == Kind::Done).collect();
    assert_eq!(done[0].before, json!([]));
    assert_eq!(done[1].before[0]["most"], 3.0, "{:?}", done[1]);
    assert_eq!(done[1].after["pins"][0]["most"], 5.0, "{:?}", done[1]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_put_on_record_is_not_done_and_looking_goes_on() {
    let stage = Stage::start().await;
    let operator = Some(stage.secret(Role::Operator));
    fs::remove_dir_all(stage.audit()).unwrap();
    fs::write(stage.audit(), "in the way").unwrap();

    let refused = stage.ask(operator, "POST", "/v1/orders", ORDER).await;

    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body["error"].as_str().unwrap().contains("the audit log cannot be written"), "{refused:?}");
    assert_eq!(stage.ask(operator, "GET", "/v1/orders", "").await.body, json!([]));
    let status = stage.ask(operator, "GET", "/v1/status", "").await.body;
    assert!(status["problems"].to_string().contains("changes are refused"), "{status}");
    assert!(stage.daemon.registry().render().contains("hikyaku_audit_failed 1"));

    fs::remove_file(stage.audit()).unwrap();
    assert_eq!(stage.ask(operator, "POST", "/v1/orders", ORDER).await.status, 200);
    let status = stage.ask(operator, "GET", "/v1/status", "").await.body;
    assert!(status["audit"]["broken"].to_string().contains("were written"), "the loss is told: {status}");
    stage.stop().await;
}
