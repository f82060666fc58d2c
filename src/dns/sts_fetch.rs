//! Finding MTA-STS policies: the TXT record, and the policy file over HTTPS (RFC 8461, 3 and 5.1).
//!
//! A fetch that takes long goes on by itself; mail is held up for [`PATIENCE`] at most and meanwhile goes by what is known.
//! A policy that is known holds until its end whatever DNS or the policy host say, save for a newer policy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use metrics::Counter;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::cache::{Cache, Timed};
use super::lookup::{FAILURE_TTL, Miss, Resolver, UNPUBLISHED_TTL};
use super::network::is_allowed;
use super::roots::Roots;
use super::settings::{Settings, StsSettings};
use super::sts::{self, MOST_OCTETS, Mode, Policy};
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

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fetch(why) => write!(f, "its policy cannot be fetched: {why}"),
            Self::Invalid => f.write_str("its policy file is no policy"),
            Self::Untrusted(why) => write!(f, "the certificate of its policy host is not good: {why}"),
        }
    }
}

/// Finds policies.
#[derive(Debug)]
pub(super) struct Finder {
    shared: Arc<Shared>,
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
    /// By the settings; none where policies are not to be looked for. Blocks on the disk.
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
        Some(Self { shared: Arc::new(shared) })
    }

    /// What is known of a domain, as [`super::lookup::ascii_name`] gives it.
    pub async fn find(&self, domain: &str) -> Answer {
        let shared = &self.shared;
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
            }
            // One that was fetched is in the store; a new look at it is due whenever somebody wants one.
            let hold = if result.is_ok() { Duration::ZERO } else { RETRY };
            Fetched { result, valid_until: self.clock.now() + hold }
        };
        self.fetched.get_or_make(&key, || self.clock.now(), make).await.result
    }

    async fn fetch(&self, domain: &str, id: &str) -> Result<Policy, Trouble> {
        let failed = |why: &dyn std::fmt::Display| Trouble::Fetch(why.to_string().into());
        let host = format!("mta-sts.{domain}");
        let stream = self.connect(&host).await?;
        let roots = self.roots.get().await.map_err(|why| failed(&why))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.clone()).map_err(|error| failed(&error))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let stream = stream.map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(why)) => Trouble::Untrusted(format!("{why:?}").into()),
            _ => failed(&error),
        })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(|error| failed(&error))?;
        let driver = tokio::spawn(connection);
        let authority = if self.port == 443 { host } else { format!("{host}:{}", self.port) };
        let request = Request::get("/.well-known/mta-sts.txt")
            .header(HOST, authority)
            .header(USER_AGENT, "hikyaku")
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(&error))?;
        let answer = sender.send_request(request).await;
        let result = match answer {
            Err(error) => Err(failed(&error)),
            // Redirects must not be followed (3.3).
            Ok(response) if response.status() != StatusCode::OK => {
                Err(failed(&format_args!("the answer is {}", response.status())))
            }
            Ok(response) if !is_text(response.headers().get(CONTENT_TYPE)) => Err(Trouble::Invalid),
            Ok(response) => {
                let body = Limited::new(response.into_body(), MOST_OCTETS).collect().await;
                body.map_err(|error| failed(&error))
                    .and_then(|body| Policy::parse(&body.to_bytes(), id).ok_or(Trouble::Invalid))
            }
        };
        driver.abort();
        result
    }

    async fn connect(&self, host: &str) -> Result<TcpStream, Trouble> {
        let failed = |why: &str| Trouble::Fetch(why.into());
        let addresses = self.resolver.addresses(host).await.addresses;
        let addresses = addresses.map_err(|_| failed("the policy host has no address"))?;
        let mut last = failed("the policy host has no public address");
        for address in addresses.iter().filter(|address| is_allowed(**address, &self.allow_networks)).take(4) {
            let connecting = TcpStream::connect(SocketAddr::new(*address, self.port));
            match tokio::time::timeout(FETCH / 4, connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = failed(&format!("cannot connect to its host: {error}")),
                Err(_) => last = failed("its host does not answer"),
            }
        }
        Err(last)
    }
}

/// RFC 8461, 3.2: text/plain, whatever its parameters.
fn is_text(kind: Option<&hyper::header::HeaderValue>) -> bool {
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/plain")
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
