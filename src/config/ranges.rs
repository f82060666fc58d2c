//! What an error about a value's kind says beside the parser's message: what is allowed for that key.

use super::units::Day;
use super::{Complaints, Config, LimitRule, Pool, PoolMember, TenantRule, Warmup};

/// The parser's message about `text`, with the key's range where it has one.
pub(super) fn explain(text: &str, error: &toml::de::Error) -> String {
    let mut said = error.to_string().trim_end().to_owned();
    for kind in ["usize", "u8", "u16", "u32", "u64"] {
        said = said.replace(&format!("expected {kind}"), "expected a whole number");
    }
    // An option that there is not has no value and no range; what stands before it has.
    let span = error.span().filter(|_| !said.contains("unknown field"));
    let range = span.and_then(|span| key_before(text, span.start)).and_then(|(table, key)| range(&table, &key));
    match range {
        Some(range) => format!("{said}; allowed: {range}"),
        None => said,
    }
}

/// The table and the key whose value is, or begins before, what stands at `place`.
fn key_before(text: &str, place: usize) -> Option<(String, String)> {
    let (before, _) = text.get(..place)?.rsplit_once('=')?;
    let key = before.trim_end().rsplit(['\n', ',', '{', ' ']).next()?.trim();
    let is_header = |line: &&str| line.starts_with('[') && line.ends_with(']');
    let header = before.lines().rev().map(str::trim).find(is_header).unwrap_or_default();
    Some((header.trim_matches(['[', ']']).trim().to_owned(), key.to_owned()))
}

/// The range of a key, in the table itself or in what stands inline in it.
fn range(table: &str, key: &str) -> Option<String> {
    let mut complaints = Complaints::default();
    sample().check(&mut complaints);
    let whole = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
    let is_inside = |name: &str| {
        !table.is_empty()
            && name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(&format!(".{key}")))
    };
    let ranges = complaints.ranges.iter().map(|(name, range)| (without_indices(name), range));
    let found = ranges.filter(|(name, _)| *name == whole || is_inside(name)).map(|(_, range)| range.clone());
    found.min_by_key(String::len)
}

/// `listener[0].timeout` as `listener.timeout`.
fn without_indices(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for part in key.split('[') {
        out.push_str(part.split_once(']').map_or(part, |(_, after)| after));
    }
    out
}

/// A configuration with one of everything, so that each check tells its range.
fn sample() -> Config {
    let mut config = Config::default();
    config.queue.tenants.push(TenantRule { name: "a".into(), weight: 1, max_recipients: Some(1), in_doubt: None });
    config.limits.rules.push(LimitRule { site: Some("a".into()), ..LimitRule::default() });
    config.sources.push(super::Source {
        name: "a".into(),
        ipv4: None,
        ipv6: None,
        ehlo_name: None,
        connections: Some(1),
    });
    let sources = vec![PoolMember { source: "a".into(), weight: 1 }];
    config.pools.push(Pool { name: "a".into(), sources, tenants: Vec::new(), sender_domains: Vec::new() });
    config.warmups.push(Warmup::new("a", "default", Day(0), vec![1]));
    config
}
