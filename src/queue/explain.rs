//! Why mail for an address goes as fast as it does: every scope that applies to it, each limit with who set it and the room
//! that it has now.

use std::sync::Arc;
use std::time::Instant;

use crate::dns::Plan;
use crate::limit::budget::Budget;
use crate::limit::controller::{Cause, View, What as Limit};
use crate::limit::permit::What;
use crate::limit::window::Window;
use crate::state::Pinned;

use super::engine::Engine;
use super::figures::{Figure, PER_CONNECTION, of_everything};
use super::limit_views::{ExplainError, Explained, Question, ScopeLimit};
use super::origin::Origin;
use super::rules::Of;

/// Why a site rests that was told so by an earlier run: what the receiver said is not kept.
const BEFORE_THE_START: &str =
    "learnt before the start: the receiver refused us (`journal search --event limit` has what it said)";

/// Sources that are explained: a pool may have more.
const MOST_SOURCES: usize = 20;

/// A scope and what counts in it.
struct Counted<'a> {
    scope: &'static str,
    of: String,
    window: Option<&'a Window>,
    budget: Option<&'a Budget>,
}

impl Counted<'_> {
    /// Its figures with the room that there is; a line that says so if there are none.
    fn lines(&self, figures: Vec<Figure>, now: Instant) -> Vec<ScopeLimit> {
        if figures.is_empty() {
            let line = ScopeLimit { scope: self.scope, of: self.of.clone(), what: "anything", ..ScopeLimit::default() };
            return vec![line];
        }
        figures.into_iter().map(|figure| self.line(figure, now)).collect()
    }

    fn line(&self, figure: Figure, now: Instant) -> ScopeLimit {
        let Figure { what, most, per, set_by } = figure;
        let mut line = ScopeLimit {
            scope: self.scope,
            of: self.of.clone(),
            what,
            most: most.map(number),
            per_seconds: per.map(|per| per.as_secs_f64()),
            set_by: set_by.to_string(),
            ..ScopeLimit::default()
        };
        if what == What::Connections.as_str() {
            line.used = self.window.map(|window| window.used().into());
            line.room = most.and_then(|most| Some(most.saturating_sub(line.used?)));
        } else if let Some(budget) = self.budget {
            let own = budget.rates(now).find(|(part, ..)| part.what.as_str() == what && Some(part.per) == per);
            line.room = own.map(|(_, room, _)| room);
            if let Some((part, 0, _)) = own {
                let spent = budget.look(part.what, now).err();
                line.room_in_seconds = spent.map(|spent| seconds_until(spent.until, now));
            }
        } else if per.is_some() {
            // Nothing has been counted yet.
            line.room = most;
        }
        line
    }
}

impl Engine {
    /// Explains the limits of mail for an address; asks for the delivery plan of its domain.
    pub async fn explain(&self, question: &Question) -> Result<Explained, ExplainError> {
        let Question { domain, tenant, campaign, source } = question;
        if campaign.is_some() && tenant.is_none() {
            return Err(ExplainError::Campaign);
        }
        let sources = match source {
            Some(name) => vec![self.source_named(name).ok_or_else(|| ExplainError::Source(name.clone()))?],
            None => self.sources_of(tenant.as_deref()),
        };
        let (_, planned) = self.plan(domain).await;
        let plan = planned.map_err(|failure| ExplainError::Plan(domain.clone(), failure.text.to_string()))?;
        let now = self.clock.now();
        let mut limits = self.of_everything(now);
        limits.extend(sources.iter().flat_map(|source| self.of_source(*source, now)));
        limits.extend(self.of_site(&plan, &sources, tenant.as_deref(), now));
        if let Some(tenant) = tenant {
            limits.extend(self.of_tenant(tenant, campaign.as_deref(), now));
        }
        let names = sources.iter().map(|source| self.source_name(*source)).collect();
        Ok(Explained { domain: domain.clone(), site: plan.site.to_string(), sources: names, limits })
    }

    /// Where mail of a tenant leaves from, if its sender's domain has no pool.
    fn sources_of(&self, tenant: Option<&str>) -> Vec<u16> {
        let settings = self.settings();
        let pool = tenant.and_then(|tenant| settings.tenants.get(tenant)?.pool.clone());
        let chooser = self.sources.load();
        let mut sources = chooser.members(pool.and_then(|pool| chooser.pool(&pool)));
        sources.truncate(MOST_SOURCES);
        sources
    }

    fn of_everything(&self, now: Instant) -> Vec<ScopeLimit> {
        let (settings, gate) = (self.settings(), self.gates.global());
        let budget = gate.budget.load();
        let of = "everything".to_owned();
        let counted = Counted { scope: "global", of, window: Some(&gate.window), budget: budget.as_deref() };
        counted.lines(of_everything(settings.connections, &settings.allowance), now)
    }

    fn of_source(&self, source: u16, now: Instant) -> Vec<ScopeLimit> {
        let name = self.source_name(source);
        let settings = self.settings();
        let own = self.sources.load().sources().find(|(index, ..)| *index == source).and_then(|(.., most)| most);
        let connections = own.map(|most| Figure {
            what: What::Connections.as_str(),
            most: Some(most.into()),
            per: None,
            set_by: Arc::from("[[source]]"),
        });
        let figures = connections.into_iter().chain(settings.rules.figures(Of::Source(&name), None)).collect();
        let gate = self.gates.of(source);
        let budget = gate.map(|gate| gate.budget.load());
        let budget = budget.as_ref().and_then(|budget| budget.as_deref());
        Counted { scope: "source", of: name, window: gate.map(|gate| &gate.window), budget }.lines(figures, now)
    }

    /// The site, the sources at it, and a tenant at it.
    fn of_site(&self, plan: &Plan, sources: &[u16], tenant: Option<&str>, now: Instant) -> Vec<ScopeLimit> {
        self.within.note(plan);
        let name = &*plan.site;
        let site = self.find_sites(&[name]).pop();
        let state = site.as_ref().map(|site| site.state.lock());
        let state = state.as_deref();
        let settings = self.settings();
        let window = site.as_ref().map(|site| &site.connections);
        let budget = state.and_then(|state| state.budget.as_deref());
        let figures = settings.rules.figures(Of::Site(name), Some(&settings.limits));
        let mut lines = Counted { scope: "site", of: name.to_owned(), window, budget }.lines(figures, now);
        let limits = self.limits_of(name);
        for source in sources {
            let known = state.and_then(|state| state.origin(*source));
            let make = || self.make_origin(*source, (name, &limits), plan.transport, now);
            let made = if known.is_none() { make() } else { None };
            let origin = known.or(made.as_ref());
            lines.extend(origin.into_iter().flat_map(|origin| self.of_origin(name, origin, now)));
            lines.extend(self.warmup_line(*source, name, now));
        }
        if let Some(tenant) = tenant {
            let key = self.tenants.find(tenant).map(|tenant| tenant.key);
            let purse = state.zip(key).and_then(|(state, key)| state.purses.of(key));
            let budget = purse.and_then(|purse| purse.budget.as_ref());
            let of = format!("{tenant} at {name}");
            let figures = settings.rules.figures(Of::TenantSite(tenant, name), None);
            lines.extend(Counted { scope: "tenant at site", of, window: None, budget }.lines(figures, now));
        }
        lines
    }

    fn of_origin(&self, site: &str, origin: &Origin, now: Instant) -> Vec<ScopeLimit> {
        let source = self.source_name(origin.source);
        let figures = self.settings().rules.figures(Of::SourceSite(&source, site), None);
        let of = format!("{source} at {site}");
        let (window, budget) = (Some(&origin.connections), origin.budget.as_deref());
        let counted = Counted { scope: "source at site", of: of.clone(), window, budget };
        let learnt = self.learnt_lines((&source, site), origin, now);
        // A line that nothing limits it would be wrong beside what is learnt.
        let configured =
            if learnt.is_empty() || !figures.is_empty() { counted.lines(figures, now) } else { Vec::new() };
        configured.into_iter().chain(learnt.into_iter().map(|line| ScopeLimit { of: of.clone(), ..line })).collect()
    }

    /// What is learnt of a source at a site.
    fn learnt_lines(&self, (source, site): (&str, &str), origin: &Origin, now: Instant) -> Vec<ScopeLimit> {
        let Some(controller) = origin.controller.as_deref() else { return Vec::new() };
        let view = controller.view(now);
        let used = origin.connections.used();
        let (wait, _) = controller.waits(used, now);
        let line = |what: Limit, name, per: Option<f64>| ScopeLimit {
            scope: "source at site",
            what: name,
            most: view.value(what, now),
            per_seconds: per,
            set_by: self.set_by((source, site), what, &view),
            ..ScopeLimit::default()
        };
        let until = wait.map_or(Some(now), |wait| wait.until);
        let mut rate = ScopeLimit {
            room_in_seconds: until.map(|until| seconds_until(until, now)),
            waits_for: wait.map(|wait| wait.cause.as_str()),
            ..line(Limit::Rate, What::Messages.as_str(), Some(60.0))
        };
        if wait.is_some_and(|wait| wait.cause == Cause::Breaker) {
            // What the rate comes from is of no account until the rest is over.
            rate.set_by = self.set_by((source, site), Limit::Breaker, &view);
        }
        let connections = ScopeLimit {
            used: Some(used.into()),
            room: Some(view.connections.saturating_sub(used).into()),
            ..line(Limit::Connections, What::Connections.as_str(), None)
        };
        let mut lines = vec![rate, connections];
        if view.messages_per_connection.is_some() {
            lines.push(line(Limit::MessagesPerConnection, PER_CONNECTION, None));
        }
        if view.hourly_cap.is_some() {
            lines.push(line(Limit::Cap, What::Messages.as_str(), Some(3_600.0)));
        }
        lines
    }

    /// Who set a learnt limit, of which this is seen: the configuration, an operator, or what the receiver said.
    pub(super) fn set_by(&self, (source, site): (&str, &str), what: Limit, view: &View) -> String {
        if view.is_configured(what)
            && let Some(figure) = self.least_figure(source, site, what)
        {
            return format!("{}; no less is learnt", figure.set_by);
        }
        let limits = [Pinned::Rate, Pinned::Connections, Pinned::MessagesPerConnection];
        let pin = limits.into_iter().find(|limit| limit.what() == what);
        if let Some(pin) = pin.and_then(|limit| self.learning.pins.find(source, site, limit)) {
            return pin.describe();
        }
        let history = self.learning.history();
        let is_it = |told: &&super::learning::Told| {
            told.change.what == what && *told.source == *source && *told.site == *site && !told.is_pin
        };
        match (history.iter().find(is_it), view.reply.as_deref()) {
            (Some(told), _) => format!("learnt: {}", told.change.reason),
            (None, Some(reply)) if matches!(what, Limit::Rate | Limit::Breaker) => format!("learnt: {reply}"),
            (None, None) if what == Limit::Breaker => BEFORE_THE_START.to_owned(),
            _ => "learning: no change since the start".to_owned(),
        }
    }

    /// What sets the configuration's limit of a source at a site: the least figure of those that learning goes by.
    fn least_figure(&self, source: &str, site: &str, what: Limit) -> Option<Figure> {
        let name = match what {
            Limit::Rate => What::Messages.as_str(),
            Limit::Connections => What::Connections.as_str(),
            Limit::MessagesPerConnection => PER_CONNECTION,
            Limit::Breaker | Limit::Cap => return None,
        };
        let settings = self.settings();
        let of_both = settings.rules.figures(Of::SourceSite(source, site), None);
        let of_site = settings.rules.figures(Of::Site(site), Some(&settings.limits));
        let own = of_both.into_iter().chain(of_site).filter(|figure| figure.what == name && figure.most.is_some());
        let value =
            |figure: &Figure| number(figure.most.unwrap_or(u64::MAX)) / figure.per.map_or(1.0, |per| per.as_secs_f64());
        own.min_by(|a, b| value(a).total_cmp(&value(b)))
    }

    fn of_tenant(&self, name: &str, campaign: Option<&str>, now: Instant) -> Vec<ScopeLimit> {
        let settings = self.settings();
        let tenant = self.tenants.find(name);
        let purse = tenant.as_ref().and_then(|tenant| tenant.purse.load_full());
        let budget = purse.as_ref().and_then(|purse| purse.budget.as_ref());
        let figures = settings.rules.figures(Of::Tenant(name), None);
        let mut lines = Counted { scope: "tenant", of: name.to_owned(), window: None, budget }.lines(figures, now);
        if let Some(campaign) = campaign {
            let purses = tenant.map(|tenant| tenant.campaign_purses()).unwrap_or_default();
            let purse = purses.iter().find(|(own, _)| **own == *campaign).map(|(_, purse)| purse);
            let budget = purse.and_then(|purse| purse.budget.as_ref());
            let figures = settings.rules.figures(Of::Campaign(name, campaign), None);
            let of = format!("{campaign} of {name}");
            lines.extend(Counted { scope: "campaign", of, window: None, budget }.lines(figures, now));
        }
        lines
    }
}

fn seconds_until(at: Instant, now: Instant) -> f64 {
    at.saturating_duration_since(now).as_secs_f64()
}

/// Counts are far below what a float holds exactly.
fn number(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}
