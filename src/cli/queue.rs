//! `hikyaku queue`: what waits to be delivered, and why. `list` shows single recipients, `show` one site; the others
//! steer (`orders`).
//!
//! The answers are read field by field with defaults, so a newer or older daemon can be asked as well.

use serde::Deserialize;
use serde_json::Value;

use super::exit::Exit;
use super::orders::{FlushNow, Move, Place, Resume};
use super::selection::{SelectionArguments, query};
use super::site::Show;
use super::sites::Sites;
use super::table::{Table, below, extra, long, number, span, text, thousands};
use super::{Remote, exit, now, out, print_json};
use crate::state::Action;

/// Sub-commands of `queue`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Queue {
    /// List queued recipients: by site ready ones and those being tried, then those that wait for DNS or for their time
    List(List),
    /// The same as `hikyaku sites`: what is ready, what waits for its time, connections, back-off, last reply
    Sites(Sites),
    /// Show one site in every detail: depth, replies, limits, connections, and what happens next
    Show(Show),
    /// Do not try recipients until they are resumed; they expire and report delays as ever
    Suspend(Place),
    /// End orders to suspend: those with the very same selection, or all
    Resume(Resume),
    /// Keep recipients: they are not tried and do not expire until the order is undone
    Hold(Place),
    /// Try recipients from another egress source
    Move(Move),
    /// Give recipients up without a DSN
    Delete(Place),
    /// Give recipients up with a DSN to their senders
    Bounce(Place),
    /// Try deferred recipients now and end back-offs
    Flush(FlushNow),
}

/// Options of `queue list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    selection: SelectionArguments,
    /// Only those whose attempt before the last start has no known outcome: they may come twice
    #[arg(long)]
    in_doubt: bool,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
}

impl Queue {
    pub(super) async fn execute(self) -> exit::Result {
        match self {
            Self::List(list) => list.execute().await,
            Self::Sites(sites) => sites.execute().await,
            Self::Show(show) => show.execute().await,
            Self::Suspend(place) => place.execute(Action::Suspend).await,
            Self::Resume(resume) => resume.execute().await,
            Self::Hold(place) => place.execute(Action::Hold).await,
            Self::Move(order) => order.execute().await,
            Self::Delete(place) => place.execute(Action::Delete).await,
            Self::Bounce(place) => place.execute(Action::Bounce).await,
            Self::Flush(flush) => flush.execute().await,
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
    since: Option<u64>,
    in_doubt: bool,
    mx_address: Option<String>,
    last_reply: Option<String>,
}

impl List {
    async fn execute(self) -> exit::Result {
        let selection = self.selection.checked()?;
        let path = format!("/v1/queue/entries?limit={}&in_doubt={}{}", self.limit, self.in_doubt, query(&selection));
        let answer: Value = self.remote.get(&path).await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let is_filtered = self.in_doubt || !selection.is_everything();
        let nothing = if is_filtered { "nothing is queued that matches" } else { "nothing is queued" };
        let count = print_entries(answer, nothing)?;
        if u32::try_from(count) == Ok(self.limit) {
            out::remark_line(format_args!("cut at --limit {}", self.limit));
        }
        Ok(Exit::Ok)
    }
}

/// Prints recipients as the daemon gave them; tells how many there are.
pub(super) fn print_entries(answer: Value, nothing: &str) -> anyhow::Result<usize> {
    let entries: Vec<Entry> = serde_json::from_value(answer)?;
    let now = now();
    let table = entry_table(&entries, now);
    if table.is_empty() {
        out::line(nothing)?;
    } else {
        table.print()?;
    }
    Ok(entries.len())
}

fn entry_table(entries: &[Entry], now: u64) -> Table {
    let mut table = Table::new(&[
        text("MESSAGE"),
        number("RCPT"),
        long("DOMAIN"),
        extra("SITE"),
        extra("TENANT"),
        extra("CAMPAIGN"),
        text("STATE"),
        number("ATTEMPTS"),
        number("AGE"),
        number("DUE IN"),
        below("NOW / LAST REPLY"),
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
            if entry.since.is_some() { String::new() } else { due },
            progress(entry, now),
        ]);
    }
    table
}

fn progress(entry: &Entry, now: u64) -> String {
    let attempt = Attempt { since: entry.since, in_doubt: entry.in_doubt, mx_address: entry.mx_address.as_deref() };
    attempt.describe(entry.last_reply.as_deref(), now)
}

/// What is known of the attempt under way, or of the one in doubt.
pub(super) struct Attempt<'a> {
    pub since: Option<u64>,
    pub in_doubt: bool,
    pub mx_address: Option<&'a str>,
}

impl Attempt<'_> {
    /// For people, followed by the last reply.
    pub(super) fn describe(&self, last_reply: Option<&str>, now: u64) -> String {
        let since = self.since.map(|since| format!("for {}", span(now.saturating_sub(since))));
        let at =
            self.mx_address.filter(|_| self.since.is_some() || self.in_doubt).map(|address| format!("at {address}"));
        let doubt = self.in_doubt.then(|| "in doubt".to_owned());
        let parts: Vec<String> = [doubt, at, since].into_iter().flatten().collect();
        let now_or_never = parts.join(" ");
        match last_reply {
            Some(reply) if now_or_never.is_empty() => reply.to_owned(),
            Some(reply) => format!("{now_or_never}; {reply}"),
            None => now_or_never,
        }
    }
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
    held: u64,
    suspended: u64,
}

impl Totals {
    /// In two lines that fit a terminal.
    pub(super) fn summary(&self) -> [String; 2] {
        let [queued, ready, scheduled, waiting_for_dns, in_flight, connections] =
            [self.queued, self.ready, self.scheduled, self.waiting_for_dns, self.in_flight, self.connections]
                .map(thousands);
        let oldest = span(self.oldest_seconds);
        let kept = [(self.held, "HELD"), (self.suspended, "suspended")].into_iter().filter(|(count, _)| *count > 0);
        let held: String = kept.map(|(count, how)| format!("; {} {how}", thousands(count))).collect();
        [
            format!("{queued} recipients, oldest {oldest}; {connections} connections{held}"),
            format!("{ready} ready, {scheduled} scheduled, {waiting_for_dns} for DNS, {in_flight} in flight"),
        ]
    }
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
    fn entry_in_flight_tells_where_and_since_when() {
        let entry = Entry {
            since: Some(940),
            mx_address: Some("192.0.2.1:25".into()),
            last_reply: Some("450 busy".into()),
            ..Entry::default()
        };

        assert_eq!(progress(&entry, 1_000), "at 192.0.2.1:25 for 1m 0s; 450 busy");
        assert_eq!(progress(&Entry { in_doubt: true, ..Entry::default() }, 1_000), "in doubt");
    }

    #[test]
    fn tables_and_summaries_of_a_large_queue_fit_80_columns() {
        let million = 1_234_567;
        let entry = Entry {
            message_id: "0000000000001".into(),
            domain: "a-domain-with-a-long-name.example".into(),
            site: Some("a-provider".into()),
            tenant: "a-tenant".into(),
            campaign: "the-spring-campaign".into(),
            state: "waiting-for-dns".into(),
            accepted: 1_000_000,
            due: 1_500_000,
            last_reply: Some("450 4.2.0 mailbox is busy, try again later".into()),
            ..Entry::default()
        };
        let totals = Totals {
            queued: million,
            ready: million,
            scheduled: million,
            waiting_for_dns: million,
            in_flight: 2_000,
            connections: 2_000,
            oldest_seconds: 400_000,
            held: 1_000,
            suspended: 0,
        };

        let table = entry_table(&[entry], 1_400_000);
        let (entries, narrow) = (table.render(Some(80)), table.render(Some(60)));
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");

        let summary = totals.summary().map(|line| format!("queue  {line}"));
        let lines = entries.lines().chain(summary.iter().map(String::as_str));
        for line in lines {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(entries.contains("mailbox is busy, try again later"), "{entries}");
    }
}
