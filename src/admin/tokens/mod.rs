//! Tokens: who may use the admin interface over TCP.
//!
//! [`Tokens`] holds the file in memory and reads it again when it has changed ([`Tokens::look`]); a bad one leaves the one
//! before in force. A secret is compared in constant time; who fails must wait, longer each time, by address. A token that
//! has come in from an address is held there by nobody else's failures.

pub mod edit;
mod file;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use metrics::Counter;
use serde::Serialize;

pub use file::{FileError, Table, Token, is_name};

use crate::clock::Clock;
use crate::config::units::Network;
use crate::metrics::Registry;
use crate::trusted::watched::{Change, Content, Gauges, Reading, Watched};
use crate::users::NoRandom;
use crate::users::backoff::BackOff;

/// Tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("error", &self.error()).finish_non_exhaustive()
    }
}

struct Inner {
    clock: Clock,
    refusals: [(Refused, Counter); 5],
    file: Watched<Table>,
    /// From where the interface may be used. Written by [`Tokens::apply`].
    networks: ArcSwap<Vec<Network>>,
    backoff: BackOff,
}

/// Why a request was refused before it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It has no token.
    Missing,
    /// Nobody has its token.
    Wrong,
    /// Too many had failed from there before.
    Held,
    /// It may not come from there.
    Network,
    /// Its token's role is too low.
    Role,
}

impl Refused {
    const ALL: [Self; 5] = [Self::Missing, Self::Wrong, Self::Held, Self::Network, Self::Role];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Wrong => "wrong",
            Self::Held => "held",
            Self::Network => "network",
            Self::Role => "role",
        }
    }
}

fn refusals(registry: &Registry) -> [(Refused, Counter); 5] {
    let help = "Requests over TCP that the admin interface refused, by reason.";
    let refusal = |refused: Refused| {
        (refused, registry.counter("hikyaku_admin_refusals_total", help, &[("reason", refused.as_str())]))
    };
    Refused::ALL.map(refusal)
}

fn gauges(registry: &Registry) -> Gauges {
    let valid = "1: the tokens' file as it is now is in force, or there is none; 0: it has a mistake.";
    Gauges {
        entries: registry.gauge("hikyaku_admin_tokens", "Tokens in force.", &[]),
        is_valid: registry.gauge("hikyaku_admin_tokens_file_valid", valid, &[]),
    }
}

/// A tokens' file that has been read, to be put in force by [`Tokens::apply`].
#[derive(Debug)]
pub struct Prepared {
    reading: Reading<Table>,
    networks: Vec<Network>,
}

/// Reads a tokens' file; without one there are no tokens. Blocks on the disk.
pub fn prepare(path: Option<&Path>, networks: &[Network]) -> Result<Prepared, FileError> {
    Ok(Prepared { reading: Reading::of(path)?, networks: networks.to_vec() })
}

/// What another file has changed, by the tokens' names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// New ones.
    pub added: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
    /// With another secret, role or networks.
    pub changed: Vec<String>,
}

impl Changes {
    fn between(before: &Table, after: &Table) -> Self {
        let names = |of: &Table, is_so: &dyn Fn(&Token) -> bool| -> Vec<String> {
            of.tokens().filter(|token| is_so(token)).map(|token| token.name.to_string()).collect()
        };
        Self {
            added: names(after, &|token| before.named(&token.name).is_none()),
            removed: names(before, &|token| after.named(&token.name).is_none()),
            changed: names(after, &|token| before.named(&token.name).is_some_and(|old| old != token)),
        }
    }
}

impl Tokens {
    /// Those of a file that has been read.
    pub fn new(prepared: Prepared, clock: Clock, registry: &Registry) -> Result<Self, NoRandom> {
        let mut key = [0; 32];
        rand::fill(&mut key).map_err(|_| NoRandom)?;
        let Prepared { reading, networks } = prepared;
        let inner = Inner {
            clock,
            refusals: refusals(registry),
            file: Watched::new(reading, gauges(registry)),
            networks: ArcSwap::from_pointee(networks),
            backoff: BackOff::new(&key),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Puts a file in force that has been read.
    pub fn apply(&self, prepared: Prepared) {
        self.inner.networks.store(Arc::new(prepared.networks));
        self.inner.file.apply(prepared.reading);
    }

    /// Reads the file again if it has changed; gives what that changes. A bad one changes nothing, and is told once. Blocks
    /// on the disk.
    pub fn look(&self) -> Option<Result<Changes, String>> {
        let looked = self.inner.file.look()?;
        match &looked {
            Ok(Change { path, after, .. }) => {
                let tokens = after.entries();
                tracing::info!(path = %path.display(), tokens, "the tokens' file has been read again");
            }
            Err(error) => tracing::error!(%error, "the tokens' file cannot be used; the one before stays in force"),
        }
        Some(looked.map(|change| Changes::between(&change.before, &change.after)))
    }

    /// Why the file as it is now is not in force.
    pub fn error(&self) -> Option<String> {
        self.inner.file.error()
    }

    /// The token of a request from there, if it may come in; else why not, and for how long nothing is looked at.
    pub(super) fn prove(&self, secret: Option<&str>, client: IpAddr) -> Result<Arc<Token>, (Refused, Duration)> {
        let inner = &self.inner;
        let refused = |refused| (refused, Duration::ZERO);
        if !inner.networks.load().iter().any(|network| network.contains(client)) {
            return Err(refused(Refused::Network));
        }
        let secret = secret.ok_or(refused(Refused::Missing))?;
        let found = inner.file.load().find(secret);
        let now = inner.clock.now();
        // What nobody has counts for its address alone: under one name, everybody's mistakes would count together.
        let address;
        let name = match &found {
            Some(token) => &*token.name,
            None => {
                address = format!("({client})");
                &address
            }
        };
        if let Some(until) = inner.backoff.held_until(name, client, now) {
            return Err((Refused::Held, until - now));
        }
        let Some(token) = &found else {
            inner.backoff.failed(name, client, now);
            return Err(refused(Refused::Wrong));
        };
        if !token.may_come_from(client) {
            return Err(refused(Refused::Network));
        }
        inner.backoff.succeeded(name, client);
        Ok(Arc::clone(token))
    }

    /// Counts and logs a refusal.
    pub(super) fn refused(&self, refused: Refused, client: IpAddr, name: Option<&str>) {
        if let Some((_, counter)) = self.inner.refusals.iter().find(|(which, _)| *which == refused) {
            counter.increment(1);
        }
        // Attempts while an address must wait are counted only: they could fill the log.
        if refused != Refused::Held {
            tracing::warn!(reason = refused.as_str(), %client, token = name, "a request to the admin interface was refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::admin::Role;

    struct Case {
        _folder: tempfile::TempDir,
        path: PathBuf,
        tokens: Tokens,
        secret: String,
    }

    impl Case {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tokens");
            let networks = vec!["192.0.2.0/24".parse().unwrap()];
            let (token, secret) = Token::generate("ann", Role::Viewer, networks).unwrap();
            edit::add(&path, &token, None).unwrap();
            let prepared = prepare(Some(&path), &["192.0.0.0/16".parse().unwrap()]).unwrap();
            let tokens = Tokens::new(prepared, Clock::system(), &Registry::new().unwrap()).unwrap();
            Self { _folder: folder, path, tokens, secret }
        }

        fn refusal(&self, secret: &str, client: &str) -> Option<Refused> {
            self.tokens.prove(Some(secret), client.parse().unwrap()).err().map(|(refused, _)| refused)
        }
    }

    #[test]
    fn a_token_comes_in_from_its_networks_and_those_of_the_interface() {
        let case = Case::new();

        assert_eq!(case.refusal(&case.secret, "192.0.2.1"), None);
        assert_eq!(case.refusal(&case.secret, "192.0.3.1"), Some(Refused::Network));
        assert_eq!(case.refusal(&case.secret, "198.51.100.1"), Some(Refused::Network));
        assert_eq!(
            case.tokens.prove(None, "192.0.2.1".parse().unwrap()).err(),
            Some((Refused::Missing, Duration::ZERO))
        );
    }

    #[test]
    fn who_guesses_waits_by_address_and_keeps_nobody_out_who_was_in() {
        let case = Case::new();
        assert_eq!(case.refusal(&case.secret, "192.0.2.1"), None);

        let guesses: Vec<_> = (0..6).map(|_| case.refusal("guess", "192.0.2.1")).collect();
        (0..6).for_each(|_| assert!(case.refusal("guess", "192.0.2.2").is_some()));

        assert_eq!(guesses[..4], [Some(Refused::Wrong); 4]);
        assert_eq!(guesses[5], Some(Refused::Held));
        assert_eq!(case.refusal(&case.secret, "192.0.2.1"), None, "it came in from there before");
        assert_eq!(case.refusal(&case.secret, "192.0.2.2"), Some(Refused::Held));
        assert_eq!(case.refusal("guess", "192.0.2.3"), Some(Refused::Wrong), "another address");
    }

    #[test]
    fn a_bad_file_leaves_the_one_before_in_force_and_is_told_once() {
        let case = Case::new();
        let good = std::fs::read_to_string(&case.path).unwrap();

        std::fs::write(&case.path, "ann admin\n").unwrap();
        let (first, second) = (case.tokens.look(), case.tokens.look());
        assert!(first.unwrap().unwrap_err().contains("line 1") && second.is_none());
        assert!(case.tokens.error().is_some());
        assert_eq!(case.refusal(&case.secret, "192.0.2.1"), None);
        std::fs::write(&case.path, good.replace("viewer", "admin") + "\n# more\n").unwrap();
        std::fs::set_permissions(&case.path, std::fs::Permissions::from_mode(0o600)).unwrap();

        let changes = case.tokens.look().unwrap().unwrap();

        assert_eq!(changes, Changes { changed: vec!["ann".to_owned()], ..Changes::default() });
        assert_eq!(case.tokens.error(), None);
    }
}
