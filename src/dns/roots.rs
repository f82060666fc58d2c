//! The certificate authorities that are trusted: the system's, and those of a file of the operator's.
//!
//! Read when they are first needed, which may be never. What cannot be read then is told each time that they are needed, and
//! read again after a while: mail that must be verified waits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::trusted::{self, Holds};

/// How long what was read is believed: authorities are added and withdrawn while a daemon runs.
const BELIEVED: Duration = Duration::from_secs(86_400);

type Read = Result<Arc<RootCertStore>, Arc<str>>;

/// Trusted authorities.
#[derive(Debug, Default)]
pub struct Roots {
    file: PathBuf,
    without_system: bool,
    read: Mutex<Option<(Instant, Read)>>,
}

impl Roots {
    /// The system's, and those of `file` unless it is empty.
    pub fn new(file: &Path) -> Arc<Self> {
        Arc::new(Self { file: file.to_owned(), without_system: false, read: Mutex::default() })
    }

    /// Those of `file` alone.
    pub fn only(file: &Path) -> Arc<Self> {
        Arc::new(Self { file: file.to_owned(), without_system: true, read: Mutex::default() })
    }

    /// Whether both are of the same files.
    pub fn is_as(&self, other: &Self) -> bool {
        self.file == other.file && self.without_system == other.without_system
    }

    /// The authorities, or why there are none.
    pub async fn get(self: &Arc<Self>) -> Read {
        if let Some((at, read)) = &*self.read.lock() {
            let believed = if read.is_ok() { BELIEVED } else { Duration::from_secs(30) };
            if at.elapsed() < believed {
                return read.clone();
            }
        }
        let own = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || own.load()).await;
        let read = read.unwrap_or_else(|_| Err("they could not be read".into()));
        *self.read.lock() = Some((Instant::now(), read.clone()));
        read
    }

    /// What makes a TLS connection to a host that one of them vouches for, or why that cannot be had.
    pub async fn connector(self: &Arc<Self>) -> Result<TlsConnector, Arc<str>> {
        let roots = self.get().await?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| Arc::from(error.to_string()))?;
        Ok(TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
    }

    /// What is wrong with a file of authorities, which may be none. Blocks on the disk.
    pub fn check(file: &Path) -> Result<(), String> {
        add(file, &mut RootCertStore::empty())
    }

    fn load(&self) -> Read {
        let mut store = RootCertStore::empty();
        if !self.without_system {
            let system = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(system.certs);
        }
        add(&self.file, &mut store)?;
        if store.is_empty() {
            return Err("this machine has no trusted certificate authorities".into());
        }
        Ok(Arc::new(store))
    }
}

/// Adds the authorities of a file, unless its name is empty.
fn add(file: &Path, store: &mut RootCertStore) -> Result<(), String> {
    if file.as_os_str().is_empty() {
        return Ok(());
    }
    let text = trusted::read(file, Holds::Public).map_err(|error| error.to_string())?;
    let before = store.len();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| store.add(certificate).map_err(|error| error.to_string()));
        added.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    match store.len() > before {
        true => Ok(()),
        false => Err(format!("{}: no certificate in PEM is in it", file.display())),
    }
}
