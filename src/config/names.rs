//! Names that a configuration gives: they go into greetings, commands, trace fields, logs and labels as they are, so that
//! nothing but plain characters may stand in them.

use std::path::Path;

use super::Complaints;

/// Whether this is a domain as RFC 5321, 4.1.2, writes it: labels of letters, digits and inner hyphens.
pub fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

impl Complaints {
    /// Complains if `name` is no host name.
    pub(super) fn host_name(&mut self, key: impl Into<String>, name: &str) {
        let text = "is no host name; allowed: a domain of at most 253 characters, its labels 1 to 63 of a-z, 0-9, '-'";
        self.unless(is_host_name(name), key, format!("{name:?} {text}"));
    }

    /// Complains if `name` is no tenant.
    pub(super) fn tenant(&mut self, key: impl Into<String>, name: &str) {
        let is_plain = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"._-".contains(&octet);
        let is_right = (1..=64).contains(&name.len()) && name.bytes().all(is_plain);
        let text = "is no tenant; allowed: 1 to 64 characters of a-z, 0-9, '.', '_', '-'";
        self.unless(is_right, key, format!("{name:?} {text}"));
    }

    /// Complains if `name` is no name of a source or pool.
    pub(super) fn name(&mut self, key: impl Into<String>, name: &str) {
        let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
        let is_right = (1..=64).contains(&name.len()) && name.bytes().all(is_plain);
        let text = "is no name; allowed: 1 to 64 characters of letters, digits, '.', '_', '-'";
        self.unless(is_right, key, format!("{name:?} {text}"));
    }

    /// Complains if `name` is no name or number of a user or group; nothing at all is one.
    pub(super) fn account(&mut self, key: impl Into<String>, name: &str) {
        let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
        let is_right = name.len() <= 32 && name.bytes().all(is_plain) && !name.starts_with('-');
        let text = "is no account; allowed: at most 32 letters, digits, '.', '_', '-', the first one no '-'";
        self.unless(is_right, key, format!("{name:?} {text}"));
    }

    /// Complains about control characters in a path: it is written into logs and onto terminals.
    pub(super) fn plain_path(&mut self, key: impl Into<String>, path: &Path) {
        let is_plain = !path.to_string_lossy().chars().any(char::is_control);
        self.unless(is_plain, key, format!("{path:?} has control characters; allowed: a path without them"));
    }

    /// Complains if `path` is neither empty nor an absolute path without control characters.
    pub(super) fn file(&mut self, key: &str, path: &Path) {
        let is_right = path.as_os_str().is_empty() || path.is_absolute();
        let text = format!("{} is no absolute path; allowed: \"\", or one that begins with /", path.display());
        self.unless(is_right, key, text);
        self.plain_path(key, path);
    }

    /// Complains about each name that stands there already; case and a final dot do not matter. `key` makes the key of an index.
    pub(super) fn different<'a>(&mut self, names: impl Iterator<Item = &'a str>, key: impl Fn(usize) -> String) {
        let mut seen = std::collections::HashSet::new();
        for (index, name) in names.enumerate() {
            let is_new = seen.insert(name.strip_suffix('.').unwrap_or(name).to_lowercase());
            self.unless(is_new, key(index), format!("{name:?} occurs twice; allowed: once"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_domains_and_nothing_else() {
        let long = [["a"; 63].concat(), ["b"; 63].concat(), ["c"; 63].concat(), ["d"; 61].concat()].join(".");

        for good in ["localhost", "mx-1.Example.com", "1.test", long.as_str()] {
            assert!(is_host_name(good), "{good:?}");
        }
        let label = "a".repeat(64);
        let longer = long.clone() + "d";
        for bad in ["", ".", "a.", ".a", "a..b", "-a.test", "a-.test", "a b", "a\r\nb", "a_b", "ü.test", "[1.2.3.4]"] {
            assert!(!is_host_name(bad), "{bad:?}");
        }
        assert!(!is_host_name(&label) && !is_host_name(&longer));
    }
}
