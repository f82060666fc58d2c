//! `hikyaku sites`: every site with mail or connections, the deepest first.

use serde::Deserialize;
use serde_json::Value;

use super::exit::Exit;
use super::queue::Totals;
use super::table::{Table, below, long, number, plain, span, text, thousands};
use super::{Remote, exit, out, print_json};

/// Options of `sites`.
#[derive(Debug, clap::Args)]
pub(super) struct Sites {
    /// Only this site
    #[arg(long)]
    site: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct View {
    totals: Totals,
    sites: Vec<Site>,
    overdue: Vec<Overdue>,
}

/// One site; fields as in [`crate::queue::view::SiteView`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Site {
    pub site: String,
    pub ready: u64,
    pub scheduled: u64,
    pub kept: u64,
    pub in_flight: u64,
    pub connections: u64,
    pub age_seconds: u64,
    pub back_off_seconds: Option<u64>,
    pub back_off_reason: Option<String>,
    pub waiting_for: Option<String>,
    pub last_reply: Option<String>,
    pub delivered: u64,
    pub deferred: u64,
    pub bounced: u64,
}

impl Site {
    /// Why its mail does not go, or what it said last.
    pub(super) fn why(&self) -> String {
        let why = [&self.back_off_reason, &self.waiting_for, &self.last_reply];
        let why = why.into_iter().flatten().next().map_or("", String::as_str);
        match self.kept {
            0 => why.to_owned(),
            kept if why.is_empty() => format!("{} kept by orders", thousands(kept)),
            kept => format!("{} kept by orders; {why}", thousands(kept)),
        }
    }

    /// How much is held up and for how long, and what was said; the second line may be empty.
    pub(super) fn held_up(&self) -> [String; 2] {
        let what = match (self.back_off_seconds, &self.waiting_for) {
            (Some(seconds), _) => format!("back-off for {}", span(seconds)),
            (None, Some(cause)) => format!("waits for {cause}"),
            _ => "deferred".to_owned(),
        };
        let said = self.back_off_reason.as_ref().or(self.last_reply.as_ref());
        let said = said.map(|said| format!("      {said}")).unwrap_or_default();
        [format!("  {}: {} recipients, {what}", self.site, thousands(self.ready + self.scheduled)), said]
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Overdue {
    cause: String,
    entries: u64,
}

impl Sites {
    pub(super) async fn execute(self) -> exit::Result {
        let answer: Value = self.remote.get("/v1/queue").await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let view: View = serde_json::from_value(answer)?;
        let is_wanted = |site: &&Site| self.site.as_ref().is_none_or(|wanted| *wanted == site.site);
        let most = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let all = view.sites.iter().filter(is_wanted).count();
        site_table(view.sites.iter().filter(is_wanted).take(most)).print()?;
        if all > most {
            out::remark_line(format_args!("cut at --limit {most} of {all}"));
        }
        for line in view.totals.summary() {
            out::remark_line(line);
        }
        for overdue in &view.overdue {
            let cause = plain(&overdue.cause);
            out::remark_line(format_args!("OVERDUE: {} entries wait for {cause}", overdue.entries));
        }
        Ok(if view.overdue.iter().any(|overdue| overdue.entries > 0) { Exit::Problem } else { Exit::Ok })
    }
}

fn site_table<'a>(sites: impl Iterator<Item = &'a Site>) -> Table {
    let mut table = Table::new(&[
        long("SITE"),
        number("READY"),
        number("SCHEDULED"),
        number("IN FLIGHT"),
        number("CONNS"),
        number("OLDEST"),
        text("BACK-OFF"),
        below("WHY / LAST REPLY"),
    ]);
    for site in sites {
        table.row([
            site.site.clone(),
            site.ready.to_string(),
            site.scheduled.to_string(),
            site.in_flight.to_string(),
            site.connections.to_string(),
            span(site.age_seconds),
            site.back_off_seconds.map(span).unwrap_or_default(),
            site.why(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_a_large_queue_fits_80_columns() {
        let million = 1_234_567;
        let reason = "connect at mx1.a-provider.example: 421 4.7.0 too many connections, try later";
        let site = Site {
            site: "a-provider-with-a-name.example".into(),
            ready: million,
            scheduled: million,
            in_flight: 2_000,
            connections: 2_000,
            age_seconds: 400_000,
            back_off_seconds: Some(300),
            back_off_reason: Some(reason.into()),
            ..Site::default()
        };

        for width in [80, 60, 40] {
            let sites = site_table([&site].into_iter()).render(Some(width));

            assert!(sites.lines().all(|line| line.chars().count() <= width), "{sites}");
            assert!(width < 80 || sites.contains("421 4.7.0 too many connections"), "{sites}");
        }
    }

    #[test]
    fn site_line_prefers_the_reason_of_a_back_off() {
        let site = Site {
            site: "a.test".into(),
            back_off_seconds: Some(65),
            back_off_reason: Some("connect at mx: refused".into()),
            last_reply: Some("older".into()),
            ..Site::default()
        };

        let table = site_table([&site].into_iter()).render(None);

        assert!(table.contains("1m 5s") && table.contains("connect at mx: refused"), "{table}");
        assert!(!table.contains("older"), "{table}");
    }
}
