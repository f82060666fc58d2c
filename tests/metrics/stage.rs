//! A daemon with traffic: delivered with and without TLS, deferred, bounced, refused, to a dead host, to a name without
//! DNS.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hikyaku::config::units::Day;
use hikyaku::config::{Route, Warmup};
use hikyaku::daemon::{Daemon, Watchdog};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::daemon;
use crate::fake_mx::{FakeMx, Running, Step};
use crate::port::Port;

/// For what happens within a second or two on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Stage {
    daemon: Daemon,
    _watchdog: Watchdog,
    _receivers: Vec<Running>,
    /// Where no receiver listens.
    _dead: Port,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// A daemon with these routes beside those of the receivers.
    pub async fn start(routes: Vec<Route>) -> Self {
        let secure = FakeMx::with(&["STARTTLS", "PIPELINING"]).start().await;
        let picky = FakeMx::new().always(Step::Rcpt, "450 4.2.0 later").start().await;
        let strict = FakeMx::new().always(Step::Rcpt, "550 5.1.1 no such user").start().await;
        let (dead, folder) = (Port::take(), tempfile::tempdir().unwrap());
        let mut config = daemon::config(folder.path());
        config.dns.timeout = "500ms".parse().unwrap();
        config.dns.attempts = 1;
        // No resolver: the system gives that number to nobody.
        config.dns.resolvers = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 1))];
        let route =
            |domain: &str, port: u16| Route { domain: domain.to_owned(), next_hop: format!("smtp://127.0.0.1:{port}") };
        let ports = [secure.address.port(), picky.address.port(), strict.address.port(), dead.address.port()];
        let domains = ["secure.test", "picky.test", "strict.test", "dead.test"];
        config.routes = domains.iter().zip(ports).map(|(domain, port)| route(domain, port)).collect();
        config.routes.extend(routes);
        config.sources.push(toml::from_str("name = \"new\"").unwrap());
        config.warmups.push(Warmup::new("new", "google", Day(20_000), vec![50]));
        let daemon = Daemon::start(config).await.unwrap();
        let watchdog = daemon.watchdog(None, || {}).unwrap();
        Self { daemon, _watchdog: watchdog, _receivers: vec![secure, picky, strict], _dead: dead, _folder: folder }
    }

    /// One with something of everything behind it.
    pub async fn with_traffic() -> Self {
        let stage = Self::start(Vec::new()).await;
        for number in 0..4 {
            for domain in ["secure.test", "picky.test", "strict.test", "dead.test", "nowhere.invalid"] {
                assert!(stage.submit(&[format!("u{number}@{domain}")]).await.starts_with("250"));
            }
        }
        assert!(!stage.submit(&["no address".to_owned()]).await.starts_with("250"));
        stage
            .until("outcomes of each kind", |scraped| {
                ["delivered", "deferred", "bounced"].iter().all(|outcome| {
                    value(scraped, &format!("hikyaku_queue_{outcome}_total")).is_some_and(|count| count >= 4.0)
                })
            })
            .await;
        stage
    }

    /// Where Prometheus scrapes.
    pub fn address(&self) -> SocketAddr {
        self.daemon.metrics_address().unwrap()
    }

    /// Submits a message; the reply to its end of data, or the first that refuses it.
    pub async fn submit(&self, recipients: &[String]) -> String {
        daemon::submit(self.daemon.submission_addresses()[0], "a@sender.test", recipients, "Subject: x").await
    }

    /// What is scraped.
    pub async fn scrape(&self) -> String {
        get(self.address(), "/metrics").await
    }

    /// Scrapes until it is as it should be.
    pub async fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let scraping = async {
            loop {
                let scraped = self.scrape().await;
                if is_so(&scraped) {
                    return scraped;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, scraping).await {
            Ok(scraped) => scraped,
            Err(_) => panic!("never {what}: {}", self.scrape().await),
        }
    }

    pub async fn stop(self) {
        self.daemon.stop(Duration::from_secs(5)).await;
    }
}

/// The body of what an HTTP server answers with 200.
pub async fn get(address: SocketAddr, path: &str) -> String {
    try_get(address, path).await.unwrap_or_else(|answer| panic!("{path}: {answer}"))
}

/// The same; an error is the answer.
pub async fn try_get(address: SocketAddr, path: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // 1.0, so that the body comes in one piece.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => Err(answer),
    }
}

/// The value of a series, written as it is scraped.
pub fn value(scraped: &str, series: &str) -> Option<f64> {
    scraped.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}
