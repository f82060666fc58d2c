//! `hikyaku limits explain`: why mail for an address goes as fast as it does.

use serde::Deserialize;
use serde_json::Value;

use super::table::limit;
use crate::cli::client::escaped;
use crate::cli::exit::Exit;
use crate::cli::table::{Table, below, long, number, plain, span, text};
use crate::cli::{Remote, exit, out, print_json};

/// Options of `limits explain`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Explain {
    /// The recipient's address, or its domain
    address: String,
    /// Mail of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Of this campaign of the tenant
    #[arg(long, requires = "tenant")]
    campaign: Option<String>,
    /// From this egress source [default: from those of the tenant's pool]
    #[arg(long)]
    source: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Fields as in [`crate::queue::limit_views::Explained`].
#[derive(Default, Deserialize)]
#[serde(default)]
struct Explained {
    domain: String,
    site: String,
    sources: Vec<String>,
    limits: Vec<Line>,
}

/// Fields as in [`crate::queue::limit_views::ScopeLimit`].
#[derive(Default, Deserialize)]
#[serde(default)]
struct Line {
    scope: String,
    of: String,
    what: String,
    most: Option<f64>,
    per_seconds: Option<f64>,
    set_by: String,
    used: Option<u64>,
    room: Option<u64>,
    room_in_seconds: Option<f64>,
    waits_for: Option<String>,
}

impl Explain {
    pub async fn execute(self) -> exit::Result {
        let values = [("tenant", &self.tenant), ("campaign", &self.campaign), ("source", &self.source)];
        let given = values.iter().filter_map(|(key, value)| Some((key, value.as_deref()?)));
        let more: String = given.map(|(key, value)| format!("&{key}={}", escaped(value))).collect();
        let path = format!("/v1/limits/explain?address={}{more}", escaped(&self.address));
        let answer: Value = self.remote.get(&path).await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let Explained { domain, site, sources, limits } = serde_json::from_value(answer)?;
        out::line(plain(&format!("mail for {domain} goes to {site} from {}", sources.join(", "))))?;
        out::line("all of these must have room:\n")?;
        table(&limits).print()?;
        Ok(Exit::Ok)
    }
}

impl Line {
    fn value(&self) -> String {
        match self.per_seconds {
            _ if self.what == "anything" => "no limit".to_owned(),
            Some(per) if self.most.is_some() => format!("{}/{}", limit(self.most), period(per)),
            _ => limit(self.most),
        }
    }

    fn room(&self) -> String {
        let waits = self.waits_for.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default();
        match (self.room_in_seconds, self.room, self.used) {
            (Some(seconds), ..) if seconds > 0.0 => format!("in {}{waits}", span(super::super::site::whole(seconds))),
            (None, None, _) if self.waits_for.is_some() => format!("none now{waits}"),
            (Some(_), None, _) => "now".to_owned(),
            (_, Some(room), Some(used)) => format!("{room}, {used} in use"),
            (_, Some(room), None) => room.to_string(),
            (None, None, _) => String::new(),
        }
    }
}

/// A period as rates have it.
fn period(seconds: f64) -> String {
    let known = [(1.0, "s"), (60.0, "min"), (3_600.0, "h"), (86_400.0, "d")];
    let found = known.iter().find(|(length, _)| (length - seconds).abs() < 0.5);
    found.map_or_else(|| format!("{seconds} s"), |(_, name)| (*name).to_owned())
}

fn table(lines: &[Line]) -> Table {
    let columns = [text("SCOPE"), long("OF"), text("LIMIT"), number("MOST"), text("ROOM NOW"), below("SET BY")];
    let mut table = Table::new(&columns);
    for line in lines {
        table.row([
            line.scope.clone(),
            line.of.clone(),
            line.what.clone(),
            line.value(),
            line.room(),
            line.set_by.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_in_80_columns_with_room_and_who_set_them() {
        let lines: Vec<Line> = serde_json::from_value(serde_json::json!([
            {"scope": "global", "of": "everything", "what": "connections", "most": 20_000, "used": 3, "room": 19_997,
                "set_by": "[limits]"},
            {"scope": "source at site", "of": "a-source at mx1.example.com,mx2.example.com", "what": "messages",
                "most": 114.25, "per_seconds": 60.0, "room_in_seconds": 1.5, "waits_for": "pause",
                "set_by": "learnt: 421 4.7.28 \u{1b}[31m unusual rate"},
            {"scope": "tenant", "of": "shop", "what": "messages", "most": 5, "per_seconds": 90.0, "room": 4},
            {"scope": "source at site", "of": "x", "what": "messages", "waits_for": "gate"},
            {"scope": "campaign", "of": "spring of shop", "what": "anything"},
        ]))
        .unwrap();

        let text = table(&lines).render(Some(80));

        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in ["19997, 3 in use", "114.2/min", "in 2s (pause)", "5/90 s", "none now (gate)", "no limit"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("421 4.7.28 \\u{1b}"), "{text}");
    }
}
