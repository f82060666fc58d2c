//! What became of every message, by its number: the proof that nothing is lost and nothing comes twice.
//!
//! The load notes what was acknowledged, the receivers what arrived and which DSNs came. Entries are only ever added
//! to, so any task may do it; [`Ledger::tally`] counts at any time.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::latency::Latencies;

/// Arrivals are counted in slots this long.
const SLOT: Duration = Duration::from_millis(100);
/// Ten minutes of them; later ones fall into the last.
const SLOTS: usize = 6_000;

/// The record of one run.
#[derive(Debug)]
pub struct Ledger {
    started: Instant,
    messages: Vec<Track>,
    arrivals: Vec<AtomicU32>,
    octets: AtomicU64,
    /// From the end of data to the 250 of the submission.
    pub acknowledged: Latencies,
    /// From the end of data of the submission to the receiver's end of data.
    pub arrived: Latencies,
}

#[derive(Debug, Default)]
struct Track {
    acknowledged: AtomicBool,
    arrivals: AtomicU8,
    dsns: AtomicU8,
    altered: AtomicBool,
    /// Microseconds from the start of the run to the end of data.
    sent: AtomicU64,
}

/// Counts of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Got their 250.
    pub acknowledged: u64,
    /// Arrived at a receiver at least once.
    pub delivered: u64,
    /// Reported to their sender by a DSN at least once.
    pub bounced: u64,
    /// Acknowledged, and neither arrived nor reported (yet).
    pub open: u64,
    /// Arrived or were reported more than once, or both arrived and were reported.
    pub duplicated: u64,
    /// Arrived with another body than was sent.
    pub altered: u64,
}

impl Ledger {
    /// For `messages` messages, numbered from 0. The run starts now.
    pub fn new(messages: u32) -> Self {
        Self {
            started: Instant::now(),
            messages: (0..messages).map(|_| Track::default()).collect(),
            arrivals: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
            octets: AtomicU64::new(0),
            acknowledged: Latencies::default(),
            arrived: Latencies::default(),
        }
    }

    /// The end of data of `number` is being sent.
    pub fn note_sent(&self, number: u32, octets: usize) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Some(track) = self.track(number) {
            track.sent.store(micros, Ordering::Release);
            self.octets.fetch_add(octets as u64, Ordering::Relaxed);
        }
    }

    /// `number` got its 250.
    pub fn note_acknowledged(&self, number: u32, after: Duration) {
        if let Some(track) = self.track(number) {
            track.acknowledged.store(true, Ordering::Release);
            self.acknowledged.add(after);
        }
    }

    /// `number` arrived at its receiver; gives the time since it was submitted.
    pub fn note_arrival(&self, number: u32, is_intact: bool) -> Option<Duration> {
        let track = self.track(number)?;
        let now = self.started.elapsed();
        track.arrivals.fetch_add(1, Ordering::AcqRel);
        if !is_intact {
            track.altered.store(true, Ordering::Release);
        }
        let slot = usize::try_from(now.as_millis() / SLOT.as_millis()).unwrap_or(SLOTS).min(SLOTS - 1);
        if let Some(slot) = self.arrivals.get(slot) {
            slot.fetch_add(1, Ordering::Relaxed);
        }
        let age = now.saturating_sub(Duration::from_micros(track.sent.load(Ordering::Acquire)));
        self.arrived.add(age);
        Some(age)
    }

    /// A DSN about `number` came.
    pub fn note_dsn(&self, number: u32) {
        if let Some(track) = self.track(number) {
            track.dsns.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Octets of content submitted so far.
    pub fn octets(&self) -> u64 {
        self.octets.load(Ordering::Relaxed)
    }

    /// Since the run began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Counts everything.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for track in &self.messages {
            let arrivals = track.arrivals.load(Ordering::Acquire);
            let dsns = track.dsns.load(Ordering::Acquire);
            let is_acknowledged = track.acknowledged.load(Ordering::Acquire);
            tally.acknowledged += u64::from(is_acknowledged);
            tally.delivered += u64::from(arrivals > 0);
            tally.bounced += u64::from(dsns > 0);
            tally.open += u64::from(is_acknowledged && arrivals == 0 && dsns == 0);
            tally.duplicated += u64::from(u16::from(arrivals) + u16::from(dsns) > 1);
            tally.altered += u64::from(track.altered.load(Ordering::Acquire));
        }
        tally
    }

    /// The numbers of up to `most` messages that are still open.
    pub fn open(&self, most: usize) -> Vec<usize> {
        let is_open = |track: &Track| {
            track.acknowledged.load(Ordering::Acquire)
                && track.arrivals.load(Ordering::Acquire) == 0
                && track.dsns.load(Ordering::Acquire) == 0
        };
        let open = self.messages.iter().enumerate().filter(|(_, track)| is_open(track));
        open.map(|(number, _)| number).take(most).collect()
    }

    /// How long it took until `percent` of all arrivals had happened.
    pub fn time_of_arrivals(&self, percent: u64) -> Duration {
        let counts: Vec<u64> = self.arrivals.iter().map(|slot| u64::from(slot.load(Ordering::Relaxed))).collect();
        let wanted = (counts.iter().sum::<u64>() * percent).div_ceil(100);
        let mut seen = 0;
        let slots = counts.iter().take_while(|count| {
            let is_before = seen < wanted;
            seen += **count;
            is_before
        });
        SLOT * u32::try_from(slots.count()).unwrap_or(u32::MAX)
    }

    fn track(&self, number: u32) -> Option<&Track> {
        self.messages.get(usize::try_from(number).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    #[test]
    fn acknowledged_message_is_open_until_it_arrives_or_is_reported() {
        let ledger = Ledger::new(3);
        for number in 0..3 {
            ledger.note_acknowledged(number, SOON);
        }

        ledger.note_arrival(0, true);
        ledger.note_dsn(1);

        let tally = ledger.tally();
        assert_eq!((tally.acknowledged, tally.delivered, tally.bounced, tally.open), (3, 1, 1, 1));
        assert_eq!(ledger.open(9), [2]);
    }

    #[test]
    fn second_arrival_and_arrival_with_a_dsn_are_duplicates() {
        let ledger = Ledger::new(3);
        ledger.note_arrival(0, true);
        ledger.note_arrival(0, true);
        ledger.note_arrival(1, true);
        ledger.note_dsn(1);
        ledger.note_arrival(2, false);

        let tally = ledger.tally();

        assert_eq!((tally.duplicated, tally.altered), (2, 1));
    }

    #[test]
    fn unknown_numbers_are_ignored() {
        let ledger = Ledger::new(1);

        assert_eq!(ledger.note_arrival(1, true), None);
        assert_eq!(ledger.tally(), Tally::default());
    }

    #[test]
    fn time_of_arrivals_counts_whole_slots() {
        let ledger = Ledger::new(1);
        assert_eq!(ledger.time_of_arrivals(95), Duration::ZERO);

        ledger.note_arrival(0, true);

        assert_eq!(ledger.time_of_arrivals(95), SLOT);
    }
}
