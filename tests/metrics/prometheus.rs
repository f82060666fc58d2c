//! Debian's Prometheus scrapes a daemon and evaluates every expression of the dashboard and of the alerts.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::stage::{Stage, get, try_get};
use crate::{file, skip, text};

/// For a start and a few scrapes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Prometheus of its own; killed when dropped.
struct Prometheus {
    address: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes `target`. None: there is no Prometheus here.
    async fn start(target: SocketAddr) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let rules = file("docs/alerts.yml");
        let settings = format!(
            "global: {{ scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 500ms }}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n  - job_name: hikyaku\n    static_configs: [{{ targets: ['{target}'] }}]\n",
            rules.display()
        );
        std::fs::write(&config, settings).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                skip::skip(
                    "prometheus_evaluates_dashboard_and_alerts",
                    &format!("prometheus cannot be started: {error}"),
                );
                return None;
            }
        };
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let listening = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let address = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
                if let Some(address) = address.filter(|address: &SocketAddr| address.port() != 0) {
                    return Some(address);
                }
                said.push_str(&line);
            }
            None
        };
        let listening = tokio::time::timeout(PATIENCE, listening).await;
        let Ok(Some(address)) = listening else { panic!("it does not listen: {said}") };
        // It would stop at a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let ready = async {
            while try_get(address, "/-/ready").await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.expect("it becomes ready");
        Some(Self { address, child, _folder: folder })
    }

    /// The series that an expression gives now.
    async fn query(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression.bytes().map(|octet| format!("%{octet:02x}")).collect();
        let answer = get(self.address, &format!("/api/v1/query?query={encoded}")).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{expression}: {answer}")).clone()
    }

    async fn until(&self, expression: &str) {
        let waiting = async {
            while self.query(expression).await.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "never any data: {expression}");
    }

    /// Every alerting rule, once each was evaluated.
    async fn rules(&self) -> Vec<Value> {
        for _ in 0..1_200 {
            let answer: Value = serde_json::from_str(&get(self.address, "/api/v1/rules").await).unwrap();
            let groups = answer["data"]["groups"].as_array().unwrap();
            let rules: Vec<Value> =
                groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect();
            if !rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown") {
                return rules;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the rules were never evaluated");
    }
}

/// Everything that a dashboard asks the data source, variables replaced; with the title of its panel.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            let expression = target["expr"].as_str().unwrap();
            let expression = expression.replace("$__rate_interval", "1m").replace("$instance", ".+");
            assert!(!expression.contains('$'), "an unknown variable: {expression}");
            found.push((panel["title"].as_str().unwrap().to_owned(), expression));
        }
    }
    found
}

/// What an expression selects: names with their matchers.
fn selectors(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in expression.match_indices("hikyaku_") {
        let rest = &expression[at..];
        let name = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
        let matchers = if rest[name..].starts_with('{') { rest[name..].find('}').unwrap() + 1 } else { 0 };
        found.insert(rest[..name + matchers].to_owned());
    }
    found
}

#[test]
fn the_dashboard_can_be_imported() {
    let dashboard: Value = serde_json::from_str(&text("docs/grafana.json")).unwrap();

    assert_eq!(dashboard["uid"], "hikyaku");
    let variables: Vec<&str> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|list| list["name"].as_str().unwrap()).collect();
    assert_eq!(variables, ["datasource", "instance"]);
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    let rows = panels.iter().filter(|panel| panel["type"] == "row").count();
    assert!(rows >= 9, "{rows} rows");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let place = |key: &str| panel["gridPos"][key].as_i64().unwrap();
        for x in place("x")..place("x") + place("w") {
            assert!(x < 24, "{} is beyond the edge", panel["title"]);
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{} lies on another panel", panel["title"]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_evaluates_dashboard_and_alerts() {
    let stage = Stage::with_traffic().await;
    let Some(mut prometheus) = Prometheus::start(stage.address()).await else { return stage.stop().await };
    prometheus.until("count_over_time(up{job=\"hikyaku\"}[1m]) >= 4 and up{job=\"hikyaku\"} == 1").await;
    prometheus.until("hikyaku_site_ready_recipients{site!=\"other\"}").await;
    prometheus.until("increase(hikyaku_site_recipients_total{site!=\"other\"}[1m])").await;

    let dashboard: Value = serde_json::from_str(&text("docs/grafana.json")).unwrap();
    let expressions = expressions(&dashboard);
    assert!(expressions.len() > 80, "{}", expressions.len());
    let mut empty = Vec::new();
    for (title, expression) in &expressions {
        if prometheus.query(expression).await.is_empty() {
            empty.push(format!("{title}: {expression}"));
        }
    }
    assert_eq!(empty, Vec::<String>::new(), "no data");
    for list in dashboard["annotations"]["list"].as_array().unwrap() {
        if let Some(expression) = list["expr"].as_str() {
            // Empty as long as the daemon is not started again.
            prometheus.query(&expression.replace("$instance", ".+")).await;
        }
    }

    let rules = prometheus.rules().await;
    assert!(rules.len() > 20);
    for rule in &rules {
        assert_eq!((&rule["health"], &rule["type"]), (&"ok".into(), &"alerting".into()), "{rule}");
        let expression = rule["query"].as_str().unwrap();
        // An alert gives nothing while it is quiet; what it looks at must be there nevertheless, or it never fires.
        prometheus.query(expression).await;
        for selector in selectors(expression) {
            assert!(!prometheus.query(&selector).await.is_empty(), "{}: nothing is {selector}", rule["name"]);
        }
    }
    let critical = rules.iter().filter(|rule| rule["labels"]["severity"] == "critical");
    let firing: Vec<&Value> = critical.filter(|rule| rule["state"] == "firing").map(|rule| &rule["name"]).collect();
    assert_eq!(firing, Vec::<&Value>::new(), "a daemon that is well wakes nobody");
    prometheus.child.kill().await.unwrap();
    stage.stop().await;
}
