//! Egress sources and the weighted pools that tenants and sender domains choose from.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A local address with the name that it says EHLO by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Local IPv4 address; unspecified: the kernel chooses. None: IPv4 is not used.
    pub ipv4: Option<Ipv4Addr>,
    /// Local IPv6 address; unspecified: the kernel chooses. None: IPv6 is not used, AAAA is not looked at.
    pub ipv6: Option<Ipv6Addr>,
    /// What it says in EHLO.
    pub ehlo_name: Arc<str>,
    /// Connections from it to all sites together.
    pub connections: Option<u32>,
}

/// Which sources there are and who uses which.
#[derive(Clone, Debug)]
pub struct Egress {
    /// Every source; pools refer to them by index.
    pub sources: Vec<Arc<Source>>,
    /// Every pool; the first one is used where nothing else is said.
    pub pools: Vec<EgressPool>,
    /// Pool name by sender domain (of the reverse-path); asked before the tenant's pool.
    pub sender_domains: HashMap<Box<str>, Box<str>>,
}

/// A weighted set of sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPool {
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Index into [`Egress::sources`], and weight.
    pub members: Vec<(usize, u32)>,
}

impl Default for Egress {
    /// One source whose addresses the kernel chooses.
    fn default() -> Self {
        let source = Source {
            name: Arc::from("default"),
            ipv4: Some(Ipv4Addr::UNSPECIFIED),
            ipv6: Some(Ipv6Addr::UNSPECIFIED),
            ehlo_name: Arc::from("localhost"),
            connections: None,
        };
        Self {
            sources: vec![Arc::new(source)],
            pools: vec![EgressPool { name: "default".into(), members: vec![(0, 1)] }],
            sender_domains: HashMap::new(),
        }
    }
}
