//! `[[dkim]]` and `[signing]`: which keys sign messages, and what is done with those that no key signs.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::delivery::check_pattern;
use super::names::is_host_name;
use super::units::Span;
use super::{Complaints, Config, ConfigError};
use crate::dkim;

/// A key that signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dkim {
    /// The domain it signs for, with those below it; the tag `d`.
    pub domain: String,
    /// What its DNS record is found by; the tag `s`.
    pub selector: String,
    /// The private key in PEM. The kind of the key decides the algorithm.
    pub key: PathBuf,
}

impl Dkim {
    /// What it is told by: the name of its DNS record.
    pub(super) fn name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    fn check(&self, key: &str, complaints: &mut Complaints) {
        complaints.host_name(format!("{key}.domain"), &self.domain);
        // RFC 6376, 3.1: a selector is made of labels, as a domain is; some have underscores.
        let is_selector = is_host_name(&self.selector.replace('_', "a"));
        let text = "is no selector; allowed: labels of 1 to 63 of a-z, 0-9, '-', '_', with dots between them";
        complaints.unless(is_selector, format!("{key}.selector"), format!("{:?} {text}", self.selector));
        let text = format!("{} is no absolute path; allowed: one that begins with /", self.key.display());
        complaints.unless(self.key.is_absolute(), format!("{key}.key"), text);
        complaints.plain_path(format!("{key}.key"), &self.key);
    }
}

/// What holds for all signatures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Signing {
    /// From domains whose messages must be signed: refused with 550 5.7.20 if no key is for them.
    pub required: Vec<String>,
    /// How long signatures hold; 0: for ever.
    pub expiry: Span,
}

/// Complains about both sections.
pub(super) fn check(keys: &[Dkim], signing: &Signing, complaints: &mut Complaints) {
    for (index, key) in keys.iter().enumerate() {
        key.check(&format!("dkim[{index}]"), complaints);
    }
    let names: Vec<String> = keys.iter().map(Dkim::name).collect();
    complaints.different(names.iter().map(String::as_str), |index| format!("dkim[{index}]"));
    for (index, pattern) in signing.required.iter().enumerate().filter(|(_, pattern)| *pattern != "*") {
        check_pattern(pattern, format!("signing.required[{index}]"), complaints);
    }
    // A message may be tried for five days and looked at later; less than that would break what is still under way.
    let (least, most) = (Span(Duration::from_secs(86_400)), Span(Duration::from_secs(366 * 86_400)));
    if signing.expiry != Span::default() {
        complaints.range("signing.expiry", &signing.expiry, &least, &most);
    }
}

impl Config {
    /// The keys that sign, read from their files. May block as long as the disk does.
    pub fn ring(&self) -> Result<dkim::Ring, ConfigError> {
        let file = |key: &Dkim| dkim::KeyFile {
            domain: key.domain.clone(),
            selector: key.selector.clone(),
            path: key.key.clone(),
        };
        let required = self.signing.required.iter().map(|name| name.strip_suffix('.').unwrap_or(name).to_owned());
        let settings = dkim::Settings {
            keys: self.dkim.iter().map(file).collect(),
            required: required.collect(),
            expiry: Some(self.signing.expiry.0).filter(|expiry| !expiry.is_zero()),
        };
        Ok(dkim::Ring::read(&settings)?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn said(text: &str) -> String {
        Config::parse(text, Path::new("c.toml")).unwrap_err().to_string()
    }

    #[test]
    fn keys_and_patterns_that_cannot_be_are_told_with_their_place() {
        let key = |domain: &str, selector: &str, key: &str| {
            format!("[[dkim]]\ndomain = \"{domain}\"\nselector = \"{selector}\"\nkey = \"{key}\"\n")
        };
        let good = key("a.test", "s_1.x", "/k");
        assert!(Config::parse(&(good.clone() + &key("a.test", "s2", "/k")), Path::new("c")).is_ok());

        for (text, place) in [
            (key("a b", "s", "/k"), "dkim[0].domain: "),
            (key("a.test", "s; t=y", "/k"), "dkim[0].selector: "),
            (key("a.test", "s", "k"), "dkim[0].key: "),
            (good.clone() + &key("A.test", "S_1.x", "/other"), "dkim[1]: "),
            ("[signing]\nrequired = [\"*\", \"a b\"]\n".to_owned(), "signing.required[1]: "),
            ("[signing]\nexpiry = \"1h\"\n".to_owned(), "signing.expiry: "),
        ] {
            assert!(said(&text).starts_with(&format!("c.toml: {place}")), "{}", said(&text));
        }
    }

    #[test]
    fn a_key_file_that_cannot_be_used_is_named() {
        let text = "[[dkim]]\ndomain = \"a.test\"\nselector = \"s\"\nkey = \"/nonexistent/k.pem\"\n";

        let error = Config::parse(text, Path::new("c.toml")).unwrap().ring().unwrap_err().to_string();

        assert!(error.starts_with("/nonexistent/k.pem: "), "{error}");
    }
}
