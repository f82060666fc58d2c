//! The configuration: one TOML file, every option with a default, errors that name file, key and allowed range.
//!
//! [`Config::load`] reads and checks a file; nothing is applied here. The daemon turns the sections into each module's
//! own settings. `config.example.toml` lists every option; `tests/config.rs` holds it equal to the defaults here.

pub mod bounces;
pub mod changes;
pub mod delivery;
pub mod egress;
mod every;
mod file;
mod files;
pub mod journal;
pub mod limits;
pub mod listen;
pub mod names;
pub mod privacy;
pub mod queue;
mod ranges;
pub mod replies;
pub mod service;
pub mod signing;
pub mod spool;
pub mod suppression;
pub mod tls;
pub mod tls_report;
pub mod units;
pub mod unsubscribe;
pub mod users;
pub mod warmup;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use bounces::{BounceTenant, Bounces, Dsns};
pub use delivery::{Delivery, Dns, Dnssec, Route, TlsMode, TlsRule};
pub use egress::{Pool, PoolMember, Source};
pub use journal::Journal;
pub use limits::{LimitRule, Limits, RuleScope};
pub use listen::{BareLineEnd, Lane, Listener, ListenerTls, Mode};
pub use privacy::{MaskMode, Privacy};
pub use queue::{InDoubt, Queue, Retry, TenantRule};
pub use replies::Replies;
pub use service::{Admin, LogFormat, Logging, Metrics, Sandbox};
pub use signing::{Dkim, Signing};
pub use spool::{AttemptDurability, Spool};
pub use suppression::{Suppressed, Suppression, SuppressionAction, SuppressionRule, Whose};
pub use tls::Certificate;
pub use tls_report::TlsReport;
pub use unsubscribe::{Unsubscribe, UnsubscribeScope, UnsubscribeTenant};
pub use users::{SenderPolicy, Users};
pub use warmup::Warmup;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Our name in the greeting, in trace fields and DSNs. Empty: the system's host name.
    pub hostname: String,
    /// Who the daemon becomes when it is started as root, by name or number. Empty: it stays who it is.
    pub user: String,
    /// With which group, by name or number. Empty: the user's.
    pub group: String,
    /// Whether the daemon is confined to its folders.
    pub sandbox: Sandbox,
    /// Threads that deliver; 0: one a core. Two more serve the listeners and their sessions.
    pub threads: usize,
    /// The durable spool.
    pub spool: Spool,
    /// How addresses are shown.
    pub privacy: Privacy,
    /// Where messages are accepted.
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    /// What listeners prove their names by.
    #[serde(rename = "certificate")]
    pub certificates: Vec<Certificate>,
    /// Who may authenticate.
    pub users: Users,
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
    /// How much sources may send while they are new to a provider.
    #[serde(rename = "warmup")]
    pub warmups: Vec<Warmup>,
    /// What the operator allows at most.
    pub limits: Limits,
    /// What refusals mean.
    pub replies: Replies,
    /// What they come to, and what is said of those who get no mail.
    pub suppression: Suppression,
    /// Where what comes back is to come.
    pub bounces: Bounces,
    /// Keys that sign messages.
    pub dkim: Vec<Dkim>,
    /// What holds for all signatures.
    pub signing: Signing,
    /// Reports of how TLS goes.
    pub tls_report: TlsReport,
    /// Links by which recipients take themselves off.
    pub unsubscribe: Unsubscribe,
    /// The record of what happened to each recipient.
    pub journal: Journal,
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
            user: String::new(),
            group: String::new(),
            sandbox: Sandbox::default(),
            threads: 0,
            spool: Spool::default(),
            privacy: Privacy::default(),
            listeners: vec![Listener::default()],
            certificates: Vec::new(),
            users: Users::default(),
            queue: Queue::default(),
            retry: Retry::default(),
            delivery: Delivery::default(),
            dns: Dns::default(),
            routes: Vec::new(),
            sources: Vec::new(),
            pools: Vec::new(),
            warmups: Vec::new(),
            limits: Limits::default(),
            replies: Replies::default(),
            suppression: Suppression::default(),
            bounces: Bounces::default(),
            dkim: Vec::new(),
            signing: Signing::default(),
            tls_report: TlsReport::default(),
            unsubscribe: Unsubscribe::default(),
            journal: Journal::default(),
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
    /// Rules about replies that cannot be used; the text names the rule and the key.
    #[error("{}: {error}", path.display())]
    Rules {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: crate::reply::RulesError,
    },
    /// A certificate that cannot be used; the text names the file.
    #[error("{}: {error}", path.display())]
    Certificate {
        /// The configuration.
        path: PathBuf,
        /// What is wrong with the certificate.
        error: crate::tls::LoadError,
    },
    /// A key that signs cannot be used; the text names its file.
    #[error(transparent)]
    Key(#[from] crate::dkim::KeyError),
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
pub struct Complaints {
    found: Vec<Complaint>,
    /// Every range that was checked, by key: errors about the kind of a value tell it too.
    ranges: Vec<(String, String)>,
}

impl Complaints {
    /// Complains about `key` unless `is_right`.
    pub fn unless(&mut self, is_right: bool, key: impl Into<String>, text: impl Into<String>) {
        if !is_right {
            self.found.push(Complaint { key: key.into(), text: text.into() });
        }
    }

    /// Complains if `value` is outside `least..=most`.
    pub fn range<T: PartialOrd + std::fmt::Display>(&mut self, key: impl Into<String>, value: &T, least: &T, most: &T) {
        let (key, range) = (key.into(), format!("{least} to {most}"));
        let is_right = value >= least && value <= most;
        self.unless(is_right, key.clone(), format!("{value} is out of range; allowed: {range}"));
        self.ranges.push((key, range));
    }
}

impl Config {
    /// Reads and checks a file. May block as long as its disk does, but not on a pipe.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = file::read(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse(&text, path)
    }

    /// Every mistake of a file, for people; and what it says, unless there is one of form. May block as [`Config::load`].
    pub fn mistakes(path: &Path) -> (Vec<ConfigError>, Option<Self>) {
        every::mistakes(path)
    }

    /// Checks the text of a file; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|error| ConfigError::Syntax { path: path.to_owned(), text: ranges::explain(text, &error) })?;
        match config.complaints().into_iter().next() {
            None => Ok(config),
            Some(Complaint { key, text }) => Err(ConfigError::Value { path: path.to_owned(), key, text }),
        }
    }

    /// Everything that is wrong with it, empty if it can be used.
    pub fn complaints(&self) -> Vec<Complaint> {
        let mut complaints = Complaints::default();
        self.check(&mut complaints);
        complaints.found
    }

    /// The directory of the audit log.
    pub fn audit_folder(&self) -> PathBuf {
        match self.admin.audit.as_os_str().is_empty() {
            true => self.spool.path.join("audit"),
            false => self.admin.audit.clone(),
        }
    }

    fn check(&self, complaints: &mut Complaints) {
        if !self.hostname.is_empty() {
            complaints.host_name("hostname", &self.hostname);
        }
        complaints.account("user", &self.user);
        complaints.account("group", &self.group);
        let text = "of no use without `user`; allowed: \"\", or a user too";
        complaints.unless(self.group.is_empty() || !self.user.is_empty(), "group", text);
        complaints.range("threads", &self.threads, &0, &1024);
        self.spool.check(complaints);
        self.privacy.check(complaints);
        complaints.unless(!self.listeners.is_empty(), "listener", "at least one [[listener]] is needed");
        for (index, listener) in self.listeners.iter().enumerate() {
            listener.check(&format!("listener[{index}]"), complaints);
        }
        self.users.check(complaints);
        for (index, listener) in self.listeners.iter().enumerate() {
            let text = "needs users; allowed: false, or `users.file` too";
            complaints.unless(!listener.auth || self.users.path().is_some(), format!("listener[{index}].auth"), text);
        }
        for (index, certificate) in self.certificates.iter().enumerate() {
            certificate.check(&format!("certificate[{index}]"), complaints);
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            let text = "needs a [[certificate]]; allowed: \"none\", or a certificate too";
            let can = listener.tls == ListenerTls::None || !self.certificates.is_empty();
            complaints.unless(can, format!("listener[{index}].tls"), text);
        }
        let text = "needs a [[certificate]]; allowed: false, or a certificate too";
        complaints.unless(!self.admin.tls || !self.certificates.is_empty(), "admin.tls", text);
        self.queue.check(complaints);
        self.retry.check(complaints);
        self.delivery.check(complaints);
        self.dns.check(complaints);
        for (index, route) in self.routes.iter().enumerate() {
            route.check(&format!("route[{index}]"), complaints);
        }
        let domains = self.routes.iter().map(|route| route.domain.as_str());
        complaints.different(domains, |index| format!("route[{index}].domain"));
        egress::check(&self.sources, &self.pools, complaints);
        warmup::check(&self.warmups, &self.sources, complaints);
        self.limits.check(&self.sources, complaints);
        self.replies.check(complaints);
        self.suppression.check(complaints);
        self.bounces.check(complaints);
        for (index, listener) in self.listeners.iter().enumerate() {
            let text = "\"returns\" is for the domains of `bounces`, and there are none; allowed: \"submission\", or such a domain";
            let is_right = listener.mode != Mode::Returns || self.bounces.has_domains();
            complaints.unless(is_right, format!("listener[{index}].mode"), text);
        }
        signing::check(&self.dkim, &self.signing, complaints);
        self.tls_report.check(complaints);
        self.unsubscribe.check(!self.certificates.is_empty(), complaints);
        self.journal.check(complaints);
        self.admin.check(complaints);
        self.log.check(complaints);
        self.check_addresses(complaints);
    }

    /// Two that listen at one address and port: the second could not be bound.
    fn check_addresses(&self, complaints: &mut Complaints) {
        let listeners = self.listeners.iter().enumerate();
        let mut places: Vec<(String, SocketAddr)> =
            listeners.map(|(index, listener)| (format!("listener[{index}].address"), listener.address)).collect();
        let desks = self.admin.listen.iter().enumerate();
        places.extend(desks.map(|(index, address)| (format!("admin.listen[{index}]"), *address)));
        let clicks = self.unsubscribe.listen.iter().enumerate();
        places.extend(clicks.map(|(index, address)| (format!("unsubscribe.listen[{index}]"), *address)));
        if self.metrics.enabled {
            places.push(("metrics.address".to_owned(), self.metrics.address));
        }
        for (index, (key, address)) in places.iter().enumerate() {
            let taken = places.iter().take(index).find(|(_, other)| is_same_place(address, other));
            if let Some((other, _)) = taken {
                complaints.unless(
                    false,
                    key,
                    format!("{address} is taken by {other}; allowed: another address or port"),
                );
            }
        }
    }
}

/// Port 0 is a new one each time; the unspecified address is every one of its family.
fn is_same_place(one: &SocketAddr, other: &SocketAddr) -> bool {
    let is_wide = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || is_wide && one.is_ipv4() == other.is_ipv4())
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
    fn names_that_could_add_lines_or_words_are_refused() {
        let pool = "[[source]]\nname = \"a\"\n[[pool]]\nname = \"a\"\nsources = [{ source = \"a\" }]\n";
        let named_pool = pool.replace("[[pool]]\nname = \"a\"", "[[pool]]\nname = \"BAD\"");
        for (text, key) in [
            ("hostname = \"BAD\"\n", "hostname"),
            ("user = \"BAD\"\n", "user"),
            ("user = \"a\"\ngroup = \"BAD\"\n", "group"),
            ("[[source]]\nname = \"BAD\"\n", "source[0].name"),
            ("[[source]]\nname = \"a\"\nehlo_name = \"BAD\"\n", "source[0].ehlo_name"),
            (&named_pool, "pool[0].name"),
            (&format!("{pool}tenants = [\"BAD\"]\n"), "pool[0].tenants[0]"),
            (&format!("{pool}sender_domains = [\"BAD\"]\n"), "pool[0].sender_domains[0]"),
            ("[[listener]]\ntenant = \"BAD\"\n", "listener[0].tenant"),
            ("[[listener]]\npostmaster = \"p@BAD\"\n", "listener[0].postmaster"),
            ("[[queue.tenant]]\nname = \"BAD\"\n", "queue.tenant[0].name"),
            ("[[limits.rule]]\nsite = \"BAD\"\nconnections = 1\n", "limits.rule[0].site"),
            ("[[route]]\ndomain = \"BAD\"\nnext_hop = \"discard\"\n", "route[0].domain"),
            ("[[route]]\ndomain = \"a\"\nnext_hop = \"smtp://BAD\"\n", "route[0].next_hop"),
            ("[[delivery.tls_rule]]\ndomain = \"BAD\"\ntls = \"none\"\n", "delivery.tls_rule[0].domain"),
        ] {
            for bad in ["a.test\\r\\n250 x", "a b", "a\\u2028b", "a\\u061cb", "a\\u0000"] {
                let said = complaint(&text.replace("BAD", bad));

                let is_told = said.contains(&format!("hikyaku.toml: {key}: ")) && said.contains("allowed: ");
                assert!(is_told, "{key} {bad}: {said}");
                assert!(!said.contains(['\r', '\n', '\0', '\u{2028}', '\u{61c}']), "{said:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_bound_or_stands_twice_is_refused() {
        let listener = |address: &str| format!("[[listener]]\naddress = \"{address}\"\n");
        let desk = |address: &str| format!("[admin]\nlisten = [\"{address}\"]\ntokens = \"/t\"\n");
        let site = "[[limits.rule]]\nsite = \"a\"\nconnections = 1\n";
        let route = "[[route]]\ndomain = \"a.test\"\nnext_hop = \"discard\"\n";
        for (text, key) in [
            (listener("127.0.0.1:25") + &listener("127.0.0.1:25"), "listener[1].address"),
            (listener("127.0.0.1:25") + &listener("0.0.0.0:25"), "listener[1].address"),
            (listener("127.0.0.1:9225"), "metrics.address"),
            ("group = \"mail\"\n".to_owned(), "group"),
            ("[[listener]]\nsocket_name = \"a:b\"\n".to_owned(), "listener[0].socket_name"),
            (site.repeat(2), "limits.rule[1]"),
            ("[[limits.rule]]\nsite = \"a\"\n".to_owned(), "limits.rule[0]"),
            ("[[limits.rule]]\nconnections = 1\n".to_owned(), "limits.rule[0]"),
            ("[[limits.rule]]\nsite = \"*\"\nconnections = 1\n".to_owned(), "limits.rule[0].site"),
            ("[[limits.rule]]\ntenant = \"a\"\nconnections = 1\n".to_owned(), "limits.rule[0].connections"),
            ("[[limits.rule]]\nsource = \"a\"\nconnections = 1\n".to_owned(), "limits.rule[0].connections"),
            ("[[queue.tenant]]\nname = \"a\"\n".repeat(2), "queue.tenant[1].name"),
            ("[[source]]\nname = \"a\"\n".repeat(2), "source[1].name"),
            (route.to_owned() + &route.replace("a.test", "A.test."), "route[1].domain"),
            (format!("[admin]\nsocket = \"/{}\"\n", "x".repeat(107)), "admin.socket"),
            ("[users]\nfile = \"users.toml\"\n".to_owned(), "users.file"),
            ("[spool]\npath = \"spool\"\n".to_owned(), "spool.path"),
            ("[spool]\npath = \"/a\\nb\"\n".to_owned(), "spool.path"),
            ("[journal]\npath = \"log\"\n".to_owned(), "journal.path"),
            ("[journal]\nbuffer = \"1KiB\"\n".to_owned(), "journal.buffer"),
            ("[admin]\nsocket = \"/a\\u001bb\"\n".to_owned(), "admin.socket"),
            ("[log]\nfilter = \"a=b=c\"\n".to_owned(), "log.filter"),
            (desk("192.0.2.1:8025"), "admin.listen[0]"),
            (desk("0.0.0.0:8025"), "admin.listen[0]"),
            (desk("192.0.2.1:8025") + "tls = true\n", "admin.tls"),
            (desk("127.0.0.1:8025").replace("/t", "t"), "admin.tokens"),
            (desk("127.0.0.1:8025").replace("/t", ""), "admin.tokens"),
            (desk("127.0.0.1:9225"), "metrics.address"),
        ] {
            let said = complaint(&text);

            assert!(said.contains(&format!("hikyaku.toml: {key}: ")) && said.contains("allowed: "), "{said}");
        }
        let ports =
            listener("127.0.0.1:0") + &listener("127.0.0.1:0") + &listener("[::1]:25") + &listener("0.0.0.0:25");
        assert!(Config::parse(&ports, Path::new("x")).is_ok());
    }

    #[test]
    fn a_value_of_the_wrong_kind_names_what_is_allowed() {
        for (text, range) in [
            ("threads = -1\n", "expected a whole number; allowed: 0 to 1024"),
            ("threads = \"four\"\n", "expected a whole number; allowed: 0 to 1024"),
            ("[[listener]]\nmax_hops = \"x\" # many\n", "allowed: 1 to 10000"),
            ("[[listener]]\ntimeout = 30\n", "allowed: 1s to 1h"),
            ("[[queue.tenant]]\nname = \"a\"\nweight = true\n", "allowed: 1 to 1000"),
            ("[[pool]]\nname = \"a\"\nsources = [{ source = \"a\", weight = \"x\" }]\n", "allowed: 1 to 1000"),
            ("[[listener]]\nmode = \"relay\"\n", "expected `submission` or `returns`"),
        ] {
            let said = complaint(text);

            assert!(said.contains(range) && !said.contains("usize"), "{said}");
        }
    }

    #[test]
    fn a_pool_of_an_unknown_source_is_refused() {
        let said = complaint("[[pool]]\nname = \"a\"\nsources = [{ source = \"nowhere\" }]\n");

        assert!(said.contains("pool[0].sources[0]") && said.contains("nowhere"), "{said}");
    }
}
