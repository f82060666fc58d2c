//! What is known of a path only while it works: counts of the last minute and averages.

use super::connections::narrow;
use super::counts::Counts;
use super::time::{MINUTE, Time, nanos};
use std::time::Duration;

/// Dropped after this long without a message: nothing of it is newer than what it looks back to.
pub(super) const QUIET: Time = 2 * MINUTE;
/// Weight of the newest tick in averages.
const NEW: f64 = 0.3;
/// However many replies do not count, attempts are at most four times what does.
const MOST_IDLE: f64 = 0.75;
/// A reply that says nothing is taken for a refusal when such replies are clearly more frequent than usual: the sum of
/// the logarithms of how much likelier each reply is then. e^8 is about one false alarm in some thousand messages of noise.
const ALARM: f32 = 8.0;
/// Where the rate had held, nothing is expected.
const HOLD_ALARM: f32 = 12.0;
/// Where refusals are expensive, a few are enough.
const WARY_ALARM: f32 = 4.0;
/// The same of a receiver that says it when it refuses.
const FAR_ALARM: f32 = 30.0;
/// What is usual before anything was seen: one in fifty, with the weight of so many replies,
const PRIOR: [f32; 2] = [0.5, 25.0];
/// and so many are remembered.
const MEMORY: f32 = 2000.0;

/// Counts and averages.
#[derive(Clone, Debug)]
pub(super) struct Busy {
    pub counts: Counts,
    /// When the last tick was.
    pub ticked: Time,
    /// When the last message went.
    pub sent: Time,
    /// Messages sent since the last tick.
    pub attempts: u32,
    /// Replies since the last tick that counted, and the sum of their latencies.
    replies: u32,
    latencies: Time,
    /// Replies since the last tick that did not count.
    pub neutral: u32,
    unknown: u32,
    /// Messages that had to wait for the pace.
    pub paced: u32,
    /// A connection was wanted and there was none.
    pub was_full: bool,
    /// Mean latency in seconds; 0: not known.
    pub latency: f64,
    /// What a new connection takes, failed attempts included, in seconds.
    pub opening: f64,
    /// Share of messages whose replies do not count.
    pub idle_share: f64,
    /// Share of replies that say nothing, as usual here.
    usual: f32,
    /// Such replies, and all.
    seen: [f32; 2],
    alarm: f32,
    /// Attempts to connect of the running minute, and those of them that timed out.
    pub tries: u16,
    pub timeouts: u16,
    /// Time lost by failed attempts since the last connection was opened.
    lost: Duration,
    minute: Time,
}

impl Busy {
    pub fn new(now: Time) -> Self {
        Self {
            counts: Counts::new(now),
            ticked: now,
            sent: now,
            attempts: 0,
            replies: 0,
            latencies: 0,
            neutral: 0,
            unknown: 0,
            paced: 0,
            was_full: false,
            latency: 0.0,
            opening: 0.5,
            idle_share: 0.0,
            usual: PRIOR[0] / PRIOR[1],
            seen: PRIOR,
            alarm: 0.0,
            tries: 0,
            timeouts: 0,
            lost: Duration::ZERO,
            minute: now,
        }
    }

    pub fn accepted(&mut self, latency: Duration) {
        self.replies += 1;
        self.latencies += nanos(latency);
        self.alarm = (self.alarm + (1.0 - self.unusual()).ln() - (1.0 - self.usual).ln()).max(0.0);
    }

    /// A reply that says nothing; whether there are suddenly too many of them.
    pub fn unknown(&mut self, is_outspoken: bool, is_held: bool, is_wary: bool) -> bool {
        self.unknown += 1;
        self.alarm += (self.unusual() / self.usual).ln();
        let most = if is_held { HOLD_ALARM } else { ALARM };
        let most = if is_wary { WARY_ALARM } else { most };
        self.alarm >= if is_outspoken { FAR_ALARM } else { most }
    }

    /// Whether some replies since the last tick said nothing.
    pub fn has_unknown(&self) -> bool {
        self.unknown > 0
    }

    pub fn calm(&mut self) {
        self.alarm = 0.0;
    }

    fn unusual(&self) -> f32 {
        (self.usual * 4.0).clamp(0.08, 0.8)
    }

    /// A connection was opened.
    pub fn opened(&mut self, took: Duration) {
        let took = std::mem::take(&mut self.lost) + took;
        self.opening += 0.1 * (took.as_secs_f64() - self.opening);
        self.tries = self.tries.saturating_add(1);
    }

    /// An attempt failed; whether most do.
    pub fn failed(&mut self, took: Duration, is_timeout: bool) -> bool {
        self.lost += took;
        self.tries = self.tries.saturating_add(1);
        self.timeouts = self.timeouts.saturating_add(u16::from(is_timeout));
        self.tries >= 8 && self.timeouts > self.tries / 2
    }

    /// Ends a tick: averages are brought up to date and counts begin anew. Gives the mean latency of the tick.
    ///
    /// What is usual is only learnt where `is_usual`: below a limit that held.
    pub fn turn(&mut self, is_usual: bool, now: Time) -> Option<f64> {
        let all = self.replies + self.neutral + self.unknown;
        let mean = (self.replies > 0).then(|| super::time::seconds(self.latencies) / f64::from(self.replies));
        if let Some(mean) = mean {
            self.latency = if self.latency == 0.0 { mean } else { self.latency + NEW * (mean - self.latency) };
        }
        if all > 0 {
            let share = f64::from(self.neutral + self.unknown) / f64::from(all);
            self.idle_share += NEW * f64::from(all.min(50)) / 50.0 * (share.min(MOST_IDLE) - self.idle_share);
        }
        if all > 0 && is_usual {
            let [unknown, replies] = &mut self.seen;
            *unknown += narrow(f64::from(self.unknown));
            *replies += narrow(f64::from(all));
            let fade = (MEMORY / *replies).min(1.0);
            (*unknown, *replies) = (*unknown * fade, *replies * fade);
            self.usual = (*unknown / *replies).clamp(0.001, 0.5);
        }
        if now.saturating_sub(self.minute) >= MINUTE {
            (self.minute, self.tries, self.timeouts) = (now, 0, 0);
        }
        (self.attempts, self.replies, self.latencies, self.neutral, self.unknown) = (0, 0, 0, 0, 0);
        (self.was_full, self.paced, self.ticked) = (false, 0, now);
        mean
    }
}
