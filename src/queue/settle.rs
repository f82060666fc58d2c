//! Settling: what an outcome means for a recipient. Finished ones and retry times go to the spool.
//!
//! | outcome | then |
//! |---|---|
//! | delivered | finished; a relayed DSN where NOTIFY=SUCCESS was not passed on |
//! | deferred | the timers, by the retry schedule; at the end of its time: expired; a delay DSN where NOTIFY=DELAY |
//! | bounced, expired | finished; a failure DSN unless NOTIFY or the null reverse-path forbid it, or its tenant has none |
//! | suppressed | finished; a failure DSN likewise, where clients are told |
//!
//! A recipient whose DSN is due stays unfinished until the spool has stored outcome and DSN together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bounce::dsn::Action as Notification;
use crate::clock::UnixTime;
use crate::dns::PlanFailure;
use crate::feedback::Feedback;
use crate::journal::{self, Decision, Refusal, Subject, Verdict};
use crate::message::{Envelope, Outcome, Phase, Report};
use crate::reply;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;
use crate::spool::{Event, RecipientEvent};
use crate::state::{Action, OrderId};

use super::engine::Engine;
use super::entry::{Entry, Marks, Return};
use super::flow::Flow;
use super::learning::Evidence;
use super::notice::Notice;
use super::orders::Standing;
use super::settings::BackOff;
use super::site::Site;
use super::tally::refusals;
use super::top::Fate;
use super::unread::Settlement;

/// Circumstances of the outcomes of one attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    pub wall: UnixTime,
    /// Most recent outcomes there were deferrals.
    pub is_mass: bool,
    /// Whether the receiver throttles us, and the controller knows: what is deferred goes back and counts as no attempt.
    pub returns: Return,
    pub source: Option<u16>,
    pub telling: Telling<'a>,
}

/// What only the journal wants to know of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Telling<'a> {
    pub envelope: Option<&'a Envelope>,
    pub size: Option<u64>,
    pub site: Option<&'a str>,
    pub source: Option<&'a str>,
    /// When a connection took the message, as the time since 1970-01-01 UTC.
    pub attempted: Option<Duration>,
    /// The order that decides the outcome.
    pub order: Option<OrderId>,
}

/// The transaction that outcomes come from.
#[derive(Debug)]
pub(super) struct Tried {
    /// The message's envelope and its size, if it was read.
    pub message: Option<(Arc<Envelope>, u64)>,
    /// When a connection took it.
    pub since: Instant,
    /// As which message of that connection, the first being 1.
    pub count: u32,
    /// Octets that have been charged for it, if anybody counts them.
    pub octets: Option<u64>,
}

/// What is collected over the recipients of one message.
#[derive(Debug, Default)]
struct Ledger {
    events: Vec<RecipientEvent>,
    later: Vec<Entry>,
    /// Those that go back to their paths at once.
    again: Vec<Entry>,
    failed: Vec<(Entry, Event, Report)>,
    delayed: Vec<(Entry, Event, Report)>,
    relayed: Vec<(Entry, Event, Report)>,
    /// How many are finished, and whose they are; counted out when the spool has been told, not before: what a panic
    /// leaves unfinished there is still counted.
    finished: Option<(Arc<Flow>, usize)>,
    /// What the last deferred one was told: those of one transaction are mostly told the same.
    reply: Option<Arc<Report>>,
}

/// What became of one entry.
#[derive(Debug)]
pub(super) struct Decided {
    pub entry: Entry,
    pub outcome: Outcome,
    /// What the refusal is about, if it is one.
    pub verdict: Option<reply::Verdict>,
}

impl Decided {
    /// Entries with their outcomes, and with what [`Engine::verdicts`] makes of these.
    pub fn all(
        entries: Vec<Entry>,
        outcomes: Vec<Outcome>,
        verdicts: Vec<Option<reply::Verdict>>,
    ) -> impl ExactSizeIterator<Item = Self> {
        let mut verdicts = verdicts.into_iter();
        let decided = entries.into_iter().zip(outcomes);
        decided.map(move |(entry, outcome)| Self { entry, outcome, verdict: verdicts.next().flatten() })
    }
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
        tried: &Tried,
    ) {
        self.top.settled(site, &outcomes);
        let now = self.clock.now();
        let is_deferral = |outcome: &&Outcome| matches!(outcome, Outcome::Deferred(_));
        let deferred = u32::try_from(outcomes.iter().filter(is_deferral).count()).unwrap_or(u32::MAX);
        let all = u32::try_from(outcomes.len()).unwrap_or(u32::MAX);
        let refusal = outcomes.iter().find(|outcome| outcome.is_refusal());
        let last_reply = refusal.map(|outcome| Arc::new(outcome.report().clone()));
        let heard = refusals(&outcomes);
        let verdicts = self.verdicts(&outcomes, Some(&site.name));
        let throttle = outcomes.iter().zip(&verdicts).find(|(outcome, verdict)| is_throttle(outcome, verdict.as_ref()));
        let throttle = throttle.map(|(outcome, _)| Arc::new(outcome.report().clone()));
        let sent = Sent::of(tried, &outcomes);
        let evidence = Evidence::of(&outcomes, &verdicts);
        let (is_mass, source, (heard, is_seen_to)) = site.with(self, now, |context, state, out| {
            if last_reply.is_some() {
                state.last_reply = last_reply;
                state.sayings.add(heard, now);
            }
            state.count_outcomes(&outcomes);
            let is_mass = state.storm.count(all, deferred, now);
            let source = state.path(place).map(|path| {
                path.in_flight = path.in_flight.saturating_sub(1);
                path.in_hand.remove(taken);
                path.key.source
            });
            if let (Some(source), Some(entry)) = (source, entries.first()) {
                if sent == Sent::Nothing {
                    state.refund_budgets(&self.gates, source, &entry.flow, (tried.since, now));
                }
                if let Some(charged) = tried.octets {
                    state.recharge(&self.gates, source, &entry.flow, (charged, sent.octets()), now);
                }
            }
            let learnt = source.zip(evidence.as_ref());
            let learnt = learnt
                .map(|(source, evidence)| state.learn(context, source, evidence, (tried.since, tried.count), out));
            let (heard, is_seen_to) = learnt.unwrap_or_default();
            if let Some(reply) = throttle.filter(|_| !is_seen_to)
                && let Some(path) = state.path(place)
            {
                // Each connection ends the pause by opening, so it would never be longer than the first.
                let back_off = self.settings().back_off;
                path.fail(reply, BackOff { first: back_off.floor, ..back_off }, now);
            }
            (is_mass, source, (heard, is_seen_to))
        });
        if let Some(source) = source.filter(|_| self.warmups.is_on()) {
            let is_returned =
                sent != Sent::Nothing && evidence.as_ref().is_some_and(|evidence| evidence.is_returned(&heard));
            self.note_warmup((site, source), entries.first(), (&outcomes, &verdicts), (tried.since, now), is_returned);
        }
        let returns = evidence.filter(|_| is_seen_to).map_or(Return::Never, |evidence| evidence.returns(&heard));
        let (wall, decided) = (self.clock.wall(), Decided::all(entries, outcomes, verdicts));
        let Some((envelope, size)) = &tried.message else {
            let (since, outcomes) = (Some(tried.since), decided.collect());
            let order = None;
            return self.decide_unread(Settlement { wall, is_mass, returns, source, since, order, outcomes });
        };
        let origin = source.and_then(|source| self.source(source));
        let telling = Telling {
            envelope: Some(envelope),
            size: Some(*size),
            site: Some(&site.name),
            source: origin.as_ref().map(|source| &*source.name),
            attempted: Some(self.clock.wall_at(tried.since)),
            order: None,
        };
        self.decide(Attempt { wall, is_mass, returns, source, telling }, decided);
    }

    /// Entries of a domain without a next hop.
    pub fn fail_by_dns(self: &Arc<Self>, entries: Vec<Entry>, failure: &PlanFailure) {
        let report = Report::local(Phase::Dns, failure.status, failure.text.clone());
        let outcome = match failure.status.class {
            5 => Outcome::Bounced(report),
            _ => Outcome::Deferred(report),
        };
        let is_mass = entries.len() >= 100;
        self.decide_runs(is_mass, None, entries, |_| outcome.clone());
    }

    /// Entries whose time was over before they could be tried again.
    pub fn expire(self: &Arc<Self>, entries: Vec<Entry>) {
        let entries = self.without_held(entries);
        self.decide_runs(false, None, entries, |entry| {
            let text = match self.last_words(entry) {
                Some(words) => format!("delivery time expired; last reply: {words}"),
                None => "delivery time expired".to_owned(),
            };
            // RFC 3463, 3.5: X.4.7, delivery time expired.
            Outcome::Expired(Report::local(Phase::Queue, Status::new(5, 4, 7), text))
        });
    }

    /// Entries that an operator's order gives up; the DSN tells why.
    pub fn bounce(self: &Arc<Self>, entries: Vec<Entry>, standing: &Standing) {
        let report = order_report(&standing.describe());
        self.decide_runs(false, Some(standing.order.id), entries, |_| Outcome::Bounced(report.clone()));
    }

    /// What a recipient, or its domain, was deferred for the last time. Never what another recipient was told: that may
    /// be another tenant's.
    pub fn last_words(&self, entry: &Entry) -> Option<String> {
        if let Some(report) = self.replies.of(entry) {
            return Some(describe(&report));
        }
        entry.domain.state.lock().failure.as_deref().map(describe_failure)
    }

    /// Entries of several messages; those of one message follow each other. `order` decides them, or nobody.
    fn decide_runs(
        self: &Arc<Self>,
        is_mass: bool,
        order: Option<OrderId>,
        entries: Vec<Entry>,
        outcome: impl Fn(&Entry) -> Outcome,
    ) {
        let wall = self.clock.wall();
        let mut entries = entries.into_iter().peekable();
        while let Some(first) = entries.next() {
            let id = first.id;
            let mut run = vec![first];
            while let Some(next) = entries.next_if(|next| next.id == id) {
                run.push(next);
            }
            let outcomes: Vec<Outcome> = run.iter().map(&outcome).collect();
            let site = run.first().and_then(|entry| entry.domain.site());
            let verdicts = self.verdicts(&outcomes, site.as_deref());
            let outcomes = Decided::all(run, outcomes, verdicts).collect();
            let (returns, source, since) = (Return::Never, None, None);
            self.decide_unread(Settlement { wall, is_mass, returns, source, since, order, outcomes });
        }
    }

    /// Outcomes of recipients of one message.
    pub(super) fn decide(self: &Arc<Self>, attempt: Attempt<'_>, outcomes: impl ExactSizeIterator<Item = Decided>) {
        let mut ledger = Ledger { events: Vec::with_capacity(outcomes.len()), ..Ledger::default() };
        let mut id = None;
        let (mut delivered, mut deferred, mut bounced) = (0, 0, 0);
        for Decided { mut entry, outcome, verdict } in outcomes {
            let judged = verdict.as_ref();
            id = Some(entry.id);
            if entry.marks.has(Marks::IN_DOUBT) {
                self.doubts.remove(entry.id, entry.recipient);
                entry.marks = entry.marks.with(Marks::IN_DOUBT, false);
            }
            if outcome.report().in_doubt {
                self.meters.unanswered.increment(1);
            }
            if attempt.source.is_some() {
                self.meters.answered(entry.flow.lane, attempt.wall.since(entry.due));
            }
            match &outcome {
                Outcome::Delivered(_) => delivered += 1,
                Outcome::Deferred(_) => deferred += 1,
                Outcome::Bounced(_) | Outcome::Expired(_) | Outcome::Suppressed(_) => bounced += 1,
            }
            if let Some(judged) = judged {
                self.tell_feedback(&entry, &outcome, judged, attempt.telling.envelope);
            }
            match outcome {
                Outcome::Delivered(report) => self.deliver(entry, report, &attempt, &mut ledger),
                Outcome::Deferred(report) => match self.doom_of(&entry) {
                    Some(order) => self.fail_by_order(entry, &order, &attempt, &mut ledger),
                    None => self.defer(entry, (report, judged), &attempt, &mut ledger),
                },
                Outcome::Bounced(report) => {
                    self.meters.bounced.increment(1);
                    self.tell(&entry, Verdict::Bounced, (&report, judged), &attempt);
                    self.top.decided(&entry.flow.tenant, Fate::Bounced);
                    self.fail(entry, Event::Bounced, report, &mut ledger);
                }
                Outcome::Expired(report) => {
                    self.meters.expired.increment(1);
                    self.tell(&entry, Verdict::Expired, (&report, judged), &attempt);
                    self.top.decided(&entry.flow.tenant, Fate::Expired);
                    self.fail(entry, Event::Expired, report, &mut ledger);
                }
                Outcome::Suppressed(report) => {
                    self.meters.suppressed.increment(1);
                    self.tell(&entry, Verdict::Suppressed, (&report, None), &attempt);
                    self.top.decided(&entry.flow.tenant, Fate::Suppressed);
                    match self.feedback.as_ref().is_some_and(Feedback::tells) {
                        true => self.fail(entry, Event::Bounced, report, &mut ledger),
                        false => self.finish(entry, Event::Bounced, &mut ledger),
                    }
                }
            }
        }
        let Some(id) = id else { return };
        self.flowing.settle(delivered, deferred, bounced);
        if !ledger.events.is_empty() {
            self.spool.record(id, &ledger.events);
        }
        if let Some((flow, count)) = ledger.finished {
            self.count_out(&flow, count);
        }
        self.timers.schedule(ledger.later.into_iter());
        if !ledger.again.is_empty() {
            self.admit_all(ledger.again);
        }
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

    fn deliver(&self, entry: Entry, report: Report, attempt: &Attempt<'_>, ledger: &mut Ledger) {
        self.tell(&entry, Verdict::Delivered, (&report, None), attempt);
        self.meters.delivered(entry.flow.lane, attempt.wall.since(entry.accepted));
        self.top.decided(&entry.flow.tenant, Fate::Delivered);
        if entry.marks.has(Marks::WANTS_SUCCESS) && !report.relayed_dsn && self.sends_dsns(&entry) {
            ledger.relayed.push((entry, Event::Delivered, report));
            return;
        }
        self.finish(entry, Event::Delivered, ledger);
    }

    /// It was being tried when it was given up.
    fn fail_by_order(&self, entry: Entry, order: &Standing, attempt: &Attempt<'_>, ledger: &mut Ledger) {
        if order.order.action == Action::Delete {
            self.meters.deleted.increment(1);
            self.top.decided(&entry.flow.tenant, Fate::Deleted);
            let Telling { envelope, site, .. } = attempt.telling;
            self.tell_deleted(&entry, envelope, site, &order.order);
            return self.finish(entry, Event::Deleted, ledger);
        }
        self.meters.bounced.increment(1);
        self.top.decided(&entry.flow.tenant, Fate::Bounced);
        let report = order_report(&order.describe());
        let telling = Telling { order: Some(order.order.id), ..attempt.telling };
        let judged = self.verdict(&report, telling.site);
        self.tell(&entry, Verdict::Bounced, (&report, judged.as_ref()), &Attempt { telling, ..*attempt });
        self.fail(entry, Event::Bounced, report, ledger);
    }

    /// Tells the journal how a recipient ended. What our own queue decides is no attempt.
    fn tell(&self, entry: &Entry, verdict: Verdict, said: (&Report, Option<&reply::Verdict>), attempt: &Attempt<'_>) {
        let attempts = entry.attempts.saturating_add(u16::from(said.0.phase != Phase::Queue));
        self.tell_decision(entry, verdict, said, attempt, (attempts, entry.due, None));
    }

    /// Tells the journal of a deferral of what was `due`, and whether it goes back; the entry has its next time.
    fn tell_deferral(
        &self,
        entry: &Entry,
        (due, is_returned): (UnixTime, bool),
        (report, judged): (&Report, Option<&reply::Verdict>),
        attempt: &Attempt<'_>,
    ) {
        let is_throttle = is_returned || judged.is_some_and(reply::Verdict::wants_rest);
        let verdict = if is_throttle { Verdict::Throttled } else { Verdict::Deferred };
        // One that goes back at once keeps the time at which it was due.
        let retry = Some(entry.due.max(attempt.wall));
        self.tell_decision(entry, verdict, (report, judged), attempt, (entry.attempts, due, retry));
    }

    fn tell_decision(
        &self,
        entry: &Entry,
        verdict: Verdict,
        (report, judged): (&Report, Option<&reply::Verdict>),
        attempt: &Attempt<'_>,
        (attempts, due, retry): (u16, UnixTime, Option<UnixTime>),
    ) {
        let Telling { envelope, size, site, source, attempted, order } = attempt.telling;
        let subject = Subject { id: entry.id, envelope, recipient: entry.recipient, site };
        if let Some(judged) = judged {
            self.meters.refused(judged.class);
        }
        let refusal = judged.map(|judged| Refusal {
            class: judged.class.as_str(),
            rule: &judged.rule,
            permanent: judged.permanent(),
            list: judged.list.as_deref(),
        });
        let (attempt, order) = (attempts, order.map(|order| order.0));
        let decision =
            Decision { subject, verdict, report, refusal, source, attempt, size, due, attempted, retry, order };
        self.journal.tell(&journal::Event::Decided(decision));
    }

    fn fail(&self, entry: Entry, event: Event, report: Report, ledger: &mut Ledger) {
        if entry.marks.has(Marks::WANTS_FAILURE) && self.sends_dsns(&entry) {
            ledger.failed.push((entry, event, report));
            return;
        }
        if entry.marks.has(Marks::FROM_NULL) {
            // The end of what its reverse-path would have been told: only the log has it.
            // A reply often names the mailbox, whose address is not known here.
            let reason = match self.journal.is_masked() {
                true => format!("{}: {}", report.phase.as_str(), report.reply.code),
                false => describe(&report),
            };
            tracing::warn!(message_id = %entry.id, recipient = entry.recipient, reason,
                "a message from the null reverse-path (a DSN) could not be delivered");
        }
        self.finish(entry, event, ledger);
    }

    fn finish(&self, entry: Entry, event: Event, ledger: &mut Ledger) {
        ledger.events.push(RecipientEvent { recipient: entry.recipient, event });
        self.replies.forget(&entry);
        let before = ledger.finished.take().map_or(0, |(_, count)| count);
        ledger.finished = Some((entry.flow, before + 1));
    }

    fn defer(
        &self,
        mut entry: Entry,
        (report, judged): (Report, Option<&reply::Verdict>),
        attempt: &Attempt<'_>,
        ledger: &mut Ledger,
    ) {
        let settings = self.settings();
        let retry = &settings.retry;
        entry.marks = entry.marks.with(Marks::RELEASED, false);
        if attempt.wall >= retry.end(entry.accepted) {
            self.meters.expired.increment(1);
            self.tell(&entry, Verdict::Expired, (&report, judged), attempt);
            self.top.decided(&entry.flow.tenant, Fate::Expired);
            return self.fail(entry, Event::Expired, report, ledger);
        }
        self.meters.deferred.increment(1);
        self.top.decided(&entry.flow.tenant, Fate::Deferred);
        let due = entry.due;
        let returned = entry.marks.returned(attempt.returns);
        if returned.is_none() {
            entry.attempts = entry.attempts.saturating_add(1);
            entry.due = retry.due(entry.id, entry.attempts, entry.accepted, attempt.wall, attempt.is_mass);
        }
        entry.marks = returned.unwrap_or(entry.marks.charged());
        self.tell_deferral(&entry, (due, returned.is_some()), (&report, judged), attempt);
        if attempt.source.is_some() {
            entry.marks = entry.marks.with_source(attempt.source);
        }
        let reply = ledger.reply.take().filter(|last| **last == report).unwrap_or_else(|| Arc::new(report.clone()));
        self.replies.note(&entry, reply.clone());
        ledger.reply = Some(reply);
        let is_late = attempt.wall.since(entry.accepted) >= settings.delay_after;
        if is_late && entry.is_owed_delay() && self.sends_dsns(&entry) {
            let event = deferral(&entry, true);
            ledger.delayed.push((entry, event, report));
            return;
        }
        let event = deferral(&entry, entry.marks.has(Marks::DELAY_REPORTED));
        ledger.events.push(RecipientEvent { recipient: entry.recipient, event });
        if returned.is_some() { ledger.again.push(entry) } else { ledger.later.push(entry) }
    }
}

/// Whether the receiver wants to be left alone for a while.
fn is_throttle(outcome: &Outcome, verdict: Option<&reply::Verdict>) -> bool {
    matches!(outcome, Outcome::Deferred(_)) && verdict.is_some_and(reply::Verdict::wants_rest)
}

/// RFC 3463, 3.8: X.7.1, delivery not authorized; nearest to a decision of the operator.
fn order_report(why: &str) -> Report {
    Report::local(Phase::Queue, Status::new(5, 7, 1), format!("given up by the operator: {why}"))
}

/// How far a transaction went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sent {
    /// Not to MAIL: it counts as no message.
    Nothing,
    /// Commands.
    Envelope,
    /// Content too.
    Octets(u64),
}

impl Sent {
    fn of(tried: &Tried, outcomes: &[Outcome]) -> Self {
        let size = tried.message.as_ref().map(|(_, size)| *size).or(tried.octets).unwrap_or(0);
        let parts = outcomes.iter().map(|outcome| match outcome.report().phase {
            Phase::Dns | Phase::Connect | Phase::Greeting | Phase::Ehlo | Phase::StartTls | Phase::Queue => {
                Self::Nothing
            }
            Phase::Mail | Phase::Rcpt | Phase::Data => Self::Envelope,
            Phase::Content | Phase::EndOfData => Self::Octets(size),
        });
        parts.max().unwrap_or(Self::Nothing)
    }

    /// Octets of content that went.
    fn octets(self) -> u64 {
        if let Self::Octets(octets) = self { octets } else { 0 }
    }
}

/// The event of a deferred entry.
pub(super) fn deferral(entry: &Entry, delay_reported: bool) -> Event {
    Event::Deferred { attempts: entry.attempts, due: entry.due, delay_reported }
}

/// A report for people: what the receiver, or we, said.
pub(super) fn describe(report: &Report) -> String {
    let Report { phase, reply, mx_host, .. } = report;
    format!("{} at {}: {}", phase.as_str(), mx_host.as_deref().unwrap_or("-"), said(reply))
}

/// A reply for people: code, enhanced status code and text.
pub(super) fn said(reply: &Reply) -> String {
    match (reply.code, reply.status) {
        (0, _) => reply.text.to_string(),
        (code, Some(status)) => format!("{code} {status} {}", reply.text),
        (code, None) => format!("{code} {}", reply.text),
    }
}

/// The same of a domain without a next hop.
pub(super) fn describe_failure(failure: &PlanFailure) -> String {
    describe(&Report::local(Phase::Dns, failure.status, failure.text.clone()))
}
