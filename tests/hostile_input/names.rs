//! S7: names that nobody should have, in MX records: none is dialled, shown or counted. (More in `tests/dns.rs`.)

use std::net::{IpAddr, SocketAddr};

use hikyaku::clock::Clock;
use hikyaku::demo::responder::{Responder, Zone};
use hikyaku::dns::{Planner, Settings};
use hikyaku::metrics::Registry;

use crate::cases::cases;

/// Public by the rules, reserved for documentation: nothing is ever sent there.
const PUBLIC: [u8; 4] = [192, 0, 2, 1];

fn is_plain(text: &str) -> bool {
    text.bytes().all(|octet| matches!(octet, b' '..=b'~'))
}

#[tokio::test]
async fn every_octet_in_a_name_of_an_mx_host_is_plain_or_passed_over() {
    let mut zone = Zone::new();
    for octet in 0..=255_u8 {
        let label = [b'm', octet, b'x'];
        let (alone, beside) = (format!("alone{octet}.test"), format!("beside{octet}.test"));
        zone.raw_mx(&alone, 10, &[&label, b"test"]);
        zone.raw_mx(&beside, 10, &[&label, b"test"]).mx(&beside, 20, "good.test");
    }
    zone.address("*.test", PUBLIC);
    let responder = Responder::start(SocketAddr::from(([127, 0, 0, 1], 0)), zone).await.unwrap();
    let registry = Registry::new().unwrap();
    let settings = Settings { resolvers: vec![responder.address()], ..Settings::default() };
    let planner = Planner::new(settings, Clock::system(), &registry).unwrap();

    let mut passed_over = 0;
    for octet in 0..=255_u8 {
        let alone = planner.plan(&format!("alone{octet}.test")).await;
        let beside = planner.plan(&format!("beside{octet}.test")).await.unwrap_or_else(|failure| panic!("{failure:?}"));

        match alone {
            Ok(plan) => assert!(plan.hosts.iter().all(|host| is_name(&host.name)) && is_name_list(&plan.mx_set)),
            Err(failure) => {
                passed_over += 1;
                assert!(is_plain(&failure.text), "{octet}: {failure:?}");
            }
        }
        assert!(beside.hosts.iter().all(|host| is_name(&host.name)), "{octet}: {beside:?}");
        assert!(beside.hosts.iter().any(|host| &*host.name == "good.test"), "{octet}: {beside:?}");
        assert!(is_name_list(&beside.mx_set) && is_name_list(&beside.site), "{octet}: {beside:?}");
        assert_eq!(beside.hosts[0].addresses[..], [IpAddr::from(PUBLIC)]);
    }
    // Letters of either case, digits, hyphen and underscore may stand in a name; some of them not everywhere.
    assert!(passed_over >= 256 - 64, "{passed_over}");
    assert!(registry.render().lines().all(is_plain));
    cases(512);
}

fn is_name(name: &str) -> bool {
    name.bytes()
        .all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || matches!(octet, b'-' | b'_' | b'.'))
}

fn is_name_list(list: &str) -> bool {
    list.split(',').all(is_name)
}
