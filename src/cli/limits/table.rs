//! Tables of `limits show` and `limits history`.

use serde::Deserialize;

use crate::cli::table::{Table, below, extra, long, number, span, text};

/// Fields as in [`crate::queue::limit_views::PathLimits`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Path {
    pub source: String,
    pub site: String,
    pub is_in_memory: bool,
    pub phase: String,
    pub rate_per_minute: Option<f64>,
    pub limit_per_minute: Option<f64>,
    pub connections: u32,
    pub used_connections: u32,
    pub connection_limit: Option<u32>,
    pub messages_per_connection: Option<u32>,
    pub hourly_cap: Option<u32>,
    pub paused_seconds: Option<f64>,
    pub is_resting: bool,
    pub pins: Vec<Pin>,
    pub last_change: Option<Change>,
}

/// Fields as in [`crate::queue::limit_views::PinView`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pin {
    pub limit: String,
    pub source: Option<String>,
    pub least: Option<f64>,
    pub most: Option<f64>,
    pub by: String,
    pub reason: String,
}

/// Fields as in [`crate::queue::limit_views::ChangeView`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Change {
    pub id: u32,
    pub at: u64,
    pub source: String,
    pub site: String,
    pub limit: String,
    pub from: Option<f64>,
    pub to: Option<f64>,
    pub reason: String,
}

/// A number as people read it; None: no limit.
pub(super) fn limit(value: Option<f64>) -> String {
    match value {
        None => "none".to_owned(),
        Some(value) if value.fract() == 0.0 || value >= 1_000.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.1}"),
    }
}

impl Pin {
    /// What is pinned, to what, by whom and why.
    pub fn told(&self) -> String {
        let Self { limit: what, source, least, most, by, reason } = self;
        let from = source.as_ref().map(|source| format!(" from {source}")).unwrap_or_default();
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        format!("{what}{from} {}, pinned by {by}{why}", bounds(*least, *most))
    }

    /// Whether this change is that it was set.
    fn is_told_by(&self, change: &Change) -> bool {
        change.limit == self.limit && self.told().ends_with(&format!(", {}", change.reason))
    }
}

fn bounds(least: Option<f64>, most: Option<f64>) -> String {
    match (least, most) {
        (Some(least), Some(most)) if (least - most).abs() < f64::EPSILON => format!("is {}", limit(Some(most))),
        (Some(least), Some(most)) => format!("is between {} and {}", limit(Some(least)), limit(Some(most))),
        (Some(least), None) => format!("is at least {}", limit(Some(least))),
        (None, most) => format!("is at most {}", limit(most)),
    }
}

impl Path {
    fn state(&self) -> String {
        let left = self.paused_seconds.map(|seconds| span(super::super::site::whole(seconds)));
        match left {
            Some(left) if self.is_resting => format!("rests {left}"),
            Some(left) => format!("paused {left}"),
            None if self.is_in_memory => self.phase.clone(),
            None => "not in use".to_owned(),
        }
    }

    /// The pins and the last change, or why it rests.
    fn why(&self) -> String {
        let pins = self.pins.iter().map(Pin::told);
        let is_news = |change: &&Change| !self.pins.iter().any(|pin| pin.is_told_by(change));
        let change = self.last_change.iter().filter(is_news).map(|change| change.reason.clone());
        let rest = (self.is_resting && self.last_change.is_none()).then(|| {
            "rests since before the start: `hikyaku journal search --event limit` has what the receiver said".to_owned()
        });
        pins.chain(change).chain(rest).collect::<Vec<_>>().join("; ")
    }
}

/// Of a measured limit, if there is one.
fn of(now: String, limit: Option<String>) -> String {
    limit.map_or_else(|| now.clone(), |limit| format!("{now} of {limit}"))
}

pub(super) fn path_table(paths: &[Path], now: u64) -> Table {
    let mut table = Table::new(&[
        long("SITE"),
        long("SOURCE"),
        text("STATE"),
        number("A MINUTE"),
        number("CONNS"),
        number("PER CONN"),
        extra("AN HOUR"),
        text("PIN"),
        extra("CHANGED"),
        below("WHY"),
    ]);
    for path in paths {
        let measured = path.limit_per_minute.map(|measured| limit(Some(measured)));
        let connections = format!("{}/{}", path.used_connections, path.connections);
        let changed = path.last_change.as_ref().map(|change| format!("{} ago", span(now.saturating_sub(change.at))));
        table.row([
            path.site.clone(),
            path.source.clone(),
            path.state(),
            of(limit(path.rate_per_minute), measured),
            of(connections, path.connection_limit.map(|limit| limit.to_string())),
            limit(path.messages_per_connection.map(f64::from)),
            path.hourly_cap.map(|cap| cap.to_string()).unwrap_or_default(),
            if path.pins.is_empty() { String::new() } else { "yes".to_owned() },
            changed.unwrap_or_default(),
            path.why(),
        ]);
    }
    table
}

pub(super) fn change_table(changes: &[Change], now: u64) -> Table {
    let mut table = Table::new(&[
        number("ID"),
        number("AGO"),
        long("SITE"),
        long("SOURCE"),
        long("LIMIT"),
        number("FROM"),
        number("TO"),
        below("WHY"),
    ]);
    for change in changes {
        table.row([
            change.id.to_string(),
            span(now.saturating_sub(change.at)),
            change.site.clone(),
            change.source.clone(),
            change.limit.clone(),
            limit(change.from),
            limit(change.to),
            change.reason.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tables_fit_80_columns_and_tell_the_reply() {
        let change = Change {
            id: 1_000,
            source: "a-source-with-a-long-name".to_owned(),
            site: "mx1.a-provider.example,mx2.a-provider.example".to_owned(),
            limit: "messages-per-connection".to_owned(),
            from: Some(12_345.6),
            to: None,
            reason: "rate 95.0/min = 0.95 x 100.0/min (421 4.7.28 \u{1b}[31munusual rate)".to_owned(),
            ..Change::default()
        };
        let path = Path {
            source: change.source.clone(),
            site: change.site.clone(),
            phase: "hold".to_owned(),
            rate_per_minute: Some(118.2),
            limit_per_minute: Some(120.0),
            connections: 20,
            used_connections: 12,
            connection_limit: Some(20),
            messages_per_connection: Some(1_000),
            paused_seconds: Some(1_860.0),
            is_resting: true,
            last_change: Some(change.clone()),
            ..Path::default()
        };

        for text in [path_table(&[path], 9_000).render(Some(80)), change_table(&[change], 9_000).render(Some(80))] {
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
            assert!(text.contains("421 4.7.28 \\u{1b}") && text.contains("a-sou"), "{text}");
        }
    }

    #[test]
    fn a_pin_that_is_the_last_change_is_told_once() {
        let pin = Pin { limit: "rate".to_owned(), most: Some(60.0), by: "uid 0".to_owned(), ..Pin::default() };
        for (reason, said) in [("y", "pinned by uid 0: y"), ("", "pinned by uid 0")] {
            let change = Change { limit: "rate".to_owned(), reason: said.to_owned(), ..Change::default() };
            let other = Change { limit: "connections".to_owned(), reason: "3 refused".to_owned(), ..Change::default() };
            let pins = vec![Pin { reason: reason.to_owned(), ..pin.clone() }];
            let why = |change| Path { pins: pins.clone(), last_change: Some(change), ..Path::default() }.why();

            assert_eq!(why(change), format!("rate is at most 60, {said}"));
            assert_eq!(why(other), format!("rate is at most 60, {said}; 3 refused"));
        }
    }

    #[test]
    fn a_pin_is_told_with_its_bounds() {
        let pin = |least, most| {
            let (limit, by, reason) = ("rate".to_owned(), "ops".to_owned(), "why".to_owned());
            Pin { limit, source: None, least, most, by, reason }.told()
        };

        assert_eq!(pin(Some(120.0), Some(120.0)), "rate is 120, pinned by ops: why");
        assert_eq!(pin(Some(0.5), Some(120.0)), "rate is between 0.5 and 120, pinned by ops: why");
        assert_eq!(
            (pin(None, Some(1.0)), pin(Some(1.0), None)),
            ("rate is at most 1, pinned by ops: why".to_owned(), "rate is at least 1, pinned by ops: why".to_owned())
        );
    }
}
