//! What plans know of TLS: TLSA records from a signed zone, and MTA-STS policies from an HTTPS server, both on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/policy_host.rs"]
mod policy_host;
#[path = "common/signed_zone.rs"]
mod signed_zone;

use std::sync::Arc;

use hickory_proto::rr::RecordType;
use hikyaku::clock::Clock;
use hikyaku::dns::security::{HostDane, Security};
use hikyaku::dns::sts::Mode;
use hikyaku::dns::{Dnssec, Keeper, Plan, Planner, Roots, Settings, StsSettings, TlsPolicy};
use hikyaku::metrics::Registry;
use hikyaku::smtp::status::Status;
use parking_lot::Mutex;
use policy_host::PolicyHost;
use signed_zone::{Running, Signed};

const DIGEST: [u8; 32] = [7; 32];

#[derive(Debug, Default)]
struct Memory(Mutex<Option<Vec<u8>>>);

impl Keeper for Memory {
    fn read(&self) -> Option<Vec<u8>> {
        self.0.lock().clone()
    }

    fn replace(&self, content: &[u8]) -> std::io::Result<()> {
        *self.0.lock() = Some(content.to_vec());
        Ok(())
    }
}

fn settings(dns: &Running, dnssec: Dnssec) -> Settings {
    Settings {
        resolvers: vec![dns.address],
        dnssec,
        trust_anchor: dns.anchor.path().to_owned(),
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        ..Settings::default()
    }
}

fn planner(settings: Settings) -> Planner {
    Planner::new(settings, Clock::system(), &Registry::new().unwrap()).unwrap()
}

async fn plan(settings: Settings) -> Arc<Plan> {
    planner(settings).plan("example.test").await.unwrap()
}

/// What is known of a host of `example.test`.
fn of(plan: &Plan, host: &str) -> Option<HostDane> {
    plan.security.as_deref().and_then(|security| security.of_host(host)).cloned()
}

/// `example.test` with one MX host.
fn zone() -> Signed {
    let mut zone = Signed::new();
    zone.mx("example.test", 10, "mx0.example.test").address("mx0.example.test", [127, 0, 0, 1]);
    zone
}

#[tokio::test]
async fn tlsa_records_of_a_signed_zone_are_found() {
    let mut zone = zone();
    zone.mx("example.test", 20, "mx1.example.test").address("mx1.example.test", [127, 0, 0, 2]);
    zone.tlsa("mx0.example.test", (3, 1, 1), &DIGEST).tlsa("mx0.example.test", (2, 0, 2), &[9; 64]);
    // Not usable, and malformed.
    zone.tlsa("mx0.example.test", (1, 1, 1), &DIGEST).tlsa("mx0.example.test", (3, 1, 1), &[1; 31]);
    let dns = zone.start().await;

    let plan = plan(settings(&dns, Dnssec::On)).await;

    let Some(HostDane::Records { base, records }) = of(&plan, "mx0.example.test") else { panic!("{plan:?}") };
    assert_eq!((&*base, records.len()), ("mx0.example.test", 2));
    assert!(records.iter().any(|record| !record.is_authority && record.of_key && *record.data == DIGEST));
    assert!(records.iter().any(|record| record.is_authority && !record.of_key && record.data.len() == 64));
    assert_eq!(of(&plan, "mx1.example.test"), None, "it has none");
}

#[tokio::test]
async fn records_that_nobody_can_use_are_known_as_such() {
    let mut zone = zone();
    zone.tlsa("mx0.example.test", (0, 0, 1), &DIGEST).tlsa("mx0.example.test", (3, 1, 9), &DIGEST);
    let dns = zone.start().await;

    assert_eq!(of(&*plan(settings(&dns, Dnssec::On)).await, "mx0.example.test"), Some(HostDane::Unusable));
}

#[tokio::test]
async fn a_host_whose_records_are_bogus_or_cannot_be_had_is_known_as_such() {
    for (name, kind) in [("_25._tcp.mx0.example.test", RecordType::TLSA), ("mx0.example.test", RecordType::A)] {
        for is_bogus in [true, false] {
            let mut zone = zone();
            zone.tlsa("mx0.example.test", (3, 1, 1), &DIGEST)
                .address("mx0.example.test", std::net::Ipv6Addr::LOCALHOST);
            zone.mx("example.test", 20, "mx1.example.test").address("mx1.example.test", [127, 0, 0, 2]);
            match is_bogus {
                true => zone.bogus(name, kind),
                false => zone.failing(name, kind),
            };
            // The plain look-up of the addresses finds the other family.
            let dns = zone.start().await;
            let settings = Settings {
                allow_networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
                ..settings(&dns, Dnssec::On)
            };

            let plan = plan(settings).await;

            assert_eq!(of(&plan, "mx0.example.test"), Some(HostDane::Unknown), "{name} {is_bogus}");
            assert_eq!(of(&plan, "mx1.example.test"), None);
        }
    }
}

#[tokio::test]
async fn mail_waits_where_the_mx_records_are_bogus() {
    let mut zone = zone();
    zone.bogus("example.test", RecordType::MX);
    let dns = zone.start().await;

    let failure = planner(settings(&dns, Dnssec::On)).plan("example.test").await.unwrap_err();

    assert_eq!(failure.status, Status::new(4, 4, 3));
    assert!(failure.text.contains("DNSSEC"), "{}", failure.text);
}

#[tokio::test]
async fn without_signatures_of_mx_or_address_there_is_no_dane() {
    let mut all = Signed::new();
    all.insecure("insecure.test").mx("insecure.test", 10, "mx0.example.test");
    all.mx("example.test", 10, "mx.insecure.test").address("mx.insecure.test", [127, 0, 0, 1]);
    all.address("mx0.example.test", [127, 0, 0, 1]).tlsa("mx0.example.test", (3, 1, 1), &DIGEST);
    all.tlsa("mx.insecure.test", (3, 1, 1), &DIGEST);
    let dns = all.start().await;
    let planner = planner(settings(&dns, Dnssec::On));

    let (mx, address) = (planner.plan("insecure.test").await.unwrap(), planner.plan("example.test").await.unwrap());

    assert_eq!((of(&mx, "mx0.example.test"), of(&address, "mx.insecure.test")), (None, None));
    assert_eq!((mx.hosts.len(), address.hosts.len()), (1, 1), "mail goes all the same");
    assert_eq!(dns.asked(RecordType::TLSA), 0, "nor are they asked for");
}

#[tokio::test]
async fn a_domain_without_mx_records_has_the_tlsa_records_of_its_own_name() {
    let mut zone = Signed::new();
    zone.address("example.test", [127, 0, 0, 1]).tlsa("example.test", (3, 1, 1), &DIGEST);
    let dns = zone.start().await;

    let known = of(&*plan(settings(&dns, Dnssec::On)).await, "example.test");

    assert!(matches!(known, Some(HostDane::Records { .. })), "{known:?}");
}

#[tokio::test]
async fn secure_aliases_of_host_and_tlsa_records_are_followed() {
    let mut zone = Signed::new();
    zone.mx("example.test", 10, "alias.test").cname("alias.test", "mx.real.test");
    zone.address("mx.real.test", [127, 0, 0, 1]);
    zone.cname("_25._tcp.mx.real.test", "_dane.real.test");
    zone.tlsa("elsewhere.test", (3, 1, 1), &DIGEST).cname("_dane.real.test", "_25._tcp.elsewhere.test");
    let dns = zone.start().await;

    let known = of(&*plan(settings(&dns, Dnssec::On)).await, "alias.test");

    let Some(HostDane::Records { base, .. }) = &known else { panic!("{known:?}") };
    assert_eq!(&**base, "mx.real.test");
}

#[tokio::test]
async fn auto_validates_where_the_root_is_signed_and_goes_without_dane_where_it_is_not() {
    for is_plain in [false, true] {
        let mut zone = zone();
        zone.tlsa("mx0.example.test", (3, 1, 1), &DIGEST);
        zone.is_plain = is_plain;
        let dns = zone.start().await;

        let plan = plan(settings(&dns, Dnssec::Auto)).await;

        assert_eq!(of(&plan, "mx0.example.test").is_none(), is_plain);
        assert_eq!(plan.hosts.len(), 1);
    }
}

#[tokio::test]
async fn nothing_is_asked_for_where_the_policy_has_no_use_for_it() {
    let mut zone = zone();
    zone.tlsa("mx0.example.test", (3, 1, 1), &DIGEST).txt("_mta-sts.example.test", "v=STSv1; id=1;");
    let dns = zone.start().await;
    for policy in [TlsPolicy::None, TlsPolicy::Verified] {
        let sts = PolicyHost::start("").await;
        let settings = Settings {
            default_tls: policy,
            sts: Some(sts_settings(&sts, Arc::default())),
            ..settings(&dns, Dnssec::On)
        };

        assert_eq!(plan(settings).await.security, None);
    }
    let asked = [RecordType::TLSA, RecordType::TXT, RecordType::DNSKEY].map(|kind| dns.asked(kind));
    assert_eq!(asked, [0, 0, 0]);
}

fn sts_settings(host: &PolicyHost, keeper: Arc<Memory>) -> StsSettings {
    let roots = Roots::only(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/ca.pem").as_ref());
    StsSettings { port: host.address.port(), roots, keeper }
}

fn with_sts(id: &str) -> Signed {
    let mut zone = zone();
    zone.txt("_mta-sts.example.test", &format!("v=STSv1; id={id};")).address("mta-sts.example.test", [127, 0, 0, 1]);
    zone
}

const POLICY: &str = "version: STSv1\r\nmode: enforce\r\nmx: *.example.test\r\nmax_age: 604800\r\n";

async fn by_sts(zone: Signed, host: &PolicyHost, keeper: Arc<Memory>) -> Option<Arc<Security>> {
    let dns = zone.start().await;
    let settings = Settings { sts: Some(sts_settings(host, keeper)), ..settings(&dns, Dnssec::Off) };
    plan(settings).await.security.clone()
}

#[tokio::test]
async fn an_mta_sts_policy_is_fetched_verified_and_part_of_the_plan() {
    let host = PolicyHost::start(POLICY).await;

    let security = by_sts(with_sts("a1"), &host, Arc::default()).await.unwrap();

    let policy = security.sts.as_ref().unwrap();
    assert_eq!((policy.mode, &*policy.id, policy.names_host("mx0.example.test")), (Mode::Enforce, "a1", true));
    assert_eq!(host.requests(), 1);
}

#[tokio::test]
async fn what_is_no_policy_or_cannot_be_trusted_is_as_none() {
    let long = format!("{POLICY}{}", "x: y\n".repeat(20_000));
    for host in [
        PolicyHost::start("version: STSv1\nmode: enforce\n").await,
        PolicyHost::start(&long).await,
        PolicyHost::start(POLICY).await.with_head("301 Moved\r\nLocation: https://mta-sts.example.test/x"),
        PolicyHost::start(POLICY).await.with_head("200 OK\r\nContent-Type: text/html"),
        PolicyHost::start("version: STSv1\nmode: none\nmax_age: 100\n").await,
        PolicyHost::start_with(POLICY, include_bytes!("data/tls/expired.pem")).await,
        PolicyHost::start_with(POLICY, include_bytes!("data/tls/wrong-name.pem")).await,
    ] {
        assert_eq!(by_sts(with_sts("a1"), &host, Arc::default()).await, None);
        assert!(host.connections() == 1, "it was asked");
    }
}

#[tokio::test]
async fn a_known_policy_holds_over_a_restart_and_whatever_dns_and_its_host_say() {
    let (host, keeper) = (PolicyHost::start(POLICY).await, Arc::<Memory>::default());
    by_sts(with_sts("a1"), &host, keeper.clone()).await.unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while keeper.read().is_none() {
        assert!(std::time::Instant::now() < end, "it is kept");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let gone = PolicyHost::start("").await;
    let mut failing = with_sts("a1");
    failing.failing("_mta-sts.example.test", RecordType::TXT);

    for zone in [with_sts("a1"), with_sts("b2"), zone(), failing] {
        let policy = by_sts(zone, &gone, keeper.clone()).await.unwrap().sts.clone().unwrap();

        assert_eq!((&*policy.id, policy.mode), ("a1", Mode::Enforce));
    }
    assert_eq!(gone.requests(), 1, "only the new id was looked at");
    let fresh = PolicyHost::start(&POLICY.replace("enforce", "testing")).await;
    let policy = by_sts(with_sts("b2"), &fresh, keeper).await.unwrap().sts.clone().unwrap();
    assert_eq!((&*policy.id, policy.mode), ("b2", Mode::Testing));
}
