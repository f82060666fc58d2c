//! In which order the addresses of a plan are tried.
//!
//! By preference, equal preferences shuffled for each connection (RFC 5321, 5.1). Among hosts of one preference each
//! one's first address comes before anybody's second: a host with many dead addresses must not keep its equals from
//! being tried. An address in doubt goes first, so that a receiver that already has the message can recognise it.

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
    let mut ranked: Vec<((u16, usize, u64), Target)> = Vec::new();
    for host in plan.hosts.iter().filter(|host| !excluded.contains(&host.name)) {
        let random = shuffle.draw();
        let usable = usable(host, source, plan.port);
        ranked.extend(usable.enumerate().map(|(round, target)| ((host.preference, round, random), target)));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    let mut targets: Vec<Target> = ranked.into_iter().map(|(_, target)| target).collect();
    if let Some(position) = in_doubt.and_then(|doubt| targets.iter().position(|target| target.address == doubt))
        && let Some(first) = targets.get_mut(..=position)
    {
        first.rotate_right(1);
    }
    targets
}

/// The addresses of a host that the source can reach.
fn usable(host: &MxHost, source: &Source, port: u16) -> impl Iterator<Item = Target> {
    host.addresses.iter().filter_map(move |&address| {
        let local = local_address(source, address)?;
        Some(Target { host: Arc::clone(&host.name), address: SocketAddr::new(address, port), local })
    })
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
    use crate::dns::{MxProof, TlsPolicy, Transport};

    fn plan(hosts: &[(&str, u16, &[&str])]) -> Plan {
        let host = |&(name, preference, addresses): &(&str, u16, &[&str])| MxHost {
            name: name.into(),
            preference,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        Plan {
            domain: "x.test".into(),
            site: "x.test".into(),
            parent: None,
            mx_set: "mx".into(),
            hosts: hosts.iter().map(host).collect(),
            port: 25,
            transport: Transport::Smtp,
            tls: TlsPolicy::None,
            security: None,
            mx_proof: MxProof::None,
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
    fn hosts_of_one_preference_take_turns_and_the_next_preference_waits() {
        let many = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
        let plan = plan(&[("a", 10, &many), ("b", 10, &["2001:db8::1", "10.0.1.1"]), ("c", 20, &["10.0.2.1"])]);

        for _ in 0..16 {
            let order = order(&plan, &source(Some("0.0.0.0"), None), None, &[]);

            assert!(order[..2].contains(&"10.0.1.1".into()) && order[..2].contains(&"10.0.0.1".into()), "{order:?}");
            assert_eq!(order[2..], ["10.0.0.2", "10.0.0.3", "10.0.2.1"]);
        }
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
