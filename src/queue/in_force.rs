//! Limits as they stand at a site now: how much, how much of it is used, and when there is room again.

use std::time::{Duration, Instant};

use crate::limit::budget::{Budget, Part};
use crate::limit::permit::What;
use crate::limit::window::Window;

use super::engine::Engine;
use super::gates::ceiling_of;
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
