//! Which addresses DNS may send us to, and which are our own.
//!
//! An MX answer is written by a stranger: without this filter it could point the daemon at its own host or network
//! (server-side request forgery by DNS). Addresses an operator wrote into a route are not filtered.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::config::units::Network;

/// Whether DNS may send us to `address`: it is public, or the operator allows its network.
pub fn is_allowed(address: IpAddr, allowed: &[Network]) -> bool {
    is_public(address) || allowed.iter().any(|network| network.contains(address))
}

/// Whether `address` can belong to a host on the Internet: not loopback, link-local, private, shared (RFC 6598),
/// unspecified, multicast, broadcast or reserved, nor an IPv6 form that carries such an IPv4 address.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Whether `address` is one of this machine's, so that a socket can be bound to it; only "not available" means no.
pub fn is_local(address: IpAddr) -> bool {
    address.is_unspecified()
        || !matches!(UdpSocket::bind(SocketAddr::new(address, 0)),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable)
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_shared = a == 100 && b & 0xc0 == 64;
    let is_protocol_assignment = a == 192 && b == 0 && c == 0;
    !(a == 0
        || a >= 240
        || is_shared
        || is_protocol_assignment
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, _, _, _, g, h] = address.segments();
    let embedded = match (a, b) {
        (0x64, 0xff9b) => Some((g, h)), // NAT64, RFC 6052
        (0x2002, _) => Some((b, c)),    // 6to4, RFC 3056
        _ => None,
    };
    if let Some((high, low)) = embedded
        && !is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
    {
        return false;
    }
    let is_site_local = a & 0xffc0 == 0xfec0;
    // A first word of 0 covers ::, ::1 and the deprecated IPv4-compatible addresses.
    !(a == 0 || address.is_multicast() || address.is_unique_local() || address.is_unicast_link_local() || is_site_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_our_own_network_are_not_public() {
        for bad in [
            "127.0.0.1",
            "127.8.9.10",
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.8",
            "224.0.0.1",
            "255.255.255.255",
            "250.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12:3456::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "::7f00:1",
        ] {
            assert!(!is_public(bad.parse().unwrap()), "{bad}");
        }
    }

    #[test]
    fn addresses_of_the_internet_are_public() {
        for good in [
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.2.1",
            "223.255.255.255",
            "2001:db8::1",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(is_public(good.parse().unwrap()), "{good}");
        }
    }

    #[test]
    fn an_allowed_network_lets_only_its_own_addresses_pass() {
        let allowed = ["10.1.0.0/16".parse::<Network>().unwrap()];

        assert!(is_allowed("10.1.255.1".parse().unwrap(), &allowed));
        assert!(is_allowed("::ffff:10.1.0.1".parse().unwrap(), &allowed));
        assert!(!is_allowed("10.2.0.1".parse().unwrap(), &allowed));
        assert!(is_allowed("8.8.8.8".parse().unwrap(), &allowed));
    }

    #[test]
    fn a_prefix_of_zero_allows_a_whole_family() {
        let allowed = ["0.0.0.0/0".parse::<Network>().unwrap()];

        assert!(is_allowed("127.0.0.1".parse().unwrap(), &allowed));
        assert!(!is_allowed("::1".parse().unwrap(), &allowed));
    }
}
