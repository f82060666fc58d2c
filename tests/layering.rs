//! Imports between modules point only downward in the list of `src/lib.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

/// From the top to the bottom; modules of one row do not import each other.
const LAYERS: [&[&str]; 12] = [
    &["main", "cli"],
    &["daemon"],
    &["config"],
    &["submission", "delivery", "admin", "demo"],
    &["queue"],
    &["spool", "dns"],
    &["bounce", "limit", "log"],
    &["reply", "provider"],
    &["message"],
    &["smtp"],
    &["config::units"],
    &["clock", "metrics"],
];

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|row| row.contains(&module)).unwrap_or_else(|| panic!("{module} is in no layer"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The module names that follow `crate::` in a source text, comments left out.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().map(|line| line.split("//").next().unwrap_or_default()) {
        for rest in line.split("crate::").skip(1) {
            let names = rest.strip_prefix('{').map_or(vec![rest], |group| group.split(", ").collect());
            for name in names {
                let name: String = name.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
                let mut parts = name.split("::");
                let first = parts.next().unwrap_or_default();
                let is_units = first == "config" && parts.next() == Some("units");
                found.push(if is_units { "config::units".to_owned() } else { first.to_owned() });
            }
        }
    }
    found
}

/// `demo` builds a daemon and its configuration, and `cli` and `daemon` read `config`; no other module knows where its
/// settings come from. `config` may look down: it checks texts with what will read them.
fn is_allowed(from: &str, to: &str) -> bool {
    from == to
        || layer(from) < layer(to) && (to != "config" || matches!(from, "main" | "cli" | "daemon"))
        || from == "demo" && matches!(to, "daemon" | "config")
        || from == "main" && to == "cli"
}

#[test]
fn imports_point_downward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    files(&root, &mut sources);
    let mut seen = 0;
    let mut upward = Vec::new();

    for path in sources {
        let inside = path.strip_prefix(&root).unwrap();
        let from = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if from == "lib" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for to in imports(&text) {
            seen += 1;
            if !is_allowed(&from, &to) {
                upward.push(format!("{}: {from} imports {to}", inside.display()));
            }
        }
    }

    assert!(seen > 10, "only {seen} imports found: the search is broken");
    assert_eq!(upward, Vec::<String>::new());
}

#[test]
fn an_upward_import_would_be_found() {
    assert_eq!(imports("use crate::{queue::Queue, smtp};\n"), ["queue", "smtp"]);
    assert_eq!(imports("use crate::config::units::Span;"), ["config::units"]);
    assert!(!is_allowed("smtp", "queue"));
    assert!(!is_allowed("queue", "config"));
    assert!(!is_allowed("submission", "delivery"));
}
