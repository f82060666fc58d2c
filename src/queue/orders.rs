//! Operators' orders as the queue obeys them.
//!
//! An order is asked about every entry that becomes ready, about what is ready when it is placed, and about what is
//! deferred while it stands:
//!
//! | order | an entry that it is about |
//! |---|---|
//! | suspend | is parked when it would become ready; expires and reports its delay all the same |
//! | hold | is parked when it would become ready; does not expire, and when the order ends not before it has been tried |
//! | move | goes to the path of another egress source |
//! | delete, bounce | is given up, wherever it waits; one that is being tried: if that attempt is deferred. Without a duration only what was accepted before it, see `once` |
//!
//! Where several orders are about one entry, the one placed first decides, save that a move only chooses the source.
//! Without orders all of this costs two loads of atomics for each batch of entries.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::state::{self, Action, Order, OrderId};

use super::domain::Route;
use super::engine::Engine;
use super::entry::Entry;
use super::matcher::{Matcher, Whereabouts};
use super::once::Once;

/// An order with its selection made ready.
#[derive(Debug)]
pub(super) struct Standing {
    pub order: Arc<Order>,
    pub matcher: Matcher,
}

/// What becomes of an entry that would become ready.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is tried, from this source.
    Go(u16),
    /// It waits for the end of this order, or is given up by it.
    Stop(Arc<Standing>),
}

/// Every order that stands, and the entries that wait for the end of one.
#[derive(Debug)]
pub(super) struct Orders {
    /// On stable storage.
    pub book: state::Orders,
    standing: RwLock<Arc<[Arc<Standing>]>>,
    len: AtomicUsize,
    /// Raised whenever the orders change.
    version: AtomicU64,
    parked: Mutex<HashMap<OrderId, Vec<Entry>>>,
    /// Those that end mail once and are not done. Locked before everything else.
    pub once: Mutex<Vec<Once>>,
}

impl Standing {
    fn new(order: &Arc<Order>) -> Arc<Self> {
        Arc::new(Self { order: order.clone(), matcher: Matcher::new(&order.selection) })
    }

    /// Whether an entry may be one that the order is about.
    pub fn may_concern(&self, entry: &Entry, at: Whereabouts<'_>) -> bool {
        self.order.is_for(entry.id, entry.accepted) && self.matcher.may_match(entry, at)
    }

    /// As DSNs, tables and the journal show it.
    pub fn describe(&self) -> String {
        let Order { id, action, reason, .. } = &*self.order;
        let action = action.as_str();
        if reason.is_empty() { format!("{action} order {id}") } else { format!("{action} order {id}: {reason}") }
    }
}

impl Orders {
    /// The orders of an earlier run.
    pub fn new(book: state::Orders) -> Self {
        let standing: Arc<[_]> = book.standing().iter().map(Standing::new).collect();
        let once = standing.iter().filter(|standing| standing.order.is_once());
        Self {
            once: Mutex::new(once.map(|standing| Once::new(standing.order.id)).collect()),
            len: AtomicUsize::new(standing.len()),
            standing: RwLock::new(standing),
            version: AtomicU64::new(0),
            parked: Mutex::default(),
            book,
        }
    }

    /// Whether none stands: nearly always.
    pub fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    /// Changes with every change of the orders. Whoever lets entries go reads it before and afterwards.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// Those that stand, the oldest first.
    pub fn standing(&self) -> Arc<[Arc<Standing>]> {
        self.standing.read().clone()
    }

    /// Takes over what the book says now.
    pub fn reread(&self) {
        let mut standing = self.standing.write();
        let old = standing.clone();
        let kept = |order: &Arc<Order>| old.iter().find(|old| old.order.id == order.id).cloned();
        *standing =
            self.book.standing().iter().map(|order| kept(order).unwrap_or_else(|| Standing::new(order))).collect();
        self.len.store(standing.len(), Ordering::Release);
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Keeps entries until the order ends; gives them back if it has ended.
    pub fn park(&self, order: OrderId, entries: Vec<Entry>) -> Result<(), Vec<Entry>> {
        let mut parked = self.parked.lock();
        // Under the lock: who ends an order takes its entries afterwards.
        if !self.standing.read().iter().any(|standing| standing.order.id == order) {
            return Err(entries);
        }
        parked.entry(order).or_default().extend(entries);
        Ok(())
    }

    /// The entries of an order that has ended.
    pub fn release(&self, order: OrderId) -> Vec<Entry> {
        self.parked.lock().remove(&order).unwrap_or_default()
    }

    /// Takes parked entries for which `is_taken` says so.
    pub fn extract(&self, mut is_taken: impl FnMut(OrderId, &Entry) -> bool) -> Vec<Entry> {
        let mut parked = self.parked.lock();
        let mut taken = Vec::new();
        for (order, entries) in parked.iter_mut() {
            taken.extend(entries.extract_if(.., |entry| is_taken(*order, entry)));
        }
        taken
    }

    /// How many entries wait for the end of an order.
    pub fn parked(&self, order: OrderId) -> usize {
        self.parked.lock().get(&order).map_or(0, Vec::len)
    }

    /// Calls `each` with every parked entry, under a lock, until it returns false.
    pub fn for_each_parked(&self, mut each: impl FnMut(&Standing, &Entry) -> bool) {
        let standing = self.standing();
        let parked = self.parked.lock();
        for standing in standing.iter() {
            if !parked.get(&standing.order.id).is_none_or(|entries| entries.iter().all(|entry| each(standing, entry))) {
                return;
            }
        }
    }
}

impl Engine {
    /// Whether an order is about an entry. Where only the envelope could tell and it cannot be read: yes for orders that
    /// keep mail, no for those that end it.
    pub fn concerns(&self, standing: &Standing, entry: &Entry, at: Whereabouts<'_>) -> bool {
        standing.may_concern(entry, at)
            && self.confirm(&standing.matcher, entry).unwrap_or(!standing.order.action.is_final())
    }

    /// What becomes of an entry that would become ready at a site.
    pub fn judge(&self, orders: &[Arc<Standing>], entry: &mut Entry, site: &str) -> Verdict {
        let (verdict, meant) = self.judged(orders, entry, site);
        entry.marks = entry.marks.with_meant(meant);
        verdict
    }

    /// The same, with the source that it would leave from if the warm-up of that had room.
    fn judged(&self, orders: &[Arc<Standing>], entry: &Entry, site: &str) -> (Verdict, Option<u16>) {
        let name_of = |source: u16| self.source(source).map(|source| source.name.clone());
        let stopped = |source: u16| {
            let name = name_of(source);
            let at = Whereabouts { site: Some(site), source: name.as_deref() };
            let is_stop = |standing: &&Arc<Standing>| !matches!(standing.order.action, Action::Move { .. });
            orders.iter().filter(is_stop).find(|standing| self.concerns(standing, entry, at))
        };
        let wall = self.clock.wall();
        let chosen = self.sources.load().choose(entry, wall, &self.gates);
        let name = name_of(chosen);
        let at = Whereabouts { site: Some(site), source: name.as_deref() };
        let moved = orders.iter().rev().find_map(|standing| match &standing.order.action {
            Action::Move { source } if self.concerns(standing, entry, at) => self.source_named(source),
            _ => None,
        });
        // An order moves mail to a source; how much may leave from there its warm-up says.
        let (source, meant) = self.diverted(entry, moved.unwrap_or(chosen), site, wall);
        let Some(order) = stopped(source) else { return (Verdict::Go(source), meant) };
        if order.matcher.asks_source() && !order.order.action.is_final() && moved.is_none() {
            // Another source of its pool may do it.
            let others = self.sources.load().others(entry, source).into_iter();
            let mut others = others.map(|other| self.diverted(entry, other, site, wall));
            if let Some((other, meant)) = others.find(|(other, _)| stopped(*other).is_none()) {
                return (Verdict::Go(other), meant);
            }
        }
        (Verdict::Stop(order.clone()), None)
    }

    /// Sorts entries that would become ready at a site: those that go, with their sources. The others are seen to.
    pub fn obey(self: &Arc<Self>, route: &Route, entries: Vec<Entry>) -> Vec<(Entry, u16)> {
        let orders = self.orders.standing();
        let mut go = Vec::with_capacity(entries.len());
        let mut stopped: Vec<(Arc<Standing>, Vec<Entry>)> = Vec::new();
        for mut entry in entries {
            match self.judge(&orders, &mut entry, &route.site.name) {
                Verdict::Go(source) => go.push((entry, source)),
                Verdict::Stop(order) => match stopped.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &order)) {
                    Some((_, entries)) => entries.push(entry),
                    None => stopped.push((order, vec![entry])),
                },
            }
        }
        for (order, entries) in stopped {
            self.stop_by(&order, entries);
        }
        go
    }

    /// Parks entries, or gives them up.
    pub fn stop_by(self: &Arc<Self>, standing: &Arc<Standing>, entries: Vec<Entry>) {
        if standing.order.action.is_final() {
            return self.give_up(standing, entries);
        }
        if standing.order.action == Action::Hold {
            self.tell_held(&entries, &standing.order.reason, Some(standing.order.id));
        }
        if let Err(entries) = self.orders.park(standing.order.id, entries) {
            // It ended meanwhile.
            self.admit_all(self.freed_by(&standing.order, entries));
        }
    }

    /// The order that ends an entry which has just been deferred, or waits for its time.
    pub fn doom_of(&self, entry: &Entry) -> Option<Arc<Standing>> {
        if self.orders.is_empty() {
            return None;
        }
        let orders = self.orders.standing();
        let is_final = |standing: &&Arc<Standing>| standing.order.action.is_final();
        self.with_whereabouts(entry, |at| {
            orders.iter().filter(is_final).find(|standing| self.concerns(standing, entry, at)).cloned()
        })
    }

    /// Entries that an order keeps no more; what was held is tried before it expires.
    pub fn freed_by(&self, order: &Order, mut entries: Vec<Entry>) -> Vec<Entry> {
        if order.action == Action::Hold {
            let wall = self.clock.wall();
            entries.iter_mut().for_each(|entry| entry.release(wall));
        }
        entries
    }

    /// Entries whose time is over, without those that are held: these are parked.
    pub fn without_held(self: &Arc<Self>, entries: Vec<Entry>) -> Vec<Entry> {
        if self.orders.is_empty() {
            return entries;
        }
        let orders = self.orders.standing();
        let is_hold = |standing: &&Arc<Standing>| standing.order.action == Action::Hold;
        let mut left = Vec::new();
        for entry in entries {
            let held = self.with_whereabouts(&entry, |at| {
                orders.iter().filter(is_hold).find(|standing| self.concerns(standing, &entry, at)).cloned()
            });
            match held {
                Some(standing) => {
                    if let Err(freed) = self.orders.park(standing.order.id, vec![entry]) {
                        self.admit_all(self.freed_by(&standing.order, freed));
                    }
                }
                None => left.push(entry),
            }
        }
        left
    }

    /// With the site that its domain leads to and the source it was tried from, as far as they are known.
    pub fn with_whereabouts<T>(&self, entry: &Entry, act: impl FnOnce(Whereabouts<'_>) -> T) -> T {
        let site = entry.domain.state.lock().route.as_ref().map(|route| route.site.name.clone());
        let source = entry.marks.source().and_then(|source| self.source(source)).map(|source| source.name.clone());
        act(Whereabouts { site: site.as_deref(), source: source.as_deref() })
    }

    /// The index of the source of this name.
    pub fn source_named(&self, name: &str) -> Option<u16> {
        self.sources.load().named(name)
    }
}
