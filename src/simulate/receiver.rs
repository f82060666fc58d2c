//! The simulated receiver, exactly: what it answers to an attempt to connect and to a message, and after how long.
//!
//! | attempt to connect, in this order | answer |
//! |---|---|
//! | a dead host | fails after 1 s |
//! | as many connections open as `backlog` | fails after 30 s |
//! | as many connections open as `connections` | `421 4.7.0 Too many connections` after 0.1 s |
//! | else | open after `setup_time` |
//!
//! | message, at MAIL, in this order | answer |
//! |---|---|
//! | `messages_per_connection` were sent over it | 421 after 0.05 s, closed |
//! | the penalty blocks | 421 TSS04 after 0.1 s, closed; `extend` restarts the block |
//! | noise; greylisting | 452, 451 or 450 after the service time |
//! | `hourly_cap` of the clock hour, or the rate is reached | 421 4.7.28 or, `opaque`, 451, after 0.1 s |
//! | else | 250 after the service time |

use std::collections::{BinaryHeap, VecDeque};

use super::chance::Chance;
use super::profile::{Noise, Receiver as Rules, Window};
use super::{HOUR, MINUTE, SECOND, Time, nanos};

/// What a receiver that accepts says.
pub const ACCEPTED: &str = "250 2.0.0 Ok";
/// Of a connection too many.
pub const TOO_MANY: &str = "421 4.7.0 Too many connections";
const USED_UP: &str = "421 4.7.0 Max messages per connection";
const BLOCKED: &str = "421 4.7.0 [TSS04] temporarily deferred due to unexpected volume or user complaints";
const MAILBOX: &str = "452 4.2.2 mailbox full";
const OPAQUE: &str = "451 try again later";
const GREYLISTED: &str = "450 4.7.1 greylisted";
const HOURLY: &str = "421 4.7.28 unusual rate of mail";
const RATE: &str = "421 4.7.28 our system has detected an unusual rate of mail";
/// To a tenant whose content is refused.
pub const CONTENT: &str = "550 5.7.1 message content rejected";

const REFUSAL: Time = SECOND / 10;

/// What becomes of an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knock {
    /// A dead host.
    Dead,
    /// Nobody answers.
    Silence,
    /// Refused at the greeting.
    TooMany,
    /// Open.
    Open,
}

/// A reply to a message.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// What is said.
    pub reply: &'static str,
    /// The receiver closes the connection with it.
    pub is_closed: bool,
    /// It is over a limit: what throttled counts.
    pub is_throttle: bool,
    /// When it comes.
    pub at: Time,
}

impl Verdict {
    /// Whether the message is taken.
    pub fn is_accepted(&self) -> bool {
        self.reply == ACCEPTED
    }
}

/// Its state.
#[derive(Debug)]
pub struct Receiver {
    rules: Rules,
    connections: u32,
    /// Of the clock minute, for fixed windows.
    minute: (Time, f64),
    /// Accepted in the last 60 s, for sliding windows.
    recent: VecDeque<Time>,
    /// Tokens and when they were counted, for buckets.
    tokens: (f64, Time),
    /// Accepted in the clock hour.
    hour: (Time, u32),
    /// Tries over the limit.
    tries: VecDeque<Time>,
    blocked_until: Time,
    /// How often a block began.
    pub blocks: u32,
    /// When each worker is free, the first one on top.
    workers: BinaryHeap<std::cmp::Reverse<Time>>,
}

impl Receiver {
    /// One that nobody has talked to.
    pub fn new(rules: Rules) -> Self {
        let burst = rules.burst.max(1.0);
        let workers = (0..rules.workers).map(|_| std::cmp::Reverse(0)).collect();
        Self {
            rules,
            connections: 0,
            minute: (0, 0.0),
            recent: VecDeque::new(),
            tokens: (burst, 0),
            hour: (0, 0),
            tries: VecDeque::new(),
            blocked_until: 0,
            blocks: 0,
            workers,
        }
    }

    /// The rate at a time, a minute; 0: no limit.
    pub fn rate_at(&self, now: Time) -> f64 {
        let passed = self.rules.steps.iter().rev().find(|(at, _)| nanos(at.0) <= now);
        passed.map_or(self.rules.rate_per_minute, |(_, rate)| *rate)
    }

    /// An attempt to connect; what comes of it, and after how long. An open one counts at once.
    pub fn knock(&mut self, chance: &mut Chance) -> (Knock, Time) {
        let reached = |most: u32| most > 0 && self.connections >= most;
        if self.rules.dead_hosts > 0.0 && chance.happens(self.rules.dead_hosts) {
            (Knock::Dead, SECOND)
        } else if reached(self.rules.backlog) {
            (Knock::Silence, 30 * SECOND)
        } else if reached(self.rules.connections) {
            (Knock::TooMany, REFUSAL)
        } else {
            self.connections += 1;
            (Knock::Open, nanos(self.rules.setup_time.0))
        }
    }

    /// A connection has ended.
    pub fn closed(&mut self) {
        self.connections = self.connections.saturating_sub(1);
    }

    /// A message over a connection that has carried `before` others, tried first at `first`.
    pub fn message(&mut self, before: u32, first: Time, now: Time, chance: &mut Chance) -> Verdict {
        let most = self.rules.messages_per_connection;
        if most > 0 && before >= most {
            return Verdict { reply: USED_UP, is_closed: true, is_throttle: true, at: now + SECOND / 20 };
        }
        if now < self.blocked_until {
            if let Some(penalty) = self.rules.penalty.as_ref().filter(|penalty| penalty.extend) {
                self.blocked_until = now + nanos(penalty.block.0);
            }
            return Verdict { reply: BLOCKED, is_closed: true, is_throttle: true, at: now + REFUSAL };
        }
        if self.rules.noise > 0.0 && chance.happens(self.rules.noise) {
            let reply = if self.rules.noise_class == Noise::Mailbox { MAILBOX } else { OPAQUE };
            return self.serve(reply, now, chance);
        }
        if now < first + nanos(self.rules.greylist.0) {
            return self.serve(GREYLISTED, now, chance);
        }
        if self.rules.hourly_cap > 0 {
            if self.hour.0 != now / HOUR {
                self.hour = (now / HOUR, 0);
            }
            if self.hour.1 >= self.rules.hourly_cap {
                return self.throttle(HOURLY, now);
            }
        }
        if self.is_over(now) {
            self.count_try(now);
            return self.throttle(RATE, now);
        }
        self.count(now);
        self.serve(ACCEPTED, now, chance)
    }

    /// A message whose content is refused; it is no part of a profile's receiver.
    pub fn refuse_content(&mut self, now: Time, chance: &mut Chance) -> Verdict {
        self.serve(CONTENT, now, chance)
    }

    fn throttle(&self, reply: &'static str, now: Time) -> Verdict {
        let reply = if self.rules.opaque { OPAQUE } else { reply };
        Verdict { reply, is_closed: self.rules.close_on_throttle, is_throttle: true, at: now + REFUSAL }
    }

    /// The service time, 30 % more or less, behind what waits for the workers.
    fn serve(&mut self, reply: &'static str, now: Time, chance: &mut Chance) -> Verdict {
        let takes = chance.spread(nanos(self.rules.service_time.0), 0.3);
        let at = match self.workers.pop() {
            Some(std::cmp::Reverse(free)) => {
                let at = free.max(now) + takes;
                self.workers.push(std::cmp::Reverse(at));
                at
            }
            None => now + takes,
        };
        Verdict { reply, is_closed: false, is_throttle: false, at }
    }

    fn is_over(&mut self, now: Time) -> bool {
        let rate = self.rate_at(now);
        if rate <= 0.0 {
            return false;
        }
        match self.rules.window {
            Window::Fixed => self.minute.0 == now / MINUTE && self.minute.1 >= rate,
            Window::Sliding => {
                while self.recent.front().is_some_and(|at| at + MINUTE <= now) {
                    self.recent.pop_front();
                }
                as_number(self.recent.len()) >= rate
            }
            Window::Bucket => {
                let (tokens, then) = self.tokens;
                let tokens = tokens + super::seconds(now - then) * rate / 60.0;
                self.tokens = (tokens.min(self.rules.burst.max(1.0)), now);
                self.tokens.0 < 1.0
            }
        }
    }

    fn count(&mut self, now: Time) {
        self.hour.1 += 1;
        if self.rate_at(now) <= 0.0 {
            return;
        }
        match self.rules.window {
            Window::Fixed if self.minute.0 == now / MINUTE => self.minute.1 += 1.0,
            Window::Fixed => self.minute = (now / MINUTE, 1.0),
            Window::Sliding => self.recent.push_back(now),
            Window::Bucket => self.tokens.0 -= 1.0,
        }
    }

    fn count_try(&mut self, now: Time) {
        let Some(penalty) = &self.rules.penalty else { return };
        self.tries.push_back(now);
        while self.tries.front().is_some_and(|at| at + nanos(penalty.window.0) <= now) {
            self.tries.pop_front();
        }
        if self.tries.len() > usize::try_from(penalty.tries).unwrap_or(usize::MAX) {
            self.blocked_until = now + nanos(penalty.block.0);
            self.blocks += 1;
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn as_number(count: usize) -> f64 {
    count as f64
}
