//! `hikyaku pools`: egress sources, and connections by source and MX set.

use serde::Deserialize;
use serde_json::Value;

use super::exit::Exit;
use super::table::{Table, extra, long, number};
use super::{Remote, exit, out, print_json};

/// Options of `pools`.
#[derive(Debug, clap::Args)]
pub(super) struct Pools {
    /// Only of this egress source
    #[arg(long)]
    source: Option<String>,
    /// At most so many MX sets
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    sources: Vec<Source>,
    pools: Vec<Way>,
    all: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    source: String,
    ipv4: Option<String>,
    ipv6: Option<String>,
    ehlo_name: String,
    connections: u64,
    idle: u64,
    in_flight: u64,
    most_connections: Option<u64>,
}

/// One MX set from one source; fields as in [`crate::queue::view::PathView`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Way {
    pub site: String,
    pub mx_set: String,
    pub port: u16,
    pub tls: String,
    pub source: String,
    pub ready: u64,
    pub in_flight: u64,
    pub open: u64,
    pub idle: u64,
    pub opening: u64,
    pub waiting_for: Option<String>,
}

impl Pools {
    pub(super) async fn execute(self) -> exit::Result {
        let answer: Value = self.remote.get("/v1/pools").await?;
        if self.remote.json {
            return print_json(&answer);
        }
        let answer: Answer = serde_json::from_value(answer)?;
        let is_wanted = |source: &str| self.source.as_ref().is_none_or(|wanted| wanted == source);
        source_table(answer.sources.iter().filter(|source| is_wanted(&source.source))).print()?;
        out::write(b"\n")?;
        let most = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let ways: Vec<&Way> = answer.pools.iter().filter(|way| is_wanted(&way.source)).collect();
        if ways.is_empty() {
            out::line("no connections, and nothing is ready")?;
        } else {
            way_table(ways.iter().copied().take(most)).print()?;
        }
        if ways.len() > most {
            out::remark_line(format_args!("cut at --limit {most} of {}", total(&answer, &ways, self.source.is_some())));
        }
        Ok(Exit::Ok)
    }
}

/// How many MX sets there are of those that are wanted: the daemon counts them for all sources together, and gives the
/// first ones only.
fn total(answer: &Answer, wanted: &[&Way], is_of_one_source: bool) -> String {
    match (is_of_one_source, answer.all > answer.pools.len() as u64) {
        (false, _) => answer.all.to_string(),
        (true, false) => wanted.len().to_string(),
        (true, true) => format!("{} or more", wanted.len()),
    }
}

fn source_table<'a>(sources: impl Iterator<Item = &'a Source>) -> Table {
    let mut table = Table::new(&[
        long("SOURCE"),
        extra("IPV4"),
        extra("IPV6"),
        long("EHLO NAME"),
        number("CONNS"),
        number("MOST"),
        number("IDLE"),
        number("IN FLIGHT"),
    ]);
    let address = |address: &Option<String>| match address.as_deref() {
        None => "-".to_owned(),
        Some("0.0.0.0" | "::") => "any".to_owned(),
        Some(address) => address.to_owned(),
    };
    for source in sources {
        table.row([
            source.source.clone(),
            address(&source.ipv4),
            address(&source.ipv6),
            source.ehlo_name.clone(),
            source.connections.to_string(),
            source.most_connections.map_or_else(|| "-".to_owned(), |most| most.to_string()),
            source.idle.to_string(),
            source.in_flight.to_string(),
        ]);
    }
    table
}

/// Connections by MX set; `site` and `queue show` print it too.
pub(super) fn way_table<'a>(ways: impl Iterator<Item = &'a Way>) -> Table {
    let mut table = Table::new(&[
        long("MX SET"),
        extra("SITE"),
        long("SOURCE"),
        extra("TLS"),
        number("OPEN"),
        number("IDLE"),
        number("OPENING"),
        number("IN FLIGHT"),
        number("READY"),
        extra("WAITS FOR"),
    ]);
    for way in ways {
        let port = if way.port == 25 { String::new() } else { format!(":{}", way.port) };
        table.row([
            format!("{}{port}", way.mx_set),
            way.site.clone(),
            way.source.clone(),
            way.tls.clone(),
            way.open.to_string(),
            way.idle.to_string(),
            way.opening.to_string(),
            way.in_flight.to_string(),
            way.ready.to_string(),
            way.waiting_for.clone().unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tables_fit_80_columns() {
        let source = Source {
            source: "a-source-of-mail".into(),
            ipv4: Some("203.0.113.210".into()),
            ipv6: Some("2001:db8:1111:2222:3333:4444:5555:6666".into()),
            ehlo_name: "out-17.a-long-name-of-a-mail-system.example".into(),
            connections: 4_000,
            most_connections: Some(4_000),
            ..Source::default()
        };
        let way = Way {
            mx_set: "mx1.long-name.example,mx2.long-name.example".into(),
            source: "a-source".into(),
            tls: "opportunistic".into(),
            port: 2525,
            open: 2_000,
            ready: 1_000_000,
            ..Way::default()
        };

        for table in [source_table([&source].into_iter()), way_table([&way].into_iter())] {
            let text = table.render(Some(80));
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
    }

    #[test]
    fn the_longest_name_of_a_source_fits_80_columns() {
        let name = "s".repeat(64);
        let source = Source { source: name.clone(), ehlo_name: "mta.example".repeat(20), ..Source::default() };
        let way = Way { source: name, mx_set: "mx.example,".repeat(9), ready: 1_000_000, ..Way::default() };

        for table in [source_table([&source].into_iter()), way_table([&way].into_iter())] {
            let text = table.render(Some(80));
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
    }

    #[test]
    fn what_is_cut_is_told_with_the_count_of_what_was_asked_for() {
        let pools = vec![Way { source: "a".into(), ..Way::default() }, Way { source: "b".into(), ..Way::default() }];
        let all = Answer { pools, all: 2, ..Answer::default() };
        let wanted: Vec<&Way> = all.pools.iter().take(1).collect();

        assert_eq!((total(&all, &wanted, true), total(&all, &wanted, false)), ("1".to_owned(), "2".to_owned()));
        let cut = Answer { all: 1_500, pools: vec![Way::default()], ..Answer::default() };
        assert_eq!(total(&cut, &wanted, true), "1 or more");
    }

    #[test]
    fn addresses_that_the_system_chooses_are_called_any() {
        let source = Source { ipv4: Some("0.0.0.0".into()), ..Source::default() };

        let text = source_table([&source].into_iter()).render(None);

        assert!(text.contains("any") && text.contains("  -  "), "{text}");
    }
}
