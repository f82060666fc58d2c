//! F15: what DNS can do. Each domain has a fault of its own; its mail is delivered, reported with the right status, or
//! deferred with the right one until the fault is gone.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hikyaku::demo::responder::{Fault, Responder, Zone};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::letter::{Kind, Letter, routed_domain};
use super::row::{Row, in_parallel, sized};
use super::world::client::{Numbers, Plan};
use super::world::daemon::Daemon;
use super::world::{Ending, World};

/// Where the sink is.
const HOME: [u8; 4] = [127, 0, 0, 1];
/// What the queue says of mail whose next hop could not be found.
const UNRESOLVED: &str = "dns at -: ";

type Play = fn(&mut Zone, &str);

/// Domains to which mail is delivered at once.
const DELIVERED: [(&str, Play); 12] = [
    ("nothing wrong", |_, _| {}),
    ("MX host is an alias", |zone, domain| {
        zone.remove(domain).mx(domain, 10, &format!("alias.{domain}"));
        zone.cname(&format!("alias.{domain}"), "mx.home.test");
    }),
    ("domain is an alias", |zone, domain| {
        zone.remove(domain).cname(domain, "alias.home.test").mx("alias.home.test", 10, "mx.home.test");
    }),
    ("500 MX records", |zone, domain| {
        for number in 0..500 {
            zone.mx(domain, 10 + number, &format!("mx{number}.{domain}"));
            zone.address(&format!("mx{number}.{domain}"), HOME);
        }
    }),
    ("10,000 addresses", |zone, domain| {
        let host = format!("many.{domain}");
        zone.remove(domain).mx(domain, 10, &host).mx(domain, 20, "mx.home.test");
        for number in 0..10_000_u32 {
            zone.address(&host, Ipv4Addr::from_bits(0x7f09_0001 + number));
        }
    }),
    ("truncated, whole over TCP", |zone, domain| {
        zone.fault(domain, None, Fault::Truncate);
    }),
    ("TTL 0", |zone, domain| {
        zone.ttl(domain, 0);
    }),
    ("TTL 2^31", |zone, domain| {
        zone.ttl(domain, 1 << 31);
    }),
    ("no MX, an address", |zone, domain| {
        zone.remove(domain).address(domain, HOME);
    }),
    ("an address as MX host, and a good one", |zone, domain| {
        zone.mx(domain, 5, "127.0.0.1");
    }),
    ("one MX host of which nothing is known", |zone, domain| {
        zone.mx(domain, 5, &format!("broken.{domain}"));
        zone.fault(&format!("broken.{domain}"), None, Fault::ServFail);
    }),
    ("a late answer", |zone, domain| {
        zone.fault(domain, None, Fault::Delay(Duration::from_millis(100)));
    }),
];

/// Domains whose mail waits until their fault is taken away.
const DEFERRED: [(&str, Play); 7] = [
    ("SERVFAIL", |zone, domain| {
        zone.fault(domain, None, Fault::ServFail);
    }),
    ("silence", |zone, domain| {
        zone.fault(domain, None, Fault::Silent);
    }),
    ("REFUSED", |zone, domain| {
        zone.fault(domain, None, Fault::Refused);
    }),
    ("garbage", |zone, domain| {
        zone.fault(domain, None, Fault::Garbage(vec![0xff; 30]));
    }),
    ("truncated over TCP too", |zone, domain| {
        zone.fault(domain, None, Fault::TruncateAlways);
    }),
    ("a circle of aliases", |zone, domain| {
        zone.remove(domain).cname(domain, &format!("next.{domain}")).cname(&format!("next.{domain}"), domain);
    }),
    ("SERVFAIL for the only MX host", |zone, domain| {
        let host = format!("broken.{domain}");
        zone.remove(domain).mx(domain, 10, &host).fault(&host, None, Fault::ServFail);
    }),
];

/// Domains whose mail is given up at once, and the status of the DSN.
const REPORTED: [(&str, &str, Play); 7] = [
    ("NXDOMAIN", "5.1.2", |zone, domain| {
        zone.remove(domain);
    }),
    ("no data", "5.1.2", |zone, domain| {
        zone.remove(domain).txt(domain, "no mail");
    }),
    ("NXDOMAIN for the address of an alias", "5.1.2", |zone, domain| {
        zone.remove(domain).cname(domain, "nowhere.test");
    }),
    ("null MX", "5.1.10", |zone, domain| {
        zone.remove(domain).null_mx(domain).address(domain, HOME);
    }),
    ("our own name", "5.4.6", |zone, domain| {
        zone.remove(domain).mx(domain, 10, "daemon.test").mx(domain, 20, "mx.home.test");
    }),
    ("MX hosts without address", "5.4.4", |zone, domain| {
        zone.remove(domain).mx(domain, 10, &format!("a.{domain}")).txt(&format!("a.{domain}"), "nothing else");
    }),
    ("nothing but an address as MX host", "5.4.4", |zone, domain| {
        zone.remove(domain).mx(domain, 10, "127.0.0.1");
    }),
];

/// A domain as it should be.
fn good(zone: &mut Zone, domain: &str) {
    zone.remove(domain).mx(domain, 10, "mx.home.test");
}

fn domain(is_reachable: bool, index: usize) -> String {
    routed_domain(is_reachable, u8::try_from(index).unwrap())
}

fn zone() -> Zone {
    let mut zone = Zone::new();
    zone.address("mx.home.test", HOME).address("daemon.test", HOME).mx("from.test", 10, "mx.home.test");
    let reachable = DELIVERED.iter().chain(&DEFERRED).map(|(_, play)| (true, *play));
    let reported = REPORTED.iter().map(|(_, _, play)| (false, *play));
    for (kind, plays) in [(true, reachable.collect::<Vec<_>>()), (false, reported.collect())] {
        for (index, (_, play)) in plays.into_iter().enumerate() {
            let domain = domain(kind, index);
            good(&mut zone, &domain);
            play(&mut zone, &domain);
        }
    }
    zone
}

/// Why the mail of a domain waits.
fn reason(daemon: &Daemon, domain: &str) -> String {
    let entries = daemon.ask(&["queue", "list", "--json", "--domain", domain]);
    let replies = entries.as_array().into_iter().flatten().map(|entry| &entry["last_reply"]);
    replies.filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
}

fn run(round: usize) -> Ending {
    let runtime = Runtime::new().unwrap();
    let responder = Responder::start(SocketAddr::from((HOME, 0)), zone());
    let responder = runtime.block_on(responder).unwrap();
    let world = World::with(&format!("DNS {round}"), Numbers::of(Kind::Routed), |options| {
        let port = i64::from(options.sink.port());
        options.remove("route").set("delivery.port", port).set("delivery.ipv6", false);
        options.set("dns.resolvers", vec![responder.address().to_string()]);
        options.set("dns.timeout", "300ms").set("dns.attempts", 2);
    });
    let (daemon, address) = world.start();
    let reachable = DELIVERED.len() + DEFERRED.len();
    world.load(&Plan::of(reachable as u32, 4, &world.numbers), address).join();
    let unroutable = Numbers::of(Kind::Unroutable);
    world.load(&Plan::of(REPORTED.len() as u32, 4, &unroutable), address).join();

    for (index, (what, _)) in DELIVERED.iter().enumerate() {
        let letter = Letter(Kind::Routed.first() + index as u32);
        assert!(world.until(|| world.checker.has_arrived(letter)), "{what}: not delivered");
    }
    for (index, (what, status, _)) in REPORTED.iter().enumerate() {
        let letter = Letter(Kind::Unroutable.first() + index as u32);
        assert!(world.until(|| !world.checker.dsn_statuses(letter).is_empty()), "{what}: not reported");
        assert_eq!(world.checker.dsn_statuses(letter), [*status], "{what}");
    }
    for (index, (what, _)) in DEFERRED.iter().enumerate() {
        let domain = domain(true, DELIVERED.len() + index);
        let is_told = world.until(|| reason(&daemon, &domain).starts_with(UNRESOLVED));
        assert!(is_told, "{what}: {:?}", reason(&daemon, &domain));
        responder.change(|zone| good(zone, &domain));
    }
    world.finish_with(daemon)
}

#[test]
fn whatever_dns_says_mail_is_delivered_deferred_or_reported_as_it_should_be() {
    let mut row = Row::of("F15 DNS");
    let rounds = sized(1, 3);
    let cases = DELIVERED.len() + DEFERRED.len() + REPORTED.len();

    let ending = in_parallel(3, rounds, run);

    row.add(rounds * cases, ending);
    assert_eq!((row.sum().duplicates, row.sum().refused), (0, 0), "{}", row.sum());
}
