//! What differs between two configurations, and which of it a running daemon cannot take on.
//!
//! Items of lists are told by their name, domain or address, not by their place: one that is added changes no other.

use std::collections::HashMap;

use serde::Serialize;
use toml::Value;

use super::{Config, Dkim, LimitRule, Warmup};

/// Options that hold until the next start; every other one a reload applies.
pub const NEEDS_RESTART: [&str; 20] = [
    "user",
    "group",
    "sandbox",
    "threads",
    "spool.path",
    "spool.sync",
    "spool.key_files",
    "spool.encrypt",
    "admin.audit",
    "admin.audit_max_size",
    "journal.enabled",
    "journal.path",
    "journal.max_size",
    "journal.max_age",
    "journal.keep",
    "journal.max_total",
    "journal.buffer",
    "log.format",
    "privacy.mask",
    "privacy.key_file",
];

/// One option, or one item of a list, that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The option, in dotted form.
    pub key: String,
    /// Its value so far, as TOML; absent: there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// Its value from now on; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

impl Change {
    /// Whether it takes a restart.
    pub fn needs_restart(&self) -> bool {
        NEEDS_RESTART.contains(&self.key.as_str())
    }
}

impl Config {
    /// What `next` changes about this one.
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let mut out = Vec::new();
        let value = |config| Value::try_from(config).ok();
        compare(String::new(), value(self).as_ref(), value(next).as_ref(), &mut out);
        out
    }

    /// This one as a daemon that runs by `running` can take it on: options that need a restart are as they were.
    pub fn without_restart(mut self, running: &Self) -> Self {
        self.user = running.user.clone();
        self.sandbox = running.sandbox;
        self.group = running.group.clone();
        self.threads = running.threads;
        self.spool.path = running.spool.path.clone();
        self.spool.sync = running.spool.sync;
        self.spool.key_files = running.spool.key_files.clone();
        self.spool.encrypt = running.spool.encrypt;
        self.journal = running.journal.clone();
        self.admin.audit = running.admin.audit.clone();
        self.admin.audit_max_size = running.admin.audit_max_size;
        self.log.format = running.log.format;
        self.privacy = running.privacy.clone();
        self
    }
}

fn compare(key: String, old: Option<&Value>, new: Option<&Value>, out: &mut Vec<Change>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Some(Value::Table(old)), Some(Value::Table(new))) => {
            let added = new.keys().filter(|name| !old.contains_key(*name));
            for name in old.keys().chain(added) {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                compare(key, old.get(name), new.get(name), out);
            }
        }
        _ => match (items(&key, old), items(&key, new)) {
            (Some(old), Some(new)) if !(old.is_empty() && new.is_empty()) => compare_items(&key, &old, &new, out),
            _ => out.push(Change { key, old: old.map(ToString::to_string), new: new.map(ToString::to_string) }),
        },
    }
}

fn compare_items(key: &str, old: &[(String, &Value)], new: &[(String, &Value)], out: &mut Vec<Change>) {
    let find = |items: &[(String, &Value)], name: &str| -> bool { items.iter().any(|(other, _)| other == name) };
    let by_name: HashMap<&str, &Value> = new.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let before = out.len();
    for (name, value) in old {
        compare(format!("{key}[{name}]"), Some(value), by_name.get(name.as_str()).copied(), out);
    }
    for (name, value) in new.iter().filter(|(name, _)| !find(old, name)) {
        compare(format!("{key}[{name}]"), None, Some(value), out);
    }
    // The first pool that names a domain or a tenant is the one that is used.
    if out.len() == before {
        let names =
            |items: &[(String, &Value)]| items.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        out.push(Change { key: format!("{key} (order)"), old: Some(names(old)), new: Some(names(new)) });
    }
}

/// Items of a list with what they are told by; none if the value is another kind of list, or none.
fn items<'a>(key: &str, value: Option<&'a Value>) -> Option<Vec<(String, &'a Value)>> {
    let Some(value) = value else { return Some(Vec::new()) };
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut out = Vec::new();
    for item in value.as_array()? {
        let table = item.as_table()?;
        let name = name_of(key, table)?;
        let count = counts.entry(name.clone()).or_default();
        *count += 1;
        out.push((if *count == 1 { name } else { format!("{name} #{count}") }, item));
    }
    Some(out)
}

/// What an item of the list `key` is told by: its name, domain, address or file; a rule and a warm-up by everything that they name.
fn name_of(key: &str, item: &toml::Table) -> Option<String> {
    let text = |key: &str| item.get(key).and_then(Value::as_str);
    if key == "limits.rule" {
        let rule: LimitRule = Value::Table(item.clone()).try_into().ok()?;
        return Some(rule.name());
    }
    if key == "warmup" {
        let plan: Warmup = Value::Table(item.clone()).try_into().ok()?;
        return Some(plan.name());
    }
    if key == "dkim" {
        let key: Dkim = Value::Table(item.clone()).try_into().ok()?;
        return Some(key.name());
    }
    ["name", "domain", "address", "chain"].iter().find_map(|key| text(key)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(old: &str, new: &str) -> Vec<(String, Option<String>, Option<String>)> {
        let parse = |text: &str| Config::parse(text, std::path::Path::new("x")).unwrap();
        parse(old).changes(&parse(new)).into_iter().map(|change| (change.key, change.old, change.new)).collect()
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn an_option_that_differs_is_told_with_both_values() {
        assert_eq!(changes("", ""), []);
        assert_eq!(
            changes("", "[limits]\nconnections = 5\n"),
            [("limits.connections".into(), some("20000"), some("5"))]
        );
        assert_eq!(
            changes("[limits]\nsite_rate = \"5/s\"\n", ""),
            [("limits.site_rate".into(), some("\"5/s\""), None)]
        );
    }

    #[test]
    fn items_are_told_by_their_name_wherever_they_stand() {
        let (a, b) = ("[[source]]\nname = \"a\"\n", "[[source]]\nname = \"b\"\nehlo_name = \"b.test\"\n");
        let other = b.replace("b.test", "c.test");

        let found = changes(&format!("{a}{b}"), &other);

        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].0.as_str(), found[0].2.as_ref()), ("source[a]", None));
        assert_eq!(found[1], ("source[b].ehlo_name".into(), some("\"b.test\""), some("\"c.test\"")));
    }

    #[test]
    fn another_order_of_pools_is_a_change() {
        let source = "[[source]]\nname = \"s\"\n";
        let pool = |name| format!("[[pool]]\nname = \"{name}\"\nsources = [{{ source = \"s\" }}]\n");

        let found =
            changes(&format!("{source}{}{}", pool("a"), pool("b")), &format!("{source}{}{}", pool("b"), pool("a")));

        assert_eq!(found, [("pool (order)".into(), some("a, b"), some("b, a"))]);
    }

    #[test]
    fn options_that_need_a_restart_are_those_that_are_kept() {
        let running = Config::default();
        let text = "threads = 7\nuser = \"root\"\ngroup = \"root\"\nsandbox = \"off\"\n[spool]\npath = \"/elsewhere\"\nsync = false\n\
                    key_files = [\"/k\"]\nencrypt = false\nreserve = \"2GiB\"\n[journal]\nenabled = false\npath = \"/elsewhere\"\nmax_size = \"1MiB\"\n\
                    max_age = \"1h\"\nkeep = \"2d\"\nmax_total = \"1GiB\"\nbuffer = \"1MiB\"\n[admin]\naudit = \"/elsewhere\"\n\
                    audit_max_size = \"1MiB\"\n[log]\nformat = \"json\"\n[privacy]\nmask = \"hash\"\nkey_file = \"/k\"\n";
        let next = Config::parse(text, std::path::Path::new("x")).unwrap();

        let told = running.changes(&next).into_iter().filter(Change::needs_restart).count();
        let taken = next.clone().without_restart(&running);

        assert_eq!(told, NEEDS_RESTART.len());
        assert_eq!(running.changes(&taken).len(), 1, "the reserve");
        assert_eq!(taken.changes(&next).into_iter().filter(|change| !change.needs_restart()).count(), 0);
    }
}
