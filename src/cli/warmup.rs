//! `hikyaku warmup`: how far the warm-ups of egress sources are, and having one pause or go on.

use anyhow::anyhow;
use serde::Deserialize;
use serde_json::Value;

use super::client::escaped;
use super::exit::{Exit, Failure};
use super::orders::operator;
use super::patience::patiently;
use super::table::{Table, below, extra, long, number, plain, span, text};
use super::{Remote, exit, now, out, print_json};
use crate::admin::{LONGEST_PAUSE, SteerRequest};
use crate::config::units::Span;
use crate::limit::warmup::days;
use crate::state::check_text;

/// Sub-commands of `warmup`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Warmup {
    /// Show each warm-up: the day, its volume, what went, what has no room, bad replies
    Show(Show),
    /// Have one pause: nothing more goes from the source to the provider
    Pause(Pause),
    /// Have one go on that pauses, by itself or because somebody wanted it
    Resume(Resume),
}

/// Options of `warmup show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Only of this egress source
    #[arg(long)]
    source: Option<String>,
    /// Only at this provider
    #[arg(long)]
    provider: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `warmup pause`.
#[derive(Debug, clap::Args)]
pub(super) struct Pause {
    #[command(flatten)]
    which: Which,
    /// So long, such as 24h [default: until it is resumed]
    #[arg(long = "for", value_name = "SPAN")]
    lasts: Option<Span>,
    /// Why: shown by `warmup show` and in the journal
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `warmup resume`.
#[derive(Debug, clap::Args)]
pub(super) struct Resume {
    #[command(flatten)]
    which: Which,
    /// Why: shown in the journal
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

/// Which warm-up.
#[derive(Debug, clap::Args)]
struct Which {
    /// The egress source
    source: String,
    /// The provider, or `default`
    provider: String,
}

/// Fields as in [`crate::queue::warmup_views::WarmupView`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Plan {
    source: String,
    provider: String,
    state: String,
    start: String,
    day: u32,
    days: u32,
    held_days: u32,
    volume: Option<u32>,
    sent: u32,
    room: Option<u32>,
    waits_for: Option<String>,
    room_in_seconds: Option<f64>,
    overflow: Option<String>,
    overflowed: u32,
    held: u64,
    bad: u32,
    replies: u32,
    last_bad: String,
    pause: Option<Paused>,
    next_day: u64,
}

/// Fields as in [`crate::queue::warmup_views::PauseView`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Paused {
    by: Option<String>,
    reason: String,
    until: Option<u64>,
}

impl Warmup {
    pub(super) async fn execute(self) -> exit::Result {
        match self {
            Self::Show(show) => show.execute().await,
            Self::Pause(Pause { which, lasts, reason, remote }) => {
                let seconds = lasts.map(pause_seconds).transpose()?;
                steer("/v1/warmup/pause", which.request(seconds, reason)?, &remote).await
            }
            Self::Resume(Resume { which, reason, remote }) => {
                steer("/v1/warmup/resume", which.request(None, reason)?, &remote).await
            }
        }
    }
}

/// A pause that is as long as the daemon would take.
fn pause_seconds(lasts: Span) -> Result<u64, Failure> {
    let longest = LONGEST_PAUSE.as_secs();
    let seconds = lasts.0.as_secs();
    let allowed = || Failure::usage(anyhow!("--for: {lasts} is no such time; allowed: 1s to {}", Span(LONGEST_PAUSE)));
    if (1..=longest).contains(&seconds) { Ok(seconds) } else { Err(allowed()) }
}

impl Which {
    fn request(self, seconds: Option<u64>, reason: String) -> Result<SteerRequest, Failure> {
        check_text("reason", &reason).map_err(|error| Failure::usage(anyhow!("--{error}")))?;
        Ok(SteerRequest { source: self.source, provider: self.provider, seconds, reason, by: operator() })
    }
}

async fn steer(path: &str, request: SteerRequest, remote: &Remote) -> exit::Result {
    let answer: Value = patiently("waiting for the daemon", remote.client().post(path, &request)).await?;
    if remote.json {
        return print_json(&answer);
    }
    let plan: Plan = serde_json::from_value(answer)?;
    let said = format!("warm-up of {} at {}: {}", plan.source, plan.provider, plan.state);
    let why = plan.why(now());
    out::line(plain(&if why.is_empty() { said } else { format!("{said}; {why}") }))?;
    Ok(Exit::Ok)
}

impl Show {
    async fn execute(self) -> exit::Result {
        let values = [("source", &self.source), ("provider", &self.provider)];
        let given = values.iter().filter_map(|(key, value)| Some((key, value.as_deref()?)));
        let query: Vec<String> = given.map(|(key, value)| format!("{key}={}", escaped(value))).collect();
        let answer: Value = self.remote.get(&format!("/v1/warmup?{}", query.join("&"))).await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let plans: Vec<Plan> = serde_json::from_value(answer)?;
        if plans.is_empty() {
            out::line("no such warm-up is configured: [[warmup]]")?;
        } else {
            table(&plans, now()).print()?;
        }
        Ok(Exit::Ok)
    }
}

impl Plan {
    fn day(&self) -> String {
        match self.state.as_str() {
            "waiting" => format!("from {}", self.start),
            "done" => format!("all {}", self.days),
            _ => format!("{} of {}", self.day, self.days),
        }
    }

    fn volume(&self) -> String {
        self.volume.map_or_else(|| "no limit".to_owned(), |volume| volume.to_string())
    }

    /// Why nothing goes, when it will, and what was bad.
    fn why(&self, now: u64) -> String {
        let mut parts = Vec::new();
        if let Some(Paused { by, reason, until }) = &self.pause {
            let who = by.as_ref().map_or_else(|| "by itself".to_owned(), |by| format!("by {by}"));
            let end = match until {
                Some(until) => format!("for {} more", span(until.saturating_sub(now))),
                None => "until it is resumed".to_owned(),
            };
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            parts.push(format!("paused {who} {end}{reason}"));
        } else if let Some(waits) = &self.waits_for {
            let left = self.room_in_seconds.map(|seconds| format!(", {} more", span(super::site::whole(seconds))));
            parts.push(format!("{waits}{}", left.unwrap_or_default()));
        }
        if self.held_days > 0 {
            let held = days(usize::try_from(self.held_days).unwrap_or(usize::MAX));
            parts.push(format!("{held} did not count, being paused"));
        }
        if self.pause.is_none() && !self.last_bad.is_empty() && self.bad > 0 {
            parts.push(format!("{} of {} replies were bad, the last one: {}", self.bad, self.replies, self.last_bad));
        }
        parts.join("; ")
    }

    fn bad(&self) -> String {
        match self.replies {
            0 => "-".to_owned(),
            replies => format!("{:.1}%", f64::from(self.bad) * 100.0 / f64::from(replies)),
        }
    }
}

fn table(plans: &[Plan], now: u64) -> Table {
    let mut table = Table::new(&[
        long("SOURCE"),
        long("PROVIDER"),
        text("STATE"),
        text("DAY"),
        number("SENT"),
        number("VOLUME"),
        extra("ROOM"),
        number("OVERFLOW"),
        number("HELD"),
        text("BAD"),
        extra("BEYOND IT"),
        extra("NEXT DAY"),
        below("WHY"),
    ]);
    for plan in plans {
        let beyond = plan.overflow.as_ref().map_or_else(|| "waits".to_owned(), |overflow| format!("by {overflow}"));
        table.row([
            plan.source.clone(),
            plan.provider.clone(),
            plan.state.clone(),
            plan.day(),
            plan.sent.to_string(),
            plan.volume(),
            plan.room.map_or_else(|| "no limit".to_owned(), |room| room.to_string()),
            plan.overflowed.to_string(),
            plan.held.to_string(),
            plan.bad(),
            beyond,
            format!("in {}", span(plan.next_day.saturating_sub(now))),
            plan.why(now),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            source: "b1".to_owned(),
            provider: "google".to_owned(),
            state: "running".to_owned(),
            start: "2026-12-01".to_owned(),
            day: 3,
            days: 30,
            volume: Some(1_000_000),
            sent: 999_999,
            overflow: Some("a1".to_owned()),
            overflowed: 123_456,
            held: 99_999,
            replies: 10_000,
            bad: 130,
            last_bad: "421 4.7.28 \u{1b}[31munusual rate".to_owned(),
            ..Plan::default()
        }
    }

    #[test]
    fn the_table_fits_80_columns_and_is_harmless() {
        let shown = table(&[plan()], 1_000).render(Some(80));

        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        for part in ["3 of 30", "1.3%", "130 of 10000 replies were bad, the last one: 421 4.7.28"] {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn a_pause_is_told_with_who_why_and_how_long() {
        let pause = |by: Option<&str>, until| {
            let by = by.map(str::to_owned);
            Plan { pause: Some(Paused { by, reason: "why".to_owned(), until }), held_days: 2, ..plan() }
        };

        let own = pause(None, Some(4_600)).why(1_000);
        let of_somebody = pause(Some("ops (uid 0)"), None).why(1_000);

        assert!(own.starts_with("paused by itself for 1h") && own.contains(": why; 2 days did not count"), "{own}");
        assert!(of_somebody.starts_with("paused by ops (uid 0) until it is resumed: why"), "{of_somebody}");
        let one = Plan { held_days: 1, ..plan() }.why(1_000);
        assert!(one.contains("1 day did not count"), "{one}");
        let waiting = Plan { state: "waiting".to_owned(), ..plan() };
        assert_eq!(
            (waiting.day(), Plan { state: "done".to_owned(), ..plan() }.day()),
            ("from 2026-12-01".into(), "all 30".into())
        );
    }
}
