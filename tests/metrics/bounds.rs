//! However many sites there are, a scrape stays as long as it is.

use std::collections::BTreeSet;

use hikyaku::config::Route;

use crate::stage::{Stage, value};

/// Sites that mail is sent to.
const SITES: usize = 10_000;
/// Lines of series in a scrape, whatever happens: what docs/metrics.md says.
const MOST_SERIES: usize = 1_700;
/// Octets of a scrape.
const MOST_OCTETS: usize = 256 << 10;

/// The values of a label.
fn values<'a>(scraped: &'a str, label: &str) -> BTreeSet<&'a str> {
    let start = format!("{label}=\"");
    scraped.lines().filter_map(|line| line.split_once(&start)?.1.split('"').next()).collect()
}

fn sum(scraped: &str, start: &str) -> f64 {
    let values = scraped.lines().filter(|line| line.starts_with(start)).filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_sites_take_no_more_series_than_fifty() {
    // An address each, where nobody listens: a site of its own, refused at once.
    let route = |number: usize| Route {
        domain: format!("d{number}.test"),
        next_hop: format!("smtp://127.{}.{}.{}:9", 1 + number / 65_536, number / 256 % 256, number % 256),
    };
    let stage = Stage::start((0..SITES).map(route).collect()).await;

    for first in (0..SITES).step_by(1_000) {
        let recipients: Vec<String> = (first..first + 1_000).map(|number| format!("u@d{number}.test")).collect();
        assert!(stage.submit(&recipients).await.starts_with("250"));
    }
    let (sites, tenants) = ("hikyaku_site_recipients_total{", "hikyaku_tenant_recipients_total{");
    let scraped = stage
        .until("every site tried, the busiest shown, and nothing lost on the way into rows", |scraped| {
            sum(scraped, "hikyaku_site_connection_failures_total{") >= SITES as f64
                && sum(scraped, sites) >= SITES as f64
                && sum(scraped, sites) == sum(scraped, tenants)
                && value(scraped, "hikyaku_queue_sites").is_some_and(|sites| sites >= SITES as f64)
                && values(scraped, "site").len() > 50
        })
        .await;

    assert_eq!(values(&scraped, "site").len(), 51, "fifty and `other`");
    let series = scraped.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count();
    assert!(series <= MOST_SERIES, "{series} series");
    assert!(scraped.len() <= MOST_OCTETS, "{} octets", scraped.len());
    stage.stop().await;
}
