//! What an operator asks: the daemon in outline, one site in every detail, connections by source and MX set.
//!
//! Like all looking, it takes one short lock at a time. What would take long under a site's lock is counted there and
//! told outside; scheduled entries of a site are found by walking the timers in slices, after their domains are known.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::clock::UnixTime;
use crate::dns::Plan;
use crate::dns::security::{Assurance, in_force};
use crate::limit::controller;
use crate::limit::permit::What;
use crate::message::{Lane, Outcome};

use super::domain::Domain;
use super::engine::Engine;
use super::gates::ceiling_of;
use super::held::Hold;
use super::in_hand::Taken;
use super::path::{Cause, Path};
use super::settle::{describe, describe_failure};
use super::site::{Site, SiteState};
use super::slot::Seat;
use super::view::{
    ConnectionView, DepthView, EventView, HeldView, Outline, PathView, Pools, Rates, ReplyView, SiteDetail, SiteView,
    SourceAddresses, SourceView,
};

/// Sites that are named in the outline.
const NAMED: usize = 3;
/// Connections of a site that are listed.
const MOST_CONNECTIONS: usize = 200;
/// Tenants and lanes of a site that are listed.
const MOST_DEPTHS: usize = 100;
/// Paths of one site that are listed, each with what it waits for.
const MOST_LISTED: usize = 100;
/// Paths of all sites that are listed.
const MOST_PATHS: usize = 1_000;

impl Engine {
    /// The daemon's work in numbers, with the sites that hold most up.
    pub fn outline(&self) -> Outline {
        let view = self.view_without_scheduled_ages();
        let mut holding_up: Vec<SiteView> = view.sites.into_iter().filter(is_held_up).collect();
        holding_up.sort_by_key(|site| std::cmp::Reverse(site.ready + site.scheduled));
        holding_up.truncate(NAMED);
        let (dns_domains, dns_failing, dns_example) = self.dns_failures();
        let held =
            Hold::ALL.into_iter().map(|hold| HeldView { reason: hold.as_str(), recipients: self.held.count(hold) });
        Outline {
            totals: view.totals,
            sites: self.all_sites().len(),
            capacity: self.settings().capacity,
            most_connections: self.settings().connections,
            in_doubt: self.doubts.len(),
            held: held.filter(|held| held.recipients > 0).collect(),
            orders: self.orders.standing().iter().filter(|standing| !standing.order.is_once()).count(),
            dns_domains,
            dns_failing,
            dns_example,
            rates: self.rates(),
            holding_up,
            overdue: view.overdue,
            sources: self.source_addresses(),
            paused_warmups: self.paused_warmups(),
        }
    }

    fn source_addresses(&self) -> Vec<SourceAddresses> {
        let settings = self.settings();
        let views = settings.egress.sources.iter().map(|source| {
            let addresses = source.ipv4.map(IpAddr::from).into_iter().chain(source.ipv6.map(IpAddr::from));
            SourceAddresses { source: source.name.to_string(), addresses: addresses.collect() }
        });
        views.collect()
    }

    fn rates(&self) -> Rates {
        let (counts, over) = self.flowing.lately(self.started, self.clock.now());
        let over_seconds = over.as_secs_f64();
        let a_second = |count: u64| count as f64 / over_seconds.max(1.0);
        Rates {
            over_seconds,
            submitted: a_second(counts.submitted),
            delivered: a_second(counts.delivered),
            deferred: a_second(counts.deferred),
            bounced: a_second(counts.bounced),
        }
    }

    /// Domains with mail that waits, those of them without a plan, and one of these.
    fn dns_failures(&self) -> (usize, usize, Option<String>) {
        let (mut all, mut count, mut example) = (0, 0, None);
        self.domains.for_each(|domain| {
            let state = domain.state.lock();
            let has_mail = !state.waiting.is_empty() || domain.scheduled.load(Ordering::Relaxed) > 0;
            all += usize::from(has_mail);
            if let Some(failure) = state.failure.as_ref().filter(|_| has_mail) {
                count += 1;
                if example.is_none() {
                    example = Some(format!("{}: {}", domain.name, failure.text));
                }
            }
        });
        (all, count, example)
    }

    /// Everything about the site of this name, or the one that mail of this domain goes to.
    pub fn inspect(&self, name: &str) -> Option<SiteDetail> {
        let now = self.clock.now();
        let mut wanted = name.to_owned();
        let mut site = self.all_sites().into_iter().find(|site| *site.name == *wanted);
        // A name that is no site's may be a domain's.
        let lower = name.trim_end_matches('.').to_lowercase();
        let domains = self.domains_to(&wanted, site.is_some(), &lower);
        if site.is_none()
            && let Some(route) = domains.iter().find_map(|domain| domain.state.lock().route.clone())
        {
            wanted = route.site.name.to_string();
            site = Some(route.site);
        }
        let domains = if *wanted == *name { domains } else { self.domains_to(&wanted, true, &lower) };
        if site.is_none() && domains.is_empty() {
            return None;
        }
        let mut detail = SiteDetail::default();
        detail.summary.site = if site.is_some() { wanted } else { lower };
        let mut depths = Depths { wall: self.clock.wall(), by_key: HashMap::new() };
        match &site {
            Some(site) => self.inspect_site(site, now, &mut detail, &mut depths),
            None => explain_missing_plan(&domains, &mut detail),
        }
        self.add_scheduled(&domains, site.is_none(), &mut detail, &mut depths);
        self.inspect_kept(&domains, &mut detail, &mut depths);
        detail.depth = depths.sorted();
        detail.next.sort_by(|a, b| sooner(a.in_seconds, b.in_seconds));
        Some(detail)
    }

    /// Domains whose mail goes to `site`, or, where there is no such site, the domain called `lower`.
    fn domains_to(&self, site: &str, is_site: bool, lower: &str) -> Vec<Arc<Domain>> {
        let mut found = Vec::new();
        self.domains.for_each(|domain| {
            let is_wanted = if is_site {
                domain.state.lock().route.as_ref().is_some_and(|route| *route.site.name == *site)
            } else {
                *domain.name == *lower
            };
            if is_wanted {
                found.push(domain.clone());
            }
        });
        found
    }

    fn inspect_site(&self, site: &Arc<Site>, now: Instant, detail: &mut SiteDetail, depths: &mut Depths) {
        let (seats, facts, taken) = {
            let state = site.state.lock();
            let (mut seats, mut facts, mut taken) = (Vec::new(), Vec::new(), Vec::new());
            for path in state.paths.iter().flatten() {
                path.look(now, &mut detail.summary);
                taken.extend(path.in_hand.iter().cloned());
                for (count, first) in path.ready.depths() {
                    depths.add(&first.flow.tenant.name, first.flow.lane, first.accepted, (count, 0));
                }
                let room = MOST_CONNECTIONS.saturating_sub(seats.len());
                seats.extend(path.seats.iter().take(room).map(|seat| (path.key.source, seat.clone())));
                if facts.len() < MOST_LISTED {
                    facts.push(Facts::of(path));
                    detail.next.extend(self.next_of(site, &state, path, now));
                }
            }
            detail.limits = self.limits_in_force(site, &state, now);
            detail.replies = state.replies(now);
            detail.summary.last_reply = state.last_reply.as_deref().map(describe);
            let summary = &mut detail.summary;
            [summary.delivered, summary.deferred, summary.bounced] = state.outcomes;
            (seats, facts, taken)
        };
        self.add_in_flight(&taken, now, detail, depths);
        detail.paths = facts.iter().map(|facts| self.path_view(&site.name, facts)).collect();
        detail.connections = seats.iter().map(|(source, seat)| self.connection_view(*source, seat, now)).collect();
        detail.connections.sort_by(|a, b| b.for_seconds.total_cmp(&a.for_seconds));
    }

    /// What is being tried; whose it is, the envelope tells.
    fn add_in_flight(&self, taken: &[Taken], now: Instant, detail: &mut SiteDetail, depths: &mut Depths) {
        let Some(oldest) = taken.iter().map(|taken| taken.since).min() else { return };
        for taken in taken {
            if let Some(envelope) = self.envelope_of(taken.id) {
                let count = taken.recipients.as_slice().len();
                depths.add_in_flight(&envelope.tenant, envelope.lane, envelope.accepted_at, count);
            }
        }
        let lasts = now.saturating_duration_since(oldest);
        let left = self.settings().longest_attempt.saturating_sub(lasts);
        detail.next.push(EventView {
            in_seconds: Some(left.as_secs_f64()),
            event: "the oldest transaction has timed out, at the latest".to_owned(),
            cause: Some(format!("{} in flight, the oldest for {} s", detail.summary.in_flight, lasts.as_secs())),
        });
    }

    /// What waits for its time: the timers know it, by domain.
    fn add_scheduled(&self, domains: &[Arc<Domain>], is_siteless: bool, detail: &mut SiteDetail, depths: &mut Depths) {
        let scheduled: u64 = domains.iter().map(|domain| u64::from(domain.scheduled.load(Ordering::Relaxed))).sum();
        detail.summary.scheduled = usize::try_from(scheduled).unwrap_or(usize::MAX);
        if scheduled > 0 {
            let wanted: HashSet<usize> = domains.iter().map(|domain| Arc::as_ptr(domain).addr()).collect();
            let (mut first, mut attempts) = (None, 0);
            for shard in self.timers.shards() {
                shard.for_each(|entry| {
                    if wanted.contains(&Arc::as_ptr(&entry.domain).addr()) {
                        depths.add(&entry.flow.tenant.name, entry.flow.lane, entry.accepted, (0, 1));
                        attempts += u64::from(entry.attempts);
                        first = Some(first.map_or(entry.due, |first: UnixTime| first.min(entry.due)));
                    }
                    true
                });
            }
            if let Some(due) = first {
                let failure = domains.iter().find_map(|domain| domain.state.lock().failure.clone());
                let cause = Some(match failure.as_deref().map(describe_failure) {
                    Some(failure) => format!("deferred: {failure}; the retry schedule"),
                    None => "deferred; the retry schedule".to_owned(),
                });
                if is_siteless {
                    // No site counts what became of its mail: its recipients know how often they were tried.
                    detail.summary.deferred = attempts;
                }
                let in_seconds = Some(due.since(self.clock.wall()).as_secs_f64());
                detail.next.push(EventView { in_seconds, event: "the next retry is due".to_owned(), cause });
            }
        }
        for domain in domains {
            let state = domain.state.lock();
            detail.summary.ready += state.waiting.len();
            for entry in &state.waiting {
                depths.add(&entry.flow.tenant.name, entry.flow.lane, entry.accepted, (1, 0));
            }
        }
    }

    /// Connections by source and MX set, and the sources.
    pub fn pools(&self) -> Pools {
        let mut found = Vec::new();
        let settings = self.settings();
        let sources = settings.egress.sources.iter().zip(0..).map(|(source, index)| SourceView {
            source: source.name.to_string(),
            ipv4: source.ipv4.map(|address| address.to_string()),
            ipv6: source.ipv6.map(|address| address.to_string()),
            ehlo_name: source.ehlo_name.to_string(),
            most_connections: self.gates.of(index).and_then(|gate| ceiling_of(&gate.window)),
            ..SourceView::default()
        });
        let mut sources: Vec<SourceView> = sources.collect();
        for site in self.all_sites() {
            let state = site.state.lock();
            for path in state.paths.iter().flatten() {
                if let Some(source) = sources.get_mut(usize::from(path.key.source)) {
                    source.connections += path.connections;
                    source.idle += path.idle.len();
                    source.in_flight += path.in_flight;
                }
                if path.connections > 0 || !path.ready.is_empty() {
                    found.push((site.name.clone(), Facts::of(path)));
                }
            }
        }
        let all = found.len();
        found.sort_by_key(|(_, facts)| std::cmp::Reverse((facts.connections, facts.ready)));
        found.truncate(MOST_PATHS);
        let pools = found.iter().map(|(site, facts)| self.path_view(site, facts)).collect();
        Pools { sources, pools, all }
    }

    pub(super) fn source_name(&self, source: u16) -> String {
        self.source(source).map(|source| source.name.to_string()).unwrap_or_default()
    }

    fn path_view(&self, site: &str, path: &Facts) -> PathView {
        let (tls, tls_why) = in_force(&path.plan, path.assurance);
        PathView {
            site: site.to_owned(),
            mx_set: path.plan.mx_set.to_string(),
            port: path.plan.port,
            tls,
            tls_why,
            source: self.source_name(path.source),
            ready: path.ready,
            in_flight: path.in_flight,
            open: path.connections.saturating_sub(path.opening),
            idle: path.idle,
            opening: path.opening,
            wanted: path.wanted,
            waiting_for: path.cause.filter(|_| path.ready > 0).map(Cause::as_str),
        }
    }

    fn connection_view(&self, source: u16, seat: &Seat, now: Instant) -> ConnectionView {
        let watch = &seat.watch;
        let (doing, lasts) = watch.doing(now);
        let peer = watch.peer();
        let tls = peer.as_ref().and_then(|peer| peer.tls);
        ConnectionView {
            state: doing.as_str(),
            step: doing.step().map(crate::message::Phase::as_str),
            for_seconds: lasts.as_secs_f64(),
            mx_host: peer.as_ref().map(|peer| peer.host.to_string()),
            mx_address: peer.as_ref().map(|peer| peer.address.to_string()),
            source: self.source_name(source),
            tls: tls.is_some(),
            tls_version: tls.map(|tls| tls.version),
            tls_verified: tls.map(|tls| tls.proof.as_str()),
            tls_policy: peer.as_ref().and_then(|peer| peer.tls_policy),
            messages: watch.messages(),
            age_seconds: watch.age(now).as_secs(),
        }
    }

    /// What a path with ready entries waits for, and until when.
    fn next_of(&self, site: &Site, state: &SiteState, path: &Path, now: Instant) -> Option<EventView> {
        if path.ready.is_empty() {
            return None;
        }
        let way = format!("{} from {}", path.plan.mx_set, self.source_name(path.key.source));
        let event =
            |in_seconds, event: &str, cause| Some(EventView { in_seconds, event: format!("{event}: {way}"), cause });
        let learnt = |cause| {
            let (left, what, why) = self.learnt_event((&site.name, state), path.key.source, cause, now);
            event(left, what, why)
        };
        match path.cause {
            Some(Cause::BackOff) => {
                let pause = path.pause.as_ref()?;
                let reason = Some(describe(&pause.reason));
                match pause.until.checked_duration_since(now) {
                    Some(left) => event(Some(left.as_secs_f64()), "the back-off ends and one connection tries", reason),
                    None => event(None, "one connection tries whether the receiver is back", reason),
                }
            }
            // The site's controller keeps the configured rate as well as what it has learnt.
            Some(cause @ (Cause::Rate | Cause::Learnt(controller::Cause::Rate))) => {
                match (self.spent(state, path.key.source, What::Messages, now), cause) {
                    (None, Cause::Learnt(cause)) => learnt(cause),
                    (spent, _) => {
                        let (left, cause) = spent.map_or((None, None), |(left, cause)| (Some(left), Some(cause)));
                        event(left, "the message rate has room", cause)
                    }
                }
            }
            Some(Cause::Learnt(cause)) => learnt(cause),
            Some(Cause::ConnectionRate) => {
                let spent = self.spent(state, path.key.source, What::Openings, now);
                let (left, cause) = spent.map_or((0.0, None), |(left, cause)| (left, Some(cause)));
                event(Some(left), "the rate of new connections has room", cause)
            }
            Some(Cause::Budget) => {
                let left = path.ready.next_recall().map(|until| until.saturating_duration_since(now).as_secs_f64());
                let cause = Some("what tenants or campaigns may send is used up".to_owned());
                event(left, "a tenant or a campaign may send again", cause)
            }
            Some(Cause::Warmup) => {
                let (left, cause) = self.warmup_wait(path.key.source, &site.name, now);
                event(left, "the warm-up has room", cause)
            }
            Some(Cause::Connections) => {
                let cause = self.full_windows(site, state, path.key.source, now);
                event(None, "a connection ends and leaves its place", Some(cause))
            }
            Some(Cause::Dns) => event(None, "the delivery plan is looked up again", None),
            Some(Cause::Courier) => event(None, "work is handed out", Some("the daemon starts or stops".to_owned())),
            None => event(None, "a connection finishes its message and takes the next", None),
        }
    }
}

/// What is read of a path under its site's lock; words are made of it afterwards.
struct Facts {
    plan: Arc<Plan>,
    source: u16,
    assurance: Assurance,
    ready: usize,
    idle: usize,
    in_flight: u32,
    connections: u32,
    opening: u32,
    wanted: u32,
    cause: Option<Cause>,
}

impl Facts {
    fn of(path: &Path) -> Self {
        Self {
            plan: path.plan.clone(),
            source: path.key.source,
            assurance: path.key.assurance,
            ready: path.ready.len(),
            idle: path.idle.len(),
            in_flight: path.in_flight,
            connections: path.connections,
            opening: path.opening,
            wanted: path.want,
            cause: path.cause,
        }
    }
}

/// Whether a site has recipients that cannot go on now, for a reason that is not just its turn.
fn is_held_up(site: &SiteView) -> bool {
    let has_refused = site.scheduled > 0 && site.last_reply.is_some();
    site.ready + site.scheduled > 0 && (site.back_off_seconds.is_some() || site.waiting_for.is_some() || has_refused)
}

fn sooner(a: Option<f64>, b: Option<f64>) -> std::cmp::Ordering {
    a.unwrap_or(f64::MAX).total_cmp(&b.unwrap_or(f64::MAX))
}

/// Why mail of a domain has no site.
fn explain_missing_plan(domains: &[Arc<Domain>], detail: &mut SiteDetail) {
    for domain in domains {
        let state = domain.state.lock();
        let cause = state.failure.as_deref().map(describe_failure);
        detail.summary.last_reply.clone_from(&cause);
        detail.summary.waiting_for = Some(super::view::DNS);
        if state.is_looked_up {
            detail.next.push(EventView {
                in_seconds: None,
                event: "its delivery plan is being looked up".to_owned(),
                cause,
            });
        }
    }
}

/// As headers and tables spell it.
const fn name_of(lane: Lane) -> &'static str {
    match lane {
        Lane::Urgent => "urgent",
        Lane::Normal => "normal",
        Lane::Bulk => "bulk",
    }
}

/// Recipients by tenant and lane.
pub(super) struct Depths {
    wall: UnixTime,
    by_key: HashMap<(Box<str>, &'static str), DepthView>,
}

impl Depths {
    fn add(&mut self, tenant: &str, lane: Lane, accepted: UnixTime, (ready, scheduled): (usize, usize)) {
        let depth = self.of(tenant, lane, accepted);
        depth.ready += ready;
        depth.scheduled += scheduled;
    }

    /// Of one message that is being tried.
    fn add_in_flight(&mut self, tenant: &str, lane: Lane, accepted: UnixTime, count: usize) {
        self.of(tenant, lane, accepted).in_flight += count;
    }

    /// One that an order keeps.
    pub fn add_kept(&mut self, tenant: &str, lane: Lane, accepted: UnixTime) {
        self.of(tenant, lane, accepted).kept += 1;
    }

    fn of(&mut self, tenant: &str, lane: Lane, accepted: UnixTime) -> &mut DepthView {
        let lane = name_of(lane);
        let age = self.wall.0.saturating_sub(accepted.0);
        // A look-up without a copy of the name is not possible in a map of pairs; this is not the hot path.
        let depth = self.by_key.entry((tenant.into(), lane)).or_insert_with(|| DepthView {
            tenant: tenant.to_owned(),
            lane,
            ..DepthView::default()
        });
        depth.oldest_seconds = depth.oldest_seconds.max(age);
        depth
    }

    fn sorted(self) -> Vec<DepthView> {
        let mut depths: Vec<DepthView> = self.by_key.into_values().collect();
        depths.sort_by_key(|depth| std::cmp::Reverse(depth.ready + depth.scheduled + depth.kept + depth.in_flight));
        depths.truncate(MOST_DEPTHS);
        depths
    }
}

impl SiteState {
    /// Counts what became of recipients.
    pub fn count_outcomes(&mut self, outcomes: &[Outcome]) {
        let [delivered, deferred, bounced] = &mut self.outcomes;
        for outcome in outcomes {
            match outcome {
                Outcome::Delivered(_) => *delivered += 1,
                Outcome::Deferred(_) => *deferred += 1,
                Outcome::Bounced(_) | Outcome::Expired(_) => *bounced += 1,
                Outcome::Suppressed(_) => {}
            }
        }
    }

    fn replies(&self, now: Instant) -> Vec<ReplyView> {
        let said = self.sayings.all().into_iter();
        let view = said.map(|said| ReplyView {
            reply: said.text.into(),
            recipients: said.count,
            seconds_ago: now.saturating_duration_since(said.last).as_secs(),
        });
        view.collect()
    }
}
