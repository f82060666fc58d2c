//! Finds the next hop of a domain: route, address literal, or MX records and addresses (RFC 5321, 5.1).
//!
//! | DNS says | outcome |
//! |---|---|
//! | MX records | hosts by preference, at most 20 addresses; hosts without usable name or address are passed over |
//! | no MX, but addresses | the domain itself is the MX host |
//! | null MX | 5.1.10 (RFC 7505) |
//! | NXDOMAIN; neither MX nor address | 5.1.2 |
//! | we ourselves are the best MX host left | 5.4.6 |
//! | MX hosts, none with an address that may be used | 5.4.4 |
//! | SERVFAIL, no answer, a loop of CNAMEs, and no host could be found otherwise | 4.4.3 |

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::lookup::{FAILURE_TTL, Failure, HostAnswer, LEAST_TTL, MOST_TTL, Miss, NEGATIVE_TTL, Resolver, ascii_name};
use super::mx::{self, Mx, MxAnswer};
use super::network::is_allowed;
use super::security::{HostDane, Security};
use super::settings::{Host, NextHop, Settings};
use super::validate::Validator;
use super::{Error, MxHost, MxProof, TlsPolicy, Transport, sts_fetch};
use crate::clock::Clock;
use crate::metrics::Registry;
use crate::provider::Map;
use crate::provider::pattern::Patterns;
use crate::smtp::status::Status;

/// MX hosts whose addresses are looked up for one plan: enough for 20 addresses when some hosts have none.
const MOST_HOSTS: usize = 50;
/// MX hosts looked up at once for one plan.
const HOSTS_AT_ONCE: usize = 10;

/// Why a domain has no plan. The numbers are those of RFC 3463 and RFC 7505.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// 5.1.2: the domain does not exist or has no address.
    NoDomain,
    /// 5.1.10: null MX.
    NullMx,
    /// 5.4.4: MX hosts without an address that may be used.
    NoRoute,
    /// 5.4.6: mail would come back to us.
    Loop,
    /// 4.4.3: the resolver failed.
    Failure,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::NoDomain, Self::NullMx, Self::NoRoute, Self::Loop, Self::Failure];

    /// As metrics show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoDomain => "no-domain",
            Self::NullMx => "null-mx",
            Self::NoRoute => "no-route",
            Self::Loop => "loop",
            Self::Failure => "failure",
        }
    }

    const fn status(self) -> Status {
        match self {
            Self::NoDomain => Status::new(5, 1, 2),
            Self::NullMx => Status::new(5, 1, 10),
            Self::NoRoute => Status::new(5, 4, 4),
            Self::Loop => Status::new(5, 4, 6),
            Self::Failure => Status::new(4, 4, 3),
        }
    }
}

/// A domain without a next hop.
#[derive(Debug)]
pub struct Failed {
    /// Why, for metrics.
    pub cause: Cause,
    /// Why, for the outcome.
    pub status: Status,
    /// Why, for people. Holds no name from a DNS answer.
    pub text: String,
    /// How long this holds.
    pub hold: Duration,
}

impl Failed {
    fn new(cause: Cause, text: impl Into<String>, hold: Duration) -> Self {
        Self { cause, status: cause.status(), text: text.into(), hold }
    }

    /// The look-up took longer than the caller would wait.
    pub fn late() -> Self {
        Self::look_up("the domain", Failure::Timeout)
    }

    fn look_up(what: &str, failure: Failure) -> Self {
        Self::new(Cause::Failure, format!("looking up {what}: {}", failure.as_str()), FAILURE_TTL)
    }
}

/// A next hop: a plan but for its domain.
#[derive(Debug)]
pub struct Next {
    /// Names of the MX hosts.
    pub mx_set: Arc<str>,
    /// What limits apply to.
    pub site: Arc<str>,
    /// Whom to dial, in order.
    pub hosts: Box<[MxHost]>,
    /// Where.
    pub port: u16,
    /// How.
    pub transport: Transport,
    /// How long this holds.
    pub hold: Duration,
    /// The MX records are secure, so that DANE may be used with the hosts that they name.
    pub is_secure: bool,
}

/// Finds next hops; remembers addresses of hosts, not plans.
#[derive(Debug)]
pub struct Finder {
    routes: Patterns<NextHop>,
    providers: Map,
    resolver: Arc<Resolver>,
    validator: Option<Arc<Validator>>,
    sts: Option<Arc<sts_fetch::Finder>>,
    settings: Settings,
}

impl Finder {
    /// A finder by the settings.
    pub fn new(settings: Settings, clock: Clock, registry: &Registry) -> Result<Self, Error> {
        let resolver = Resolver::new(&settings, clock, registry).map_err(|error| Error::Resolver(error.to_string()))?;
        let resolver = Arc::new(resolver);
        let validator = Validator::new(&settings, clock, registry).map_err(Error::Dnssec)?.map(Arc::new);
        let sts = sts_fetch::Finder::new(&settings, &resolver, clock, registry).map(Arc::new);
        Self::with(settings, resolver, validator, sts)
    }

    /// A finder by other settings that asks the same resolver, whose answers stay good.
    pub fn followed_by(&self, settings: Settings) -> Result<Self, Error> {
        Self::with(settings, self.resolver.clone(), self.validator.clone(), self.sts.clone())
    }

    fn with(
        mut settings: Settings,
        resolver: Arc<Resolver>,
        validator: Option<Arc<Validator>>,
        sts: Option<Arc<sts_fetch::Finder>>,
    ) -> Result<Self, Error> {
        let mut routes = Patterns::default();
        for route in std::mem::take(&mut settings.routes) {
            routes.insert(&route.pattern, route.next_hop)?;
        }
        for name in &mut settings.own_names {
            *name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        }
        Ok(Self { routes, providers: Map::built_in()?, resolver, validator, sts, settings })
    }

    /// The next hop of a domain; its MX records are validated if it matters whether they are secure.
    pub async fn find(&self, domain: &str, is_validated: bool) -> Result<Next, Failed> {
        if let Some(next_hop) = self.routes.find(domain) {
            return self.by_route(next_hop).await;
        }
        if let Some(address) = literal(domain) {
            return self.by_literal(domain, address);
        }
        let invalid = || Failed::new(Cause::NoDomain, "not a domain name", NEGATIVE_TTL);
        let name = ascii_name(domain).ok_or_else(invalid)?;
        let validator = match &self.validator {
            Some(validator) if is_validated && validator.is_able().await => Some(validator),
            _ => None,
        };
        let answer = match validator {
            Some(validator) => validator.mx(&name).await,
            None => self.resolver.mx(&name).await.map(|(answer, hold)| (answer, hold, false)),
        };
        match answer {
            Ok((answer, hold, is_secure)) => self.by_mx(answer, hold).await.map(|next| Next { is_secure, ..next }),
            // Whether the domain's own addresses are secure is looked at with its TLSA records.
            Err((Miss::NoRecord, hold)) => {
                let is_secure = validator.is_some();
                self.by_address(&name, hold).await.map(|next| Next { is_secure, ..next })
            }
            Err((Miss::NoName, hold)) => Err(Failed::new(Cause::NoDomain, "the domain does not exist", hold)),
            Err((Miss::Failure(failure), _)) => Err(Failed::look_up("the domain's MX records", failure)),
        }
    }

    /// Whether the provider map has one of this name.
    pub fn knows_provider(&self, name: &str) -> bool {
        self.providers.names().any(|known| known == name)
    }

    /// The next hop of a domain where no name needs to be looked up: by a route, or of an address literal.
    pub fn find_without_dns(&self, domain: &str) -> Option<Next> {
        match self.routes.find(domain) {
            Some(NextHop::Discard) => Some(self.by_discard()),
            Some(NextHop::Smtp { host: Host::Address(address), port }) => Some(self.by_fixed(*address, *port)),
            Some(NextHop::Smtp { host: Host::Name(_), .. }) => None,
            None => self.by_literal(domain, literal(domain)?).ok(),
        }
    }

    async fn by_route(&self, next_hop: &NextHop) -> Result<Next, Failed> {
        let (name, port) = match next_hop {
            NextHop::Discard => return Ok(self.by_discard()),
            NextHop::Smtp { host: Host::Address(address), port } => return Ok(self.by_fixed(*address, *port)),
            NextHop::Smtp { host: Host::Name(name), port } => (name, *port),
        };
        let answer = self.resolver.addresses(name).await;
        let hold = self.resolver.left(&answer);
        let addresses = answer.addresses.map_err(|miss| match miss {
            Miss::Failure(failure) => Failed::look_up("the route's next hop", failure),
            // The route is the operator's: mail waits for it to be corrected, nobody's mail bounces.
            _ => Failed::new(Cause::Failure, "the route's next hop has no address", FAILURE_TTL),
        })?;
        Ok(self.by_host(answer.name, addresses, port, hold))
    }

    fn by_discard(&self) -> Next {
        let name: Arc<str> = "discard".into();
        let (site, port) = (name.clone(), self.settings.port);
        let (hosts, transport) = (Box::default(), Transport::Discard);
        Next { mx_set: name, site, hosts, port, transport, hold: MOST_TTL, is_secure: false }
    }

    fn by_fixed(&self, address: IpAddr, port: Option<u16>) -> Next {
        self.by_host(literal_text(address).into(), [address].into(), port, MOST_TTL)
    }

    fn by_host(&self, name: Arc<str>, addresses: Arc<[IpAddr]>, port: Option<u16>, hold: Duration) -> Next {
        let port = port.unwrap_or(self.settings.port);
        // Two routes to one host on two ports must not share connections, so the port is part of the name.
        let mx_set: Arc<str> = format!("{name}:{port}").into();
        let hosts = mx::share_out(vec![(Mx { preference: 0, name }, addresses)]);
        Next { site: mx_set.clone(), mx_set, hosts, port, transport: Transport::Relay, hold, is_secure: false }
    }

    fn by_literal(&self, domain: &str, address: IpAddr) -> Result<Next, Failed> {
        if self.is_own_address(&address) {
            return Err(Failed::new(Cause::Loop, "the address is our own", NEGATIVE_TTL));
        }
        if !is_allowed(address, &self.settings.allow_networks) {
            let text = "the address literal is not a public address";
            return Err(Failed::new(Cause::NoRoute, text, NEGATIVE_TTL));
        }
        let host = Mx { preference: 0, name: domain.into() };
        Ok(self.next(std::slice::from_ref(&host), mx::share_out(vec![(host.clone(), [address].into())]), MOST_TTL))
    }

    /// Implicit MX: the domain itself, with preference 0, for as long as there is known to be no MX record.
    async fn by_address(&self, name: &str, hold: Duration) -> Result<Next, Failed> {
        let host = Mx { preference: 0, name: name.into() };
        if self.is_own_name(&host.name) {
            return Err(Failed::new(Cause::Loop, "the domain is our own name", NEGATIVE_TTL));
        }
        let answer = self.resolver.addresses(&host.name).await;
        match answer.addresses {
            Err(Miss::Failure(failure)) => Err(Failed::look_up("the domain's addresses", failure)),
            Err(_) => {
                let text = "the domain has neither MX nor address records";
                Err(Failed::new(Cause::NoDomain, text, self.resolver.left(&answer)))
            }
            Ok(_) => self.assemble(std::slice::from_ref(&host), vec![(host.clone(), answer)], hold),
        }
    }

    async fn by_mx(&self, answer: MxAnswer, hold: Duration) -> Result<Next, Failed> {
        if answer.is_null {
            return Err(Failed::new(
                Cause::NullMx,
                "the domain does not accept mail (null MX)",
                hold.min(NEGATIVE_TTL),
            ));
        }
        let mut hosts = answer.hosts;
        let is_cut = mx::cut_at_own(&mut hosts, |host| self.is_own_name(&host.name));
        if hosts.is_empty() {
            let hold = hold.min(NEGATIVE_TTL);
            return Err(match is_cut {
                true => Failed::new(Cause::Loop, "we are the best MX host of the domain", hold),
                false => Failed::new(Cause::NoRoute, "no MX record of the domain names a host", hold),
            });
        }
        let answers = self.host_answers(&hosts).await;
        self.assemble(&hosts, answers, hold)
    }

    /// Addresses of the hosts in their order, some at a time, until there are enough.
    async fn host_answers(&self, hosts: &[Mx]) -> Vec<(Mx, HostAnswer)> {
        let mut found = Vec::new();
        let mut usable = 0;
        for group in hosts.chunks(HOSTS_AT_ONCE).take(MOST_HOSTS / HOSTS_AT_ONCE) {
            let mut tasks = JoinSet::new();
            for (place, host) in group.iter().enumerate() {
                let (resolver, host) = (self.resolver.clone(), host.clone());
                tasks.spawn(async move { (place, resolver.addresses(&host.name).await, host) });
            }
            let mut answers = Vec::new();
            while let Some(answer) = tasks.join_next().await {
                // A task that panicked is a host without an answer.
                answers.extend(answer);
            }
            answers.sort_unstable_by_key(|(place, ..)| *place);
            usable += answers.iter().filter(|(_, answer, _)| answer.addresses.is_ok()).count();
            found.extend(answers.into_iter().map(|(_, answer, host)| (host, answer)));
            if usable >= mx::MOST_ADDRESSES {
                break;
            }
        }
        found
    }

    /// What is left of the hosts after our own addresses and those that are not public.
    fn assemble(&self, all: &[Mx], answers: Vec<(Mx, HostAnswer)>, hold: Duration) -> Result<Next, Failed> {
        let own = |answer: &HostAnswer| {
            let found = answer.addresses.as_deref().unwrap_or_default();
            found.iter().any(|address| self.is_own_address(address))
        };
        let limit = answers.iter().filter(|(_, answer)| own(answer)).map(|(host, _)| host.preference).min();
        let mut hold = hold;
        let (mut hosts, mut failure, mut is_refused) = (Vec::with_capacity(answers.len()), None, false);
        for (host, answer) in answers {
            if limit.is_some_and(|limit| host.preference >= limit) {
                continue;
            }
            hold = hold.min(self.resolver.left(&answer));
            match answer.addresses {
                Ok(found) => {
                    let allowed = |address: &&IpAddr| is_allowed(**address, &self.settings.allow_networks);
                    let is_whole = found.iter().all(|address| allowed(&address));
                    is_refused |= !is_whole;
                    let usable = if is_whole { found } else { found.iter().filter(allowed).copied().collect() };
                    hosts.push((Mx { name: answer.name, ..host }, usable));
                }
                Err(Miss::Failure(cause)) => failure = failure.or(Some(cause)),
                Err(_) => {}
            }
        }
        let hosts = mx::share_out(hosts);
        if !hosts.is_empty() {
            let kept = limit.map_or(all.len(), |limit| all.partition_point(|host| host.preference < limit));
            return Ok(self.next(all.get(..kept).unwrap_or(all), hosts, hold));
        }
        let hold = hold.min(NEGATIVE_TTL);
        Err(match (failure, limit, is_refused) {
            (Some(failure), ..) => Failed::look_up("the addresses of the domain's MX hosts", failure),
            (None, Some(_), _) => Failed::new(Cause::Loop, "an MX host of the domain has our own address", hold),
            (None, None, true) => Failed::new(Cause::NoRoute, "the domain's MX hosts have no public address", hold),
            (None, None, false) => Failed::new(Cause::NoRoute, "no MX host of the domain has an address", hold),
        })
    }

    /// `all` are the hosts that DNS named, `hosts` those that can be dialled.
    pub(super) fn next(&self, all: &[Mx], hosts: Box<[MxHost]>, hold: Duration) -> Next {
        let provider = all.first().and_then(|best| self.providers.find(&best.name)).cloned();
        let mx_set = match (all, &*hosts) {
            // The usual small set: its name is that of its host, held once.
            ([_], [only]) => only.name.clone(),
            _ => mx::set_name(all.iter().map(|host| &host.name)),
        };
        let site = provider.unwrap_or_else(|| mx_set.clone());
        let (port, transport) = (self.settings.port, Transport::Smtp);
        Next { mx_set, site, hosts, port, transport, hold: hold.max(LEAST_TTL), is_secure: false }
    }

    /// What is known of the TLS of a domain's hosts, how far their names can be trusted, and how long that holds.
    pub async fn security(&self, domain: &str, next: &Next, policy: TlsPolicy) -> (Security, MxProof, Duration) {
        let mut hold = MOST_TTL;
        let is_ours = next.transport == Transport::Smtp && literal(domain).is_none();
        let mut security = Security::default();
        let mut proof = if next.is_secure { MxProof::Known } else { MxProof::None };
        if is_ours && next.is_secure && policy.may_be_dane() {
            let (dane, held) = self.dane(&next.hosts).await;
            (security.dane, hold) = (dane, hold.min(held));
        }
        if is_ours
            && policy.may_be_sts()
            && let (Some(sts), Some(name)) = (&self.sts, ascii_name(domain))
        {
            let answer = sts.find(&name).await;
            if proof == MxProof::None && answer.policy.is_none() && answer.trouble.is_some() {
                proof = MxProof::Pending;
            }
            (security.sts, hold) = (answer.policy, hold.min(answer.hold));
        }
        (security, proof, hold.max(LEAST_TTL))
    }

    /// Why the policy that a domain announces cannot be had.
    pub async fn sts_trouble(&self, domain: &str) -> Option<String> {
        let (sts, name) = (self.sts.as_ref()?, ascii_name(domain)?);
        sts.find(&name).await.trouble.map(|trouble| trouble.to_string())
    }

    /// POST over HTTPS, which is there where MTA-STS is; an error says why it failed.
    pub async fn post(&self, uri: &str, kind: &'static str, body: Bytes) -> Result<(), String> {
        match &self.sts {
            Some(sts) => sts.post(uri, kind, body).await,
            None => Err("no HTTPS without delivery.mta_sts".to_owned()),
        }
    }

    /// The TXT records of a name; an error says why nobody can tell.
    pub async fn texts(&self, name: &str) -> Result<Vec<Vec<u8>>, &'static str> {
        match self.resolver.texts(name).await {
            Ok(texts) => Ok(texts),
            Err((Miss::NoName | Miss::NoRecord, _)) => Ok(Vec::new()),
            Err((Miss::Failure(failure), _)) => Err(failure.as_str()),
        }
    }

    async fn dane(&self, hosts: &[MxHost]) -> (Box<[(Arc<str>, HostDane)]>, Duration) {
        let Some(validator) = &self.validator else { return (Box::default(), MOST_TTL) };
        let mut tasks = JoinSet::new();
        for (place, host) in hosts.iter().enumerate() {
            let (validator, name) = (Arc::clone(validator), Arc::clone(&host.name));
            tasks.spawn(async move { (place, validator.dane(&name).await) });
        }
        let mut found: Vec<Option<HostDane>> = vec![Some(HostDane::Unknown); hosts.len()];
        let mut hold = MOST_TTL;
        while let Some(answer) = tasks.join_next().await {
            // A task that panicked is a host of which nothing is known.
            let Ok((place, (dane, held))) = answer else { continue };
            hold = hold.min(held);
            if let Some(slot) = found.get_mut(place) {
                *slot = dane;
            }
        }
        let mut named: Vec<(Arc<str>, HostDane)> =
            hosts.iter().zip(found).filter_map(|(host, dane)| Some((Arc::clone(&host.name), dane?))).collect();
        // Connections are shared by this, whatever the order of the hosts.
        named.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        (named.into(), hold)
    }

    fn is_own_address(&self, address: &IpAddr) -> bool {
        self.settings.own_addresses.contains(address) || (self.settings.is_own)(*address)
    }

    fn is_own_name(&self, name: &str) -> bool {
        self.settings.own_names.iter().any(|own| own == name)
    }
}

/// The address in an address literal (RFC 5321, 4.1.3), as a domain in lower case.
fn literal(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    match inner.strip_prefix("ipv6:") {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => inner.parse().ok().map(IpAddr::V4),
    }
}

fn literal_text(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
