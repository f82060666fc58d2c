//! The admin interface, the Prometheus listener and the commands, against a daemon with one message that cannot leave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/port.rs"]
mod port;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use hikyaku::config::Route;
use hikyaku::daemon::Daemon;
use port::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const GRACE: Duration = Duration::from_secs(5);

/// A daemon in a folder of its own; mail to stuck.test goes to a port where nobody listens.
struct Running {
    client: Client,
    daemon: Daemon,
    /// Where nobody listens.
    _dead: Option<Port>,
}

/// Asks the daemon of a folder.
struct Client {
    folder: tempfile::TempDir,
}

impl std::ops::Deref for Running {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Running {
    async fn start() -> Self {
        let dead = Port::take();
        let running = Self::towards(dead.address).await;
        Self { _dead: Some(dead), ..running }
    }

    /// Mail to stuck.test goes to this port of loopback.
    async fn towards(next_hop: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = daemon::config(folder.path());
        config
            .routes
            .push(Route { domain: "stuck.test".to_owned(), next_hop: format!("smtp://127.0.0.1:{}", next_hop.port()) });
        let daemon = Daemon::start(config).await.unwrap();
        Self { client: Client { folder }, daemon, _dead: None }
    }

    /// Submits a message and gives the reply to its end of data.
    async fn submit(&self, forward_path: &str) -> String {
        let address = self.daemon.submission_addresses()[0];
        daemon::submit(address, "a@sender.test", &[forward_path], "Subject: stuck").await
    }
}

impl Client {
    fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// The status code, the head and the body of an answer to `request`, sent as it is.
    async fn ask(&self, request: &[u8]) -> (u16, String, String) {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        split(&answer)
    }

    async fn get(&self, path: &str) -> (u16, serde_json::Value) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let (status, _, body) = self.ask(request.as_bytes()).await;
        (status, serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body)))
    }

    /// Runs the command, which must not share this thread: the daemon answers on it.
    async fn command(&self, arguments: &[&str]) -> (i32, String) {
        let output: Output = tokio::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"))
            .args(arguments)
            .env("HIKYAKU_SOCKET", self.socket())
            .output()
            .await
            .unwrap();
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    /// The answer at `path`, once it has this status.
    async fn until_status(&self, path: &str, status: u16) -> serde_json::Value {
        for _ in 0..500 {
            let (found, answer) = self.get(path).await;
            if found == status {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} never gave {status}");
    }

    /// The one queued entry, once its first attempt has failed.
    async fn deferred_entry(&self) -> serde_json::Value {
        for _ in 0..500 {
            let (_, entries) = self.get("/v1/queue/entries?domain=Stuck.Test.").await;
            if let Some(entry) = entries.as_array().unwrap().iter().find(|entry| entry["attempts"] == 1) {
                return entry.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no deferred entry");
    }
}

fn split(answer: &str) -> (u16, String, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_message_can_be_found_and_explained() {
    let running = Running::start().await;
    assert!(running.submit("who@stuck.test").await.starts_with("250"));
    let entry = running.deferred_entry().await;
    let id = entry["message_id"].as_str().unwrap();

    let (code, sites) = running.command(&["queue", "sites"]).await;
    assert_eq!(code, 0, "{sites}");
    assert!(sites.contains("stuck.test") || sites.contains("127.0.0.1"), "{sites}");
    let (code, list) = running.command(&["queue", "list", "--recipient", "who@stuck.test"]).await;
    assert!(code == 0 && list.contains(id) && list.contains("scheduled"), "{list}");
    let (code, list) = running.command(&["queue", "list", "--recipient", "other@stuck.test"]).await;
    assert!(code == 0 && list.contains("nothing is queued that matches"), "{list}");
    let (code, message) = running.command(&["message", "show", id]).await;
    assert!(code == 0 && message.contains("who@stuck.test") && message.contains("Subject: stuck"), "{message}");
    assert!(message.contains("scheduled") && message.contains("<a@sender.test>"), "{message}");
    let (code, status) = running.command(&["status"]).await;
    assert!(code == 0 && status.contains("1 recipients") && status.contains("mta.test"), "{status}");
    let (code, stat) = running.command(&["spool", "stat", "--json"]).await;
    let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
    assert_eq!((code, &stat["messages"]), (0, &1.into()));

    running.daemon.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stall_or_idle_do_not_lock_the_operator_out() {
    let running = Running::start().await;
    let stalls =
        b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{";
    let metrics = running.daemon.metrics_address().unwrap();
    let (mut stalled, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..64 {
        let mut stream = UnixStream::connect(running.socket()).await.unwrap();
        stream.write_all(stalls).await.unwrap();
        stalled.push(stream);
        idle.push(TcpStream::connect(metrics).await.unwrap());
    }

    let (status, _) = running.get("/healthz").await;
    let mut scrape = TcpStream::connect(metrics).await.unwrap();
    scrape.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut scraped = String::new();
    scrape.read_to_string(&mut scraped).await.unwrap();

    assert!(status == 200 && scraped.starts_with("HTTP/1.1 200"), "{status} {scraped:.100}");
    // The one that was quiet for longest has lost its seat: had it been waited for, it would be told of its time-out.
    let mut answer = String::new();
    let _ = stalled[0].read_to_string(&mut answer).await;
    assert_eq!(answer, "");
    stalled.last_mut().unwrap().read_to_string(&mut answer).await.unwrap();
    let (status, _, body) = split(&answer);
    assert!(status == 408 && body.contains("within 5 s"), "{answer}");
    running.daemon.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_is_json_that_names_what_is_wrong() {
    let running = Running::start().await;
    let post = |body: &str| {
        let length = body.len();
        format!(
            "POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let order = |rest: &str| post(&format!("{{\"action\": \"hold\", {rest}}}"));
    let requests = [
        (get("/v1/message/%ff"), 400, "UTF-8"),
        (get("/v1/orders/%ff"), 400, "UTF-8"),
        (post(&format!("{{\"action\": \"hold\", \"reason\": \"{}\"}}", "x".repeat(120_000))), 413, "65536 octets"),
        (order("\"seconds\": 0"), 400, "seconds"),
        (order("\"selection\": {\"domain\": \".\"}"), 400, "domain"),
        (order("\"selection\": {\"domain\": \"*.\"}"), 400, "domain"),
    ];

    for (request, expected, word) in requests {
        let (status, _, body) = running.ask(request.as_bytes()).await;
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status} {body}"));
        assert!(status == expected && problem["error"].as_str().unwrap().contains(word), "{status} {problem}");
    }
    assert_eq!(running.get("/v1/orders").await.1, serde_json::json!([]));
    running.daemon.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_named_is_read_although_a_daemon_answers() {
    let running = Running::start().await;
    running.submit("who@stuck.test").await;
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir(other.path().join("segments")).unwrap();

    let (code, stat) = running.command(&["spool", "stat", "--json", "--spool", other.path().to_str().unwrap()]).await;
    let (refused, said) = running.command(&["spool", "stat", "--spool", "/nonexistent/spool"]).await;

    assert!(code == 0 && stat.contains("\"messages\": 0"), "{stat}");
    assert!(refused == 2 && said.contains("/nonexistent/spool"), "{said}");
    running.daemon.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_spool_is_sound_and_its_message_is_there() {
    let running = Running::start().await;
    running.submit("who@stuck.test").await;
    let folder = running.folder.path().join("spool");
    running.daemon.stop(GRACE).await;

    for mode in [&[][..], &["--full-scan"]] {
        let report = check(&folder, mode);

        assert!(report.0 == 0 && report.1.contains("1 messages with 1 unfinished recipients"), "{}", report.1);
    }
}

fn check(folder: &Path, mode: &[&str]) -> (i32, String) {
    let arguments = [&["spool", "check", "--spool", folder.to_str().unwrap()], mode].concat();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_hikyaku")).args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_request_is_told_what_to_do() {
    let running = Running::start().await;
    for (path, status) in [
        ("/", 404),
        ("/v1/../../etc/passwd", 404),
        ("/v1/queue/entries?limit=many", 400),
        ("/v1/queue/entries?limit=0", 400),
        ("/v1/queue/entries?in_doubt=perhaps", 400),
        ("/v1/queue/entries?colour=red", 400),
        ("/v1/message/nonsense", 400),
        ("/v1/message/..%2f..%2fetc", 400),
        ("/v1/message/%0d%0a", 400),
        ("/v1/message/0000000000001", 404),
    ] {
        let (found, problem) = running.get(path).await;

        assert_eq!(found, status, "{path}: {problem}");
        assert!(problem["error"].is_string() && problem["hint"].is_string(), "{path}: {problem}");
    }
    let (code, said) = running.command(&["message", "show", "0000000000001"]).await;
    assert!(code == 1 && said.contains("no message 0000000000001 is unfinished"), "{said}");

    let (code, said) = running.command(&["message", "show", "nonsense"]).await;
    assert!(code == 2 && said.contains("not a message id"), "{said}");

    let post = b"POST /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    assert_eq!(running.ask(post).await.0, 405);
    running.daemon.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_and_idle_clients_do_not_keep_others_out() {
    let running = Running::start().await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(UnixStream::connect(running.socket()).await.unwrap());
    }
    let huge = [b"GET /healthz HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 100_000], b"\r\n\r\n"].concat();
    let mut broken = UnixStream::connect(running.socket()).await.unwrap();
    // It may be cut off before all of it is written.
    let _ = broken.write_all(&huge).await;

    drop(idle);
    let (status, body) = running.get("/healthz").await;

    assert_eq!((status, body), (200, "ok\n".into()));
    assert_eq!(running.get("/readyz").await.0, 200);
    running.daemon.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_being_delivered_is_shown_as_such() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let running = Running::towards(silent.local_addr().unwrap()).await;
    running.submit("who@stuck.test").await;
    while running.daemon.queue().in_flight() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let (code, list) = running.command(&["queue", "list", "--recipient", "who@stuck.test"]).await;
    assert!(code == 0 && list.contains("in-flight"), "{list}");
    let (_, entries) = running.get("/v1/queue/entries").await;
    let id = entries[0]["message_id"].as_str().unwrap();
    let (code, message) = running.command(&["message", "show", id]).await;
    assert!(code == 0 && message.contains("in-flight"), "{message}");
    let (code, list) = running.command(&["queue", "list", "--in-doubt"]).await;
    assert!(code == 0 && list.contains("nothing is queued that matches"), "{list}");

    drop(silent);
    running.daemon.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_ends_when_the_daemon_begins_to_stop() {
    // Connections are taken by the kernel and never greeted: the drain waits for them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let running = Running::towards(silent.local_addr().unwrap()).await;
    running.submit("who@stuck.test").await;
    running.until_status("/readyz", 200).await;
    while running.daemon.queue().in_flight() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let Running { client, daemon, .. } = running;
    let stopped = tokio::spawn(daemon.stop(Duration::from_secs(60)));

    let problem = client.until_status("/readyz", 503).await;
    assert!(problem["error"].as_str().unwrap().contains("draining"), "{problem}");
    assert_eq!(client.get("/healthz").await.0, 200);
    let (code, status) = client.command(&["status"]).await;
    assert!(code == 1 && status.contains("! draining"), "{status}");
    drop(silent);
    stopped.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_gets_text_and_nothing_else_is_there() {
    let running = Running::start().await;
    running.submit("who@stuck.test").await;
    let scrape = async |path: &str| {
        let mut stream = TcpStream::connect(running.daemon.metrics_address().unwrap()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        split(&answer)
    };

    let (status, head, body) = scrape("/metrics").await;

    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(
        body.lines().filter(|line| !line.starts_with('#')).all(|line| line.is_empty() || line.starts_with("hikyaku_"))
    );
    let mut accepted = body.lines().filter(|line| line.starts_with("hikyaku_submission_") && line.ends_with(" 1"));
    assert!(accepted.next().is_some(), "{body}");
    assert_eq!(scrape("/v1/status").await.0, 404, "the admin interface is not on this port");
    running.daemon.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_daemon_on_the_same_spool_or_socket_is_refused() {
    let running = Running::start().await;
    let mut config = daemon::config(running.folder.path());
    config.journal.path = running.folder.path().join("other-journal");
    config.admin.socket = running.folder.path().join("other.sock");
    assert!(Daemon::start(config.clone()).await.is_err(), "the same spool");

    config.spool.path = running.folder.path().join("other");
    config.admin.socket = running.socket();
    assert!(Daemon::start(config).await.is_err(), "the same socket");

    assert_eq!(running.get("/healthz").await.0, 200);
    running.daemon.stop(GRACE).await;
}
