//! From `[limits]` and the provider map to what the queue holds itself to.

use std::sync::Arc;
use std::time::Duration;

use crate::config::units::{ByteRate, Rates};
use crate::config::{LimitRule, Limits, RuleScope, Warmup};
use crate::limit::budget::Allowance;
use crate::limit::controller::Start;
use crate::limit::warmup;
use crate::provider::{self, Figures};
use crate::queue;
use crate::queue::rules::{Ceiling, Name, Rule, Rules, Subject};
use crate::queue::settings;

use super::settings::{size, some_unless_zero};

/// What everything together is held to in time.
pub(super) fn everything(limits: &Limits) -> Allowance {
    Allowance {
        messages: periods(limits.rate.as_ref()),
        openings: some_unless_zero(limits.connections_per_minute),
        octets: octets(limits.bytes),
    }
}

/// What a site is held to about which no rule says more.
pub(super) fn site(limits: &Limits) -> settings::Limits {
    settings::Limits {
        connections: limits.site_connections,
        messages_per_connection: some_unless_zero(limits.messages_per_connection),
        recipients_per_connection: None,
        recipients_per_message: size(limits.recipients_per_transaction),
        allowance: Allowance {
            messages: periods(limits.site_rate.as_ref()),
            openings: some_unless_zero(limits.site_connections_per_minute),
            octets: None,
        },
    }
}

/// How limits are learnt, and where that begins.
pub(super) fn learning(limits: &Limits) -> queue::learning::Settings {
    let map = if limits.providers { provider::Map::built_in().unwrap_or_default() } else { provider::Map::default() };
    let first_rate = f64::from(limits.first_rate.count) / limits.first_rate.per.as_secs_f64();
    let start = |figures: &Figures| Start {
        rate: figures.messages_per_second.map_or(first_rate, f64::from),
        connections: figures.connections.unwrap_or(Start::default().connections),
        messages_per_connection: figures.messages_per_connection.unwrap_or(0),
    };
    let known = map.known().iter().filter(|known| known.start != Figures::default());
    let starts = known.map(|known| ((*known.name).into(), start(&known.start))).collect();
    queue::learning::Settings { is_on: limits.learn, first_rate, starts }
}

/// What a site of this name is held to.
pub fn site_limits(limits: &Limits, name: &str) -> settings::Limits {
    rules(limits).limits(name, &site(limits))
}

/// The plans by which sources are warmed up.
pub(super) fn warmups(plans: &[Warmup]) -> Vec<queue::warmup::Rule> {
    let rule = |plan: &Warmup| queue::warmup::Rule {
        source: Arc::from(plan.source.as_str()),
        provider: plan.provider().map(Arc::from),
        overflow: plan.overflow().map(Arc::from),
        plan: warmup::Plan {
            start: plan.start,
            volumes: plan.volumes.as_slice().into(),
            spread: plan.spread.0,
            pause_at: plan.pause_at,
            pause_sample: plan.pause_sample,
            pause_for: plan.pause_for.0,
        },
    };
    plans.iter().map(rule).collect()
}

/// The rules of the configuration, and what providers have published.
pub(super) fn rules(limits: &Limits) -> Rules {
    let map = if limits.providers { provider::Map::built_in().unwrap_or_default() } else { provider::Map::default() };
    let published = map.known().iter().filter(|known| known.published != Figures::default()).map(|known| Rule {
        subject: Subject::Site(Name::new(&known.name)),
        ceiling: Ceiling {
            connections: known.published.connections,
            messages_per_connection: known.published.messages_per_connection,
            recipients_per_connection: known.published.recipients_per_connection,
            ..Ceiling::default()
        },
        set_by: Arc::from(format!("published by {}", known.name)),
        is_provider: true,
    });
    Rules::new(limits.rules.iter().filter_map(rule).chain(published).collect())
}

/// Domains that have a rule, as their sites are named.
pub(super) fn domains(limits: &Limits) -> impl Iterator<Item = String> {
    limits.rules.iter().filter_map(|rule| rule.domain.as_ref()).map(|domain| domain.to_lowercase())
}

fn rule(rule: &LimitRule) -> Option<Rule> {
    let name = |text: &Option<String>| Name::new(text.as_deref().unwrap_or("*"));
    // A domain is the name of its site, which is lower case.
    let domain = rule.domain.as_ref().map(|domain| domain.to_lowercase());
    let site = || Name::new(domain.as_deref().or(rule.site.as_deref()).unwrap_or("*"));
    let subject = match rule.scope()? {
        RuleScope::Site => Subject::Site(site()),
        RuleScope::Source => Subject::Source(name(&rule.source)),
        RuleScope::SourceSite => Subject::SourceSite(name(&rule.source), site()),
        RuleScope::Tenant => Subject::Tenant(name(&rule.tenant)),
        RuleScope::TenantSite => Subject::TenantSite(name(&rule.tenant), site()),
        RuleScope::Campaign => Subject::Campaign(name(&rule.tenant), name(&rule.campaign)),
    };
    let ceiling = Ceiling {
        connections: rule.connections,
        openings: rule.connections_per_minute,
        messages_per_connection: rule.messages_per_connection,
        recipients_per_connection: rule.recipients_per_connection,
        recipients_per_transaction: rule.recipients_per_transaction,
        messages: rule.rate.as_ref().map(|rates| periods(Some(rates))),
        octets: octets(rule.bytes),
    };
    Some(Rule { subject, ceiling, set_by: Arc::from(format!("rule {}", rule.name())), is_provider: false })
}

fn periods(rates: Option<&Rates>) -> Vec<(u32, Duration)> {
    rates.into_iter().flat_map(|rates| &rates.0).map(|rate| (rate.count, rate.per)).collect()
}

fn octets(rate: Option<ByteRate>) -> Option<u32> {
    rate.map(|rate| rate.0)
}
