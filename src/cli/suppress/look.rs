//! Looking at the list: `suppress show`, `suppress list` and `suppress stats`.

use serde_json::Value;

use super::{OfWhom, Which, of_whom};
use crate::admin::{EntryView, Share, Shown, StatsView};
use crate::cli::client::escaped;
use crate::cli::exit::{self, Exit};
use crate::cli::table::{Table, below, long, number, octets, plain, span, text, thousands};
use crate::cli::{Remote, now, out, print_json};
use crate::state::suppression::{Extent, Reach, Reason};

/// Options of `suppress show`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Show {
    /// An address, a domain, or `#` and the hash of an address
    target: String,
    #[command(flatten)]
    of_whom: OfWhom,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `suppress list`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    which: Which,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
}

/// Options of `suppress stats`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Stats {
    #[command(flatten)]
    remote: Remote,
}

impl Show {
    pub(super) async fn execute(self) -> exit::Result {
        let scope = self.of_whom.scope()?;
        let (tenant, class) = scope.names();
        let [target, of, sort] = [&self.target, tenant, class].map(escaped);
        let path = format!("/v1/suppression/show?target={target}&tenant={of}&class={sort}");
        let answer: Value = self.remote.get(&path).await?;
        let shown: Shown = serde_json::from_value(answer.clone())?;
        // Whoever asks about a tenant asks whether that one's mail is held back.
        let stands = if tenant.is_empty() { !shown.entries.is_empty() } else { shown.met.is_some() };
        let exit = if stands { Exit::Ok } else { Exit::Problem };
        if self.remote.json {
            print_json(&answer)?;
            return Ok(exit);
        }
        let target = plain(&shown.target);
        if shown.entries.is_empty() {
            out::line(format_args!("nothing stands against {target}"))?;
            return Ok(exit);
        }
        table(&shown.entries, now()).print()?;
        let whose = of_whom(tenant, class);
        let reason = shown.met.as_ref().map(|entry| plain(&entry.reason));
        out::line(match (tenant, reason) {
            ("", Some(reason)) => format!("nobody's mail goes to {target}: {reason}"),
            ("", None) => format!("other mail goes to {target}"),
            (_, Some(reason)) => format!("mail of {whose} does not go to {target}: {reason}"),
            (_, None) => format!("mail of {whose} goes to {target}"),
        })?;
        Ok(exit)
    }
}

impl List {
    pub(super) async fn execute(self) -> exit::Result {
        let Which { domain, tenant, reason } = &self.which;
        let reason = reason.map(|reason| reason.to_string());
        let filters = [("domain", domain), ("tenant", tenant), ("reason", &reason)];
        let given = filters.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let query: String = given.map(|(name, value)| format!("&{name}={}", escaped(value))).collect();
        let answer: Value = self.remote.get(&format!("/v1/suppression?limit={}{query}", self.limit)).await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let entries: Vec<EntryView> = serde_json::from_value(answer)?;
        if entries.is_empty() {
            out::line(if query.is_empty() { "nobody is suppressed" } else { "no entry matches" })?;
            return Ok(Exit::Ok);
        }
        table(&entries, now()).print()?;
        if u32::try_from(entries.len()) == Ok(self.limit) {
            out::remark_line(format_args!("cut at --limit {}: `hikyaku suppress export` has all", self.limit));
        }
        Ok(Exit::Ok)
    }
}

fn table(entries: &[EntryView], now: u64) -> Table {
    let mut table =
        Table::new(&[long("TARGET"), long("MAIL OF"), text("REASON"), number("AGE"), number("LEFT"), below("SOURCE")]);
    for entry in entries {
        let EntryView { target, tenant, class, reason, source, added, until } = entry;
        table.row([
            target.clone(),
            of_whom(tenant, class),
            reason.clone(),
            span(now.saturating_sub(u64::from(*added))),
            until.map(|until| span(u64::from(until).saturating_sub(now))).unwrap_or_default(),
            source.clone(),
        ]);
    }
    table
}

impl Stats {
    pub(super) async fn execute(self) -> exit::Result {
        let answer: Value = self.remote.get("/v1/suppression/stats").await?;
        if self.remote.json {
            return print_json(&answer);
        }
        out::write(told(&serde_json::from_value(answer)?, now()).as_bytes())?;
        Ok(Exit::Ok)
    }
}

fn told(stats: &StatsView, now: u64) -> String {
    let StatsView { entries, shares, bytes, segments, records, memory_bytes, changed } = stats;
    let changed = changed
        .map_or_else(|| "never".to_owned(), |changed| format!("{} ago", span(now.saturating_sub(u64::from(changed)))));
    let size = format!("{} in {} files, {} records", octets(*bytes), thousands(*segments), thousands(*records));
    let lines = [
        ("entries", thousands(*entries)),
        ("last change", changed),
        ("on disk", size),
        ("in memory", octets(*memory_bytes)),
    ];
    let head: String = lines.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect();
    if shares.is_empty() { head } else { format!("{head}\n{}", counts(shares).render(None)) }
}

/// Entries by reason, and by whose mail they are against.
fn counts(shares: &[Share]) -> Table {
    let titles = ["ADDRESSES: ALL", "TENANT", "CLASS", "DOMAINS: ALL", "TENANT", "CLASS"];
    let mut table = Table::new(&[vec![text("REASON")], titles.map(number).to_vec()].concat());
    for reason in Reason::ALL {
        let of = |reach: Reach| {
            let is_it = |share: &&Share| {
                share.reason == reason.as_str()
                    && share.scope == Extent::as_str(reach.extent)
                    && share.is_domain == reach.is_domain
            };
            thousands(shares.iter().filter(is_it).map(|share| share.entries).sum())
        };
        if shares.iter().any(|share| share.reason == reason.as_str()) {
            table.row([vec![reason.to_string()], Reach::ALL.map(of).to_vec()].concat());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_fit_80_columns_and_cannot_move_the_cursor() {
        let entry = EntryView {
            target: "somebody.with.a.long.name@a-long-domain.example.com".to_owned(),
            tenant: "shop".to_owned(),
            class: "newsletter\u{1b}[1m".to_owned(),
            reason: "complaint".to_owned(),
            source: "<a-message-id-that-is-long@feedback.example.net>".to_owned(),
            added: 100,
            until: Some(100_000),
        };

        let text = table(&[entry], 4_000).render(Some(80));

        assert!(text.lines().all(|line| line.chars().count() <= 80) && !text.contains('\u{1b}'), "{text}");
        assert!(text.contains("1h 5m") && text.contains("1d 2h") && text.contains("<a-message-id"), "{text}");
    }

    #[test]
    fn numbers_are_told_by_reason_and_reach() {
        let share = |reason: &str, scope: &str, is_domain, entries| Share {
            reason: reason.to_owned(),
            scope: scope.to_owned(),
            is_domain,
            entries,
        };
        let shares = vec![share("complaint", "global", false, 1_200), share("complaint", "class", true, 7)];

        let text = told(&StatsView { entries: 1_207, shares, changed: Some(940), ..StatsView::default() }, 1_000);

        let row: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(row, ["complaint", "1,200", "0", "0", "0", "0", "7"], "{text}");
        assert!(text.contains("entries      1,207\nlast change  1m 0s ago\n"), "{text}");
    }
}
