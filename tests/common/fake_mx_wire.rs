//! The octets of a scripted receiver: ends of data in three dialects, dots, and its TLS.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::Dialect;

/// Where the content with its end of data ends.
pub fn end_of_data(input: &[u8], dialect: Dialect) -> Option<usize> {
    let ends: &[&[u8]] = match dialect {
        Dialect::Strict => &[b"\r\n.\r\n"],
        Dialect::Lf => &[b"\n.\r\n", b"\n.\n"],
        Dialect::Cr => &[b"\n.\r\n", b"\r.\r"],
    };
    if input.starts_with(b".\r\n") {
        return Some(3);
    }
    let first = ends.iter().filter_map(|end| {
        input.windows(end.len()).position(|window| window == *end).map(|position| position + end.len())
    });
    first.min()
}

/// The content, dots taken off.
pub fn unstuffed(wire: &[u8], dialect: Dialect) -> Vec<u8> {
    let is_end = |octet: u8| match dialect {
        Dialect::Strict | Dialect::Lf => octet == b'\n',
        Dialect::Cr => octet == b'\r' || octet == b'\n',
    };
    let mut content = Vec::with_capacity(wire.len());
    let mut at_line_start = true;
    for (position, &octet) in wire.iter().enumerate() {
        let crlf_before = dialect != Dialect::Strict || position == 0 || wire[..position].ends_with(b"\r\n");
        if at_line_start && crlf_before && octet == b'.' {
            if matches!(wire.get(position + 1), Some(b'\r' | b'\n')) && position + 3 >= wire.len() {
                break;
            }
        } else {
            content.push(octet);
        }
        at_line_start = is_end(octet);
    }
    content
}

/// What a receiver shows under TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Certificate {
    /// One that nobody would trust, for `localhost`.
    #[default]
    SelfSigned,
    /// For `mx0.example.test` and `mx1.example.test`, by the authority of `tests/data/tls/ca.pem`.
    Good,
    /// The same, with the authority's own certificate behind it.
    WithAuthority,
    /// By the same authority for another name.
    WrongName,
    /// By the same authority for `mx0.example.test`; its time is over.
    Expired,
}

impl Certificate {
    /// The chain that is shown.
    pub fn chain(self) -> Vec<CertificateDer<'static>> {
        let pem: &[&[u8]] = match self {
            Self::SelfSigned => &[include_bytes!("../data/tls/certificate.pem")],
            Self::Good => &[include_bytes!("../data/tls/good.pem")],
            Self::WithAuthority => &[include_bytes!("../data/tls/good.pem"), include_bytes!("../data/tls/ca.pem")],
            Self::WrongName => &[include_bytes!("../data/tls/wrong-name.pem")],
            Self::Expired => &[include_bytes!("../data/tls/expired.pem")],
        };
        pem.iter().map(|pem| CertificateDer::from_pem_slice(pem).unwrap()).collect()
    }
}

/// TLS with this certificate.
pub fn acceptor(certificate: Certificate) -> TlsAcceptor {
    let key: &[u8] = match certificate {
        Certificate::SelfSigned => include_bytes!("../data/tls/key.pem"),
        _ => include_bytes!("../data/tls/mx-key.pem"),
    };
    let key = PrivateKeyDer::from_pem_slice(key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificate.chain(), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
