//! Broken and hostile clients: each gets a 4xx or is cut off, and who means well is served beside them.

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{FORM, ONE_CLICK, Stage, answer, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_or_no_request_is_refused() {
    let stage = Stage::start().await;
    let path = stage.path_for("ann@sink.test", "news").await;
    let padded = format!("{ONE_CLICK}&x={}", "y".repeat(5_000));
    let endless = format!("{ONE_CLICK}&x={}", "y".repeat(1_000_000));
    let huge = format!("GET {path} HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(1_000_000));
    let both =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");

    assert_eq!(stage.ask("POST", &path, FORM, &padded).await.status, 413);
    for octets in [
        request("POST", &path, FORM, &endless),
        huge,
        both,
        "\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET  HTTP/1.1\r\n\r\n".to_owned(),
    ] {
        let mut stream = stage.connect().await;
        // It may be cut off before all of it is written.
        let _ = stream.write_all(octets.as_bytes()).await;
        let _ = stream.shutdown().await;
        let answer = answer(&mut stream).await;
        assert!(answer.as_ref().is_none_or(|answer| (400..500).contains(&answer.status)), "{answer:?}");
    }
    assert_eq!(stage.suppressed("ann@sink.test", "news"), None);
    assert_eq!(stage.click(&path).await.status, 200);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_slow_is_cut_off_and_has_changed_nothing() {
    let stage = Stage::start().await;
    let path = stage.path_for("ann@sink.test", "news").await;
    let mut silent = TcpStream::connect(stage.address()).await.unwrap();
    let (mut no_request, mut head, mut body) = (stage.connect().await, stage.connect().await, stage.connect().await);
    head.write_all(format!("POST {path} HTTP/1.1\r\nHost: x\r\n").as_bytes()).await.unwrap();
    let request = request("POST", &path, FORM, ONE_CLICK);
    body.write_all(&request.as_bytes()[..request.len() - 1]).await.unwrap();

    let late = answer(&mut body).await.unwrap();
    let mut octets = Vec::new();
    let ends = tokio::time::timeout(Duration::from_secs(60), async {
        let _ = silent.read_to_end(&mut octets).await;
        let _ = no_request.read_to_end(&mut octets).await;
        let _ = head.read_to_end(&mut octets).await;
    });

    assert!(ends.await.is_ok(), "one of them is still open");
    assert_eq!(late.status, 408, "{late:?}");
    assert_eq!(stage.suppressed("ann@sink.test", "news"), None);
    stage.stop().await;
}

/// A head that comes octet by octet is one head all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_drips_does_not_live_for_ever() {
    let stage = Stage::start().await;
    let (mut reader, mut writer) = tokio::io::split(stage.connect().await);
    let begun = Instant::now();
    let drip = tokio::spawn(async move {
        let _ = writer.write_all(b"GET / HTTP/1.1\r\nX: ").await;
        while writer.write_all(b"y").await.is_ok() && writer.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });

    let mut octets = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(60), reader.read_to_end(&mut octets)).await;

    assert!(end.is_ok(), "still open after {:?}", begun.elapsed());
    drip.abort();
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_idle_connections_than_there_are_seats_keep_nobody_out() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let stage = Stage::start().await;
    let path = stage.path_for("ann@sink.test", "news").await;
    let mut idle = Vec::new();
    for _ in 0..1_100 {
        idle.push(TcpStream::connect(stage.address()).await.unwrap());
    }

    assert_eq!(stage.click(&path).await.status, 200);

    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_address_is_cut_off() {
    let stage = Stage::start().await;
    let mut stream = stage.connect().await;
    let octets = "GET /u/x HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let mut seen = String::new();
    for _ in 0..20 {
        stream.write_all(octets.as_bytes()).await.unwrap();
        let mut buffer = vec![0; 1 << 20];
        let length = stream.read(&mut buffer).await.unwrap();
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        if seen.contains("HTTP/1.1 429 ") {
            break;
        }
    }

    assert!(seen.contains("HTTP/1.1 404 ") && seen.contains("HTTP/1.1 429 "));
    assert!(seen.to_lowercase().contains("retry-after: "));
    stage.stop().await;
}
