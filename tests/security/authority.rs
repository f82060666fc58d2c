//! Certificates made for a test, and TLS clients that trust them.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use hikyaku::submission::{self, TlsMode};
use hikyaku::tls::{Acceptor, Certificates, Clients, Files};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::server::first_reply;

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a name and its key, in PEM.
    pub fn certificate(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// The same in files of a folder.
    pub fn files(&self, folder: &Path, name: &str) -> Files {
        let files = Files { chain: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
        self.write(&files, name);
        files
    }

    /// Writes another certificate for a name into the files.
    pub fn write(&self, files: &Files, name: &str) {
        let (chain, key) = self.certificate(name);
        fs::write(&files.chain, chain).unwrap();
        fs::write(&files.key, key).unwrap();
        fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&files.chain, Permissions::from_mode(0o644)).unwrap();
    }

    /// A client that trusts it, with a certificate of its own perhaps.
    pub fn client(&self, own: Option<(String, String)>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        })
    }
}

/// An acceptor of these certificates.
pub fn acceptor(files: Vec<Files>, clients: Option<Option<&Path>>) -> (Arc<Acceptor>, Arc<Certificates>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certificates = Certificates::load(files).unwrap();
    let clients = clients.map(|authorities| Clients::load(authorities, &provider).unwrap());
    (Arc::new(Acceptor::new(Arc::clone(&certificates), provider, clients).unwrap()), certificates)
}

/// TLS of a listener with one certificate, for `mx.test`.
pub fn one(authority: &Authority, folder: &Path, mode: TlsMode) -> Option<submission::Tls> {
    let (acceptor, _) = acceptor(vec![authority.files(folder, "mx.test")], None);
    Some(submission::Tls { acceptor, mode })
}

/// The handshake of a client that expects `name`.
pub async fn handshake(stream: TcpStream, name: &str, config: &Arc<ClientConfig>) -> std::io::Result<Secure> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
    Ok(Secure { stream, buffer: Vec::new() })
}

/// The same at a listener that begins with it.
pub async fn connect(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Secure {
    handshake(TcpStream::connect(address).await.unwrap(), name, config).await.unwrap()
}

/// A client under TLS.
pub struct Secure {
    pub stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Secure {
    /// One reply, all its lines; empty when the connection is closed.
    pub async fn reply(&mut self) -> String {
        loop {
            if let Some(reply) = first_reply(&mut self.buffer) {
                return reply;
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or_default() == 0 {
                return String::new();
            }
        }
    }

    pub async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub async fn command(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.reply().await
    }

    /// Sends a message; the last reply.
    pub async fn submit(&mut self, content: &str) -> String {
        self.send("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n").await;
        let replies = [self.reply().await, self.reply().await, self.reply().await];
        assert!(replies[2].starts_with("354"), "{replies:?}");
        self.send(format!("{content}.\r\n")).await;
        self.reply().await
    }
}
