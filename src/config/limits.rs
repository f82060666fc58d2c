//! `[limits]`: what the operator allows, for everything, for each site, and for whatever a rule names.
//!
//! What a rule names decides its scope: a site, a source, both, a tenant, a tenant at a site, a campaign. Within one scope
//! the most specific rule sets each value; across scopes all must have room.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Complaints;
use super::egress::Source;
use super::units::{ByteRate, Rate, Rates};
use crate::smtp::address::is_plain_utf8;

/// What the source is called that there is without any `[[source]]` in the pool of everybody.
const BARE_SOURCE: &str = "default";

/// What is allowed at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most connections altogether.
    pub connections: u32,
    /// Most new connections a minute altogether; 0: no limit.
    pub connections_per_minute: u32,
    /// Most messages altogether; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rates>,
    /// Most content altogether; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteRate>,
    /// Most connections to one site.
    pub site_connections: u32,
    /// Most messages over one connection; 0: no limit.
    pub messages_per_connection: u32,
    /// Most recipients in one transaction.
    pub recipients_per_transaction: u32,
    /// Most messages to one site, evenly spread; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site_rate: Option<Rates>,
    /// Most new connections a minute to one site; 0: no limit.
    pub site_connections_per_minute: u32,
    /// Whether the figures that providers have published hold for their sites.
    pub providers: bool,
    /// Whether what receivers allow is learnt from their replies.
    pub learn: bool,
    /// The rate at which learning begins at a site of which nothing is known.
    pub first_rate: Rate,
    /// What is allowed in particular.
    #[serde(rename = "rule")]
    pub rules: Vec<LimitRule>,
}

/// What a rule names, and what is allowed there; what is absent another rule or `[limits]` says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitRule {
    /// A site: a provider's name, an MX set or a domain, as `hikyaku sites` shows it; beside another key `*`: each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// A domain, which becomes a site of its own, whoever runs its MX hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// An egress source; `*`: each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A tenant; `*`: each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// A campaign; `*`: each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// Most connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Most new connections a minute; 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_minute: Option<u32>,
    /// Most messages over one connection; 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_connection: Option<u32>,
    /// Most recipients over one connection; 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients_per_connection: Option<u32>,
    /// Most recipients in one transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients_per_transaction: Option<u32>,
    /// Most messages, evenly spread; `[]`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rates>,
    /// Most content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteRate>,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleScope {
    /// A site.
    Site,
    /// A source.
    Source,
    /// A source at a site.
    SourceSite,
    /// A tenant.
    Tenant,
    /// A tenant at a site.
    TenantSite,
    /// A campaign, of one tenant or of each.
    Campaign,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_minute: 0,
            rate: None,
            bytes: None,
            site_connections: 20,
            messages_per_connection: 1000,
            recipients_per_transaction: 100,
            site_rate: None,
            site_connections_per_minute: 0,
            providers: true,
            learn: true,
            first_rate: Rate { count: 2, per: Duration::from_secs(1) },
            rules: Vec::new(),
        }
    }
}

impl Limits {
    pub(super) fn check(&self, sources: &[Source], complaints: &mut Complaints) {
        complaints.range("limits.connections", &self.connections, &1, &1_000_000);
        complaints.range("limits.connections_per_minute", &self.connections_per_minute, &0, &u32::MAX);
        complaints.range("limits.site_connections", &self.site_connections, &1, &100_000);
        let recipients = self.recipients_per_transaction;
        complaints.range("limits.recipients_per_transaction", &recipients, &1, &50_000);
        complaints.range("limits.messages_per_connection", &self.messages_per_connection, &0, &u32::MAX);
        complaints.range("limits.site_connections_per_minute", &self.site_connections_per_minute, &0, &u32::MAX);
        let names: Vec<String> = self.rules.iter().map(LimitRule::name).collect();
        complaints.different(names.iter().map(String::as_str), |index| format!("limits.rule[{index}]"));
        for (index, rule) in self.rules.iter().enumerate() {
            let key = format!("limits.rule[{index}]");
            rule.check(&key, complaints);
            let named = rule.source.as_deref().filter(|name| !matches!(*name, "" | "*"));
            if let Some(name) = named {
                let is_known = name == BARE_SOURCE || sources.iter().any(|source| source.name == name);
                let text = format!("no [[source]] is named {name:?}; allowed: the name of one, {BARE_SOURCE:?}, \"*\"");
                complaints.unless(is_known, format!("{key}.source"), text);
            }
        }
    }
}

impl LimitRule {
    /// What it is about; none: nothing, or what no scope is.
    pub fn scope(&self) -> Option<RuleScope> {
        let has_site = self.site.is_some() || self.domain.is_some();
        if self.site.is_some() && self.domain.is_some() {
            return None;
        }
        match (has_site, self.source.is_some(), self.tenant.is_some(), self.campaign.is_some()) {
            (true, false, false, false) => Some(RuleScope::Site),
            (false, true, false, false) => Some(RuleScope::Source),
            (true, true, false, false) => Some(RuleScope::SourceSite),
            (false, false, true, false) => Some(RuleScope::Tenant),
            (true, false, true, false) => Some(RuleScope::TenantSite),
            (false, false, _, true) => Some(RuleScope::Campaign),
            _ => None,
        }
    }

    /// The site that it names: a domain becomes one.
    pub fn site(&self) -> Option<&str> {
        self.site.as_deref().or(self.domain.as_deref())
    }

    /// What it names, for people; different rules of one configuration have different ones.
    pub fn name(&self) -> String {
        let parts = [
            ("site", &self.site),
            ("domain", &self.domain),
            ("source", &self.source),
            ("tenant", &self.tenant),
            ("campaign", &self.campaign),
        ];
        let named = parts.iter().filter_map(|(key, value)| Some(format!("{key} {}", value.as_deref()?)));
        named.collect::<Vec<_>>().join(", ")
    }

    fn check(&self, key: &str, complaints: &mut Complaints) {
        let scope = self.scope();
        let text = "names no scope; allowed: site, domain, source, source with site or domain, tenant, tenant with site or \
                    domain, campaign, campaign with tenant";
        complaints.unless(scope.is_some(), key, text);
        let is_plain = |c: char| c.is_ascii_graphic() || is_plain_utf8(c);
        let is_word = |text: &str| !text.is_empty() && text.chars().all(is_plain);
        let site = self.site.as_deref().unwrap_or("a");
        let text = "is no site; allowed: a provider's name, or what `hikyaku sites` shows, without white space";
        complaints.unless(is_word(site), format!("{key}.site"), format!("{site:?} {text}"));
        let text =
            "would be every site; allowed: the name of one; for all of them set limits.site_connections and the like";
        complaints.unless(scope != Some(RuleScope::Site) || site != "*", format!("{key}.site"), text);
        if let Some(domain) = &self.domain {
            complaints.host_name(format!("{key}.domain"), domain);
        }
        if let Some(tenant) = self.tenant.as_deref().filter(|tenant| *tenant != "*") {
            complaints.tenant(format!("{key}.tenant"), tenant);
        }
        for (name, value) in [("source", &self.source), ("campaign", &self.campaign)] {
            let is_empty = value.as_deref() == Some("");
            complaints.unless(!is_empty, format!("{key}.{name}"), "is empty; allowed: a name, or \"*\"");
        }
        self.check_values(key, scope, complaints);
    }

    fn check_values(&self, key: &str, scope: Option<RuleScope>, complaints: &mut Complaints) {
        let counts = [
            ("connections", self.connections, 1, 100_000),
            ("connections_per_minute", self.connections_per_minute, 0, u32::MAX),
            ("messages_per_connection", self.messages_per_connection, 0, u32::MAX),
            ("recipients_per_connection", self.recipients_per_connection, 0, u32::MAX),
            ("recipients_per_transaction", self.recipients_per_transaction, 1, 50_000),
        ];
        for (name, value, least, most) in counts {
            complaints.range(format!("{key}.{name}"), &value.unwrap_or(least), &least, &most);
        }
        let is_shared = matches!(scope, Some(RuleScope::Tenant | RuleScope::TenantSite | RuleScope::Campaign));
        for (name, value, ..) in counts.iter().take(4) {
            let text =
                "a connection carries the mail of every tenant; allowed: rate, bytes, recipients_per_transaction";
            complaints.unless(!(is_shared && value.is_some()), format!("{key}.{name}"), text);
        }
        let text = "the [[source]] itself says it; allowed: everything else";
        let is_twice = scope == Some(RuleScope::Source) && self.connections.is_some();
        complaints.unless(!is_twice, format!("{key}.connections"), text);
        let has_values =
            counts.iter().any(|(_, value, ..)| value.is_some()) || self.rate.is_some() || self.bytes.is_some();
        complaints.unless(has_values, key, "limits nothing; allowed: at least one of rate, connections and the like");
    }
}
