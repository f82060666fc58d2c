//! Recipient domains: each knows its plan, its site, and the entries that wait for a plan.
//!
//! Interned in a table of a few parts, each behind its own lock; forgotten when no entry refers to them.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::dns::{Plan, PlanFailure};

use super::entry::Entry;
use super::site::Site;

type State = foldhash::fast::RandomState;

/// The domain of forward-paths.
#[derive(Debug)]
pub(super) struct Domain {
    /// Lower case.
    pub name: Arc<str>,
    /// Entries that wait for their time: raised and lowered by the timers.
    pub scheduled: AtomicU32,
    /// Locked briefly; nothing else is locked meanwhile.
    pub state: Mutex<DomainState>,
}

/// What changes about a domain.
#[derive(Debug, Default)]
pub(super) struct DomainState {
    /// The plan that entries go by when they become ready, and the site it leads to.
    pub route: Option<Route>,
    /// Why the last look-up gave no plan; for people.
    pub failure: Option<Arc<PlanFailure>>,
    /// Entries that wait for a look-up. Taken by whoever finishes it.
    pub waiting: Vec<Entry>,
    /// A look-up is under way or waits for its turn; it ends with `waiting` empty.
    pub is_looked_up: bool,
}

/// Where a domain's mail goes.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub plan: Arc<Plan>,
    pub site: Arc<Site>,
}

impl DomainState {
    /// The route, while its plan is good.
    pub fn current(&self, now: Instant) -> Option<&Route> {
        self.route.as_ref().filter(|route| route.plan.valid_until > now)
    }
}

#[derive(Debug)]
struct ByName(Arc<Domain>);

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl std::borrow::Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

/// Every domain seen lately.
#[derive(Debug)]
pub(super) struct Domains {
    parts: Box<[Mutex<HashSet<ByName, State>>]>,
    hasher: State,
}

impl Domains {
    /// An empty table of `parts` parts.
    pub fn new(parts: usize) -> Self {
        Self { parts: (0..parts.max(1)).map(|_| Mutex::default()).collect(), hasher: State::default() }
    }

    /// The domain of this name.
    pub fn intern(&self, name: &str) -> Arc<Domain> {
        let hash = usize::try_from(self.hasher.hash_one(name) >> 32).unwrap_or_default();
        let Some(part) = self.parts.get(hash % self.parts.len()) else { return Domain::new(name) };
        let mut part = part.lock();
        if let Some(found) = part.get(name) {
            return found.0.clone();
        }
        let domain = Domain::new(name);
        part.insert(ByName(domain.clone()));
        domain
    }

    /// Calls `each` with every domain, a part at a time, without a lock held.
    pub fn for_each(&self, mut each: impl FnMut(&Arc<Domain>)) {
        for part in &self.parts {
            let domains: Vec<Arc<Domain>> = part.lock().iter().map(|found| found.0.clone()).collect();
            domains.iter().for_each(&mut each);
        }
    }

    /// Forgets domains without entries; tells how many are left. Their plans stay with the planner.
    pub fn sweep(&self) -> usize {
        let mut left = 0;
        for part in &self.parts {
            let mut part = part.lock();
            // A count of one under the part's lock: no entry refers to it, and nobody can be about to.
            part.retain(|domain| Arc::strong_count(&domain.0) > 1);
            part.shrink_to_fit();
            left += part.len();
        }
        left
    }
}

impl Domain {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: Arc::from(name), scheduled: AtomicU32::new(0), state: Mutex::default() })
    }

    /// Counts `entries` more that wait for their time.
    pub fn add_scheduled(&self, entries: u32) {
        self.scheduled.fetch_add(entries, Ordering::Relaxed);
    }

    /// Counts `entries` less.
    pub fn remove_scheduled(&self, entries: u32) {
        self.scheduled.fetch_sub(entries, Ordering::Relaxed);
    }
}
