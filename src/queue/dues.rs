//! What was used up of budgets over an hour or a day, kept over a restart. Budgets over less are as good as new by then.
//!
//! At the start it is read; a budget takes up what it owes when it is made.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::limit::budget::{Budget, Part};
use crate::limit::permit::What;
use crate::state::Note;

use super::engine::Engine;

/// Budgets over at least this are kept.
const LONG: Duration = Duration::from_secs(3_600);

/// Whose budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Whose {
    /// Of everything together.
    Everything,
    /// A source.
    Source(Box<str>),
    /// A site.
    Site(Box<str>),
    /// A source at a site.
    SourceSite(Box<str>, Box<str>),
    /// A tenant.
    Tenant(Box<str>),
    /// A tenant at a site.
    TenantSite(Box<str>, Box<str>),
    /// A tenant's campaign.
    Campaign(Box<str>, Box<str>),
}

/// What is owed to one rate of messages, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    whose: Whose,
    per_seconds: u64,
    /// When all that has passed is paid for, in milliseconds since 1970-01-01 UTC.
    paid_at_ms: u64,
}

/// What budgets that are not made yet owe from before the start.
#[derive(Debug, Default)]
pub(super) struct Dues {
    /// The period, and when it is paid.
    pending: Mutex<HashMap<Whose, Vec<(Duration, Instant)>>>,
    /// Length of `pending`, to be looked at without its lock.
    len: AtomicUsize,
}

impl Dues {
    /// What an earlier run has kept. `wall` is the time since 1970 at `now`.
    pub fn new(store: &Note, now: Instant, wall: Duration) -> Self {
        let mut pending: HashMap<Whose, Vec<(Duration, Instant)>> = HashMap::new();
        let stored: Vec<Stored> = store.read().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        for Stored { whose, per_seconds, paid_at_ms } in stored {
            let per = Duration::from_secs(per_seconds);
            // A clock that was ahead must not stop mail for years.
            let owed = Duration::from_millis(paid_at_ms).saturating_sub(wall).min(per);
            if !owed.is_zero() {
                pending.entry(whose).or_default().push((per, now + owed));
            }
        }
        let len = AtomicUsize::new(pending.len());
        Self { pending: Mutex::new(pending), len }
    }

    /// Has a budget that was just made owe what it did before the start.
    pub fn settle(&self, budget: Option<&Budget>, now: Instant, whose: impl FnOnce() -> Whose) {
        let Some(budget) = budget.filter(|_| self.len.load(Ordering::Relaxed) > 0) else { return };
        let mut pending = self.pending.lock();
        for (per, paid_at) in pending.remove(&whose()).unwrap_or_default() {
            budget.owe(What::Messages, per, paid_at.saturating_duration_since(now), now);
        }
        self.len.store(pending.len(), Ordering::Relaxed);
    }
}

impl Engine {
    /// Keeps what is owed to budgets over an hour or a day, if there are any. Blocks on the disk.
    pub fn save_dues(&self) {
        let stored = self.owed();
        if stored.is_empty() && !self.spent.has_some() {
            return;
        }
        let text = serde_json::to_vec(&stored).unwrap_or_default();
        if let Err(error) = self.spent.replace(&text) {
            tracing::warn!(%error, "what is used up of budgets cannot be kept over a restart");
        }
    }

    fn owed(&self) -> Vec<Stored> {
        let now = self.clock.now();
        let wall = self.clock.wall_at(now);
        let mut found = Vec::new();
        let mut note = |budget: &Budget, whose: Whose| {
            for (Part { what, per, .. }, _, owed) in budget.rates(now) {
                if what == What::Messages && per >= LONG && !owed.is_zero() {
                    let paid_at_ms = u64::try_from((wall + owed).as_millis()).unwrap_or(u64::MAX);
                    found.push(Stored { whose: whose.clone(), per_seconds: per.as_secs(), paid_at_ms });
                }
            }
        };
        if let Some(budget) = self.gates.global().budget.load().as_deref() {
            note(budget, Whose::Everything);
        }
        let sources = self.sources.load_full();
        for (index, source, _) in sources.sources() {
            if let Some(budget) = self.gates.of(index).and_then(|gate| gate.budget.load_full()) {
                note(&budget, Whose::Source((*source.name).into()));
            }
        }
        for tenant in self.tenants.all() {
            if let Some(purse) = tenant.purse.load_full() {
                purse.budget.iter().for_each(|budget| note(budget, Whose::Tenant(tenant.name.clone())));
            }
            for (campaign, purse) in tenant.campaign_purses() {
                let whose = || Whose::Campaign(tenant.name.clone(), campaign.clone());
                purse.budget.iter().for_each(|budget| note(budget, whose()));
            }
        }
        let tenants: HashMap<usize, Box<str>> =
            self.tenants.all().iter().map(|tenant| (tenant.key, tenant.name.clone())).collect();
        for site in self.all_sites() {
            let name = || Box::<str>::from(&*site.name);
            let state = site.state.lock();
            state.budget.iter().for_each(|budget| note(budget, Whose::Site(name())));
            for origin in &state.origins {
                if let (Some(budget), Some(source)) = (&origin.budget, sources.source(origin.source)) {
                    note(budget, Whose::SourceSite((*source.name).into(), name()));
                }
            }
            for (key, purse) in state.purses.iter() {
                if let (Some(budget), Some(tenant)) = (&purse.budget, tenants.get(&key)) {
                    note(budget, Whose::TenantSite(tenant.clone(), name()));
                }
            }
        }
        found
    }
}
