//! `config.example.toml` is the built-in defaults, and names every option.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::path::Path;

use hikyaku::config::units::Day;
use hikyaku::config::{
    BounceTenant, Certificate, Config, Dkim, Dsns, InDoubt, LimitRule, Pool, PoolMember, Route, Source,
    SuppressionAction, SuppressionRule, TenantRule, TlsMode, TlsRule, UnsubscribeScope, UnsubscribeTenant, Warmup,
};

const EXAMPLE: &str = include_str!("../config.example.toml");

#[test]
fn the_example_is_the_defaults() {
    let config = Config::parse(EXAMPLE, Path::new("config.example.toml")).unwrap();

    assert_eq!(config, Config::default());
}

/// A configuration with one of everything that is empty by default.
fn full() -> Config {
    let mut config = Config::default();
    config.limits.site_rate = Some("1/s".parse().unwrap());
    let in_doubt = Some(InDoubt::AssumeDelivered);
    config.queue.tenants.push(TenantRule { name: "a".into(), weight: 2, max_recipients: Some(1), in_doubt });
    config.delivery.tls_rules.push(TlsRule {
        domain: "a.test".into(),
        tls: TlsMode::Verified,
        names: vec!["a.test".into()],
    });
    config.routes.push(Route { domain: "a.test".into(), next_hop: "discard".into() });
    config.certificates.push(Certificate { chain: "/c.pem".into(), key: "/k.pem".into() });
    config.dkim.push(Dkim { domain: "a.test".into(), selector: "s".into(), key: "/k.pem".into() });
    let lasting = Some("1d".parse().unwrap());
    let (class, action) = ("bad-mailbox".into(), SuppressionAction::Suppress);
    config.suppression.rules.push(SuppressionRule { class, action, lasting });
    config.bounces.tenants.push(BounceTenant { name: "a".into(), domain: "b.test".into(), dsn: Dsns::Send });
    config.unsubscribe.tenants.push(UnsubscribeTenant {
        name: "a".into(),
        scope: UnsubscribeScope::Tenant,
        sender: "a".into(),
        mailto: "a.test".into(),
    });
    config.sources.push(Source {
        name: "a".into(),
        ipv4: Some([192, 0, 2, 1].into()),
        ipv6: Some(std::net::Ipv6Addr::LOCALHOST),
        ehlo_name: Some("a.test".into()),
        connections: Some(1),
    });
    config.pools.push(Pool {
        name: "a".into(),
        sources: vec![PoolMember { source: "a".into(), weight: 1 }],
        tenants: vec!["a".into()],
        sender_domains: vec!["a.test".into()],
    });
    config.warmups.push(Warmup::new("a", "default", Day(20_000), vec![1]));
    let name = || Some("a".to_owned());
    config.limits.rate = Some("1/s".parse().unwrap());
    config.limits.bytes = Some("1MB/s".parse().unwrap());
    config.limits.rules.push(LimitRule {
        site: name(),
        domain: name(),
        source: name(),
        tenant: name(),
        campaign: name(),
        connections: Some(1),
        connections_per_minute: Some(1),
        messages_per_connection: Some(1),
        recipients_per_connection: Some(1),
        recipients_per_transaction: Some(1),
        rate: Some("1/s".parse().unwrap()),
        bytes: Some("1MB/s".parse().unwrap()),
    });
    config
}

/// Every key of a value, with the table it stands in.
fn keys(value: &toml::Value, table: &str, found: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(entries) => {
            for (key, value) in entries {
                found.push((table.to_owned(), key.clone()));
                keys(value, key, found);
            }
        }
        toml::Value::Array(values) => values.iter().for_each(|value| keys(value, table, found)),
        _ => {}
    }
}

#[test]
fn every_option_occurs_in_the_example() {
    let value = toml::Value::try_from(full()).unwrap();
    let mut found = Vec::new();
    keys(&value, "", &mut found);
    assert!(found.len() > 60, "only {} options found", found.len());

    for (table, key) in found {
        let is_header = |line: &str| line.trim_start_matches(['#', ' ', '[']).contains(&format!("{key}]"));
        let is_option = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&format!("{key} ="));
        let is_inline = |line: &str| line.contains(&format!("{{ {key} =")) || line.contains(&format!(", {key} ="));
        let occurs = EXAMPLE.lines().any(|line| is_header(line) || is_option(line) || is_inline(line));
        assert!(occurs, "{table}.{key} is not in config.example.toml");
    }
}

#[test]
fn every_commented_option_of_the_example_is_accepted() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with("[[") || rest.contains(" = ") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();

    let config = Config::parse(&uncommented, Path::new("config.example.toml")).unwrap();

    assert_eq!(config.sources[0].connections, Some(500));
    assert_eq!(config.limits.rules[0].site.as_deref(), Some("yahoo"));
}
