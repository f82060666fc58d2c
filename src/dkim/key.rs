//! One private key, and the DNS record of its public half (RFC 6376, 3.6; RFC 8463).

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Digest, SHA256, digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::text::hex;
use crate::trusted::{self, Holds};

/// What a key signs with; the tag `a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// rsa-sha256.
    Rsa,
    /// ed25519-sha256.
    Ed25519,
}

impl Algorithm {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Rsa, Self::Ed25519];

    /// As the tag `a` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rsa => "rsa-sha256",
            Self::Ed25519 => "ed25519-sha256",
        }
    }

    /// As the tag `k` of the record has it.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::Ed25519 => "ed25519",
        }
    }
}

/// Why a key cannot be used. Nothing of what is in its file is ever told.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file is not there, or is one that others may read or write.
    #[error(transparent)]
    File(#[from] trusted::Error),
    /// Its file is no PEM of a private key.
    #[error("{}: no private key in PEM (PKCS#8, or PKCS#1 for RSA) without a passphrase", path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// It is a key of another kind, damaged, or too short.
    #[error("{}: the key is neither RSA of 2048 to 8192 bits nor Ed25519, or is damaged", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
}

/// What may be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// What every verifier knows.
    Rsa2048,
    /// Slower to sign, and its record is longer than some DNS servers take.
    Rsa4096,
    /// A tenth of RSA's cost; verifiers that do not know it ignore it, so it stands beside an RSA key.
    Ed25519,
}

/// A key could not be made: the system gives no random numbers, or no memory.
#[derive(Debug, thiserror::Error)]
#[error("the key cannot be generated")]
pub struct Ungenerated;

#[derive(Debug)]
enum Private {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A private key with what it signs for.
#[derive(Debug)]
pub struct Key {
    /// The tag `d`, in lower case.
    pub domain: Box<str>,
    /// The tag `s`, in lower case.
    pub selector: Box<str>,
    /// Where it was read.
    pub path: PathBuf,
    private: Private,
    /// The tag `p`.
    public: String,
}

impl Key {
    /// Reads the key in `path`, which may block on its disk.
    pub fn read(domain: &str, selector: &str, path: &Path) -> Result<Self, KeyError> {
        let pem = trusted::read(path, Holds::Secret)?;
        Self::parse(domain, selector, path, &pem)
    }

    fn parse(domain: &str, selector: &str, path: &Path, pem: &[u8]) -> Result<Self, KeyError> {
        let private = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Form { path: path.to_owned() })?;
        let private = match &private {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).map(Private::Rsa).ok(),
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                let rsa = RsaKeyPair::from_pkcs8(der).map(Private::Rsa);
                rsa.or_else(|_| Ed25519KeyPair::from_pkcs8(der).map(Private::Ed25519)).ok()
            }
            _ => None,
        };
        let private = private.ok_or_else(|| KeyError::Kind { path: path.to_owned() })?;
        let public = private.public().ok_or_else(|| KeyError::Kind { path: path.to_owned() })?;
        let (domain, selector) = (domain.to_ascii_lowercase().into(), selector.to_ascii_lowercase().into());
        Ok(Self { domain, selector, path: path.to_owned(), private, public })
    }

    /// What it signs with.
    pub fn algorithm(&self) -> Algorithm {
        match self.private {
            Private::Rsa(_) => Algorithm::Rsa,
            Private::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// Length in bits.
    pub fn bits(&self) -> usize {
        match &self.private {
            Private::Rsa(pair) => pair.public_modulus_len() * 8,
            Private::Ed25519(_) => 256,
        }
    }

    /// The name of its DNS record.
    pub fn record_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// The text of its DNS record.
    pub fn record(&self) -> String {
        format!("v=DKIM1; k={}; p={}", self.algorithm().kind(), self.public)
    }

    /// The tag `p` of its record.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The signature over a hash of SHA-256; none if the library fails. Takes as long as RSA takes.
    pub(super) fn sign(&self, hash: &Digest) -> Option<Vec<u8>> {
        match &self.private {
            Private::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign_digest(&RSA_PKCS1_SHA256, hash, &mut signature).ok()?;
                Some(signature)
            }
            Private::Ed25519(pair) => Some(pair.try_sign(hash.as_ref()).ok()?.as_ref().to_vec()),
        }
    }

    /// Whether both would make the same signatures.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.domain == other.domain && self.selector == other.selector && self.public == other.public
    }
}

impl Private {
    fn public(&self) -> Option<String> {
        match self {
            // RFC 6376 shows a SubjectPublicKeyInfo, and this is what verifiers read.
            Self::Rsa(pair) => {
                let der: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
                Some(STANDARD.encode(der.as_ref()))
            }
            // RFC 8463, 4.2: the 32 octets themselves.
            Self::Ed25519(pair) => Some(STANDARD.encode(pair.public_key().as_ref())),
        }
    }
}

/// A new private key in PEM (PKCS#8). RSA takes up to seconds.
pub fn generate(strength: Strength) -> Result<String, Ungenerated> {
    let rsa = |size| RsaKeyPair::generate(size).and_then(|pair| AsDer::<Pkcs8V1Der<'_>>::as_der(&pair));
    let der = match strength {
        Strength::Rsa2048 => rsa(KeySize::Rsa2048),
        Strength::Rsa4096 => rsa(KeySize::Rsa4096),
        // Version 1, without the public half, is what OpenSSL reads.
        Strength::Ed25519 => Ed25519KeyPair::generate().and_then(|pair| AsDer::<Pkcs8V1Der<'_>>::as_der(&pair)),
    };
    let text = STANDARD.encode(der.map_err(|_| Ungenerated)?.as_ref());
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    Ok(pem)
}

/// What tells one public key from another in a list, without its length.
pub fn fingerprint(public: &str) -> String {
    hex(digest(&SHA256, public.as_bytes()).as_ref().get(..8).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pem: &str) -> Result<Key, KeyError> {
        Key::parse("A.test", "S1", Path::new("/k.pem"), pem.as_bytes())
    }

    #[test]
    fn a_generated_key_is_read_back_and_its_record_tells_the_algorithm() {
        for (strength, algorithm, bits, start) in [
            (Strength::Rsa2048, Algorithm::Rsa, 2_048, "v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"),
            (Strength::Ed25519, Algorithm::Ed25519, 256, "v=DKIM1; k=ed25519; p="),
        ] {
            let key = parse(&generate(strength).unwrap()).unwrap();

            assert_eq!((key.algorithm(), key.bits()), (algorithm, bits));
            assert!(key.record().starts_with(start), "{}", key.record());
            assert_eq!(key.record_name(), "s1._domainkey.a.test");
        }
    }

    #[test]
    fn what_is_no_private_key_that_can_sign_is_refused_by_name_and_not_shown() {
        let good = generate(Strength::Ed25519).unwrap();
        let damaged = good.replacen("MC4C", "MC4D", 1);
        assert_ne!(good, damaged);

        for pem in ["", "SECRET", "-----BEGIN PUBLIC KEY-----\nU0VDUkVU\n-----END PUBLIC KEY-----\n", &damaged] {
            let said = parse(pem).unwrap_err().to_string();

            assert!(said.starts_with("/k.pem: ") && !said.contains("SECRET"), "{said}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.pem");
        std::fs::write(&path, generate(Strength::Ed25519).unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();

        assert!(matches!(Key::read("a.test", "s", &path), Err(KeyError::File(trusted::Error::Mode { .. }))));

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Key::read("a.test", "s", &path).is_ok());
    }
}
