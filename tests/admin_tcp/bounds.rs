//! Broken and hostile clients: each gets a 4xx or is cut off, and the daemon goes on.

use std::time::{Duration, Instant};

use hikyaku::admin::Role;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{Stage, answer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_gets_a_4xx_that_says_what_and_how_else() {
    let stage = Stage::start().await;
    let admin = Some(stage.secret(Role::Admin));
    let deep = "[".repeat(10_000);
    let long = "x".repeat(100_000);

    for (method, path, body, status) in [
        ("POST", "/v1/orders", "{", 400),
        ("POST", "/v1/orders", "\u{0}", 400),
        ("POST", "/v1/orders", "[]", 422),
        ("POST", "/v1/orders", "{\"action\":\"burn\"}", 422),
        ("POST", "/v1/limits/pin", &deep, 422),
        ("POST", "/v1/limits/pin", &long, 413),
        ("POST", "/v1/orders", "{\"action\":\"suspend\",\"colour\":\"red\"}", 422),
        ("GET", "/v1/../v1/status", "", 404),
        ("GET", "//v1/status", "", 404),
        ("GET", "/v1/status/", "", 404),
        ("GET", "/v1/status%00", "", 404),
        ("GET", "/v1%2fstatus", "", 404),
        ("GET", "/v1/message/..%2f..%2f..%2fetc%2fpasswd", "", 400),
        ("GET", "/V1/STATUS", "", 404),
        ("GET", "/etc/passwd", "", 404),
        ("PUT", "/v1/orders", "", 405),
        ("POST", "/v1/status", "{}", 405),
        ("TRACE", "/v1/status", "", 405),
    ] {
        let answer = stage.ask(admin, method, path, body).await;

        let told = format!("{method} {path}: {answer:?}");
        assert_eq!(answer.status, status, "{told}");
        assert!(answer.body["error"].is_string() && answer.body["hint"].is_string(), "{told}");
    }
    for path in ["/nowhere", "/v1/../etc/passwd", "/"] {
        assert_eq!(stage.ask(None, "GET", path, "").await.status, 401, "nothing is told without a token");
    }
    assert_eq!(stage.ask(admin, "GET", "/healthz", "").await.status, 200);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_is_refused_or_cut_off() {
    let stage = Stage::start().await;
    let secret = stage.secret(Role::Admin);
    let huge = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(1_000_000));
    let many = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    let twice = format!(
        "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {secret}\r\nAuthorization: Bearer \
         x\r\n\r\n"
    );
    let endless = format!(
        "POST /v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nContent-Length: 18446744073709551616\r\n\r\n{{}}"
    );
    let both = format!(
        "POST /v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\nContent-Length: \
         2\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{{}}"
    );

    for octets in [
        huge.as_bytes(),
        many.as_bytes(),
        twice.as_bytes(),
        endless.as_bytes(),
        both.as_bytes(),
        b"\x16\x03\x01\x00",
        b"\r\n",
    ] {
        let answer = stage.send_and_close(octets).await;
        assert!(answer.is_none_or(|status| (400..500).contains(&status)), "{answer:?}");
    }
    assert_eq!(stage.ask(Some(secret), "GET", "/healthz", "").await.status, 200);
    stage.stop().await;
}

impl Stage {
    /// Sends octets, and nothing more after them.
    async fn send_and_close(&self, octets: &[u8]) -> Option<u16> {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        let _ = stream.write_all(octets).await;
        let _ = stream.shutdown().await;
        answer(&mut stream).await.map(|answer| answer.status)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_times_out_and_changes_nothing() {
    let stage = Stage::start().await;
    let secret = stage.secret(Role::Admin);
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    let head = format!(
        "POST /v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\nContent-Length: 20\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();

    let answer = answer(&mut stream).await.unwrap();

    assert_eq!(answer.status, 408, "{answer:?}");
    assert_eq!(stage.ask(Some(secret), "GET", "/v1/orders", "").await.body, serde_json::json!([]));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_connections_keep_nobody_out_and_are_closed() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let stage = Stage::start().await;
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        idle.push(TcpStream::connect(stage.address()).await.unwrap());
    }

    let answer = stage.ask(Some(stage.secret(Role::Viewer)), "GET", "/v1/status", "").await;

    assert_eq!(answer.status, 200);
    let begun = Instant::now();
    for stream in &mut idle {
        let mut octet = [0];
        let end = tokio::time::timeout(Duration::from_secs(120), stream.read(&mut octet)).await;
        assert!(end.is_ok(), "an idle one is still open after {:?}", begun.elapsed());
    }
    assert_eq!(stage.ask(Some(stage.secret(Role::Viewer)), "GET", "/healthz", "").await.status, 200);
    stage.stop().await;
}
