//! Who has failed must wait: longer each time, by address and by user.
//!
//! An address is an IPv4 address or the /64 of an IPv6 one. A user who has come in from an address before is held by what
//! fails for that pair alone: so neither guesses from elsewhere nor a neighbour behind the same address keep out who knows
//! their password. Names that nobody has are held as well, or the delay would tell them from others. The tables are bounded;
//! the least used goes first.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use parking_lot::Mutex;
use quick_cache::unsync::Cache;

/// Failures that cost no delay: people mistype.
const FREE: u32 = 3;
/// The longest delay of an address, or of a user at an address.
const ADDRESS_MOST: Duration = Duration::from_secs(900);
/// The longest delay of a user from addresses that they have not come in from: anybody can cause it.
const USER_MOST: Duration = Duration::from_secs(60);
/// Failures are forgotten after so long without one.
const MEMORY: Duration = Duration::from_secs(3_600);
/// Addresses, users and pairs that are remembered.
const ENTRIES: usize = 65_536;

/// A name for a row: a keyed hash, so that nobody can fill one place of a table by choice.
type Row = [u8; 16];

/// Counts of failures.
pub(crate) struct BackOff {
    key: hmac::Key,
    tables: Mutex<Tables>,
}

struct Tables {
    failures: Cache<Row, Failures>,
    /// Pairs of user and address that have come in.
    known: Cache<Row, ()>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    /// Of the last one.
    at: Instant,
    until: Instant,
}

/// The rows of one attempt.
struct Rows {
    address: Row,
    user: Row,
    pair: Row,
}

impl BackOff {
    /// Nobody has failed. `key` is random.
    pub fn new(key: &[u8]) -> Self {
        let tables = Tables { failures: Cache::new(ENTRIES), known: Cache::new(ENTRIES) };
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), tables: Mutex::new(tables) }
    }

    /// Until when nothing that this user sends from this address is looked at.
    pub fn held_until(&self, name: &str, client: IpAddr, now: Instant) -> Option<Instant> {
        let rows = self.rows(name, client);
        let tables = self.tables.lock();
        let until = |row: &Row| tables.failures.get(row).map(|failures| failures.until).filter(|until| *until > now);
        match tables.known.get(&rows.pair) {
            Some(()) => until(&rows.pair),
            None => until(&rows.address).max(until(&rows.user)),
        }
    }

    /// They have failed.
    pub fn failed(&self, name: &str, client: IpAddr, now: Instant) {
        let rows = self.rows(name, client);
        let mut tables = self.tables.lock();
        if tables.known.get(&rows.pair).is_some() {
            return tables.count(rows.pair, ADDRESS_MOST, now);
        }
        tables.count(rows.address, ADDRESS_MOST, now);
        tables.count(rows.user, USER_MOST, now);
    }

    /// They have come in. What failed from the address for other users stays.
    pub fn succeeded(&self, name: &str, client: IpAddr) {
        let rows = self.rows(name, client);
        let mut tables = self.tables.lock();
        tables.known.insert(rows.pair, ());
        tables.failures.remove(&rows.pair);
    }

    fn rows(&self, name: &str, client: IpAddr) -> Rows {
        let address = match client.to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)),
        };
        let row = |kind: u8, parts: &[&[u8]]| {
            let mut context = hmac::Context::with_key(&self.key);
            context.update(&[kind]);
            parts.iter().for_each(|part| context.update(part));
            let tag = context.sign();
            tag.as_ref().get(..16).and_then(|head| head.try_into().ok()).unwrap_or([kind; 16])
        };
        let (octets, name) = (address.octets(), name.as_bytes());
        Rows { address: row(0, &[&octets]), user: row(1, &[name]), pair: row(2, &[&octets, name]) }
    }
}

impl Tables {
    fn count(&mut self, row: Row, most: Duration, now: Instant) {
        let before = self.failures.get(&row).filter(|failures| now.saturating_duration_since(failures.at) < MEMORY);
        let count = before.map_or(0, |failures| failures.count).saturating_add(1);
        let delay = match count.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(doublings) => Duration::from_secs(1 << doublings.min(20)).min(most),
        };
        self.failures.insert(row, Failures { count, at: now, until: now + delay });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "192.0.2.1";
    const OTHER: &str = "192.0.2.2";

    struct Case {
        backoff: BackOff,
        now: Instant,
    }

    impl Case {
        fn new() -> Self {
            Self { backoff: BackOff::new(&[1; 32]), now: Instant::now() }
        }

        fn fail(&self, name: &str, client: &str, times: u32) {
            (0..times).for_each(|_| self.backoff.failed(name, client.parse().unwrap(), self.now));
        }

        fn seconds(&self, name: &str, client: &str) -> u64 {
            let until = self.backoff.held_until(name, client.parse().unwrap(), self.now);
            until.map_or(0, |until| (until - self.now).as_secs())
        }
    }

    #[test]
    fn the_delay_doubles_after_a_few_free_failures_up_to_a_bound() {
        let case = Case::new();
        let mut delays = Vec::new();

        for _ in 0..16 {
            case.fail("ann", ONE, 1);
            delays.push(case.seconds("bob", ONE));
        }

        assert_eq!(delays, [0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]);
        assert_eq!(case.seconds("ann", OTHER), 60, "by user, from another address");
        assert_eq!(case.seconds("bob", OTHER), 0);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let case = Case::new();

        case.fail("ann", "2001:db8::1", 4);

        assert_eq!((case.seconds("bob", "2001:db8::2"), case.seconds("bob", "2001:db8:0:1::1")), (1, 0));
    }

    #[test]
    fn who_came_in_from_an_address_is_held_by_their_own_failures_only() {
        let case = Case::new();
        case.backoff.succeeded("ann", ONE.parse().unwrap());

        case.fail("bob", ONE, 9);
        case.fail("ann", OTHER, 9);
        let before = case.seconds("ann", ONE);
        case.fail("ann", ONE, 5);

        assert_eq!((before, case.seconds("ann", ONE)), (0, 2));
        case.backoff.succeeded("ann", ONE.parse().unwrap());
        assert_eq!((case.seconds("ann", ONE), case.seconds("bob", ONE)), (0, 32));
    }

    #[test]
    fn failures_are_forgotten_after_an_hour_without_one() {
        let mut case = Case::new();
        case.fail("ann", ONE, 10);

        case.now += MEMORY;
        case.fail("ann", ONE, 1);

        assert_eq!(case.seconds("ann", ONE), 0);
    }

    #[test]
    fn the_tables_are_bounded() {
        let case = Case::new();
        for index in 0..u32::try_from(2 * ENTRIES).unwrap() {
            case.backoff.failed("ann", std::net::Ipv4Addr::from(index).into(), case.now);
        }

        assert!(case.backoff.tables.lock().failures.len() <= ENTRIES);
    }
}
