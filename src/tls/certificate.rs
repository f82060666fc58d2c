//! Certificates with their keys, from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::trusted::{self, Holds};

/// Stands in a key that needs a passphrase, PKCS#8 or older.
const LOCKED: &[u8] = b"ENCRYPTED";

/// Where one certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate and what it needs up to a root, in PEM, ours first.
    pub chain: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read, or others could have written it.
    #[error(transparent)]
    File(#[from] trusted::Error),
    /// Not PEM, or not what is wanted.
    #[error("{path}: {text}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// Key and certificate belong to different pairs.
    #[error("{key} is not the key of the certificate in {chain}")]
    Pair {
        /// The certificate's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

/// When a certificate may be used, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub not_before: i64,
    /// To.
    pub not_after: i64,
}

/// One certificate, ready.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub key: Arc<CertifiedKey>,
    pub validity: Validity,
}

/// All certificates of the daemon; those of files that changed replace the ones before. Listeners share them.
#[derive(Debug)]
pub struct Certificates {
    files: Vec<Files>,
    /// Written by [`Self::refresh`], read at every handshake.
    current: ArcSwap<Current>,
}

#[derive(Clone, Debug)]
pub(super) struct Current {
    pub loaded: Vec<Loaded>,
    /// What the files of each were like when they were read.
    marks: Vec<Marks>,
}

/// When chain and key were changed, and how long they are; links followed.
type Marks = [Option<(SystemTime, u64)>; 2];

impl Certificates {
    /// Reads the files. Blocks on the disk.
    pub fn load(files: Vec<Files>) -> Result<Arc<Self>, LoadError> {
        // Before the reading: what changes meanwhile is seen at the next look.
        let marks = files.iter().map(marks).collect();
        let loaded = files.iter().map(Loaded::load).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { files, current: ArcSwap::from_pointee(Current { loaded, marks }) }))
    }

    /// Reads those again whose files are others than before: how many, and why some could not be read, of which the ones
    /// before go on. Blocks on the disk.
    pub fn refresh(&self) -> (usize, Vec<LoadError>) {
        let mut next = Current::clone(&self.current.load());
        let (mut read, mut errors) = (0, Vec::new());
        for ((files, loaded), before) in self.files.iter().zip(&mut next.loaded).zip(&mut next.marks) {
            let now = marks(files);
            if now == *before {
                continue;
            }
            match Loaded::load(files) {
                Ok(other) => (*loaded, *before, read) = (other, now, read + 1),
                Err(error) => errors.push(error),
            }
        }
        if read > 0 {
            self.current.store(Arc::new(next));
        }
        (read, errors)
    }

    /// Whether they are of these files.
    pub fn is_of(&self, files: &[Files]) -> bool {
        self.files == files
    }

    /// The files with what holds of each.
    pub fn validities(&self) -> Vec<(Files, Validity)> {
        let current = self.current.load();
        self.files.iter().cloned().zip(current.loaded.iter().map(|loaded| loaded.validity)).collect()
    }

    pub(super) fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }
}

impl Current {
    /// Which certificate a client that asks for `name` gets: the first that covers it, else the first.
    pub fn choose(&self, name: Option<&str>) -> usize {
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let has = |loaded: &Loaded, name: &ServerName<'_>| {
            loaded.key.end_entity_cert().is_ok_and(|certificate| has_name(certificate, name))
        };
        name.and_then(|name| self.loaded.iter().position(|loaded| has(loaded, &name))).unwrap_or_default()
    }
}

/// Whether a client that asks for `name` would find it in the first certificate of this file; none: it cannot be read. The key is
/// not looked at, nor is who may write to the file. Blocks on the disk.
pub fn covers(chain: &Path, name: &str) -> Option<bool> {
    let pem = std::fs::read(chain).ok()?;
    let first = CertificateDer::pem_slice_iter(&pem).next()?.ok()?;
    Some(has_name(&first, &ServerName::try_from(name).ok()?))
}

fn has_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let parsed = ParsedCertificate::try_from(certificate);
    parsed.is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, name).is_ok())
}

fn marks(files: &Files) -> Marks {
    [&files.chain, &files.key]
        .map(|path| std::fs::metadata(path).and_then(|meta| Ok((meta.modified()?, meta.len()))).ok())
}

impl Loaded {
    fn load(files: &Files) -> Result<Self, LoadError> {
        let bad = |path: &Path, text: String| LoadError::Content { path: path.to_owned(), text };
        let chain = trusted::read(&files.chain, Holds::Public)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
        let chain = chain.map_err(|error| bad(&files.chain, error.to_string()))?;
        let first = chain.first().ok_or_else(|| bad(&files.chain, "no certificate in PEM is in it".to_owned()))?;
        let (_, parsed) = X509Certificate::from_der(first).map_err(|error| bad(&files.chain, error.to_string()))?;
        let validity = Validity {
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        };
        let key = trusted::read(&files.key, Holds::Secret)?;
        let is_locked = key.windows(LOCKED.len()).any(|window| window == LOCKED);
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| match is_locked {
            true => bad(&files.key, "it has a passphrase: `openssl pkey` takes it away".to_owned()),
            false => bad(&files.key, error.to_string()),
        })?;
        let key = any_supported_type(&key).map_err(|error| bad(&files.key, error.to_string()))?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) => Ok(Self { key: Arc::new(key), validity }),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(LoadError::Pair { chain: files.chain.clone(), key: files.key.clone() })
            }
            Err(error) => Err(bad(&files.chain, error.to_string())),
        }
    }
}
