//! TLS of all that listens, and its certificates while the daemon runs: read again when their files change, and told of when
//! they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::Gauge;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::{Config, ListenerTls};
use crate::metrics::Registry;
use crate::submission;
use crate::tls::{Acceptor, Certificates, Clients, Files, LoadError};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// A certificate that ends sooner is told of: Let's Encrypt's are renewed 30 days before their end.
const SOON: i64 = 14 * 86_400;

/// TLS of everything that listens.
#[derive(Clone, Debug)]
pub(super) struct Acceptors {
    certificates: Arc<Certificates>,
    /// Of each listener, in the order of the configuration, with the address that is configured.
    listeners: Vec<(SocketAddr, Option<submission::Tls>)>,
    /// Of the admin interface, if it has some.
    admin: Option<Arc<Acceptor>>,
    /// Of the listener of `[unsubscribe]`, if that has some.
    unsubscribe: Option<Arc<Acceptor>>,
}

impl Acceptors {
    /// Those of a configuration. What is the same `before` is kept: tickets and sessions that clients have stay good. Blocks
    /// on the disk.
    pub fn of(config: &Config, before: Option<&Self>) -> Result<Self, LoadError> {
        let certificates = certificates(config, before)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let make = |old: Option<Arc<Acceptor>>, clients: Option<Clients>| match old
            .filter(|old| old.is_of(&certificates, clients.as_ref()))
        {
            Some(old) => Ok(old),
            None => Acceptor::new(Arc::clone(&certificates), Arc::clone(&provider), clients).map(Arc::new),
        };
        // As listeners are told: by their address, those of one address in their order.
        let mut kept = before.map(|before| before.listeners.clone()).unwrap_or_default();
        let listeners = config.listeners.iter().map(|section| {
            let old = kept.iter().position(|(address, _)| *address == section.address);
            let old = old.and_then(|place| kept.remove(place).1);
            let Some(mode) = mode(section.tls) else { return Ok((section.address, None)) };
            let authorities = Some(section.client_ca.as_path()).filter(|path| !path.as_os_str().is_empty());
            let clients = section.client_certificates.then(|| Clients::load(authorities, &provider)).transpose()?;
            let acceptor = make(old.map(|tls| tls.acceptor), clients)?;
            Ok((section.address, Some(submission::Tls { acceptor, mode })))
        });
        let listeners = listeners.collect::<Result<_, LoadError>>()?;
        let admin = before.and_then(|before| before.admin.clone());
        let admin = config.admin.tls.then(|| make(admin, None)).transpose()?;
        let unsubscribe = before.and_then(|before| before.unsubscribe.clone());
        let has_tls = config.unsubscribe.tls && !config.unsubscribe.listen.is_empty();
        let unsubscribe = has_tls.then(|| make(unsubscribe, None)).transpose()?;
        Ok(Self { certificates, listeners, admin, unsubscribe })
    }

    /// Of each listener, in the order of the configuration.
    pub fn of_listeners(&self) -> Vec<Option<submission::Tls>> {
        self.listeners.iter().map(|(_, tls)| tls.clone()).collect()
    }

    /// Of the admin interface, if it has some.
    pub fn of_admin(&self) -> Option<Arc<Acceptor>> {
        self.admin.clone()
    }

    /// Of the listener of `[unsubscribe]`, if that has some.
    pub fn of_unsubscribe(&self) -> Option<Arc<Acceptor>> {
        self.unsubscribe.clone()
    }

    /// Whether every listener has what it has in `other`, the configuration being the same: no file of authorities is
    /// another one.
    pub fn is_as(&self, other: &Self) -> bool {
        let acceptor =
            |(_, tls): &(SocketAddr, Option<submission::Tls>)| tls.as_ref().map(|tls| Arc::as_ptr(&tls.acceptor));
        self.listeners.iter().map(acceptor).eq(other.listeners.iter().map(acceptor))
    }
}

/// The ones before if their files are the same.
fn certificates(config: &Config, before: Option<&Acceptors>) -> Result<Arc<Certificates>, LoadError> {
    let files: Vec<Files> =
        config.certificates.iter().map(|it| Files { chain: it.chain.clone(), key: it.key.clone() }).collect();
    match before.map(|before| &before.certificates).filter(|before| before.is_of(&files)) {
        Some(before) => before.refresh().1.into_iter().next().map_or(Ok(Arc::clone(before)), Err),
        None => Certificates::load(files),
    }
}

fn mode(tls: ListenerTls) -> Option<submission::TlsMode> {
    match tls {
        ListenerTls::None => None,
        ListenerTls::Starttls => Some(submission::TlsMode::Offered),
        ListenerTls::Required => Some(submission::TlsMode::Required),
        ListenerTls::Implicit => Some(submission::TlsMode::Implicit),
    }
}

/// What watches them.
pub(super) struct Watch {
    /// Written by reloads.
    pub acceptors: Arc<ArcSwap<Acceptors>>,
    /// What is wrong, for `hikyaku status`.
    pub troubles: Arc<Mutex<Vec<String>>>,
    pub clock: Clock,
    not_after: Gauge,
    failed: Gauge,
}

impl Watch {
    /// Registers the metrics.
    pub fn new(
        acceptors: Arc<ArcSwap<Acceptors>>,
        troubles: Arc<Mutex<Vec<String>>>,
        clock: Clock,
        registry: &Registry,
    ) -> Self {
        let ends = "When the first of the certificates ends; 0: there is none.";
        let fails = "1: a certificate that changed on disk could not be read; the one before is in use.";
        let not_after = registry.gauge("hikyaku_tls_certificate_not_after_timestamp_seconds", ends, &[]);
        let failed = registry.gauge("hikyaku_tls_certificate_reload_failed", fails, &[]);
        Self { acceptors, troubles, clock, not_after, failed }
    }

    /// Looks until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut told = None;
        loop {
            let certificates = Arc::clone(&self.acceptors.load().certificates);
            let looked_at = Arc::clone(&certificates);
            let refreshed = tokio::task::spawn_blocking(move || looked_at.refresh()).await;
            let (read, errors) = refreshed.unwrap_or_default();
            if read > 0 {
                info!(certificates = read, "certificates changed on disk; new handshakes use them");
            }
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let failure = (!errors.is_empty()).then(|| errors.join("; "));
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

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::config::{Certificate, Listener};

    /// Two listeners, the second of which asks for certificates of clients, and the admin interface.
    fn config(folder: &Path) -> Config {
        for (from, mode) in [("certificate.pem", 0o644), ("key.pem", 0o600)] {
            fs::copy(Path::new("tests/data/tls").join(from), folder.join(from)).unwrap();
            fs::set_permissions(folder.join(from), Permissions::from_mode(mode)).unwrap();
        }
        fs::copy(folder.join("certificate.pem"), folder.join("ca.pem")).unwrap();
        let listener = |port, client_certificates| Listener {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            tls: ListenerTls::Starttls,
            client_certificates,
            client_ca: if client_certificates { folder.join("ca.pem") } else { Default::default() },
            ..Listener::default()
        };
        let certificate = Certificate { chain: folder.join("certificate.pem"), key: folder.join("key.pem") };
        let mut config = Config {
            listeners: vec![listener(25, false), listener(587, true)],
            certificates: vec![certificate],
            ..Config::default()
        };
        config.admin.tls = true;
        config
    }

    fn places(acceptors: &Acceptors) -> Vec<*const Acceptor> {
        let listeners = acceptors.of_listeners().into_iter().map(|tls| tls.unwrap().acceptor);
        listeners.chain(acceptors.of_admin()).map(|acceptor| Arc::as_ptr(&acceptor)).collect()
    }

    #[test]
    fn what_is_the_same_after_a_reload_is_kept_by_address() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        let first = Acceptors::of(&config, None).unwrap();

        let same = Acceptors::of(&config, Some(&first)).unwrap();
        config.listeners.reverse();
        config.listeners[1].tls = ListenerTls::Required;
        let turned = Acceptors::of(&config, Some(&first)).unwrap();
        fs::write(folder.path().join("ca.pem"), fs::read(folder.path().join("ca.pem")).unwrap().repeat(2)).unwrap();
        let other_authorities = Acceptors::of(&config, Some(&turned)).unwrap();
        config.certificates.push(config.certificates[0].clone());
        let other_certificates = Acceptors::of(&config, Some(&first)).unwrap();

        let (before, after) = (places(&first), places(&turned));
        assert!(places(&same) == before && same.is_as(&first));
        assert_eq!(after, [before[1], before[0], before[2]]);
        let authorities = places(&other_authorities);
        assert!(authorities[0] != after[0] && authorities[1..] == after[1..], "only the listener that has authorities");
        assert!(!other_authorities.is_as(&turned));
        assert!(places(&other_certificates).iter().all(|place| !before.contains(place)));
    }
}
