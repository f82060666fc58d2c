//! The queue's metrics.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use crate::bounce::dsn::Action;
use crate::limit::controller::Phase;
use crate::message::Lane;
use crate::metrics::{LIFE, Registry};
use crate::reply::Class;

use super::held::{Held, Hold};
use super::limits::Census;
use super::view::{OVERDUE, OverdueView, View, WAITING};

/// Handles, made once.
#[derive(Debug)]
pub(super) struct Meters {
    delivered: Counter,
    pub deferred: Counter,
    pub bounced: Counter,
    pub expired: Counter,
    /// By the suppression list.
    pub suppressed: Counter,
    /// By an operator's order.
    pub deleted: Counter,
    /// In doubt at the start, and counted as delivered by their tenant's policy.
    pub assumed: Counter,
    /// End of data without a reply.
    pub unanswered: Counter,
    learnt: [(&'static str, Counter); LEARNT.len()],
    by_class: [(Class, Counter); Class::ALL.len()],
    by_lane: [(Lane, Answers); LANES.len()],
    failed_dsns: Counter,
    delayed_dsns: Counter,
    relayed_dsns: Counter,
    ready: Gauge,
    scheduled: Gauge,
    waiting_for_dns: Gauge,
    in_flight: Gauge,
    suspended: Gauge,
    held_by_order: Gauge,
    opening_connections: Gauge,
    busy_connections: Gauge,
    idle_connections: Gauge,
    sites: Gauge,
    oldest: Gauge,
    capacity: Gauge,
    most_connections: Gauge,
    in_doubt: Gauge,
    held: [(Hold, Gauge); Hold::ALL.len()],
    overdue: [Gauge; OVERDUE.len()],
    waiting: [Gauge; WAITING.len()],
    phases: [Gauge; Phase::ALL.len()],
    paused: Gauge,
    resting: Gauge,
}

/// Times of answers in a lane.
#[derive(Debug)]
struct Answers {
    /// From acceptance to delivery.
    age: Histogram,
    /// From the time when it was due to an answer, whatever it was.
    lateness: Histogram,
}

const LEARNT: [&str; 5] = ["rate", "connections", "messages-per-connection", "breaker", "hourly-cap"];

const LANES: [Lane; 3] = [Lane::Urgent, Lane::Normal, Lane::Bulk];

fn changes(registry: &Registry, what: &'static str) -> Counter {
    let help = "Changes of learnt limits, by what is limited.";
    registry.counter("hikyaku_limits_changes_total", help, &[("limit", what)])
}

fn refusals(registry: &Registry, class: Class) -> Counter {
    let help = "Recipients refused, for now or for good, by what the refusal is about.";
    registry.counter("hikyaku_queue_refusals_total", help, &[("class", class.as_str())])
}

impl Meters {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let outcomes = |name, help| registry.counter(name, help, &[]);
        let depth = |state| {
            let help = "Unfinished recipients by state.";
            registry.gauge("hikyaku_queue_depth_recipients", help, &[("state", state)])
        };
        let dsns = |action| {
            let help = "Delivery status notifications made, by action.";
            registry.counter("hikyaku_queue_dsns_total", help, &[("action", action)])
        };
        let overdue = |cause| {
            let help = "Entries past their time by more than a minute, by what they wait for.";
            registry.gauge("hikyaku_queue_overdue_recipients", help, &[("cause", cause)])
        };
        let waiting = |cause| {
            let help = "Entries that are ready or wait for a delivery plan, by what they wait for.";
            registry.gauge("hikyaku_queue_waiting_recipients", help, &[("cause", cause)])
        };
        let connections = |state| {
            let help = "Connections by state: opening until transactions may begin, then busy or idle.";
            registry.gauge("hikyaku_queue_connections", help, &[("state", state)])
        };
        let stopped = |state| {
            let help =
                "Of them, those that nothing is sent to: paused after a refusal, or resting because we are refused.";
            registry.gauge("hikyaku_limits_stopped_paths", help, &[("state", state)])
        };
        Self {
            delivered: outcomes("hikyaku_queue_delivered_total", "Recipients delivered."),
            deferred: outcomes("hikyaku_queue_deferred_total", "Deferrals: attempts that will be repeated."),
            bounced: outcomes("hikyaku_queue_bounced_total", "Recipients bounced."),
            expired: outcomes("hikyaku_queue_expired_total", "Recipients whose time ran out."),
            suppressed: outcomes(
                "hikyaku_queue_suppressed_total",
                "Recipients that were not sent to, since they are on the suppression list.",
            ),
            deleted: outcomes("hikyaku_queue_deleted_total", "Recipients that an operator deleted."),
            assumed: outcomes(
                "hikyaku_queue_assumed_delivered_total",
                "Recipients in doubt at the start that their tenant's policy counts as delivered.",
            ),
            unanswered: outcomes(
                "hikyaku_queue_unanswered_total",
                "Attempts whose end of data had no reply, or a late one: the receiver may have the message.",
            ),
            learnt: LEARNT.map(|what| (what, changes(registry, what))),
            by_class: Class::ALL.map(|class| (class, refusals(registry, class))),
            by_lane: LANES.map(|lane| (lane, Answers::new(registry, lane))),
            failed_dsns: dsns("failed"),
            delayed_dsns: dsns("delayed"),
            relayed_dsns: dsns("relayed"),
            ready: depth("ready"),
            scheduled: depth("scheduled"),
            waiting_for_dns: depth("waiting-for-dns"),
            in_flight: depth("in-flight"),
            suspended: depth("suspended"),
            held_by_order: depth("held"),
            opening_connections: connections("opening"),
            busy_connections: connections("busy"),
            idle_connections: connections("idle"),
            sites: registry.gauge("hikyaku_queue_sites", "Sites known.", &[]),
            oldest: registry.gauge("hikyaku_queue_oldest_seconds", "Age of the oldest unfinished recipient.", &[]),
            capacity: registry.gauge("hikyaku_queue_max_recipients", "Recipients that may be queued.", &[]),
            most_connections: registry.gauge("hikyaku_queue_max_connections", "Connections that may be open.", &[]),
            in_doubt: registry.gauge(
                "hikyaku_queue_in_doubt_recipients",
                "Recipients whose last attempt before the start has no known outcome.",
                &[],
            ),
            held: Hold::ALL.map(|hold| (hold, depth(hold.as_str()))),
            overdue: OVERDUE.map(overdue),
            waiting: WAITING.map(waiting),
            phases: Phase::ALL.map(|phase| {
                let help = "Sites by source whose limits are learnt, by how the rate came about.";
                registry.gauge("hikyaku_limits_paths", help, &[("phase", phase.as_str())])
            }),
            paused: stopped("paused"),
            resting: stopped("resting"),
        }
    }

    /// A recipient is delivered, so long after its message was accepted.
    pub fn delivered(&self, lane: Lane, age: Duration) {
        self.delivered.increment(1);
        if let Some(answers) = self.of(lane) {
            answers.age.record(age.as_secs_f64());
        }
    }

    /// An attempt ended, so long after it was due.
    pub fn answered(&self, lane: Lane, lateness: Duration) {
        if let Some(answers) = self.of(lane) {
            answers.lateness.record(lateness.as_secs_f64());
        }
    }

    /// A learnt limit has changed.
    pub fn learnt(&self, what: &str) {
        if let Some((_, changes)) = self.learnt.iter().find(|(name, _)| *name == what) {
            changes.increment(1);
        }
    }

    /// A recipient was refused.
    pub fn refused(&self, class: Class) {
        if let Some((_, counter)) = self.by_class.iter().find(|(own, _)| *own == class) {
            counter.increment(1);
        }
    }

    fn of(&self, lane: Lane) -> Option<&Answers> {
        self.by_lane.iter().find(|(own, _)| *own == lane).map(|(_, answers)| answers)
    }

    /// The counter of DSNs with this action.
    pub fn dsn(&self, action: Action) -> &Counter {
        match action {
            Action::Failed => &self.failed_dsns,
            Action::Delayed => &self.delayed_dsns,
            Action::Relayed => &self.relayed_dsns,
        }
    }

    /// Shows the ceilings in force.
    pub fn show_ceilings(&self, recipients: usize, connections: u32) {
        self.capacity.set(count(recipients));
        self.most_connections.set(f64::from(connections));
    }

    /// Shows what is learnt.
    pub fn show_paths(&self, census: &Census) {
        for (gauge, paths) in self.phases.iter().zip(census.phases) {
            gauge.set(count(paths));
        }
        self.paused.set(count(census.paused));
        self.resting.set(count(census.resting));
    }

    /// Shows what a look at the queue found.
    pub fn show(&self, view: &View, sites: usize, in_doubt: usize, held: &Held) {
        let totals = &view.totals;
        let idle = view.sites.iter().map(|site| site.idle_connections).sum();
        let opening: usize = view.sites.iter().map(|site| site.opening_connections).sum();
        let gauges = [
            (&self.ready, totals.ready),
            (&self.scheduled, totals.scheduled),
            (&self.waiting_for_dns, totals.waiting_for_dns),
            (&self.in_flight, totals.in_flight),
            (&self.suspended, totals.suspended),
            (&self.opening_connections, opening),
            (&self.busy_connections, totals.connections.saturating_sub(opening + idle)),
            (&self.idle_connections, idle),
            (&self.sites, sites),
            (&self.in_doubt, in_doubt),
        ];
        for (gauge, value) in gauges {
            gauge.set(count(value));
        }
        let mut by_order = totals.held;
        for (hold, gauge) in &self.held {
            let entries = held.count(*hold);
            by_order = by_order.saturating_sub(entries);
            gauge.set(count(entries));
        }
        self.held_by_order.set(count(by_order));
        self.oldest.set(f64::from(totals.oldest_seconds));
        show_causes(&self.overdue, &OVERDUE, &view.overdue);
        show_causes(&self.waiting, &WAITING, &view.waiting);
    }
}

impl Answers {
    fn new(registry: &Registry, lane: Lane) -> Self {
        let lane = match lane {
            Lane::Urgent => "urgent",
            Lane::Normal => "normal",
            Lane::Bulk => "bulk",
        };
        let age = "Time from acceptance to delivery, in whole seconds.";
        let lateness = "How long past its time an attempt was answered or given up, in whole seconds.";
        Self {
            age: registry.histogram_with("hikyaku_queue_delivery_seconds", age, &[("lane", lane)], LIFE),
            lateness: registry.histogram_with("hikyaku_queue_lateness_seconds", lateness, &[("lane", lane)], LIFE),
        }
    }
}

fn show_causes(gauges: &[Gauge], causes: &[&'static str], seen: &[OverdueView]) {
    for (gauge, cause) in gauges.iter().zip(causes) {
        let entries = seen.iter().find(|seen| seen.cause == *cause);
        gauge.set(entries.map_or(0.0, |seen| count(seen.entries)));
    }
}

fn count(value: usize) -> f64 {
    u32::try_from(value).map_or(f64::from(u32::MAX), f64::from)
}
