//! The retry schedule: when a deferred recipient is tried again.
//!
//! Pure. The jitter is derived from the message and the attempt, so recipients that were deferred by one transaction
//! stay together, and a test sees the same time again.

use std::hash::BuildHasher;
use std::time::Duration;

use crate::clock::UnixTime;
use crate::message::MessageId;

use super::settings::Retry;

/// Jitter of a mass deferral: a site or a domain that sent everything back must not see it return at once.
const MASS_JITTER: u8 = 20;

impl Retry {
    /// The wait after attempt number `attempts` (from 1) of a message, without jitter.
    fn wait(&self, attempts: u16) -> Duration {
        let index = usize::from(attempts).saturating_sub(1);
        let wait = self.intervals.get(index).or(self.intervals.last());
        wait.copied().unwrap_or(Duration::from_secs(60))
    }

    /// When the next attempt is due after number `attempts` (from 1); never after the end of its time.
    pub(super) fn due(
        &self,
        id: MessageId,
        attempts: u16,
        accepted: UnixTime,
        now: UnixTime,
        is_mass: bool,
    ) -> UnixTime {
        let percent = if is_mass { self.jitter_percent.max(MASS_JITTER) } else { self.jitter_percent };
        let wait = jittered(self.wait(attempts), percent, id.0 ^ (u64::from(attempts) << 48));
        now.plus(wait.max(Duration::from_secs(1))).min(self.end(accepted))
    }

    /// The latest time that [`Retry::due`] can have given for the attempt after number `attempts`, if it was asked now.
    pub(super) fn latest(&self, attempts: u16, now: UnixTime) -> UnixTime {
        let percent = self.jitter_percent.max(MASS_JITTER);
        let wait = self.wait(attempts);
        now.plus(wait + wait * u32::from(percent) / 100 + Duration::from_secs(1))
    }

    /// When the time of a recipient is over.
    pub(super) fn end(&self, accepted: UnixTime) -> UnixTime {
        accepted.plus(self.max_age)
    }

    /// Entries accepted before this have expired at `now`.
    pub(super) fn dead_before(&self, now: UnixTime) -> UnixTime {
        let age = u32::try_from(self.max_age.as_secs()).unwrap_or(u32::MAX);
        // One second more: at the very end of its time an entry is expired, not tried.
        UnixTime(now.0.saturating_sub(age).saturating_add(u32::from(age <= now.0)))
    }
}

/// `wait` moved by up to `percent` of it either way, evenly by `seed`.
fn jittered(wait: Duration, percent: u8, seed: u64) -> Duration {
    let random = foldhash::quality::FixedState::with_seed(0).hash_one(seed) % 20_001;
    let span = wait.as_secs_f64() * f64::from(percent) / 100.0;
    let shift = f64::from(u32::try_from(random).unwrap_or(10_000)) / 10_000.0 - 1.0;
    Duration::from_secs_f64((wait.as_secs_f64() + span * shift).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn exact() -> Retry {
        Retry { jitter_percent: 0, ..Retry::default() }
    }

    #[test]
    fn waits_follow_the_intervals_and_the_last_one_repeats() {
        let minutes: Vec<u64> = (1..=8)
            .map(|attempts| exact().due(MessageId(1), attempts, NOW, NOW, false).since(NOW).as_secs() / 60)
            .collect();

        assert_eq!(minutes, [1, 5, 15, 30, 60, 120, 120, 120]);
    }

    #[test]
    fn no_retry_is_due_after_the_end() {
        let accepted = UnixTime(NOW.0 - 4 * 86_400 + 600);

        assert_eq!(exact().due(MessageId(1), 9, accepted, NOW, false), UnixTime(NOW.0 + 600));
    }

    #[test]
    fn jitter_spreads_evenly_within_its_percentage() {
        let waits: Vec<u64> = (0..10_000)
            .map(|id| Retry::default().due(MessageId(id), 3, NOW, NOW, false).since(NOW).as_secs())
            .collect();

        assert!(waits.iter().all(|wait| (809..=990).contains(wait)));
        let early = waits.iter().filter(|wait| **wait < 855).count();
        let late = waits.iter().filter(|wait| **wait >= 945).count();
        assert!((2_200..=2_800).contains(&early) && (2_200..=2_800).contains(&late), "{early} {late}");
    }

    #[test]
    fn a_mass_deferral_is_spread_wider() {
        let due = |id| Retry::default().due(MessageId(id), 5, NOW, NOW, true).since(NOW).as_secs();
        let (least, most) = (0..10_000).map(due).fold((u64::MAX, 0), |(a, b), wait| (a.min(wait), b.max(wait)));

        assert!((2_880..2_920).contains(&least) && (4_280..=4_320).contains(&most), "{least} {most}");
    }

    #[test]
    fn no_wait_is_longer_than_the_latest() {
        for attempts in 1..8 {
            let latest = Retry::default().latest(attempts, NOW);
            let longest = (0..2_000).map(|id| Retry::default().due(MessageId(id), attempts, NOW, NOW, true)).max();

            assert!(longest <= Some(latest), "{attempts}: {longest:?} {latest:?}");
            assert!(latest.since(NOW) <= Retry::default().wait(attempts) * 5 / 4 + Duration::from_secs(1));
        }
    }

    #[test]
    fn an_entry_is_dead_from_the_end_of_its_time_on() {
        let retry = exact();
        let accepted = NOW;
        let end = retry.end(accepted);

        assert!(accepted >= retry.dead_before(UnixTime(end.0 - 1)));
        assert!(accepted < retry.dead_before(end));
    }
}
