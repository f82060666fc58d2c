//! What an MX answer means: names, order, null MX, loops, and how addresses are shared out (RFC 5321, 5.1; RFC 7505).
//!
//! Pure: takes what DNS said, gives what may be dialled. Names that are not plain host names end here, so nothing from
//! a hostile answer reaches a log, a metric or an SMTP command.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest;

use super::{Addresses, MxHost};
use crate::text::hex;

/// Addresses in a plan altogether; trying more would only delay the outcome.
pub const MOST_ADDRESSES: usize = 20;
/// Longest name of an MX set; longer sets are cut and told apart by a digest.
const LONGEST_SET: usize = 200;

/// One MX record with a usable name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mx {
    /// Lower is better.
    pub preference: u16,
    /// Lower case, without a final dot.
    pub name: Arc<str>,
}

/// An MX answer after a look at its names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MxAnswer {
    /// By preference, then name; no name twice.
    pub hosts: Vec<Mx>,
    /// The only record was the root: the domain takes no mail (RFC 7505).
    pub is_null: bool,
    /// Records left out because their name is no host name.
    pub refused: usize,
}

/// Orders MX records and leaves out those that name no host. `None` stands for the root.
pub fn answer<'a>(records: impl Iterator<Item = (u16, Option<Vec<&'a [u8]>>)>) -> MxAnswer {
    let mut answer = MxAnswer::default();
    let (mut count, mut roots) = (0_usize, 0_usize);
    for (preference, labels) in records {
        count += 1;
        match labels.as_deref().map(host_name) {
            None => roots += 1,
            Some(Some(name)) => answer.hosts.push(Mx { preference, name: name.into() }),
            Some(None) => answer.refused += 1,
        }
    }
    answer.is_null = count == 1 && roots == 1;
    if !answer.is_null {
        answer.refused += roots;
    }
    answer.hosts.sort_unstable();
    let mut seen = std::collections::HashSet::new();
    answer.hosts.retain(|host| seen.insert(host.name.clone()));
    answer
}

/// The name that labels from the wire spell, in lower case, if it is a host name.
pub fn host_name(labels: &[&[u8]]) -> Option<String> {
    let mut name = String::new();
    for label in labels {
        if !name.is_empty() {
            name.push('.');
        }
        let label = std::str::from_utf8(label).ok().filter(|label| is_label(label))?;
        name.extend(label.chars().map(|c| c.to_ascii_lowercase()));
    }
    is_host_name(&name).then_some(name)
}

/// Whether a name is one of a host: letters, digits, hyphens and underscores (seen in the wild), not an address in disguise.
pub fn is_host_name(name: &str) -> bool {
    // RFC 3696, 2: a top-level domain is never all digits, so what ends in digits is an IPv4 address as text.
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Drops the host at `index` and all of equal or worse preference: mail would come back to us (RFC 5321, 5.1).
pub fn cut_at_own(hosts: &mut Vec<Mx>, is_own: impl Fn(&Mx) -> bool) -> bool {
    let Some(best) = hosts.iter().filter(|host| is_own(host)).map(|host| host.preference).min() else {
        return false;
    };
    hosts.retain(|host| host.preference < best);
    true
}

/// The name of an MX set: its hosts' names, sorted, joined by commas; cut and marked by a digest when very long.
pub fn set_name<'a>(names: impl Iterator<Item = &'a Arc<str>>) -> Arc<str> {
    let mut names: Vec<&Arc<str>> = names.collect();
    if let [only] = names.as_slice() {
        return Arc::clone(only);
    }
    names.sort_unstable();
    let joined = names.iter().map(|name| &***name).collect::<Vec<_>>().join(",");
    if joined.len() <= LONGEST_SET {
        return joined.into();
    }
    let digest = digest::digest(&digest::SHA256, joined.as_bytes());
    let mark = hex(digest.as_ref().get(..8).unwrap_or_default());
    let first: &str = names.first().copied().map_or("", |name| name);
    let first = first.get(..first.len().min(LONGEST_SET / 2)).unwrap_or_default();
    format!("{first},+{}#{mark}", names.len().saturating_sub(1)).into()
}

/// Gives each host in turn one address until [`MOST_ADDRESSES`] are used, so that a host with thousands of them does not
/// hide the others. Hosts left without any are dropped; order is kept.
pub fn share_out(hosts: Vec<(Mx, Arc<[IpAddr]>)>) -> Box<[MxHost]> {
    let mut takes = vec![0_usize; hosts.len()];
    let mut left = MOST_ADDRESSES;
    let mut is_more = true;
    while left > 0 && is_more {
        is_more = false;
        for ((_, addresses), take) in hosts.iter().zip(&mut takes) {
            if left > 0 && *take < addresses.len() {
                *take += 1;
                left -= 1;
                is_more = true;
            }
        }
    }
    let shared = hosts.into_iter().zip(takes).filter(|(_, take)| *take > 0);
    shared
        .map(|((mx, addresses), take)| {
            let taken = addresses.get(..take).filter(|taken| taken.len() < addresses.len());
            let addresses = taken.map(Addresses::from).unwrap_or_else(|| addresses.into());
            MxHost { name: mx.name, preference: mx.preference, addresses }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mx(preference: u16, name: &str) -> Mx {
        Mx { preference, name: name.into() }
    }

    fn labels(name: &str) -> Option<Vec<&[u8]>> {
        if name == "." { None } else { Some(name.split('.').map(str::as_bytes).collect()) }
    }

    #[test]
    fn hosts_are_ordered_by_preference_in_lower_case_and_once_each() {
        let records = [(20, labels("B.test")), (10, labels("c.test")), (10, labels("a.test")), (30, labels("c.TEST"))];

        let answer = answer(records.into_iter());

        assert_eq!(answer.hosts, [mx(10, "a.test"), mx(10, "c.test"), mx(20, "b.test")]);
        assert_eq!((answer.is_null, answer.refused), (false, 0));
    }

    #[test]
    fn only_a_lone_root_is_a_null_mx() {
        assert!(answer([(0, None)].into_iter()).is_null);
        assert!(answer([(7, None)].into_iter()).is_null);
        let mixed = answer([(0, None), (10, labels("a.test"))].into_iter());
        assert_eq!((mixed.is_null, mixed.hosts.len(), mixed.refused), (false, 1, 1));
    }

    #[test]
    fn hostile_names_are_left_out() {
        let long = "a".repeat(64);
        for bad in [
            "a\r\nb.test",
            "a\0.test",
            "a b.test",
            "\u{1b}[2J.test",
            "é.test",
            "a/../b.test",
            "x%0a.test",
            "*.test",
            "192.0.2.1",
            "1",
            "a..test",
            "<x>.test",
            "a\"b.test",
            long.as_str(),
        ] {
            let answer = answer([(1, labels(bad))].into_iter());

            assert_eq!((answer.hosts.len(), answer.refused), (0, 1), "{bad:?}");
        }
    }

    #[test]
    fn a_dot_inside_a_label_does_not_make_two_labels() {
        assert_eq!(host_name(&[b"a.b", b"test"]), None);
        assert_eq!(host_name(&[b"_dc-mx", b"Example", b"test"]).as_deref(), Some("_dc-mx.example.test"));
    }

    #[test]
    fn our_own_name_cuts_equal_and_worse_preferences() {
        let mut hosts = vec![mx(5, "a"), mx(10, "b"), mx(10, "us"), mx(20, "c")];

        assert!(cut_at_own(&mut hosts, |host| &*host.name == "us"));

        assert_eq!(hosts, [mx(5, "a")]);
        assert!(!cut_at_own(&mut hosts, |host| &*host.name == "us"));
    }

    #[test]
    fn set_names_do_not_depend_on_order_and_stay_short() {
        assert_eq!(&*set_name(["b".into(), "a".into()].iter()), "a,b");
        let many: Vec<Arc<str>> = (0..500).map(|n| format!("mx{n}.example.test").into()).collect();

        let long = set_name(many.iter());
        let other = set_name(many.iter().skip(1).chain(&["x".into()]));

        assert!(long.len() <= LONGEST_SET && long.starts_with("mx0.example.test,+499#"), "{long}");
        assert_ne!(long, other);
    }

    #[test]
    fn every_host_gets_its_share_of_twenty_addresses() {
        let addresses = |n: u8| (0..n).map(|last| IpAddr::from([192, 0, 2, last])).collect::<Arc<[_]>>();
        let hosts = vec![(mx(1, "big"), addresses(250)), (mx(2, "none"), addresses(0)), (mx(3, "small"), addresses(3))];

        let shared = share_out(hosts);

        let counts: Vec<_> = shared.iter().map(|host| (&*host.name, host.addresses.len())).collect();
        assert_eq!(counts, [("big", 17), ("small", 3)]);
    }

    #[test]
    fn more_than_twenty_hosts_give_one_address_each_for_the_best_twenty() {
        let hosts = (0..30).map(|n| (mx(n, &format!("mx{n}")), [IpAddr::from([192, 0, 2, 1]); 5].into())).collect();

        let shared = share_out(hosts);

        assert_eq!(shared.len(), 20);
        assert!(shared.iter().all(|host| host.addresses.len() == 1));
    }
}
