//! What `check` finds about certificates: those of `[[certificate]]`, and the authorities of clients and of receivers.

use std::path::Path;
use std::sync::Arc;

use super::Findings;
use super::files::Daemon;
use crate::clock::Clock;
use crate::config::Config;
use crate::dns::Roots;
use crate::tls::{Certificates, Clients, Files, LoadError};
use crate::trusted::{self, Holds};

/// Files that the daemon would not take: it would not start.
pub(super) fn look(config: &Config, daemon: Option<&Daemon>, found: &mut Findings) {
    let mut tell = |key: String, path: &Path, result: Result<(), LoadError>| match result {
        // Who checks is not who will read it.
        Err(LoadError::File(trusted::Error::Owner { owner, .. })) if Daemon::is_of(owner, daemon) => {}
        Err(error) => found.errors.push(format!("{key}: {error}: the daemon will not start")),
        Ok(()) => Daemon::unreadable(&key, path, daemon, found),
    };
    let now = i64::from(Clock::system().wall().0);
    let mut expired = Vec::new();
    for (index, section) in config.certificates.iter().enumerate() {
        let files = Files { chain: section.chain.clone(), key: section.key.clone() };
        let loaded = Certificates::load(vec![files]);
        expired.extend(loaded.iter().flat_map(|loaded| loaded.validities()).filter(|(_, of)| of.not_after <= now).map(
            |(files, _)| {
                format!("certificate[{index}]: {} has expired: clients will not take it", files.chain.display())
            },
        ));
        tell(format!("certificate[{index}]"), &section.key, loaded.map(drop));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let asks = |listener: &&crate::config::Listener| {
        listener.client_certificates && !listener.client_ca.as_os_str().is_empty()
    };
    for (index, listener) in config.listeners.iter().enumerate().filter(|(_, listener)| asks(listener)) {
        let path = &listener.client_ca;
        tell(format!("listener[{index}].client_ca"), path, Clients::load(Some(path), &provider).map(drop));
    }
    for (key, path) in [("delivery.tls_ca", &config.delivery.tls_ca), ("dns.trust_anchor", &config.dns.trust_anchor)] {
        if !path.as_os_str().is_empty() {
            tell(key.to_owned(), path, trusted::read(path, Holds::Public).map(drop).map_err(LoadError::File));
        }
    }
    let of_receivers = trusted::read(&config.delivery.tls_ca, Holds::Public).is_ok();
    if let Err(text) = Roots::check(&config.delivery.tls_ca)
        && of_receivers
    {
        found.errors.push(format!("delivery.tls_ca: {text}: the daemon will not start"));
    }
    found.warnings.append(&mut expired);
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{Certificate, Listener};

    #[test]
    fn certificates_and_authorities_that_the_daemon_would_refuse_are_errors_by_their_key() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        for (name, mode) in
            [("certificate.pem", 0o644), ("key.pem", 0o600), ("expired.pem", 0o644), ("mx-key.pem", 0o600)]
        {
            fs::copy(Path::new("tests/data/tls").join(name), place(name)).unwrap();
            fs::set_permissions(place(name), Permissions::from_mode(mode)).unwrap();
        }
        fs::write(place("ca.pem"), "-----BEGIN").unwrap();
        let certificate = Certificate { chain: place("certificate.pem"), key: place("key.pem") };
        let mut config = Config { certificates: vec![certificate], ..Config::default() };
        let errors = |config: &Config| {
            let mut found = Findings::default();
            look(config, None, &mut found);
            found.errors
        };
        assert_eq!(errors(&config), Vec::<String>::new());
        config.delivery.tls_ca = place("none.pem");
        config.dns.trust_anchor = place("none.key");
        let told = errors(&config);
        assert!(told[0].starts_with("delivery.tls_ca: ") && told[1].starts_with("dns.trust_anchor: "), "{told:?}");
        fs::write(place("none.pem"), "garbage").unwrap();
        config.dns.trust_anchor = "".into();
        let told = errors(&config);
        assert!(told.len() == 1 && told[0].contains("no certificate"), "{told:?}");
        config.delivery.tls_ca = "".into();
        let expired = Certificate { chain: place("expired.pem"), key: place("mx-key.pem") };
        let mut found = Findings::default();
        look(&Config { certificates: vec![expired], ..Config::default() }, None, &mut found);
        assert!(found.errors.is_empty() && found.warnings[0].contains("has expired"), "{found:?}");

        fs::set_permissions(place("key.pem"), Permissions::from_mode(0o644)).unwrap();
        config.certificates.push(Certificate { chain: place("none.pem"), key: place("key.pem") });
        let asks = Listener { client_certificates: true, client_ca: place("ca.pem"), ..Listener::default() };
        config.listeners = vec![Listener::default(), asks];
        let told = errors(&config);

        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].starts_with("certificate[0]: ") && told[0].contains("mode 0644"), "{told:?}");
        assert!(told[1].starts_with("certificate[1]: ") && told[1].contains("none.pem"), "{told:?}");
        assert!(told[2].starts_with("listener[1].client_ca: ") && told[2].contains("ca.pem"), "{told:?}");
    }
}
