//! The planner: delivery plans of domains, remembered for their TTL.
//!
//! [`Planner::cached`] is asked for every message that becomes ready and costs tens of nanoseconds; on `None`,
//! [`Planner::plan`] finds the next hop, once however many ask. While the resolver fails, the last plan serves on for
//! [`Settings::stale`] after its end. Failures are values ([`PlanFailure`]), never errors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram};

use super::cache::{Cache, Timed};
use super::finder::{Cause, Failed, Finder, Next};
use super::lookup::{FAILURE_TTL, gauge};
use super::settings::Settings;
use super::{Error, MxProof, Parent, Plan, PlanFailure, Planned, Security, TlsPolicy, TlsRule};
use crate::clock::Clock;
use crate::metrics::Registry;
use crate::provider::pattern::Patterns;

/// How long a look-up may hold up mail of a domain whose last plan can serve on (RFC 8767, 5: the client response timer).
const PATIENCE: Duration = Duration::from_millis(1_800);
/// For this long after its end a plan serves on for lack of patience; then the look-up gets all its time, so that a slow
/// resolver is heard in the end.
const WAITED_FOR: Duration = Duration::from_secs(3_600);

/// Makes and remembers delivery plans.
#[derive(Debug)]
pub struct Planner {
    finder: Finder,
    tls: Patterns<TlsRule>,
    default_tls: TlsPolicy,
    /// How long a plan serves after its end while the resolver fails.
    stale: Duration,
    /// Shared with the planner before, if that one's rules were the same.
    plans: Arc<Cache<Known>>,
    made_from: Settings,
    clock: Clock,
    metrics: Metrics,
}

/// What is known of a domain's TLS.
type Tls = (Security, MxProof);

/// What the cache holds about a domain.
#[derive(Clone, Debug)]
struct Known {
    planned: Planned,
    /// The end of what DNS said, where a plan was prolonged beyond it; boxed because few are, and all pay for its size.
    said_until: Option<Box<Instant>>,
}

impl Known {
    /// The end of what DNS said.
    fn said_until(&self) -> Instant {
        self.said_until.as_deref().copied().unwrap_or_else(|| self.valid_until())
    }
}

/// A plan that has ended, or is about to.
struct Last {
    plan: Arc<Plan>,
    said_until: Instant,
}

impl Timed for Known {
    fn valid_until(&self) -> Instant {
        match &self.planned {
            Ok(plan) => plan.valid_until,
            Err(failure) => failure.valid_until,
        }
    }
}

impl Planner {
    /// A planner by the settings; must be made inside a Tokio runtime.
    pub fn new(settings: Settings, clock: Clock, registry: &Registry) -> Result<Self, Error> {
        let finder = Finder::new(settings.clone(), clock, registry)?;
        let plans = Arc::new(Cache::new(settings.cache_size));
        Self::with(settings, finder, plans, (clock, Metrics::new(registry)))
    }

    /// A planner by other settings. It keeps whatever of what is known the change has not made wrong: DNS answers as long as
    /// the resolvers are the same, plans as long as the rules are.
    pub fn followed_by(&self, settings: Settings, registry: &Registry) -> Result<Self, Error> {
        let finder = match settings.asks_as(&self.made_from) {
            true => self.finder.followed_by(settings.clone())?,
            false => Finder::new(settings.clone(), self.clock, registry)?,
        };
        let plans = match settings.plans_as(&self.made_from) {
            true => self.plans.clone(),
            false => Arc::new(Cache::new(settings.cache_size)),
        };
        Self::with(settings, finder, plans, (self.clock, self.metrics.clone()))
    }

    /// Whether a planner by `settings` would do the same.
    pub fn is_as(&self, settings: &Settings) -> bool {
        settings.asks_as(&self.made_from) && settings.plans_as(&self.made_from)
    }

    fn with(
        settings: Settings,
        finder: Finder,
        plans: Arc<Cache<Known>>,
        (clock, metrics): (Clock, Metrics),
    ) -> Result<Self, Error> {
        let mut tls = Patterns::default();
        for (pattern, policy) in &settings.tls {
            tls.insert(pattern, policy.clone())?;
        }
        Ok(Self {
            tls,
            default_tls: settings.default_tls,
            stale: settings.stale,
            plans,
            finder,
            made_from: settings,
            clock,
            metrics,
        })
    }

    /// What is known about a domain now, without asking anyone. `domain` is lower case, as an address holds it.
    pub fn cached(&self, domain: &str) -> Option<Planned> {
        self.plans.get(domain, self.clock.now()).map(|known| known.planned)
    }

    /// Whether the provider map has one of this name.
    pub fn knows_provider(&self, name: &str) -> bool {
        self.finder.knows_provider(name)
    }

    /// The plan of a domain if it takes no look-up: what is remembered, or what a route says.
    pub fn plan_without_dns(&self, domain: &str) -> Option<Arc<Plan>> {
        match self.cached(domain) {
            Some(planned) => planned.ok(),
            None => {
                let next = self.finder.find_without_dns(domain)?;
                let valid_until = self.clock.now() + next.hold;
                Some(Arc::new(self.plan_of(domain.into(), next, Tls::default(), valid_until)))
            }
        }
    }

    /// What is known about a domain, asking DNS if need be.
    pub async fn plan(&self, domain: &str) -> Planned {
        let known = self.plans.get_or_make(domain, || self.clock.now(), |domain| self.find(domain)).await;
        self.metrics.entries.set(gauge(self.plans.len()));
        known.planned
    }

    /// Why the MTA-STS policy that a domain announces cannot be had; none: it can, or there is none.
    pub async fn sts_trouble(&self, domain: &str) -> Option<String> {
        self.finder.sts_trouble(domain).await
    }

    /// POST of a body of this media type over HTTPS; an error says why it failed.
    pub async fn post(&self, uri: &str, kind: &'static str, body: bytes::Bytes) -> Result<(), String> {
        self.finder.post(uri, kind, body).await
    }

    /// The TXT records of a name, each with its strings joined; empty if there are none. An error says why nobody can tell.
    pub async fn texts(&self, name: &str) -> Result<Vec<Vec<u8>>, &'static str> {
        self.finder.texts(name).await
    }

    /// How many domains are remembered.
    pub fn remembered(&self) -> usize {
        self.plans.len()
    }

    async fn find(&self, domain: Arc<str>) -> Known {
        let begun = self.clock.now();
        let last = self.last(&domain, begun);
        let found = match &last {
            Some(last) if begun.saturating_duration_since(last.said_until) < WAITED_FOR => {
                let look_up = tokio::time::timeout(PATIENCE, self.look_up(&domain));
                look_up.await.unwrap_or_else(|_| Err(Failed::late()))
            }
            _ => self.look_up(&domain).await,
        };
        let now = self.clock.now();
        self.metrics.seconds.record(now.saturating_duration_since(begun).as_secs_f64());
        match (found, last) {
            (Ok((next, tls)), _) => {
                self.metrics.found.increment(1);
                let valid_until = now + next.hold;
                let planned = Ok(Arc::new(self.plan_of(domain, next, tls, valid_until)));
                Known { planned, said_until: None }
            }
            (Err(failed), Some(last)) if failed.status.class == 4 => self.prolonged(&last, now),
            (Err(failed), _) => self.failure(failed, now),
        }
    }

    /// The next hop, and what is known of its TLS where the domain's policy asks for that.
    async fn look_up(&self, domain: &str) -> Result<(Next, Tls), Failed> {
        let policy = self.policy(domain);
        let mut next = self.finder.find(domain, policy.validates()).await?;
        if !policy.validates() && !policy.may_be_sts() {
            return Ok((next, Tls::default()));
        }
        let (security, proof, hold) = self.finder.security(domain, &next, policy).await;
        next.hold = next.hold.min(hold);
        Ok((next, (security, proof)))
    }

    fn policy(&self, domain: &str) -> TlsPolicy {
        self.tls.find(domain).map_or(self.default_tls, |rule| rule.policy)
    }

    /// The last plan, if it may still serve should the resolver fail.
    fn last(&self, domain: &str, now: Instant) -> Option<Last> {
        let known = self.plans.peek(domain)?;
        let said_until = known.said_until();
        let plan = known.planned.ok().filter(|_| now.saturating_duration_since(said_until) <= self.stale)?;
        Some(Last { plan, said_until })
    }

    fn prolonged(&self, last: &Last, now: Instant) -> Known {
        self.metrics.stale.increment(1);
        let plan = Plan { valid_until: now + FAILURE_TTL, ..(*last.plan).clone() };
        Known { planned: Ok(Arc::new(plan)), said_until: Some(Box::new(last.said_until)) }
    }

    fn failure(&self, failed: Failed, now: Instant) -> Known {
        self.metrics.failure(failed.cause).increment(1);
        let valid_until = now + failed.hold;
        let failure = PlanFailure { status: failed.status, text: failed.text.into(), valid_until };
        Known { planned: Err(Arc::new(failure)), said_until: None }
    }

    fn plan_of(&self, domain: Arc<str>, next: Next, tls: Tls, valid_until: Instant) -> Plan {
        let (mut security, mx_proof) = tls;
        let is_own_site = self.made_from.own_sites.contains(&*domain);
        let (site, parent) =
            if is_own_site { (domain.clone(), Some(Arc::new(Parent(next.site)))) } else { (next.site, None) };
        let rule = self.tls.find(&domain);
        if let Some(rule) = rule.filter(|rule| rule.policy == TlsPolicy::Verified) {
            security.names = Arc::clone(&rule.names);
        }
        Plan {
            tls: rule.map_or(self.default_tls, |rule| rule.policy),
            security: (!security.is_empty()).then(|| Arc::new(security)),
            site,
            parent,
            domain,
            mx_set: next.mx_set,
            hosts: next.hosts,
            port: next.port,
            transport: next.transport,
            mx_proof,
            valid_until,
        }
    }
}

#[derive(Clone, Debug)]
struct Metrics {
    found: Counter,
    stale: Counter,
    failures: [(Cause, Counter); Cause::ALL.len()],
    unknown: Counter,
    seconds: Histogram,
    entries: Gauge,
}

impl Metrics {
    fn new(registry: &Registry) -> Self {
        let plans = |result| {
            let help = "Delivery plans made, by result; stale: the last known one was prolonged.";
            registry.counter("hikyaku_dns_plans_total", help, &[("result", result)])
        };
        Self {
            found: plans("found"),
            stale: plans("stale"),
            failures: Cause::ALL.map(|cause| (cause, plans(cause.as_str()))),
            unknown: Counter::noop(),
            seconds: registry.histogram("hikyaku_dns_plan_seconds", "Time to make a delivery plan.", &[]),
            entries: registry.gauge("hikyaku_dns_cache_entries", "Domains whose delivery plan is remembered.", &[]),
        }
    }

    fn failure(&self, cause: Cause) -> &Counter {
        self.failures.iter().find(|(known, _)| *known == cause).map_or(&self.unknown, |(_, counter)| counter)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::IpAddr;

    use super::super::mx::{self, Mx};
    use super::*;
    use crate::dns::{MxHost, Transport};
    use crate::smtp::status::Status;

    const DAY: Duration = Duration::from_secs(86_400);

    /// A planner whose resolver refuses connections.
    fn planner() -> Planner {
        let resolvers = vec![std::net::SocketAddr::from(([127, 0, 0, 1], 9))];
        let settings = Settings { resolvers, timeout: Duration::from_millis(100), attempts: 1, ..Settings::default() };
        Planner::new(settings, Clock::system(), &Registry::new().unwrap()).unwrap()
    }

    /// A planner whose resolver takes questions and never answers.
    fn unanswered() -> (Planner, std::net::UdpSocket) {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let settings = Settings { resolvers: vec![silent.local_addr().unwrap()], ..Settings::default() };
        (Planner::new(settings, Clock::system(), &Registry::new().unwrap()).unwrap(), silent)
    }

    async fn remember(planner: &Planner, domain: &str, ended: Duration) {
        let name: Arc<str> = domain.into();
        let said_until = Instant::now().checked_sub(ended).expect("the machine has been up that long");
        let (site, mx_set, hosts) = (name.clone(), name.clone(), Box::default());
        let (transport, tls) = (Transport::Smtp, TlsPolicy::Opportunistic);
        let plan = Plan {
            domain: name,
            site,
            parent: None,
            mx_set,
            hosts,
            port: 25,
            transport,
            tls,
            security: None,
            mx_proof: MxProof::None,
            valid_until: said_until,
        };
        let known = Known { planned: Ok(Arc::new(plan)), said_until: None };
        planner.plans.get_or_make(domain, Instant::now, |_| std::future::ready(known.clone())).await;
    }

    #[tokio::test]
    async fn the_last_plan_serves_on_while_the_resolver_fails() {
        let planner = planner();
        remember(&planner, "a.test", Duration::from_secs(60)).await;
        assert!(planner.cached("a.test").is_none());

        let plan = planner.plan("a.test").await.unwrap();

        assert_eq!(&*plan.site, "a.test");
        assert!(plan.valid_until > Instant::now() && plan.valid_until <= Instant::now() + FAILURE_TTL);
        assert!(planner.cached("a.test").is_some());
    }

    /// What the allocator is asked for by one plan of a domain whose one host has one address.
    fn octets(plan: &Plan) -> usize {
        let counts = 2 * size_of::<usize>();
        let text = |text: &str| (counts + text.len()).next_multiple_of(align_of::<usize>());
        let hosts = plan.hosts.iter().map(|host| size_of::<MxHost>() + text(&host.name)).sum::<usize>();
        counts + size_of::<Plan>() + text(&plan.domain) + hosts
    }

    #[tokio::test]
    async fn a_remembered_domain_takes_at_most_300_octets() {
        let planner = planner();
        let domains = 200_000;
        let mut taken = 0;
        for number in 0..domains {
            let (domain, mx) = (format!("d{number}.test"), format!("mx.d{number}.test"));
            let host = Mx { preference: 10, name: mx.as_str().into() };
            let addresses: Arc<[IpAddr]> = [IpAddr::from([192, 0, 2, 1])].into();
            let hosts = mx::share_out(vec![(host.clone(), addresses)]);
            let next = planner.finder.next(&[host], hosts, DAY);
            assert!(Arc::ptr_eq(&next.mx_set, &next.hosts[0].name) && Arc::ptr_eq(&next.mx_set, &next.site));
            let valid_until = Instant::now() + DAY;
            let next = Cell::new(Some(next));
            let known = |name| {
                let plan = planner.plan_of(name, next.take().unwrap(), Tls::default(), valid_until);
                std::future::ready(Known { planned: Ok(Arc::new(plan)), said_until: None })
            };
            taken += octets(&planner.plans.get_or_make(&domain, Instant::now, known).await.planned.unwrap());
        }

        // Some of the last are evicted already: the table's parts are not equally full.
        let each = taken / domains + planner.plans.octets() / planner.plans.len();

        println!("{each} octets a domain, {} of them in the table", planner.plans.octets() / planner.plans.len());
        assert!(planner.plans.len() > domains * 9 / 10);
        assert!(each <= 300, "{each}");
    }

    #[tokio::test]
    async fn mail_does_not_wait_for_a_silent_resolver_when_there_is_a_last_plan() {
        let (planner, _silent) = unanswered();
        remember(&planner, "a.test", Duration::from_secs(60)).await;
        let begun = Instant::now();

        planner.plan("a.test").await.unwrap();

        assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_plan_is_not_prolonged_past_its_bound_nor_by_being_prolonged() {
        let mut planner = planner();
        planner.stale = Duration::from_secs(30);
        remember(&planner, "a.test", Duration::from_secs(60)).await;

        let failure = planner.plan("a.test").await.unwrap_err();

        assert_eq!(failure.status, Status::new(4, 4, 3));
        planner.stale = DAY;
        remember(&planner, "b.test", Duration::from_secs(60)).await;
        let ended = planner.plans.peek("b.test").unwrap().said_until();
        planner.plan("b.test").await.unwrap();
        assert_eq!(planner.plans.peek("b.test").unwrap().said_until(), ended);
    }

    #[tokio::test]
    async fn two_patterns_that_are_the_same_are_an_error() {
        let tls = vec![
            ("*.a.test".to_owned(), TlsPolicy::None.into()),
            ("*.A.test".to_owned(), TlsPolicy::Opportunistic.into()),
        ];
        let settings = Settings { resolvers: vec![([127, 0, 0, 1], 9).into()], tls, ..Settings::default() };

        assert!(Planner::new(settings, Clock::system(), &Registry::new().unwrap()).is_err());
    }
}
