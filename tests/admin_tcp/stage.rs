//! A daemon with an admin interface on loopback, with a token of each role; and clients of it.
#![allow(dead_code)]

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use hikyaku::admin::Role;
use hikyaku::admin::tokens::{Token, edit};
use hikyaku::config::{Certificate, Config};
use hikyaku::daemon::Daemon;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GRACE: Duration = Duration::from_secs(5);

pub struct Stage {
    pub folder: tempfile::TempDir,
    pub daemon: Daemon,
    /// Of viewer, operator and admin.
    secrets: Vec<String>,
    scheme: &'static str,
}

/// An answer: status, header section, and the body as JSON or text.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

impl Stage {
    pub async fn start() -> Self {
        Self::with(|_, _| {}).await
    }

    /// The same under TLS, by a certificate for 127.0.0.1 that `ca.pem` of the folder vouches for.
    pub async fn under_tls() -> Self {
        let stage = Self::with(|config, folder| {
            certify(folder);
            config.admin.tls = true;
            config.certificates = vec![Certificate { chain: folder.join("chain.pem"), key: folder.join("key.pem") }];
        });
        Self { scheme: "https", ..stage.await }
    }

    pub async fn with(change: impl FnOnce(&mut Config, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = daemon_config(folder.path());
        let secrets = Role::ALL.map(|role| token(&config.admin.tokens, role.as_str(), role, &[]));
        change(&mut config, folder.path());
        assert_eq!(config.complaints(), []);
        let daemon = Daemon::start(config).await.unwrap();
        Self { folder, daemon, secrets: secrets.to_vec(), scheme: "http" }
    }

    pub fn address(&self) -> SocketAddr {
        self.daemon.admin_addresses()[0]
    }

    pub fn secret(&self, role: Role) -> &str {
        &self.secrets[role as usize]
    }

    pub fn tokens(&self) -> PathBuf {
        self.folder.path().join("tokens")
    }

    pub fn audit(&self) -> PathBuf {
        self.folder.path().join("spool/audit")
    }

    /// Asks in clear, with a token perhaps.
    pub async fn ask(&self, secret: Option<&str>, method: &str, path: &str, body: &str) -> Answer {
        let token = secret.map(|secret| format!("Authorization: Bearer {secret}\r\n")).unwrap_or_default();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\n{token}Content-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        self.send(request.as_bytes()).await.expect("an answer")
    }

    /// Sends octets as they are; none: there was no answer.
    pub async fn send(&self, octets: &[u8]) -> Option<Answer> {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        // It may be cut off before all of it is written.
        let _ = stream.write_all(octets).await;
        answer(&mut stream).await
    }

    /// Runs the command, which is told of the daemon and a token by the environment alone.
    pub async fn command(&self, role: Role, arguments: &[&str]) -> (i32, String) {
        self.command_by(self.scheme, role, arguments).await
    }

    /// The same by `http` or `https`.
    pub async fn command_by(&self, scheme: &str, role: Role, arguments: &[&str]) -> (i32, String) {
        let url = format!("{scheme}://{}", self.address());
        let output: Output = tokio::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"))
            .args(arguments)
            .env("HIKYAKU_ADMIN", url)
            .env("HIKYAKU_TOKEN", self.secret(role))
            .env_remove("HIKYAKU_SOCKET")
            .output()
            .await
            .unwrap();
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    /// Stops the daemon, and starts another one on the same files.
    pub async fn restart(mut self) -> Self {
        let config = self.daemon.config().clone();
        self.daemon.stop(GRACE).await;
        let begun = Instant::now();
        self.daemon = loop {
            match Daemon::start(config.clone()).await {
                Ok(daemon) => break daemon,
                // What was asked last may still have the spool of the daemon before.
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
            }
        };
        self
    }

    pub async fn stop(self) {
        self.daemon.stop(GRACE).await;
    }
}

/// What the daemon answers before it closes the connection.
pub async fn answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut octets = Vec::new();
    let _ = stream.read_to_end(&mut octets).await;
    let text = String::from_utf8(octets).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = serde_json::from_str(body).unwrap_or(Value::String(body.to_owned()));
    Some(Answer { status, head: head.to_owned(), body })
}

/// Everything below `folder`, with an interface on any port of loopback.
pub fn daemon_config(folder: &Path) -> Config {
    let mut config = crate::daemon::config(folder);
    config.admin.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.admin.tokens = folder.join("tokens");
    config
}

/// Adds a token; its secret.
pub fn token(file: &Path, name: &str, role: Role, networks: &[&str]) -> String {
    let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    let (token, secret) = Token::generate(name, role, networks).unwrap();
    edit::add(file, &token, None).unwrap();
    secret
}

/// Writes a certificate for 127.0.0.1, its key, and the authority's.
pub fn certify(folder: &Path) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let chain = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    for (name, text, mode) in
        [("ca.pem", issuer.pem(), 0o644), ("chain.pem", chain.pem(), 0o644), ("key.pem", key.serialize_pem(), 0o600)]
    {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), Permissions::from_mode(mode)).unwrap();
    }
}
