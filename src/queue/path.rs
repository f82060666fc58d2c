//! A path: one MX set from one egress source, within a site. It holds ready entries and counts connections.
//!
//! Connections are shared within a path: any of them can carry any of its entries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dns::security::Assurance;
use crate::dns::{MxProof, Plan, Security, TlsPolicy, Transport};
use crate::limit::controller;
use crate::message::{Phase, Report};

use super::in_hand::InHand;
use super::ready::Ready;
use super::settings::BackOff;
use super::slot::Seat;
use super::view::DNS;

/// What connections are shared by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PathKey {
    mx_set: Arc<str>,
    port: u16,
    is_discard: bool,
    tls: TlsPolicy,
    /// What is asked of receivers besides: connections of another assurance are not shared.
    security: Option<Arc<Security>>,
    /// What the messages ask for.
    pub assurance: Assurance,
    /// Only where the messages ask for names that are known: plans of other mail share whatever this is.
    mx_proof: MxProof,
    /// Index of the egress source.
    pub source: u16,
}

impl PathKey {
    /// The path of a plan from a source, for messages that ask for so much.
    pub fn new(plan: &Plan, source: u16, assurance: Assurance) -> Self {
        Self {
            mx_set: plan.mx_set.clone(),
            port: plan.port,
            is_discard: plan.transport == Transport::Discard,
            tls: plan.tls,
            security: plan.security.clone(),
            assurance,
            mx_proof: if assurance.requires_tls() { plan.mx_proof } else { MxProof::None },
            source,
        }
    }
}

/// What ready entries wait for, other than a free connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A place in a window of connections.
    Connections,
    /// The rate of new connections.
    ConnectionRate,
    /// A rate of messages: of everything, the source, the site or both.
    Rate,
    /// What tenants or campaigns may send.
    Budget,
    /// What was learnt about the receiver.
    Learnt(controller::Cause),
    /// The warm-up of its source has no room.
    Warmup,
    /// A back-off after failed connections.
    BackOff,
    /// A look-up: the plan is over.
    Dns,
    /// The courier: not started yet, or stopping.
    Courier,
}

impl Cause {
    /// As metrics and tables show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "no-connection-permit",
            Self::ConnectionRate => "connection-rate",
            Self::Rate => "rate",
            Self::Budget => "budget",
            Self::Learnt(cause) => cause.as_str(),
            Self::Warmup => "warmup",
            Self::BackOff => "back-off",
            Self::Dns => DNS,
            Self::Courier => "stopped",
        }
    }
}

/// In which of the site's orders a path waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// For a connection.
    Starved,
    /// For the site's message rate.
    Throttled,
    /// For the warm-up of its source.
    Warming,
}

/// A pause of new connections after a failure.
#[derive(Debug)]
pub(super) struct Pause {
    pub until: Instant,
    /// When the first of the failures in a row came.
    since: Instant,
    /// How many came, those left out that came together.
    failures: u32,
    /// The time is over and one connection tries; others wait for what becomes of it.
    pub is_probed: bool,
    pub reason: Arc<Report>,
}

impl Pause {
    /// Whether a connection that has been opened shows that it is over. After a reply to a transaction only one that was
    /// opened afterwards does.
    pub fn is_ended_by_opening(&self) -> bool {
        use Phase::{Content, Data, EndOfData, Mail, Rcpt};
        self.is_probed || !matches!(self.reason.phase, Mail | Rcpt | Data | Content | EndOfData)
    }
}

/// One MX set from one source.
#[derive(Debug)]
pub(super) struct Path {
    pub key: PathKey,
    /// The newest plan that an entry came with.
    pub plan: Arc<Plan>,
    pub ready: Ready,
    /// Connections without work, the one that was used last at the end.
    pub idle: Vec<Arc<Seat>>,
    /// Every connection's seat, in no order; for people.
    pub seats: Vec<Arc<Seat>>,
    /// Open and opening ones.
    pub connections: u32,
    /// Those that have not said EHLO yet.
    pub opening: u32,
    /// Assignments out.
    pub in_flight: u32,
    /// What they are of.
    pub in_hand: InHand,
    /// Connections that the work is worth.
    pub want: u32,
    /// Assignments given out since the last look at growth.
    pub served: u32,
    /// A look at growth is due.
    pub has_growth_alarm: bool,
    /// When the alarm for those goes off that are away.
    pub purse_alarm: Option<Instant>,
    /// Its plan is being looked up again.
    pub is_refreshing: bool,
    pub pause: Option<Pause>,
    /// It stands in one of the site's orders, under this tenant.
    pub waits: Option<(Wait, usize)>,
    pub cause: Option<Cause>,
}

impl Path {
    /// A path without work.
    pub fn new(key: PathKey, plan: Arc<Plan>) -> Self {
        Self {
            key,
            plan,
            ready: Ready::default(),
            idle: Vec::new(),
            seats: Vec::new(),
            connections: 0,
            opening: 0,
            in_flight: 0,
            in_hand: InHand::default(),
            want: 1,
            served: 0,
            has_growth_alarm: false,
            purse_alarm: None,
            is_refreshing: false,
            pause: None,
            waits: None,
            cause: None,
        }
    }

    /// Whether it can be forgotten.
    pub fn is_unused(&self, now: Instant) -> bool {
        self.ready.is_empty()
            && self.connections == 0
            && self.in_flight == 0
            && !self.is_refreshing
            && self.pause.as_ref().is_none_or(|pause| pause.until + FORGIVEN <= now)
    }

    /// A connection failed. Those that were begun before the pause do not lengthen it.
    pub fn fail(&mut self, reason: Arc<Report>, settings: BackOff, now: Instant) {
        let (since, failures) = match &self.pause {
            Some(pause) if pause.until > now => return,
            Some(pause) => (pause.since, pause.failures.saturating_add(1)),
            None => (now, 1),
        };
        let until = now + settings.step(failures, now - since);
        self.pause = Some(Pause { until, since, failures, is_probed: false, reason });
        self.want = 1;
    }

    /// Decides whether more connections are worth their cost: when what waits would take the present ones more than
    /// half a second. Called every [`GROWTH`] while work waits.
    pub fn grow(&mut self, most: u32) {
        let served = usize::try_from(std::mem::take(&mut self.served)).unwrap_or(usize::MAX);
        if self.ready.len() <= served.saturating_mul(5) {
            return;
        }
        // While none has come through, a few tries tell as much as many, and cost fewer messages an attempt.
        let most = if self.opening >= self.connections { most.min(2) } else { most };
        let more = (self.connections / 2).max(1);
        self.want = self.want.max(self.connections.saturating_add(more)).min(most).max(1);
    }
}

/// How often growth is looked at: longer than a transaction takes at a receiver that is near and well.
pub(super) const GROWTH: Duration = Duration::from_millis(100);

/// A path whose pause ended this long ago without any work starts afresh.
const FORGIVEN: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::status::Status;

    fn path(now: Instant) -> Path {
        let plan = Plan {
            domain: Arc::from("a.test"),
            site: Arc::from("a.test"),
            parent: None,
            mx_set: Arc::from("mx.a.test"),
            hosts: Box::default(),
            port: 25,
            transport: Transport::Smtp,
            tls: TlsPolicy::Opportunistic,
            security: None,
            mx_proof: MxProof::None,
            valid_until: now,
        };
        Path::new(PathKey::new(&plan, 0, Assurance::Usual), Arc::new(plan))
    }

    fn reason() -> Arc<Report> {
        Arc::new(Report::local(Phase::Connect, Status::new(4, 4, 1), "no route"))
    }

    #[test]
    fn a_pause_is_a_twentieth_of_the_outage_between_its_bounds() {
        let began = Instant::now();
        let mut now = began;
        let mut path = path(now);

        let mut steps = Vec::new();
        while now - began < Duration::from_hours(3) {
            path.fail(reason(), BackOff::default(), now);
            let until = path.pause.as_ref().unwrap().until;
            steps.push((now - began, until - now));
            now = until;
        }

        let first: Vec<u64> = steps.iter().take(5).map(|(_, step)| step.as_secs()).collect();
        assert_eq!(first, [1, 2, 4, 5, 5]);
        let is_twentieth = |(outage, step): &(Duration, Duration)| *step == *outage / 20;
        assert!(steps.iter().filter(|(outage, _)| (100..6_000).contains(&outage.as_secs())).all(is_twentieth));
        assert_eq!(steps.last().unwrap().1, Duration::from_secs(300));
    }

    #[test]
    fn connections_that_fail_together_count_once() {
        let now = Instant::now();
        let mut path = path(now);

        path.fail(reason(), BackOff::default(), now);
        path.fail(reason(), BackOff::default(), now + Duration::from_millis(1));

        assert_eq!(path.pause.unwrap().until, now + Duration::from_secs(1));
    }
}
