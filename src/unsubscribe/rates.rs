//! How often one client may come, and who the client of a proxy is.
//!
//! The rates are governor's: nothing is ever given back. An address is an IPv4 address or the /64 of an IPv6 one. Providers of
//! mailboxes click for their users from few addresses, so that the rates are far above what a campaign brings from one of
//! them; they are there against floods.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use hyper::HeaderMap;

use crate::config::units::Network;

/// Requests a minute of one client, and connections a minute of one address. Twenty a second are 0.3 % of a campaign of six
/// million in a quarter of an hour, all by one address; a handshake with RSA takes half a millisecond.
const MOST: NonZeroU32 = NonZeroU32::new(1_200).unwrap();

/// The rates of all addresses.
#[derive(Debug)]
pub(super) struct Rates {
    connections: PerAddress,
    requests: PerAddress,
}

type PerAddress = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>;

impl Default for Rates {
    fn default() -> Self {
        let rate = || RateLimiter::hashmap(Quota::per_minute(MOST));
        Self { connections: rate(), requests: rate() }
    }
}

impl Rates {
    /// Whether one more connection of this address is served.
    pub fn takes_connection(&self, address: IpAddr) -> bool {
        self.connections.check_key(&key(address)).is_ok()
    }

    /// Whether one more request of this client is.
    pub fn takes_request(&self, client: IpAddr) -> bool {
        self.requests.check_key(&key(client)).is_ok()
    }

    /// Forgets addresses that have been quiet.
    pub fn forget(&self) {
        self.connections.retain_recent();
        self.requests.retain_recent();
    }
}

/// Whoever has one IPv6 address has its whole /64.
fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Whether who connects from there is believed about its clients.
pub(super) fn is_proxy(address: IpAddr, proxies: &[Network]) -> bool {
    proxies.iter().any(|network| network.contains(address))
}

/// Who the client is: who has connected, or whom X-Forwarded-For names, from the end of it on as long as those that say so
/// are proxies of ours.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, proxies: &[Network]) -> IpAddr {
    let mut client = peer.to_canonical();
    let values = headers.get_all("x-forwarded-for").iter().rev().filter_map(|value| value.to_str().ok());
    for text in values.flat_map(|value| value.rsplit(',').map(str::trim)) {
        let named = text.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
        match named {
            Some(named) if is_proxy(client, proxies) => client = named.to_canonical(),
            _ => break,
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_proxy_is_believed_about_its_client_and_nobody_else_is() {
        let proxies = ["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        let client = |peer: &str, fields: &[&str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append("x-forwarded-for", field.parse().unwrap());
            }
            client(address(peer), &headers, &proxies).to_string()
        };

        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1", "no proxy");
        assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(client("127.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("::ffff:127.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client("127.0.0.1", &["203.0.113.9, 198.51.100.7, 10.1.1.1"]), "198.51.100.7", "its own claim");
        assert_eq!(client("127.0.0.1", &["203.0.113.9", "198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("127.0.0.1", &["198.51.100.7, unknown"]), "127.0.0.1");
    }

    #[test]
    fn a_flood_from_one_network_ends_and_others_are_served() {
        let rates = Rates::default();
        let taken = (0..3_000).filter(|_| rates.takes_request(address("2001:db8::1"))).count();

        assert!((1_200..1_400).contains(&taken), "{taken}");
        assert!(!rates.takes_request(address("2001:db8::2")), "the same /64");
        assert!(rates.takes_request(address("2001:db8:0:1::1")) && rates.takes_connection(address("2001:db8::1")));
    }
}
