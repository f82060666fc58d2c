//! A daemon that gives links to the tenant `shop` and answers them under TLS, and who clicks.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hikyaku::clock::Clock;
use hikyaku::config::{Certificate, Config, Dkim, Route, TlsMode, UnsubscribeScope, UnsubscribeTenant};
use hikyaku::daemon::Daemon;
use hikyaku::dkim::{Strength, generate};
use hikyaku::smtp::address::Address;
use hikyaku::state::suppression::Reason;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fake_mx::{FakeMx, Received, Running};

pub const HOST: &str = "u.test";
pub const GRACE: Duration = Duration::from_secs(10);
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const FORM: &str = "application/x-www-form-urlencoded";
pub const ONE_CLICK: &str = "List-Unsubscribe=One-Click";

pub struct Stage {
    pub folder: tempfile::TempDir,
    pub daemon: Daemon,
    pub sink: Running,
}

/// An answer: status, header section, body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Stage {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sink = FakeMx::new().start().await;
        certify(folder.path(), HOST);
        let mut config = config(folder.path(), &sink);
        change(&mut config);
        assert_eq!(config.complaints(), []);
        let daemon = Daemon::start(config).await.unwrap();
        Self { folder, daemon, sink }
    }

    /// The same after a stop and a start.
    pub async fn restarted(self) -> Self {
        let config = self.daemon.config().clone();
        self.daemon.stop(GRACE).await;
        Self { daemon: Daemon::start(config).await.unwrap(), ..self }
    }

    pub fn address(&self) -> SocketAddr {
        self.daemon.unsubscribe_addresses()[0]
    }

    /// Submits a message of the shop, by default bulk of the class `news`, and gives it as it arrives.
    pub async fn arrival(&self, to: &[&str], header: &str) -> Received {
        let before = self.sink.transactions().len();
        let reply = crate::daemon::submit(self.daemon.submission_addresses()[0], "b@shop.test", to, header).await;
        assert!(reply.starts_with("250 "), "{reply}");
        let begun = Instant::now();
        while self.sink.transactions().len() == before && begun.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.sink.transactions().pop().unwrap()
    }

    /// The path of the link of a message of a class, if it has one, to `to`.
    pub async fn path_for(&self, to: &str, class: &str) -> String {
        let class = if class.is_empty() { String::new() } else { format!("X-Hikyaku-Class: {class}\r\n") };
        let arrival = self.arrival(&[to], &format!("{class}From: a@shop.test\r\nSubject: x")).await;
        link(&arrival.content).strip_prefix(&format!("https://{HOST}")).unwrap().to_owned()
    }

    /// A connection whose handshake is done.
    pub async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_as(HOST).await.unwrap()
    }

    pub async fn connect_as(&self, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.folder.path().join("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address()).await?;
        let name = ServerName::try_from(host.to_owned()).unwrap();
        TlsConnector::from(Arc::new(client)).connect(name, stream).await
    }

    pub async fn ask(&self, method: &str, path: &str, kind: &str, body: &str) -> Answer {
        let octets = request(method, path, kind, body);
        let mut stream = self.connect().await;
        // It may be cut off before all of it is written.
        let _ = stream.write_all(octets.as_bytes()).await;
        answer(&mut stream).await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "").await
    }

    /// Clicks as a provider does for somebody who has pressed its button.
    pub async fn click(&self, path: &str) -> Answer {
        self.ask("POST", path, FORM, ONE_CLICK).await
    }

    /// Why mail of the shop's class to an address is suppressed, if it is.
    pub fn suppressed(&self, address: &str, class: &str) -> Option<Reason> {
        self.suppressed_of("shop", address, class)
    }

    pub fn suppressed_of(&self, tenant: &str, address: &str, class: &str) -> Option<Reason> {
        let list = self.daemon.suppression();
        let address: Address = address.parse().unwrap();
        Some(list.find(list.whose(tenant, class), &address, Clock::system().wall())?.reason)
    }

    /// The lines of the journal about those who took themselves off, as soon as there are so many.
    pub async fn journal(&self, count: usize) -> Vec<Value> {
        self.journal_of("unsubscribed", count).await
    }

    /// The same of a kind of events.
    pub async fn journal_of(&self, kind: &str, count: usize) -> Vec<Value> {
        let begun = Instant::now();
        loop {
            let found: Vec<Value> = fs::read_dir(self.folder.path().join("journal"))
                .unwrap()
                .filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok())
                .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
                .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
                .filter(|line| line["event"] == kind)
                .collect();
            if found.len() >= count {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "{found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether the metrics have this line.
    pub fn assert_metric(&self, line: &str) {
        let text = self.daemon.registry().render();
        assert!(text.contains(&format!("hikyaku_unsubscribe_{line}\n")), "{line}: {text}");
    }

    pub async fn stop(self) {
        self.daemon.stop(GRACE).await;
    }
}

/// A request on a connection of its own.
pub fn request(method: &str, path: &str, kind: &str, body: &str) -> String {
    let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{kind}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// What the daemon answers before it closes the connection.
pub async fn answer(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Answer> {
    let mut octets = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut octets)).await.expect("the end of the connection");
    let text = String::from_utf8(octets).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// The value of a field of a message, unfolded; none if it has none.
pub fn field(content: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(content);
    let header = text.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ").replace("\r\n\t", " ");
    let mut found = header.lines().filter_map(|line| line.strip_prefix(&format!("{name}:")));
    let first = found.next().map(|value| value.trim().to_owned());
    assert_eq!(found.next(), None, "{name} stands there once");
    first
}

/// The link of a message.
pub fn link(content: &[u8]) -> String {
    let field = field(content, "List-Unsubscribe").unwrap();
    field.strip_prefix('<').unwrap().split('>').next().unwrap().to_owned()
}

pub fn config(folder: &Path, sink: &Running) -> Config {
    let mut config = crate::daemon::config(folder);
    config.routes = vec![Route { domain: "*".to_owned(), next_hop: format!("smtp://{}", sink.address) }];
    config.delivery.tls = TlsMode::None;
    config.listeners[0].tenant = "shop".to_owned();
    config.listeners[0].trust_headers = true;
    config.certificates = vec![Certificate { chain: folder.join("chain.pem"), key: folder.join("key.pem") }];
    config.dkim = vec![key(folder)];
    config.unsubscribe.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.unsubscribe.url = format!("https://{HOST}/");
    config.unsubscribe.tenants = vec![UnsubscribeTenant {
        name: "shop".to_owned(),
        scope: UnsubscribeScope::Class,
        sender: "The <Shop>".to_owned(),
        mailto: String::new(),
    }];
    config
}

fn key(folder: &Path) -> Dkim {
    let path = folder.join("dkim.pem");
    fs::write(&path, generate(Strength::Ed25519).unwrap()).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    Dkim { domain: "shop.test".to_owned(), selector: "s".to_owned(), key: path }
}

/// Writes a certificate for `host`, its key, and the authority's; an earlier one is replaced.
pub fn certify(folder: &Path, host: &str) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let chain = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    for (name, text, mode) in
        [("ca.pem", issuer.pem(), 0o644), ("chain.pem", chain.pem(), 0o644), ("key.pem", key.serialize_pem(), 0o600)]
    {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), Permissions::from_mode(mode)).unwrap();
    }
}
