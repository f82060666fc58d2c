//! What is known of a path while nothing goes on: the learnt limits and when they are tried again, and nothing that a quiet
//! minute makes worthless.

use super::cap::Cap;
use super::rate::Phase;
use super::settings::Start;
use super::snapshot::Learnt;
use super::time::{DAY, SECOND, Time, nanos};
use super::work::Work;

/// Behind a restart a receiver that counts by the minute may count what went before it: a minute, and what is on its way.
const BLIND: Time = 65 * SECOND;

/// The learnt limits. Zeros stand for what is not known.
#[derive(Clone, Debug, Default)]
pub(super) struct Rest {
    /// Messages a second: allowed, and measured. 0: nothing is known, it is a cold start.
    rate: f64,
    hat: f64,
    phase: Option<Phase>,
    /// Seconds between probes, and when the next one is due.
    gap: u32,
    next_probe: Time,
    connections: u32,
    connection_hat: u32,
    connection_gap: u32,
    connection_probe: Time,
    latency: f32,
    messages: u32,
    messages_retry: Time,
    cap: Cap,
    /// When the breaker's rest ends; 0: it is closed.
    rest_until: Time,
    tripped: Time,
    trips: u8,
    rests: u8,
    /// As of the rate.
    blind_until: Time,
    is_outspoken: bool,
    is_opaque: bool,
    is_tight: bool,
    strains: bool,
}

impl Rest {
    /// What is worth keeping of a path at work.
    pub fn of(work: &Work) -> Self {
        let whole_seconds = |time: Time| u32::try_from(time / SECOND).unwrap_or(u32::MAX);
        Self {
            rate: work.rate.rate,
            hat: work.rate.hat,
            phase: Some(if work.rate.phase == Phase::Start { Phase::Start } else { Phase::Hold }),
            gap: whole_seconds(work.rate.gap),
            next_probe: work.rate.next_probe,
            connections: work.connections.limit,
            connection_hat: work.connections.hat,
            connection_gap: whole_seconds(work.connections.gap),
            connection_probe: work.connections.next_probe,
            latency: work.connections.base,
            messages: work.messages.limit,
            messages_retry: work.messages.retry,
            cap: work.cap.clone(),
            rest_until: if work.gate.is_breaker { work.gate.until } else { 0 },
            tripped: work.tripped,
            trips: work.trips,
            rests: work.rests,
            blind_until: work.rate.blind_until,
            is_outspoken: work.is_outspoken,
            is_opaque: work.is_opaque,
            is_tight: work.pace.is_tight,
            strains: work.strains.is_usual,
        }
    }

    /// How the rate came about.
    pub fn phase(&self) -> Phase {
        self.phase.unwrap_or(Phase::Start)
    }

    /// Begins elsewhere than a cold start does.
    pub fn begin(&mut self, start: Start) {
        const GAP: u32 = 120;
        self.phase = Some(Phase::Start);
        (self.rate, self.gap, self.connection_gap) = (start.rate, GAP, GAP);
        (self.connections, self.messages) = (start.connections.max(1), start.messages_per_connection);
        self.messages_retry = Time::MAX;
    }

    /// `work`, which knows nothing, with what is known.
    pub fn wake(&self, mut work: Work, now: Time) -> Work {
        if let Some(phase) = self.phase {
            work.rate.wake(phase, self.rate, self.hat, Time::from(self.gap) * SECOND, self.next_probe);
            work.connections.wake(
                (self.connections, self.connection_hat),
                Time::from(self.connection_gap) * SECOND,
                self.connection_probe,
                self.latency,
            );
            (work.messages.limit, work.messages.retry) = (self.messages, self.messages_retry);
            work.cap = self.cap.clone();
            (work.tripped, work.trips, work.rests) = (self.tripped, self.trips, self.rests);
            (work.is_outspoken, work.is_opaque) = (self.is_outspoken, self.is_opaque);
            work.rate.blind_until = self.blind_until;
            work.pace.is_tight = self.is_tight;
            work.strains.is_usual = self.strains;
        }
        if self.rest_until != 0 {
            work.gate.rest(now.min(self.rest_until), self.rest_until);
        }
        work
    }

    /// What was learnt before a restart, trusted by so much.
    pub fn restored(learnt: &Learnt, trust: f64, now: Time) -> Self {
        let gap = |seconds: u32| seconds.max(120);
        let until = nanos(std::time::Duration::from_secs(learnt.rest_until));
        Self {
            // A little below what is held: the receiver may still count what went before the restart.
            rate: 0.92 * learnt.rate * trust,
            hat: if learnt.is_limit { learnt.rate } else { 0.0 },
            phase: Some(if learnt.is_limit { Phase::Hold } else { Phase::Start }),
            gap: gap(learnt.gap),
            next_probe: now + Time::from(gap(learnt.gap)) * SECOND,
            connections: learnt.connections,
            connection_hat: learnt.connection_limit,
            connection_gap: gap(learnt.connection_gap),
            connection_probe: now + Time::from(gap(learnt.connection_gap)) * SECOND,
            latency: 0.0,
            messages: learnt.messages_per_connection,
            messages_retry: now + DAY,
            cap: Cap::known(learnt.hourly_cap),
            rest_until: if until > now { until } else { 0 },
            tripped: now,
            trips: learnt.trips,
            rests: 0,
            blind_until: now + BLIND,
            is_outspoken: false,
            is_opaque: false,
            is_tight: false,
            strains: false,
        }
    }

    /// For a snapshot; `now` since 1970.
    pub fn learnt(&self, now: Time) -> Learnt {
        Learnt {
            at: std::time::Duration::from_nanos(now),
            rate: if self.hat > 0.0 { self.hat } else { self.rate },
            is_limit: self.hat > 0.0,
            gap: self.gap,
            connections: self.connections,
            connection_limit: self.connection_hat,
            connection_gap: self.connection_gap,
            messages_per_connection: self.messages,
            rest_until: if self.rest_until > now { self.rest_until / SECOND } else { 0 },
            trips: self.trips,
            hourly_cap: self.cap.most,
        }
    }
}
