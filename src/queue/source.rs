//! Egress sources and the weighted pools that tenants and sender domains choose from.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::clock::UnixTime;

use super::entry::Entry;
use super::gates::Gates;

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

/// A deferred recipient is tried from the same source for this long: greylisting keys on it.
const STICKY: Duration = Duration::from_secs(86_400);

/// Chooses sources by weight.
#[derive(Debug)]
pub(super) struct Chooser {
    pools: Vec<Pool>,
    by_name: HashMap<Box<str>, u16>,
    by_sender: HashMap<Box<str>, u16>,
}

#[derive(Debug)]
struct Pool {
    /// Each source as often as its weight says, spread evenly; never empty.
    turns: Box<[u16]>,
    next: AtomicU32,
}

/// Turns of a pool at most: weights are scaled down to fit.
const MOST_TURNS: u32 = 1_000;

impl Pool {
    fn new(members: &[(usize, u32)]) -> Self {
        let total: u32 = members.iter().map(|(_, weight)| *weight).sum();
        let scale = total.div_ceil(MOST_TURNS).max(1);
        let weights = members.iter().filter(|(_, weight)| *weight > 0).filter_map(|(source, weight)| {
            let source = u16::try_from(*source).ok()?;
            Some((source, i64::from((*weight / scale).max(1)), 0_i64))
        });
        let mut weights: Vec<(u16, i64, i64)> = weights.collect();
        let total: i64 = weights.iter().map(|(_, weight, _)| weight).sum();
        // Smooth weighted round robin, worked out once.
        let turns = (0..total).filter_map(|_| {
            weights.iter_mut().for_each(|(_, weight, credit)| *credit += *weight);
            let best = weights.iter_mut().max_by_key(|(_, _, credit)| *credit)?;
            best.2 -= total;
            Some(best.0)
        });
        let mut turns: Vec<u16> = turns.collect();
        if turns.is_empty() {
            turns.push(0);
        }
        Self { turns: turns.into(), next: AtomicU32::new(0) }
    }

    fn has(&self, source: u16) -> bool {
        self.turns.contains(&source)
    }

    /// The source whose turn it is, or the next one that has room.
    fn choose(&self, gates: &Gates) -> u16 {
        let only = self.turns.first().copied().unwrap_or(0);
        if self.turns.len() < 2 {
            return only;
        }
        let start = usize::try_from(self.next.fetch_add(1, Ordering::Relaxed)).unwrap_or(0) % self.turns.len();
        let order = self.turns.iter().cycle().skip(start).take(self.turns.len());
        let has_room = |source: &&u16| gates.of(**source).is_none_or(|gate| gate.window.look());
        order.clone().find(has_room).or(order.clone().next()).copied().unwrap_or(only)
    }
}

impl Chooser {
    /// A chooser among the pools of `egress`.
    pub fn new(egress: &Egress) -> Self {
        let index = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
        let by_name: HashMap<Box<str>, u16> =
            egress.pools.iter().enumerate().map(|(at, pool)| (pool.name.clone(), index(at))).collect();
        let senders = egress.sender_domains.iter();
        let by_sender = senders.filter_map(|(domain, pool)| Some((domain.clone(), *by_name.get(pool)?))).collect();
        let pools = egress.pools.iter().map(|pool| Pool::new(&pool.members)).collect();
        Self { pools, by_name, by_sender }
    }

    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<u16> {
        self.by_name.get(name).copied()
    }

    /// The pool of a sender domain.
    pub fn pool_of_sender(&self, domain: &str) -> Option<u16> {
        if self.by_sender.is_empty() { None } else { self.by_sender.get(domain).copied() }
    }

    /// Sources of an entry's pool beside this one, by turns.
    pub fn others(&self, entry: &Entry, source: u16) -> Vec<u16> {
        let Some(pool) = self.pools.get(usize::from(entry.flow.pool)) else { return Vec::new() };
        let start = usize::try_from(pool.next.fetch_add(1, Ordering::Relaxed)).unwrap_or(0) % pool.turns.len().max(1);
        let mut others: Vec<u16> = Vec::new();
        for other in pool.turns.iter().cycle().skip(start).take(pool.turns.len()) {
            if *other != source && !others.contains(other) {
                others.push(*other);
            }
        }
        others
    }

    /// The source for the next attempt of an entry.
    pub fn choose(&self, entry: &Entry, now: UnixTime, gates: &Gates) -> u16 {
        let Some(pool) = self.pools.get(usize::from(entry.flow.pool)) else { return 0 };
        match entry.marks.source() {
            Some(source) if pool.has(source) && now.since(entry.accepted) < STICKY => source,
            _ => pool.choose(gates),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_the_weights_and_are_spread() {
        let pool = Pool::new(&[(0, 3), (1, 1), (2, 0)]);
        let gates = Gates::new(10, &[]);

        let chosen: Vec<u16> = (0..8).map(|_| pool.choose(&gates)).collect();

        assert_eq!(chosen, [0, 1, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_source_without_room_is_passed_over() {
        let source = |connections| Source { connections, ..(*Egress::default().sources[0]).clone() };
        let gates = Gates::new(10, &[Arc::new(source(Some(0))), Arc::new(source(None))]);
        let pool = Pool::new(&[(0, 1), (1, 1)]);

        let chosen: Vec<u16> = (0..4).map(|_| pool.choose(&gates)).collect();

        assert_eq!(chosen, [1; 4]);
    }

    #[test]
    fn huge_weights_are_scaled() {
        let pool = Pool::new(&[(0, 3_000_000), (1, 1_000_000)]);

        assert!(pool.turns.len() <= 1_000);
        assert_eq!(pool.turns.iter().filter(|source| **source == 1).count() * 4, pool.turns.len());
    }
}
