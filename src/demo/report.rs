//! What the demonstration found, for people, and whether it may call itself a success.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::latency::Latencies;
use super::ledger::{Ledger, Tally};
use super::load::Submitted;
use super::receivers::Receiver;

/// Everything that was found.
#[derive(Debug)]
pub struct Report {
    tally: Tally,
    submitted: Submitted,
    octets: u64,
    took: Duration,
    /// Until 95 % of the arrivals had happened.
    bulk_took: Duration,
    acknowledged: Percentiles,
    arrived: Percentiles,
    sites: Vec<SiteLine>,
    left_in_queue: u64,
}

#[derive(Debug)]
struct Percentiles([Option<Duration>; 4]);

#[derive(Debug)]
struct SiteLine {
    domain: &'static str,
    character: String,
    connections: u64,
    refused_connections: u64,
    delivered: u64,
    deferred: u64,
    refused: u64,
    arrived: Percentiles,
}

impl Report {
    /// From what everybody noted. `left_in_queue`: recipients that the daemon still holds.
    pub fn new<'a>(
        ledger: &Ledger,
        submitted: Submitted,
        receivers: impl Iterator<Item = &'a Receiver>,
        left_in_queue: u64,
    ) -> Self {
        Self {
            tally: ledger.tally(),
            submitted,
            octets: ledger.octets(),
            took: ledger.elapsed(),
            bulk_took: ledger.time_of_arrivals(95),
            acknowledged: Percentiles::of(&ledger.acknowledged),
            arrived: Percentiles::of(&ledger.arrived),
            sites: receivers.map(SiteLine::of).collect(),
            left_in_queue,
        }
    }

    /// For programs: durations in seconds.
    pub fn json(&self) -> Value {
        let Tally { acknowledged, delivered, bounced, open, duplicated, altered } = self.tally;
        let site = |site: &SiteLine| {
            json!({
                "site": site.domain,
                "character": site.character,
                "connections": site.connections,
                "refused_connections": site.refused_connections,
                "delivered": site.delivered,
                "deferred": site.deferred,
                "refused": site.refused,
                "arrived": site.arrived.json(),
            })
        };
        json!({
            "success": self.is_success(),
            "accepted": acknowledged,
            "delivered": delivered,
            "bounced": bounced,
            "lost": open,
            "duplicated": duplicated,
            "altered": altered,
            "left_in_queue": self.left_in_queue,
            "unanswered": self.submitted.unknown,
            "retries": self.submitted.retries,
            "content_bytes": self.octets,
            "seconds": self.took.as_secs_f64(),
            "accepted_seconds": self.submitted.took.as_secs_f64(),
            "delivered_95_percent_seconds": self.bulk_took.as_secs_f64(),
            "end_of_data_to_250": self.acknowledged.json(),
            "submission_to_delivery": self.arrived.json(),
            "sites": self.sites.iter().map(site).collect::<Vec<_>>(),
        })
    }

    /// Nothing lost, nothing twice, nothing altered, nothing left behind.
    pub fn is_success(&self) -> bool {
        let Tally { open, duplicated, altered, .. } = self.tally;
        open == 0 && duplicated == 0 && altered == 0 && self.left_in_queue == 0 && self.submitted.unknown == 0
    }
}

impl Percentiles {
    fn of(latencies: &Latencies) -> Self {
        Self([50.0, 90.0, 99.0, 100.0].map(|percent| latencies.percentile(percent)))
    }

    fn json(&self) -> Value {
        let [p50, p90, p99, longest] = self.0.map(|duration| duration.map(|duration| duration.as_secs_f64()));
        json!({ "p50": p50, "p90": p90, "p99": p99, "longest": longest })
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for duration in self.0 {
            let text = duration.map_or_else(|| "-".to_owned(), brief);
            write!(f, "{text:>10}")?;
        }
        Ok(())
    }
}

impl SiteLine {
    fn of(receiver: &Receiver) -> Self {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &receiver.counts;
        Self {
            domain: receiver.site.domain,
            character: receiver.site.character.describe(),
            connections: read(&counts.connections),
            refused_connections: read(&counts.refused_connections),
            delivered: read(&counts.delivered),
            deferred: read(&counts.deferred),
            refused: read(&counts.refused),
            arrived: Percentiles::of(&receiver.arrived),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { acknowledged, delivered, bounced, open, duplicated, altered } = self.tally;
        writeln!(f, "{:<26}{:>10}{:>12}{:>16}{:>12}", "", "messages", "per second", "per hour", "in")?;
        rate(f, "accepted (synced to disk)", acknowledged, acknowledged, self.submitted.took)?;
        rate(f, "delivered", delivered, delivered * 95 / 100, self.bulk_took)?;
        writeln!(f, "{:<26}{bounced:>10}    each reported to its sender by a DSN", "bounced")?;
        writeln!(
            f,
            "\n{} of content; all of it done in {}. The rate of \"delivered\" is that\nof the first 95 %: the rest \
             waited for receivers that had turned it away.",
            octets(self.octets),
            brief(self.took)
        )?;
        if self.submitted.retries > 0 {
            writeln!(f, "{} submissions got a 4xx and were repeated.", self.submitted.retries)?;
        }

        writeln!(f, "\n{:<26}{:>10}{:>10}{:>10}{:>10}", "latency", "p50", "p90", "p99", "longest")?;
        writeln!(f, "{:<26}{}", "end of data to 250", self.acknowledged)?;
        writeln!(f, "{:<26}{}", "submission to delivery", self.arrived)?;

        self.write_sites(f)?;

        writeln!(
            f,
            "\nlost {open}, duplicated {duplicated}, altered {altered}, left in the queue {}, unanswered {}\n{}",
            self.left_in_queue,
            self.submitted.unknown,
            if self.is_success() { "every message accounted for by number and checksum" } else { "FAILED" }
        )
    }
}

impl Report {
    fn write_sites(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<20}{:>6}{:>6}{:>10}{:>9}{:>8}{:>10}{:>10}",
            "site", "conns", "421s", "delivered", "deferred", "refused", "p50", "p99"
        )?;
        for site in &self.sites {
            let [p50, _, p99, _] = site.arrived.0.map(|duration| duration.map_or_else(|| "-".to_owned(), brief));
            writeln!(
                f,
                "{:<20}{:>6}{:>6}{:>10}{:>9}{:>8}{p50:>10}{p99:>10}\n    {}",
                site.domain,
                site.connections,
                site.refused_connections,
                site.delivered,
                site.deferred,
                site.refused,
                site.character
            )?;
        }
        Ok(())
    }
}

fn rate(f: &mut fmt::Formatter<'_>, what: &str, count: u64, counted: u64, took: Duration) -> fmt::Result {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    let per_second = counted.saturating_mul(1_000) / millis;
    let per_hour = counted.saturating_mul(3_600_000) / millis;
    let per_hour = format!("{}.{:02} million", per_hour / 1_000_000, per_hour / 10_000 % 100);
    writeln!(f, "{what:<26}{count:>10}{per_second:>12}{per_hour:>16}{:>12}", brief(took))
}

/// Two or three digits and a unit.
fn brief(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..100_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        100_000..1_000_000 => format!("{:.0} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

fn octets(count: u64) -> String {
    match count {
        0..1_000_000 => format!("{} KB", count / 1_000),
        _ => format!("{} MB", count / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::demo::sites::SITES;

    fn report(ledger: &Ledger) -> Report {
        let submitted = Submitted { took: Duration::from_secs(2), ..Submitted::default() };
        Report::new(ledger, submitted, std::iter::empty(), 0)
    }

    #[test]
    fn lost_and_duplicated_messages_fail_it() {
        let ledger = Ledger::new(2);
        ledger.note_acknowledged(0, Duration::from_millis(1));
        assert!(!report(&ledger).is_success());

        ledger.note_arrival(0, true);
        assert!(report(&ledger).is_success());

        ledger.note_arrival(0, true);
        assert!(!report(&ledger).is_success());
        assert!(report(&ledger).to_string().contains("duplicated 1"));
    }

    #[test]
    fn no_line_is_wider_than_80_columns() {
        let ledger = Arc::new(Ledger::new(10_000));
        ledger.note_acknowledged(0, Duration::from_millis(1));
        let receivers: Vec<Receiver> =
            SITES.iter().map(|site| Receiver::new(*site, Arc::clone(&ledger), 10_000)).collect();
        let submitted = Submitted { took: Duration::from_secs(2), retries: 1_000, ..Submitted::default() };

        let text = Report::new(&ledger, submitted, receivers.iter(), 0).to_string();

        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn rates_are_per_second_and_per_hour() {
        let ledger = Ledger::new(4_000);
        for number in 0..4_000 {
            ledger.note_acknowledged(number, Duration::from_millis(1));
        }

        let text = report(&ledger).to_string();

        assert!(text.contains("2000    7.20 million"), "{text}");
    }
}
