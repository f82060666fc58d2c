//! What operators, reloads and restarts do with a controller, and what they see of it.

use std::time::{Duration, Instant};

use super::change::{Change, Changes, Wait, What};
use super::connections::Connections;
use super::rate::{Phase, Rate};
use super::settings::{Ceilings, Orders, Start};
use super::snapshot::Learnt;
use super::time::{self, DAY, Time};
use super::work::Work;
use super::{Controller, cap::Cap, gate::Gate, messages::Messages, rest::Rest};

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
    /// What the configuration sets.
    pub configured: Configured,
}

/// Which limits are the configuration's, that learning or an operator would leave higher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// That of messages a minute.
    pub rate: bool,
    /// That of connections.
    pub connections: bool,
    /// That of messages over one connection.
    pub messages_per_connection: bool,
}

impl View {
    /// One limit, in the unit that [`Change`] has; None: there is none.
    pub fn value(&self, what: What, now: Instant) -> Option<f64> {
        match what {
            What::Rate => Some(self.rate_per_minute).filter(|rate| rate.is_finite()),
            What::Connections => Some(f64::from(self.connections)),
            What::MessagesPerConnection => self.messages_per_connection.map(f64::from),
            What::Breaker => {
                let until = self.paused_until.filter(|_| self.is_resting);
                until.map(|until| until.saturating_duration_since(now).as_secs_f64())
            }
            What::Cap => self.hourly_cap.map(f64::from),
        }
    }
}

impl View {
    /// What the receiver was measured to allow, where that is another number than [`View::value`].
    pub fn measured(&self, what: What) -> Option<f64> {
        match what {
            What::Rate => self.limit_per_minute,
            What::Connections => self.connection_limit.map(f64::from),
            What::MessagesPerConnection | What::Breaker | What::Cap => None,
        }
    }

    /// Whether the configuration allows no more than what is learnt or ordered, so that it is what holds.
    pub fn is_configured(&self, what: What) -> bool {
        match what {
            What::Rate => self.configured.rate,
            What::Connections => self.configured.connections,
            What::MessagesPerConnection => self.configured.messages_per_connection,
            What::Breaker | What::Cap => false,
        }
    }
}

impl Controller {
    /// One that goes on with what was learnt before a restart; what is too old is a cold start.
    pub fn restore(learnt: &Learnt, ceilings: Ceilings, seed: u32, now: Instant, wall: Duration) -> Self {
        let mut controller = Self::new(ceilings, seed, now, wall);
        if let Some(trust) = learnt.trust(wall) {
            controller.rest = Rest::restored(learnt, trust, controller.epoch.time(now));
        }
        controller
    }

    /// What is worth keeping over a restart.
    pub fn learnt(&self, now: Instant) -> Learnt {
        let rest = self.work.as_deref().map(Rest::of);
        rest.as_ref().unwrap_or(&self.rest).learnt(self.epoch.time(now))
    }

    /// Other ceilings, from a reload.
    pub fn set_ceilings(&mut self, ceilings: Ceilings) {
        self.ceilings = ceilings;
        if let Some(work) = &mut self.work
            && work.ceilings != ceilings
        {
            work.ceilings = ceilings;
            work.forget_owed();
        }
    }

    /// An operator's bounds, in place of those before; the default has none.
    pub fn set_orders(&mut self, orders: Orders) {
        self.orders = (orders != Orders::default()).then(|| Box::new(orders));
        if let Some(work) = &mut self.work {
            work.orders = orders;
        }
    }

    /// An operator's bounds.
    pub fn orders(&self) -> Orders {
        self.orders.as_deref().copied().unwrap_or_default()
    }

    /// Forgets one limit, as if it had never been learnt: learning begins at `start`.
    pub fn reset(&mut self, what: What, start: Start, reason: String, now: Instant) -> Changes {
        self.operate(what, reason, now, |work, now| match what {
            What::Rate => {
                (work.rate, work.gate) = (Rate::new(now), Gate::new());
                let gap = work.rate.gap;
                work.rate.wake(Phase::Start, start.rate, 0.0, gap, now);
            }
            What::Connections => {
                work.connections = Connections::new();
                let gap = work.connections.gap;
                work.connections.wake((start.connections, 0), gap, 0, 0.0);
            }
            What::MessagesPerConnection => work.messages = Messages::known(start.messages_per_connection, Time::MAX),
            What::Breaker => (work.gate, work.trips) = (Gate::new(), 0),
            What::Cap => work.cap = Cap::default(),
        })
    }

    /// Takes one limit for `value` (of the unit that [`Change`] has), as if that had been learnt; None: none is known. It
    /// is learnt from there on. `measured`: what the receiver allows, where that is known and is another number.
    pub fn set(
        &mut self,
        what: What,
        (value, measured): (Option<f64>, Option<f64>),
        reason: String,
        now: Instant,
    ) -> Changes {
        self.operate(what, reason, now, |work, now| match what {
            What::Rate => {
                let hat = measured.map_or(0.0, |limit| limit / 60.0);
                work.rate.set(value.map_or(f64::INFINITY, |value| value / 60.0), hat, now);
                if !work.gate.is_breaker {
                    work.gate = Gate::new();
                }
            }
            What::Connections => {
                let hat = measured.map_or(0, time::whole);
                work.connections.set(value.map_or(u32::MAX, time::whole), hat, now);
            }
            What::MessagesPerConnection => work.messages = Messages::known(value.map_or(0, time::whole), now + DAY),
            What::Breaker => (work.gate, work.trips) = (Gate::new(), work.trips.saturating_sub(1)),
            What::Cap => work.cap = Cap::known(value.map_or(0, time::whole)),
        })
    }

    fn operate(&mut self, what: What, reason: String, now: Instant, act: impl FnOnce(&mut Work, Time)) -> Changes {
        let time = self.epoch.time(now);
        let before = self.view(now);
        act(self.work(now), time);
        let (from, to) = (before.value(what, now), self.view(now).value(what, now));
        vec![Change { what, from, to, limit_before: before.measured(what), reason }]
    }

    /// How the rate came about; costs less than [`Controller::view`].
    pub fn phase(&self) -> Phase {
        self.work.as_ref().map_or_else(|| self.rest.phase(), |work| work.rate.phase)
    }

    /// Whether something goes on, or did lately.
    pub fn is_at_work(&self) -> bool {
        self.work.is_some()
    }

    /// What it would show of itself.
    pub fn view(&self, now: Instant) -> View {
        match &self.work {
            Some(work) => work.view(now),
            None => {
                let asleep = Work::new(self.ceilings, self.orders.as_deref().copied(), self.seed, self.epoch, now);
                self.rest.wake(asleep, self.epoch.time(now)).view(now)
            }
        }
    }

    /// Why a message would have to wait now, and why a connection beside `open` others. For people: nothing is changed by it.
    pub fn waits(&self, open: u32, now: Instant) -> (Option<Wait>, Option<Wait>) {
        // A quiet path would let both go, and need not be woken to say so.
        let Some(mut work) = self.work.clone() else { return (None, None) };
        (work.may_send(now).err(), work.may_open(open, now).err())
    }

    /// Octets of memory that it takes besides itself.
    pub fn heap(&self) -> usize {
        let orders = self.orders.as_ref().map_or(0, |_| size_of::<Orders>());
        let work =
            self.work.as_ref().map_or(0, |work| size_of::<Work>() + work.reply.as_ref().map_or(0, |text| text.len()));
        orders + work
    }
}

impl Work {
    /// What it would show of itself.
    fn view(&self, now: Instant) -> View {
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
            configured: self.configured(),
        }
    }

    fn configured(&self) -> Configured {
        let Ceilings { rate, connections, messages_per_connection, .. } = self.ceilings;
        let is_measured = self.connections.hat == connections;
        let own = if self.messages.limit == 0 { u32::MAX } else { self.messages.limit };
        let own = self.orders.messages_per_connection.clamp(f64::from(own));
        Configured {
            rate: rate.is_some_and(|most| self.allowed() >= most),
            connections: !is_measured && self.learnt_connections() >= connections,
            messages_per_connection: messages_per_connection > 0 && own >= f64::from(messages_per_connection),
        }
    }
}
