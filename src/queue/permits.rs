//! Permits at a site: what a message, or a new connection with one, takes of every scope that does not depend on whose the
//! message is. Tenants and campaigns are asked when it is drawn (`purse`).

use std::time::Instant;

use crate::dns::Transport;
use crate::limit::budget::{self, Budget, Refused};
use crate::limit::controller::{Controller, Wait};
use crate::limit::permit::{self, Limit, Refusal, Scope, What};
use crate::limit::window::Window;
use crate::message::MessageId;

use super::dues::Whose;
use super::engine::Engine;
use super::flow::Flow;
use super::gates::{Gate, Gates};
use super::origin::{Bounds, Moment, Origin};
use super::rare::Found;
use super::ready::Take;
use super::rules::Of;
use super::settings::Limits;
use super::site::{Context, SiteState};
use super::warmup::{Halted, Pass};

/// Budgets that sites share.
struct Shared {
    global: Found<Budget>,
    source: Option<Found<Budget>>,
}

impl Shared {
    fn load(gates: &Gates, source: u16) -> Self {
        Self { global: gates.global().budget.load(), source: gates.of(source).map(|gate| gate.budget.load()) }
    }

    fn of(&self, scope: Scope) -> Option<&Budget> {
        match scope {
            Scope::Global => self.global.as_deref(),
            Scope::Source => self.source.as_ref().and_then(Found::as_deref),
            _ => None,
        }
    }
}

/// Why no message may go now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stop {
    /// A rate of the configuration.
    Budget(Refused),
    /// What was learnt about the receiver.
    Learnt(Wait),
    /// The warm-up of the source.
    Warmup(Halted),
}

impl Stop {
    /// Whether paths from other sources would be stopped too.
    pub fn is_of_source(&self) -> bool {
        match self {
            Self::Budget(refused) => matches!(refused.scope, Scope::Source | Scope::SourceSite),
            Self::Learnt(_) | Self::Warmup(_) => true,
        }
    }

    /// When to ask again. None: when a reply comes, or a connection ends.
    pub fn until(&self) -> Option<Instant> {
        match self {
            Self::Budget(refused) => Some(refused.spent.until),
            Self::Learnt(wait) => wait.until,
            Self::Warmup(halted) => halted.until,
        }
    }
}

/// Why no new connection may be opened now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Denied {
    /// A window is full.
    Place(Refusal),
    /// There are too many new ones, or more are not worth it.
    Opening(Stop),
    /// There is room for it, but not for its message.
    Message(Stop),
}

impl Engine {
    /// A source at a site as it is when nothing has left from it lately; None: there is no such source.
    pub fn make_origin(
        &self,
        source: u16,
        (site, limits): (&str, &Limits),
        transport: Transport,
        now: Instant,
    ) -> Option<Origin> {
        let settings = self.settings();
        let name = self.source(source)?.name.clone();
        let bounds = Bounds {
            site: limits,
            both: settings.rules.ceiling(Of::SourceSite(&name, site)),
            source: settings.rules.ceiling(Of::Source(&name)),
        };
        let mut origin = Origin::new(source, &bounds, now);
        origin.warmup = self.pass(source, site);
        let whose = || Whose::SourceSite((*name).into(), site.into());
        self.dues.settle(origin.budget.as_deref(), now, whose);
        if settings.learning.is_on && transport != Transport::Discard {
            let at = Moment { now, wall: self.clock.wall_at(now) };
            origin.is_relay = transport == Transport::Relay;
            let start = settings.learning.start(site, self.within.of(site).as_deref(), origin.is_relay);
            let seed = self.learning.seed(&name, site);
            origin.learn(&bounds, start, self.learning.recall(&name, site).as_ref(), seed, at);
            if let Some(controller) = &mut origin.controller {
                controller.set_orders(self.learning.pins.orders(&name, site));
            }
        }
        Some(origin)
    }
}

impl SiteState {
    /// The source at this site, if anything left from it lately.
    pub fn origin(&self, source: u16) -> Option<&Origin> {
        self.origins.iter().find(|origin| origin.source == source)
    }

    /// The same, made if there is none.
    pub fn ensure_origin(&mut self, context: &Context<'_>, source: u16, transport: Transport) {
        if self.origin(source).is_some() {
            return;
        }
        let Context { engine, site, now } = *context;
        self.origins.extend(engine.make_origin(source, (&site.name, &site.limits.load()), transport, now));
    }

    /// The same to be changed.
    pub fn origin_mut(&mut self, source: u16) -> Option<&mut Origin> {
        self.origins.iter_mut().find(|origin| origin.source == source)
    }

    /// What has learnt about a source, if that is learnt here.
    pub fn controller(&mut self, source: u16) -> Option<&mut Controller> {
        self.origin_mut(source).and_then(|origin| origin.controller.as_deref_mut())
    }

    fn budgets<'a>(&'a self, shared: &'a Shared, source: u16) -> [(Scope, Option<&'a Budget>); 4] {
        let both = self.origin(source).and_then(|origin| origin.budget.as_deref());
        [
            (Scope::SourceSite, both),
            (Scope::Site, self.budget.as_deref()),
            (Scope::Source, shared.of(Scope::Source)),
            (Scope::Global, shared.of(Scope::Global)),
        ]
    }

    /// Takes a message's permits. A refusal tells when to ask again.
    pub fn admit(&mut self, context: &Context<'_>, source: u16) -> Result<(), Stop> {
        let shared = Shared::load(&context.engine.gates, source);
        self.admit_with(&shared, source, context.now)
    }

    fn admit_with(&mut self, shared: &Shared, source: u16, now: Instant) -> Result<(), Stop> {
        if let Some(controller) = self.controller(source) {
            controller.may_send(now).map_err(Stop::Learnt)?;
        }
        if let Some(pass) = self.pass(source) {
            pass.take(now).map_err(Stop::Warmup)?;
        }
        if let Err(refused) = self.take_budgets(shared, source, now) {
            self.unwarm(source, now, now);
            return Err(Stop::Budget(refused));
        }
        if let Some(controller) = self.controller(source) {
            controller.send(now);
        }
        Ok(())
    }

    fn pass(&self, source: u16) -> Option<&Pass> {
        self.origin(source)?.warmup.as_ref()
    }

    /// Gives the warm-up of a source back what a message took at `then`.
    fn unwarm(&self, source: u16, then: Instant, now: Instant) {
        if let Some(pass) = self.pass(source) {
            pass.give_back(then, now);
        }
    }

    /// At the site's own budgets its paths wait in one order; at those that sites share, the site takes a turn ahead of time.
    fn take_budgets(&mut self, shared: &Shared, source: u16, now: Instant) -> Result<(), Refused> {
        let own = [
            (Scope::SourceSite, self.origin(source).and_then(|origin| origin.budget.as_deref())),
            (Scope::Site, self.budget.as_deref()),
        ];
        budget::acquire(&own, What::Messages, now)?;
        let of_source = shared.of(Scope::Source);
        let everything = shared.of(Scope::Global);
        if of_source.is_none() && everything.is_none() {
            return Ok(());
        }
        let budgets = [(Scope::Source, usize::from(source), of_source), (Scope::Global, 0, everything)];
        let taken = self.turns.acquire(&budgets, What::Messages, now);
        taken.inspect_err(|_| {
            let own = [self.origin(source).and_then(|origin| origin.budget.as_deref()), self.budget.as_deref()];
            own.into_iter().flatten().for_each(|budget| budget.refund(What::Messages));
        })
    }

    /// Gives back what [`SiteState::admit`] took.
    pub fn refund(&mut self, gates: &Gates, source: u16, now: Instant) {
        let shared = Shared::load(gates, source);
        budget::refund(&self.budgets(&shared, source), What::Messages);
        self.unwarm(source, now, now);
        if let Some(controller) = self.controller(source) {
            controller.unsent(now);
        }
    }

    /// The same for a message of `flow` that was drawn at `since` and not sent.
    pub fn refund_drawn(&mut self, gates: &Gates, source: u16, flow: &Flow, (since, now): (Instant, Instant)) {
        self.refund_budgets(gates, source, flow, (since, now));
        if let Some(controller) = self.controller(source) {
            controller.unsent(now);
        }
    }

    /// The same where the controller is told otherwise.
    pub fn refund_budgets(&self, gates: &Gates, source: u16, flow: &Flow, (since, now): (Instant, Instant)) {
        let shared = Shared::load(gates, source);
        budget::refund(&self.budgets(&shared, source), What::Messages);
        self.unwarm(source, since, now);
        self.purses.refund(flow);
    }

    /// Charges the octets of a message of `flow` that has been drawn, before any of them is sent: how many connections carry
    /// messages at once makes no difference. None if nobody counts them.
    pub fn charge(&self, context: &Context<'_>, source: u16, flow: &Flow, id: MessageId) -> Option<u64> {
        let Context { engine, now, .. } = *context;
        let mut is_counted = false;
        self.each_budget(&engine.gates, source, flow, |budget| is_counted |= budget.has_octets());
        is_counted.then(|| {
            let octets = engine.spool.length(id);
            self.each_budget(&engine.gates, source, flow, |budget| budget.charge(octets, now));
            octets
        })
    }

    /// The octets of a message turned out to be others than were charged.
    pub fn recharge(&self, gates: &Gates, source: u16, flow: &Flow, (charged, octets): (u64, u64), now: Instant) {
        if charged != octets {
            self.each_budget(gates, source, flow, |budget| budget.recharge(charged, octets, now));
        }
    }

    fn each_budget(&self, gates: &Gates, source: u16, flow: &Flow, mut act: impl FnMut(&Budget)) {
        let shared = Shared::load(gates, source);
        self.budgets(&shared, source).into_iter().filter_map(|(_, budget)| budget).for_each(&mut act);
        self.purses.each(flow, act);
    }

    /// Takes every permit that a new connection with a message needs.
    pub fn acquire(&mut self, context: &Context<'_>, source: u16) -> Result<(), Denied> {
        let shared = Shared::load(&context.engine.gates, source);
        let now = context.now;
        // Places first: they are what is refused most, and nothing is consumed by looking at them.
        permit::acquire(&self.windows(context, source), now).map_err(Denied::Place)?;
        let taken = self.open_and_admit(&shared, source, now);
        taken.inspect_err(|_| permit::release(&self.windows(context, source)))
    }

    fn open_and_admit(&mut self, shared: &Shared, source: u16, now: Instant) -> Result<(), Denied> {
        if let Some(origin) = self.origin_mut(source)
            && let Some(controller) = &mut origin.controller
        {
            // This one has its place already.
            let open = origin.connections.used().saturating_sub(1);
            controller.may_open(open, now).map_err(|wait| Denied::Opening(Stop::Learnt(wait)))?;
        }
        budget::acquire(&self.budgets(shared, source), What::Openings, now)
            .map_err(|refused| Denied::Opening(Stop::Budget(refused)))?;
        let admitted = self.admit_with(shared, source, now).map_err(Denied::Message);
        admitted.inspect_err(|_| budget::refund(&self.budgets(shared, source), What::Openings))?;
        if let Some(controller) = self.controller(source) {
            controller.opening(now);
        }
        Ok(())
    }

    /// Gives them all back.
    pub fn release(&mut self, context: &Context<'_>, source: u16) {
        self.refund(&context.engine.gates, source, context.now);
        let shared = Shared::load(&context.engine.gates, source);
        budget::refund(&self.budgets(&shared, source), What::Openings);
        permit::release(&self.windows(context, source));
    }

    fn windows<'a>(&'a self, context: &Context<'a>, source: u16) -> Vec<(Scope, What, Limit<'a>)> {
        let mut windows = Vec::with_capacity(4);
        let place = |scope, window: &'a Window| (scope, What::Connections, Limit::Place(window));
        windows.push(place(Scope::Site, &context.site.connections));
        windows.extend(self.origin(source).map(|origin| place(Scope::SourceSite, &origin.connections)));
        let is_fresh = context.site.connections.used() == 0;
        let gates = &context.engine.gates;
        for (scope, gate) in [(Scope::Source, gates.of(source)), (Scope::Global, Some(gates.global()))] {
            let leaving = |gate: &'a Gate| Limit::PlaceLeaving(&gate.window, gate.spare(is_fresh));
            windows.extend(gate.map(|gate| (scope, What::Connections, leaving(gate))));
        }
        windows
    }

    /// What the next transaction over a connection may carry that has sent so many messages and recipients; none: it has
    /// sent as many as it may.
    pub fn take_for(&mut self, context: &Context<'_>, source: u16, (messages, recipients): (u32, u32)) -> Option<Take> {
        let limits = context.site.limits.load();
        let mut origin = self.origin_mut(source);
        let least = |site: Option<u32>, own: Option<u32>| site.into_iter().chain(own).min();
        let learnt = origin.as_mut().and_then(|origin| origin.messages_per_connection(context.now));
        let most = least(limits.messages_per_connection, learnt);
        if most.is_some_and(|most| messages >= most) {
            return None;
        }
        let own = origin.as_ref().and_then(|origin| origin.recipients_per_connection);
        let left = least(limits.recipients_per_connection, own).map(|most| most.saturating_sub(recipients));
        let left = left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let of_origin = origin.as_ref().and_then(|origin| origin.recipients_per_message).unwrap_or(usize::MAX);
        let most = limits.recipients_per_message.max(1).min(of_origin).min(left);
        (most > 0).then(|| Take { most, dead_before: context.engine.dead_before(), now: context.now })
    }
}
