//! The commands that steer, against a running daemon: what they print, what they end with, and what becomes of the mail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/fake_mx.rs"]
mod fake_mx;
#[path = "common/port.rs"]
mod port;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use fake_mx::{FakeMx, Step};
use hikyaku::config::{Pool, PoolMember, Route, Source};
use hikyaku::daemon::Daemon;
use hikyaku::state::{Action, Request, Selection};
use port::Port;
use serde_json::Value;

/// A daemon of its own: `*.stuck.test` and `*.jammed.test` are deferred for ever (nobody listens), `*.open.test` goes to a
/// receiver if there is one, all other mail is discarded.
struct Running {
    daemon: Option<Daemon>,
    folder: tempfile::TempDir,
    /// Where nobody listens: two sites.
    dead: [Port; 2],
    receiver: Option<SocketAddr>,
}

impl Running {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    async fn start_with(receiver: Option<SocketAddr>) -> Self {
        let dead = [Port::take(), Port::take()];
        let mut running = Self { daemon: None, folder: tempfile::tempdir().unwrap(), dead, receiver };
        running.open().await;
        running
    }

    async fn open(&mut self) {
        let mut config = daemon::config(self.folder.path());
        config.listeners[0].trust_headers = true;
        let route = |domain: &str, next_hop: String| Route { domain: domain.to_owned(), next_hop };
        let [stuck, jammed] = [0, 1].map(|at: usize| self.dead[at].address);
        config.routes.push(route("*.stuck.test", format!("smtp://{stuck}")));
        config.routes.push(route("*.jammed.test", format!("smtp://{jammed}")));
        config.routes.extend(self.receiver.map(|receiver| route("*.open.test", format!("smtp://{receiver}"))));
        let source = |name: &str, ipv4: &str| Source {
            name: name.to_owned(),
            ipv4: Some(ipv4.parse().unwrap()),
            ipv6: None,
            ehlo_name: None,
            connections: None,
        };
        config.sources = vec![source("usual", "127.0.0.1"), source("spare", "127.0.0.2")];
        let member = PoolMember { source: "usual".to_owned(), weight: 1 };
        let default =
            Pool { name: "default".to_owned(), sources: vec![member], tenants: vec![], sender_domains: vec![] };
        config.pools = vec![default];
        config.routes.push(route("*", "discard".to_owned()));
        let begun = Instant::now();
        while self.daemon.is_none() {
            match Daemon::start(config.clone()).await {
                Ok(daemon) => self.daemon = Some(daemon),
                // The connection of the last command may still have the spool of the daemon before.
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "{error}"),
            }
        }
    }

    async fn restart(&mut self) {
        self.stop().await;
        self.open().await;
    }

    async fn stop(&mut self) {
        self.daemon.take().unwrap().stop(Duration::from_secs(5)).await;
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    /// Submits a message of a campaign and gives its id.
    async fn submit(&self, sender: &str, recipient: &str, campaign: &str) -> String {
        let address = self.daemon.as_ref().unwrap().submission_addresses()[0];
        let header = format!("X-Hikyaku-Campaign: {campaign}\r\nSubject: x");
        let last = daemon::submit(address, sender, &[recipient], &header).await;
        assert!(last.starts_with("250"), "{last}");
        last.split_whitespace()
            .find(|word| word.len() == 13 && word.parse::<hikyaku::message::MessageId>().is_ok())
            .unwrap()
            .to_owned()
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command
            .args(arguments)
            .arg("--socket")
            .arg(self.folder.path().join("admin.sock"))
            .env("USER", "ops")
            .env_remove("SUDO_USER");
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// What a command that must end well printed.
    async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {out}{err}");
        out.into_owned()
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat()).await).unwrap()
    }

    /// The first entry that is queued, when it is as wanted.
    async fn until_first(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let entries = self.json(&["queue", "list"]).await;
            if is_so(&entries[0]) {
                return entries[0].clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "not {what}: {entries}");
        }
    }

    /// Every event of the journal; to be asked for when the daemon is stopped.
    fn events(&self) -> Vec<Value> {
        let journal = self.journal();
        let lines = Command::new(env!("CARGO_BIN_EXE_hikyaku"))
            .args(["journal", "follow", "--from", "start", "--once", "--json", "--path", journal.to_str().unwrap()])
            .output()
            .unwrap();
        let lines = String::from_utf8(lines.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn queued(&self) -> usize {
        let daemon = self.daemon.as_ref().unwrap();
        daemon.queue().view().totals.queued
    }

    async fn until_queued(&self, count: usize) {
        let begun = Instant::now();
        while self.queued().await != count {
            assert!(begun.elapsed() < Duration::from_secs(10), "{} queued, not {count}", self.queued().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_campaign_waits_over_a_restart_and_goes_when_it_is_resumed() {
    let mut running = Running::start().await;
    let order = ["queue", "suspend", "--tenant", "default", "--campaign", "spring", "--reason", "wrong price"];
    let placed = running.ok(&order).await;
    assert!(
        placed.contains("order 1: suspend tenant=default campaign=spring") && placed.contains("orders undo 1"),
        "{placed}"
    );

    running.submit("a@s.test", "x@d.test", "spring").await;
    running.submit("a@s.test", "y@d.test", "summer").await;
    running.until_queued(1).await;
    running.restart().await;

    let listed = running.ok(&["orders"]).await;
    assert!(listed.contains("ops: wrong price") && listed.contains("campaign=spring"), "{listed}");
    let begun = Instant::now();
    let mut entries = Value::Null;
    while entries[0]["state"] != "suspended" {
        assert!(begun.elapsed() < Duration::from_secs(10), "{entries}");
        entries = running.json(&["queue", "list"]).await;
    }
    assert_eq!((entries[0]["state"].as_str(), entries[0]["order"].as_u64()), (Some("suspended"), Some(1)), "{entries}");
    let status = running.json(&["status"]).await;
    assert_eq!(status["queue"]["suspended"], 1, "{status}");
    let screen = running.ok(&["status"]).await;
    assert!(screen.starts_with("all is well\n") && screen.contains("1 order stands"), "{screen}");

    running.ok(&["queue", "resume", "--tenant", "default", "--campaign", "spring"]).await;
    running.until_queued(0).await;
    assert_eq!(running.ok(&["orders"]).await, "no orders stand\n");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_order_keeps_is_told_by_flush_sites_and_show() {
    let mut running = Running::start().await;
    running.submit("a@s.test", "x@one.stuck.test", "").await;
    running.until_first("deferred", |entry| entry["state"] == "scheduled").await;
    let site = running.json(&["sites"]).await["sites"][0]["site"].as_str().unwrap().to_owned();
    running.ok(&["queue", "hold", "--domain", "one.stuck.test", "--reason", "wrong price"]).await;

    let flushed = running.ok(&["queue", "flush", "--all"]).await;

    assert!(
        flushed.starts_with("1 scheduled and 0 held recipients are tried now, save 1 that an order keeps;"),
        "{flushed}"
    );
    let sites = running.ok(&["sites"]).await;
    assert!(sites.contains(&site) && sites.contains("1 kept by orders"), "{sites}");
    let shown = running.ok(&["queue", "show", &site]).await;
    for part in ["0 scheduled, 1 kept by orders", "the order ends that keeps 1 recipients", "hold order 1: wrong price"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_deletes_everything_by_accident() {
    let mut running = Running::start().await;
    running.submit("a@s.test", "x@one.stuck.test", "").await;

    for wrong in
        [&["queue", "delete", "--yes"][..], &["queue", "delete", "--all"], &["queue", "hold", "--all", "--tenant", "t"]]
    {
        assert_eq!(running.run(wrong).await.status.code(), Some(2), "{wrong:?}");
    }
    let counted = running.ok(&["queue", "delete", "--all", "--dry-run"]).await;

    assert!(counted.starts_with("about 1 "), "{counted}");
    assert_eq!(running.queued().await, 1);
    let unknown = running.run(&["queue", "move", "--to", "nowhere", "--all"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no egress source \"nowhere\""));
    assert_eq!(running.run(&["orders", "undo", "7"]).await.status.code(), Some(1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_found_while_queued_and_when_they_have_ended() {
    let mut running = Running::start().await;
    let journal = running.journal();
    let journal = journal.to_str().unwrap();
    let waiting = running.submit("news@s.test", "x@one.stuck.test", "spring").await;
    let gone = running.submit("news@s.test", "x@d.test", "spring").await;
    let deleted = running.submit("other@s.test", "y@one.stuck.test", "spring").await;
    running.until_queued(2).await;
    running.ok(&["message", "delete", &deleted, "--reason", "asked for"]).await;
    running.until_queued(1).await;

    let find = |by: &'static [&'static str]| {
        let running = &running;
        async move {
            let found = running.json(&[&["message", "find", "--path", journal], by].concat()).await;
            let ids = |key: &str| {
                let mut ids: Vec<String> = found[key]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|one| one["message_id"].as_str().unwrap().to_owned())
                    .collect();
                ids.sort();
                ids
            };
            (ids("queued"), ids("ended"))
        }
    };
    // The journal's line is written a moment after the event.
    let begun = Instant::now();
    while find(&["--campaign", "spring"]).await.1.len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    assert_eq!(find(&["--campaign", "spring"]).await, (vec![waiting.clone()], vec![gone.clone(), deleted.clone()]));
    assert_eq!(find(&["--recipient", "x@one.stuck.test"]).await, (vec![waiting.clone()], vec![]));
    assert_eq!(find(&["--recipient", "x@d.test"]).await, (vec![], vec![gone.clone()]));
    assert_eq!(find(&["--sender", "other@s.test"]).await, (vec![], vec![deleted]));
    assert_eq!(find(&["--sender", "news@s.test"]).await, (vec![waiting], vec![gone]));
    assert_eq!(running.run(&["message", "find"]).await.status.code(), Some(2));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_bounced_is_reported_and_every_order_is_in_the_journal() {
    let mut running = Running::start().await;
    running.ok(&["queue", "hold", "--domain", "*.stuck.test", "--for", "1h"]).await;
    running.submit("a@s.test", "x@one.stuck.test", "").await;
    running.until_queued(1).await;
    assert_eq!(running.json(&["status"]).await["queue"]["held"], 1);

    let bounced =
        running.ok(&["queue", "bounce", "--domain", "*.stuck.test", "--yes", "--reason", "list was sold"]).await;
    running.until_queued(0).await;
    running.ok(&["orders", "undo", "1"]).await;
    running.stop().await;

    assert!(bounced.contains("1 given up"), "{bounced}");
    let events = running.events();
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    for kind in ["received", "held", "order", "bounced", "dsn-sent", "delivered"] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    let orders: Vec<&Value> = events.iter().filter(|event| event["event"] == "order").collect();
    let told: Vec<_> = orders.iter().map(|event| (event["order"].as_str(), event["action"].as_str())).collect();
    let told: Vec<_> = told.into_iter().map(|(order, action)| (order.unwrap(), action.unwrap())).collect();
    assert_eq!(told, [("1", "hold"), ("2", "bounce"), ("1", "undo")]);
    let reasons: Vec<_> = orders.iter().map(|event| event.get("reason").and_then(Value::as_str)).collect();
    assert_eq!(reasons, [None, Some("list was sold"), None], "{orders:?}");
    assert!(orders.iter().all(|event| event["who"] == "ops" && event["filter"] == "domain=*.stuck.test"), "{orders:?}");
    assert!(orders[0]["until"].is_string() && orders[1].get("until").is_none(), "{orders:?}");
    let held = events.iter().find(|event| event["event"] == "held").unwrap();
    assert_eq!(held["order"], "1", "{held}");
    let bounce = events.iter().find(|event| event["event"] == "bounced").unwrap();
    assert!(bounce["reply_text"].as_str().unwrap().contains("list was sold"), "{bounce}");
    assert_eq!(bounce["order"], "2", "{bounce}");
    assert!(events.iter().all(|event| event["event"] != "delivered" || event.get("order").is_none()), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounce_of_what_was_being_tried_names_the_order_and_one_of_the_receiver_none() {
    let mx = FakeMx::new().on(Step::Rcpt, "550 5.1.1 unknown").on(Step::Rcpt, "450 4.2.1 later");
    let mx = mx.delay(Duration::from_secs(1)).start().await;
    let mut running = Running::start_with(Some(mx.address)).await;
    running.submit("a@s.test", "no@d.open.test", "").await;
    running.until_queued(0).await;
    running.submit("a@s.test", "late@d.open.test", "").await;
    running.until_first("being tried", |entry| entry["state"] == "in-flight").await;
    running.ok(&["queue", "bounce", "--recipient", "late@d.open.test", "--yes"]).await;

    running.until_queued(0).await;

    running.stop().await;
    let events = running.events();
    let of =
        |recipient: &str| events.iter().find(|it| it["event"] == "bounced" && it["recipient"] == recipient).unwrap();
    assert_eq!(of("late@d.open.test")["order"], "1");
    assert_eq!(of("no@d.open.test").get("order"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_tries_deferred_mail_at_once() {
    let mut running = Running::start().await;
    running.submit("a@s.test", "x@one.stuck.test", "").await;
    let begun = Instant::now();
    while running.json(&["queue", "list"]).await[0]["attempts"] != 1 {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    let flushed = running.ok(&["queue", "flush", "--domain", "one.stuck.test"]).await;

    assert!(flushed.starts_with("1 scheduled"), "{flushed}");
    while running.json(&["queue", "list"]).await[0]["attempts"] != 2 {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_submitted_after_a_deletion_has_returned_is_never_deleted_by_it() {
    let mut running = Running::start().await;
    let mut ids = Vec::new();

    // Most of these are within the second of their order.
    for _ in 0..4 {
        running.ok(&["queue", "delete", "--domain", "race.stuck.test", "--yes"]).await;
        running.until_queued(0).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        ids.push(running.submit("a@s.test", "x@race.stuck.test", "").await);
        let entry = running.until_first("tried once", |entry| entry["attempts"] == 1).await;
        assert_eq!(entry["message_id"].as_str(), ids.last().map(String::as_str));
    }

    running.ok(&["queue", "delete", "--domain", "race.stuck.test", "--yes"]).await;
    running.until_queued(0).await;
    running.stop().await;
    let events = running.events();
    let deleted: Vec<&Value> = events.iter().filter(|event| event["event"] == "deleted").collect();
    let by: Vec<_> = deleted.iter().map(|event| (event["message_id"].as_str(), event["order"].as_str())).collect();
    let orders = ["2", "3", "4", "5"];
    let expected: Vec<_> = ids.iter().zip(orders).map(|(id, order)| (Some(id.as_str()), Some(order))).collect();
    assert_eq!(by, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_deletions_are_done_at_once_and_leave_room_for_an_order_that_stands() {
    let mut running = Running::start().await;
    running.submit("a@s.test", "x@one.stuck.test", "").await;
    let queue = running.daemon.as_ref().unwrap().queue().clone();

    let place = move || {
        for number in 0..1_001 {
            let message = hikyaku::message::MessageId(number).to_string();
            let selection = Selection { message: Some(message.into()), ..Selection::default() };
            let (reason, by) = ("".into(), "ops".into());
            queue.place(Request { action: Action::Delete, selection, reason, by, seconds: None }).unwrap();
        }
    };
    tokio::task::spawn_blocking(place).await.unwrap();
    running.ok(&["queue", "suspend", "--all", "--reason", "emergency"]).await;

    let begun = Instant::now();
    let mut orders = running.json(&["orders"]).await;
    // One of them may have met an attempt, and is left to the upkeep.
    while orders.as_array().unwrap().len() != 1 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{orders}");
        orders = running.json(&["orders"]).await;
    }
    assert_eq!(orders[0]["order"]["reason"], "emergency", "{orders}");
    let file = std::fs::read(running.folder.path().join("spool/state/orders")).unwrap();
    assert!(file.len() < 100_000, "{} octets", file.len());
    running.restart().await;
    running.until_queued(1).await;
    let begun = Instant::now();
    while running.json(&["orders"]).await.as_array().unwrap().len() != 1 {
        assert!(begun.elapsed() < Duration::from_secs(20), "done again, and over");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_about_a_site_is_about_no_other() {
    let mut running = Running::start().await;
    let stuck = running.submit("a@s.test", "x@one.stuck.test", "").await;
    let entry = running.until_first("tried", |entry| entry["attempts"] == 1).await;
    let site = entry["site"].as_str().unwrap().to_owned();
    let jammed = running.submit("a@s.test", "x@one.jammed.test", "").await;
    running.until_queued(2).await;

    let order = ["queue", "delete", "--site", &site, "--yes"];
    let counted = running.ok(&[&order[..], &["--dry-run"]].concat()).await;
    let placed = running.ok(&order).await;
    running.until_queued(1).await;

    assert!(counted.starts_with("about 1 "), "{counted}");
    assert!(placed.contains(&format!("delete site={site}")) && placed.contains("1 given up"), "{placed}");
    let left = running.until_first("the other", |entry| entry["message_id"] != stuck.as_str()).await;
    assert_eq!(left["message_id"], jammed.as_str());
    running.ok(&["queue", "suspend", "--site", &site]).await;
    running.submit("a@s.test", "y@two.stuck.test", "").await;
    running.until_queued(2).await;
    let begun = Instant::now();
    while running.json(&["status"]).await["queue"]["suspended"] != 1 {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_mail_leaves_from_the_other_source_until_the_order_is_undone() {
    let mx = FakeMx::new().start().await;
    let mut running = Running::start_with(Some(mx.address)).await;
    running.submit("a@s.test", "x@d.open.test", "").await;
    running.until_queued(0).await;

    let placed = running.ok(&["queue", "move", "--to", "spare", "--domain", "d.open.test"]).await;
    running.submit("a@s.test", "y@d.open.test", "").await;
    running.until_queued(0).await;
    let shown = running.ok(&["orders", "show", "1"]).await;
    running.ok(&["orders", "undo", "1"]).await;
    running.submit("a@s.test", "z@d.open.test", "").await;
    running.until_queued(0).await;
    running.stop().await;

    assert!(placed.contains("order 1: move domain=d.open.test"), "{placed}");
    assert!(shown.contains("move to spare"), "{shown}");
    let peers: Vec<String> = mx.peers().iter().map(ToString::to_string).collect();
    assert!(peers.contains(&"127.0.0.2".to_owned()), "{peers:?}");
    let events = running.events();
    let sources: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "delivered")
        .map(|event| event["egress_source"].as_str().unwrap())
        .collect();
    assert_eq!(sources, ["usual", "spare", "usual"]);
    let moved = events.iter().find(|event| event["action"] == "move").unwrap();
    assert_eq!(moved["egress_source"], "spare", "{moved}");
    let undone: Vec<_> = events.iter().filter(|event| event["action"] == "undo").map(|undo| &undo["order"]).collect();
    assert_eq!(undone, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_is_bounced_or_deleted_and_the_others_stay() {
    let mut running = Running::start().await;
    running.ok(&["queue", "suspend", "--domain", "*.stuck.test", "--reason", "they are away"]).await;
    let stays = running.submit("a@s.test", "x@one.stuck.test", "").await;
    let bounced = running.submit("b@s.test", "y@one.stuck.test", "").await;
    let deleted = running.submit("c@s.test", "z@one.stuck.test", "").await;
    running.until_queued(3).await;

    let said = running.ok(&["message", "bounce", &bounced, "--reason", "sent twice"]).await;
    let answer = running.json(&["message", "delete", &deleted]).await;
    running.until_queued(1).await;

    assert!(said.contains(&format!("order 2: bounce message={bounced}")) && said.contains("1 given up"), "{said}");
    assert_eq!((&answer["ended"], &answer["order"]["action"]), (&Value::from(1), &Value::from("delete")), "{answer}");
    assert_eq!(answer["order"]["selection"]["message"], deleted.as_str(), "{answer}");
    assert_eq!(running.until_first("there", |_| true).await["message_id"], stays.as_str());
    assert_eq!(running.run(&["message", "delete", &deleted]).await.status.code(), Some(1));

    let shown = running.ok(&["orders", "show", "1"]).await;
    assert!(
        shown.contains("by         ops\nreason     they are away\n") && shown.contains("domain=*.stuck.test"),
        "{shown}"
    );
    let shown = running.json(&["orders", "show", "1"]).await;
    assert_eq!((&shown["order"]["id"], &shown["parked"]), (&Value::from(1), &Value::from(1)), "{shown}");
    assert_eq!(running.run(&["orders", "show", "9"]).await.status.code(), Some(1));

    running.stop().await;
    let events = running.events();
    let about = |id: &str, kind: &str| {
        events.iter().filter(|event| event["message_id"] == id && event["event"] == kind).count()
    };
    assert_eq!((about(&bounced, "bounced"), about(&bounced, "dsn-sent"), about(&bounced, "deleted")), (1, 1, 0));
    assert_eq!((about(&deleted, "deleted"), about(&deleted, "dsn-sent"), about(&stays, "deleted")), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_whose_time_ends_while_the_daemon_is_down_is_over_at_the_start_and_told_once() {
    let mut running = Running::start().await;
    running.ok(&["queue", "hold", "--domain", "d.test", "--for", "1s"]).await;
    running.submit("a@s.test", "x@d.test", "").await;
    running.until_queued(1).await;
    running.stop().await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;

    running.open().await;
    running.until_queued(0).await;
    assert_eq!(running.ok(&["orders"]).await, "no orders stand\n");
    running.restart().await;
    running.ok(&["queue", "hold", "--domain", "d.test", "--for", "1s"]).await;
    let begun = Instant::now();
    while running.json(&["orders"]).await != Value::Array(vec![]) {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    running.restart().await;
    running.stop().await;

    let events = running.events();
    let told: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "order")
        .map(|event| (event["order"].as_str().unwrap(), event["action"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [("1", "hold"), ("1", "over"), ("2", "hold"), ("2", "over")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_is_done_does_not_come_back_at_the_next_start() {
    let mut running = Running::start().await;
    for _ in 0..2 {
        running.submit("news@shop.test", "a@x.stuck.test", "spring").await;
    }
    running.ok(&["queue", "delete", "--domain", "x.stuck.test", "--source", "usual", "--yes"]).await;
    let begun = Instant::now();
    // An attempt that it met is left to the upkeep.
    while running.ok(&["orders"]).await != "no orders stand\n" {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    // What a start would find that came after a kill right now.
    let stored = std::fs::read(running.folder.path().join("spool/state/orders")).unwrap();
    let stored = String::from_utf8_lossy(&stored);
    assert!(stored.contains("orders") && !stored.contains("delete"), "{stored}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_waited_for_an_attempt_ends_with_it_also_when_the_daemon_stops() {
    let mx = FakeMx::new().on(Step::Rcpt, "450 4.2.1 later").delay(Duration::from_secs(1)).start().await;
    let mut running = Running::start_with(Some(mx.address)).await;
    running.submit("a@s.test", "x@d.open.test", "").await;
    running.until_first("being tried", |entry| entry["state"] == "in-flight").await;
    running.ok(&["queue", "delete", "--source", "usual", "--yes"]).await;
    let standing = running.json(&["orders"]).await;

    running.stop().await;

    let stored = std::fs::read(running.folder.path().join("spool/state/orders")).unwrap();
    let stored = String::from_utf8_lossy(&stored);
    assert_eq!(standing.as_array().map(Vec::len), Some(1), "the attempt was over before the order came");
    assert!(stored.contains("orders") && !stored.contains("delete"), "{stored}");
    let deleted: Vec<Value> = running.events().into_iter().filter(|event| event["event"] == "deleted").collect();
    assert_eq!(deleted.len(), 1, "{deleted:?}");
}
