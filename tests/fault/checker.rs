//! The checker: three logs of one world, and the check over them, the same for every fault.
//!
//! Clients write what they were told; the sink what arrived, DSNs too; the reader of the daemon's log, and who looks into
//! its queue, the recipients that were named as in doubt. Addresses are never shared by two messages, so an address names
//! a message's recipient.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::letter::{Letter, of_address};

/// What a client knows about its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The final dot was not sent.
    Unfinished,
    /// It was; no answer was read.
    Unknown,
    /// 250.
    Accepted,
    /// 4xx or 5xx.
    Refused,
}

/// One message or DSN at one recipient of the sink.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The daemon's identity of it, or the DSN's Message-ID.
    pub id: String,
    /// As it was sent; of a DSN: it names the refused recipient.
    pub is_intact: bool,
    /// Of a DSN: the enhanced status codes in it.
    pub statuses: Vec<String>,
    pub at: Instant,
}

#[derive(Debug, Default)]
struct Logs {
    answers: HashMap<u32, Answer>,
    arrivals: HashMap<String, Vec<Arrival>>,
    doubts: HashMap<String, usize>,
    panics: Vec<String>,
    /// From the end of data to the 250.
    waits: Vec<(Instant, Duration)>,
    /// Connections of clients that ended without a reply that says so.
    broken: u64,
}

/// The logs.
#[derive(Debug, Default)]
pub struct Checker {
    logs: Mutex<Logs>,
}

/// What the check found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Connections of clients that ended without a reply that says so.
    pub broken: u64,
    pub accepted: u64,
    pub unknown: u64,
    pub refused: u64,
    /// Recipients named as in doubt, each time counted.
    pub doubts: u64,
    /// Second and later arrivals.
    pub duplicates: u64,
    /// Those among them about which no doubt was announced.
    pub unpredicted: u64,
    /// Acknowledged and not arrived.
    pub lost: Vec<String>,
    /// Arrived although nobody sent it, or although the client was told that it would not.
    pub phantoms: Vec<String>,
    /// Arrived otherwise than it was sent, or twice as two different messages.
    pub altered: Vec<String>,
    /// Arrived more often than doubt about it was announced.
    pub unannounced: Vec<String>,
    pub panics: Vec<String>,
}

impl Checker {
    pub fn note_answer(&self, letter: Letter, answer: Answer) {
        self.logs.lock().answers.insert(letter.0, answer);
    }

    /// A 250, and how long after the end of data it came.
    pub fn note_acceptance(&self, letter: Letter, wait: Duration) {
        let mut logs = self.logs.lock();
        logs.answers.insert(letter.0, Answer::Accepted);
        logs.waits.push((Instant::now(), wait));
    }

    pub fn note_broken(&self) {
        self.logs.lock().broken += 1;
    }

    pub fn note_arrival(&self, recipient: &str, arrival: Arrival) {
        self.logs.lock().arrivals.entry(recipient.to_owned()).or_default().push(arrival);
    }

    pub fn note_doubt(&self, recipient: &str) {
        *self.logs.lock().doubts.entry(recipient.to_owned()).or_default() += 1;
    }

    pub fn note_panic(&self, line: &str) {
        self.logs.lock().panics.push(line.to_owned());
    }

    /// Arrivals between two moments.
    pub fn arrivals_between(&self, from: Instant, to: Instant) -> u64 {
        let logs = self.logs.lock();
        logs.arrivals.values().flatten().filter(|arrival| (from..=to).contains(&arrival.at)).count() as u64
    }

    /// How many clients have a 250.
    pub fn accepted(&self) -> u64 {
        let logs = self.logs.lock();
        logs.answers.values().filter(|answer| **answer == Answer::Accepted).count() as u64
    }

    /// How many clients have a 4xx or 5xx.
    pub fn refused(&self) -> u64 {
        let logs = self.logs.lock();
        logs.answers.values().filter(|answer| **answer == Answer::Refused).count() as u64
    }

    /// Addresses at which something has arrived.
    pub fn places(&self) -> usize {
        self.logs.lock().arrivals.len()
    }

    /// Whether something has arrived wherever a letter is to arrive.
    pub fn has_arrived(&self, letter: Letter) -> bool {
        let logs = self.logs.lock();
        letter.arrives_at().iter().all(|place| logs.arrivals.contains_key(place))
    }

    /// The status codes of the DSNs that came to a letter's sender.
    pub fn dsn_statuses(&self, letter: Letter) -> Vec<String> {
        let logs = self.logs.lock();
        let dsns = logs.arrivals.get(&letter.reverse_path());
        dsns.into_iter().flatten().flat_map(|dsn| dsn.statuses.clone()).collect()
    }

    /// The wait for a 250 that 99 of 100 clients did not exceed, of those told since `since`.
    pub fn p99(&self, since: Instant) -> Duration {
        let logs = self.logs.lock();
        let mut waits: Vec<Duration> =
            logs.waits.iter().filter(|(at, _)| *at >= since).map(|(_, wait)| *wait).collect();
        waits.sort_unstable();
        waits.get(waits.len() * 99 / 100).copied().unwrap_or_default()
    }

    /// Whether all that was acknowledged has arrived.
    pub fn is_settled(&self) -> bool {
        let logs = self.logs.lock();
        let accepted = logs.answers.iter().filter(|(_, answer)| **answer == Answer::Accepted);
        accepted.flat_map(|(number, _)| Letter(*number).arrives_at()).all(|place| logs.arrivals.contains_key(&place))
    }

    /// The check.
    pub fn verdict(&self) -> Verdict {
        let logs = self.logs.lock();
        let count = |wanted| logs.answers.values().filter(|answer| **answer == wanted).count() as u64;
        let mut verdict = Verdict {
            accepted: count(Answer::Accepted),
            unknown: count(Answer::Unknown),
            refused: count(Answer::Refused),
            doubts: logs.doubts.values().sum::<usize>() as u64,
            panics: logs.panics.clone(),
            broken: logs.broken,
            ..Verdict::default()
        };
        for (number, _) in logs.answers.iter().filter(|(_, answer)| **answer == Answer::Accepted) {
            let missing = Letter(*number).arrives_at().into_iter().filter(|place| !logs.arrivals.contains_key(place));
            verdict.lost.extend(missing);
        }
        for (place, arrivals) in &logs.arrivals {
            let letter = of_address(place);
            let answer = letter.and_then(|letter| logs.answers.get(&letter.0));
            let is_expected = letter.is_some_and(|letter| letter.arrives_at().contains(place));
            if !is_expected || !matches!(answer, Some(Answer::Accepted | Answer::Unknown)) {
                verdict.phantoms.push(format!("{place}: the client was told {answer:?}"));
            }
            if arrivals.iter().any(|arrival| !arrival.is_intact || arrival.id != arrivals[0].id) {
                verdict.altered.push(format!("{place}: {arrivals:?}"));
            }
            let (again, doubts) = (arrivals.len() - 1, logs.doubts.get(place).copied().unwrap_or_default());
            verdict.duplicates += again as u64;
            if again > doubts {
                verdict.unpredicted += (again - doubts) as u64;
                verdict.unannounced.push(format!("{place}: came {again} times again, in doubt {doubts} times"));
            }
        }
        verdict
    }
}
