//! `[delivery]`, `[dns]` and `[[route]]`: how next hops are found and talked to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Complaints;
use super::units::{Network, Span};
use crate::dns::settings::NextHop;
use crate::smtp::address::is_domain;

/// The transaction towards MX hosts. Time-outs carry the names of RFC 5321, 4.5.3.2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delivery {
    /// Port of MX hosts. Another one than 25 is for demonstrations and tests.
    pub port: u16,
    /// Whether IPv6 addresses of MX hosts are used.
    pub ipv6: bool,
    /// STARTTLS towards domains that no rule names.
    pub tls: TlsMode,
    /// STARTTLS for certain domains.
    #[serde(rename = "tls_rule")]
    pub tls_rules: Vec<TlsRule>,
    /// A PEM file of certificate authorities that are trusted beside the system's. Empty: none.
    pub tls_ca: PathBuf,
    /// Whether `TLS-Required: No` is followed.
    pub tls_waivers: bool,
    /// Whether policies that domains publish by MTA-STS are looked up and kept to (RFC 8461).
    pub mta_sts: bool,
    /// Whether CHUNKING is used where it is offered.
    pub chunking: bool,
    /// Whether a transaction may be begun behind the content of the one before, where PIPELINING is offered.
    pub look_ahead: bool,
    /// How long an idle connection is kept.
    pub idle: Span,
    /// TCP connection.
    pub connect_timeout: Span,
    /// The 220 greeting (4.5.3.2.1).
    pub greeting_timeout: Span,
    /// EHLO, HELO, STARTTLS and RSET.
    pub ehlo_timeout: Span,
    /// MAIL (4.5.3.2.2).
    pub mail_timeout: Span,
    /// RCPT (4.5.3.2.3).
    pub rcpt_timeout: Span,
    /// DATA (4.5.3.2.4).
    pub data_timeout: Span,
    /// Each block of content (4.5.3.2.5).
    pub content_timeout: Span,
    /// The reply to the end of data (4.5.3.2.6).
    pub end_of_data_timeout: Span,
    /// How long a stop waits for transactions that are under way.
    pub drain: Span,
}

/// STARTTLS towards a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// When offered, without verification; clear text when it fails (RFC 7435). What the domain publishes by DANE or
    /// MTA-STS raises it.
    #[default]
    Opportunistic,
    /// Never.
    None,
    /// Always; who the receiver is remains unknown unless the domain publishes DANE or MTA-STS.
    Required,
    /// Always, with a certificate of a trusted authority for the MX host's name, or for one that the rule names.
    Verified,
    /// Always, with a certificate that TLSA records name (RFC 7672).
    Dane,
    /// Always, as the domain's MTA-STS policy says (RFC 8461), even if that is a test.
    MtaSts,
}

/// STARTTLS for certain domains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsRule {
    /// A domain, or `*.suffix`.
    pub domain: String,
    /// What is done there.
    pub tls: TlsMode,
    /// With `verified`, else without effect: names that the certificate may be for, in place of the MX host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

impl Default for Delivery {
    fn default() -> Self {
        let seconds = |seconds| Span(Duration::from_secs(seconds));
        Self {
            port: 25,
            ipv6: true,
            tls: TlsMode::Opportunistic,
            tls_rules: Vec::new(),
            tls_ca: PathBuf::new(),
            tls_waivers: true,
            mta_sts: true,
            chunking: true,
            look_ahead: true,
            idle: seconds(10),
            connect_timeout: seconds(30),
            greeting_timeout: seconds(300),
            ehlo_timeout: seconds(300),
            mail_timeout: seconds(300),
            rcpt_timeout: seconds(300),
            data_timeout: seconds(120),
            content_timeout: seconds(180),
            end_of_data_timeout: seconds(600),
            drain: seconds(30),
        }
    }
}

impl Delivery {
    pub(super) fn check(&self, complaints: &mut Complaints) {
        complaints.range("delivery.port", &self.port, &1, &u16::MAX);
        for (index, rule) in self.tls_rules.iter().enumerate() {
            check_pattern(&rule.domain, format!("delivery.tls_rule[{index}].domain"), complaints);
            let key = format!("delivery.tls_rule[{index}].names");
            for name in &rule.names {
                complaints.host_name(key.clone(), name);
            }
        }
        complaints.file("delivery.tls_ca", &self.tls_ca);
        let domains = self.tls_rules.iter().map(|rule| rule.domain.as_str());
        complaints.different(domains, |index| format!("delivery.tls_rule[{index}].domain"));
        let (none, most) = (Span::default(), Span(Duration::from_secs(3600)));
        complaints.range("delivery.idle", &self.idle, &none, &most);
        complaints.range("delivery.drain", &self.drain, &none, &most);
        let least = Span(Duration::from_millis(100));
        for (name, span) in [
            ("connect_timeout", self.connect_timeout),
            ("greeting_timeout", self.greeting_timeout),
            ("ehlo_timeout", self.ehlo_timeout),
            ("mail_timeout", self.mail_timeout),
            ("rcpt_timeout", self.rcpt_timeout),
            ("data_timeout", self.data_timeout),
            ("content_timeout", self.content_timeout),
            ("end_of_data_timeout", self.end_of_data_timeout),
        ] {
            complaints.range(format!("delivery.{name}"), &span, &least, &most);
        }
    }
}

/// How MX hosts are found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Resolvers with their ports; empty: the system's (`/etc/resolv.conf`).
    pub resolvers: Vec<SocketAddr>,
    /// How long one query to one resolver may take.
    pub timeout: Span,
    /// How often a query is sent.
    pub attempts: u8,
    /// Loopback, link-local and private networks that MX hosts may nevertheless be in.
    pub allow_networks: Vec<Network>,
    /// Whether answers are validated, which DANE needs.
    pub dnssec: Dnssec,
    /// A file of DNSKEY records that are trusted in place of the root's built-in keys. Empty: those.
    pub trust_anchor: PathBuf,
}

/// Whether answers about domains are validated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dnssec {
    /// As long as the resolvers give signatures of the root; else DANE is not used.
    #[default]
    Auto,
    /// Always: mail waits where resolvers withhold signatures.
    On,
    /// Never, so DANE is not used.
    Off,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            timeout: Span(Duration::from_secs(5)),
            attempts: 2,
            allow_networks: Vec::new(),
            dnssec: Dnssec::Auto,
            trust_anchor: PathBuf::new(),
        }
    }
}

impl Dns {
    pub(super) fn check(&self, complaints: &mut Complaints) {
        let (least, most) = (Span(Duration::from_millis(50)), Span(Duration::from_secs(60)));
        complaints.range("dns.timeout", &self.timeout, &least, &most);
        complaints.range("dns.attempts", &self.attempts, &1, &10);
        complaints.file("dns.trust_anchor", &self.trust_anchor);
    }
}

/// A next hop that replaces the MX look-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A domain, `*.suffix`, or `*` for all.
    pub domain: String,
    /// `smtp://host:port`, or `discard`.
    pub next_hop: String,
}

impl Route {
    pub(super) fn check(&self, key: &str, complaints: &mut Complaints) {
        if self.domain != "*" {
            check_pattern(&self.domain, format!("{key}.domain"), complaints);
        }
        complaints.unless(
            self.next_hop.parse::<NextHop>().is_ok(),
            format!("{key}.next_hop"),
            format!("{:?} is no next hop; allowed: \"smtp://host\", \"smtp://host:port\", \"discard\"", self.next_hop),
        );
    }
}

pub(super) fn check_pattern(pattern: &str, key: String, complaints: &mut Complaints) {
    let name = pattern.strip_prefix("*.").unwrap_or(pattern);
    complaints.unless(
        is_domain(name.strip_suffix('.').unwrap_or(name)),
        key,
        format!("{pattern:?} is no domain; allowed: \"example.com\" or \"*.example.com\""),
    );
}
