//! What operators, reloads and restarts do with a controller, and what they see of it.

use std::time::{Duration, Instant};

use super::change::{Change, Changes, What};
use super::connections::Connections;
use super::rate::{Phase, Rate};
use super::settings::{Ceilings, Orders};
use super::snapshot::Learnt;
use super::time::{SECOND, Time, nanos, seconds};
use super::{Controller, cap::Cap, gate::Gate, messages::Messages};

/// What a controller would show of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// How the rate came about.
    pub phase: Phase,
    /// Messages a minute allowed now, ceilings applied.
    pub rate_per_minute: f64,
    /// Messages a minute that the receiver was measured to allow; None: not known.
    pub limit_per_minute: Option<f64>,
    /// Connections allowed now.
    pub connections: u32,
    /// Connections that the receiver was found to allow; None: not known.
    pub connection_limit: Option<u32>,
    /// Messages over one connection; None: no limit.
    pub messages_per_connection: Option<u32>,
    /// Messages a clock hour that the receiver was found to allow; None: not known.
    pub hourly_cap: Option<u32>,
    /// Nothing goes before this, if it lies ahead.
    pub paused_until: Option<Instant>,
    /// The breaker is open.
    pub is_resting: bool,
    /// The reply that the learnt rate comes from.
    pub reply: Option<String>,
}

impl Controller {
    /// One that goes on with what was learnt before a restart; what is too old is a cold start.
    pub fn restore(learnt: &Learnt, ceilings: Ceilings, seed: u32, now: Instant, wall: Duration) -> Self {
        let mut controller = Self::new(ceilings, seed, now, wall);
        let Some(trust) = learnt.trust(wall) else { return controller };
        let time = controller.epoch.time(now);
        if learnt.rate > 0.0 {
            controller.rate.restore(learnt.rate, Time::from(learnt.gap) * SECOND, trust, time);
        }
        let gap = Time::from(learnt.connection_gap) * SECOND;
        controller.connections.restore(learnt.connections, learnt.connection_limit, gap, time);
        controller.messages.limit = learnt.messages_per_connection;
        controller.messages.retry = time + super::DAY;
        controller.cap.most = learnt.hourly_cap;
        controller.trips = learnt.trips;
        controller.tripped = time;
        let until = nanos(Duration::from_secs(learnt.rest_until));
        if until > time {
            controller.gate.rest(time, until);
        }
        controller
    }

    /// What is worth keeping over a restart.
    pub fn learnt(&self, now: Instant) -> Learnt {
        let time = self.epoch.time(now);
        let whole_seconds = |time: Time| u32::try_from(time / SECOND).unwrap_or(u32::MAX);
        Learnt {
            at: Duration::from_nanos(time),
            rate: self.rate.hat,
            gap: whole_seconds(self.rate.gap),
            connections: self.connections.limit,
            connection_limit: self.connections.hat,
            connection_gap: whole_seconds(self.connections.gap),
            messages_per_connection: self.messages.limit,
            rest_until: if self.gate.is_breaker { self.gate.until / SECOND } else { 0 },
            trips: self.trips,
            hourly_cap: self.cap.most,
        }
    }

    /// Other ceilings, from a reload.
    pub fn set_ceilings(&mut self, ceilings: Ceilings) {
        self.ceilings = ceilings;
    }

    /// An operator's bounds, in place of those before; the default has none.
    pub fn set_orders(&mut self, orders: Orders) {
        self.orders = (orders != Orders::default()).then(|| Box::new(orders));
    }

    /// An operator's bounds.
    pub fn orders(&self) -> Orders {
        self.orders.as_deref().copied().unwrap_or_default()
    }

    /// Forgets one limit, as if it had never been learnt.
    pub fn reset(&mut self, what: What, now: Instant) -> Changes {
        let time = self.epoch.time(now);
        let before = self.view(now);
        let (from, to) = match what {
            What::Rate => {
                self.rate = Rate::new(time);
                self.gate = Gate::new();
                (Some(before.rate_per_minute), Some(self.rate.rate * 60.0))
            }
            What::Connections => {
                self.connections = Connections::new();
                (Some(f64::from(before.connections)), Some(f64::from(self.connection_limit())))
            }
            What::MessagesPerConnection => {
                self.messages = Messages::default();
                (before.messages_per_connection.map(f64::from), self.messages_per_connection().map(f64::from))
            }
            What::Breaker => {
                self.trips = 0;
                let left = seconds(self.gate.until.saturating_sub(time));
                let was_resting = std::mem::replace(&mut self.gate, Gate::new()).is_breaker;
                (was_resting.then_some(left), None)
            }
            What::Cap => {
                self.cap = Cap::default();
                (before.hourly_cap.map(f64::from), None)
            }
        };
        let reason = format!("{}: reset by an operator", what.as_str());
        vec![Change { what, from, to, reason }]
    }

    /// What it would show of itself.
    pub fn view(&self, now: Instant) -> View {
        let time = self.epoch.time(now);
        View {
            phase: self.rate.phase,
            rate_per_minute: self.ceilings.rate.map_or(self.allowed(), |most| self.allowed().min(most)) * 60.0,
            limit_per_minute: (self.rate.hat > 0.0).then_some(self.rate.hat * 60.0),
            connections: self.connection_limit(),
            connection_limit: (self.connections.hat > 0).then_some(self.connections.hat),
            messages_per_connection: self.messages_per_connection(),
            hourly_cap: (self.cap.most > 0).then_some(self.cap.most),
            paused_until: (self.gate.until > time).then(|| self.epoch.instant(self.gate.until)).flatten(),
            is_resting: self.gate.is_breaker && self.gate.until > time,
            reply: self.reply.as_deref().map(str::to_owned),
        }
    }

    /// Octets of memory that it takes besides itself.
    pub fn heap(&self) -> usize {
        let busy = self.busy.as_ref().map_or(0, |_| size_of::<super::Busy>());
        busy + self.orders.as_ref().map_or(0, |_| size_of::<Orders>())
            + self.reply.as_ref().map_or(0, |text| text.len())
    }
}
