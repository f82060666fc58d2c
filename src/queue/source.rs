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

impl Source {
    /// Whether a connection from one is as good as one from the other.
    fn is_same_origin(&self, other: &Self) -> bool {
        self.ipv4 == other.ipv4 && self.ipv6 == other.ipv6 && self.ehlo_name == other.ehlo_name
    }
}

/// Which sources there are and who uses which.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Sources and pools by index, and the choice among them. Indexes stay through reloads, since entries, flows and paths
/// hold them: each belongs to a name. What is no longer configured is retired, and its index used again later.
#[derive(Debug)]
pub(super) struct Chooser {
    sources: Vec<Slot>,
    /// None: retired.
    pools: Vec<Option<Pool>>,
    by_name: HashMap<Box<str>, u16>,
    by_sender: HashMap<Box<str>, u16>,
    /// The pool that is used where nothing else is said.
    default: u16,
}

/// What an index stands for.
#[derive(Clone, Debug)]
struct Slot {
    source: Arc<Source>,
    /// Most connections from it: may change while connections hold the `source`.
    connections: Option<u32>,
    is_retired: bool,
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
        let nothing = Self {
            sources: Vec::new(),
            pools: Vec::new(),
            by_name: HashMap::new(),
            by_sender: HashMap::new(),
            default: 0,
        };
        nothing.followed_by(egress, |_| false)
    }

    /// The one that comes after it: what has the same name keeps its index. A retired index that is not `in_use` is free.
    pub fn followed_by(&self, egress: &Egress, in_use: impl Fn(u16) -> bool) -> Self {
        let mut sources = self.sources.clone();
        let was_retired: Vec<bool> = sources.iter().map(|slot| slot.is_retired).collect();
        sources.iter_mut().for_each(|slot| slot.is_retired = true);
        let mut taken = vec![false; sources.len()];
        let mut places = Vec::with_capacity(egress.sources.len());
        // Those that go on first, so that none of their indexes is given to a new one.
        for source in &egress.sources {
            let is_it = |(at, slot): (usize, &Slot)| {
                slot.source.name == source.name && was_retired.get(at) == Some(&false) && taken.get(at) == Some(&false)
            };
            let place = sources.iter().enumerate().position(is_it);
            if let Some(slot) = place.and_then(|at| sources.get_mut(at)) {
                // Connections go by the same one as long as nothing that they are made of has changed.
                let kept = if slot.source.is_same_origin(source) { slot.source.clone() } else { source.clone() };
                *slot = Slot { source: kept, connections: source.connections, is_retired: false };
            }
            if let Some(taken) = place.and_then(|at| taken.get_mut(at)) {
                *taken = true;
            }
            places.push(place);
        }
        for (place, source) in places.iter_mut().zip(&egress.sources) {
            if place.is_some() {
                continue;
            }
            let slot = Slot { source: source.clone(), connections: source.connections, is_retired: false };
            let is_free = |at: usize| was_retired.get(at) == Some(&true) && taken.get(at) == Some(&false);
            match (0..taken.len()).find(|at| is_free(*at) && !in_use(index(*at))) {
                Some(at) => {
                    sources.iter_mut().skip(at).take(1).for_each(|old| *old = slot.clone());
                    taken.iter_mut().skip(at).take(1).for_each(|taken| *taken = true);
                    *place = Some(at);
                }
                None => {
                    sources.push(slot);
                    *place = Some(sources.len() - 1);
                }
            }
        }
        let mut by_name: HashMap<Box<str>, u16> = self.by_name.clone();
        let mut pools: Vec<Option<Pool>> = self.pools.iter().map(|_| None).collect();
        for pool in &egress.pools {
            let members = pool.members.iter().filter_map(|(at, weight)| Some(((*places.get(*at)?)?, *weight)));
            let members: Vec<(usize, u32)> = members.collect();
            let next = index(pools.len());
            let at = usize::from(*by_name.entry(pool.name.clone()).or_insert(next));
            pools.resize_with(pools.len().max(at + 1), || None);
            pools.iter_mut().skip(at).take(1).for_each(|old| *old = Some(Pool::new(&members)));
        }
        let default = egress.pools.first().and_then(|pool| by_name.get(&pool.name)).copied().unwrap_or(0);
        let senders = egress.sender_domains.iter();
        let by_sender = senders.filter_map(|(domain, pool)| Some((domain.clone(), *by_name.get(pool)?))).collect();
        Self { sources, pools, by_name, by_sender, default }
    }

    /// The source of this index, unless it is retired.
    pub fn source(&self, index: u16) -> Option<&Arc<Source>> {
        self.sources.get(usize::from(index)).filter(|slot| !slot.is_retired).map(|slot| &slot.source)
    }

    /// Every source that is not retired, with its index and its limit.
    pub fn sources(&self) -> impl Iterator<Item = (u16, &Arc<Source>, Option<u32>)> {
        let slots = self.sources.iter().enumerate().filter(|(_, slot)| !slot.is_retired);
        slots.map(|(at, slot)| (index(at), &slot.source, slot.connections))
    }

    /// Whether connections from the source of this index are those that `other` would have made.
    pub fn is_as_in(&self, other: &Self, index: u16) -> bool {
        matches!((self.source(index), other.source(index)), (Some(one), Some(other)) if Arc::ptr_eq(one, other))
    }

    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<u16> {
        self.by_name.get(name).copied().filter(|pool| self.pool_at(*pool).is_some())
    }

    fn pool_at(&self, index: u16) -> Option<&Pool> {
        self.pools.get(usize::from(index)).and_then(Option::as_ref)
    }

    /// The pool of a sender domain.
    pub fn pool_of_sender(&self, domain: &str) -> Option<u16> {
        if self.by_sender.is_empty() { None } else { self.by_sender.get(domain).copied() }
    }

    /// The source of this name, unless it is retired.
    pub fn named(&self, name: &str) -> Option<u16> {
        self.sources().find(|(_, source, _)| *source.name == *name).map(|(index, ..)| index)
    }

    /// The pool of an entry: its sender's, else its tenant's, else the one for all.
    fn pool_for(&self, entry: &Entry) -> Option<&Pool> {
        let of_tenant = || entry.flow.tenant.pool().and_then(|pool| self.pool_at(pool));
        let own = entry.flow.pool.and_then(|pool| self.pool_at(pool));
        own.or_else(of_tenant).or_else(|| self.pool_at(self.default))
    }

    /// The sources of a pool, or of the one for all.
    pub fn members(&self, pool: Option<u16>) -> Vec<u16> {
        let pool = pool.and_then(|pool| self.pool_at(pool)).or_else(|| self.pool_at(self.default));
        let mut members = pool.map(|pool| pool.turns.to_vec()).unwrap_or_default();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Sources of an entry's pool beside this one, by turns.
    pub fn others(&self, entry: &Entry, source: u16) -> Vec<u16> {
        let Some(pool) = self.pool_for(entry) else { return Vec::new() };
        let start = usize::try_from(pool.next.fetch_add(1, Ordering::Relaxed)).unwrap_or(0) % pool.turns.len().max(1);
        let mut others: Vec<u16> = Vec::new();
        for other in pool.turns.iter().cycle().skip(start).take(pool.turns.len()) {
            if *other != source && !others.contains(other) {
                others.push(*other);
            }
        }
        others
    }

    /// Whether a deferred entry is tried again from the source that it was tried from.
    pub fn is_sticky(entry: &Entry, now: UnixTime) -> bool {
        now.since(entry.accepted) < STICKY
    }

    /// The source for the next attempt of an entry.
    pub fn choose(&self, entry: &Entry, now: UnixTime, gates: &Gates) -> u16 {
        let Some(pool) = self.pool_for(entry) else { return 0 };
        match entry.marks.source() {
            Some(source) if pool.has(source) && Self::is_sticky(entry, now) => source,
            _ => pool.choose(gates),
        }
    }
}

fn index(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::settings::Settings;
    use super::*;

    fn gates(sources: &[Arc<Source>]) -> Gates {
        let egress = Egress { sources: sources.to_vec(), ..Egress::default() };
        Gates::new(&Settings { egress, ..Settings::default() }, Instant::now())
    }

    #[test]
    fn turns_follow_the_weights_and_are_spread() {
        let pool = Pool::new(&[(0, 3), (1, 1), (2, 0)]);
        let gates = gates(&[]);

        let chosen: Vec<u16> = (0..8).map(|_| pool.choose(&gates)).collect();

        assert_eq!(chosen, [0, 1, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_source_without_room_is_passed_over() {
        let source = |connections| Source { connections, ..(*Egress::default().sources[0]).clone() };
        let gates = gates(&[Arc::new(source(Some(0))), Arc::new(source(None))]);
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

    fn egress(names: &[&str]) -> Egress {
        let source =
            |name: &&str| Arc::new(Source { name: Arc::from(*name), ..(*Egress::default().sources[0]).clone() });
        let pool = |(at, name): (usize, &&str)| EgressPool { name: (*name).into(), members: vec![(at, 1)] };
        Egress {
            sources: names.iter().map(source).collect(),
            pools: names.iter().enumerate().map(pool).collect(),
            sender_domains: HashMap::new(),
        }
    }

    fn names(chooser: &Chooser) -> Vec<(u16, String)> {
        chooser.sources().map(|(index, source, _)| (index, source.name.to_string())).collect()
    }

    #[test]
    fn names_keep_their_index_and_those_of_the_retired_are_used_again_once_unused() {
        let first = Chooser::new(&egress(&["a", "b", "c"]));

        let second = first.followed_by(&egress(&["d", "c", "a"]), |_| true);
        let third = second.followed_by(&egress(&["a", "e", "c"]), |source| source != 1);

        assert_eq!(names(&second), [(0, "a".into()), (2, "c".into()), (3, "d".into())]);
        assert_eq!(names(&third), [(0, "a".into()), (1, "e".into()), (2, "c".into())]);
        assert_eq!((second.pool("b"), second.pool("d"), second.pool("a")), (None, Some(3), Some(0)));
        assert_eq!((second.default, third.default), (3, 0));
    }

    #[test]
    fn a_source_is_another_only_if_its_connections_would_be() {
        let first = Chooser::new(&egress(&["a", "b"]));
        let mut next = egress(&["a", "b"]);
        next.sources[0] = Arc::new(Source { connections: Some(1), ..(*next.sources[0]).clone() });
        next.sources[1] = Arc::new(Source { ehlo_name: Arc::from("new.test"), ..(*next.sources[1]).clone() });

        let second = first.followed_by(&next, |_| true);

        assert!(Arc::ptr_eq(first.source(0).unwrap(), second.source(0).unwrap()));
        assert_eq!(&*second.source(1).unwrap().ehlo_name, "new.test");
    }
}
