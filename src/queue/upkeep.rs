//! Upkeep: every few seconds the gauges are set, the dead among the waiting are expired, delays that last are reported,
//! and what is unused is forgotten.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::bounce::dsn::Action;
use crate::clock::UnixTime;
use crate::message::{Phase, Report};
use crate::smtp::status::Status;

use super::engine::Engine;
use super::entry::Entry;
use super::notice::Notice;
use super::salvage::Blame;
use super::settle::deferral;
use super::site::Site;
use super::timers::Due;

/// How often the gauges are set and the dead are looked for.
const SHOW: Duration = Duration::from_secs(2);
/// Sites that are looked at in one go: a microsecond each, or two.
const MANY_SITES: usize = 1_000;
/// The unused is forgotten every so many times.
const SWEEP: u32 = 12;

/// What is used up of budgets is kept every so many times, what has been learnt more seldom.
const SPEND: u32 = 5;
const KEEP: u32 = 30;

/// How often a shard of the timers shows that it is served, though nothing is due.
const BEAT: Duration = Duration::from_secs(10);

/// Runs until the queue is stopped.
pub(super) async fn run(engine: Arc<Engine>) {
    let mut round: u32 = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(SHOW) => {}
            () = engine.stopped.cancelled() => return,
        }
        round = round.wrapping_add(1);
        engine.flowing.sample(engine.clock.now());
        let wall = &engine.walls.upkeep;
        let sites = engine.all_sites();
        let is_long = sites.len() > MANY_SITES;
        for (number, site) in sites.into_iter().enumerate() {
            // Each by itself: one that panics keeps no other from being looked at.
            let _ = wall.call(|| site.expire_dead(&engine));
            let _ = wall.call(|| site.report_delays(&engine));
            if number.is_multiple_of(100) {
                tokio::task::yield_now().await;
            }
        }
        if round.is_multiple_of(SPEND) {
            let engine = engine.clone();
            let is_learnt = round.is_multiple_of(KEEP);
            let keep = move || {
                let keep = || {
                    engine.save_dues(false);
                    engine.save_warmups(false);
                    if is_learnt {
                        engine.save_learnt();
                    }
                };
                drop(engine.walls.upkeep.call(keep));
            };
            let _ = tokio::task::spawn_blocking(keep).await;
        }
        if is_long || !engine.orders.is_empty() {
            // Not on a thread of the runtime: what waits for that thread would wait as long. The end of an order is stored.
            let engine = engine.clone();
            let show = move || drop(engine.walls.upkeep.call(|| show(&engine, round)));
            let _ = tokio::task::spawn_blocking(show).await;
        } else {
            let _ = wall.call(|| show(&engine, round));
        }
        engine.upkeep.beat();
    }
}

fn show(engine: &Arc<Engine>, round: u32) {
    engine.expire_waiting();
    engine.tend_orders();
    engine.age_suspended();
    let sites = match round.is_multiple_of(SWEEP) {
        true => forget(engine, engine.clock.now()),
        false => engine.all_sites().len(),
    };
    let (view, settings) = (engine.look(), engine.settings());
    engine.meters.show(&view, sites, engine.doubts.len(), &engine.held);
    engine.meters.show_ceilings(settings.capacity, settings.connections);
    engine.tend_warmups();
    let census = engine.count_paths(engine.clock.now());
    engine.meters.show_paths(&census);
    engine.show_top(&view, &census.rates, engine.clock.now());
}

/// Forgets what nothing refers to; tells how many sites are left.
pub(super) fn forget(engine: &Arc<Engine>, now: Instant) -> usize {
    engine.sweep_suspects();
    engine.domains.sweep();
    engine.tenants.sweep(now);
    let left = engine.sweep_sites(now);
    engine.gates.forget();
    left
}

impl Site {
    /// Expires ready entries whose time is over. Those that are drawn are looked at anyway; this is for paths from
    /// which nothing is drawn, because of a back-off for example.
    pub fn expire_dead(self: &Arc<Self>, engine: &Arc<Engine>) {
        let (now, dead_before) = (engine.clock.now(), engine.dead_before());
        self.with(engine, now, |_, state, out| {
            let is_alive = |entry: &Entry| entry.ages_from() >= dead_before;
            for path in state.paths.iter_mut().flatten() {
                if !path.ready.is_empty() && path.ready.ages_from() < dead_before {
                    let before = out.expired.len();
                    path.ready.extract(is_alive, &mut out.expired);
                    let Some(pause) = &path.pause else { continue };
                    for entry in out.expired.get(before..).unwrap_or_default() {
                        // The only reason there is, if none of them was ever tried.
                        if engine.replies.of(entry).is_none() {
                            engine.replies.note(entry, pause.reason.clone());
                        }
                    }
                }
            }
        });
    }

    /// Takes ready entries that wait for so long that their senders want to know it: those that are tried and deferred
    /// are looked at anyway; this is for paths from which nothing is drawn.
    fn report_delays(self: &Arc<Self>, engine: &Arc<Engine>) {
        let _outing = engine.outings.begin();
        let now = engine.clock.now();
        let age = u32::try_from(engine.settings().delay_after.as_secs()).unwrap_or(u32::MAX);
        let Some(late) = engine.clock.wall().0.checked_sub(age).map(UnixTime) else { return };
        let mut found = Vec::new();
        self.with(engine, now, |_, state, _| {
            for path in state.paths.iter_mut().flatten() {
                if path.ready.owes_delay() && path.ready.ages_from() <= late {
                    let mut entries = Vec::new();
                    path.ready.extract(|entry| !(entry.is_owed_delay() && entry.ages_from() <= late), &mut entries);
                    let reason = path.pause.as_ref().map(|pause| pause.reason.clone());
                    found.extend(entries.into_iter().map(|entry| (entry, reason.clone())));
                }
            }
        });
        // Recipients of one message share a DSN.
        found.sort_by_key(|(entry, _)| (entry.id.0, entry.recipient));
        let mut found = found.into_iter().peekable();
        while let Some(first) = found.next() {
            let id = first.0.id;
            let mut subjects = Vec::new();
            let mut next = Some(first);
            while let Some((entry, reason)) = next {
                let report = engine.replies.of(&entry).or(reason).map(|report| (*report).clone());
                let report = report.unwrap_or_else(|| {
                    // RFC 3463, 3.5: X.4.5, mail system congestion.
                    Report::local(Phase::Queue, Status::new(4, 4, 5), "it waits for a connection to the receiver")
                });
                subjects.push((deferral(&entry, true), entry, report));
                next = found.next_if(|(entry, _)| entry.id == id);
            }
            let subjects = subjects.into_iter().map(|(event, entry, report)| (entry, event, report)).collect();
            Notice { id, action: Action::Delayed, subjects }.begin(engine);
        }
    }
}

impl Engine {
    /// Entries whose second has come.
    fn on_time(self: &Arc<Self>, entries: Vec<Entry>) {
        let dead_before = self.dead_before();
        let (dead, alive) = entries.into_iter().partition(|entry: &Entry| entry.ages_from() < dead_before);
        self.expire(dead);
        self.admit_all(alive);
    }

    /// Expires entries whose time is over while they wait for a look-up.
    fn expire_waiting(self: &Arc<Self>) {
        if self.waiting_for_dns.load(Ordering::Relaxed) == 0 {
            return;
        }
        let _outing = self.outings.begin();
        let dead_before = self.dead_before();
        let mut dead = Vec::new();
        self.domains.for_each(|domain| {
            let mut state = domain.state.lock();
            dead.extend(state.waiting.extract_if(.., |entry| entry.ages_from() < dead_before));
        });
        self.waiting_for_dns.fetch_sub(dead.len(), Ordering::Relaxed);
        self.expire(dead);
    }
}

/// Serves one shard of the timers until the queue is stopped.
pub(super) async fn tick(engine: Arc<Engine>, shard: usize) {
    let Some(shard) = engine.timers.shards().get(shard) else { return };
    loop {
        let due = tokio::select! {
            due = shard.due(&engine.clock, &engine.outings) => due,
            // Shows that it would answer, and looks again whether something is due.
            () = tokio::time::sleep(BEAT) => Due::default(),
            () = engine.stopped.cancelled() => return,
        };
        let (now, wall) = (engine.clock.now(), &engine.walls.timers);
        for site in due.sites {
            if wall.call(|| site.on_alarm(&engine, now)).is_err() {
                site.revive(&engine, now);
            }
        }
        let _outing = due.outing;
        let keys = due.entries.iter().map(|entry| (entry.id, entry.recipient)).collect();
        if let Err(panic) = wall.call(|| engine.on_time(due.entries)) {
            engine.salvage(keys, Blame::Shared, panic);
        }
        shard.pulse.beat();
        // A second may hold a hundred thousand entries: others run between the batches.
        tokio::task::yield_now().await;
    }
}
