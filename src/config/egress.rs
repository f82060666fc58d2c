//! `[[source]]` and `[[pool]]`: the local addresses that mail leaves from.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::Complaints;
use crate::smtp::address::is_domain;

/// A local address with the name it says in EHLO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// How pools and tables call it.
    pub name: String,
    /// Local IPv4 address; absent: the system chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// Local IPv6 address; absent beside an IPv4 address: IPv6 is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Name in EHLO; absent: `hostname`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ehlo_name: Option<String>,
    /// Most connections from it; absent: no limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
}

/// A weighted set of sources. The first pool that names the domain of the reverse-path is used, else the first that names
/// the tenant, else the one called `default`, else one source without an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its sources.
    pub sources: Vec<PoolMember>,
    /// Tenants that use it.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// Domains of reverse-paths that use it.
    #[serde(default)]
    pub sender_domains: Vec<String>,
}

/// A source in a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolMember {
    /// The source's name.
    pub source: String,
    /// Its share beside the others.
    #[serde(default = "PoolMember::default_weight")]
    pub weight: u32,
}

impl PoolMember {
    const fn default_weight() -> u32 {
        1
    }
}

/// Most sources: the queue counts them in ten bits, and those that reloads have taken away keep theirs for a while.
const MOST_SOURCES: usize = 1_000;

pub(super) fn check(sources: &[Source], pools: &[Pool], complaints: &mut Complaints) {
    let text = format!("{} sources are too many; allowed: up to {MOST_SOURCES}", sources.len());
    complaints.unless(sources.len() <= MOST_SOURCES, "source", text);
    for (index, source) in sources.iter().enumerate() {
        let key = format!("source[{index}]");
        complaints.name(format!("{key}.name"), &source.name);
        if let Some(name) = &source.ehlo_name {
            complaints.host_name(format!("{key}.ehlo_name"), name);
        }
        complaints.range(format!("{key}.connections"), &source.connections.unwrap_or(1), &1, &1_000_000);
    }
    complaints.different(sources.iter().map(|source| source.name.as_str()), |index| format!("source[{index}].name"));
    complaints.different(pools.iter().map(|pool| pool.name.as_str()), |index| format!("pool[{index}].name"));
    for (index, pool) in pools.iter().enumerate() {
        let key = format!("pool[{index}]");
        complaints.name(format!("{key}.name"), &pool.name);
        for (place, tenant) in pool.tenants.iter().enumerate() {
            complaints.tenant(format!("{key}.tenants[{place}]"), tenant);
        }
        for (place, domain) in pool.sender_domains.iter().enumerate() {
            let text = format!("{domain:?} is no domain; allowed: a domain as in an address, \"example.com\"");
            complaints.unless(is_domain(domain), format!("{key}.sender_domains[{place}]"), text);
        }
        complaints.unless(!pool.sources.is_empty(), format!("{key}.sources"), "at least one source is needed");
        for (place, member) in pool.sources.iter().enumerate() {
            let key = format!("{key}.sources[{place}]");
            let is_known = sources.iter().any(|source| source.name == member.source);
            complaints.unless(is_known, key.clone(), format!("no [[source]] is named {:?}", member.source));
            complaints.range(format!("{key}.weight"), &member.weight, &1, &1000);
        }
    }
}
