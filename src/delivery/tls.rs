//! TLS towards receivers: handshakes, and what of a certificate is verified as a [`Demand`] wants it.
//!
//! tokio-rustls does the handshake directly. mail-send's `into_tls` wraps the same call in a client whose other parts are
//! not used here, and takes no name but a DNS name. Sessions are resumed only where nothing is verified: a resumed one
//! shows no certificate, so nothing could be said of it under other demands than those it began with.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::verify::{Check, Verifier};
use crate::dns::Roots;
use crate::dns::security::{Demand, Refusal};
use crate::message::Proof;
use crate::tls::in_words;

/// What went wrong with TLS, as reports about it name it (RFC 8460, 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The receiver does not offer STARTTLS, or refuses it.
    NotOffered,
    /// The certificate is for other names.
    WrongName,
    /// The certificate's time is over, or has not begun.
    Expired,
    /// No trusted authority has signed it.
    NotTrusted,
    /// Anything else: no common protocol, an alert, a handshake that does not end, no certificate that TLSA records name.
    Validation,
    /// TLSA records are there, and none can be used.
    TlsaInvalid,
    /// TLSA records cannot be validated.
    DnssecInvalid,
    /// There are no TLSA records, which the policy wants.
    DaneRequired,
    /// The MTA-STS policy does not name the host.
    NotListed,
    /// There is no MTA-STS policy, which the policy wants.
    NoPolicy,
    /// The message asks for REQUIRETLS, and the host's name is not known to be right, or the policy is `none`.
    Unproven,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NotOffered,
        Self::WrongName,
        Self::Expired,
        Self::NotTrusted,
        Self::Validation,
        Self::TlsaInvalid,
        Self::DnssecInvalid,
        Self::DaneRequired,
        Self::NotListed,
        Self::NoPolicy,
        Self::Unproven,
    ];

    /// As RFC 8460 spells it; it has no word of its own for the last three.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotOffered => "starttls-not-supported",
            Self::WrongName => "certificate-host-mismatch",
            Self::Expired => "certificate-expired",
            Self::NotTrusted => "certificate-not-trusted",
            Self::Validation => "validation-failure",
            Self::TlsaInvalid => "tlsa-invalid",
            Self::DnssecInvalid => "dnssec-invalid",
            Self::DaneRequired => "dane-required",
            Self::NotListed => "mx-not-listed",
            Self::NoPolicy => "sts-policy-missing",
            Self::Unproven => "mx-not-proven",
        }
    }

    /// That of a certificate.
    pub(super) fn of(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => Self::Expired,
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::WrongName,
            E::UnknownIssuer | E::BadSignature | E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
                Self::NotTrusted
            }
            // A certificate that is its own authority, as openssl makes it; webpki has no variant of rustls for it.
            E::Other(error) if error.0.to_string() == "CaUsedAsEndEntity" => Self::NotTrusted,
            _ => Self::Validation,
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::DnssecInvalid => Self::DnssecInvalid,
            Refusal::DaneRequired => Self::DaneRequired,
            Refusal::TlsaInvalid => Self::TlsaInvalid,
            Refusal::NotListed => Self::NotListed,
            Refusal::NoPolicy => Self::NoPolicy,
            Refusal::NoTls | Refusal::Unproven | Refusal::Pending => Self::Unproven,
        }
    }
}

/// A handshake that failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Why, for reports.
    pub fault: Fault,
    /// Why, for people.
    pub text: String,
    /// The connection broke: another time it may not.
    pub is_lost: bool,
}

/// A connection that is encrypted.
#[derive(Debug)]
pub struct Shaken {
    /// It.
    pub stream: TlsStream<TcpStream>,
    /// What the certificate was held to.
    pub proof: Proof,
    /// What would be wrong with it, were the policy that is tested in force.
    pub observed: Option<Fault>,
}

/// Makes handshakes. Cheap to clone; sessions are resumed within one.
#[derive(Clone)]
pub struct Tls {
    provider: Arc<CryptoProvider>,
    unverified: Arc<ClientConfig>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// TLS 1.2 and 1.3.
    pub fn new() -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Verifier::new(&provider, Check::Nothing))
            .with_no_client_auth();
        Ok(Self { provider, unverified: Arc::new(config) })
    }

    /// The handshake with the MX host `host` at `address`.
    pub async fn handshake(
        &self,
        stream: TcpStream,
        host: &str,
        address: SocketAddr,
        demand: &Demand,
        roots: &Arc<Roots>,
    ) -> Result<Shaken, Failed> {
        let asked = match demand {
            Demand::Dane { names, .. } => names.first().map_or(host, |base| base),
            _ => host,
        };
        let name = ServerName::try_from(asked.to_owned()).unwrap_or_else(|_| ServerName::from(address.ip()));
        let check = self.check(host, demand, roots).await?;
        let Some((check, proof)) = check else {
            let stream = connect(Arc::clone(&self.unverified), name, stream).await?;
            return Ok(Shaken { stream, proof: Proof::None, observed: None });
        };
        let verifier = Verifier::new(&self.provider, check);
        let mut config = (*self.unverified).clone();
        config.dangerous().set_certificate_verifier(verifier.clone());
        config.resumption = Resumption::disabled();
        let stream = connect(Arc::new(config), name, stream).await?;
        let observed = verifier.observed();
        Ok(Shaken { stream, proof: if observed.is_some() { Proof::Failed } else { proof }, observed })
    }

    /// What is to be verified, and what that proves; none: nothing.
    async fn check(&self, host: &str, demand: &Demand, roots: &Arc<Roots>) -> Result<Option<(Check, Proof)>, Failed> {
        let pkix = async || {
            let failed = |text: String| Failed { fault: Fault::NotTrusted, text, is_lost: true };
            let roots = roots.get().await.map_err(|why| failed(format!("certificates cannot be verified: {why}")))?;
            let builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider));
            builder.build().map_err(|error| failed(error.to_string()))
        };
        Ok(match demand {
            Demand::Clear | Demand::Opportunistic | Demand::Encrypted | Demand::Refused(_) => None,
            Demand::Pkix { names } => {
                Some((Check::Pkix { authorities: pkix().await?, names: names.clone() }, Proof::Pkix))
            }
            Demand::Observed { is_listed, .. } => {
                let (authorities, is_listed) = (pkix().await.ok(), *is_listed);
                let check = Check::Observed { authorities, name: host.into(), is_listed };
                Some((check, Proof::Pkix))
            }
            Demand::Dane { names, records } => {
                Some((Check::Dane { names: names.clone(), records: Arc::clone(records) }, Proof::Dane))
            }
        })
    }
}

async fn connect(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, Failed> {
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
        let said = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let (fault, text) = match said {
            Some(rustls::Error::InvalidCertificate(why)) => (Fault::of(why), in_words(why)),
            _ => (Fault::Validation, error.to_string()),
        };
        Failed { fault, text, is_lost: said.is_none() }
    })
}
