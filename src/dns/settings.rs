//! How next hops are found, as the daemon hands it to [`super::Planner`].

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::TlsPolicy;
use super::roots::Roots;
use crate::config::units::Network;

/// Everything a [`super::Planner`] needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Resolvers with their ports; empty: those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// How long one query to one resolver may take.
    pub timeout: Duration,
    /// How often a query is sent before the look-up fails; at least 1.
    pub attempts: usize,
    /// Next hops that replace the MX look-up.
    pub routes: Vec<Route>,
    /// Port of MX hosts, and of routes that name none.
    pub port: u16,
    /// Which addresses are looked up.
    pub families: Families,
    /// Networks that DNS may point to although they are loopback, link-local, private or otherwise not public.
    pub allow_networks: Vec<Network>,
    /// Our own names: an MX host of such a name, and all of equal or worse preference, is not used (RFC 5321, 5.1).
    pub own_names: Vec<String>,
    /// Addresses at which we ourselves listen on `port`; treated like `own_names`.
    pub own_addresses: Vec<IpAddr>,
    /// Which addresses are our own beside those, when we listen on all of the machine's: asked once for each answer.
    pub is_own: fn(IpAddr) -> bool,
    /// TLS by recipient domain pattern; what no pattern matches gets `default_tls`.
    pub tls: Vec<(String, TlsRule)>,
    /// TLS where no pattern says otherwise.
    pub default_tls: TlsPolicy,
    /// Whether answers are validated where DANE may be used.
    pub dnssec: Dnssec,
    /// A file of DNSKEY records that are trusted; empty: the root's built-in keys.
    pub trust_anchor: PathBuf,
    /// How MTA-STS policies are found; none: they are not.
    pub sts: Option<StsSettings>,
    /// Domains in lower case that are a site of their own, whoever runs their MX hosts.
    pub own_sites: HashSet<String>,
    /// How many domains are remembered.
    pub cache_size: usize,
    /// How long after its end a plan still serves while the resolver fails.
    pub stale: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            routes: Vec::new(),
            port: 25,
            families: Families::Both,
            allow_networks: Vec::new(),
            own_names: Vec::new(),
            own_addresses: Vec::new(),
            is_own: |_| false,
            tls: Vec::new(),
            default_tls: TlsPolicy::Opportunistic,
            dnssec: Dnssec::Off,
            trust_anchor: PathBuf::new(),
            sts: None,
            own_sites: HashSet::new(),
            cache_size: 200_000,
            stale: Duration::from_secs(86_400),
        }
    }
}

impl Settings {
    /// How many MX hosts' addresses are remembered. A plan holds those of its own hosts; this is for hosts that many
    /// domains share, and these are few.
    pub(super) fn hosts_remembered(&self) -> usize {
        (self.cache_size / 20).max(self.cache_size.min(1_000))
    }

    /// Whether the same resolvers are asked in the same way.
    pub(super) fn asks_as(&self, other: &Self) -> bool {
        self.resolvers == other.resolvers
            && self.timeout == other.timeout
            && self.attempts == other.attempts
            && self.families == other.families
            && self.cache_size == other.cache_size
            && self.dnssec == other.dnssec
            && self.trust_anchor == other.trust_anchor
            && self.sts == other.sts
            && self.allow_networks == other.allow_networks
    }

    /// Whether the same answers make the same plans.
    pub(super) fn plans_as(&self, other: &Self) -> bool {
        self.routes == other.routes
            && self.port == other.port
            && self.families == other.families
            && self.allow_networks == other.allow_networks
            && self.own_names == other.own_names
            && self.own_addresses == other.own_addresses
            && std::ptr::fn_addr_eq(self.is_own, other.is_own)
            && self.tls == other.tls
            && self.default_tls == other.default_tls
            && self.dnssec == other.dnssec
            && self.trust_anchor == other.trust_anchor
            && self.sts == other.sts
            && self.own_sites == other.own_sites
            && self.cache_size == other.cache_size
            && self.stale == other.stale
    }
}

/// TLS towards the domains of a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsRule {
    /// What is done.
    pub policy: TlsPolicy,
    /// With [`TlsPolicy::Verified`]: what certificates may be for, in place of the MX host's name.
    pub names: Arc<[Box<str>]>,
}

impl From<TlsPolicy> for TlsRule {
    fn from(policy: TlsPolicy) -> Self {
        Self { policy, names: Arc::default() }
    }
}

/// Whether answers are validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dnssec {
    /// As long as the resolvers give signatures of the root.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How MTA-STS policies are found and kept.
#[derive(Clone, Debug)]
pub struct StsSettings {
    /// Port of policy hosts; another one than 443 is for tests.
    pub port: u16,
    /// Authorities that their certificates are verified by.
    pub roots: Arc<Roots>,
    /// Where policies are kept over restarts.
    pub keeper: Arc<dyn Keeper>,
}

impl PartialEq for StsSettings {
    fn eq(&self, other: &Self) -> bool {
        self.port == other.port && self.roots.is_as(&other.roots)
    }
}

/// Keeps policies over restarts.
pub trait Keeper: std::fmt::Debug + Send + Sync {
    /// What was kept last. Blocks on the disk.
    fn read(&self) -> Option<Vec<u8>>;
    /// Keeps this. Blocks on the disk.
    fn replace(&self, content: &[u8]) -> std::io::Result<()>;
    /// The policy that a domain announces cannot be had: the result type of RFC 8460, 4.3, and why.
    fn failed(&self, _domain: &str, _result: &'static str, _why: &str) {}
}

/// Keeps nothing: for commands that look once.
#[derive(Debug)]
pub struct Forgetful;

impl Keeper for Forgetful {
    fn read(&self) -> Option<Vec<u8>> {
        None
    }

    fn replace(&self, _content: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

/// Address families that are looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// AAAA and A.
    #[default]
    Both,
    /// A only.
    Ipv4,
    /// AAAA only.
    Ipv6,
}

impl Families {
    /// Whether A records are looked up.
    pub const fn has_ipv4(self) -> bool {
        matches!(self, Self::Both | Self::Ipv4)
    }

    /// Whether AAAA records are looked up.
    pub const fn has_ipv6(self) -> bool {
        matches!(self, Self::Both | Self::Ipv6)
    }
}

/// A next hop that replaces the MX look-up for some domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// A domain, `*.suffix`, or `*` for all; the most specific one wins.
    pub pattern: String,
    /// Where their mail goes.
    pub next_hop: NextHop,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// `smtp://host`, `smtp://host:port`: a name whose addresses are looked up, or an address.
    Smtp {
        /// A host name in lower case, or an address (IPv6 in brackets in its text form).
        host: Host,
        /// None: [`Settings::port`].
        port: Option<u16>,
    },
    /// `discard`: counted as delivered and dropped.
    Discard,
}

/// A host as a route names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// To be looked up (A and AAAA, no MX).
    Name(String),
    /// Used as it is.
    Address(IpAddr),
}

/// A text that is no next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a next hop; write \"smtp://host\", \"smtp://host:port\", \"smtp://[::1]:port\" or \"discard\"")]
pub struct NextHopError;

impl FromStr for NextHop {
    type Err = NextHopError;

    fn from_str(text: &str) -> Result<Self, NextHopError> {
        if text == "discard" {
            return Ok(Self::Discard);
        }
        let hop = text.strip_prefix("smtp://").ok_or(NextHopError)?;
        let hop = hop.strip_suffix('/').unwrap_or(hop);
        let (host, port) = match hop.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']').ok_or(NextHopError)?;
                let address: std::net::Ipv6Addr = address.parse().map_err(|_| NextHopError)?;
                let port = if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(NextHopError)?) };
                (Host::Address(address.into()), port)
            }
            None => match hop.split_once(':') {
                Some((host, port)) => (host_of(host)?, Some(port)),
                None => (host_of(hop)?, None),
            },
        };
        let port = port.map(|port| port.parse().ok().filter(|&port| port != 0).ok_or(NextHopError)).transpose()?;
        Ok(Self::Smtp { host, port })
    }
}

fn host_of(text: &str) -> Result<Host, NextHopError> {
    if let Ok(address) = text.parse::<std::net::Ipv4Addr>() {
        return Ok(Host::Address(address.into()));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if super::mx::is_host_name(&name) { Ok(Host::Name(name)) } else { Err(NextHopError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smtp(host: Host, port: Option<u16>) -> Result<NextHop, NextHopError> {
        Ok(NextHop::Smtp { host, port })
    }

    #[test]
    fn next_hops_are_names_or_addresses_with_or_without_port() {
        assert_eq!("discard".parse(), Ok(NextHop::Discard));
        assert_eq!("smtp://Relay.Test.".parse(), smtp(Host::Name("relay.test".into()), None));
        assert_eq!("smtp://relay.test:2525".parse(), smtp(Host::Name("relay.test".into()), Some(2525)));
        assert_eq!("smtp://127.0.0.9:25".parse(), smtp(Host::Address("127.0.0.9".parse().unwrap()), Some(25)));
        assert_eq!("smtp://[::1]:26".parse(), smtp(Host::Address("::1".parse().unwrap()), Some(26)));
        assert_eq!("smtp://[::1]".parse(), smtp(Host::Address("::1".parse().unwrap()), None));
    }

    #[test]
    fn malformed_next_hops_are_refused() {
        for bad in [
            "",
            "smtp://",
            "smtp://a b",
            "smtp://x:0",
            "smtp://x:",
            "smtp://x:65536",
            "smtp://[::1]x",
            "smtp://::1",
            "http://x",
            "x:25",
            "smtp://1.2.3",
            "smtp://x..y",
            "smtp://u@x",
        ] {
            assert_eq!(bad.parse::<NextHop>(), Err(NextHopError), "{bad:?}");
        }
    }
}
