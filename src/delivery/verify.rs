//! What is verified of a receiver's certificate: nothing, by trusted authorities (PKIX), or by TLSA records (RFC 7672, 3).

use std::sync::Arc;

use aws_lc_rs::digest;
use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::tls::Fault;
use crate::dns::security::{Matching, Tlsa};

/// What is verified.
#[derive(Debug)]
pub(super) enum Check {
    /// Every certificate and every handshake signature is accepted: without a trusted certificate neither proves anything,
    /// and clear text would be the alternative.
    Nothing,
    /// A certificate of a trusted authority for one of the names.
    Pkix { authorities: Arc<WebPkiServerVerifier>, names: Box<[Box<str>]> },
    /// The same for one name, but what is wrong is only noted. No authorities: that is what is wrong.
    Observed { authorities: Option<Arc<WebPkiServerVerifier>>, name: Box<str>, is_listed: bool },
    /// A certificate that one of the records names; under usage 2 for one of the names.
    Dane { names: Box<[Box<str>]>, records: Arc<[Tlsa]> },
}

/// Verifies one handshake.
#[derive(Debug)]
pub(super) struct Verifier {
    provider: Arc<CryptoProvider>,
    check: Check,
    /// Written by [`Check::Observed`].
    observed: Mutex<Option<Fault>>,
}

impl Verifier {
    /// A verifier of `check`.
    pub fn new(provider: &Arc<CryptoProvider>, check: Check) -> Arc<Self> {
        Arc::new(Self { provider: Arc::clone(provider), check, observed: Mutex::default() })
    }

    /// What would be wrong, were the policy in force.
    pub fn observed(&self) -> Option<Fault> {
        *self.observed.lock()
    }

    fn by_authorities(
        authorities: &WebPkiServerVerifier,
        (end_entity, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        names: &[Box<str>],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut result = Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        for name in names {
            let Ok(name) = ServerName::try_from(&**name) else { continue };
            result = authorities.verify_server_cert(end_entity, intermediates, &name, &[], now);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn by_records(
        &self,
        chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
        names: &[Box<str>],
        records: &[Tlsa],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // Usage 3: neither names nor dates of the certificate matter (RFC 7672, 3.1.1).
        if records.iter().any(|record| !record.is_authority && is_named(record, chain.0)) {
            return Ok(ServerCertVerified::assertion());
        }
        let mut roots = RootCertStore::empty();
        for record in records.iter().filter(|record| record.is_authority) {
            for certificate in chain.1.iter().filter(|certificate| is_named(record, certificate)) {
                roots.add(certificate.clone().into_owned()).ok();
            }
            if !record.of_key && record.matching == Matching::Exact {
                roots.add(CertificateDer::from(record.data.to_vec())).ok();
            }
        }
        let no_match = || Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        if roots.is_empty() {
            return Err(no_match());
        }
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider));
        let authorities = builder.build().map_err(|_| no_match())?;
        Self::by_authorities(&authorities, chain, names, now)
    }
}

/// Whether a record names a certificate.
fn is_named(record: &Tlsa, certificate: &CertificateDer<'_>) -> bool {
    let key;
    let octets: &[u8] = if record.of_key {
        let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
        key = parsed.subject_public_key_info();
        &key
    } else {
        certificate
    };
    let digest = |algorithm| *digest::digest(algorithm, octets).as_ref() == *record.data;
    match record.matching {
        Matching::Exact => *octets == *record.data,
        Matching::Sha256 => digest(&digest::SHA256),
        Matching::Sha512 => digest(&digest::SHA512),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = (end_entity, intermediates);
        match &self.check {
            Check::Nothing => Ok(ServerCertVerified::assertion()),
            Check::Pkix { authorities, names } => Self::by_authorities(authorities, chain, names, now),
            Check::Dane { names, records } => self.by_records(chain, names, records, now),
            Check::Observed { authorities, name, is_listed } => {
                let names = std::slice::from_ref(name);
                let result = authorities.as_ref().map(|by| Self::by_authorities(by, chain, names, now));
                *self.observed.lock() = match result {
                    _ if !is_listed => Some(Fault::NotListed),
                    Some(Ok(_)) => None,
                    Some(Err(Error::InvalidCertificate(why))) => Some(Fault::of(&why)),
                    Some(Err(_)) => Some(Fault::Validation),
                    None => Some(Fault::NotTrusted),
                };
                Ok(ServerCertVerified::assertion())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.check {
            Check::Nothing | Check::Observed { .. } => Ok(HandshakeSignatureValid::assertion()),
            _ => verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.check {
            Check::Nothing | Check::Observed { .. } => Ok(HandshakeSignatureValid::assertion()),
            _ => verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
