//! The watchdog: looks whether the parts that must move have moved, and feeds systemd's watchdog only while they do.
//!
//! It has a thread of its own, so that it still looks when every thread of the runtime hangs. At each look every part
//! shows a [`Sign`]: a mark that moves with its progress, and whether progress is due. The time for which a part was due
//! and did not move is its *still* time; past the part's limit it is stuck: that is logged, shown by
//! `hikyaku_watchdog_still_seconds`, and systemd is not fed until it moves again.
//!
//! | part | its mark moves when | due |
//! |---|---|---|
//! | `runtime` | each worker thread returns from polls | while the thread is not parked |
//! | `timers` | each shard of the queue's timers has dealt with what was due, every 10 s at least | until the stop |
//! | `queue` | the queue's upkeep has done a round (2 s) | until the stop |
//! | `accept` | each accept loop has been polled and has come back, every 10 s at least | until the stop |
//! | `commit` | the committer has taken, written, synced and answered a batch | while one is in hand or something waits for it |
//! | `write` | a write to the log without a sync has ended | while one is in hand |
//!
//! **A disk that stalls** stops `commit` or `write`, and then any other part, since a thread of the runtime may write to the
//! log. Killing the daemon then would help nobody: a process that waits for its disk does not die before the disk answers,
//! the next one waits for the same disk, and what was in flight would be in doubt. So `commit` and `write` have ten minutes
//! ([`DISK_LIMIT`]), and while one of them stands still the time of the others does not count. Accepted mail is not in
//! danger either way.
//!
//! Time that the process itself was not run (SIGSTOP, a suspended machine) does not count: a look adds at most twice the
//! time between two looks.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use metrics::Gauge;
use parking_lot::Mutex;
use tracing::{error, info, warn};

use crate::metrics::Registry;
use crate::pulse::{Pulse, Standstill};

/// How long a part may stand still. Everything that is watched moves within a few seconds; a machine that swaps or is short
/// of CPU may take many times as long, and a restart would make that worse.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the disk may stand still: as long as clients and receivers wait at the end of data (RFC 5321, 4.5.3.2.6). After
/// that hardly anything is in flight that a restart would put in doubt.
const DISK_LIMIT: Duration = Duration::from_secs(600);
/// A stall of the disk that is worth a line in the log.
const DISK_WORTH_TELLING: Duration = Duration::from_secs(10);
/// Between two looks, where systemd does not ask for more.
const LOOK: Duration = Duration::from_secs(5);
/// How often a part that may have nothing to do shows that it could.
pub(super) const BEAT: Duration = Duration::from_secs(10);

/// What a part shows at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sign {
    /// Differs from the last one if there was progress.
    pub mark: u64,
    /// Progress is to be expected now.
    pub is_due: bool,
}

/// What a part waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The processor, and others of its kind.
    Task,
    /// The spool's disk.
    Disk,
}

/// Something that must move.
pub(super) struct Part {
    name: &'static str,
    kind: Kind,
    limit: Duration,
    /// `None` when it is no more.
    look: Box<dyn Fn() -> Option<Sign> + Send>,
}

impl Part {
    /// One that waits for nothing but its turn.
    pub fn task(name: &'static str, look: impl Fn() -> Sign + Send + 'static) -> Self {
        Self { name, kind: Kind::Task, limit: LIMIT, look: Box::new(move || Some(look())) }
    }

    /// One that beats until `is_over`.
    pub fn beating(name: &'static str, pulse: Pulse, is_over: impl Fn() -> bool + Send + 'static) -> Self {
        Self::task(name, move || Sign { mark: pulse.mark(), is_due: !is_over() })
    }

    /// One that waits for the disk.
    pub fn disk(name: &'static str, look: impl Fn() -> Sign + Send + 'static) -> Self {
        Self { name, kind: Kind::Disk, limit: DISK_LIMIT, look: Box::new(move || Some(look())) }
    }

    /// The worker threads of a runtime. A thread that is parked waits for work; one that is not comes back from its polls
    /// sooner or later, which its count of parks or its busy time shows.
    pub fn workers(runtime: &tokio::runtime::Handle) -> impl Iterator<Item = Self> {
        let metrics = runtime.metrics();
        (0..metrics.num_workers()).map(move |worker| {
            let metrics = metrics.clone();
            Self::task("runtime", move || {
                // Odd while it is parked.
                let parks = metrics.worker_park_unpark_count(worker);
                let busy = u64::try_from(metrics.worker_total_busy_duration(worker).as_nanos()).unwrap_or_default();
                Sign { mark: parks.wrapping_add(busy), is_due: parks.is_multiple_of(2) }
            })
        })
    }
}

/// What is to be watched, and what was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    /// Added to by who starts a part, also while the daemon runs; taken by the watching thread.
    new: Arc<Mutex<Vec<Part>>>,
    /// Parts that have not moved between two looks or more.
    pub still: Standstill,
}

impl Parts {
    /// One more, from the next look on.
    pub fn add(&self, part: Part) {
        self.new.lock().push(part);
    }

    /// The pulse of a loop that accepts; watched until its task drops it.
    pub fn accept_loop(&self) -> Pulse {
        let pulse = Pulse::default();
        let watched = pulse.clone();
        let look = move || (!watched.is_left()).then(|| Sign { mark: watched.mark(), is_due: true });
        self.add(Part { name: "accept", kind: Kind::Task, limit: LIMIT, look: Box::new(look) });
        pulse
    }

    fn take(&self) -> Vec<Part> {
        std::mem::take(&mut *self.new.lock())
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A part and what was seen of it.
struct Watched {
    part: Part,
    mark: Option<u64>,
    still: Duration,
    gauge: Gauge,
    /// How much of it was logged.
    told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    SlowDisk,
    Stuck,
}

/// What is watched, without the thread: time comes in as an argument.
struct Register {
    watched: Vec<Watched>,
    registry: Registry,
}

impl Register {
    fn new(registry: &Registry) -> Self {
        Self { watched: Vec::new(), registry: registry.clone() }
    }

    fn add(&mut self, parts: Vec<Part>) {
        let help = "How long a part that should move has not moved.";
        for part in parts {
            let gauge = self.registry.gauge("hikyaku_watchdog_still_seconds", help, &[("part", part.name)]);
            self.watched.push(Watched { part, mark: None, still: Duration::ZERO, gauge, told: Told::Nothing });
        }
    }

    /// Looks at every part, `step` after the look before; false if one is stuck.
    fn look(&mut self, step: Duration) -> bool {
        let mut stand = Vec::with_capacity(self.watched.len());
        self.watched.retain_mut(|watched| {
            let Some(sign) = (watched.part.look)() else { return false };
            let has_mark = watched.mark.replace(sign.mark) == Some(sign.mark);
            stand.push(sign.is_due && has_mark);
            true
        });
        let pairs = || self.watched.iter().zip(&stand);
        let is_stalled = pairs().any(|(watched, stands)| *stands && watched.part.kind == Kind::Disk);
        let mut is_well = true;
        for (watched, stands) in self.watched.iter_mut().zip(stand) {
            if !stands {
                watched.still = Duration::ZERO;
            } else if !is_stalled || watched.part.kind == Kind::Disk {
                watched.still += step;
            }
            is_well &= watched.still < watched.part.limit;
            watched.tell();
        }
        self.show();
        is_well
    }

    /// Parts of one name show the one that stands still for longest.
    fn show(&self) {
        for watched in &self.watched {
            watched.gauge.set(self.longest(watched.part.name).as_secs_f64());
        }
    }

    fn longest(&self, name: &str) -> Duration {
        let same = self.watched.iter().filter(|watched| watched.part.name == name);
        same.map(|watched| watched.still).max().unwrap_or_default()
    }

    /// Names of parts that stand still, each once.
    fn still(&self) -> Vec<(&'static str, Duration)> {
        let standing = self.watched.iter().filter(|watched| !watched.still.is_zero());
        let mut names: Vec<&'static str> = standing.map(|watched| watched.part.name).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(|name| (name, self.longest(name))).collect()
    }
}

impl Watched {
    fn tell(&mut self) {
        let (part, still_seconds) = (self.part.name, self.still.as_secs());
        let is_slow_disk = self.part.kind == Kind::Disk && self.still >= DISK_WORTH_TELLING;
        let now = match self.still {
            still if still >= self.part.limit => Told::Stuck,
            _ if is_slow_disk => Told::SlowDisk,
            _ => Told::Nothing,
        };
        match (self.told, now) {
            (before, now) if before == now => {}
            (_, Told::Stuck) => error!(part, still_seconds, "stuck: systemd's watchdog is not fed until it moves"),
            (_, Told::SlowDisk) => warn!(part, still_seconds, "the spool's disk does not answer"),
            (_, Told::Nothing) => info!(part, "moves again"),
        }
        self.told = now;
    }
}

/// The watching thread; ends when dropped.
#[derive(Debug)]
pub struct Watchdog {
    /// Dropped to end the thread.
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches `parts`, and calls `feed` at least twice in `timeout` while all is well, if systemd has said one.
    pub(super) fn start(
        parts: Parts,
        registry: &Registry,
        timeout: Option<Duration>,
        mut feed: impl FnMut() + Send + 'static,
    ) -> std::io::Result<Self> {
        let period = timeout.map_or(LOOK, |timeout| LOOK.min(timeout / 3)).max(Duration::from_millis(1));
        let mut register = Register::new(registry);
        let (end, ended) = mpsc::channel();
        let run = move || {
            let mut last = Instant::now();
            loop {
                register.add(parts.take());
                let now = Instant::now();
                let is_well = register.look((now - last).min(period * 2));
                parts.still.set(register.still());
                last = now;
                if is_well && timeout.is_some() {
                    feed();
                }
                if ended.recv_timeout(period) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("watchdog".to_owned()).spawn(run)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.end.take();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("the watchdog's thread panicked");
        }
    }
}

/// Runs a task that may have nothing to do for long, and beats whenever it was polled and came back: at least every
/// [`BEAT`], since it is polled then whether or not anything woke it.
pub(super) async fn beating<T: Future>(pulse: Pulse, task: T) -> T::Output {
    let mut task = std::pin::pin!(task);
    let mut interval = tokio::time::interval(BEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    std::future::poll_fn(|context| {
        // Until it is pending, so that the next tick wakes us.
        while interval.poll_tick(context).is_ready() {}
        let output = task.as_mut().poll(context);
        pulse.beat();
        output
    })
    .await
}

#[cfg(test)]
mod tests;
