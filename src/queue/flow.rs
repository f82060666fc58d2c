//! Tenants, and flows: what a site keeps apart for fairness (tenant, lane, campaign) and by egress pool.
//!
//! Both are interned: an entry holds one pointer. Those that nothing refers to are forgotten by [`Tenants::sweep`].

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use crate::message::Lane;
use crate::metrics::bounded::Place;

use super::dues::{Dues, Whose};
use super::purse::Purse;
use super::rare::Rare;
use super::rules::{Of, Rules};
use super::settings::Settings;
use super::top::Fates;

type State = foldhash::fast::RandomState;

/// Whose messages.
#[derive(Debug)]
pub(super) struct Tenant {
    pub name: Box<str>,
    /// Distinguishes tenants within this daemon.
    pub key: usize,
    /// Its share beside others; written by [`Tenants::apply`], like the two below.
    weight: AtomicU32,
    /// Recipients it may have queued.
    capacity: AtomicUsize,
    /// Index of its egress pool, if it has one of its own; else [`NO_POOL`].
    pool: AtomicU16,
    /// Its unfinished recipients: raised by put and recover, lowered when one is finished.
    pub queued: AtomicUsize,
    /// Where its outcomes are counted for metrics.
    pub place: Place,
    /// How its recipients fared since it was met.
    pub fates: Fates,
    /// What it may send; none: no rule is about it.
    pub purse: Rare<Purse>,
    flows: Mutex<Flows>,
    /// What its campaigns owe from before the start.
    pub dues: Arc<Dues>,
}

#[derive(Debug, Default)]
struct Flows {
    by_hash: HashMap<u64, Arc<Flow>, State>,
    /// What campaigns may send, those about which there are rules.
    purses: HashMap<Box<str>, Arc<Purse>, State>,
}

/// Messages that are served in the order of their time.
#[derive(Debug)]
pub(super) struct Flow {
    pub tenant: Arc<Tenant>,
    pub lane: Lane,
    /// Empty: none.
    pub campaign: Box<str>,
    /// Index of the egress pool that the sender's domain has, if it has one: it comes before the tenant's.
    pub pool: Option<u16>,
    /// What its campaign may send, shared with the other flows of that.
    pub purse: Rare<Purse>,
}

/// A tenant without a pool of its own.
const NO_POOL: u16 = u16::MAX;

impl Tenant {
    fn new(name: &str, key: usize, settings: &Settings, pool: impl Fn(&str) -> Option<u16>, now: Instant) -> Self {
        let tenant = Self {
            name: name.into(),
            key,
            weight: AtomicU32::new(1),
            capacity: AtomicUsize::new(0),
            pool: AtomicU16::new(NO_POOL),
            queued: AtomicUsize::new(0),
            place: Place::default(),
            fates: Fates::default(),
            purse: Rare::new(None),
            flows: Mutex::default(),
            dues: Arc::default(),
        };
        tenant.apply(settings, pool, now);
        tenant
    }

    fn apply(&self, settings: &Settings, pool: impl Fn(&str) -> Option<u16>, now: Instant) {
        let own = settings.tenants.get(&*self.name);
        let pool = own.and_then(|own| own.pool.as_deref()).and_then(pool).unwrap_or(NO_POOL);
        self.weight.store(own.map_or(1, |own| own.weight.max(1)), Ordering::Relaxed);
        self.capacity.store(settings.tenant_capacity(&self.name), Ordering::Relaxed);
        self.pool.store(pool, Ordering::Relaxed);
        let rules = &settings.rules;
        let purse = Purse::new(&rules.ceiling(Of::Tenant(&self.name)), self.purse.load().as_deref(), now);
        self.purse.store(purse.map(Arc::new));
        let mut flows = self.flows.lock();
        let Flows { by_hash, purses } = &mut *flows;
        let before = std::mem::take(purses);
        for flow in by_hash.values() {
            let before = before.get(&flow.campaign).map(Arc::as_ref);
            flow.purse.store(self.purse_of(&flow.campaign, rules, purses, before, now));
        }
    }

    fn purse_of(
        &self,
        campaign: &str,
        rules: &Rules,
        purses: &mut HashMap<Box<str>, Arc<Purse>, State>,
        before: Option<&Purse>,
        now: Instant,
    ) -> Option<Arc<Purse>> {
        if campaign.is_empty() {
            return None;
        }
        if let Some(purse) = purses.get(campaign) {
            return Some(purse.clone());
        }
        let purse = Purse::new(&rules.ceiling(Of::Campaign(&self.name, campaign)), before, now).map(Arc::new)?;
        let whose = || Whose::Campaign(self.name.clone(), campaign.into());
        self.dues.settle(purse.budget.as_ref(), now, whose);
        purses.insert(campaign.into(), purse.clone());
        Some(purse)
    }

    /// What campaigns may send, those about which there are rules.
    pub fn campaign_purses(&self) -> Vec<(Box<str>, Arc<Purse>)> {
        self.flows.lock().purses.iter().map(|(name, purse)| (name.clone(), purse.clone())).collect()
    }

    /// Its share beside others.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Recipients it may have queued.
    pub fn capacity(&self) -> usize {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Index of its egress pool, if it has one of its own.
    pub fn pool(&self) -> Option<u16> {
        Some(self.pool.load(Ordering::Relaxed)).filter(|pool| *pool != NO_POOL)
    }

    /// The flow of this tenant with these properties.
    pub fn flow(
        self: &Arc<Self>,
        (lane, campaign, pool): (Lane, &str, Option<u16>),
        rules: &Rules,
        hasher: &State,
        now: Instant,
    ) -> Arc<Flow> {
        let hash = hasher.hash_one((lane, campaign, pool));
        let mut flows = self.flows.lock();
        if let Some(flow) = flows.by_hash.get(&hash)
            && flow.is(lane, campaign, pool)
        {
            return flow.clone();
        }
        let purse = Rare::new(self.purse_of(campaign, rules, &mut flows.purses, None, now));
        let flow = Arc::new(Flow { tenant: self.clone(), lane, campaign: campaign.into(), pool, purse });
        // On a collision of hashes the older flow keeps the place; this one is just not shared.
        flows.by_hash.entry(hash).or_insert_with(|| flow.clone());
        flow
    }
}

impl Flow {
    fn is(&self, lane: Lane, campaign: &str, pool: Option<u16>) -> bool {
        self.lane == lane && self.pool == pool && *self.campaign == *campaign
    }

    /// Distinguishes flows as long as they live.
    pub fn key(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }
}

/// Every tenant seen lately.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    table: RwLock<HashSet<ByName, State>>,
    next_key: AtomicUsize,
    pub dues: Arc<Dues>,
    pub hasher: State,
}

#[derive(Debug)]
struct ByName(Arc<Tenant>);

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

impl Tenants {
    /// The tenant of this name, if it is known.
    pub fn find(&self, name: &str) -> Option<Arc<Tenant>> {
        self.table.read().get(name).map(|found| found.0.clone())
    }

    /// The tenant of this name. `settings` is asked under the table's lock, so that a change of them is never missed: it is
    /// made before [`Tenants::apply`].
    pub fn intern<S: Deref<Target = Arc<Settings>>>(
        &self,
        name: &str,
        settings: impl Fn() -> S,
        pool: impl Fn(&str) -> Option<u16>,
        now: impl Fn() -> Instant,
    ) -> Arc<Tenant> {
        if let Some(tenant) = self.find(name) {
            return tenant;
        }
        let mut table = self.table.write();
        if let Some(found) = table.get(name) {
            return found.0.clone();
        }
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let now = now();
        let tenant = Tenant::new(name, key, &settings(), pool, now);
        let tenant = Arc::new(Tenant { dues: self.dues.clone(), ..tenant });
        let budget = tenant.purse.load_full();
        self.dues.settle(budget.as_ref().and_then(|purse| purse.budget.as_ref()), now, || Whose::Tenant(name.into()));
        table.insert(ByName(tenant.clone()));
        tenant
    }

    /// Has every tenant go by changed settings.
    pub fn apply(&self, settings: &Settings, pool: impl Fn(&str) -> Option<u16>, now: Instant) {
        for tenant in self.table.write().iter() {
            tenant.0.apply(settings, &pool, now);
        }
    }

    /// Every tenant.
    pub fn all(&self) -> Vec<Arc<Tenant>> {
        self.table.read().iter().map(|tenant| tenant.0.clone()).collect()
    }

    /// Forgets flows that no entry refers to, then tenants without flows; none that owes anything.
    pub fn sweep(&self, now: Instant) {
        let owes = |purse: &Purse| purse.budget.as_ref().is_some_and(|budget| !budget.is_idle(now));
        for tenant in self.all() {
            let mut flows = tenant.flows.lock();
            flows.by_hash.retain(|_, flow| Arc::strong_count(flow) > 1);
            flows.purses.retain(|_, purse| Arc::strong_count(purse) > 1 || owes(purse));
        }
        self.table.write().retain(|tenant| {
            // A count of one under the write lock: nobody else can be about to use it.
            Arc::strong_count(&tenant.0) > 1
                || tenant.0.queued.load(Ordering::Relaxed) > 0
                || tenant.0.purse.load().as_deref().is_some_and(owes)
                || !tenant.0.flows.lock().purses.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::purse::{Empty, Purses};
    use super::super::rules::{Ceiling, Name, Rule, Subject};
    use super::*;
    use crate::limit::turns::Turns;

    fn acme(tenants: &Tenants) -> Arc<Tenant> {
        let settings = Arc::new(Settings::default());
        tenants.intern("acme", || &settings, |_| None, Instant::now)
    }

    #[test]
    fn equal_flows_are_shared_and_swept_when_unused() {
        let (tenants, rules, now) = (Tenants::default(), Rules::default(), Instant::now());
        let tenant = acme(&tenants);
        let flow = |lane| tenant.flow((lane, "spring", None), &rules, &tenants.hasher, now);

        let (first, second, other) = (flow(Lane::Bulk), flow(Lane::Bulk), flow(Lane::Urgent));

        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &other));
        drop((first, second, other, tenant));
        tenants.sweep(now);
        assert!(tenants.find("acme").is_none());
    }

    #[test]
    fn a_tenant_with_queued_recipients_survives_a_sweep() {
        let tenants = Tenants::default();
        acme(&tenants).queued.store(1, Ordering::Relaxed);

        tenants.sweep(Instant::now());

        assert!(tenants.find("acme").is_some());
    }

    #[test]
    fn flows_of_one_campaign_share_its_purse_which_outlives_them_while_it_owes() {
        let campaign = Subject::Campaign(Name::Any, Name::new("spring"));
        let ceiling = Ceiling { messages: Some(vec![(1, Duration::from_secs(60))]), ..Ceiling::default() };
        let rule = Rule { subject: campaign, ceiling, set_by: Arc::from("test"), is_provider: false };
        let (tenants, rules, now) = (Tenants::default(), Rules::new(vec![rule]), Instant::now());
        let tenant = acme(&tenants);
        let flow = |lane, now| tenant.flow((lane, "spring", None), &rules, &tenants.hasher, now);
        let (bulk, urgent) = (flow(Lane::Bulk, now), flow(Lane::Urgent, now));
        let mut purses = Purses::default();
        let mut take = |flow: &Arc<Flow>| purses.take(flow, &mut Turns::default(), now);

        assert_eq!(take(&bulk), Ok(usize::MAX));
        let minute = Duration::from_secs(60);
        assert_eq!(take(&urgent), Err(Empty::Campaign(now + minute)));

        drop((bulk, urgent));
        tenants.sweep(now);
        let again = take(&flow(Lane::Normal, now));
        assert_eq!(again, Err(Empty::Campaign(now + minute)), "the turn that was given up");
    }
}
