//! Settling: what an outcome means for a recipient. Finished ones and retry times go to the spool.
//!
//! | outcome | then |
//! |---|---|
//! | delivered | finished; a relayed DSN where NOTIFY=SUCCESS was not passed on |
//! | deferred | the timers, by the retry schedule; at the end of its time: expired; a delay DSN where NOTIFY=DELAY |
//! | bounced, expired | finished; a failure DSN unless NOTIFY or the null reverse-path forbid it |
//!
//! A recipient whose DSN is due stays unfinished until the spool has stored outcome and DSN together.

use std::sync::Arc;

use crate::bounce::dsn::Action as Notification;
use crate::clock::UnixTime;
use crate::dns::PlanFailure;
use crate::message::{Outcome, Phase, Report};
use crate::reply::classify::{Class, classify};
use crate::smtp::status::Status;
use crate::spool::{Event, RecipientEvent};
use crate::state::Action;

use super::engine::Engine;
use super::entry::{Entry, Marks};
use super::notice::Notice;
use super::orders::Standing;
use super::settings::BackOff;
use super::site::Site;

/// Circumstances of the outcomes of one attempt.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    wall: UnixTime,
    /// Most recent outcomes there were deferrals.
    is_mass: bool,
    source: Option<u16>,
}

/// What is collected over the recipients of one message.
#[derive(Debug, Default)]
struct Ledger {
    events: Vec<RecipientEvent>,
    later: Vec<Entry>,
    failed: Vec<(Entry, Event, Report)>,
    delayed: Vec<(Entry, Event, Report)>,
    relayed: Vec<(Entry, Event, Report)>,
    /// What the last deferred one was told: those of one transaction are mostly told the same.
    reply: Option<Arc<Report>>,
}

impl Engine {
    /// Outcomes of an assignment drawn from the path at `place` of `site`, which has it in hand as `taken`; one for each
    /// entry.
    pub fn settle(
        self: &Arc<Self>,
        site: &Arc<Site>,
        (place, taken): (u32, u32),
        entries: Vec<Entry>,
        outcomes: Vec<Outcome>,
    ) {
        let now = self.clock.now();
        let is_deferral = |outcome: &&Outcome| matches!(outcome, Outcome::Deferred(_));
        let deferred = u32::try_from(outcomes.iter().filter(is_deferral).count()).unwrap_or(u32::MAX);
        let all = u32::try_from(outcomes.len()).unwrap_or(u32::MAX);
        let refusal = outcomes.iter().find(|outcome| !matches!(outcome, Outcome::Delivered(_)));
        let last_reply = refusal.map(|outcome| Arc::new(outcome.report().clone()));
        let throttle = outcomes.iter().filter(|_| refusal.is_some()).find(|outcome| is_throttle(outcome));
        let throttle = throttle.map(|outcome| Arc::new(outcome.report().clone()));
        let (is_mass, source) = {
            let mut state = site.state.lock();
            if last_reply.is_some() {
                state.last_reply = last_reply;
            }
            let is_mass = state.storm.count(all, deferred, now);
            let source = state.path(place).map(|path| {
                path.in_flight = path.in_flight.saturating_sub(1);
                if let Some(reply) = throttle {
                    // Each connection ends the pause by opening, so it would never be longer than the first.
                    let back_off = self.settings().back_off;
                    path.fail(reply, BackOff { first: back_off.floor, ..back_off }, now);
                }
                path.in_hand.remove(taken);
                path.key.source
            });
            (is_mass, source)
        };
        self.decide(Attempt { wall: self.clock.wall(), is_mass, source }, entries.into_iter().zip(outcomes));
    }

    /// Entries of a domain without a next hop.
    pub fn fail_by_dns(self: &Arc<Self>, entries: Vec<Entry>, failure: &PlanFailure) {
        let report = Report::local(Phase::Dns, failure.status, failure.text.clone());
        let outcome = match failure.status.class {
            5 => Outcome::Bounced(report),
            _ => Outcome::Deferred(report),
        };
        let attempt = Attempt { wall: self.clock.wall(), is_mass: entries.len() >= 100, source: None };
        self.decide_runs(attempt, entries, |_| outcome.clone());
    }

    /// Entries whose time was over before they could be tried again.
    pub fn expire(self: &Arc<Self>, entries: Vec<Entry>) {
        let entries = self.without_held(entries);
        let attempt = Attempt { wall: self.clock.wall(), is_mass: false, source: None };
        self.decide_runs(attempt, entries, |entry| {
            let text = match self.last_words(entry) {
                Some(words) => format!("delivery time expired; last reply: {words}"),
                None => "delivery time expired".to_owned(),
            };
            // RFC 3463, 3.5: X.4.7, delivery time expired.
            Outcome::Expired(Report::local(Phase::Queue, Status::new(5, 4, 7), text))
        });
    }

    /// Entries that an operator gives up; `why` is told in the DSN.
    pub fn bounce(self: &Arc<Self>, entries: Vec<Entry>, why: &str) {
        let attempt = Attempt { wall: self.clock.wall(), is_mass: false, source: None };
        let report = order_report(why);
        self.decide_runs(attempt, entries, |_| Outcome::Bounced(report.clone()));
    }

    /// What a recipient, or its domain, was deferred for the last time. Never what another recipient was told: that may
    /// be another tenant's.
    pub fn last_words(&self, entry: &Entry) -> Option<String> {
        if let Some(report) = self.replies.of(entry) {
            return Some(describe(&report));
        }
        entry.domain.state.lock().failure.as_deref().map(describe_failure)
    }

    /// Entries of several messages; those of one message follow each other.
    fn decide_runs(self: &Arc<Self>, attempt: Attempt, entries: Vec<Entry>, outcome: impl Fn(&Entry) -> Outcome) {
        let mut entries = entries.into_iter().peekable();
        while let Some(first) = entries.next() {
            let id = first.id;
            let mut run = vec![first];
            while let Some(next) = entries.next_if(|next| next.id == id) {
                run.push(next);
            }
            let outcomes: Vec<Outcome> = run.iter().map(&outcome).collect();
            self.decide(attempt, run.into_iter().zip(outcomes));
        }
    }

    /// Outcomes of recipients of one message.
    fn decide(self: &Arc<Self>, attempt: Attempt, outcomes: impl ExactSizeIterator<Item = (Entry, Outcome)>) {
        let mut ledger = Ledger { events: Vec::with_capacity(outcomes.len()), ..Ledger::default() };
        let mut id = None;
        for (mut entry, outcome) in outcomes {
            id = Some(entry.id);
            if entry.marks.has(Marks::IN_DOUBT) {
                self.doubts.remove(entry.id, entry.recipient);
                entry.marks = entry.marks.with(Marks::IN_DOUBT, false);
            }
            if outcome.report().in_doubt {
                self.meters.unanswered.increment(1);
            }
            match outcome {
                Outcome::Delivered(report) => self.deliver(entry, report, attempt, &mut ledger),
                Outcome::Deferred(report) => match self.doom_of(&entry) {
                    Some(order) => self.fail_by_order(entry, &order, &mut ledger),
                    None => self.defer(entry, report, attempt, &mut ledger),
                },
                Outcome::Bounced(report) => {
                    self.meters.bounced.increment(1);
                    self.fail(entry, Event::Bounced, report, &mut ledger);
                }
                Outcome::Expired(report) => {
                    self.meters.expired.increment(1);
                    self.fail(entry, Event::Expired, report, &mut ledger);
                }
            }
        }
        let Some(id) = id else { return };
        if !ledger.events.is_empty() {
            self.spool.record(id, &ledger.events);
        }
        self.timers.schedule(ledger.later.into_iter());
        let notices = [
            (Notification::Failed, ledger.failed),
            (Notification::Delayed, ledger.delayed),
            (Notification::Relayed, ledger.relayed),
        ];
        for (action, subjects) in notices {
            if !subjects.is_empty() {
                Notice { id, action, subjects }.begin(self);
            }
        }
    }

    fn deliver(&self, entry: Entry, report: Report, attempt: Attempt, ledger: &mut Ledger) {
        self.meters.delivered.increment(1);
        self.meters.age.record(attempt.wall.since(entry.accepted).as_secs_f64());
        if entry.marks.has(Marks::WANTS_SUCCESS) && !report.relayed_dsn {
            ledger.relayed.push((entry, Event::Delivered, report));
            return;
        }
        self.finish(&entry, Event::Delivered, ledger);
    }

    /// It was being tried when it was given up.
    fn fail_by_order(&self, entry: Entry, order: &Standing, ledger: &mut Ledger) {
        if order.order.action == Action::Delete {
            self.meters.deleted.increment(1);
            return self.finish(&entry, Event::Deleted, ledger);
        }
        self.meters.bounced.increment(1);
        self.fail(entry, Event::Bounced, order_report(&order.describe()), ledger);
    }

    fn fail(&self, entry: Entry, event: Event, report: Report, ledger: &mut Ledger) {
        if entry.marks.has(Marks::WANTS_FAILURE) {
            ledger.failed.push((entry, event, report));
            return;
        }
        if entry.marks.has(Marks::FROM_NULL) {
            // The end of what its reverse-path would have been told: only the log has it.
            tracing::warn!(message_id = %entry.id, recipient = entry.recipient, reason = %describe(&report),
                "a message from the null reverse-path (a DSN) could not be delivered");
        }
        self.finish(&entry, event, ledger);
    }

    fn finish(&self, entry: &Entry, event: Event, ledger: &mut Ledger) {
        ledger.events.push(RecipientEvent { recipient: entry.recipient, event });
        self.replies.forget(entry);
        self.count_out(&entry.flow);
    }

    fn defer(&self, mut entry: Entry, report: Report, attempt: Attempt, ledger: &mut Ledger) {
        let settings = self.settings();
        let retry = &settings.retry;
        if attempt.wall >= retry.end(entry.accepted) {
            self.meters.expired.increment(1);
            return self.fail(entry, Event::Expired, report, ledger);
        }
        self.meters.deferred.increment(1);
        entry.attempts = entry.attempts.saturating_add(1);
        entry.due = retry.due(entry.id, entry.attempts, entry.accepted, attempt.wall, attempt.is_mass);
        if attempt.source.is_some() {
            entry.marks = entry.marks.with_source(attempt.source);
        }
        let reply = ledger.reply.take().filter(|last| **last == report).unwrap_or_else(|| Arc::new(report.clone()));
        self.replies.note(&entry, reply.clone());
        ledger.reply = Some(reply);
        let is_late = attempt.wall.since(entry.accepted) >= settings.delay_after;
        if is_late && entry.is_owed_delay() {
            let event = deferral(&entry, true);
            ledger.delayed.push((entry, event, report));
            return;
        }
        let event = deferral(&entry, entry.marks.has(Marks::DELAY_REPORTED));
        ledger.events.push(RecipientEvent { recipient: entry.recipient, event });
        ledger.later.push(entry);
    }
}

/// RFC 3463, 3.8: X.7.1, delivery not authorized; nearest to a decision of the operator.
fn order_report(why: &str) -> Report {
    Report::local(Phase::Queue, Status::new(5, 7, 1), format!("given up by the operator: {why}"))
}

/// Whether the receiver wants to be left alone for a while.
fn is_throttle(outcome: &Outcome) -> bool {
    let Outcome::Deferred(report) = outcome else { return false };
    classify(report.phase, &report.reply) == Class::Throttle
}

/// The event of a deferred entry.
pub(super) fn deferral(entry: &Entry, delay_reported: bool) -> Event {
    Event::Deferred { attempts: entry.attempts, due: entry.due, delay_reported }
}

/// A report for people: what the receiver, or we, said.
pub(super) fn describe(report: &Report) -> String {
    let Report { phase, reply, mx_host, .. } = report;
    let host = mx_host.as_deref().unwrap_or("-");
    let said = match (reply.code, reply.status) {
        (0, _) => String::new(),
        (code, Some(status)) => format!("{code} {status} "),
        (code, None) => format!("{code} "),
    };
    format!("{} at {host}: {said}{}", phase.as_str(), reply.text)
}

/// The same of a domain without a next hop.
pub(super) fn describe_failure(failure: &PlanFailure) -> String {
    describe(&Report::local(Phase::Dns, failure.status, failure.text.clone()))
}
