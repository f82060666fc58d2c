//! What a bench found.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::cli::exit::{self, Exit};
use crate::cli::table::{octets, thousands};
use crate::cli::{out, print_json};
use crate::demo::latency::Latencies;
use crate::demo::ledger::Ledger;
use crate::demo::load::Submitted;

/// Figures for people and programs.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    messages: u64,
    sessions: u32,
    /// Octets of a message.
    size: u64,
    domains: u32,
    seconds: f64,
    messages_per_second: f64,
    /// CPU time of the daemon for each message, in microseconds; absent: not known.
    cpu_us_per_message: Option<f64>,
    /// From the end of data to its 250.
    end_of_data_ms: Percentiles,
    /// From the end of data of the submission to that at the sink; absent: there was no sink.
    delivery_ms: Option<Percentiles>,
    /// 4xx replies that were followed by another try.
    retries: u64,
    /// End of data that was not answered.
    unanswered: u64,
    lost: u64,
    duplicated: u64,
    altered: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
    most: f64,
}

impl Percentiles {
    fn of(latencies: &Latencies) -> Self {
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
        let at = |percent| latencies.percentile(percent).map_or(0.0, millis);
        Self { p50: at(50.0), p99: at(99.0), most: millis(latencies.longest()) }
    }
}

impl Report {
    /// Of load, daemon and sink.
    pub(super) fn new(
        ledger: &Ledger,
        submitted: Submitted,
        took: Duration,
        cpu: Option<Duration>,
        sessions: u32,
        size: u64,
        domains: u32,
    ) -> Self {
        let tally = ledger.tally();
        let cpu = cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / (tally.acknowledged.max(1) as f64));
        Self {
            cpu_us_per_message: cpu,
            delivery_ms: Some(Percentiles::of(&ledger.arrived)),
            lost: tally.open,
            duplicated: tally.duplicated,
            altered: tally.altered,
            ..Self::sent(ledger, submitted, took, sessions, size, domains)
        }
    }

    /// Of a load alone.
    pub(super) fn sent(
        ledger: &Ledger,
        submitted: Submitted,
        took: Duration,
        sessions: u32,
        size: u64,
        domains: u32,
    ) -> Self {
        let (messages, seconds) = (ledger.tally().acknowledged, took.as_secs_f64());
        Self {
            messages,
            sessions,
            size,
            domains,
            seconds,
            messages_per_second: messages as f64 / seconds.max(1e-9),
            end_of_data_ms: Percentiles::of(&ledger.acknowledged),
            retries: submitted.retries,
            unanswered: submitted.unknown,
            ..Self::default()
        }
    }

    /// Prints it; a problem if anything went wrong.
    pub(super) fn tell(&self, is_json: bool) -> exit::Result {
        if is_json {
            print_json(self)?;
        } else {
            out::write(self.text().as_bytes())?;
        }
        let is_right = self.lost == 0 && self.duplicated == 0 && self.altered == 0 && self.unanswered == 0;
        Ok(if is_right { Exit::Ok } else { Exit::Problem })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} messages of {} to {} domains over {} sessions in {:.1} s\n\n",
            thousands(self.messages),
            octets(self.size),
            self.domains,
            self.sessions,
            self.seconds
        );
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<32}{value}");
        };
        line("messages a second", format!("{:.0}", self.messages_per_second));
        if let Some(cpu) = self.cpu_us_per_message {
            line("CPU of the daemon a message", format!("{cpu:.0} us"));
        }
        let percentiles = |Percentiles { p50, p99, most }: Percentiles| {
            format!("p50 {p50:.1} ms, p99 {p99:.1} ms, longest {most:.1} ms")
        };
        line("end of data to 250", percentiles(self.end_of_data_ms));
        if let Some(delivery) = self.delivery_ms {
            line("submission to delivery", percentiles(delivery));
            let counts = [self.lost, self.duplicated, self.altered].map(thousands);
            line("lost / duplicated / altered", counts.join(" / "));
        }
        if self.retries + self.unanswered > 0 {
            line("4xx and tried again", thousands(self.retries));
            line("end of data unanswered", thousands(self.unanswered));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_a_problem() {
        let ledger = Ledger::new(3);
        for number in 0..3 {
            ledger.note_acknowledged(number, Duration::from_millis(2));
        }
        ledger.note_arrival(0, true);
        ledger.note_arrival(1, true);
        let report = |ledger: &Ledger| {
            let cpu = Some(Duration::from_micros(300));
            Report::new(ledger, Submitted::default(), Duration::from_secs(1), cpu, 1, 10_000, 1)
        };

        let lost = report(&ledger);
        assert!(lost.text().contains("1 / 0 / 0") && lost.text().contains("100 us"), "{}", lost.text());
        assert_eq!(lost.tell(true).unwrap(), Exit::Problem);
        ledger.note_arrival(2, true);
        assert_eq!(report(&ledger).tell(true).unwrap(), Exit::Ok);
    }
}
