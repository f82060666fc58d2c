//! A receiver that keeps to a profile of the simulator, on the wire: the same code decides, an SMTP server says it.
//!
//! What is decided when is [`Receiver`]'s; here it gets attempts to connect and messages as they come over sockets. A
//! [`Dialog`] is one connection's side of SMTP, without I/O; [`listen`] carries it over streams. Time is the simulator's,
//! nanoseconds since an instant, and may pass several times as fast as the clock, which is how tests save it.
//!
//! What is accepted is entered by its number, so that nothing is counted twice.

mod dialog;
mod server;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use dialog::{Dialog, Next};
pub use server::listen;

use super::content;
use crate::simulate::chance::Chance;
use crate::simulate::receiver::{Knock, Receiver, Verdict};
use crate::simulate::{Receiver as Rules, Time};

/// What a receiver did; only counted up, save what is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages accepted, each once.
    pub accepted: u64,
    /// Messages and connections refused for being over a limit.
    pub throttled: u64,
    /// Messages refused for a reason of their own.
    pub refused: u64,
    /// Messages that were accepted before.
    pub duplicated: u64,
    /// Messages whose body was not the one that was submitted, or that had no number.
    pub altered: u64,
    /// Connections open now.
    pub open: u32,
    /// Most of them at the same time.
    pub most_open: u32,
    /// The first attempt to connect.
    pub first: Option<Time>,
}

impl Counts {
    /// Whether everything that arrived was whole and came once.
    pub fn is_sound(&self) -> bool {
        self.duplicated + self.altered == 0
    }
}

/// What the connections of one receiver share.
#[derive(Debug)]
pub struct Strict {
    domain: String,
    rules: Rules,
    origin: Instant,
    pace: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    receiver: Receiver,
    chance: Chance,
    counts: Counts,
    /// When each message was accepted, in the order of that.
    accepted: Vec<Time>,
    /// By message number: whether it was accepted.
    seen: Vec<bool>,
    /// When messages were tried first that were not accepted; only where it matters.
    first_tries: HashMap<u32, Time>,
}

impl Strict {
    /// One for `domain`, to whom `pace` times as much time has passed since `origin` as has; `seed` makes chance.
    pub fn new(rules: Rules, domain: &str, origin: Instant, pace: u32, seed: u64) -> Self {
        let state = State {
            receiver: Receiver::new(rules.clone()),
            chance: Chance::new(seed),
            counts: Counts::default(),
            accepted: Vec::new(),
            seen: Vec::new(),
            first_tries: HashMap::new(),
        };
        Self { domain: domain.to_owned(), rules, origin, pace: pace.max(1), state: Mutex::new(state) }
    }

    /// What it keeps to.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whose mail it takes.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The time of an instant.
    pub fn time(&self, instant: Instant) -> Time {
        let passed = instant.saturating_duration_since(self.origin).as_nanos();
        Time::try_from(passed).unwrap_or(Time::MAX).saturating_mul(self.pace.into())
    }

    /// The instant of a time.
    pub fn instant(&self, time: Time) -> Instant {
        self.origin + Duration::from_nanos(time / u64::from(self.pace))
    }

    /// What it did.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// Messages accepted from one time until before another.
    pub fn accepted_between(&self, from: Time, to: Time) -> u64 {
        let state = self.state.lock();
        let before = |time: Time| state.accepted.partition_point(|at| *at < time);
        u64::try_from(before(to).saturating_sub(before(from))).unwrap_or_default()
    }

    /// An attempt to connect; what comes of it, and when. An open one counts until [`Strict::closed`].
    pub fn knock(&self, now: Time) -> (Knock, Time) {
        let State { receiver, chance, counts, .. } = &mut *self.state.lock();
        counts.first.get_or_insert(now);
        let (knock, takes) = receiver.knock(chance);
        match knock {
            Knock::Open => {
                counts.open += 1;
                counts.most_open = counts.most_open.max(counts.open);
            }
            Knock::TooMany => counts.throttled += 1,
            Knock::Dead | Knock::Silence => {}
        }
        (knock, now + takes)
    }

    /// An open connection has ended.
    pub fn closed(&self) {
        let mut state = self.state.lock();
        state.receiver.closed();
        state.counts.open = state.counts.open.saturating_sub(1);
    }

    /// A message begins over a connection that has carried `before` others.
    fn judge(&self, number: Option<u32>, before: u32, now: Time) -> Verdict {
        let State { receiver, chance, counts, first_tries, .. } = &mut *self.state.lock();
        let first = match number {
            Some(number) if !self.rules.greylist.0.is_zero() => *first_tries.entry(number).or_insert(now),
            _ => now,
        };
        let verdict = receiver.message(before, first, now, chance);
        if verdict.is_throttle {
            counts.throttled += 1;
        } else if !verdict.is_accepted() {
            counts.refused += 1;
        }
        verdict
    }

    /// A content has come for a message that was not refused, and is answered at `now`.
    fn take(&self, number: u32, content: &[u8], now: Time) {
        let is_intact = content::recognise(content).is_some_and(|found| found.number == number && found.is_intact);
        let State { counts, accepted, seen, first_tries, .. } = &mut *self.state.lock();
        let place = usize::try_from(number).unwrap_or(usize::MAX);
        if !is_intact || place >= MOST_NUMBERS {
            counts.altered += 1;
            return;
        }
        if seen.len() <= place {
            seen.resize(place + 1, false);
        }
        if seen.get_mut(place).is_none_or(|seen| std::mem::replace(seen, true)) {
            counts.duplicated += 1;
            return;
        }
        first_tries.remove(&number);
        counts.accepted += 1;
        accepted.push(now);
    }
}

/// Numbers of messages are below this: a thousand a second for a day.
const MOST_NUMBERS: usize = 100_000_000;
