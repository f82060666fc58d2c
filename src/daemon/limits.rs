//! From `[limits]` and the provider map to what the queue holds itself to.

use std::collections::{BTreeSet, HashMap};
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
    let mut starts: HashMap<Box<str>, Start> = known.map(|known| ((*known.name).into(), start(&known.start))).collect();
    for domain in domains(limits) {
        if let Some(start) = map.of_domain(&domain).and_then(|provider| starts.get(&**provider)).copied() {
            starts.insert(domain.into(), start);
        }
    }
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
    let mut rules: Vec<Rule> = limits.rules.iter().filter_map(rule).chain(published).collect();
    rules.extend(inherited(limits, &rules));
    Rules::new(rules)
}

/// Domains that have a rule, as their sites are named.
pub(super) fn domains(limits: &Limits) -> impl Iterator<Item = String> {
    limits.rules.iter().filter_map(|rule| rule.domain.as_ref()).map(|domain| domain.to_lowercase())
}

/// A well-known domain with a rule is a site of its own; what no rule says about it, those about its provider say.
fn inherited(limits: &Limits, rules: &[Rule]) -> Vec<Rule> {
    let map = provider::Map::built_in().unwrap_or_default();
    let domains: BTreeSet<String> = domains(limits).collect();
    let owned = domains.into_iter().filter_map(|domain| Some((Name::new(&domain), map.of_domain(&domain)?)));
    let of_provider = |(domain, provider): (Name, &Arc<str>)| {
        let provider = Name::new(provider);
        let about = move |rule: &Rule| {
            let subject = match &rule.subject {
                Subject::Site(site) if *site == provider => Subject::Site(domain.clone()),
                Subject::SourceSite(source, site) if *site == provider => {
                    Subject::SourceSite(source.clone(), domain.clone())
                }
                Subject::TenantSite(tenant, site) if *site == provider => {
                    Subject::TenantSite(tenant.clone(), domain.clone())
                }
                _ => return None,
            };
            Some(Rule { subject, ..rule.clone() })
        };
        rules.iter().filter_map(about).collect::<Vec<_>>()
    };
    owned.flat_map(of_provider).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rules: &str) -> Limits {
        toml::from_str(rules).unwrap()
    }

    #[test]
    fn what_a_domains_rule_leaves_open_its_providers_rules_and_figures_say() {
        let limits = limits(
            "[[rule]]\nsite = \"yahoo\"\nconnections = 7\nrate = \"50/s\"\n\
             [[rule]]\nsource = \"a\"\nsite = \"yahoo\"\nconnections = 3\n\
             [[rule]]\ndomain = \"AOL.com\"\nrate = \"5/s\"\n\
             [[rule]]\ndomain = \"a.test\"\nrate = \"4/s\"\n",
        );
        let second = Duration::from_secs(1);

        let (yahoo, aol, other) =
            (site_limits(&limits, "yahoo"), site_limits(&limits, "aol.com"), site_limits(&limits, "a.test"));

        assert_eq!((yahoo.connections, yahoo.messages_per_connection), (7, Some(20)));
        assert_eq!((aol.connections, aol.messages_per_connection), (7, Some(20)));
        assert_eq!((&*aol.allowance.messages, &*yahoo.allowance.messages), (&[(5, second)][..], &[(50, second)][..]));
        assert_eq!((other.connections, other.messages_per_connection), (20, Some(1000)));
        let from_a = rules(&limits).ceiling(queue::rules::Of::SourceSite("a", "aol.com"));
        assert_eq!(from_a.connections, Some(3));
    }

    #[test]
    fn a_domain_of_its_own_begins_where_its_provider_does() {
        let learning = learning(&limits("[[rule]]\ndomain = \"GMail.com\"\nrate = \"5/s\"\n"));

        assert_eq!(learning.starts.get("gmail.com"), learning.starts.get("google"));
        assert!(learning.starts.contains_key("google") && !learning.starts.contains_key("a.test"));
    }
}
