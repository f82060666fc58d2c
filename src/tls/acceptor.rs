//! The handshakes of one listener.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{self, digest};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::CertificateDer;
use rustls::server::{Acceptor as HelloReader, NoServerSessionStorage};
use rustls::sign::SingleCertAndKey;
use rustls::{ProtocolVersion, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::{Certificates, Current};
use super::{ClientCertificate, Clients, LoadError};

/// A connection under TLS.
pub type TlsStream<S> = tokio_rustls::server::TlsStream<S>;

/// What a handshake has agreed and proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secured {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its name of the IANA registry.
    pub cipher: &'static str,
    /// The channel binding `tls-exporter` (RFC 9266); none under TLS 1.2 without extended master secret, where it would
    /// not be unique.
    pub exporter: Option<[u8; 32]>,
    /// The channel binding `tls-server-end-point` (RFC 5929, 4): the hash of our certificate.
    pub server_end_point: Vec<u8>,
    /// The client's certificate, if it gave one.
    pub client: Option<ClientCertificate>,
}

/// Does the handshakes of one listener.
#[derive(Debug)]
pub struct Acceptor {
    certificates: Arc<Certificates>,
    provider: Arc<CryptoProvider>,
    clients: Option<Clients>,
    /// Made of the certificates that were current then; made anew when these are replaced.
    ready: ArcSwapOption<Ready>,
}

/// A configuration for each certificate.
#[derive(Debug)]
struct Ready {
    current: Arc<Current>,
    configs: Vec<Arc<ServerConfig>>,
}

impl Acceptor {
    /// An acceptor with these certificates, one at least, which asks for certificates of `clients`, if any.
    pub fn new(
        certificates: Arc<Certificates>,
        provider: Arc<CryptoProvider>,
        clients: Option<Clients>,
    ) -> Result<Self, LoadError> {
        let acceptor = Self { certificates, provider, clients, ready: ArcSwapOption::empty() };
        acceptor
            .ready()
            .map(|_| acceptor)
            .map_err(|error| LoadError::Content { path: "tls".into(), text: error.to_string() })
    }

    /// Whether [`Self::new`] would make the same of these: who has a ticket of it can go on with that.
    pub fn is_of(&self, certificates: &Arc<Certificates>, clients: Option<&Clients>) -> bool {
        Arc::ptr_eq(&self.certificates, certificates) && self.clients.as_ref() == clients
    }

    fn ready(&self) -> Result<Arc<Ready>, rustls::Error> {
        let current = self.certificates.current();
        if let Some(ready) = self.ready.load_full()
            && Arc::ptr_eq(&ready.current, &current)
        {
            return Ok(ready);
        }
        let configs = current.loaded.iter().map(|loaded| {
            let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
                .with_protocol_versions(rustls::DEFAULT_VERSIONS)?;
            let builder = match &self.clients {
                Some(clients) => builder.with_client_cert_verifier(clients.verifier()),
                None => builder.with_no_client_auth(),
            };
            let resolver = SingleCertAndKey::from(Arc::clone(&loaded.key));
            let mut config = builder.with_cert_resolver(Arc::new(resolver));
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.ticketer = Ticketer::new()?;
            Ok::<_, rustls::Error>(Arc::new(config))
        });
        let ready = Arc::new(Ready { configs: configs.collect::<Result<_, _>>()?, current });
        self.ready.store(Some(Arc::clone(&ready)));
        Ok(ready)
    }

    /// The handshake. Time-outs are the caller's.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<(TlsStream<S>, Secured)> {
        let start = LazyConfigAcceptor::new(HelloReader::default(), stream).await?;
        let ready = self.ready().map_err(io::Error::other)?;
        let chosen = ready.current.choose(start.client_hello().server_name());
        let none = || io::Error::other("no certificate");
        let config = ready.configs.get(chosen).ok_or_else(none)?;
        let stream = start.into_stream(Arc::clone(config)).await?;
        let loaded = ready.current.loaded.get(chosen).ok_or_else(none)?;
        let end_entity = loaded.key.end_entity_cert().map_err(io::Error::other)?;
        let secured = self.secured(stream.get_ref().1, end_entity);
        Ok((stream, secured))
    }

    fn secured(&self, connection: &ServerConnection, end_entity: &CertificateDer<'_>) -> Secured {
        let version = connection.protocol_version();
        let suite = connection.negotiated_cipher_suite();
        let client = connection.peer_certificates().and_then(|chain| chain.first());
        // RFC 9266, 4.2: under TLS 1.2 only with extended master secret, of which rustls does not tell.
        let exporter = (version == Some(ProtocolVersion::TLSv1_3))
            .then(|| connection.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[])).ok())
            .flatten();
        Secured {
            version: if version == Some(ProtocolVersion::TLSv1_3) { "TLSv1.3" } else { "TLSv1.2" },
            cipher: suite.and_then(|suite| suite.suite().as_str()).map_or("unknown", iana),
            exporter,
            server_end_point: end_point(end_entity),
            client: client.zip(self.clients.as_ref()).map(|(client, clients)| clients.read(client)),
        }
    }
}

/// rustls calls suites of TLS 1.3 `TLS13_...`; the registry has `TLS_...`.
fn iana(name: &'static str) -> &'static str {
    match name {
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
        other => other,
    }
}

/// RFC 5929, 4.1: hashed as the certificate's signature hashes, but SHA-256 in place of MD5 and SHA-1.
fn end_point(certificate: &CertificateDer<'_>) -> Vec<u8> {
    // Object identifiers of RFC 8017 and RFC 5758 that end in SHA-384 and SHA-512.
    const SHA384: [&str; 2] = ["1.2.840.113549.1.1.12", "1.2.840.10045.4.3.3"];
    const SHA512: [&str; 2] = ["1.2.840.113549.1.1.13", "1.2.840.10045.4.3.4"];
    let parsed = X509Certificate::from_der(certificate).ok();
    let algorithm = parsed.map(|(_, parsed)| parsed.signature_algorithm.algorithm.to_id_string()).unwrap_or_default();
    let algorithm = match algorithm.as_str() {
        id if SHA384.contains(&id) => &digest::SHA384,
        id if SHA512.contains(&id) => &digest::SHA512,
        _ => &digest::SHA256,
    };
    digest(algorithm, certificate).as_ref().to_vec()
}
