//! Ages for people: when the oldest mail of each site and tenant was accepted, whatever it waits for.
//!
//! What is scheduled is told by who walks the timers ([`Ages::add`]); the rest is gathered here, a short lock at a time.

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::UnixTime;

use super::engine::Engine;
use super::entry::Entry;
use super::flow::Tenant;

type Hasher = foldhash::fast::RandomState;

/// When the oldest of what was seen was accepted. Domains and tenants are told apart by their addresses: there are
/// millions of entries and few of these.
#[derive(Default)]
pub(super) struct Ages {
    by_domain: HashMap<usize, UnixTime, Hasher>,
    by_tenant: HashMap<usize, (Arc<Tenant>, UnixTime), Hasher>,
}

/// The same by name, of all there is.
#[derive(Default)]
pub(super) struct NamedAges {
    pub by_site: HashMap<Box<str>, UnixTime>,
    by_tenant: HashMap<Box<str>, UnixTime>,
}

impl Ages {
    /// Looks at one more.
    pub fn add(&mut self, entry: &Entry) {
        let oldest = self.by_domain.entry(Arc::as_ptr(&entry.domain).addr()).or_insert(entry.accepted);
        *oldest = (*oldest).min(entry.accepted);
        let tenant = &entry.flow.tenant;
        let oldest =
            self.by_tenant.entry(Arc::as_ptr(tenant).addr()).or_insert_with(|| (tenant.clone(), entry.accepted));
        oldest.1 = oldest.1.min(entry.accepted);
    }
}

impl NamedAges {
    fn add_site(&mut self, site: &str, accepted: UnixTime) {
        older(&mut self.by_site, site, accepted);
    }

    fn add_tenant(&mut self, tenant: &str, accepted: UnixTime) {
        older(&mut self.by_tenant, tenant, accepted);
    }

    /// Of the tenant of this name.
    pub fn of_tenant(&self, tenant: &str) -> Option<UnixTime> {
        self.by_tenant.get(tenant).copied()
    }
}

fn older(ages: &mut HashMap<Box<str>, UnixTime>, name: &str, accepted: UnixTime) {
    match ages.get_mut(name) {
        Some(oldest) => *oldest = (*oldest).min(accepted),
        None => drop(ages.insert(name.into(), accepted)),
    }
}

impl Engine {
    /// Adds what waits elsewhere than in the timers, and names everything.
    pub fn complete(&self, ages: &mut Ages) -> NamedAges {
        self.orders.for_each_parked(|_, entry| {
            ages.add(entry);
            true
        });
        let mut named = NamedAges::default();
        self.domains.for_each(|domain| {
            let state = domain.state.lock();
            state.waiting.iter().for_each(|entry| ages.add(entry));
            if let Some(accepted) = ages.by_domain.get(&Arc::as_ptr(domain).addr()) {
                let site = state.route.as_ref().map_or(&*domain.name, |route| &route.site.name);
                named.add_site(site, *accepted);
            }
        });
        for (tenant, accepted) in ages.by_tenant.values() {
            named.add_tenant(&tenant.name, *accepted);
        }
        for site in self.all_sites() {
            let mut taken = Vec::new();
            {
                let state = site.state.lock();
                for path in state.paths.iter().flatten() {
                    for (_, first) in path.ready.depths() {
                        named.add_site(&site.name, first.accepted);
                        named.add_tenant(&first.flow.tenant.name, first.accepted);
                    }
                    taken.extend(path.in_hand.iter().map(|taken| taken.id));
                }
            }
            // What is being tried was read for it; nothing is read from the disk for its age.
            for envelope in taken.into_iter().filter_map(|id| Some(self.spool.cached(id)?.envelope)) {
                named.add_site(&site.name, envelope.accepted_at);
                named.add_tenant(&envelope.tenant, envelope.accepted_at);
            }
        }
        named
    }
}
