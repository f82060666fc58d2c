//! DNS look-ups by hickory: MX records and addresses, with our own TTL rules and cache of host addresses.
//!
//! Names are asked as fully qualified ones, so no search domain is ever appended and `/etc/hosts` is not read. hickory's
//! own cache is off: it would hide a TTL with the top bit set, and whole plans and host addresses are cached here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};
use metrics::{Counter, Gauge, Histogram};
use tokio::sync::Semaphore;

use super::cache::{Cache, Timed};
use super::mx::{self, MxAnswer};
use super::settings::{Families, Settings};
use crate::clock::Clock;
use crate::metrics::Registry;

/// Shortest time an answer is kept, whatever its TTL: one question in 30 s for a domain is the most we ask.
pub const LEAST_TTL: Duration = Duration::from_secs(30);
/// Longest time an answer is kept.
pub const MOST_TTL: Duration = Duration::from_secs(86_400);
/// Longest time that "there is none" is believed.
pub const NEGATIVE_TTL: Duration = Duration::from_secs(300);
/// How long it is believed that a domain publishes nothing of TLS. Longer than other negative answers: nothing fails by it,
/// and it is so of most domains, whose plans would otherwise have to be made anew every five minutes.
pub const UNPUBLISHED_TTL: Duration = Duration::from_secs(3_600);
/// How long a failed look-up is not repeated.
pub const FAILURE_TTL: Duration = Duration::from_secs(30);
/// Queries under way at once: each has a UDP socket of its own. More than the queue's slow look-ups, so that resolvers that
/// do not answer cannot take all of them.
const MOST_QUERIES: usize = 1_536;
/// Addresses kept of one host; a plan uses at most 20 in all.
const MOST_HOST_ADDRESSES: usize = 32;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// NXDOMAIN: the name does not exist.
    NoName,
    /// The name exists without such a record.
    NoRecord,
    /// Nothing can be said now.
    Failure(Failure),
}

/// What went wrong in a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// SERVFAIL, REFUSED or another error from the resolver; CNAME loops come as one of these too.
    Server,
    /// No answer in time.
    Timeout,
    /// No resolver could be talked to, or its answer could not be read.
    Unreachable,
    /// CNAMEs that lead round in a circle, or through too many names.
    Loop,
    /// Its signatures are wrong or missing (RFC 4035, 4.3).
    Bogus,
}

impl Failure {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "the resolver reported a failure",
            Self::Timeout => "the resolver did not answer in time",
            Self::Unreachable => "no resolver could be reached",
            Self::Loop => "its aliases (CNAME) lead nowhere",
            Self::Bogus => "its DNSSEC signatures are wrong or missing",
        }
    }
}

/// The addresses of a host, or why there are none.
#[derive(Clone, Debug)]
pub struct HostAnswer {
    /// The host, as the cache keeps it.
    pub name: Arc<str>,
    /// IPv6 and IPv4 in turn, so that both families are among the first.
    pub addresses: Result<Arc<[IpAddr]>, Miss>,
    /// When it must be asked again.
    pub valid_until: Instant,
}

impl Timed for HostAnswer {
    fn valid_until(&self) -> Instant {
        self.valid_until
    }
}

struct Metrics {
    found: Counter,
    no_name: Counter,
    no_record: Counter,
    failed: Counter,
    timed_out: Counter,
    seconds: Histogram,
    hosts: Gauge,
}

/// Asks the resolvers.
pub struct Resolver {
    hickory: TokioResolver,
    families: Families,
    /// Bound on one query with all its attempts, in case hickory's own bounds do not hold.
    patience: Duration,
    permits: Semaphore,
    hosts: Cache<HostAnswer>,
    clock: Clock,
    metrics: Metrics,
}

impl Resolver {
    /// A resolver by the settings; reads `/etc/resolv.conf` when they name none.
    pub fn new(settings: &Settings, clock: Clock, registry: &Registry) -> Result<Self, NetError> {
        let (builder, patience) = resolver_builder(settings);
        Ok(Self {
            hickory: builder.build()?,
            families: settings.families,
            patience,
            permits: Semaphore::new(MOST_QUERIES),
            hosts: Cache::new(settings.hosts_remembered()),
            clock,
            metrics: Metrics::new(registry),
        })
    }

    /// The MX records of a domain (as [`ascii_name`] gives it) and how long they hold.
    pub async fn mx(&self, domain: &str) -> Result<(MxAnswer, Duration), (Miss, Duration)> {
        let name = name_of(domain).ok_or((Miss::NoName, NEGATIVE_TTL))?;
        mx_of(self.query(&name, RecordType::MX).await?.answers())
    }

    /// The TXT records of a name, each with its strings joined.
    pub async fn texts(&self, name: &str) -> Result<Vec<Vec<u8>>, (Miss, Duration)> {
        let name = name_of(name).ok_or((Miss::NoName, NEGATIVE_TTL))?;
        let lookup = self.query(&name, RecordType::TXT).await?;
        let texts = lookup.answers().iter().filter_map(|record| match &record.data {
            RData::TXT(text) => Some(text.txt_data.concat()),
            _ => None,
        });
        Ok(texts.collect())
    }

    /// The host names that a name under in-addr.arpa or ip6.arpa points to, lower case, without final dots.
    pub async fn pointers(&self, name: &Name) -> Result<Vec<String>, Miss> {
        let lookup = self.query(name, RecordType::PTR).await.map_err(|(miss, _)| miss)?;
        let names = lookup.answers().iter().filter_map(|record| match &record.data {
            RData::PTR(pointer) => Some(pointer.to_ascii().trim_end_matches('.').to_ascii_lowercase()),
            _ => None,
        });
        let names: Vec<String> = names.collect();
        if names.is_empty() { Err(Miss::NoRecord) } else { Ok(names) }
    }

    /// The addresses of a host: from the cache, from a look-up under way, or asked now.
    pub async fn addresses(&self, host: &str) -> HostAnswer {
        let answer = self.hosts.get_or_make(host, || self.clock.now(), |host| self.ask_addresses(host)).await;
        self.metrics.hosts.set(gauge(self.hosts.len()));
        answer
    }

    /// How long an answer still holds.
    pub fn left(&self, answer: &HostAnswer) -> Duration {
        answer.valid_until.saturating_duration_since(self.clock.now())
    }

    async fn ask_addresses(&self, host: Arc<str>) -> HostAnswer {
        let Some(name) = name_of(&host) else {
            let valid_until = self.clock.now() + NEGATIVE_TTL;
            return HostAnswer { name: host, addresses: Err(Miss::NoName), valid_until };
        };
        let (v6, v4) = tokio::join!(
            self.family(&name, RecordType::AAAA, self.families.has_ipv6()),
            self.family(&name, RecordType::A, self.families.has_ipv4()),
        );
        let (addresses, hold) = merge(v6, v4);
        HostAnswer { name: host, addresses, valid_until: self.clock.now() + hold }
    }

    async fn family(
        &self,
        name: &Name,
        kind: RecordType,
        wanted: bool,
    ) -> Result<(Vec<IpAddr>, Duration), (Miss, Duration)> {
        if !wanted {
            return Err((Miss::NoRecord, MOST_TTL));
        }
        let lookup = self.query(name, kind).await?;
        let mut hold = MOST_TTL;
        let mut addresses = Vec::new();
        for record in lookup.answers() {
            hold = hold.min(positive(record.ttl));
            let address = match &record.data {
                RData::A(address) => IpAddr::V4(address.0),
                RData::AAAA(address) => IpAddr::V6(address.0),
                _ => continue,
            };
            if addresses.len() < MOST_HOST_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err((Miss::NoRecord, NEGATIVE_TTL)) } else { Ok((addresses, hold)) }
    }

    pub(super) async fn query(&self, name: &Name, kind: RecordType) -> Result<Lookup, (Miss, Duration)> {
        // The semaphore is never closed; were it, asking without a permit is the lesser evil.
        let _permit = self.permits.acquire().await.ok();
        let begun = self.clock.now();
        let mut result = self.raw(name, kind).await.map_err(|error| (miss(&error), error));
        if let Err(((Miss::NoRecord, _), error)) = &result
            && may_be_loop(error)
            && self.raw(name, RecordType::CNAME).await.is_ok()
        {
            result = result.map_err(|(_, error)| ((Miss::Failure(Failure::Loop), FAILURE_TTL), error));
        }
        self.metrics.seconds.record(begun.elapsed().as_secs_f64());
        let result = result.map_err(|(miss, _)| miss);
        self.metrics.count(&result);
        result
    }

    async fn raw(&self, name: &Name, kind: RecordType) -> Result<Lookup, NetError> {
        let lookup = self.hickory.lookup(name.clone(), kind);
        tokio::time::timeout(self.patience, lookup).await.unwrap_or(Err(NetError::Timeout))
    }
}

/// The name of a domain as DNS has it, with UTF-8 as A-labels (RFC 5890); `None` if it can be no name of a mail domain.
pub fn ascii_name(domain: &str) -> Option<String> {
    if domain.is_ascii() {
        let name = domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
        return mx::is_host_name(&name).then_some(name);
    }
    let name = Name::from_utf8(domain).ok()?;
    mx::host_name(&name.iter().collect::<Vec<_>>())
}

/// The MX records of an answer and how long they hold.
pub(super) fn mx_of(answers: &[Record]) -> Result<(MxAnswer, Duration), (Miss, Duration)> {
    let mut hold = MOST_TTL;
    let mut records = Vec::new();
    for record in answers {
        hold = hold.min(positive(record.ttl));
        if let RData::MX(mx) = &record.data {
            let labels = (!mx.exchange.is_root()).then(|| mx.exchange.iter().collect::<Vec<_>>());
            records.push((mx.preference, labels));
        }
    }
    if records.is_empty() {
        return Err((Miss::NoRecord, NEGATIVE_TTL));
    }
    Ok((mx::answer(records.into_iter()), hold))
}

/// What makes a resolver by the settings, and the bound on one query with all its attempts.
pub(super) fn resolver_builder(settings: &Settings) -> (ResolverBuilder<TokioRuntimeProvider>, Duration) {
    let config = ResolverConfig::from_name_servers(servers(settings));
    let attempts = settings.attempts.max(1);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options(settings.timeout, attempts);
    let rounds = u32::try_from(attempts).unwrap_or(u32::MAX);
    (builder, settings.timeout.saturating_mul(rounds).saturating_add(settings.timeout))
}

/// The resolvers of the settings.
pub(super) fn servers(settings: &Settings) -> Vec<NameServerConfig> {
    match settings.resolvers.as_slice() {
        [] => system(),
        some => some.iter().map(|at| name_server(*at)).collect(),
    }
}

/// A host name as a fully qualified one.
pub(super) fn name_of(host: &str) -> Option<Name> {
    let mut name = Name::from_ascii(host).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// How long a record holds. A TTL with the top bit set is 0 (RFC 2181, 8).
pub(super) fn positive(ttl: u32) -> Duration {
    let seconds = if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl };
    Duration::from_secs(u64::from(seconds)).clamp(LEAST_TTL, MOST_TTL)
}

pub(super) fn negative(ttl: Option<u32>) -> Duration {
    ttl.map_or(NEGATIVE_TTL, |ttl| positive(ttl).min(NEGATIVE_TTL))
}

pub(super) fn miss(error: &NetError) -> (Miss, Duration) {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            let miss = if none.response_code == ResponseCode::NXDomain { Miss::NoName } else { Miss::NoRecord };
            (miss, negative(none.negative_ttl))
        }
        NetError::Dns(_) => (Miss::Failure(Failure::Server), FAILURE_TTL),
        NetError::Timeout => (Miss::Failure(Failure::Timeout), FAILURE_TTL),
        _ => (Miss::Failure(Failure::Unreachable), FAILURE_TTL),
    }
}

/// hickory gives up on a chain of CNAMEs with "no record"; unlike a true one it then has no SOA. That must not become a
/// bounce, so the caller looks whether there is a CNAME at all.
fn may_be_loop(error: &NetError) -> bool {
    matches!(error, NetError::Dns(DnsError::NoRecordsFound(NoRecords { soa: None, .. })))
}

type Family = Result<(Vec<IpAddr>, Duration), (Miss, Duration)>;

/// Both families in turn. One that failed does not spoil what the other found, but then it is asked again soon.
fn merge(v6: Family, v4: Family) -> (Result<Arc<[IpAddr]>, Miss>, Duration) {
    match (v6, v4) {
        (Err((a, hold_a)), Err((b, hold_b))) => {
            let miss = match (a, b) {
                (Miss::Failure(_), _) => a,
                (_, Miss::Failure(_)) => b,
                // NXDOMAIN holds for every type of record (RFC 8020).
                (Miss::NoName, _) => a,
                _ => b,
            };
            (Err(miss), hold_a.min(hold_b))
        }
        (v6, v4) => {
            let hold = [&v6, &v4].map(|family| match family {
                Ok((_, hold)) => *hold,
                Err((Miss::Failure(_), hold)) => *hold,
                Err(_) => MOST_TTL,
            });
            let (v6, v4) = (v6.map(|found| found.0).unwrap_or_default(), v4.map(|found| found.0).unwrap_or_default());
            (Ok(in_turn(&v6, &v4)), hold.into_iter().min().unwrap_or(LEAST_TTL))
        }
    }
}

fn in_turn(a: &[IpAddr], b: &[IpAddr]) -> Arc<[IpAddr]> {
    let longest = a.len().max(b.len());
    (0..longest).flat_map(|n| [a.get(n), b.get(n)]).flatten().copied().collect()
}

/// The servers of `/etc/resolv.conf`, or the one on this machine if it names none (resolv.conf(5)).
fn system() -> Vec<NameServerConfig> {
    let servers = hickory_resolver::system_conf::read_system_conf().map(|(config, _)| config.name_servers().to_vec());
    servers.unwrap_or_else(|error| {
        let fallback = SocketAddr::from(([127, 0, 0, 1], 53));
        tracing::warn!(%error, %fallback, "no resolver in /etc/resolv.conf");
        vec![name_server(fallback)]
    })
}

fn name_server(at: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = at.port();
        connection
    });
    NameServerConfig::new(at.ip(), true, connections.into())
}

pub(super) fn options(timeout: Duration, attempts: usize) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = timeout;
    // hickory counts repetitions, we count attempts.
    options.attempts = attempts.saturating_sub(1);
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.positive_max_ttl = Some(Duration::from_secs(u64::from(u32::MAX)));
    options.max_active_requests = MOST_QUERIES;
    options.server_ordering_strategy = ServerOrderingStrategy::QueryStatistics;
    options
}

/// A count as a gauge's value; exact up to 2^53.
pub fn gauge(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

impl Metrics {
    fn new(registry: &Registry) -> Self {
        let lookups = |result| {
            let help = "DNS queries by result; a query with all its attempts counts once.";
            registry.counter("hikyaku_dns_lookups_total", help, &[("result", result)])
        };
        Self {
            found: lookups("found"),
            no_name: lookups("no-name"),
            no_record: lookups("no-record"),
            failed: lookups("failure"),
            timed_out: lookups("timeout"),
            seconds: registry.histogram(
                "hikyaku_dns_lookup_seconds",
                "Time of a DNS query with all its attempts.",
                &[],
            ),
            hosts: registry.gauge("hikyaku_dns_host_cache_entries", "MX hosts whose addresses are remembered.", &[]),
        }
    }

    fn count(&self, result: &Result<Lookup, (Miss, Duration)>) {
        let counter = match result {
            Ok(_) => &self.found,
            Err((Miss::NoName, _)) => &self.no_name,
            Err((Miss::NoRecord, _)) => &self.no_record,
            Err((Miss::Failure(Failure::Timeout), _)) => &self.timed_out,
            Err((Miss::Failure(_), _)) => &self.failed,
        };
        counter.increment(1);
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("families", &self.families).finish_non_exhaustive()
    }
}
