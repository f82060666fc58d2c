//! An origin: what may leave from one egress source towards one site. Here what the configuration allows meets what has been
//! learnt.

use std::time::{Duration, Instant};

use crate::limit::budget::Budget;
use crate::limit::controller::{Ceilings, Controller, Learnt, Start};
use crate::limit::window::Window;

use super::rules::Ceiling;
use super::settings::Limits;
use super::warmup::Pass;

/// A source at a site; under the site's lock.
#[derive(Debug)]
pub(super) struct Origin {
    /// Index of the source.
    pub source: u16,
    pub connections: Window,
    /// Those that have said EHLO.
    pub established: u32,
    pub budget: Option<Box<Budget>>,
    /// None: it warms nothing up here.
    pub warmup: Option<Pass>,
    /// None: nothing is learnt here.
    pub controller: Option<Box<Controller>>,
    /// Learning begins as at a relay.
    pub is_relay: bool,
    /// An alarm for the controller's next look is set.
    pub has_tick: bool,
    /// It has learnt something that is not kept yet.
    pub has_news: bool,
    /// Messages over one connection.
    pub messages_per_connection: Option<u32>,
    /// Recipients over one connection.
    pub recipients_per_connection: Option<u32>,
    /// Recipients of one transaction.
    pub recipients_per_message: Option<usize>,
}

/// The window of what has no limit.
const NO_LIMIT: u32 = u32::MAX;

/// What an origin is made of, beside what it learns.
#[derive(Debug)]
pub(super) struct Bounds<'a> {
    /// Of the site.
    pub site: &'a Limits,
    /// Of the source at the site.
    pub both: Ceiling,
    /// Of the source.
    pub source: Ceiling,
}

/// When, in both ways of telling it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub now: Instant,
    /// Since 1970-01-01 UTC.
    pub wall: Duration,
}

impl Origin {
    /// One that is held to `bounds` and learns nothing.
    pub fn new(source: u16, bounds: &Bounds<'_>, now: Instant) -> Self {
        let mut origin = Self {
            source,
            connections: Window::new(NO_LIMIT),
            established: 0,
            budget: None,
            warmup: None,
            controller: None,
            is_relay: false,
            has_tick: false,
            has_news: false,
            messages_per_connection: None,
            recipients_per_connection: None,
            recipients_per_message: None,
        };
        origin.apply(bounds, now);
        origin
    }

    /// Has it learn what the receiver allows, from `start` on or from where it was before a restart. `seed` spreads pauses.
    pub fn learn(&mut self, bounds: &Bounds<'_>, start: Start, learnt: Option<&Learnt>, seed: u32, at: Moment) {
        let ceilings = bounds.ceilings();
        let controller = match learnt {
            Some(learnt) => Controller::restore(learnt, ceilings, seed, at.now, at.wall),
            None => Controller::new(ceilings, seed, at.now, at.wall).starting(start),
        };
        self.controller = Some(Box::new(controller));
    }

    /// Goes by other bounds: what was used up stays so, and what was learnt is not forgotten.
    pub fn apply(&mut self, bounds: &Bounds<'_>, now: Instant) {
        let Bounds { both, source, .. } = bounds;
        let least =
            |of: fn(&Ceiling) -> Option<u32>| [both, source].into_iter().filter_map(of).filter(|most| *most > 0).min();
        self.connections.set_ceiling(both.connections.unwrap_or(NO_LIMIT));
        self.messages_per_connection = least(|ceiling| ceiling.messages_per_connection);
        self.recipients_per_connection = least(|ceiling| ceiling.recipients_per_connection);
        let recipients = least(|ceiling| ceiling.recipients_per_transaction);
        self.recipients_per_message = recipients.and_then(|most| usize::try_from(most).ok());
        if let Some(controller) = &mut self.controller {
            controller.set_ceilings(bounds.ceilings());
        }
        let allowance = both.allowance();
        if self.budget.as_ref().is_some_and(|budget| budget.is_of(&allowance)) {
            return;
        }
        self.budget = match &self.budget {
            Some(before) => before.followed_by(&allowance, now),
            None => Budget::new(&allowance, now),
        }
        .map(Box::new);
    }

    /// Most connections that the configuration allows; none: no limit of its own.
    pub fn ceiling(&self) -> Option<u32> {
        Some(self.connections.ceiling()).filter(|ceiling| *ceiling != NO_LIMIT)
    }

    /// Messages over one connection, as allowed and as learnt.
    pub fn messages_per_connection(&mut self, now: Instant) -> Option<u32> {
        let learnt = self.controller.as_mut().and_then(|controller| controller.messages_per_connection(now));
        self.messages_per_connection.into_iter().chain(learnt).min()
    }

    /// Connections that are worth having now.
    pub fn worth(&mut self, now: Instant) -> u32 {
        self.controller.as_mut().map_or(NO_LIMIT, |controller| controller.worth(now))
    }

    /// Whether it can be forgotten; what it has learnt is kept elsewhere.
    pub fn is_unused(&self, now: Instant) -> bool {
        self.connections.used() == 0
            && !self.has_news
            && self.budget.as_ref().is_none_or(|budget| budget.is_idle(now))
            && self.controller.as_ref().is_none_or(|controller| controller.next_tick().is_none())
    }
}

impl Bounds<'_> {
    fn ceilings(&self) -> Ceilings {
        let Ceilings { rate, connections, messages_per_connection, openings_per_minute } = self.site.ceilings();
        let own = Limits { allowance: self.both.allowance(), ..Limits::default() }.ceilings();
        let some = |count: u32| Some(count).filter(|count| *count > 0);
        Ceilings {
            rate: rate.into_iter().chain(own.rate).reduce(f64::min),
            connections: connections.min(self.both.connections.unwrap_or(NO_LIMIT)),
            messages_per_connection,
            openings_per_minute: some(openings_per_minute).into_iter().chain(self.both.openings).min().unwrap_or(0),
        }
    }
}
