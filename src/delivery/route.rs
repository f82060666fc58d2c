//! In which order the addresses of a plan are tried.
//!
//! By preference, equal preferences shuffled for each connection (RFC 5321, 5.1); an address in doubt goes first, so that
//! a receiver that already has the message can recognise it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dns::{MxHost, Plan};
use crate::queue::Source;

/// An address to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The MX host's name.
    pub host: Arc<str>,
    /// Where it is.
    pub address: SocketAddr,
    /// The local address to connect from; none: the kernel chooses.
    pub local: Option<IpAddr>,
}

/// A sequence of pseudo-random numbers (splitmix64) that tasks draw from; it spreads load and keeps no secret.
#[derive(Debug, Default)]
pub struct Shuffle(AtomicU64);

impl Shuffle {
    fn draw(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The addresses to try, in order, from `source`, leaving out `excluded` hosts.
pub fn targets(
    plan: &Plan,
    source: &Source,
    in_doubt: Option<SocketAddr>,
    excluded: &[Arc<str>],
    shuffle: &Shuffle,
) -> Vec<Target> {
    let mut hosts: Vec<(u16, u64, &MxHost)> =
        plan.hosts.iter().map(|host| (host.preference, shuffle.draw(), host)).collect();
    hosts.sort_unstable_by_key(|(preference, random, _)| (*preference, *random));
    let mut targets: Vec<Target> = Vec::new();
    for (_, _, host) in hosts {
        if excluded.contains(&host.name) {
            continue;
        }
        for &address in host.addresses.iter() {
            if let Some(local) = local_address(source, address) {
                let address = SocketAddr::new(address, plan.port);
                targets.push(Target { host: Arc::clone(&host.name), address, local });
            }
        }
    }
    if let Some(position) = in_doubt.and_then(|doubt| targets.iter().position(|target| target.address == doubt))
        && let Some(first) = targets.get_mut(..=position)
    {
        first.rotate_right(1);
    }
    targets
}

/// The outer option: whether the source can reach that family at all. The inner: the address to bind to.
fn local_address(source: &Source, remote: IpAddr) -> Option<Option<IpAddr>> {
    let local = match remote {
        IpAddr::V4(_) => IpAddr::V4(source.ipv4?),
        IpAddr::V6(_) => IpAddr::V6(source.ipv6?),
    };
    let unspecified = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)].contains(&local);
    Some((!unspecified).then_some(local))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::dns::{TlsPolicy, Transport};

    fn plan(hosts: &[(&str, u16, &[&str])]) -> Plan {
        let host = |&(name, preference, addresses): &(&str, u16, &[&str])| MxHost {
            name: name.into(),
            preference,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        Plan {
            domain: "x.test".into(),
            site: "x.test".into(),
            mx_set: "mx".into(),
            hosts: hosts.iter().map(host).collect(),
            port: 25,
            transport: Transport::Smtp,
            tls: TlsPolicy::None,
            valid_until: Instant::now(),
        }
    }

    fn source(ipv4: Option<&str>, ipv6: Option<&str>) -> Source {
        Source {
            name: "s".into(),
            ipv4: ipv4.map(|address| address.parse().unwrap()),
            ipv6: ipv6.map(|address| address.parse().unwrap()),
            ehlo_name: "out.test".into(),
            connections: None,
        }
    }

    fn order(plan: &Plan, source: &Source, in_doubt: Option<&str>, excluded: &[Arc<str>]) -> Vec<String> {
        let in_doubt = in_doubt.map(|address| address.parse().unwrap());
        let targets = targets(plan, source, in_doubt, excluded, &Shuffle::default());
        targets.iter().map(|target| target.address.ip().to_string()).collect()
    }

    #[test]
    fn lower_preferences_come_first_and_families_without_a_source_not_at_all() {
        let plan = plan(&[("b", 20, &["10.0.0.2"]), ("a", 10, &["2001:db8::1", "10.0.0.1"])]);

        assert_eq!(order(&plan, &source(Some("0.0.0.0"), None), None, &[]), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(order(&plan, &source(None, Some("::")), None, &[]), ["2001:db8::1"]);
    }

    #[test]
    fn an_address_in_doubt_goes_first_and_the_rest_keeps_its_order() {
        let plan = plan(&[("a", 10, &["10.0.0.1", "10.0.0.2"]), ("b", 20, &["10.0.0.3"])]);
        let source = source(Some("0.0.0.0"), None);

        assert_eq!(order(&plan, &source, Some("10.0.0.3:25"), &[]), ["10.0.0.3", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(order(&plan, &source, Some("10.9.9.9:25"), &[]), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(order(&plan, &source, None, &["a".into()]), ["10.0.0.3"]);
    }

    #[test]
    fn equal_preferences_are_shuffled() {
        let plan = plan(&[("a", 10, &["10.0.0.1"]), ("b", 10, &["10.0.0.2"])]);
        let (source, shuffle) = (source(Some("10.0.0.9"), None), Shuffle::default());

        let firsts: Vec<_> = (0..64).map(|_| targets(&plan, &source, None, &[], &shuffle).remove(0)).collect();

        let of_a = firsts.iter().filter(|target| &*target.host == "a").count();
        assert!((16..48).contains(&of_a), "{of_a}");
        assert_eq!(firsts[0].local, Some("10.0.0.9".parse().unwrap()));
    }
}
