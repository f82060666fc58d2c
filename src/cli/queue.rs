//! `hikyaku queue`: what waits to be delivered, and why. `sites` counts, `list` shows single recipients.
//!
//! The answers are read field by field with defaults, so a newer or older daemon can be asked as well.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::Value;

use super::client::escaped;
use super::exit::Exit;
use super::table::{Table, long, number, span, text, thousands};
use super::{Remote, exit, print_json};

/// Sub-commands of `queue`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Queue {
    /// List queued recipients: ready ones first, then those that wait for DNS or for their time
    List(List),
    /// Count by site: what is ready, what waits for its time, connections, back-off, last reply
    Sites(Sites),
}

/// Options of `queue list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Only of this recipient domain
    #[arg(long)]
    domain: Option<String>,
    /// Only of this site (a provider's name, an MX set or a domain, as `queue sites` shows it)
    #[arg(long)]
    site: Option<String>,
    /// Only of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only of this recipient address
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `queue sites`.
#[derive(Debug, clap::Args)]
pub(super) struct Sites {
    /// Only this site
    #[arg(long)]
    site: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

impl Queue {
    pub(super) async fn execute(self) -> exit::Result {
        match self {
            Self::List(list) => list.execute().await,
            Self::Sites(sites) => sites.execute().await,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    message_id: String,
    recipient: u32,
    domain: String,
    site: Option<String>,
    tenant: String,
    campaign: String,
    state: String,
    attempts: u16,
    accepted: u64,
    due: u64,
}

impl List {
    async fn execute(self) -> exit::Result {
        let mut path = format!("/v1/queue/entries?limit={}", self.limit);
        let Self { domain, site, tenant, recipient, .. } = &self;
        for (name, value) in [("domain", domain), ("site", site), ("tenant", tenant), ("recipient", recipient)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", escaped(value)));
            }
        }
        let answer: Value = self.remote.client().get(&path).await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let entries: Vec<Entry> = serde_json::from_value(answer)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let table = entry_table(&entries, now);
        if table.is_empty() {
            println!("nothing is queued{}", if self.is_filtered() { " that matches" } else { "" });
        } else {
            table.print();
        }
        if entries.len() == self.limit {
            eprintln!("cut at --limit {}", self.limit);
        }
        Ok(Exit::Ok)
    }

    fn is_filtered(&self) -> bool {
        [&self.domain, &self.site, &self.tenant, &self.recipient].into_iter().any(Option::is_some)
    }
}

fn entry_table(entries: &[Entry], now: u64) -> Table {
    let mut table = Table::new(&[
        text("MESSAGE"),
        number("RCPT"),
        long("DOMAIN"),
        long("SITE"),
        long("TENANT"),
        long("CAMPAIGN"),
        text("STATE"),
        number("ATTEMPTS"),
        number("AGE"),
        number("DUE IN"),
    ]);
    for entry in entries {
        let due = if entry.due > now { span(entry.due - now) } else { "now".to_owned() };
        table.row([
            entry.message_id.clone(),
            entry.recipient.to_string(),
            entry.domain.clone(),
            entry.site.clone().unwrap_or_default(),
            entry.tenant.clone(),
            entry.campaign.clone(),
            entry.state.clone(),
            entry.attempts.to_string(),
            span(now.saturating_sub(entry.accepted)),
            due,
        ]);
    }
    table
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct View {
    totals: Totals,
    sites: Vec<Site>,
    overdue: Vec<Overdue>,
}

/// The daemon's counts; fields as in [`crate::queue::view::Totals`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Totals {
    queued: u64,
    ready: u64,
    scheduled: u64,
    waiting_for_dns: u64,
    in_flight: u64,
    connections: u64,
    oldest_seconds: u64,
}

impl Totals {
    /// In one line.
    pub(super) fn summary(&self) -> String {
        format!(
            "{} recipients: {} ready, {} waiting for their time, {} for DNS, {} being tried; {} connections; oldest {}",
            thousands(self.queued),
            thousands(self.ready),
            thousands(self.scheduled),
            thousands(self.waiting_for_dns),
            thousands(self.in_flight),
            thousands(self.connections),
            span(self.oldest_seconds)
        )
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Site {
    site: String,
    ready: u64,
    scheduled: u64,
    in_flight: u64,
    connections: u64,
    oldest_seconds: u64,
    back_off_seconds: Option<u64>,
    back_off_reason: Option<String>,
    waiting_for: Option<String>,
    last_reply: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Overdue {
    cause: String,
    entries: u64,
}

impl Sites {
    async fn execute(self) -> exit::Result {
        let answer: Value = self.remote.client().get("/v1/queue").await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let view: View = serde_json::from_value(answer)?;
        let is_wanted = |site: &&Site| self.site.as_ref().is_none_or(|wanted| *wanted == site.site);
        site_table(view.sites.iter().filter(is_wanted)).print();
        eprintln!("{}", view.totals.summary());
        for overdue in &view.overdue {
            eprintln!("OVERDUE: {} entries wait for {}", overdue.entries, super::table::plain(&overdue.cause));
        }
        Ok(if view.overdue.iter().any(|overdue| overdue.entries > 0) { Exit::Problem } else { Exit::Ok })
    }
}

fn site_table<'a>(sites: impl Iterator<Item = &'a Site>) -> Table {
    let mut table = Table::new(&[
        long("SITE"),
        number("READY"),
        number("SCHEDULED"),
        number("TRYING"),
        number("CONNS"),
        number("OLDEST"),
        text("BACK-OFF"),
        long("WHY / LAST REPLY"),
    ]);
    for site in sites {
        let why = [&site.back_off_reason, &site.waiting_for, &site.last_reply];
        table.row([
            site.site.clone(),
            site.ready.to_string(),
            site.scheduled.to_string(),
            site.in_flight.to_string(),
            site.connections.to_string(),
            span(site.oldest_seconds),
            site.back_off_seconds.map(span).unwrap_or_default(),
            why.into_iter().flatten().next().cloned().unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_line_tells_when_the_next_attempt_is() {
        let entry = |due| Entry { message_id: "0000000000001".into(), accepted: 940, due, ..Entry::default() };

        let table = entry_table(&[entry(1_090), entry(900)], 1_000).render(None);

        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].ends_with("1m 0s  1m 30s"), "{table}");
        assert!(lines[2].ends_with("1m 0s     now"), "{table}");
    }

    #[test]
    fn site_line_prefers_the_reason_of_a_back_off() {
        let answer = serde_json::json!({"sites": [{"site": "a.test", "back_off_seconds": 30,
            "back_off_reason": "421 too busy", "last_reply": "450 older", "unknown_field": 1}]});
        let view: View = serde_json::from_value(answer).unwrap();

        let table = site_table(view.sites.iter()).render(None);

        assert!(table.contains("30s") && table.contains("421 too busy") && !table.contains("450"), "{table}");
    }
}
