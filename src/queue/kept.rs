//! What orders keep, for people: by site, by order, and of what was flushed.
//!
//! The entries are gone through under the lock that keeps them; domains are led to their sites afterwards.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::clock::UnixTime;
use crate::message::MessageId;

use super::domain::Domain;
use super::engine::Engine;
use super::entry::Entry;
use super::inspect::Depths;
use super::view::{EventView, SiteDetail, SiteView};

impl Engine {
    /// Tells sites how much orders keep of their mail, and adds those that have no other mail.
    pub fn add_kept(&self, sites: &mut Vec<SiteView>) {
        let mut by_domain: HashMap<usize, (Arc<Domain>, usize)> = HashMap::new();
        self.orders.for_each_parked(|_, entry| {
            let address = Arc::as_ptr(&entry.domain).addr();
            by_domain.entry(address).or_insert_with(|| (entry.domain.clone(), 0)).1 += 1;
            true
        });
        let mut by_site: HashMap<Arc<str>, usize> = HashMap::new();
        for (domain, count) in by_domain.into_values() {
            *by_site.entry(domain.site().unwrap_or_else(|| domain.name.clone())).or_default() += count;
        }
        for site in sites.iter_mut() {
            site.kept = by_site.remove(&*site.site).unwrap_or_default();
        }
        let others = by_site.into_iter();
        sites.extend(others.map(|(site, kept)| SiteView { site: site.to_string(), kept, ..SiteView::default() }));
    }

    /// What orders keep of the mail of these domains, and which.
    pub fn inspect_kept(&self, domains: &[Arc<Domain>], detail: &mut SiteDetail, depths: &mut Depths) {
        let wanted: HashSet<usize> = domains.iter().map(|domain| Arc::as_ptr(domain).addr()).collect();
        let mut by_order = HashMap::new();
        self.orders.for_each_parked(|standing, entry| {
            if wanted.contains(&Arc::as_ptr(&entry.domain).addr()) {
                depths.add_kept(&entry.flow.tenant.name, entry.flow.lane, entry.accepted);
                *by_order.entry(standing.order.id).or_insert(0) += 1;
            }
            true
        });
        for standing in self.orders.standing().iter() {
            let Some(count) = by_order.get(&standing.order.id) else { continue };
            detail.summary.kept += count;
            detail.next.push(EventView {
                in_seconds: standing.order.until.map(|until| UnixTime(until).since(self.clock.wall()).as_secs_f64()),
                event: format!("the order ends that keeps {count} recipients"),
                cause: Some(standing.describe()),
            });
        }
    }

    /// How many of these recipients an order keeps.
    pub fn count_kept(&self, recipients: &HashSet<(MessageId, u32)>) -> usize {
        let mut count = 0;
        self.orders.for_each_parked(|_, entry: &Entry| {
            count += usize::from(recipients.contains(&(entry.id, entry.recipient)));
            true
        });
        count
    }
}
