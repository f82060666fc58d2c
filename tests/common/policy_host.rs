//! An HTTPS server with one MTA-STS policy, on loopback.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A running server; stops when dropped.
pub struct PolicyHost {
    pub address: SocketAddr,
    head: Arc<Mutex<String>>,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    posts: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for PolicyHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PolicyHost {
    /// Shows a certificate for `mta-sts.example.test`.
    pub async fn start(policy: &str) -> Self {
        Self::start_with(policy, include_bytes!("../data/tls/good.pem")).await
    }

    pub async fn start_with(policy: &str, certificate: &[u8]) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), policy, certificate)
    }

    /// At the port that senders ask, of an address of loopback; none: not for this user.
    pub async fn at_its_port(host: [u8; 4], policy: &str) -> Option<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::from(host), 443)).await.ok()?;
        Some(Self::on(listener, policy, include_bytes!("../data/tls/good.pem")))
    }

    fn on(listener: TcpListener, policy: &str, certificate: &[u8]) -> Self {
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../data/tls/mx-key.pem")).unwrap();
        let certificate = CertificateDer::from_pem_slice(certificate).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
                .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let address = listener.local_addr().unwrap();
        let head = Arc::new(Mutex::new("200 OK\r\nContent-Type: text/plain; charset=utf-8".to_owned()));
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let posts = Arc::<Mutex<Vec<String>>>::default();
        let posted = Arc::clone(&posts);
        let shared = (Arc::clone(&head), Arc::clone(&connections), Arc::clone(&requests), policy.to_owned());
        let task = tokio::spawn(async move {
            let (head, connections, requests, policy) = shared;
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = Vec::new();
                let mut buffer = [0; 1024];
                while !request.windows(4).any(|four| four == b"\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(length @ 1..) => request.extend_from_slice(&buffer[..length]),
                        _ => break,
                    }
                }
                if request.starts_with(b"POST ") {
                    let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
                    let (_, after) = head.split_once("content-length: ").unwrap();
                    let length: usize = after.split("\r\n").next().unwrap().parse().unwrap();
                    let begin = request.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
                    while request.len() < begin + length {
                        let read = stream.read(&mut buffer).await.unwrap();
                        request.extend_from_slice(&buffer[..read]);
                    }
                    posted.lock().push(String::from_utf8_lossy(&request).into_owned());
                } else {
                    assert!(request.starts_with(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n"), "{request:?}");
                    requests.fetch_add(1, Ordering::Relaxed);
                }
                let head = head.lock().clone();
                let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{policy}", policy.len());
                stream.write_all(answer.as_bytes()).await.ok();
                stream.shutdown().await.ok();
            }
        });
        Self { address, head, connections, requests, posts, task }
    }

    /// Answers with this status and these header fields.
    pub fn with_head(self, head: &str) -> Self {
        *self.head.lock() = head.to_owned();
        self
    }

    /// POST requests, with their heads.
    pub fn posts(&self) -> Vec<String> {
        self.posts.lock().clone()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}
