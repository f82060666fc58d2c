//! Purses: budgets of tenants and campaigns, and of tenants at one site.
//!
//! Whose is empty leaves the order of every path until its time; each path finds that out once, and takes a turn ahead of
//! time ([`Turns`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::limit::budget::{Budget, Refused};
use crate::limit::permit::{Scope, What};
use crate::limit::turns::Turns;

use super::dues::Whose;
use super::flow::{Flow, Tenant};
use super::rules::{Ceiling, Of, Rules};

/// What a tenant or a campaign may send.
#[derive(Debug)]
pub(super) struct Purse {
    pub budget: Option<Budget>,
    /// Recipients of one transaction.
    pub most: Option<usize>,
}

impl Purse {
    /// The purse of a ceiling, after `before`; none if it limits nothing.
    pub fn new(ceiling: &Ceiling, before: Option<&Self>, now: Instant) -> Option<Self> {
        let allowance = ceiling.allowance();
        let budget = match before.and_then(|before| before.budget.as_ref()) {
            Some(before) => before.followed_by(&allowance, now),
            None => Budget::new(&allowance, now),
        };
        let most = ceiling.recipients_per_transaction.and_then(|most| usize::try_from(most).ok());
        (budget.is_some() || most.is_some()).then_some(Self { budget, most })
    }
}

/// Purses of tenants at one site.
#[derive(Debug, Default)]
pub(super) struct Purses {
    /// By the tenant's key; none: no rule is about it.
    by_tenant: HashMap<usize, Option<Purse>, foldhash::fast::RandomState>,
    /// The site, where some rule is about tenants at it.
    at: Option<Box<(Arc<str>, Rules)>>,
}

/// Why nothing may be taken from a flow now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Empty {
    /// Its tenant's purse, there or everywhere.
    Tenant(Instant),
    /// Its campaign's.
    Campaign(Instant),
}

impl Purses {
    /// Purses at `site` by `rules`.
    pub fn new(site: &Arc<str>, rules: &Rules) -> Self {
        let at = rules.has_tenants_at(site).then(|| Box::new((site.clone(), rules.clone())));
        Self { at, ..Self::default() }
    }

    /// Goes by other rules; what was used up stays so.
    pub fn apply(&mut self, site: &Arc<str>, rules: &Rules, tenants: &HashMap<usize, Arc<Tenant>>, now: Instant) {
        let before = std::mem::replace(self, Self::new(site, rules));
        for (key, purse) in before.by_tenant {
            if let Some(tenant) = tenants.get(&key) {
                let ceiling = rules.ceiling(Of::TenantSite(&tenant.name, site));
                self.by_tenant.insert(key, Purse::new(&ceiling, purse.as_ref(), now));
            }
        }
    }

    fn ensure(&mut self, tenant: &Tenant, now: Instant) {
        let Some((site, rules)) = self.at.as_deref() else { return };
        let make = || {
            let purse = Purse::new(&rules.ceiling(Of::TenantSite(&tenant.name, site)), None, now);
            let whose = || Whose::TenantSite(tenant.name.clone(), (**site).into());
            tenant.dues.settle(purse.as_ref().and_then(|purse| purse.budget.as_ref()), now, whose);
            purse
        };
        self.by_tenant.entry(tenant.key).or_insert_with(make);
    }

    /// Forgets purses that owe nothing.
    pub fn sweep(&mut self, now: Instant) {
        let is_idle = |budget: &Budget| budget.is_idle(now);
        self.by_tenant.retain(|_, purse| {
            purse.as_ref().and_then(|purse| purse.budget.as_ref()).is_some_and(|budget| !is_idle(budget))
        });
        if self.by_tenant.is_empty() {
            self.by_tenant = HashMap::default();
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_tenant.is_empty()
    }

    /// The purse of a tenant.
    pub fn of(&self, tenant: usize) -> Option<&Purse> {
        if self.by_tenant.is_empty() { None } else { self.by_tenant.get(&tenant).and_then(Option::as_ref) }
    }

    /// By the tenant's key.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Purse)> {
        self.by_tenant.iter().filter_map(|(tenant, purse)| Some((*tenant, purse.as_ref()?)))
    }

    /// Takes a message of `flow` out of every purse, or out of none; tells how many recipients it may have at most. `turns` are
    /// those of its tenant and its campaigns at one path.
    pub fn take(&mut self, flow: &Arc<Flow>, turns: &mut Turns, now: Instant) -> Result<usize, Empty> {
        self.ensure(&flow.tenant, now);
        let (tenant, campaign) = (flow.tenant.purse.load(), flow.purse.load());
        let here = self.of(flow.tenant.key);
        if here.is_none() && tenant.as_deref().is_none() && campaign.as_deref().is_none() {
            return Ok(usize::MAX);
        }
        let purses = [here, tenant.as_deref(), campaign.as_deref()];
        let [here, everywhere, of_campaign] = purses.map(|purse| purse.and_then(|purse| purse.budget.as_ref()));
        let budgets =
            [(Scope::TenantSite, 0, here), (Scope::Tenant, 0, everywhere), (Scope::Campaign, flow.key(), of_campaign)];
        turns.acquire(&budgets, What::Messages, now).map_err(|Refused { scope, spent }| match scope {
            Scope::Campaign => Empty::Campaign(spent.until),
            _ => Empty::Tenant(spent.until),
        })?;
        Ok(purses.into_iter().flatten().filter_map(|purse| purse.most).min().unwrap_or(usize::MAX))
    }

    /// Gives back what [`Purses::take`] took.
    pub fn refund(&self, flow: &Flow) {
        self.each(flow, |budget| budget.refund(What::Messages));
    }

    /// Calls `act` for each budget of `flow` here.
    pub fn each(&self, flow: &Flow, act: impl FnMut(&Budget)) {
        let (tenant, campaign) = (flow.tenant.purse.load(), flow.purse.load());
        let purses = [self.of(flow.tenant.key), tenant.as_deref(), campaign.as_deref()];
        purses.into_iter().flatten().filter_map(|purse| purse.budget.as_ref()).for_each(act);
    }
}
