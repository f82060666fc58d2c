//! Counts by site and by tenant: a row for each of the busiest, one for the others ([`crate::metrics::bounded`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::message::Outcome;
use crate::metrics::Registry;
use crate::metrics::bounded::{Bounded, Column, Kind, Owner};

use super::engine::Engine;
use super::flow::Tenant;
use super::site::Site;
use super::view::{SiteView, View};

/// Sites with a row of their own. Ten series each: with `other` 510 lines of a scrape.
const SITES: u32 = 50;
/// Tenants with a row of their own. Six series each: with `other` 306 lines of a scrape.
const TENANTS: u32 = 50;

const fn column(name: &'static str, help: &'static str, label: Option<&'static str>, kind: Kind) -> Column {
    let label = match label {
        Some(outcome) => Some(("outcome", outcome)),
        None => None,
    };
    Column { name, help, label, kind }
}

const fn sent(outcome: &'static str) -> Column {
    let help = "Recipients of finished transactions and failed connections, by site and by what came of them.";
    column("hikyaku_site_recipients_total", help, Some(outcome), Kind::Counter)
}

const SITE: &[Column] = &[
    sent("delivered"),
    sent("deferred"),
    sent("bounced"),
    column(
        "hikyaku_site_connection_failures_total",
        "Openings after which no MX host of the site could be talked to.",
        None,
        Kind::Counter,
    ),
    column("hikyaku_site_ready_recipients", "Recipients that wait for a connection.", None, Kind::Sum),
    column("hikyaku_site_in_flight_transactions", "Transactions being tried.", None, Kind::Sum),
    column("hikyaku_site_connections", "Connections open or being opened.", None, Kind::Sum),
    column("hikyaku_site_oldest_seconds", "How long past its time the oldest ready recipient is.", None, Kind::Most),
    column("hikyaku_site_backing_off", "1: new connections wait for a back-off to end.", None, Kind::Sum),
    column(
        "hikyaku_site_allowed_messages_per_minute",
        "Messages a minute that learnt limits allow now, all sources together; 0: no limit, or nothing goes.",
        None,
        Kind::Sum,
    ),
];
const CONNECTION_FAILURES: usize = 3;

const fn finished(outcome: &'static str) -> Column {
    let help = "Outcomes of recipients by tenant; a deferral is one of several.";
    column("hikyaku_tenant_recipients_total", help, Some(outcome), Kind::Counter)
}

const TENANT: &[Column] = &[
    finished("delivered"),
    finished("deferred"),
    finished("bounced"),
    finished("expired"),
    finished("deleted"),
    finished("suppressed"),
    column("hikyaku_tenant_queued_recipients", "Unfinished recipients by tenant.", None, Kind::Sum),
];

/// What becomes of a recipient, as tenants are shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Delivered,
    Deferred,
    Bounced,
    Expired,
    /// By an operator's order.
    Deleted,
    /// It is on the suppression list.
    Suppressed,
}

/// How often each fate has come, for people: a row of the tables is only of the busiest. Written as outcomes are decided.
#[derive(Debug, Default)]
pub(super) struct Fates([AtomicU64; 6]);

impl Fates {
    fn add(&self, fate: Fate) {
        if let Some(count) = self.0.get(fate as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often it has come.
    pub fn of(&self, fate: Fate) -> u64 {
        self.0.get(fate as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Whether any has come.
    pub fn has_any(&self) -> bool {
        self.0.iter().any(|count| count.load(Ordering::Relaxed) > 0)
    }
}

/// Both tables.
#[derive(Debug)]
pub(super) struct Top {
    sites: Arc<Bounded>,
    tenants: Arc<Bounded>,
}

impl Top {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let table = |label, columns, rows| {
            let table = Arc::new(Bounded::new(label, columns, rows));
            registry.add(table.clone());
            table
        };
        Self { sites: table("site", SITE, SITES), tenants: table("tenant", TENANT, TENANTS) }
    }

    /// What came back from a site.
    pub fn settled(&self, site: &Site, outcomes: &[Outcome]) {
        let mut counts = [0_u32; 3];
        let [delivered, deferred, bounced] = &mut counts;
        for outcome in outcomes {
            match outcome {
                Outcome::Delivered(_) => *delivered += 1,
                Outcome::Deferred(_) => *deferred += 1,
                Outcome::Bounced(_) | Outcome::Expired(_) => *bounced += 1,
                // The site has not heard of it.
                Outcome::Suppressed(_) => {}
            }
        }
        for (column, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            self.sites.count(&site.place, column, count);
        }
    }

    /// Nobody at a site could be talked to.
    pub fn connection_failed(&self, site: &Site) {
        self.sites.count(&site.place, CONNECTION_FAILURES, 1);
    }

    /// What became of a recipient of a tenant.
    pub fn decided(&self, tenant: &Tenant, fate: Fate) {
        self.tenants.count(&tenant.place, fate as usize, 1);
        tenant.fates.add(fate);
    }
}

impl Engine {
    /// Decides anew who is shown, and shows what waits. `view` is what was just seen.
    pub fn show_top(&self, view: &View, rates: &HashMap<Arc<str>, u64>, now: Instant) {
        let is_active =
            |site: &&SiteView| site.ready + site.in_flight + site.connections > 0 || site.back_off_seconds.is_some();
        let mut seen: HashMap<&str, Option<&SiteView>> =
            view.sites.iter().filter(is_active).map(|site| (site.site.as_str(), Some(site))).collect();
        let shown = self.top.sites.names();
        for name in &shown {
            seen.entry(name).or_default();
        }
        let names: Vec<&str> = seen.keys().copied().collect();
        let sites = self.find_sites(&names);
        let owner = |site| owner_of(site, seen.get(&*site.name).copied().flatten(), rates.get(&*site.name).copied());
        let owners: Vec<Owner<'_>> = sites.iter().map(owner).collect();
        self.top.sites.judge(now, &owners);

        let tenants = self.tenants.all();
        let owners: Vec<Owner<'_>> = tenants.iter().map(|tenant| owner_of_tenant(tenant)).collect();
        self.top.tenants.judge(now, &owners);
    }
}

fn owner_of<'a>(site: &'a Arc<Site>, seen: Option<&SiteView>, rate: Option<u64>) -> Owner<'a> {
    let mut values = match seen {
        Some(seen) => vec![
            seen.ready as u64,
            seen.in_flight as u64,
            seen.connections as u64,
            u64::from(seen.oldest_seconds),
            u64::from(seen.back_off_seconds.is_some()),
        ],
        None => vec![0; 5],
    };
    values.push(rate.unwrap_or(0));
    Owner { name: &site.name, place: &site.place, depth: seen.map_or(0, |seen| seen.ready), values }
}

fn owner_of_tenant(tenant: &Tenant) -> Owner<'_> {
    let depth = tenant.queued.load(Ordering::Relaxed);
    Owner { name: &tenant.name, place: &tenant.place, depth, values: vec![depth as u64] }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
mod tests {
    use super::super::rules::Rules;
    use super::*;

    #[test]
    fn columns_that_are_not_counted_are_as_many_as_the_values() {
        let gauges = |columns: &[Column]| columns.iter().filter(|column| column.kind != Kind::Counter).count();
        let site = Arc::new(Site::new("a.test".into(), Arc::default(), &Rules::default(), 0, Instant::now()));

        assert_eq!(owner_of(&site, Some(&SiteView::default()), Some(1)).values.len(), gauges(SITE));
        assert_eq!(owner_of(&site, None, None).values.len(), gauges(SITE));
        assert_eq!(gauges(TENANT), 1);
        assert_eq!(SITE[CONNECTION_FAILURES].name, "hikyaku_site_connection_failures_total");
        let ended = [Fate::Bounced, Fate::Expired, Fate::Deleted, Fate::Suppressed];
        let outcomes = [[Fate::Delivered, Fate::Deferred].as_slice(), &ended].concat();
        let fates = Fates::default();
        outcomes.iter().for_each(|fate| fates.add(*fate));
        assert!(outcomes.iter().all(|fate| fates.of(*fate) == 1), "{fates:?}");
        assert!(
            outcomes.iter().all(|fate| TENANT[*fate as usize].label.unwrap().1 == format!("{fate:?}").to_lowercase())
        );
    }
}
