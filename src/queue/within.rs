//! Domains that are sites of their own, since a rule names them, and what they would be otherwise: a provider, or an MX set.
//! What is said about that holds for them too, where nothing is said about themselves.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::dns::Plan;

use super::rare::Rare;

type Sites = HashMap<Arc<str>, Arc<str>, foldhash::fast::RandomState>;

/// Which site lies within which. There are as many as rules name domains.
#[derive(Debug)]
pub(super) struct Within {
    sites: Rare<Sites>,
    /// Held by who changes them.
    turn: Mutex<()>,
}

impl Default for Within {
    fn default() -> Self {
        Self { sites: Rare::new(None), turn: Mutex::default() }
    }
}

impl Within {
    /// Notes what DNS said last about a domain.
    pub fn note(&self, plan: &Plan) {
        let Some(parent) = &plan.parent else { return };
        if self.of(&plan.site).is_some_and(|known| known == parent.0) {
            return;
        }
        let _turn = self.turn.lock();
        let mut sites = self.sites.load().as_deref().cloned().unwrap_or_default();
        sites.insert(plan.site.clone(), parent.0.clone());
        self.sites.store(Some(Arc::new(sites)));
    }

    /// What a site would be without a rule of its own; none: it has none, or no mail was for it yet.
    pub fn of(&self, site: &str) -> Option<Arc<str>> {
        self.sites.load().as_deref()?.get(site).cloned()
    }
}
