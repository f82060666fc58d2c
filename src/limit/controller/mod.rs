//! The controller: finds out what a receiver allows one egress source, and stays just under it.
//!
//! One a path, under its site's lock: plain calls, time comes in, nothing is awaited and nothing is random. Four
//! regulators, each fed by its own kind of reply only: the rate (`rate`), connections (`connections`), messages over
//! one connection (`messages`), and a breaker for receivers that refuse us as such; besides, counts by the hour
//! (`cap`). After a refusal the `gate` stops all connections at once. All of that is `work`, which a quiet path has
//! not: it keeps what was learnt (`rest`) and costs no time.
//!
//! Use: before each message [`Controller::may_send`], then [`Controller::send`], and for each of those exactly one
//! [`Controller::replied`] or [`Controller::unsent`]. Before each connection [`Controller::may_open`], then
//! [`Controller::opening`], then one of [`Controller::opened`] and [`Controller::refused`], and at its end
//! [`Controller::closed`]. [`Controller::tick`] at [`Controller::next_tick`], which a quiet path has none of.
//!
//! Whatever is learnt, the configuration's ceilings are applied last. What changes is told as [`Change`], with its reason
//! in words.

mod busy;
mod cap;
mod change;

mod connections;
mod counts;
mod evidence;
mod gate;
mod messages;
mod operate;
mod pace;
mod rate;
mod rest;
mod settings;
mod snapshot;
mod strains;
mod time;
mod work;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use rest::Rest;
use time::Epoch;
use work::Work;

pub use change::{Cause, Change, Changes, Wait, What};
pub use evidence::{Answer, End, Failure, Heard, MOST_GUESSES, Refused, Signal};
pub use operate::{Configured, View};
pub use rate::Phase;
pub use settings::{Bounds, Ceilings, Orders, Start};
pub use snapshot::{Learnt, SIZE as SNAPSHOT_SIZE, SnapshotError, TOO_OLD};

/// What one path may do, and what it has learnt.
#[derive(Debug)]
pub struct Controller {
    epoch: Epoch,
    ceilings: Ceilings,
    /// An operator's, if there are any.
    orders: Option<Box<Orders>>,
    /// Spreads pauses.
    seed: u32,
    /// What is known while nothing goes on; out of date while something does.
    rest: Rest,
    /// Made by the first message or connection, dropped when the path has been quiet for a while.
    work: Option<Box<Work>>,
}

impl Controller {
    /// A cold one. `wall` is the time since 1970 at `now`; `seed` spreads pauses.
    pub fn new(ceilings: Ceilings, seed: u32, now: Instant, wall: Duration) -> Self {
        Self { epoch: Epoch::new(now, wall), ceilings, orders: None, seed, rest: Rest::default(), work: None }
    }

    fn work(&mut self, now: Instant) -> &mut Work {
        let Self { epoch, ceilings, orders, seed, rest, work } = self;
        let wake = || {
            Box::new(rest.wake(Work::new(*ceilings, orders.as_deref().copied(), *seed, *epoch, now), epoch.time(now)))
        };
        work.get_or_insert_with(wake)
    }

    /// The same that begins elsewhere.
    pub fn starting(mut self, start: Start) -> Self {
        self.rest.begin(start);
        self
    }

    /// Whether a message may go now.
    pub fn may_send(&mut self, now: Instant) -> Result<(), Wait> {
        self.work(now).may_send(now)
    }

    /// A message goes, as [`Controller::may_send`] allowed.
    pub fn send(&mut self, now: Instant) {
        self.work(now).send(now);
    }

    /// It did not go after all: there was none, or the connection was lost before the receiver saw it.
    pub fn unsent(&mut self, now: Instant) {
        self.work(now).unsent(now);
    }

    /// Whether the next message may be sent before the reply to the one before it has come.
    pub fn may_look_ahead(&self, now: Instant) -> bool {
        self.work.as_ref().is_some_and(|work| work.may_look_ahead(now))
    }

    /// The reply to a message; `open` connections are established, its own included.
    pub fn replied(&mut self, answer: &Answer<'_>, open: u32, now: Instant) -> Heard {
        self.work(now).replied(answer, open, now)
    }

    /// Whether one more connection may be opened beside `open` that are open or being opened.
    pub fn may_open(&mut self, open: u32, now: Instant) -> Result<(), Wait> {
        self.work(now).may_open(open, now)
    }

    /// Work waits while `open` connections, all that there are, are busy. Where the limit is what keeps it from one more, and the
    /// message could go, it is noted: more are tried then.
    pub fn short_of_connections(&mut self, open: u32, now: Instant) {
        self.work(now).short_of_connections(open, now);
    }

    /// A connection is being opened, as [`Controller::may_open`] allowed.
    pub fn opening(&mut self, now: Instant) {
        self.work(now).opening(now);
    }

    /// A connection is open after `took`, beside `others` that are open too.
    pub fn opened(&mut self, others: u32, took: Duration, now: Instant) -> Changes {
        self.work(now).opened(others, took, now)
    }

    /// A connection did not come about.
    pub fn refused(&mut self, refused: &Refused<'_>, now: Instant) -> Heard {
        self.work(now).refused(refused, now)
    }

    /// A connection has ended; `end`: the receiver ended it, not saying why.
    pub fn closed(&mut self, end: Option<End<'_>>, now: Instant) -> Changes {
        // Nothing is learnt of idle connections that end one by one.
        if end.is_none() && self.work.is_none() {
            return Changes::new();
        }
        self.work(now).closed(end, now)
    }

    /// A connection has ended, since the receiver said to message number `count` that it carries no more; that one goes back.
    pub fn used_up(&mut self, count: u32, reply: &str, now: Instant) -> Changes {
        self.work(now).used_up(count, reply, now)
    }

    /// When [`Controller::tick`] is due. None: nothing goes on.
    pub fn next_tick(&self) -> Option<Instant> {
        self.work.as_ref()?.next_tick()
    }

    /// Ten seconds of work are over, or more; `is_waiting`: there is work that could go at once.
    pub fn tick(&mut self, is_waiting: bool, now: Instant) -> Changes {
        let Some(work) = &mut self.work else { return Changes::new() };
        let changes = work.tick(is_waiting, now);
        if work.is_quiet(is_waiting, now) {
            self.rest = Rest::of(work);
            self.work = None;
        }
        changes
    }

    /// Connections that are worth having now, open and opening ones together.
    pub fn worth(&mut self, now: Instant) -> u32 {
        self.work(now).worth()
    }

    /// Connections allowed at the same time, whatever they are worth.
    pub fn connection_limit(&mut self, now: Instant) -> u32 {
        self.work(now).connection_limit()
    }

    /// Messages that one connection may carry.
    pub fn messages_per_connection(&mut self, now: Instant) -> Option<u32> {
        self.work(now).messages_per_connection()
    }
}
