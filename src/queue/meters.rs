//! The queue's metrics.

use metrics::{Counter, Gauge, Histogram};

use crate::bounce::dsn::Action;
use crate::metrics::Registry;

use super::held::{Held, Hold};
use super::view::{OVERDUE, View};

/// Handles, made once.
#[derive(Debug)]
pub(super) struct Meters {
    pub delivered: Counter,
    pub deferred: Counter,
    pub bounced: Counter,
    pub expired: Counter,
    /// By an operator's order.
    pub deleted: Counter,
    /// In doubt at the start, and counted as delivered by their tenant's policy.
    pub assumed: Counter,
    /// End of data without a reply.
    pub unanswered: Counter,
    /// From acceptance to delivery.
    pub age: Histogram,
    failed_dsns: Counter,
    delayed_dsns: Counter,
    relayed_dsns: Counter,
    ready: Gauge,
    scheduled: Gauge,
    waiting_for_dns: Gauge,
    in_flight: Gauge,
    connections: Gauge,
    idle_connections: Gauge,
    sites: Gauge,
    oldest: Gauge,
    in_doubt: Gauge,
    held: [(Hold, Gauge); Hold::ALL.len()],
    overdue: [Gauge; OVERDUE.len()],
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
            registry.gauge("hikyaku_queue_overdue", help, &[("cause", cause)])
        };
        Self {
            delivered: outcomes("hikyaku_queue_delivered_total", "Recipients delivered."),
            deferred: outcomes("hikyaku_queue_deferred_total", "Deferrals: attempts that will be repeated."),
            bounced: outcomes("hikyaku_queue_bounced_total", "Recipients bounced."),
            expired: outcomes("hikyaku_queue_expired_total", "Recipients whose time ran out."),
            deleted: outcomes("hikyaku_queue_deleted_total", "Recipients that an operator deleted."),
            assumed: outcomes(
                "hikyaku_queue_assumed_delivered_total",
                "Recipients in doubt at the start that their tenant's policy counts as delivered.",
            ),
            unanswered: outcomes(
                "hikyaku_queue_unanswered_total",
                "Attempts whose end of data had no reply, or a late one: the receiver may have the message.",
            ),
            age: registry.histogram("hikyaku_queue_delivery_seconds", "Time from acceptance to delivery.", &[]),
            failed_dsns: dsns("failed"),
            delayed_dsns: dsns("delayed"),
            relayed_dsns: dsns("relayed"),
            ready: depth("ready"),
            scheduled: depth("scheduled"),
            waiting_for_dns: depth("waiting-for-dns"),
            in_flight: depth("in-flight"),
            connections: registry.gauge("hikyaku_queue_connections", "Connections open or being opened.", &[]),
            idle_connections: registry.gauge("hikyaku_queue_idle_connections", "Connections without work.", &[]),
            sites: registry.gauge("hikyaku_queue_sites", "Sites known.", &[]),
            oldest: registry.gauge("hikyaku_queue_oldest_seconds", "Age of the oldest unfinished recipient.", &[]),
            in_doubt: registry.gauge(
                "hikyaku_queue_in_doubt",
                "Recipients whose last attempt before the start has no known outcome.",
                &[],
            ),
            held: Hold::ALL.map(|hold| (hold, depth(hold.as_str()))),
            overdue: OVERDUE.map(overdue),
        }
    }

    /// The counter of DSNs with this action.
    pub fn dsn(&self, action: Action) -> &Counter {
        match action {
            Action::Failed => &self.failed_dsns,
            Action::Delayed => &self.delayed_dsns,
            Action::Relayed => &self.relayed_dsns,
        }
    }

    /// Shows what a look at the queue found.
    pub fn show(&self, view: &View, sites: usize, in_doubt: usize, held: &Held) {
        let totals = &view.totals;
        let idle = view.sites.iter().map(|site| site.idle_connections).sum();
        let gauges = [
            (&self.ready, totals.ready),
            (&self.scheduled, totals.scheduled),
            (&self.waiting_for_dns, totals.waiting_for_dns),
            (&self.in_flight, totals.in_flight),
            (&self.connections, totals.connections),
            (&self.idle_connections, idle),
            (&self.sites, sites),
            (&self.in_doubt, in_doubt),
        ];
        for (gauge, value) in gauges {
            gauge.set(count(value));
        }
        for (hold, gauge) in &self.held {
            gauge.set(count(held.count(*hold)));
        }
        self.oldest.set(f64::from(totals.oldest_seconds));
        for (gauge, cause) in self.overdue.iter().zip(OVERDUE) {
            let entries = view.overdue.iter().find(|overdue| overdue.cause == cause);
            gauge.set(entries.map_or(0.0, |overdue| count(overdue.entries)));
        }
    }
}

fn count(value: usize) -> f64 {
    u32::try_from(value).map_or(f64::from(u32::MAX), f64::from)
}
