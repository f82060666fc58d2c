//! Certificates while the daemon runs: read again when their files change, and told of when they end.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::Gauge;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Registry;
use crate::submission;
use crate::tls::{Acceptor, Certificates, Clients, Files, LoadError};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// A certificate that ends sooner is told of: Let's Encrypt's are renewed 30 days before their end.
const SOON: i64 = 14 * 86_400;

/// Those of a configuration; the ones before if their files are the same. Blocks on the disk.
pub(super) fn load(config: &Config, before: Option<&Arc<Certificates>>) -> Result<Arc<Certificates>, LoadError> {
    let files: Vec<Files> =
        config.certificates.iter().map(|it| Files { chain: it.chain.clone(), key: it.key.clone() }).collect();
    match before.filter(|before| before.is_of(&files)) {
        Some(before) => before.refresh().map(|_| Arc::clone(before)),
        None => Certificates::load(files),
    }
}

/// TLS of the admin interface, if it has some.
pub(super) fn of_admin(config: &Config, certificates: &Arc<Certificates>) -> Result<Option<Arc<Acceptor>>, LoadError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let acceptor = config.admin.tls.then(|| Acceptor::new(Arc::clone(certificates), provider, None)).transpose()?;
    Ok(acceptor.map(Arc::new))
}

/// TLS of each listener, in the order of the configuration. Blocks on the disk.
pub(super) fn of_listeners(
    config: &Config,
    certificates: &Arc<Certificates>,
) -> Result<Vec<Option<submission::Tls>>, LoadError> {
    use crate::config::ListenerTls;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = config.listeners.iter().map(|section| {
        let mode = match section.tls {
            ListenerTls::None => return Ok(None),
            ListenerTls::Starttls => submission::TlsMode::Offered,
            ListenerTls::Required => submission::TlsMode::Required,
            ListenerTls::Implicit => submission::TlsMode::Implicit,
        };
        let authorities = Some(section.client_ca.as_path()).filter(|path| !path.as_os_str().is_empty());
        let clients = section.client_certificates.then(|| Clients::load(authorities, &provider)).transpose()?;
        let acceptor = Arc::new(Acceptor::new(Arc::clone(certificates), Arc::clone(&provider), clients)?);
        Ok(Some(submission::Tls { acceptor, mode }))
    });
    tls.collect()
}

/// What watches them.
pub(super) struct Watch {
    /// Written by reloads.
    pub certificates: Arc<ArcSwap<Certificates>>,
    /// What is wrong, for `hikyaku status`.
    pub troubles: Arc<Mutex<Vec<String>>>,
    pub clock: Clock,
    not_after: Gauge,
    failed: Gauge,
}

impl Watch {
    /// Registers the metrics.
    pub fn new(
        certificates: Arc<ArcSwap<Certificates>>,
        troubles: Arc<Mutex<Vec<String>>>,
        clock: Clock,
        registry: &Registry,
    ) -> Self {
        let ends = "When the first of the certificates ends; 0: there is none.";
        let fails = "1: a certificate that changed on disk could not be read; the one before is in use.";
        let not_after = registry.gauge("hikyaku_tls_certificate_not_after_timestamp_seconds", ends, &[]);
        let failed = registry.gauge("hikyaku_tls_certificate_reload_failed", fails, &[]);
        Self { certificates, troubles, clock, not_after, failed }
    }

    /// Looks until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut told = None;
        loop {
            let certificates = self.certificates.load_full();
            let looked_at = Arc::clone(&certificates);
            let refreshed = tokio::task::spawn_blocking(move || looked_at.refresh()).await;
            let failure = match refreshed {
                Ok(Ok(true)) => {
                    info!("certificates changed on disk; new handshakes use them");
                    None
                }
                Ok(Ok(false)) | Err(_) => None,
                Ok(Err(error)) => Some(error.to_string()),
            };
            if failure.is_some() && failure != told {
                warn!(error = failure, "a certificate cannot be read again; the one before stays in use");
            }
            self.show(&certificates, failure.as_deref());
            told = failure;
            if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                return;
            }
        }
    }

    fn show(&self, certificates: &Certificates, failure: Option<&str>) {
        let now = i64::from(self.clock.wall().0);
        let validities = certificates.validities();
        let first = validities.iter().map(|(_, validity)| validity.not_after).min().unwrap_or_default();
        self.not_after.set(first as f64);
        self.failed.set(if failure.is_some() { 1.0 } else { 0.0 });
        let mut troubles: Vec<String> =
            failure.map(|text| format!("a certificate cannot be read again: {text}")).into_iter().collect();
        for (files, validity) in validities {
            let chain = files.chain.display();
            if validity.not_after <= now {
                troubles.push(format!("the certificate in {chain} has ended"));
            } else if validity.not_before > now {
                troubles.push(format!("the certificate in {chain} does not hold yet"));
            } else if validity.not_after - now < SOON {
                troubles.push(format!("the certificate in {chain} ends in {} h", (validity.not_after - now) / 3_600));
            }
        }
        *self.troubles.lock() = troubles;
    }
}
