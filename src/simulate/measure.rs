//! What a run is measured by: accepted and throttled over time, the learnt limits, ceilings that were broken.

use std::collections::VecDeque;

use serde::Serialize;

use super::driver::{Driver, hidden};
use super::line::Message;
use super::profile::Profile;
use super::receiver::Receiver;
use super::{MINUTE, SECOND, Time, nanos, seconds};
use crate::limit::controller::{Ceilings, Change, Changes, Learnt, Phase, View};

/// Points of a plot.
const SAMPLES: Time = 480;
/// Of the limit, that counts as having found it,
const FOUND: f64 = 0.9;
/// if it is kept up for as many seconds as this.
const KEPT: usize = 300;

/// One run.
#[derive(Debug, Serialize)]
pub struct Run {
    /// What chance was made of.
    pub seed: u64,
    /// Messages accepted.
    pub accepted: u64,
    /// Accepted of the optimum.
    pub goodput: f64,
    /// Refusals for being over a limit.
    pub throttled: u64,
    /// The same for a thousand accepted.
    pub throttled_per_1000: f64,
    /// The end of the first minute in which nine tenths of the limit were accepted, and kept up for five minutes more.
    pub time_to_90_percent_s: Option<u64>,
    /// Blocks by the penalty.
    pub blocks: u32,
    /// Moments at which more was done than the configuration allows.
    pub ceiling_violations: u64,
    /// The limits at the end.
    pub learnt: Shown,
    /// Of a profile with tenants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<TenantRun>,
    /// How it went.
    #[serde(skip)]
    pub record: Record,
}

/// The limits as shown.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Shown {
    /// How the rate came about.
    pub phase: &'static str,
    /// Messages a minute.
    pub rate_per_minute: Option<f64>,
    /// What the receiver was measured to allow.
    pub limit_per_minute: Option<f64>,
    /// Connections at the same time.
    pub connections: Option<u32>,
    /// Messages over one connection.
    pub messages_per_connection: Option<u32>,
    /// Messages a clock hour.
    pub hourly_cap: Option<u32>,
}

/// What became of one tenant.
#[derive(Clone, Debug, Serialize)]
pub struct TenantRun {
    /// Its name.
    pub name: String,
    /// Messages accepted.
    pub accepted: u64,
    /// Of its messages, 99 in a hundred were accepted within this; of one with endless work, nothing.
    pub wait_p99_s: Option<f64>,
}

/// A run over time.
#[derive(Debug, Default)]
pub struct Record {
    /// Messages accepted in each second.
    pub accepted: Vec<u32>,
    /// Refusals in each second.
    pub throttled: Vec<u32>,
    /// Regular looks at the state.
    pub samples: Vec<Sample>,
    /// Every change of a limit, by the second.
    pub changes: Vec<(f64, Change)>,
    /// What would survive a restart.
    pub learnt: Option<Learnt>,
}

/// One look.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Seconds since the start.
    pub at: f64,
    /// The allowed rate, a minute.
    pub rate: f64,
    /// The receiver's, a minute; 0: none.
    pub hidden: f64,
    /// Open and opening connections.
    pub connections: u32,
}

/// The same while it goes on.
#[derive(Debug)]
pub(super) struct Measure {
    ceilings: Option<Ceilings>,
    interval: Time,
    accepted: u64,
    throttled: u64,
    violations: u64,
    /// Messages and openings of the last minute, where they have a ceiling.
    sent: VecDeque<Time>,
    opened: VecDeque<Time>,
    tenants: Vec<(String, u64, Vec<f64>)>,
    record: Record,
}

impl Measure {
    pub fn new(profile: &Profile, driver: &Driver, tenants: Vec<String>) -> Self {
        let length = usize::try_from(profile.duration.0.as_secs() + 2).unwrap_or(1);
        let record = Record { accepted: vec![0; length], throttled: vec![0; length], ..Record::default() };
        let ceilings = match driver {
            Driver::Learning { ceilings, .. } => Some(*ceilings),
            Driver::Fixed(_) => None,
        };
        let tenants = tenants.into_iter().map(|name| (name, 0, Vec::new())).collect();
        Self {
            ceilings,
            interval: (nanos(profile.duration.0) / SAMPLES).max(SECOND),
            accepted: 0,
            throttled: 0,
            violations: 0,
            sent: VecDeque::new(),
            opened: VecDeque::new(),
            tenants,
            record,
        }
    }

    pub fn interval(&self) -> Time {
        self.interval
    }

    pub fn sample(&mut self, now: Time, hidden: f64, view: Option<View>, connections: u32) {
        let rate = view.map_or(0.0, |view| view.rate_per_minute);
        self.record.samples.push(Sample { at: seconds(now), rate, hidden, connections });
    }

    pub fn changed(&mut self, now: Time, changes: Changes) {
        self.record.changes.extend(changes.into_iter().map(|change| (seconds(now), change)));
    }

    pub fn accepted(&mut self, now: Time, message: Message) {
        self.accepted += 1;
        add(&mut self.record.accepted, now);
        if let Some((_, accepted, waits)) = self.tenants.get_mut(message.tenant) {
            *accepted += 1;
            waits.push(seconds(now - message.came));
        }
    }

    pub fn throttled(&mut self, now: Time) {
        self.throttled += 1;
        add(&mut self.record.throttled, now);
    }

    /// Message number `count` of its connection goes.
    pub fn sent(&mut self, now: Time, count: u32) {
        let Some(ceilings) = self.ceilings else { return };
        let most = ceilings.messages_per_connection;
        self.violations += u64::from(most > 0 && count > most);
        if let Some(rate) = ceilings.rate {
            // Half a second's worth may go at once, and one.
            self.violations += u64::from(as_number(in_minute(&mut self.sent, now)) > rate * 60.5 + 1.0);
        }
    }

    /// A connection is being opened; there are `all` with it.
    pub fn opening(&mut self, now: Time, all: u32) {
        let Some(ceilings) = self.ceilings else { return };
        self.violations += u64::from(all > ceilings.connections);
        if ceilings.openings_per_minute > 0 {
            let rate = f64::from(ceilings.openings_per_minute) / 60.0;
            self.violations += u64::from(as_number(in_minute(&mut self.opened, now)) > rate * 60.5 + 1.0);
        }
    }

    pub fn finish(
        mut self,
        profile: &Profile,
        receiver: &Receiver,
        seed: u64,
        view: Option<View>,
        learnt: Option<Learnt>,
    ) -> Run {
        self.record.learnt = learnt;
        let accepted = as_number(usize::try_from(self.accepted).unwrap_or(usize::MAX));
        let throttled = as_number(usize::try_from(self.throttled).unwrap_or(usize::MAX));
        let time_to_90_percent_s = found(profile, receiver, &self.record.accepted);
        let tenants = if profile.tenants.is_empty() { Vec::new() } else { self.tenants };
        let demands = profile.tenants.iter().map(|tenant| tenant.demand_per_minute);
        let tenants = tenants.into_iter().zip(demands).map(|((name, accepted, waits), demand)| TenantRun {
            name,
            accepted,
            wait_p99_s: if demand > 0.0 { percentile(waits) } else { None },
        });
        Run {
            seed,
            accepted: self.accepted,
            goodput: accepted / profile.optimum,
            throttled: self.throttled,
            throttled_per_1000: 1000.0 * throttled / accepted.max(1.0),
            time_to_90_percent_s,
            blocks: receiver.blocks,
            ceiling_violations: self.violations,
            learnt: view.map(Shown::from).unwrap_or_default(),
            tenants: tenants.collect(),
            record: self.record,
        }
    }
}

impl From<View> for Shown {
    fn from(view: View) -> Self {
        let phase = match view.phase {
            Phase::Start => "start",
            Phase::Hold => "hold",
            Phase::Probe => "probe",
        };
        Self {
            phase,
            rate_per_minute: Some(view.rate_per_minute),
            limit_per_minute: view.limit_per_minute,
            connections: Some(view.connections),
            messages_per_connection: view.messages_per_connection,
            hourly_cap: view.hourly_cap,
        }
    }
}

/// The end of the first minute in which nine tenths of the limit were accepted, and in the five minutes behind it too.
/// Where the hour's cap is used up there is nothing to keep up.
fn found(profile: &Profile, receiver: &Receiver, accepted: &[u32]) -> Option<u64> {
    let duration = usize::try_from(profile.duration.0.as_secs()).ok()?;
    let sums: Vec<u64> = std::iter::once(0)
        .chain(accepted.iter().scan(0, |sum, count| {
            *sum += u64::from(*count);
            Some(*sum)
        }))
        .collect();
    let between = |from: usize, to: usize| {
        let at = |at: usize| sums.get(at.min(duration)).copied().unwrap_or_default();
        as_number(usize::try_from(at(to) - at(from)).unwrap_or_default())
    };
    let optimum = profile.optimum / profile.duration.0.as_secs_f64();
    let cap = f64::from(profile.receiver.hourly_cap);
    let first = (1..duration).find(|end| {
        let rate = receiver.rate_at(u64::try_from(*end).unwrap_or_default() * SECOND);
        let limit = if profile.receiver.steps.is_empty() { optimum } else { hidden(profile, rate) };
        let later = (end + KEPT).min(duration);
        let hour = end / 3600 * 3600;
        let is_used_up = cap > 0.0 && between(hour, later) >= FOUND * cap;
        between(end.saturating_sub(60), *end) >= FOUND * limit * 60.0
            && (is_used_up || between(*end, later) >= FOUND * limit * as_number(later - end))
    });
    first.and_then(|first| u64::try_from(first).ok())
}

/// How many there were in the last minute, with one now.
fn in_minute(times: &mut VecDeque<Time>, now: Time) -> usize {
    times.push_back(now);
    while times.front().is_some_and(|at| at + MINUTE <= now) {
        times.pop_front();
    }
    times.len()
}

fn percentile(mut waits: Vec<f64>) -> Option<f64> {
    waits.sort_by(f64::total_cmp);
    waits.get(waits.len() * 99 / 100).copied()
}

fn add(seconds: &mut [u32], now: Time) {
    if let Some(count) = usize::try_from(now / SECOND).ok().and_then(|at| seconds.get_mut(at)) {
        *count += 1;
    }
}

#[allow(clippy::cast_precision_loss)]
fn as_number(count: usize) -> f64 {
    count as f64
}
