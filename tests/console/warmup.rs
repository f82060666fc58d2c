//! `warmup`: a daemon whose source is new, in front of a receiver that sees from where mail comes.

use std::net::{IpAddr, Ipv4Addr};

use hikyaku::clock::Clock;
use hikyaku::config::units::Day;
use hikyaku::config::{Config, Pool, PoolMember, Route, Source, Warmup};
use serde_json::Value;

use crate::fake_mx::{self, FakeMx, Step};
use crate::running::Running;

const NEW: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 31);
const OLD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 32);

/// A plan of which a twentieth, which is all that goes at once, is one message.
fn plan(overflow: &str) -> Warmup {
    let today = Day::at(Clock::system().wall_precise());
    Warmup { overflow: overflow.to_owned(), ..Warmup::new("new", "default", today, vec![20; 300]) }
}

fn with(config: &mut Config, receiver: &fake_mx::Running, warmup: Warmup) {
    let source = |name: &str, address| Source {
        name: name.to_owned(),
        ipv4: Some(address),
        ipv6: None,
        ehlo_name: None,
        connections: None,
    };
    config.sources = vec![source("new", NEW), source("old", OLD)];
    let sources = vec![PoolMember { source: "new".to_owned(), weight: 1 }];
    let (tenants, sender_domains) = Default::default();
    config.pools = vec![Pool { name: "default".to_owned(), sources, tenants, sender_domains }];
    config.routes.push(Route { domain: "x.test".to_owned(), next_hop: format!("smtp://{}", receiver.address) });
    config.warmups = vec![warmup];
}

async fn running(receiver: &fake_mx::Running, warmup: Warmup) -> Running {
    Running::start_with(&[], |config| with(config, receiver, warmup)).await
}

async fn submit(running: &Running, count: usize) {
    for _ in 0..count {
        running.submit(&["a@x.test"]).await;
    }
}

/// How many transactions came from an address.
fn from(receiver: &fake_mx::Running, address: Ipv4Addr) -> usize {
    let peers = receiver.peers();
    receiver.transactions().iter().filter(|done| peers[done.connection] == IpAddr::V4(address)).count()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("never {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_room_leaves_from_the_other_address_and_a_restart_keeps_the_count() {
    let receiver = FakeMx::new().start().await;
    let running = running(&receiver, plan("old")).await;

    submit(&running, 6).await;
    until("six taken", || receiver.transactions().len() == 6).await;

    // Two, should the day have ended meanwhile.
    let new = from(&receiver, NEW);
    assert!((1..=2).contains(&new) && from(&receiver, OLD) == 6 - new, "{new}");
    let answer = running.until_json(&["warmup", "show"], |answer| answer[0]["overflowed_since_start"] == 6 - new).await;
    let plan = &answer[0];
    assert_eq!(
        (&plan["source"], &plan["provider"], &plan["state"]),
        (&"new".into(), &"default".into(), &"running".into())
    );
    assert_eq!((&plan["overflow"], &plan["days"], &plan["replies"]), (&"old".into(), &300.into(), &new.into()));
    let (code, shown, _) = running.command(&["warmup", "show", "--source", "new"]).await;
    assert!(code == 0 && shown.contains("of 300") && shown.contains("spread over the day"), "{shown}");
    let (code, _, none) = running.command(&["warmup", "show", "--provider", "google"]).await;
    assert!(code == 1 && none.contains("no such warm-up") && none.contains("new at default"), "{none}");
    let (_, explained, _) = running.command(&["limits", "explain", "a@x.test"]).await;
    assert!(explained.contains("warm-up") && explained.contains("leaves from old"), "{explained}");
    let scraped = running.until(&["warmup", "show", "--json"], |_| true).await.1;
    let sent = serde_json::from_str::<Value>(&scraped).unwrap()[0]["sent"].clone();

    let running = running.restarted().await;
    let answer = running.until_json(&["warmup", "show"], |_| true).await;
    assert!(answer[0]["sent"] == sent || answer[0]["day"] == 2, "{answer}");
    submit(&running, 2).await;
    until("two more", || receiver.transactions().len() == 8).await;
    assert!(from(&receiver, NEW) <= new + 1, "the day goes on where it was");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_waits_with_its_cause_until_the_plan_allows_more() {
    let receiver = FakeMx::new().start().await;
    let running = running(&receiver, plan("hold")).await;

    submit(&running, 4).await;
    let is_held = |answer: &Value| answer[0]["held"].as_u64().is_some_and(|held| (2..=3).contains(&held));
    running.until_json(&["warmup", "show"], is_held).await;
    let (_, shown) = running.until(&["queue", "show", "x.test"], |text| text.contains("warmup")).await;
    assert!(shown.contains("the warm-up has room") && shown.contains("messages went today"), "{shown}");
    assert!(receiver.peers().iter().all(|peer| *peer == IpAddr::V4(NEW)));

    let Running { mut daemon, folder } = running;
    let mut config = daemon.config().clone();
    config.warmups[0].volumes = vec![1_000_000; 300];
    config.warmups[0].spread = "1h".parse().unwrap();
    daemon.reload(config).await.unwrap();
    let running = Running { daemon, folder };
    until("the rest", || receiver.transactions().len() == 4).await;

    assert_eq!(from(&receiver, NEW), 4);
    running.until_json(&["warmup", "show"], |answer| answer[0]["held"] == 0 && answer[0]["volume"] == 1_000_000).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_replies_pause_a_warm_up_which_is_told_everywhere_and_is_resumed() {
    let reply = "554 5.7.1 Service unavailable; Client host [127.0.0.31] blocked using zen.spamhaus.org";
    let receiver = FakeMx::new().always(Step::Rcpt, reply).start().await;
    let grown = Warmup { volumes: vec![1_000; 300], ..plan("old") };
    let running = running(&receiver, grown).await;

    submit(&running, 4).await;
    let is_paused = |answer: &Value| answer[0]["state"] == "paused";
    let answer = running.until_json(&["warmup", "show"], is_paused).await;
    assert_eq!(answer[0]["pause"]["by"], Value::Null, "{answer}");
    let (_, shown, _) = running.command(&["warmup", "show"]).await;
    let (code, status) = running.until(&["status"], |text| text.contains("has paused by itself")).await;
    let is_told = |text: &str| text.contains("warmup") && text.contains("blocked using zen.spamhaus.org");
    let (_, journal) = running.until(&["journal", "search", "--event", "limit"], is_told).await;
    let scraped = scrape(&running).await;

    assert!(shown.contains("paused by itself for") && shown.contains("blocked using zen.spamhaus.org"), "{shown}");
    assert!(code == 1 && status.contains("warm-up of new at default"), "{code} {status}");
    assert!(journal.contains("from new"), "{journal}");
    let paused = "hikyaku_warmup_paused{source=\"new\",provider=\"default\",by=\"itself\"} 1";
    assert!(scraped.contains(paused) && scraped.contains("hikyaku_warmup_bad_ratio"), "{scraped}");

    let (code, said, _) = running.command(&["warmup", "resume", "new", "default", "--reason", "delisted"]).await;
    assert!(code == 0 && said.contains("warm-up of new at default: running"), "{said}");
    let (again, _, refusal) = running.command(&["warmup", "resume", "new", "default"]).await;
    assert!(again == 1 && refusal.contains("is not paused"), "{refusal}");
    let pause = ["warmup", "pause", "new", "default", "--for", "2h", "--reason", "ticket 4711"];
    let (code, said, errors) = running.command(&pause).await;
    assert!(code == 0 && said.contains("paused by") && said.contains("ticket 4711"), "{said}{errors}");
    let (unknown, _, refusal) = running.command(&["warmup", "pause", "new", "google"]).await;
    assert!(unknown == 1 && refusal.contains("warmup show"), "{refusal}");
    let (_, journal, _) = running.command(&["journal", "search", "--event", "limit"]).await;
    assert!(journal.contains("resumed by") && journal.contains("delisted"), "{journal}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_an_operator_wants_is_told_by_status_and_is_no_problem() {
    let receiver = FakeMx::new().start().await;
    let running = running(&receiver, plan("old")).await;
    let (code, screen) = running.until(&["status"], |text| text.starts_with("all is well")).await;
    assert!(code == 0 && !screen.contains("warm-up"), "{screen}");

    for (lasts, is_taken) in [("0s", false), ("367d", false), ("2h", true)] {
        let pause = ["warmup", "pause", "new", "default", "--reason", "ticket 4711", "--for", lasts];
        let (code, _, errors) = running.command(&pause).await;
        assert_eq!(
            (code, errors.contains("--for")),
            if is_taken { (0, false) } else { (2, true) },
            "{lasts}: {errors}"
        );
        let answer = running.until_json(&["warmup", "show"], |_| true).await;
        assert_eq!(answer[0]["pause"].is_object(), is_taken, "{answer}");
    }

    let (code, screen) = running.until(&["status"], |text| text.contains("warm-up ")).await;
    assert!(code == 0 && screen.starts_with("all is well"), "{screen}");
    let line = screen.lines().find(|line| line.starts_with("warm-up ")).unwrap();
    assert!(line.contains("new at default is paused by") && line.ends_with("more: ticket 4711"), "{line}");
    let (code, said, _) = running.command(&["warmup", "resume", "new", "default"]).await;
    assert!(code == 0 && said.contains("running"), "{said}");
    running.until(&["status"], |text| !text.contains("warm-up ")).await;
    running.stop().await;
}

async fn scrape(running: &Running) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let paused = "by=\"itself\"} 1";
    for _ in 0..300 {
        let mut stream = tokio::net::TcpStream::connect(running.daemon.metrics_address().unwrap()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        if answer.contains(paused) {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the metrics never told of the pause");
}
