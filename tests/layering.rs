//! Imports between modules point only downward in the list of `src/lib.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

/// From the top to the bottom; modules of one row do not import each other.
const LAYERS: [&[&str]; 15] = [
    &["main", "cli"],
    &["daemon"],
    &["config"],
    &["submission", "inbound", "delivery", "admin", "demo"],
    &["queue", "simulate", "audit", "unsubscribe"],
    &["feedback"],
    &["spool", "state", "dns", "web"],
    &["bounce", "dkim", "limit", "log", "tls", "tlsrpt", "users"],
    &["reply", "provider"],
    &["journal"],
    &["mask", "message"],
    &["smtp"],
    &["config::units"],
    &["panics"],
    &["clock", "metrics", "pulse", "text", "trusted", "unseen"],
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

/// The text without comments, and without string and character literals.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            string(rest)
        } else if first == '\'' && (rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'')) {
            let quoted = rest.char_indices().skip(if rest[1..].starts_with('\\') { 3 } else { 2 });
            quoted.into_iter().find(|(_, c)| *c == '\'').map_or(rest.len(), |(end, _)| end + 1)
        } else {
            out.push(first);
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    out
}

/// The length of the string literal that a text begins with.
fn string(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !is_escaped => return at + 1,
            _ => is_escaped = c == '\\' && !is_escaped,
        }
    }
    text.len()
}

/// Every path of a text that begins with `crate` or `super`, groups taken apart: `crate::{a, b::{c}}` is `a` and `b::c`.
/// Each is given from the root of the crate, the text being in `module`.
fn paths(text: &str, module: &[&str]) -> Vec<Vec<String>> {
    let text: String =
        code(text).split_whitespace().collect::<Vec<_>>().join(" ").replace(" ::", "::").replace(":: ", "::");
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in text.match_indices(root) {
            let before = text[..at].chars().next_back();
            // A later `super` of the same path, or the end of another name.
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut base: Vec<String> = Vec::new();
            let mut rest = &text[at..];
            if let Some(after) = rest.strip_prefix("crate::") {
                rest = after;
            } else {
                base = module.iter().map(|part| (*part).to_owned()).collect();
                while let Some(after) = rest.strip_prefix("super::") {
                    base.pop();
                    rest = after;
                }
            }
            expand(rest, &base, &mut found);
        }
    }
    found
}

/// Reads a path, or a group of them, after `base`; gives what follows it.
fn expand<'a>(text: &'a str, base: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches([' ', ',']);
            if rest.is_empty() {
                return rest;
            }
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            let after = expand(rest, base, found);
            // Neither a name nor a group: `*`, or what no path can contain.
            rest =
                if after.len() == rest.len() { &rest[rest.chars().next().map_or(1, char::len_utf8)..] } else { after };
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let mut path = base.to_vec();
    match name {
        "" | "self" => {}
        "super" => drop(path.pop()),
        name => path.push(name.to_owned()),
    }
    match rest.strip_prefix("::") {
        Some(rest) => expand(rest, &path, found),
        None => {
            found.push(path);
            rest
        }
    }
}

/// The modules of the layer list that a text uses; it lies in `module`, the parts of which are the path from the root.
fn imports(text: &str, module: &[&str]) -> Vec<String> {
    let of = |path: Vec<String>| {
        let first = path.first().cloned()?;
        let is_units = first == "config" && path.get(1).is_some_and(|second| second == "units");
        Some(if is_units { "config::units".to_owned() } else { first })
    };
    // Tests are a module inside the file's.
    let (text, tests) = text.split_once("\nmod tests {").unwrap_or((text, ""));
    let inner = [module, &["tests"]].concat();
    paths(text, module).into_iter().chain(paths(tests, &inner)).filter_map(of).collect()
}

/// The modules that a file's path stands for.
fn module_of(inside: &Path) -> Vec<&str> {
    let mut parts: Vec<&str> = inside.iter().map(|part| part.to_str().unwrap().trim_end_matches(".rs")).collect();
    if parts.last() == Some(&"mod") {
        parts.pop();
    }
    parts
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
        let module = module_of(inside);
        let from = if module.starts_with(&["config", "units"]) { "config::units" } else { module[0] };
        if from == "lib" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for to in imports(&text, &module) {
            seen += 1;
            if !is_allowed(from, &to) {
                upward.push(format!("{}: {from} imports {to}", inside.display()));
            }
        }
    }

    assert!(seen > 10, "only {seen} imports found: the search is broken");
    assert_eq!(upward, Vec::<String>::new());
}

#[test]
fn an_upward_import_would_be_found() {
    let imports = |text| imports(text, &["smtp", "data"]);
    assert_eq!(imports("use crate::{queue::Queue, smtp};\n"), ["queue", "smtp"]);
    assert_eq!(
        imports("use crate::{\n    queue::{\n        Queue, view,\n    },\n    smtp,\n};\n"),
        ["queue", "queue", "smtp"]
    );
    assert_eq!(imports("use crate::config::units::Span;"), ["config::units"]);
    assert_eq!(imports("use super::super::queue::Queue;"), ["queue"]);
    assert!(imports("use super::{super::queue, reply};").contains(&"queue".to_owned()));
    assert_eq!(imports("use super::reply;\nmod tests {\n use super::super::reply;\n}"), ["smtp", "smtp"]);
    assert_eq!(imports("fn f(q: &crate::queue::Queue) -> super::Reply"), ["queue", "smtp"]);
    assert_eq!(
        imports("// use crate::queue;\nlet x = \"crate::queue\"; let y = '\"'; crate::message::x()"),
        ["message"]
    );
    assert!(!is_allowed("smtp", "queue"));
    assert!(!is_allowed("queue", "config"));
    assert!(!is_allowed("submission", "delivery"));
}
