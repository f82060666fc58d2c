//! Walking through the queue for those who ask about single recipients: every place, a lock at a time.

use std::sync::Arc;

use crate::state::{Action, Selection};

use super::engine::Engine;
use super::entry::{Entry, Marks};
use super::in_hand::Taken;
use super::matcher::{Matcher, Whereabouts};
use super::settle::{describe, describe_failure};
use super::site::Site;
use super::source::Source;
use super::view::{Counts, EntryView, Filter, HELD, IN_FLIGHT, READY, SCHEDULED, STORING, SUSPENDED, WAITING_FOR_DNS};

impl Engine {
    /// Entries that match: held and suspended ones first, then site by site those that are ready or being tried, those
    /// whose DSN is being stored, those that wait for a look-up, and scheduled ones. Blocks on the disk where only
    /// envelopes tell who matches.
    pub fn list(&self, filter: &Filter) -> Vec<EntryView> {
        let matcher = Matcher::new(&filter.selection);
        // A hash may lie once in four thousand millions.
        let most = filter.limit.saturating_add(if matcher.asks_envelope() { 16 } else { 0 });
        let mut found: Vec<EntryView> = Vec::new();
        self.visit(&matcher, filter.in_doubt, &mut |seen| {
            if found.len() < most {
                found.push(match seen {
                    Seen::Queued(queued) => self.show(&queued),
                    Seen::Taken(view) => *view,
                });
            }
            found.len() < most
        });
        if matcher.asks_envelope() {
            found.retain(|view| {
                let envelope = view.message_id.parse().ok().and_then(|id| self.envelope_of(id));
                // What cannot be read is shown rather than hidden.
                envelope.is_none_or(|envelope| matcher.confirms(&envelope, view.recipient))
            });
        }
        found.truncate(filter.limit);
        found
    }

    /// How many recipients match, by where they are; addresses by their hashes only.
    pub fn count(&self, selection: &Selection) -> Counts {
        let mut counts = Counts::new();
        self.visit(&Matcher::new(selection), false, &mut |seen| {
            let state = match seen {
                Seen::Queued(queued) => queued.state,
                Seen::Taken(view) => view.state,
            };
            *counts.entry(state).or_default() += 1;
            true
        });
        counts
    }

    /// Shows `each` every entry that may match, most of them under a lock, until it returns false.
    fn visit(&self, matcher: &Matcher, in_doubt: bool, each: &mut dyn FnMut(Seen<'_>) -> bool) {
        let mut goes_on = true;
        let wants = |entry: &Entry, at: Whereabouts<'_>| {
            (!in_doubt || entry.marks.has(Marks::IN_DOUBT)) && matcher.may_match(entry, at)
        };
        let nothing = || None;
        self.held.for_each(|entry, hold| {
            if self.with_whereabouts(entry, |at| wants(entry, at)) {
                let (state, site) = (hold.as_str(), entry.domain.site());
                let site = site.as_ref();
                goes_on = each(Seen::Queued(Queued { entry, state, site, order: None, why: &nothing }));
            }
            goes_on
        });
        self.orders.for_each_parked(|standing, entry| {
            if goes_on && self.with_whereabouts(entry, |at| wants(entry, at)) {
                let state = if standing.order.action == Action::Hold { HELD } else { SUSPENDED };
                let why = || Some(standing.describe());
                let (order, site) = (Some(standing.order.id.0), entry.domain.site());
                goes_on = each(Seen::Queued(Queued { entry, state, site: site.as_ref(), order, why: &why }));
            }
            goes_on
        });
        for site in self.all_sites() {
            if !goes_on {
                return;
            }
            self.visit_site(&site, &wants, matcher, in_doubt, &mut |seen| {
                goes_on = each(seen);
                goes_on
            });
        }
        if goes_on && !matcher.asks_site() && !matcher.asks_source() {
            let taken: Vec<Taken> =
                self.storing.lock().iter().filter(|taken| may_want(matcher, taken)).cloned().collect();
            goes_on = self.visit_taken(&taken, (STORING, Whereabouts::default()), matcher, in_doubt, each);
        }
        self.domains.for_each(|domain| {
            let state = domain.state.lock();
            let site = state.route.as_ref().map(|route| &route.site.name);
            let at = Whereabouts { site: site.map(|site| &**site), source: None };
            let why = || state.failure.as_deref().map(describe_failure);
            for entry in state.waiting.iter().filter(|entry| wants(entry, at)) {
                if !goes_on {
                    return;
                }
                goes_on = each(Seen::Queued(Queued { entry, state: WAITING_FOR_DNS, site, order: None, why: &why }));
            }
        });
        for shard in self.timers.shards() {
            shard.for_each(|entry| {
                if !goes_on || !self.with_whereabouts(entry, |at| wants(entry, at)) {
                    return goes_on;
                }
                let (route, failure) = {
                    let state = entry.domain.state.lock();
                    (state.route.clone(), state.failure.clone())
                };
                let why = || failure.as_deref().map(describe_failure);
                let site = route.as_ref().map(|route| &route.site.name);
                goes_on = each(Seen::Queued(Queued { entry, state: SCHEDULED, site, order: None, why: &why }));
                goes_on
            });
        }
    }

    /// What is ready or being tried at a site.
    fn visit_site(
        &self,
        site: &Arc<Site>,
        wants: &dyn Fn(&Entry, Whereabouts<'_>) -> bool,
        matcher: &Matcher,
        in_doubt: bool,
        each: &mut dyn FnMut(Seen<'_>) -> bool,
    ) {
        let mut taken: Vec<(Option<Arc<Source>>, Taken)> = Vec::new();
        let mut goes_on = true;
        {
            // Both under one hold of the lock: what is drawn meanwhile is not overlooked.
            let state = site.state.lock();
            for path in state.paths.iter().flatten() {
                let source = self.source(path.key.source);
                let at = Whereabouts { site: Some(&site.name), source: source.as_ref().map(|source| &*source.name) };
                let why = || path.pause.as_ref().map(|pause| describe(&pause.reason));
                for entry in path.ready.iter().filter(|entry| wants(entry, at)) {
                    if !goes_on {
                        return;
                    }
                    let site = Some(&site.name);
                    goes_on = each(Seen::Queued(Queued { entry, state: READY, site, order: None, why: &why }));
                }
                let wanted = path.in_hand.iter().filter(|taken| may_want(matcher, taken));
                taken.extend(wanted.map(|taken| (source.clone(), taken.clone())));
            }
        }
        for (source, taken) in taken {
            let at = Whereabouts { site: Some(&site.name), source: source.as_ref().map(|source| &*source.name) };
            if !goes_on || !self.visit_taken(&[taken], (IN_FLIGHT, at), matcher, in_doubt, each) {
                return;
            }
        }
    }

    /// Recipients in hand that match. What the queue does not know of them is in the spool, which may read its disk for
    /// it; what has been finished meanwhile is left out.
    fn visit_taken(
        &self,
        taken: &[Taken],
        (state, at): (&'static str, Whereabouts<'_>),
        matcher: &Matcher,
        in_doubt: bool,
        each: &mut dyn FnMut(Seen<'_>) -> bool,
    ) -> bool {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        for taken in taken {
            let pending = self.spool.pending(taken.id);
            let Some(envelope) = self.envelope_of(taken.id) else { continue };
            let taken_for = u32::try_from(now.saturating_duration_since(taken.since).as_secs()).unwrap_or(u32::MAX);
            let since = Some(wall.0.saturating_sub(taken_for));
            for index in taken.recipients.as_slice() {
                let is_in_doubt = self.doubts.find(taken.id, *index).is_some();
                if (in_doubt && !is_in_doubt) || !matcher.matches_taken(taken.id, &envelope, *index, at) {
                    continue;
                }
                let Some(pending) = pending.iter().find(|pending| pending.recipient == *index) else { continue };
                let recipient = envelope.recipients.get(usize::try_from(*index).unwrap_or(usize::MAX));
                let view = EntryView {
                    message_id: taken.id.to_string(),
                    recipient: *index,
                    domain: recipient.map(|it| it.forward_path.domain().to_lowercase()).unwrap_or_default(),
                    site: at.site.map(str::to_owned),
                    tenant: envelope.tenant.to_string(),
                    campaign: envelope.campaign.to_string(),
                    lane: envelope.lane.as_str(),
                    order: None,
                    state,
                    since,
                    in_doubt: is_in_doubt,
                    mx_address: pending.in_doubt.map(|address| address.to_string()),
                    last_reply: self.replies.of_recipient(taken.id, *index).map(|reply| describe(&reply)),
                    attempts: pending.attempts,
                    accepted: envelope.accepted_at.0,
                    due: pending.due.0,
                };
                if !each(Seen::Taken(Box::new(view))) {
                    return false;
                }
            }
        }
        true
    }

    fn show(&self, queued: &Queued<'_>) -> EntryView {
        let Queued { entry, state, site, order, why } = *queued;
        let in_doubt = entry.marks.has(Marks::IN_DOUBT);
        let mx_address = in_doubt.then(|| self.doubts.find(entry.id, entry.recipient)).flatten();
        EntryView {
            message_id: entry.id.to_string(),
            recipient: entry.recipient,
            domain: entry.domain.name.to_string(),
            site: site.map(ToString::to_string),
            tenant: entry.flow.tenant.name.to_string(),
            campaign: entry.flow.campaign.to_string(),
            lane: entry.flow.lane.as_str(),
            order,
            state,
            since: None,
            in_doubt,
            mx_address: mx_address.map(|address| address.to_string()),
            last_reply: self.replies.of(entry).map(|reply| describe(&reply)).or_else(why),
            attempts: entry.attempts,
            accepted: entry.accepted.0,
            due: entry.due.0,
        }
    }
}

/// As far as can be told without the spool.
fn may_want(matcher: &Matcher, taken: &Taken) -> bool {
    matcher.may_match_message(taken.id)
}

/// An entry that a walk meets.
enum Seen<'a> {
    /// In a line of the queue.
    Queued(Queued<'a>),
    /// In somebody's hand.
    Taken(Box<EntryView>),
}

#[derive(Clone, Copy)]
struct Queued<'a> {
    entry: &'a Entry,
    state: &'static str,
    site: Option<&'a Arc<str>>,
    order: Option<u32>,
    /// What holds up entries that were not deferred themselves, or what for is forgotten.
    why: &'a dyn Fn() -> Option<String>,
}
