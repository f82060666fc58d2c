//! All keys, and which of them sign a message.
//!
//! Those of the From domain sign, else those of the nearest domain above it: its signature is aligned (RFC 7489, 3.1.1).
//! All keys of that domain sign, each by a field of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::author::Author;
use super::key::{Key, KeyError};
use std::path::PathBuf;

/// A key by its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// The tag `d`.
    pub domain: String,
    /// The tag `s`.
    pub selector: String,
    /// Its file.
    pub path: PathBuf,
}

/// What is signed, and by what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The keys.
    pub keys: Vec<KeyFile>,
    /// From domains that must be signed: `example.com`, `*.example.com` for all below it, `*` for all.
    pub required: Vec<String>,
    /// How long signatures hold; without, for ever.
    pub expiry: Option<Duration>,
}

/// The keys of one domain, in the order of the configuration.
#[derive(Debug)]
pub(super) struct KeyList {
    keys: Vec<Arc<Key>>,
    /// Their names, as the journal has them.
    pub names: Arc<str>,
}

impl From<Vec<Arc<Key>>> for KeyList {
    fn from(keys: Vec<Arc<Key>>) -> Self {
        let names: Vec<String> = keys.iter().map(|key| key.record_name()).collect();
        Self { names: names.join(",").into(), keys }
    }
}

impl std::ops::Deref for KeyList {
    type Target = [Arc<Key>];

    fn deref(&self) -> &[Arc<Key>] {
        &self.keys
    }
}

pub(super) type Keys = Arc<KeyList>;

/// The keys, read.
#[derive(Debug, Default)]
pub struct Ring {
    all: Vec<Arc<Key>>,
    domains: HashMap<Box<str>, Keys>,
    required: Vec<String>,
    pub(super) expiry: Option<Duration>,
}

/// What becomes of a message.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// These keys sign it.
    Sign(Keys),
    /// It goes as it is.
    Leave,
    /// It must be signed and cannot be.
    Refuse,
}

impl Ring {
    /// Reads all keys, which may block on their disk.
    pub fn read(settings: &Settings) -> Result<Self, KeyError> {
        let read = |file: &KeyFile| Key::read(&file.domain, &file.selector, &file.path).map(Arc::new);
        let all: Vec<Arc<Key>> = settings.keys.iter().map(read).collect::<Result<_, _>>()?;
        let mut lists: HashMap<Box<str>, Vec<Arc<Key>>> = HashMap::new();
        for key in &all {
            lists.entry(key.domain.clone()).or_default().push(Arc::clone(key));
        }
        let domains = lists.into_iter().map(|(domain, keys)| (domain, Arc::new(keys.into()))).collect();
        let required = settings.required.iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
        Ok(Self { all, domains, required, expiry: settings.expiry })
    }

    /// All keys, in the order of the configuration.
    pub fn keys(&self) -> &[Arc<Key>] {
        &self.all
    }

    /// Whether there is nothing to do for any message.
    pub fn is_idle(&self) -> bool {
        self.all.is_empty() && self.required.is_empty()
    }

    /// Whether both have the same keys, under whatever file names. What else the configuration says is compared as such.
    pub fn has_keys_of(&self, other: &Self) -> bool {
        self.all.len() == other.all.len() && self.all.iter().zip(&other.all).all(|(one, other)| one.is_as(other))
    }

    /// What becomes of a message that begins with `header`.
    pub(super) fn judge(&self, header: &[u8]) -> Verdict {
        match Author::of(header) {
            Author::One(domain) => match self.keys_of(&domain) {
                Some(keys) => Verdict::Sign(Arc::clone(keys)),
                None => self.without_key(&[domain]),
            },
            Author::Several(domains) => self.without_key(&domains),
            // It may be read as any domain's, also as one that must be signed.
            Author::Unknown if !self.required.is_empty() => Verdict::Refuse,
            Author::Unknown => Verdict::Leave,
        }
    }

    fn without_key(&self, domains: &[String]) -> Verdict {
        let is_required = |domain: &String| self.required.iter().any(|pattern| is_match(pattern, domain));
        if domains.iter().any(is_required) { Verdict::Refuse } else { Verdict::Leave }
    }

    /// The keys of a domain, or of the nearest one above it.
    pub(super) fn keys_of(&self, domain: &str) -> Option<&Keys> {
        let mut name = domain;
        loop {
            if let Some(keys) = self.domains.get(name) {
                return Some(keys);
            }
            (_, name) = name.split_once('.')?;
        }
    }
}

fn is_match(pattern: &str, domain: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => pattern == domain,
        Some("") => true,
        Some(suffix) => domain.len() > suffix.len() && domain.ends_with(suffix),
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::{Strength, generate};
    use super::*;

    fn ring(domains: &[(&str, &str)], required: &[&str]) -> Ring {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.pem");
        std::fs::write(&path, generate(Strength::Ed25519).unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = |(domain, selector): &(&str, &str)| KeyFile {
            domain: (*domain).to_owned(),
            selector: (*selector).to_owned(),
            path: path.clone(),
        };
        let required = required.iter().map(|pattern| (*pattern).to_owned()).collect();
        Ring::read(&Settings { keys: domains.iter().map(file).collect(), required, expiry: None }).unwrap()
    }

    fn judge(ring: &Ring, from: &str) -> String {
        match ring.judge(format!("From: {from}\r\n\r\n").as_bytes()) {
            Verdict::Sign(keys) => keys.iter().map(|key| key.record_name()).collect::<Vec<_>>().join(" "),
            Verdict::Leave => "leave".to_owned(),
            Verdict::Refuse => "refuse".to_owned(),
        }
    }

    #[test]
    fn all_keys_of_the_nearest_domain_sign() {
        let ring = ring(&[("a.test", "r"), ("News.a.test", "n"), ("a.test", "e")], &[]);

        assert_eq!(judge(&ring, "x@A.test"), "r._domainkey.a.test e._domainkey.a.test");
        assert_eq!(judge(&ring, "x@shop.a.test"), "r._domainkey.a.test e._domainkey.a.test");
        assert_eq!(judge(&ring, "x@b.news.a.test"), "n._domainkey.news.a.test");
        for from in ["x@ba.test", "x@test", "x@[a.test]", "x@a.test, y@a.test", "nobody"] {
            assert_eq!(judge(&ring, from), "leave", "{from}");
        }
    }

    #[test]
    fn what_must_be_signed_and_cannot_be_is_refused() {
        let ring = ring(&[("a.test", "r")], &["a.test", "b.test", "*.C.test"]);

        assert_eq!(judge(&ring, "x@a.test"), "r._domainkey.a.test");
        for from in ["x@b.test", "x@d.c.test", "x@z.test, x@b.test", "x@a.test, y@z.test", "", "g: x@z.test;"] {
            assert_eq!(judge(&ring, from), "refuse", "{from}");
        }
        for from in ["x@d.b.test", "x@c.test", "x@bc.test"] {
            assert_eq!(judge(&ring, from), "leave", "{from}");
        }
        assert_eq!(judge(&super::tests::ring(&[], &["*"]), "x@z.test"), "refuse");
    }

    #[test]
    fn rings_are_told_apart_by_their_keys() {
        let one = ring(&[("a.test", "r")], &[]);

        assert!(one.has_keys_of(&one) && !one.has_keys_of(&ring(&[("a.test", "r")], &[])));
        assert!(Ring::default().is_idle() && !one.is_idle() && !ring(&[], &["*"]).is_idle());
    }
}
