//! Recipients whose site or egress source is not known.
//!
//! A domain leads nowhere from a start or a reload until mail of it becomes ready, and a recipient has no source until it
//! is tried. An order that asks for either cannot tell whether such a recipient is meant before it becomes ready.

use std::sync::Arc;

use super::engine::Engine;
use super::entry::Entry;
use super::matcher::{Matcher, Whereabouts};
use super::orders::Standing;

impl Matcher {
    /// Whether it asks where an entry is.
    pub fn asks_whereabouts(&self) -> bool {
        self.asks_site() || self.asks_source()
    }
}

impl Engine {
    /// Domains are led to their sites where that takes no look-up, so that an order that asks for a site knows them.
    pub fn locate(self: &Arc<Self>, matcher: &Matcher) {
        if !matcher.asks_site() {
            return;
        }
        let (planner, now) = (self.planner(), self.clock.now());
        self.domains.for_each(|domain| {
            if domain.state.lock().route.is_none()
                && let Some(plan) = planner.plan_without_dns(&domain.name)
            {
                self.follow(domain, &planner, Ok(plan), Vec::new(), now);
            }
        });
    }

    /// How many recipients an order may be about that nobody can tell of yet.
    pub fn unknown(&self, standing: &Standing) -> usize {
        if !standing.matcher.asks_whereabouts() {
            return 0;
        }
        let mut count = 0;
        let mut look = |entry: &Entry, at: Whereabouts<'_>| {
            count += usize::from(
                standing.order.is_for(entry.id, entry.accepted) && standing.matcher.may_turn_out(entry, at),
            );
            true
        };
        for shard in self.timers.shards() {
            shard.for_each(|entry| self.with_whereabouts(entry, |at| look(entry, at)));
        }
        self.held.for_each(|entry, _| self.with_whereabouts(entry, |at| look(entry, at)));
        self.orders.for_each_parked(|_, entry| self.with_whereabouts(entry, |at| look(entry, at)));
        // Last: this is where those come to that become ready meanwhile.
        self.domains.for_each(|domain| {
            let state = domain.state.lock();
            let site = state.route.as_ref().map(|route| &*route.site.name);
            for entry in &state.waiting {
                look(entry, Whereabouts { site, source: None });
            }
        });
        count
    }
}
