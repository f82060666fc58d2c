//! The provider map: which operator runs an MX host.
//!
//! [`Map::built_in`] reads the embedded `providers.toml`; [`Map::find`] gives a provider's name for an MX host, and the
//! most specific pattern wins. [`Map::of_domain`] tells the same of well-known domains of recipients, without DNS: for
//! commands only, since delivery knows the MX host. All domains that one provider receives for share one site, and so one set of limits.
//! Nothing here looks anything up.

pub mod pattern;

use std::sync::Arc;

use serde::Deserialize;

use pattern::{PatternError, Patterns};

const BUILT_IN: &str = include_str!("providers.toml");

/// Providers by the names of their MX hosts.
#[derive(Clone, Debug, Default)]
pub struct Map {
    hosts: Patterns<Arc<str>>,
    domains: Patterns<Arc<str>>,
    known: Vec<Known>,
}

/// A provider map that cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum MapError {
    /// Not TOML of the expected form.
    #[error("provider map: {0}")]
    Form(#[from] toml::de::Error),
    /// A pattern is malformed, or two providers claim the same one.
    #[error("provider map, {provider}: {error}")]
    Pattern {
        /// Whose pattern.
        provider: String,
        /// What is wrong with it.
        error: PatternError,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    provider: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    mx: Vec<String>,
    #[serde(default)]
    domains: Vec<String>,
    #[serde(default)]
    published: Figures,
    #[serde(default)]
    start: Figures,
    /// The rules of replies go by it; here stands its source.
    #[serde(rename = "resets")]
    _resets: Option<Resets>,
    #[serde(rename = "source")]
    _source: Option<String>,
}

/// What it says by resetting a connection.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Resets {
    /// That we come too often.
    Throttle,
}

/// Figures about one provider; absent: nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Figures {
    /// Connections at the same time from one source.
    pub connections: Option<u32>,
    /// Messages over one connection.
    pub messages_per_connection: Option<u32>,
    /// Recipients over one connection.
    pub recipients_per_connection: Option<u32>,
    /// Messages a second from one source.
    pub messages_per_second: Option<u32>,
}

/// What is known about a provider's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The provider.
    pub name: Arc<str>,
    /// What it has said itself: it holds whatever is learnt.
    pub published: Figures,
    /// What its senders have found: where learning begins.
    pub start: Figures,
}

impl Map {
    /// The map that comes with the program.
    pub fn built_in() -> Result<Self, MapError> {
        BUILT_IN.parse()
    }

    /// The provider that runs an MX host; `mx_host` is lower case without a final dot.
    pub fn find(&self, mx_host: &str) -> Option<&Arc<str>> {
        self.hosts.find(mx_host)
    }

    /// What is known about each provider's limits.
    pub fn known(&self) -> &[Known] {
        &self.known
    }

    /// The provider of a well-known domain; `domain` is lower case without a final dot.
    pub fn of_domain(&self, domain: &str) -> Option<&Arc<str>> {
        self.domains.find(domain)
    }

    /// Every provider.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.known.iter().map(|known| &*known.name)
    }
}

impl std::str::FromStr for Map {
    type Err = MapError;

    fn from_str(text: &str) -> Result<Self, MapError> {
        let file: File = toml::from_str(text)?;
        let mut map = Self::default();
        for Entry { name, mx, domains, published, start, .. } in file.provider {
            let shared: Arc<str> = name.as_str().into();
            for (table, patterns) in [(&mut map.hosts, mx), (&mut map.domains, domains)] {
                for pattern in patterns {
                    let inserted = table.insert(&pattern, shared.clone());
                    inserted.map_err(|error| MapError::Pattern { provider: name.clone(), error })?;
                }
            }
            map.known.push(Known { name: shared, published, start });
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(host: &str) -> Option<String> {
        Map::built_in().unwrap().find(host).map(ToString::to_string)
    }

    #[test]
    fn all_mx_sets_of_google_are_one_provider() {
        for host in ["gmail-smtp-in.l.google.com", "aspmx.l.google.com", "aspmx2.googlemail.com", "smtp.google.com"] {
            assert_eq!(provider(host).as_deref(), Some("google"), "{host}");
        }
    }

    #[test]
    fn consumer_outlook_is_told_from_microsoft_365_by_the_longer_pattern() {
        assert_eq!(provider("example-com.mail.protection.outlook.com").as_deref(), Some("microsoft365"));
        assert_eq!(provider("example-com.a-v1.mx.microsoft").as_deref(), Some("microsoft365"));
        assert_eq!(provider("hotmail-com.olc.protection.outlook.com").as_deref(), Some("outlook"));
    }

    #[test]
    fn well_known_domains_are_known_without_dns() {
        let map = Map::built_in().unwrap();
        for (domain, provider) in [
            ("gmail.com", "google"),
            ("yahoo.co.uk", "yahoo"),
            ("yahoo.co.jp", "yahoo-japan"),
            ("hotmail.fr", "outlook"),
            ("docomo.ne.jp", "docomo"),
            ("ezweb.ne.jp", "au"),
            ("i.softbank.jp", "softbank"),
            ("126.com", "163"),
        ] {
            assert_eq!(map.of_domain(domain).map(|name| &**name), Some(provider), "{domain}");
        }
        assert_eq!(map.of_domain("example.com"), None);
    }

    #[test]
    fn look_alikes_belong_to_nobody() {
        for host in ["google.com.example.net", "notgoogle.com", "google.com", "com", ""] {
            assert_eq!(provider(host), None, "{host}");
        }
    }

    #[test]
    fn two_providers_cannot_claim_one_pattern() {
        let text = "[[provider]]\nname = \"a\"\nmx = [\"*.x.test\"]\n[[provider]]\nname = \"b\"\nmx = [\"*.x.test\"]\n";

        let error = text.parse::<Map>().unwrap_err();

        assert_eq!(
            error,
            MapError::Pattern { provider: "b".into(), error: PatternError::Duplicate("*.x.test".into()) }
        );
    }
}
