//! Outcomes that no transaction has brought, and what else concerns messages that nobody has read: their envelopes are
//! read for the journal before they are settled, since a finished message cannot be read any more.
//!
//! Done by one thread at a time, so that a site or a resolver that is down cannot occupy every thread that may block.
//! What waits here counts as in flight. Without a journal and feedback nothing waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::Mutex;

use crate::clock::UnixTime;
use crate::journal::{Event, Subject};
use crate::message::{Envelope, MessageId};
use crate::state::OrderId;

use super::domain::Domain;
use super::engine::Engine;
use super::entry::{Entry, Return};
use super::passage::Passage;
use super::settle::{Attempt, Decided, Telling};

/// Outcomes of recipients of one message.
#[derive(Debug)]
pub(super) struct Settlement {
    pub wall: UnixTime,
    pub is_mass: bool,
    pub returns: Return,
    /// Index of the egress source, if there was a connection.
    pub source: Option<u16>,
    /// When a connection took it.
    pub since: Option<Instant>,
    /// The order that decides them.
    pub order: Option<OrderId>,
    /// Not empty.
    pub outcomes: Vec<Decided>,
}

#[derive(Debug)]
enum Work {
    Settle(Settlement, Passage),
    /// With why they are held, and the order that holds them; empty: none.
    Held(Vec<(MessageId, u32, Arc<Domain>)>, Box<str>, Box<str>),
}

/// What waits for an envelope.
#[derive(Debug, Default)]
pub(super) struct Unread {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Work>,
    /// A thread is at it, or is about to be.
    is_attended: bool,
}

/// Lets another thread go on, should this one panic.
struct Attendance<'a>(&'a Unread);

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.state.lock().is_attended = false;
        }
    }
}

impl Engine {
    /// Outcomes without an envelope.
    pub fn decide_unread(self: &Arc<Self>, settlement: Settlement) {
        if !self.journal.is_on() && self.feedback.is_none() {
            return self.decide_with(settlement, None);
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.read_first(Work::Settle(settlement, self.outings.begin()));
    }

    /// Tells the journal of entries that are held.
    pub fn tell_held(self: &Arc<Self>, entries: &[Entry], reason: &str, order: Option<OrderId>) {
        if self.journal.is_on() && !entries.is_empty() {
            let subjects = entries.iter().map(|entry| (entry.id, entry.recipient, entry.domain.clone()));
            let order = order.map(|order| order.to_string()).unwrap_or_default();
            self.read_first(Work::Held(subjects.collect(), reason.into(), order.into()));
        }
    }

    fn read_first(self: &Arc<Self>, work: Work) {
        {
            let mut state = self.unread.state.lock();
            state.waiting.push_back(work);
            if std::mem::replace(&mut state.is_attended, true) {
                return;
            }
        }
        let engine = self.clone();
        match self.handle() {
            Some(handle) => drop(self.tasks.spawn_blocking_on(move || engine.attend(), handle)),
            // Nothing was started: whoever calls may block.
            None => engine.attend(),
        }
    }

    fn attend(self: &Arc<Self>) {
        let _attendance = Attendance(&self.unread);
        loop {
            let work = {
                let mut state = self.unread.state.lock();
                let Some(work) = state.waiting.pop_front() else {
                    state.is_attended = false;
                    return;
                };
                work
            };
            match work {
                Work::Settle(settlement, _outing) => {
                    let id = settlement.outcomes.first().map(|decided| decided.entry.id);
                    let envelope = id.and_then(|id| self.spool.envelope(id).ok());
                    self.decide_with(settlement, envelope.as_deref());
                    self.in_flight.fetch_sub(1, Ordering::AcqRel);
                }
                Work::Held(subjects, reason, order) => {
                    for (id, recipient, domain) in subjects {
                        let envelope = self.spool.envelope(id).ok();
                        let (envelope, site) = (envelope.as_deref(), domain.site());
                        let subject = Subject { id, envelope, recipient, site: site.as_deref() };
                        self.journal.tell(&Event::Held { subject, reason: &reason, order: &order });
                    }
                }
            }
        }
    }

    fn decide_with(self: &Arc<Self>, settlement: Settlement, envelope: Option<&Envelope>) {
        let Settlement { wall, is_mass, returns, source, since, order, outcomes } = settlement;
        let site = outcomes.first().and_then(|decided| decided.entry.domain.site());
        let origin = source.and_then(|source| self.source(source));
        let telling = Telling {
            envelope,
            size: None,
            site: site.as_deref(),
            source: origin.as_ref().map(|source| &*source.name),
            attempted: since.map(|since| self.clock.wall_at(since)),
            order,
        };
        self.decide(Attempt { wall, is_mass, returns, source, telling }, outcomes.into_iter());
    }
}

impl Domain {
    /// Name of the site that it leads to, as far as known.
    pub(super) fn site(&self) -> Option<Arc<str>> {
        self.state.lock().route.as_ref().map(|route| route.site.name.clone())
    }
}
