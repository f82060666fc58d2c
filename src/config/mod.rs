//! The configuration: one TOML file, every option with a default, errors that name file, key and allowed range.
//!
//! [`Config::load`] reads and checks a file; nothing is applied here. The daemon turns the sections into each module's
//! own settings. `config.example.toml` lists every option; `tests/config.rs` holds it equal to the defaults here.

pub mod delivery;
pub mod egress;
pub mod listen;
pub mod queue;
pub mod service;
pub mod spool;
pub mod units;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use delivery::{Delivery, Dns, Route, TlsMode, TlsRule};
pub use egress::{Pool, PoolMember, Source};
pub use listen::{BareLineEnd, Listener};
pub use queue::{InDoubt, LimitRule, Limits, Queue, Retry, TenantRule};
pub use service::{Admin, LogFormat, Logging, Metrics};
pub use spool::{AttemptDurability, Spool};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Our name in the greeting, in trace fields and DSNs. Empty: the system's host name.
    pub hostname: String,
    /// Threads of the runtime; 0: one a core.
    pub threads: usize,
    /// The durable spool.
    pub spool: Spool,
    /// Where messages are accepted.
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    /// Queue sizes and tenants.
    pub queue: Queue,
    /// When deferred recipients are tried again.
    pub retry: Retry,
    /// The transaction towards MX hosts.
    pub delivery: Delivery,
    /// How MX hosts are found.
    pub dns: Dns,
    /// Next hops that replace the MX look-up.
    #[serde(rename = "route")]
    pub routes: Vec<Route>,
    /// Local addresses that mail leaves from.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
    /// Weighted sets of sources.
    #[serde(rename = "pool")]
    pub pools: Vec<Pool>,
    /// What one site is offered at most.
    pub limits: Limits,
    /// The admin interface.
    pub admin: Admin,
    /// The Prometheus listener.
    pub metrics: Metrics,
    /// The daemon's own log.
    pub log: Logging,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            threads: 0,
            spool: Spool::default(),
            listeners: vec![Listener::default()],
            queue: Queue::default(),
            retry: Retry::default(),
            delivery: Delivery::default(),
            dns: Dns::default(),
            routes: Vec::new(),
            sources: Vec::new(),
            pools: Vec::new(),
            limits: Limits::default(),
            admin: Admin::default(),
            metrics: Metrics::default(),
            log: Logging::default(),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Not TOML, an unknown option, or a value of the wrong kind; the text names line, column and key.
    #[error("{}: {text}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's message with its place.
        text: String,
    },
    /// A value outside its range, or one that contradicts another.
    #[error("{}: {key}: {text}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The option, in dotted form.
        key: String,
        /// What is wrong and what is allowed.
        text: String,
    },
}

/// One complaint of a section's check: dotted key and text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The option, in dotted form.
    pub key: String,
    /// What is wrong and what is allowed.
    pub text: String,
}

/// Collects complaints while a configuration is checked.
#[derive(Debug, Default)]
pub struct Complaints(Vec<Complaint>);

impl Complaints {
    /// Complains about `key` unless `is_right`.
    pub fn unless(&mut self, is_right: bool, key: impl Into<String>, text: impl Into<String>) {
        if !is_right {
            self.0.push(Complaint { key: key.into(), text: text.into() });
        }
    }

    /// Complains if `value` is outside `least..=most`.
    pub fn range<T: PartialOrd + std::fmt::Display>(&mut self, key: impl Into<String>, value: &T, least: &T, most: &T) {
        let is_right = value >= least && value <= most;
        self.unless(is_right, key, format!("{value} is out of range; allowed: {least} to {most}"));
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|error| ConfigError::Syntax { path: path.to_owned(), text: error.to_string() })?;
        match config.complaints().into_iter().next() {
            None => Ok(config),
            Some(Complaint { key, text }) => Err(ConfigError::Value { path: path.to_owned(), key, text }),
        }
    }

    /// Everything that is wrong with it, empty if it can be used.
    pub fn complaints(&self) -> Vec<Complaint> {
        let mut complaints = Complaints::default();
        complaints.range("threads", &self.threads, &0, &1024);
        self.spool.check(&mut complaints);
        complaints.unless(!self.listeners.is_empty(), "listener", "at least one [[listener]] is needed");
        for (index, listener) in self.listeners.iter().enumerate() {
            listener.check(&format!("listener[{index}]"), &mut complaints);
        }
        self.queue.check(&mut complaints);
        self.retry.check(&mut complaints);
        self.delivery.check(&mut complaints);
        self.dns.check(&mut complaints);
        for (index, route) in self.routes.iter().enumerate() {
            route.check(&format!("route[{index}]"), &mut complaints);
        }
        egress::check(&self.sources, &self.pools, &mut complaints);
        self.limits.check(&mut complaints);
        complaints.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        Config::parse(text, Path::new("hikyaku.toml")).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_usable() {
        assert_eq!(Config::default().complaints(), []);
    }

    #[test]
    fn an_unknown_option_names_file_and_key() {
        let said = complaint("[spool]\nsegment_sise = \"64MiB\"\n");

        assert!(said.contains("hikyaku.toml") && said.contains("segment_sise") && said.contains("line 2"), "{said}");
    }

    #[test]
    fn a_value_out_of_range_names_key_and_range() {
        let said = complaint("[spool]\nsegment_size = \"1KiB\"\n");

        assert!(said.contains("hikyaku.toml: spool.segment_size") && said.contains("allowed: 1MiB to 2GiB"), "{said}");
    }

    #[test]
    fn a_pool_of_an_unknown_source_is_refused() {
        let said = complaint("[[pool]]\nname = \"a\"\nsources = [{ source = \"nowhere\" }]\n");

        assert!(said.contains("pool[0].sources[0]") && said.contains("nowhere"), "{said}");
    }
}
