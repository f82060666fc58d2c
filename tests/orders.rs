//! The commands that steer, against a running daemon: what they print, what they end with, and what becomes of the mail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use hikyaku::config::{Config, Route};
use hikyaku::daemon::Daemon;
use serde_json::Value;

/// A daemon of its own: `*.stuck.test` is deferred for ever (nobody listens), all other mail is discarded.
struct Running {
    daemon: Option<Daemon>,
    folder: tempfile::TempDir,
    free: SocketAddr,
}

impl Running {
    async fn start() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut running = Self { daemon: None, folder: tempfile::tempdir().unwrap(), free };
        running.open().await;
        running
    }

    async fn open(&mut self) {
        let any_port: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = Config { hostname: "mta.test".to_owned(), ..Config::default() };
        config.listeners[0].address = any_port;
        config.listeners[0].trust_headers = true;
        config.spool.path = self.folder.path().join("spool");
        config.spool.reserve = "1MiB".parse().unwrap();
        config.journal.path = self.journal();
        config.admin.socket = self.folder.path().join("admin.sock");
        config.metrics.address = any_port;
        config.dns.allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
        let route = |domain: &str, next_hop: String| Route { domain: domain.to_owned(), next_hop };
        config.routes.push(route("*.stuck.test", format!("smtp://127.0.0.1:{}", self.free.port())));
        config.routes.push(route("*", "discard".to_owned()));
        self.daemon = Some(Daemon::start(config).await.unwrap());
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
    fn submit(&self, sender: &str, recipient: &str, campaign: &str) -> String {
        let address = self.daemon.as_ref().unwrap().submission_addresses()[0];
        let mut stream = TcpStream::connect(address).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut last = lines.next().unwrap().unwrap();
        let content = format!("X-Hikyaku-Campaign: {campaign}\r\nSubject: x\r\n\r\nbody\r\n.\r\n");
        for command in [
            "HELO c.test\r\n",
            &format!("MAIL FROM:<{sender}>\r\n"),
            &format!("RCPT TO:<{recipient}>\r\n"),
            "DATA\r\n",
            &content,
        ] {
            stream.write_all(command.as_bytes()).unwrap();
            last = lines.next().unwrap().unwrap();
        }
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

    running.submit("a@s.test", "x@d.test", "spring");
    running.submit("a@s.test", "y@d.test", "summer");
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
async fn nobody_deletes_everything_by_accident() {
    let mut running = Running::start().await;
    running.submit("a@s.test", "x@one.stuck.test", "");

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
    let waiting = running.submit("news@s.test", "x@one.stuck.test", "spring");
    let gone = running.submit("news@s.test", "x@d.test", "spring");
    let deleted = running.submit("other@s.test", "y@one.stuck.test", "spring");
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
    let journal = running.journal();
    running.ok(&["queue", "hold", "--domain", "*.stuck.test", "--for", "1h"]).await;
    running.submit("a@s.test", "x@one.stuck.test", "");
    running.until_queued(1).await;
    assert_eq!(running.json(&["status"]).await["queue"]["held"], 1);

    let bounced =
        running.ok(&["queue", "bounce", "--domain", "*.stuck.test", "--yes", "--reason", "list was sold"]).await;
    running.until_queued(0).await;
    running.ok(&["orders", "undo", "1"]).await;
    running.stop().await;

    assert!(bounced.contains("1 given up"), "{bounced}");
    let lines = Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .args(["journal", "follow", "--from", "start", "--once", "--json", "--path", journal.to_str().unwrap()])
        .output()
        .unwrap();
    let lines = String::from_utf8(lines.stdout).unwrap();
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    for kind in ["received", "held", "order", "bounced", "dsn-sent", "delivered"] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    let orders: Vec<(&str, &str)> = events
        .iter()
        .filter(|event| event["event"] == "order")
        .map(|event| (event["order_id"].as_str().unwrap_or_default(), event["action"].as_str().unwrap()))
        .collect();
    assert_eq!(orders.iter().map(|(_, action)| *action).collect::<Vec<_>>(), ["hold", "bounce", "undo"], "{lines}");
    let bounce = events.iter().find(|event| event["event"] == "bounced").unwrap();
    assert!(bounce["reply_text"].as_str().unwrap().contains("list was sold"), "{bounce}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_tries_deferred_mail_at_once() {
    let mut running = Running::start().await;
    running.submit("a@s.test", "x@one.stuck.test", "");
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
