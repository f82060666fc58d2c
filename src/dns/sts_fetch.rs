//! Finding MTA-STS policies: the TXT record, and the policy file over HTTPS (RFC 8461, 3 and 5.1).
//!
//! A fetch that takes long goes on by itself; mail is held up for [`PATIENCE`] at most and meanwhile goes by what is known.
//! A policy that is known holds until its end whatever DNS or the policy host say, save for a newer policy.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::Bytes;
use metrics::Counter;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::cache::{Cache, Timed};
use super::https::{self, Https};
use super::lookup::{FAILURE_TTL, Miss, Resolver, UNPUBLISHED_TTL};
use super::roots::Roots;
use super::settings::{Settings, StsSettings};
use super::sts::{self, Mode, Policy};
use super::sts_store::{Known, Store};
use crate::clock::Clock;
use crate::config::units::Network;
use crate::metrics::Registry;

/// How long mail waits for a fetch.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a fetch takes at most (RFC 8461, 3.3: one minute).
const FETCH: Duration = Duration::from_secs(60);
/// Fetches under way at once.
const MOST_FETCHES: usize = 32;
/// How long a fetch that failed is not repeated (RFC 8461, 3.3: five minutes).
const RETRY: Duration = Duration::from_secs(300);
/// A policy is fetched again after so long, even if its id is the same (RFC 8461, 3.3: daily).
const REFRESH: u32 = 86_400;
/// How often it is looked which policies are due.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
/// Domains with a fetch that is remembered to have failed.
const FAILURES: usize = 10_000;

/// What came of a fetch.
#[derive(Clone, Debug)]
struct Fetched {
    /// Why there is no policy.
    result: Result<Known, Trouble>,
    valid_until: Instant,
}

impl Timed for Fetched {
    fn valid_until(&self) -> Instant {
        self.valid_until
    }
}

/// Why a policy that is announced cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It cannot be fetched (`sts-policy-fetch-error`).
    Fetch(Arc<str>),
    /// It is none (`sts-policy-invalid`).
    Invalid,
    /// The certificate of its host is not good (`sts-webpki-invalid`).
    Untrusted(Arc<str>),
}

impl Trouble {
    /// As RFC 8460, 4.3 names it.
    const fn result_type(&self) -> &'static str {
        match self {
            Self::Fetch(_) => "sts-policy-fetch-error",
            Self::Invalid => "sts-policy-invalid",
            Self::Untrusted(_) => "sts-webpki-invalid",
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fetch(why) => write!(f, "its policy cannot be fetched: {why}"),
            Self::Invalid => f.write_str("its policy file is no policy"),
            Self::Untrusted(why) => write!(f, "the certificate of its policy host is not good: {why}"),
        }
    }
}

/// Finds policies, and looks at those that are known every day.
#[derive(Debug)]
pub(super) struct Finder {
    shared: Arc<Shared>,
    /// Ends with it.
    refreshing: AbortHandle,
}

impl Drop for Finder {
    fn drop(&mut self) {
        self.refreshing.abort();
    }
}

#[derive(Debug)]
struct Shared {
    resolver: Arc<Resolver>,
    store: Arc<Store>,
    roots: Arc<Roots>,
    port: u16,
    allow_networks: Vec<Network>,
    fetches: Semaphore,
    /// By domain and id.
    fetched: Cache<Fetched>,
    clock: Clock,
    metrics: Metrics,
}

struct Metrics {
    fetched: Counter,
    failed: Counter,
    invalid: Counter,
    untrusted: Counter,
}

/// What is known of a domain's policy.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// The policy that holds, if any; never one of mode `none`.
    pub policy: Option<Arc<Policy>>,
    /// How long this may be believed.
    pub hold: Duration,
    /// Why there is none, or none that is new.
    pub trouble: Option<Trouble>,
}

impl Finder {
    /// By the settings; none where policies are not to be looked for. Blocks on the disk. Must be made inside a Tokio runtime.
    pub fn new(settings: &Settings, resolver: &Arc<Resolver>, clock: Clock, registry: &Registry) -> Option<Self> {
        let StsSettings { port, roots, keeper } = settings.sts.as_ref()?;
        let shared = Shared {
            resolver: Arc::clone(resolver),
            store: Store::open(Arc::clone(keeper), clock),
            roots: Arc::clone(roots),
            port: *port,
            allow_networks: settings.allow_networks.clone(),
            fetches: Semaphore::new(MOST_FETCHES),
            fetched: Cache::new(FAILURES),
            clock,
            metrics: Metrics::new(registry),
        };
        let shared = Arc::new(shared);
        let refreshing = tokio::spawn(refresh(Arc::downgrade(&shared))).abort_handle();
        Some(Self { shared, refreshing })
    }

    /// What is known of a domain, as [`super::lookup::ascii_name`] gives it.
    pub async fn find(&self, domain: &str) -> Answer {
        look(&self.shared, domain).await
    }
}

/// What is known of a domain, after a look at its TXT record, and a fetch if that is due.
async fn look(shared: &Arc<Shared>, domain: &str) -> Answer {
    let known = shared.store.get(domain);
    let texts = tokio::time::timeout(PATIENCE, shared.resolver.texts(&format!("_mta-sts.{domain}"))).await;
    let id = match texts {
        Ok(Ok(records)) => sts::id_of(&records),
        Ok(Err((Miss::NoName | Miss::NoRecord, _))) => None,
        // Nothing new can be said; soon it may.
        Ok(Err((Miss::Failure(_), _))) | Err(_) => return shared.by(known, None, RETRY),
    };
    let Some(id) = id else { return shared.by(known, None, UNPUBLISHED_TTL) };
    if let Some(known) = &known
        && *known.policy.id == *id
        && shared.clock.wall().0.saturating_sub(known.fetched) < REFRESH
    {
        return shared.by(Some(known.clone()), None, Duration::from_secs(REFRESH.into()));
    }
    let (own, name) = (Arc::clone(shared), domain.to_owned());
    let fetch = tokio::spawn(async move { own.fetched(&name, &id).await });
    match tokio::time::timeout(PATIENCE, fetch).await {
        Ok(Ok(Ok(fresh))) => shared.by(Some(fresh), None, Duration::from_secs(REFRESH.into())),
        Ok(Ok(Err(trouble))) => shared.by(known, Some(trouble), RETRY),
        Ok(Err(_)) | Err(_) => shared.by(known, Some(Trouble::Fetch("it takes long".into())), FAILURE_TTL),
    }
}

/// Looks at every policy a day after it was fetched, so that none ends while nobody sends (RFC 8461, 10.2). Holds nothing in
/// between: the store keeps the spool's lock, which a stop gives back.
async fn refresh(shared: Weak<Shared>) {
    loop {
        let Some(domains) = shared.upgrade().map(|shared| shared.store.older_than(REFRESH)) else { return };
        for domain in domains {
            let Some(shared) = shared.upgrade() else { return };
            look(&shared, &domain).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Finder {
    /// POST of a TLS report; what the host answered is in the error.
    pub async fn post(&self, uri: &str, kind: &'static str, body: Bytes) -> Result<(), String> {
        let https = self.shared.https();
        let answer = tokio::time::timeout(FETCH, https.post(uri, kind, body)).await;
        match answer {
            Ok(Ok(answer)) if answer.status.is_success() => Ok(()),
            Ok(Ok(answer)) => Err(format!("the answer is {}", answer.status)),
            Ok(Err(https::Trouble::Failed(why) | https::Trouble::Untrusted(why))) => Err(why.to_string()),
            Err(_) => Err("the host does not answer".to_owned()),
        }
    }
}

impl Shared {
    fn by(&self, known: Option<Known>, trouble: Option<Trouble>, hold: Duration) -> Answer {
        let left = known.as_ref().map(|known| known.left(self.clock.wall()));
        let policy = known.map(|known| known.policy).filter(|policy| policy.mode != Mode::None);
        Answer { policy, hold: left.map_or(hold, |left| left.min(hold)), trouble }
    }

    /// The policy of this id: fetched once, however many ask; a failure is remembered for a while.
    async fn fetched(&self, domain: &str, id: &str) -> Result<Known, Trouble> {
        let key = format!("{domain} {id}");
        let make = |_| async {
            let fetch = async {
                let _permit = self.fetches.acquire().await.ok();
                self.fetch(domain, id).await
            };
            let late = || Err(Trouble::Fetch("the policy host does not answer".into()));
            let result = tokio::time::timeout(FETCH, fetch).await.unwrap_or_else(|_| late());
            self.metrics.count(&result);
            let result = result.map(|policy| self.store.put(domain, policy));
            if let Err(trouble) = &result {
                tracing::info!(domain, %trouble, "no MTA-STS policy although there is an id");
                self.store.failed(domain, trouble.result_type(), &trouble.to_string());
            }
            // One that was fetched is in the store; a new look at it is due whenever somebody wants one.
            let hold = if result.is_ok() { Duration::ZERO } else { RETRY };
            Fetched { result, valid_until: self.clock.now() + hold }
        };
        self.fetched.get_or_make(&key, || self.clock.now(), make).await.result
    }

    async fn fetch(&self, domain: &str, id: &str) -> Result<Policy, Trouble> {
        let https = self.https();
        let answer = https.get(&format!("mta-sts.{domain}"), self.port, "/.well-known/mta-sts.txt").await;
        let answer = answer.map_err(|trouble| match trouble {
            https::Trouble::Failed(why) => Trouble::Fetch(why),
            https::Trouble::Untrusted(why) => Trouble::Untrusted(why),
        })?;
        // Redirects must not be followed (3.3).
        if answer.status != StatusCode::OK {
            return Err(Trouble::Fetch(format!("the answer is {}", answer.status).into()));
        }
        // 3.2: text/plain, whatever its parameters.
        if answer.kind != "text/plain" {
            return Err(Trouble::Invalid);
        }
        Policy::parse(&answer.body, id).ok_or(Trouble::Invalid)
    }

    fn https(&self) -> Https<'_> {
        Https { resolver: &self.resolver, roots: &self.roots, allow_networks: &self.allow_networks }
    }
}

impl Metrics {
    fn new(registry: &Registry) -> Self {
        let fetches = |result| {
            let help = "Fetches of MTA-STS policies, by result.";
            registry.counter("hikyaku_tls_sts_fetches_total", help, &[("result", result)])
        };
        Self {
            fetched: fetches("fetched"),
            failed: fetches("failure"),
            invalid: fetches("invalid"),
            untrusted: fetches("untrusted"),
        }
    }

    fn count(&self, result: &Result<Policy, Trouble>) {
        let counter = match result {
            Ok(_) => &self.fetched,
            Err(Trouble::Fetch(_)) => &self.failed,
            Err(Trouble::Invalid) => &self.invalid,
            Err(Trouble::Untrusted(_)) => &self.untrusted,
        };
        counter.increment(1);
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
