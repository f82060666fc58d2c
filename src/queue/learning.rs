//! Learning what receivers allow: outcomes become evidence for the controllers of a site, and what these change is told.
//!
//! A controller belongs to a source at a site (an origin) and is asked for each message and connection by
//! `permits`. Here it is told what became of them.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::journal::{self, LimitChange};
use crate::limit::controller::{Answer, Change, Changes, Failure, Heard, Learnt, Refused, Signal, Start};
use crate::message::{Outcome, Phase, Report};
use crate::reply::{Certainty, Class, Verdict};
use crate::state::{LearntStore, Pins};

use super::engine::Engine;
use super::entry::Return;
use super::path::Wait;
use super::site::{Alarm, Context, Outbox, SiteState};

/// Changes that are remembered for people; all of them are in the journal.
const REMEMBERED: usize = 1_000;

/// How limits are learnt.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether they are.
    pub is_on: bool,
    /// Messages a second at a site of which nothing is known.
    pub first_rate: f64,
    /// Where learning begins at particular sites.
    pub starts: HashMap<Box<str>, Start>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { is_on: true, first_rate: Start::default().rate, starts: HashMap::new() }
    }
}

impl Settings {
    /// Where learning begins at a site, which may lie within another. A relay is the operator's own choice: it is fast until it
    /// says otherwise.
    pub(super) fn start(&self, site: &str, parent: Option<&str>, is_relay: bool) -> Start {
        if is_relay {
            return Start { rate: f64::INFINITY, connections: u32::MAX, messages_per_connection: 0 };
        }
        let of = |name: &str| self.starts.get(name).copied();
        of(site).or_else(|| parent.and_then(of)).unwrap_or(Start { rate: self.first_rate, ..Start::default() })
    }
}

/// A change of a learnt limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Counts changes of this daemon since its start.
    pub id: u32,
    /// When, as the time since 1970-01-01 UTC.
    pub at: Duration,
    /// From which egress source.
    pub source: Arc<str>,
    /// Where.
    pub site: Arc<str>,
    /// Of what, and why.
    pub change: Change,
    /// Nothing was learnt: an operator has set or ended a pin.
    pub is_pin: bool,
    /// It was taken back.
    pub is_undone: bool,
}

/// What is learnt, beside the controllers themselves.
#[derive(Debug, Default)]
pub(super) struct Learning {
    /// What outlives a restart.
    pub store: LearntStore,
    /// What operators have set.
    pub pins: Pins,
    history: Mutex<VecDeque<Told>>,
    next: AtomicU32,
    hasher: foldhash::fast::RandomState,
}

impl Learning {
    /// What was learnt of a source at a site before a restart.
    pub fn recall(&self, source: &str, site: &str) -> Option<Learnt> {
        let octets = self.store.get(source, site)?;
        // Damaged: it is learnt anew.
        Learnt::decode(&octets).ok()
    }

    /// Spreads what controllers do at the same time.
    pub fn seed(&self, source: &str, site: &str) -> u32 {
        u32::try_from(self.hasher.hash_one((source, site)) >> 32).unwrap_or_default()
    }

    /// The latest changes, the newest first.
    pub fn history(&self) -> Vec<Told> {
        self.history.lock().iter().rev().cloned().collect()
    }

    /// A change was taken back.
    pub fn note_undone(&self, id: u32) {
        let mut history = self.history.lock();
        if let Some(told) = history.iter_mut().find(|told| told.id == id) {
            told.is_undone = true;
        }
    }

    fn remember(&self, told: Told) {
        let mut history = self.history.lock();
        if history.len() >= REMEMBERED {
            history.pop_front();
        }
        history.push_back(told);
    }
}

impl Engine {
    /// Tells journal, metrics and people of a change that a controller made.
    pub fn tell_learnt(&self, site: &Arc<str>, source: u16, change: Change) {
        let source = self.source(source).map_or_else(|| Arc::from("-"), |source| source.name.clone());
        self.tell_change(site, source, change, false);
    }

    /// The same of any change.
    pub fn tell_change(&self, site: &Arc<str>, source: Arc<str>, change: Change, is_pin: bool) -> Told {
        let at = self.clock.wall_at(self.clock.now());
        let id = self.learning.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.meters.learnt(change.what.as_str());
        tracing::debug!(%site, %source, what = change.what.as_str(), reason = %change.reason, "a limit has changed");
        self.journal.tell(&journal::Event::Limit(LimitChange {
            site,
            source: &source,
            what: change.what.as_str(),
            from: change.from,
            to: change.to,
            reason: &change.reason,
        }));
        let told = Told { id, at, source, site: site.clone(), change, is_pin, is_undone: false };
        self.learning.remember(told.clone());
        told
    }

    /// Keeps what has been learnt since the last time. Blocks on the disk.
    pub fn save_learnt(&self) {
        let now = self.clock.now();
        let mut found = Vec::new();
        for site in self.all_sites() {
            let mut state = site.state.lock();
            for origin in state.origins.iter_mut().filter(|origin| origin.has_news) {
                origin.has_news = false;
                if let Some(controller) = &origin.controller {
                    found.push((origin.source, site.name.clone(), controller.learnt(now).encode()));
                }
            }
        }
        let named = found
            .into_iter()
            .filter_map(|(source, site, octets)| Some((self.source(source)?.name.clone(), site, octets)));
        if let Err(error) = self.learning.store.put(named) {
            tracing::warn!(%error, "what was learnt about receivers cannot be kept over a restart");
        }
    }

    /// What the refusals among the outcomes of one message are about, each asked for once; nothing where there is none.
    pub fn verdicts(&self, outcomes: &[Outcome], site: Option<&str>) -> Vec<Option<Verdict>> {
        if !outcomes.iter().any(Outcome::is_refusal) {
            return Vec::new();
        }
        let mut verdicts: Vec<Option<Verdict>> = Vec::with_capacity(outcomes.len());
        let mut before: Option<&Outcome> = None;
        for outcome in outcomes {
            let verdict = match before {
                _ if !outcome.is_refusal() => None,
                // Recipients of one message are mostly told the same.
                Some(before) if before.is_refusal() && before.report() == outcome.report() => {
                    verdicts.last().cloned().flatten()
                }
                _ => self.verdict(outcome.report(), site),
            };
            verdicts.push(verdict);
            before = Some(outcome);
        }
        verdicts
    }

    /// What a refusal is about.
    pub fn verdict(&self, report: &Report, site: Option<&str>) -> Option<Verdict> {
        let parent = site.and_then(|site| self.within.of(site));
        self.settings().classifier.of(report.phase, &report.reply, [site, parent.as_deref()])
    }
}

/// Which of several recipients' signals counts: one that was accepted, else what is about the path.
fn rank(signal: Signal) -> u8 {
    match signal {
        Signal::Accepted => 5,
        Signal::Reputation => 4,
        Signal::Rate => 3,
        Signal::MessagesPerConnection | Signal::Connections => 2,
        Signal::Unknown | Signal::Strained => 1,
        Signal::Neutral => 0,
    }
}

/// What became of one transaction, as a controller is told.
#[derive(Debug)]
pub(super) struct Evidence {
    signal: Signal,
    reply: String,
    is_closed: bool,
    /// The connection did not come about.
    failure: Option<Failure>,
    /// MAIL was not reached, or its reply never came.
    is_unsent: bool,
    /// The receiver may have the message.
    is_in_doubt: bool,
}

/// Whether a receiver closes the connection with what it says.
fn is_closing(report: &Report) -> bool {
    report.reply.code == 421 || report.hung_up
}

/// Whether the connection ended in place of a reply.
fn is_cut_off(report: &Report, class: Option<Class>) -> bool {
    report.reply.code == 0 && class == Some(Class::Network)
}

/// Whether a transaction ends by the connection, or by the receiver's being overloaded. Other faults of its own are tried again by
/// the schedule, and what it says of one recipient is about that.
fn is_strain(report: &Report, verdict: Option<&Verdict>) -> bool {
    use Phase::{Content, Data, EndOfData, Mail, Rcpt};
    let class = verdict.map(|verdict| verdict.class);
    let is_fault = matches!(class, Some(Class::System | Class::Dns | Class::Network | Class::Timeout));
    match report.phase {
        Mail | Rcpt | Data | Content | EndOfData if is_cut_off(report, class) => true,
        Mail | Rcpt | Data | Content | EndOfData if report.reply.code == 421 => is_fault,
        Mail | Data | Content | EndOfData => class == Some(Class::System) && verdict.is_some_and(Verdict::asks_less),
        _ => false,
    }
}

/// Whether a receiver closes at the greeting and says nothing but that: no words and no status tell of a fault.
fn is_bare(report: &Report, verdict: &Verdict) -> bool {
    report.reply.code == 421 && verdict.class == Class::System && verdict.certainty == Certainty::Code
}

impl Evidence {
    /// Of the outcomes of one transaction, with what their refusals are about; none if they are no receiver's.
    pub fn of(outcomes: &[Outcome], verdicts: &[Option<Verdict>]) -> Option<Self> {
        if let Some(Outcome::Delivered(_)) = outcomes.iter().find(|outcome| matches!(outcome, Outcome::Delivered(_))) {
            return Some(Self::accepted());
        }
        let judged = outcomes.iter().zip(verdicts).map(|(outcome, verdict)| {
            let (report, verdict) = (outcome.report(), verdict.as_ref());
            let said = |verdict: &Verdict| Signal::of(verdict, report.phase, report.reply.status);
            let signal = match verdict.map_or(Signal::Neutral, said) {
                Signal::Neutral if is_strain(report, verdict) => Signal::Strained,
                // What does not say what it is about, said of a recipient, is about that one, unless the connection ends.
                Signal::Unknown if report.phase == Phase::Rcpt && !is_closing(report) => Signal::Neutral,
                signal => signal,
            };
            (signal, report, verdict)
        });
        let (signal, report, verdict) = judged.max_by_key(|(signal, ..)| rank(*signal))?;
        let is_unsaid = signal == Signal::Unknown || verdict.is_some_and(|verdict| is_bare(report, verdict));
        let class = verdict.map(|verdict| verdict.class);
        let failure = match report.phase {
            Phase::Connect | Phase::Greeting | Phase::Ehlo | Phase::StartTls => Some(match (signal, class) {
                (Signal::Connections, _) => Failure::TooMany,
                (Signal::Reputation, _) => Failure::Reputation,
                (_, Some(Class::Timeout)) => Failure::Timeout,
                _ if is_cut_off(report, class) && matches!(report.phase, Phase::Greeting | Phase::Ehlo) => {
                    Failure::Closed
                }
                _ if is_unsaid => Failure::Unsaid,
                _ => Failure::Network,
            }),
            _ => None,
        };
        // Where a receiver refuses by resetting the connection, the message was seen; elsewhere nobody answered it.
        let is_reset = report.reply.code == 0 && signal == Signal::Rate;
        let is_answered = report.reply.code != 0 || is_reset || signal == Signal::Strained;
        let is_unsent = failure.is_some() || !is_answered || matches!(report.phase, Phase::Dns | Phase::Queue);
        let mut reply = super::settle::said(&report.reply);
        if report.hung_up {
            reply.push_str(", and the connection was closed");
        }
        let is_closed = is_reset || is_closing(report);
        Some(Self { signal, reply, is_closed, failure, is_unsent, is_in_doubt: report.in_doubt })
    }

    fn accepted() -> Self {
        let reply = String::new();
        let (is_closed, is_unsent, is_in_doubt) = Default::default();
        Self { signal: Signal::Accepted, reply, is_closed, failure: None, is_unsent, is_in_doubt }
    }

    /// Whether what was refused goes back and counts as no attempt: where the receiver throttles us, as it says or as the
    /// controller `heard`. What it may have all the same waits for the schedule: sent at once it would come twice.
    pub fn returns(&self, heard: &Heard) -> Return {
        let is_guess = !self.is_told()
            && (self.signal.is_guess() || matches!(self.failure, Some(Failure::Unsaid | Failure::Closed)));
        match heard.is_throttle && !self.is_in_doubt {
            false => Return::Never,
            true if is_guess => Return::Sometimes,
            true => Return::Always,
        }
    }

    /// Whether the message did not count at the receiver, for the warm-up.
    pub fn is_returned(&self, heard: &Heard) -> bool {
        (self.is_told() || heard.is_throttle) && !self.is_in_doubt
    }

    fn is_told(&self) -> bool {
        use Signal::{Connections, MessagesPerConnection, Rate, Reputation};
        matches!(self.signal, Rate | Connections | MessagesPerConnection | Reputation)
    }

    /// It is about our limits, so the controller sees to it that the receiver gets its rest.
    fn is_about_limits(&self) -> bool {
        self.is_told() || self.signal == Signal::Unknown
    }
}

impl SiteState {
    /// Tells the controller of a source what became of a transaction that a connection took at `since` as its message
    /// number `count`: what it made of it, and whether it sees to the rest that the receiver wants.
    pub fn learn(
        &mut self,
        context: &Context<'_>,
        source: u16,
        evidence: &Evidence,
        (since, count): (Instant, u32),
        out: &mut Outbox,
    ) -> (Heard, bool) {
        let now = context.now;
        let Some(origin) = self.origin_mut(source) else { return Default::default() };
        let (open, used) = (origin.established, origin.connections.used());
        let Some(controller) = &mut origin.controller else { return Default::default() };
        let latency = now.saturating_duration_since(since);
        let mut heard = match evidence.failure {
            Some(failure) => {
                let others = used.saturating_sub(1);
                controller.unsent(now);
                let reply = &evidence.reply;
                controller.refused(&Refused { failure, reply, others, open, took: latency }, now)
            }
            None if evidence.is_unsent => {
                controller.unsent(now);
                Heard::default()
            }
            None => {
                let Evidence { signal, reply, is_closed, .. } = evidence;
                let answer = Answer { signal: *signal, reply, count, is_closed: *is_closed, latency, rest: None };
                controller.replied(&answer, open, now)
            }
        };
        let can_send = controller.may_send(now).is_ok();
        let changes = std::mem::take(&mut heard.changes);
        origin.has_news |= !changes.is_empty();
        out.changes.extend(changes.into_iter().map(|change| (source, change)));
        self.watch_controller(source, out);
        if can_send && self.throttled_paths() > 0 {
            self.resume(context, Wait::Throttled, out);
        }
        // Where nobody else is connected the back-off does it: a controller has nothing to compare with.
        let is_alone = evidence.failure.is_some_and(|failure| failure != Failure::Closed) && used <= 1;
        let is_seen_to = (evidence.is_about_limits() || heard.is_throttle) && !is_alone;
        (heard, is_seen_to)
    }

    /// Tells the controller of a source something about its connections.
    pub fn learn_connection(
        &mut self,
        source: u16,
        out: &mut Outbox,
        act: impl FnOnce(&mut crate::limit::controller::Controller) -> Changes,
    ) {
        let Some(origin) = self.origin_mut(source) else { return };
        let Some(controller) = &mut origin.controller else { return };
        let changes = act(controller);
        origin.has_news |= !changes.is_empty();
        out.changes.extend(changes.into_iter().map(|change| (source, change)));
    }

    /// Has a controller that works look at itself when it wants to.
    pub fn watch_controller(&mut self, source: u16, out: &mut Outbox) {
        let Some(origin) = self.origin_mut(source) else { return };
        if origin.has_tick {
            return;
        }
        if let Some(at) = origin.controller.as_ref().and_then(|controller| controller.next_tick()) {
            origin.has_tick = true;
            self.arm(at, source.into(), Alarm::Learning, out);
        }
    }

    /// A controller's look is due.
    pub fn look_at_controller(&mut self, context: &Context<'_>, source: u32, out: &mut Outbox) {
        let Ok(source) = u16::try_from(source) else { return };
        let is_waiting = self.paths.iter().flatten().any(|path| path.key.source == source && !path.ready.is_empty());
        let now = context.now;
        if let Some(origin) = self.origin_mut(source) {
            origin.has_tick = false;
        }
        self.learn_connection(source, out, |controller| controller.tick(is_waiting, now));
        self.watch_controller(source, out);
        self.resume(context, Wait::Throttled, out);
        self.resume(context, Wait::Starved, out);
    }
}
