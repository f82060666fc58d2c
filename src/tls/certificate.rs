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
#[derive(Debug)]
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

#[derive(Debug)]
pub(super) struct Current {
    pub loaded: Vec<Loaded>,
    /// What the files were like when they were read.
    marks: Vec<Option<(SystemTime, u64)>>,
}

impl Certificates {
    /// Reads the files. Blocks on the disk.
    pub fn load(files: Vec<Files>) -> Result<Arc<Self>, LoadError> {
        let current = Current::load(&files)?;
        Ok(Arc::new(Self { files, current: ArcSwap::from_pointee(current) }))
    }

    /// Reads them again if a file is another one than before; tells whether it was. After an error those before go on.
    /// Blocks on the disk.
    pub fn refresh(&self) -> Result<bool, LoadError> {
        if self.current.load().marks == marks(&self.files) {
            return Ok(false);
        }
        self.current.store(Arc::new(Current::load(&self.files)?));
        Ok(true)
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
    fn load(files: &[Files]) -> Result<Self, LoadError> {
        // Before the reading: what changes meanwhile is seen at the next look.
        let marks = marks(files);
        let loaded = files.iter().map(Loaded::load).collect::<Result<_, _>>()?;
        Ok(Self { loaded, marks })
    }

    /// Which certificate a client that asks for `name` gets: the first that covers it, else the first.
    pub fn choose(&self, name: Option<&str>) -> usize {
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let covers = |loaded: &Loaded, name: &ServerName<'_>| {
            let end_entity = loaded.key.end_entity_cert().and_then(ParsedCertificate::try_from);
            end_entity.is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, name).is_ok())
        };
        name.and_then(|name| self.loaded.iter().position(|loaded| covers(loaded, &name))).unwrap_or_default()
    }
}

/// When each file was changed, and how long it is; links followed.
fn marks(files: &[Files]) -> Vec<Option<(SystemTime, u64)>> {
    let mark = |path: &Path| std::fs::metadata(path).and_then(|meta| Ok((meta.modified()?, meta.len()))).ok();
    files.iter().flat_map(|files| [mark(&files.chain), mark(&files.key)]).collect()
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
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| bad(&files.key, error.to_string()))?;
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
