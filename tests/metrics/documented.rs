//! `docs/metrics.md` against a scrape, and the scrape against promtool's taste.

use std::collections::{BTreeMap, BTreeSet};

use crate::stage::{Stage, value};
use crate::{promtool, text};

/// Type and label names of each metric.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

fn documented() -> Metrics {
    let mut found = Metrics::new();
    for line in text("docs/metrics.md").lines().filter(|line| line.starts_with("| `hikyaku_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, meaning, worry, _] = cells[..] else { panic!("not five cells: {line}") };
        assert!(!meaning.is_empty() && !worry.is_empty(), "{line}");
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| label != "-").collect();
        let before = found.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels));
        assert!(before.is_none(), "twice: {line}");
    }
    found
}

fn exposed(scraped: &str) -> Metrics {
    let types = scraped.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut found: Metrics = types.map(|(name, kind)| (name.to_owned(), (kind.to_owned(), BTreeSet::new()))).collect();
    for line in scraped.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let base = base.filter(|base| found.get(*base).is_some_and(|(kind, _)| kind == "histogram"));
        let (_, labels) = found.get_mut(base.unwrap_or(name)).unwrap_or_else(|| panic!("no type: {line}"));
        let Some((inside, _)) = rest.strip_prefix('{').and_then(|rest| rest.rsplit_once("} ")) else { continue };
        let names = inside.split("\",").map(|label| label.split_once('=').unwrap().0.to_owned());
        labels.extend(names.filter(|name| name != "le"));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_documented_and_every_documented_one_is_exposed() {
    let stage = Stage::with_traffic().await;

    let exposed = exposed(&stage.scrape().await);

    assert!(exposed.len() > 50, "{exposed:?}");
    let documented = documented();
    for (name, found) in &exposed {
        let said = documented.get(name).unwrap_or_else(|| panic!("{name} {found:?} is not in docs/metrics.md"));
        assert_eq!(said, found, "{name}: docs/metrics.md, then the scrape");
    }
    for name in documented.keys() {
        assert!(exposed.contains_key(name), "{name} is in docs/metrics.md only");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_numbers_are_those_of_the_traffic() {
    let stage = Stage::with_traffic().await;
    let scraped = stage
        .until("rows of tenants, a name without an answer, and time that was spent", |scraped| {
            scraped.contains("hikyaku_tenant_recipients_total{tenant=\"default\"")
                && value(scraped, "hikyaku_dns_plans_total{result=\"failure\"}").is_some_and(|plans| plans > 0.0)
                // Looked at every few seconds only.
                && ["main", "front"].iter().all(|name| {
                    let series = format!("hikyaku_runtime_busy_seconds_total{{runtime=\"{name}\"}}");
                    value(scraped, &series).is_some_and(|busy| busy >= 1e-6)
                })
        })
        .await;

    let is = |series: &str, least: f64| {
        let value = value(&scraped, series);
        assert!(value.is_some_and(|value| value >= least), "{series} {value:?}: {scraped}");
    };
    is("hikyaku_submission_messages_total", 20.0);
    is("hikyaku_submission_end_of_data_seconds_count", 20.0);
    is("hikyaku_queue_delivery_seconds_count{lane=\"normal\"}", 4.0);
    is("hikyaku_queue_lateness_seconds_count{lane=\"normal\"}", 12.0);
    is("hikyaku_delivery_tls_handshakes_total{result=\"success\",version=\"1.3\"}", 1.0);
    is("hikyaku_delivery_tls_handshake_seconds_count", 1.0);
    is("hikyaku_delivery_greeting_seconds_count", 3.0);
    // Twice on a connection with STARTTLS.
    is("hikyaku_delivery_ehlo_seconds_count", 4.0);
    is("hikyaku_delivery_transaction_seconds_count", 12.0);
    is("hikyaku_delivery_loads_total{from=\"memory\"}", 12.0);
    is("hikyaku_delivery_connection_failures_total{phase=\"connect\"}", 1.0);
    is("hikyaku_spool_sync_seconds_count", 1.0);
    is("hikyaku_spool_batch_bytes_count", 1.0);
    is("hikyaku_dns_plans_total{result=\"failure\"}", 1.0);
    is("hikyaku_process_resident_memory_bytes", 1e6);
    is("hikyaku_process_max_descriptors", 64.0);
    is("hikyaku_warmup_length{source=\"new\",provider=\"google\"}", 1.0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_finds_nothing_in_a_scrape() {
    let stage = Stage::with_traffic().await;
    let scraped = stage.scrape().await;
    stage.stop().await;

    let Some(said) = promtool("promtool_finds_nothing_in_a_scrape", &["check", "metrics"], &scraped) else { return };

    assert_eq!(said, (true, String::new()));
    let bad = scraped.replace("hikyaku_submission_messages_total", "hikyaku_submission_messages");
    let said = promtool("promtool_finds_nothing_in_a_scrape", &["check", "metrics"], &bad).unwrap();
    assert!(!said.0 && said.1.contains("_total"), "it would be found: {said:?}");
}
