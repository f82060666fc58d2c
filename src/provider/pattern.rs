//! Tables keyed by domain patterns: `name`, `*.suffix`, or `*` for everything.
//!
//! [`Patterns::find`] gives the value of the most specific pattern: the exact name, else the longest suffix, else `*`.
//! `*.example.com` matches every name below `example.com`, not `example.com` itself. A look-up costs one hash per label,
//! however many patterns there are.

use std::collections::HashMap;

/// Values by domain pattern.
#[derive(Clone, Debug)]
pub struct Patterns<T> {
    exact: HashMap<Box<str>, T>,
    suffix: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), suffix: HashMap::new(), any: None }
    }
}

/// A pattern that cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Neither a name, nor `*.suffix`, nor `*`.
    #[error("{0:?} is no domain pattern; write for example \"example.com\", \"*.example.com\" or \"*\"")]
    Form(String),
    /// It is there already.
    #[error("{0:?} occurs twice")]
    Duplicate(String),
}

impl<T> Patterns<T> {
    /// Adds a pattern; upper case and a final dot do not matter.
    pub fn insert(&mut self, pattern: &str, value: T) -> Result<(), PatternError> {
        let name = pattern.strip_suffix('.').unwrap_or(pattern).to_lowercase();
        let previous = if pattern == "*" {
            self.any.replace(value).is_some()
        } else if let Some(suffix) = name.strip_prefix("*.") {
            check(suffix, pattern)?;
            self.suffix.insert(suffix.into(), value).is_some()
        } else {
            check(&name, pattern)?;
            self.exact.insert(name.into(), value).is_some()
        };
        if previous { Err(PatternError::Duplicate(pattern.to_owned())) } else { Ok(()) }
    }

    /// The value of the most specific pattern that matches `name` (lower case, no final dot).
    pub fn find(&self, name: &str) -> Option<&T> {
        if let Some(value) = self.exact.get(name) {
            return Some(value);
        }
        if !self.suffix.is_empty() {
            let mut rest = name;
            while let Some((_, parent)) = rest.split_once('.') {
                if let Some(value) = self.suffix.get(parent) {
                    return Some(value);
                }
                rest = parent;
            }
        }
        self.any.as_ref()
    }

    /// Whether no pattern was added.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.suffix.is_empty() && self.any.is_none()
    }
}

fn check(name: &str, pattern: &str) -> Result<(), PatternError> {
    let is_literal = name.starts_with('[') && name.ends_with(']');
    let is_name = name.split('.').all(|label| !label.is_empty() && !label.contains(['*', '[', ']', ' ', '@', '/']));
    if is_literal || is_name { Ok(()) } else { Err(PatternError::Form(pattern.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(patterns: &[&'static str]) -> Patterns<&'static str> {
        let mut table = Patterns::default();
        for pattern in patterns {
            table.insert(pattern, *pattern).unwrap();
        }
        table
    }

    #[test]
    fn exact_beats_longer_suffix_beats_shorter_suffix_beats_star() {
        let table = table(&["*", "*.test", "*.b.test", "a.b.test"]);

        let found = ["a.b.test", "c.b.test", "x.c.b.test", "b.test", "other"].map(|name| *table.find(name).unwrap());

        assert_eq!(found, ["a.b.test", "*.b.test", "*.b.test", "*.test", "*"]);
    }

    #[test]
    fn a_suffix_does_not_match_its_own_name_nor_half_a_label() {
        let table = table(&["*.b.test"]);

        assert_eq!(table.find("b.test"), None);
        assert_eq!(table.find("ab.test"), None);
    }

    #[test]
    fn malformed_and_repeated_patterns_are_refused() {
        let mut table = Patterns::default();
        for bad in ["", "*.", "a*.test", "*a.test", "a..b", "a b", "**"] {
            assert_eq!(table.insert(bad, ()), Err(PatternError::Form(bad.into())), "{bad:?}");
        }
        table.insert("A.Test.", ()).unwrap();

        assert_eq!(table.insert("a.test", ()), Err(PatternError::Duplicate("a.test".into())));
    }
}
