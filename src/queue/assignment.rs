//! An assignment: recipients of one message in one domain, for one transaction.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::message::{Message, MessageId, Outcome, Report};

use super::engine::Engine;
use super::entry::{Entry, Marks};
use super::held::Hold;
use super::in_hand::{InHand, Recipients, Taken};
use super::path::Wait;
use super::salvage::Blame;
use super::settle::Tried;
use super::site::{Context, Site};

/// One transaction's work: recipients of one message in one domain. Given back uncharged when dropped.
#[derive(Debug)]
pub struct Assignment {
    engine: Arc<Engine>,
    site: Arc<Site>,
    path: u32,
    /// Not empty until it is reported or given back.
    entries: Vec<Entry>,
    recipients: Recipients,
    /// Where its path keeps it among those in hand.
    taken: u32,
    in_doubt: Option<SocketAddr>,
    /// For the journal.
    tried: Tried,
}

impl Assignment {
    /// Takes `entries` (of one message in one domain) out of the path at `path`, which notes them among those in hand.
    /// `octets` have been charged for them, if anybody counts them.
    pub(super) fn new(
        context: &Context<'_>,
        path: u32,
        (entries, octets): (Vec<Entry>, Option<u64>),
        in_hand: &mut InHand,
    ) -> Option<Self> {
        let Context { engine, site, now } = *context;
        let first = entries.first()?;
        let recipients: Recipients = entries.iter().map(|entry| entry.recipient).collect();
        let taken = in_hand.insert(Taken { id: first.id, recipients: recipients.clone(), since: now });
        let is_in_doubt = first.marks.has(Marks::IN_DOUBT);
        let in_doubt = is_in_doubt.then(|| engine.doubts.find(first.id, first.recipient)).flatten();
        let tried = Tried { message: None, since: now, count: 1, octets };
        engine.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Self { engine: engine.clone(), site: site.clone(), path, entries, recipients, taken, in_doubt, tried })
    }

    /// The message.
    pub fn id(&self) -> MessageId {
        self.entries.first().map_or(MessageId(0), |entry| entry.id)
    }

    /// The recipients' domain, lower case.
    pub fn domain(&self) -> &str {
        self.entries.first().map_or("", |entry| &entry.domain.name)
    }

    /// Indexes into the envelope's recipients.
    pub fn recipients(&self) -> &[u32] {
        self.recipients.as_slice()
    }

    /// An earlier attempt at this address has no outcome: try it there first.
    pub fn in_doubt(&self) -> Option<SocketAddr> {
        self.in_doubt
    }

    /// It is the connection's message of this number, the first being 1.
    pub(super) fn number(&mut self, count: u32) {
        self.tried.count = count;
    }

    /// The message has been read: what is reported of it can be told to the journal at once.
    pub fn carry(&mut self, message: &Message) {
        let length = message.content.len();
        self.tried.message = Some((message.envelope.clone(), length));
        // What is charged too much, envelope and all, is given back at the end; too little must not be until then.
        if self.tried.octets.is_some_and(|charged| charged < length) {
            self.recharge(length);
        }
    }

    /// Its octets turn out to be others than were charged.
    fn recharge(&mut self, octets: u64) {
        let (Some(charged), Some(entry)) = (self.tried.octets.replace(octets), self.entries.first()) else { return };
        let (gates, now) = (&self.engine.gates, self.engine.clock.now());
        let mut state = self.site.state.lock();
        if let Some(source) = state.path(self.path).map(|path| path.key.source) {
            state.recharge(gates, source, &entry.flow, (charged, octets), now);
        }
    }

    /// Takes note of what became of it. Recipients without an outcome are given back.
    pub(super) fn report(mut self, outcomes: Vec<Outcome>) {
        // Before its path has them in hand no more.
        let _outing = self.engine.outings.begin();
        let id = self.id();
        let mut entries = std::mem::take(&mut self.entries);
        if outcomes.len() < entries.len() {
            let untried = entries.split_off(outcomes.len());
            self.restore(id, untried, false);
        }
        let settle = || self.engine.settle(&self.site, (self.path, self.taken), entries, outcomes, &self.tried);
        if let Err(panic) = self.engine.walls.outcomes.call(settle) {
            self.lose(id);
            let keys = self.recipients().iter().map(|recipient| (id, *recipient)).collect();
            self.engine.salvage(keys, Blame::Certain, panic);
        }
    }

    /// Its message is damaged.
    pub(super) fn hold_damaged(mut self) {
        let _outing = self.engine.outings.begin();
        if self.tried.octets.is_some() {
            self.recharge(0);
        }
        let entries = self.take_out();
        self.engine.hold(entries, Hold::Damaged);
    }

    /// A panic is blamed on its message.
    pub(super) fn hold_for(mut self, report: &Arc<Report>) {
        let _outing = self.engine.outings.begin();
        let entries = self.take_out();
        self.engine.hold_for(entries, report);
    }

    /// The queue that it is of.
    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Its entries, which its path has in hand no more.
    fn take_out(&mut self) -> Vec<Entry> {
        if let Some(path) = self.site.state.lock().path(self.path) {
            path.in_flight = path.in_flight.saturating_sub(1);
            path.in_hand.remove(self.taken);
        }
        std::mem::take(&mut self.entries)
    }

    /// Its entries are gone in a panic: its path has them in hand no more, whether or not it knows that yet.
    fn lose(&self, id: MessageId) {
        if let Some(path) = self.site.state.lock().path(self.path)
            && path.in_hand.remove_of(self.taken, id)
        {
            path.in_flight = path.in_flight.saturating_sub(1);
        }
    }

    /// Puts entries of its message back to where they were drawn from.
    fn restore(&self, id: MessageId, entries: Vec<Entry>, is_all: bool) {
        let _outing = self.engine.outings.begin();
        let keys = entries.iter().map(|entry| (id, entry.recipient)).collect();
        if let Err(panic) = self.engine.walls.outcomes.call(|| self.put_back(entries, is_all)) {
            if is_all {
                self.lose(id);
            }
            self.engine.salvage(keys, Blame::Certain, panic);
        }
    }

    fn put_back(&self, entries: Vec<Entry>, is_all: bool) {
        let place = self.path;
        let now = self.engine.clock.now();
        self.site.with(&self.engine, now, |context, state, out| {
            let source = state.path(place).map(|path| {
                path.in_flight = path.in_flight.saturating_sub(u32::from(is_all));
                if is_all {
                    path.in_hand.remove(self.taken);
                }
                path.key.source
            });
            if is_all && let (Some(source), Some(entry)) = (source, entries.first()) {
                let gates = &context.engine.gates;
                state.refund_drawn(gates, source, &entry.flow, (self.tried.since, now));
                if let Some(charged) = self.tried.octets {
                    state.recharge(gates, source, &entry.flow, (charged, 0), now);
                }
            }
            if context.engine.orders.is_empty() {
                for entry in entries {
                    out.homeless.extend(state.push(place, entry));
                }
            } else {
                // An order may be about them by now.
                out.homeless.extend(entries);
            }
            // Through the order of those that wait: what was just returned must not overtake the others.
            state.mark(place, Wait::Starved, false);
            state.resume(context, Wait::Starved, out);
            state.pump(context, place, out);
        });
    }
}

impl Drop for Assignment {
    fn drop(&mut self) {
        if !self.entries.is_empty() {
            let id = self.id();
            let entries = std::mem::take(&mut self.entries);
            self.restore(id, entries, true);
        }
        self.engine.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
