//! Limits as they stand at a site now: how much, how much of it is used, and when there is room again.

use std::time::{Duration, Instant};

use crate::limit::budget::{Budget, Part};
use crate::limit::controller::{Cause, What as Learnt};
use crate::limit::permit::What;
use crate::limit::window::Window;

use super::engine::Engine;
use super::figures::PER_CONNECTION;
use super::gates::ceiling_of;
use super::origin::Origin;
use super::site::{Site, SiteState};
use super::view::LimitView;

impl Engine {
    /// Every limit that mail for a site meets, those of tenants as far as they have met it.
    pub(super) fn limits_in_force(&self, site: &Site, state: &SiteState, now: Instant) -> Vec<LimitView> {
        let mut limits = vec![window_view("site".to_owned(), &site.connections)];
        let mut sources: Vec<u16> = state.paths.iter().flatten().map(|path| path.key.source).collect();
        sources.sort_unstable();
        sources.dedup();
        for source in sources {
            let name = self.source_name(source);
            if let Some(origin) = state.origin(source) {
                let of = format!("site from {name}");
                limits.extend(origin.ceiling().map(|_| window_view(of.clone(), &origin.connections)));
                limits.extend(budget_views(&of, origin.budget.as_deref(), now));
                limits.extend(learnt_views(&of, origin, now));
            }
            if let Some(gate) = self.gates.of(source) {
                let of = format!("source {name}");
                limits.push(window_view(of.clone(), &gate.window));
                limits.extend(budget_views(&of, gate.budget.load().as_deref(), now));
            }
        }
        let everything = self.gates.global();
        limits.push(window_view("daemon".to_owned(), &everything.window));
        limits.extend(budget_views("daemon", everything.budget.load().as_deref(), now));
        let of_site = budget_views("site", state.budget.as_deref(), now);
        for what in ["messages", "new connections"] {
            if of_site.iter().all(|limit| limit.what != what) {
                limits.push(LimitView { what, of: "site".to_owned(), ..LimitView::default() });
            }
        }
        limits.extend(of_site);
        let own = site.limits.load();
        let number = |what, most: Option<u64>| LimitView { what, of: "site".to_owned(), most, ..LimitView::default() };
        limits.push(number("messages per connection", own.messages_per_connection.map(u64::from)));
        if let Some(most) = own.recipients_per_connection {
            limits.push(number("recipients per connection", Some(most.into())));
        }
        limits.push(number("recipients per transaction", u64::try_from(own.recipients_per_message).ok()));
        for (tenant, purse) in state.purses.iter() {
            if let Some(tenant) = self.tenants.all().iter().find(|other| other.key == tenant) {
                limits.extend(budget_views(&format!("tenant {} here", tenant.name), purse.budget.as_ref(), now));
            }
        }
        limits
    }

    /// What a path waits for that was learnt about its receiver: in how many seconds, what happens then, and why.
    pub(super) fn learnt_event(
        &self,
        (site, state): (&str, &SiteState),
        source: u16,
        cause: Cause,
        now: Instant,
    ) -> (Option<f64>, &'static str, Option<String>) {
        let controller = state.origin(source).and_then(|origin| Some((origin, origin.controller.as_deref()?)));
        let until = controller.and_then(|(origin, controller)| {
            let (message, connection) = controller.waits(origin.connections.used(), now);
            [message, connection].into_iter().flatten().find(|wait| wait.cause == cause)?.until
        });
        let (event, what) = match cause {
            Cause::Rate => ("the learnt message rate has room", Learnt::Rate),
            Cause::Pause => ("the pause after a refusal ends and one message tries", Learnt::Rate),
            Cause::Gate => ("the message that tries has its reply", Learnt::Rate),
            Cause::Breaker => ("the rest ends and one message tries", Learnt::Breaker),
            Cause::Cap => ("the next clock hour begins", Learnt::Cap),
            Cause::Connections => ("a connection ends and leaves its place", Learnt::Connections),
            Cause::Openings => ("the learnt pace of new connections has room", Learnt::Connections),
        };
        let view = controller.map(|(_, controller)| controller.view(now));
        let why = view.map(|view| match (cause, &view.reply, &state.last_reply) {
            // The refusal is why, whoever has set the rate.
            (Cause::Pause | Cause::Gate, Some(reply), _) => reply.clone(),
            // A pause after connections that came to nothing.
            (Cause::Openings, _, Some(last)) if until.is_some() => super::settle::describe(last),
            _ => self.set_by((&self.source_name(source), site), what, &view),
        });
        (until.map(|until| until.saturating_duration_since(now).as_secs_f64()), event, why)
    }

    /// What a path that waits for a place among connections lacks.
    pub(super) fn full_windows(&self, site: &Site, state: &SiteState, source: u16, now: Instant) -> String {
        let name = self.source_name(source);
        let origin = state.origin(source);
        let windows = [
            Some(("site".to_owned(), &site.connections)),
            origin.map(|origin| (format!("site from {name}"), &origin.connections)),
            self.gates.of(source).map(|gate| (format!("source {name}"), &gate.window)),
            Some(("daemon".to_owned(), &self.gates.global().window)),
        ];
        let full = windows.into_iter().flatten().filter(|(_, window)| !window.look());
        let full: Vec<String> =
            full.map(|(of, window)| format!("{of}: {} of {} connections", window.used(), window.ceiling())).collect();
        if !full.is_empty() {
            return full.join(", ");
        }
        let learnt = origin.and_then(|origin| {
            let (used, most) = (origin.connections.used(), origin.controller.as_deref()?.view(now).connections);
            (used >= most).then(|| format!("site from {name}, learnt: {used} of {most} connections"))
        });
        learnt.unwrap_or_else(|| format!("site from {name}: as many connections as its work is worth"))
    }

    /// Until when a path waits for a message rate, and for which.
    pub(super) fn spent(&self, state: &SiteState, source: u16, what: What, now: Instant) -> Option<(f64, String)> {
        let both = state.origin(source).and_then(|origin| origin.budget.as_deref());
        let shared = [self.gates.of(source), Some(self.gates.global())].map(|gate| gate.map(|gate| gate.budget.load()));
        let [of_source, everything] = &shared;
        let name = self.source_name(source);
        let budgets = [
            ("the site".to_owned(), state.budget.as_deref()),
            (format!("the site from {name}"), both),
            (format!("source {name}"), of_source.as_ref().and_then(|budget| budget.as_deref())),
            ("everything".to_owned(), everything.as_ref().and_then(|budget| budget.as_deref())),
        ];
        let spent = budgets.iter().filter_map(|(of, budget)| Some((of, budget.as_ref()?.look(what, now).err()?)));
        let (of, last) = spent.max_by_key(|(_, spent)| spent.until)?;
        let Part { what, count, per } = last.part;
        let cause = format!("{of}: {count} {} in {} s", what.as_str(), per.as_secs());
        Some((last.until.saturating_duration_since(now).as_secs_f64(), cause))
    }
}

fn window_view(of: String, window: &Window) -> LimitView {
    LimitView {
        what: "connections",
        of,
        most: ceiling_of(window).map(u64::from),
        used: Some(window.used().into()),
        ..LimitView::default()
    }
}

/// What was learnt of a source here, or pinned.
fn learnt_views(of: &str, origin: &Origin, now: Instant) -> Vec<LimitView> {
    let Some(controller) = origin.controller.as_deref() else { return Vec::new() };
    let (seen, used) = (controller.view(now), origin.connections.used());
    let (wait, _) = controller.waits(used, now);
    let until = wait.and_then(|wait| wait.until);
    // Counts and rates are far below what would be cut here.
    let whole = |value: f64| Duration::try_from_secs_f64(value.round()).unwrap_or_default().as_secs();
    let line = |what, learnt, per_seconds| {
        let most = whole(seen.value(learnt, now)?);
        Some(LimitView { what, of: format!("{of}, learnt"), most: Some(most), per_seconds, ..LimitView::default() })
    };
    let room_in_seconds = until.map(|until| until.saturating_duration_since(now).as_secs_f64());
    let rate = line(What::Messages.as_str(), Learnt::Rate, Some(60)).map(|rate| LimitView { room_in_seconds, ..rate });
    let connections = line(What::Connections.as_str(), Learnt::Connections, None)
        .map(|connections| LimitView { used: Some(used.into()), ..connections });
    let others = [
        line(PER_CONNECTION, Learnt::MessagesPerConnection, None),
        line(What::Messages.as_str(), Learnt::Cap, Some(3_600)),
    ];
    [rate, connections].into_iter().chain(others).flatten().collect()
}

fn budget_views(of: &str, budget: Option<&Budget>, now: Instant) -> Vec<LimitView> {
    let view = |(part, room, _): (Part, u64, Duration)| {
        let spent = budget.filter(|_| room == 0).and_then(|budget| budget.look(part.what, now).err());
        LimitView {
            what: part.what.as_str(),
            of: of.to_owned(),
            most: Some(part.count.into()),
            per_seconds: Some(part.per.as_secs().max(1)),
            used: None,
            room_in_seconds: spent.map(|spent| spent.until.saturating_duration_since(now).as_secs_f64()),
        }
    };
    budget.into_iter().flat_map(|budget| budget.rates(now)).map(view).collect()
}
