//! `docs/alerts.yml`: its form, its paragraphs in `docs/runbook.md`, and its tests in `tests/data/alerts_test.yml`.

use std::collections::BTreeSet;

use crate::{file, promtool, text};

/// The names of all alerts, each with the lines of its rule.
fn alerts() -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in text("docs/alerts.yml").lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            found.push((name.to_owned(), Vec::new()));
        } else if let Some((_, lines)) = found.last_mut() {
            lines.push(line.trim().to_owned());
        }
    }
    found
}

#[test]
fn each_alert_has_a_paragraph_and_each_paragraph_an_alert() {
    let alerts: BTreeSet<String> = alerts().into_iter().map(|(name, _)| name).collect();
    let runbook = text("docs/runbook.md");
    let sections: Vec<(&str, &str)> =
        runbook.split("\n### ").skip(1).map(|section| section.split_once('\n').unwrap()).collect();

    let paragraphs: BTreeSet<String> = sections.iter().map(|(name, _)| (*name).to_owned()).collect();

    assert!(alerts.len() > 20);
    assert_eq!(alerts, paragraphs);
    assert_eq!(sections.len(), paragraphs.len(), "a heading comes twice");
    for (name, section) in sections {
        let section = section.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in ["**Look at**", "**Do:**", "**Ends:**"] {
            assert!(section.contains(part), "{name} lacks {part}");
        }
    }
}

#[test]
fn each_alert_has_severity_summary_and_the_anchor_of_its_paragraph() {
    for (name, lines) in alerts() {
        let of = |key: &str| lines.iter().find_map(|line| line.strip_prefix(key)).map(str::trim);

        assert!(of("for:").is_some(), "{name}");
        assert!(matches!(of("severity:"), Some("critical" | "warning")), "{name}");
        assert!(of("summary:").is_some_and(|summary| summary.len() > 10), "{name}");
        // As headings are turned into anchors.
        let anchor = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(of("runbook:"), Some(anchor.as_str()));
    }
}

#[test]
fn each_alert_is_tested_to_fire_and_not_to() {
    let tests = text("tests/data/alerts_test.yml");
    let cases: BTreeSet<&str> = tests.lines().filter_map(|line| line.strip_prefix("  - name: ")).collect();

    for (name, _) in alerts() {
        assert!(cases.contains(&*format!("{name} fires")) && cases.contains(&*format!("{name} is quiet")), "{name}");
    }
}

#[test]
fn promtool_accepts_the_rules_and_they_fire_when_they_should() {
    let case = "promtool_accepts_the_rules_and_they_fire_when_they_should";
    let path = |name: &str| file(name).to_str().unwrap().to_owned();

    let Some(rules) = promtool(case, &["check", "rules", &path("docs/alerts.yml")], "") else { return };
    let tests = promtool(case, &["test", "rules", &path("tests/data/alerts_test.yml")], "").unwrap();

    assert!(rules.0 && rules.1.contains("SUCCESS"), "{}", rules.1);
    assert!(tests.0 && tests.1.contains("SUCCESS"), "{}", tests.1);
}

#[test]
fn metrics_that_documents_name_exist() {
    let metrics = text("docs/metrics.md");
    let known: BTreeSet<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();

    for name in ["docs/alerts.yml", "docs/grafana.json", "docs/runbook.md", "README.md", "docs/spool.md"] {
        let document = text(name);
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        for (at, _) in document.match_indices("hikyaku_") {
            let word: String = document[at..].chars().take_while(|c| is_name(*c)).collect();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
            assert!(known.contains(base.unwrap_or(&word)), "{name} names {word}, which docs/metrics.md does not");
        }
    }
}
