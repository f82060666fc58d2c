//! What is seen of the receiver that limits while the demonstration stays up: what it allows, what the daemon has found out, and
//! what gets through.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::feed::Fed;
use super::strict::{Counts, Strict};
use crate::queue::limit_views::{ChangeView, PathLimits};
use crate::simulate::Time;

/// Over this it is told how much gets through, as limits are.
const WINDOW: Duration = Duration::from_secs(60);

/// One look.
#[derive(Clone, Debug)]
pub struct Look {
    /// Since the stream began.
    pub after: Duration,
    /// What the receiver allows a minute, and of connections.
    truth: (f64, u32),
    /// What the daemon goes by.
    found: Option<PathLimits>,
    /// Accepted in the last minute.
    delivered: u64,
    counts: Counts,
    submitted: u64,
}

impl Look {
    /// At a receiver, with what the daemon has learnt about it; mail for it began to come at `began`.
    pub fn at(strict: &Strict, began: Time, now: Time, fed: &Fed, found: Option<PathLimits>) -> Self {
        let rules = strict.rules();
        let minute = Time::try_from(WINDOW.as_nanos()).unwrap_or(Time::MAX);
        Self {
            after: Duration::from_nanos(now.saturating_sub(began)),
            truth: (rules.rate_per_minute, rules.connections),
            found,
            delivered: strict.accepted_between(now.saturating_sub(minute), now),
            counts: strict.counts(),
            submitted: fed.submitted.load(Ordering::Relaxed),
        }
    }

    /// For programs: an object that has `limited`.
    pub fn json(&self) -> Value {
        let Counts { accepted, throttled, duplicated, altered, open, .. } = self.counts;
        let found = self.found.as_ref().map(|found| {
            json!({
                "phase": state(found),
                "rate_per_minute": found.rate_per_minute,
                "limit_per_minute": found.limit_per_minute,
                "connections": found.connections,
                "connection_limit": found.connection_limit,
                "last_change": found.last_change.as_ref().map(|change| &change.reason),
            })
        });
        json!({ "limited": {
            "seconds": self.after.as_secs_f64(),
            "receiver": { "rate_per_minute": self.truth.0, "connections": self.truth.1 },
            "daemon": found,
            "delivered_in_the_last_minute": self.delivered,
            "open_connections": open,
            "refusals": throttled,
            "submitted": self.submitted,
            "accepted": accepted,
            "duplicated": duplicated,
            "altered": altered,
        }})
    }
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, connections) = self.truth;
        write!(f, "{}", Moment(self.after))?;
        match &self.found {
            Some(found) => {
                let allowed = found.rate_per_minute.map_or("any".to_owned(), |rate| format!("{rate:.0}"));
                write!(f, " {:<6} {allowed:>4} of {rate:.0}/min, ", state(found))?;
                write!(f, "{} of {connections} connections,", found.connections)?;
            }
            None => write!(f, " nothing is known yet,")?,
        }
        write!(f, " took {} in 60 s, {} refused", self.delivered, self.counts.throttled)
    }
}

/// What its last change was, as a line for people.
pub fn told(change: &ChangeView, after: Duration) -> String {
    format!("{} {}", Moment(after), change.reason)
}

fn state(found: &PathLimits) -> &'static str {
    match found {
        PathLimits { is_resting: true, .. } => "rests",
        PathLimits { paused_seconds: Some(_), .. } => "paused",
        found => found.phase,
    }
}

/// Minutes and seconds.
struct Moment(Duration);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        write!(f, "{:>3}:{:02}", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::demo::sites;

    fn look(found: PathLimits) -> Look {
        let strict = Strict::new(sites::limited(), "limited.test", Instant::now(), 1, 1);
        let minutes = 123 * 60 * 1_000_000_000;
        Look::at(&strict, 0, minutes, &Fed::default(), Some(found))
    }

    #[test]
    fn a_line_has_room_on_a_terminal_of_80_columns() {
        let found = PathLimits {
            phase: "hold",
            rate_per_minute: Some(1_234.5),
            connections: 20,
            paused_seconds: Some(1.0),
            ..PathLimits::default()
        };

        let line = look(found).to_string();

        assert_eq!(line, "123:00 paused 1234 of 240/min, 20 of 5 connections, took 0 in 60 s, 0 refused");
        assert!(line.len() <= 80, "{}", line.len());
    }

    #[test]
    fn what_the_daemon_goes_by_stands_beside_what_the_receiver_allows() {
        let found = PathLimits { phase: "probe", connections: 4, connection_limit: Some(5), ..PathLimits::default() };

        let json = look(found).json();

        let limited = &json["limited"];
        assert_eq!(limited["receiver"], json!({ "rate_per_minute": 240.0, "connections": 5 }));
        assert_eq!(limited["daemon"]["phase"], "probe");
        assert_eq!((&limited["daemon"]["connections"], &limited["daemon"]["connection_limit"]), (&4.into(), &5.into()));
        assert!(limited["daemon"]["rate_per_minute"].is_null(), "no limit");
    }
}
