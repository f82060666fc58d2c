//! What plans know of TLS: TLSA records from a signed zone, and MTA-STS policies from an HTTPS server, both on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/daemon.rs"]
mod client;
#[path = "common/fake_mx.rs"]
mod fake_mx;
#[path = "common/policy_host.rs"]
mod policy_host;
#[path = "common/signed_zone.rs"]
mod signed_zone;
#[path = "common/skip.rs"]
mod skip;

use std::sync::Arc;

use fake_mx::{Certificate, FakeMx};
use hickory_proto::rr::RecordType;
use hikyaku::clock::Clock;
use hikyaku::daemon::Daemon;
use hikyaku::dns::security::{HostDane, Security};
use hikyaku::dns::sts::Mode;
use hikyaku::dns::{Dnssec, Keeper, MxProof, Plan, Planner, Roots, Settings, StsSettings, TlsPolicy};
use hikyaku::metrics::Registry;
use hikyaku::smtp::status::Status;
use parking_lot::Mutex;
use policy_host::PolicyHost;
use signed_zone::{Running, Signed};

const DIGEST: [u8; 32] = [7; 32];

/// What was kept, and failures.
#[derive(Debug, Default)]
struct Memory(Mutex<Option<Vec<u8>>>, Mutex<Vec<(String, &'static str)>>);

impl Keeper for Memory {
    fn read(&self) -> Option<Vec<u8>> {
        self.0.lock().clone()
    }

    fn replace(&self, content: &[u8]) -> std::io::Result<()> {
        *self.0.lock() = Some(content.to_vec());
        Ok(())
    }

    fn failed(&self, domain: &str, result: &'static str, _why: &str) {
        self.1.lock().push((domain.to_owned(), result));
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
async fn secure_mx_records_behind_an_alias_count_only_if_that_is_secure_too() {
    let mut all = zone();
    all.tlsa("mx0.example.test", (3, 1, 1), &DIGEST).cname("alias.test", "example.test");
    all.insecure("insecure.test").cname("mail.insecure.test", "example.test");
    let dns = all.start().await;
    let planner = planner(settings(&dns, Dnssec::On));

    for (domain, is_known) in [("example.test", true), ("alias.test", true), ("mail.insecure.test", false)] {
        let plan = planner.plan(domain).await.unwrap_or_else(|error| panic!("{domain}: {error:?}"));

        assert_eq!(plan.mx_proof == MxProof::Known, is_known, "{domain}");
        assert_eq!(of(&plan, "mx0.example.test").is_some(), is_known, "{domain}");
    }
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
async fn signed_answers_are_secure_whatever_a_resolver_leaves_beside_them() {
    for is_chatty in [false, true] {
        let mut zone = zone();
        zone.is_chatty = is_chatty;
        zone.tlsa("pool.test", (3, 1, 1), &DIGEST).cname("_25._tcp.mx0.example.test", "_25._tcp.pool.test");
        zone.cname("alias.test", "example.test").dname("dname.test", "below.test");
        zone.mx("m.below.test", 10, "mx0.example.test");
        zone.mx("*.wild.test", 10, "mx0.example.test");
        zone.mx("other.test", 10, "a.hosts.test").address("*.hosts.test", [127, 0, 0, 1]);
        let wrong = ["bogus.test", "none.test"];
        zone.mx(wrong[0], 10, "mx0.example.test").bogus(wrong[0], RecordType::MX);
        zone.mx(wrong[1], 10, "mx.none.test").address("mx.none.test", [127, 0, 0, 1]);
        zone.cname("_25._tcp.mx.none.test", "nowhere.test");
        let dns = zone.start().await;
        let planner = planner(settings(&dns, Dnssec::On));

        for domain in ["example.test", "alias.test", "m.dname.test", "foo.wild.test"] {
            let plan = planner.plan(domain).await.unwrap_or_else(|error| panic!("{domain} {is_chatty}: {error:?}"));
            let known = of(&plan, "mx0.example.test");

            assert_eq!(plan.mx_proof, MxProof::Known, "{domain} {is_chatty}");
            assert!(matches!(known, Some(HostDane::Records { .. })), "{domain} {is_chatty}: {known:?}");
        }
        let other = planner.plan("other.test").await.unwrap();
        assert_eq!((of(&other, "a.hosts.test"), other.hosts.len()), (None, 1), "{is_chatty}");
        let none = planner.plan("none.test").await.unwrap();
        assert_eq!((of(&none, "mx.none.test"), none.hosts.len()), (None, 1), "{is_chatty}: its alias leads nowhere");
        assert!(planner.plan("bogus.test").await.unwrap_err().text.contains("DNSSEC"), "{is_chatty}");
    }
}

#[tokio::test]
async fn a_validating_resolver_on_this_machine_is_believed_that_a_zone_is_not_signed() {
    for (mode, is_validating, goes) in
        [(Dnssec::Auto, true, true), (Dnssec::Auto, false, false), (Dnssec::On, true, false)]
    {
        let mut zone = zone();
        zone.bogus("example.test", RecordType::MX).tlsa("mx0.example.test", (3, 1, 1), &DIGEST);
        zone.is_validating = is_validating;
        let dns = zone.start().await;

        let planned = planner(settings(&dns, mode)).plan("example.test").await;

        assert_eq!(planned.is_ok(), goes, "{mode:?} {is_validating}: {planned:?}");
        assert!(planned.is_err() || of(&planned.unwrap(), "mx0.example.test").is_none(), "no DANE");
    }
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
    // Under `verified` the names in MX records must be known to be right: these alone are validated.
    for (policy, is_validated) in [(TlsPolicy::None, false), (TlsPolicy::Verified, true)] {
        let sts = PolicyHost::start("").await;
        let settings = Settings {
            default_tls: policy,
            sts: Some(sts_settings(&sts, Arc::default())),
            ..settings(&dns, Dnssec::On)
        };

        let plan = plan(settings).await;

        assert_eq!((&plan.security, plan.mx_proof == MxProof::Known), (&None, is_validated));
        let asked = [RecordType::TLSA, RecordType::TXT].map(|kind| dns.asked(kind));
        assert_eq!((asked, dns.asked(RecordType::DNSKEY) > 0), ([0, 0], is_validated));
    }
}

fn sts_settings(host: &PolicyHost, keeper: Arc<Memory>) -> StsSettings {
    let roots = Roots::only(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/ca.pem").as_ref());
    StsSettings { port: host.address.port(), roots, keeper }
}

fn with_sts(id: &str) -> Signed {
    with_sts_at(id, [127, 0, 0, 1])
}

fn with_sts_at(id: &str, host: [u8; 4]) -> Signed {
    let mut zone = zone();
    zone.txt("_mta-sts.example.test", &format!("v=STSv1; id={id};")).address("mta-sts.example.test", host);
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
    let moved = "301 Moved\r\nLocation: https://mta-sts.example.test/x";
    let (fetch, invalid, untrusted) = ("sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid");
    for (host, failure) in [
        (PolicyHost::start("version: STSv1\nmode: enforce\n").await, Some(invalid)),
        (PolicyHost::start(&long).await, Some(fetch)),
        (PolicyHost::start(POLICY).await.with_head(moved), Some(fetch)),
        (PolicyHost::start(POLICY).await.with_head("200 OK\r\nContent-Type: text/html"), Some(invalid)),
        (PolicyHost::start("version: STSv1\nmode: none\nmax_age: 100\n").await, None),
        (PolicyHost::start_with(POLICY, include_bytes!("data/tls/expired.pem")).await, Some(untrusted)),
        (PolicyHost::start_with(POLICY, include_bytes!("data/tls/wrong-name.pem")).await, Some(untrusted)),
    ] {
        let keeper = Arc::<Memory>::default();
        assert_eq!(by_sts(with_sts("a1"), &host, keeper.clone()).await, None);
        assert!(host.connections() == 1, "it was asked");
        let told: Vec<_> = keeper.1.lock().iter().map(|(domain, result)| (domain.clone(), *result)).collect();
        assert_eq!(told, Vec::from_iter(failure.map(|failure| ("example.test".to_owned(), failure))));
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

#[tokio::test]
async fn a_report_is_posted_over_https_to_who_shows_the_right_certificate() {
    let mut zone = with_sts("a1");
    zone.address("other.example.test", [127, 0, 0, 1]);
    let (host, dns) = (PolicyHost::start("").await, zone.start().await);
    let settings = Settings { sts: Some(sts_settings(&host, Arc::default())), ..settings(&dns, Dnssec::Off) };
    let planner = planner(settings);
    let port = host.address.port();

    let post = async |uri: String| planner.post(&uri, "application/tlsrpt+gzip", vec![0x1f, 0x8b].into()).await;
    post(format!("https://mta-sts.example.test:{port}/v1?a=b")).await.unwrap();
    let untrusted = post(format!("https://other.example.test:{port}/")).await.unwrap_err();

    let posts = host.posts();
    let [posted] = &posts[..] else { panic!("{posts:?}") };
    assert!(
        posted.starts_with("POST /v1?a=b HTTP/1.1\r\n") && posted.ends_with("\r\n\r\n\u{1f}\u{fffd}"),
        "{posted:?}"
    );
    assert!(posted.contains("content-type: application/tlsrpt+gzip\r\n"), "{posted:?}");
    assert!(untrusted.contains("not for other.example.test but for mx0.example.test"), "{untrusted}");
    let refusing = host.with_head("500 No");
    assert_eq!(
        post(format!("https://mta-sts.example.test:{port}/")).await,
        Err("the answer is 500 Internal Server Error".to_owned())
    );
    assert_eq!(refusing.posts().len(), 2);
}

#[tokio::test]
async fn a_policy_is_fetched_again_a_day_later_though_nobody_sends() {
    let (host, keeper) = (PolicyHost::start(&POLICY.replace("enforce", "testing")).await, Arc::<Memory>::default());
    let now = Clock::system().wall().0;
    let kept = |domain: &str, fetched: u32| {
        serde_json::json!({"domain": domain, "id": "a1", "mode": "enforce", "mx": ["*.example.test"],
            "max_age": 604_800, "fetched": fetched})
    };
    let all = [kept("example.test", now - 90_000), kept("fresh.test", now - 80_000), kept("old.test", now - 700_000)];
    keeper.replace(&serde_json::to_vec(&all).unwrap()).unwrap();
    let mut zone = with_sts("a1");
    zone.txt("_mta-sts.fresh.test", "v=STSv1; id=b;").txt("_mta-sts.old.test", "v=STSv1; id=b;");
    let dns = zone.start().await;

    let _planner = planner(Settings { sts: Some(sts_settings(&host, keeper.clone())), ..settings(&dns, Dnssec::Off) });

    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let is_renewed = || String::from_utf8_lossy(&keeper.read().unwrap()).contains("testing");
    while !is_renewed() {
        assert!(std::time::Instant::now() < end, "it is fetched and kept");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!((host.requests(), dns.asked(RecordType::TXT)), (1, 1), "neither one that is new nor one that is over");
}

/// What becomes of a message to `u@example.test`: what the journal says of its first outcome, and what the receiver got.
struct Ended {
    outcome: serde_json::Value,
    got: Vec<fake_mx::Received>,
}

/// A whole daemon between a client in clear and a receiver with this certificate at `mx0.example.test`.
async fn delivered(zone: Signed, known: Option<serde_json::Value>, certificate: Certificate, field: &str) -> Ended {
    let mx = FakeMx::with(&["STARTTLS", "PIPELINING"]).certificate(certificate).start().await;
    let (dns, folder) = (zone.start().await, tempfile::tempdir().unwrap());
    if let Some(known) = known {
        let disk = Arc::new(hikyaku::log::disk::Disk::new(folder.path().join("spool")));
        std::fs::create_dir_all(folder.path().join("spool/state")).unwrap();
        let note = hikyaku::state::Note::of_sts(disk);
        note.replace(&serde_json::to_vec(&serde_json::json!([known])).unwrap()).unwrap();
    }
    let mut config = client::config(folder.path());
    config.delivery.port = mx.address.port();
    config.delivery.tls_ca = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/ca.pem").into();
    config.dns.resolvers = vec![dns.address];
    config.dns.dnssec = hikyaku::config::Dnssec::On;
    config.dns.trust_anchor = dns.anchor.path().to_owned();
    let daemon = Daemon::start(config).await.unwrap();
    let server = daemon.submission_addresses()[0];
    let said = client::submit(server, "s@c.test", &["u@example.test"], &format!("{field}Subject: x")).await;
    assert!(said.starts_with("250"), "{said}");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let outcome = loop {
        let lines: Vec<serde_json::Value> = std::fs::read_dir(folder.path().join("journal"))
            .unwrap()
            .filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok())
            .flat_map(|text| text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<_>>())
            .collect();
        if let Some(outcome) = lines.into_iter().find(|line| line.get("step").is_some()) {
            break outcome;
        }
        assert!(std::time::Instant::now() < end, "an outcome");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let got = mx.transactions();
    daemon.stop(std::time::Duration::from_secs(5)).await;
    Ended { outcome, got }
}

impl Ended {
    fn told(&self) -> [&str; 4] {
        ["event", "tls_policy", "tls_verified", "enhanced_status"]
            .map(|field| self.outcome[field].as_str().unwrap_or_default())
    }
}

/// The SHA-256 of the public key of a receiver's certificate.
fn key_of(certificate: Certificate) -> Vec<u8> {
    let chain = certificate.chain();
    let parsed = rustls::server::ParsedCertificate::try_from(&chain[0]).unwrap();
    let key = parsed.subject_public_key_info();
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key).as_ref().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_daemon_keeps_to_the_tlsa_records_of_a_signed_zone() {
    let with = |digest: &[u8]| {
        let mut zone = zone();
        zone.tlsa("mx0.example.test", (3, 1, 1), digest);
        zone
    };
    let own = key_of(Certificate::SelfSigned);

    let good = delivered(with(&own), None, Certificate::SelfSigned, "").await;
    let foreign = delivered(with(&DIGEST), None, Certificate::SelfSigned, "").await;
    let waived = delivered(with(&DIGEST), None, Certificate::SelfSigned, "TLS-Required: No\r\n").await;

    assert_eq!(
        (good.told()[..3].to_vec(), good.got.len()),
        (vec!["delivered", "dane", "dane"], 1),
        "{:?}",
        good.outcome
    );
    assert!(good.got[0].tls);
    assert_eq!((foreign.told(), foreign.got.len()), (["deferred", "dane", "", "4.7.5"], 0), "{:?}", foreign.outcome);
    let told = waived.told()[..3].to_vec();
    assert_eq!((told, waived.got.len()), (vec!["delivered", "waived", "none"], 1), "{:?}", waived.outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_daemon_keeps_to_an_mta_sts_policy_that_it_knows() {
    let known = || {
        let fetched = Clock::system().wall().0 - 60;
        Some(serde_json::json!({"domain": "example.test", "id": "a1", "mode": "enforce", "mx": ["*.example.test"],
            "max_age": 604_800, "fetched": fetched}))
    };

    let good = delivered(zone(), known(), Certificate::Good, "").await;
    let wrong = delivered(zone(), known(), Certificate::WrongName, "").await;
    let unknown = delivered(zone(), None, Certificate::WrongName, "").await;

    let told = good.told()[..3].to_vec();
    assert_eq!((told, good.got.len()), (vec!["delivered", "mta-sts", "pkix"], 1), "{:?}", good.outcome);
    assert_eq!((wrong.told(), wrong.got.len()), (["deferred", "mta-sts", "", "4.7.5"], 0), "{:?}", wrong.outcome);
    let told = unknown.told()[..3].to_vec();
    assert_eq!((told, unknown.got.len()), (vec!["delivered", "opportunistic", "none"], 1), "{:?}", unknown.outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_daemon_fetches_a_policy_over_https_and_keeps_to_it() {
    const HOST: [u8; 4] = [127, 0, 3, 44];
    let Some(host) = PolicyHost::at_its_port(HOST, POLICY).await else {
        return skip::skip("a_policy_over_https", "cannot listen on port 443: not root");
    };
    let zone = || with_sts_at("a1", HOST);

    let good = delivered(zone(), None, Certificate::Good, "").await;
    let wrong = delivered(zone(), None, Certificate::WrongName, "").await;

    let told = good.told()[..3].to_vec();
    assert_eq!((told, good.got.len()), (vec!["delivered", "mta-sts", "pkix"], 1), "{:?}", good.outcome);
    assert_eq!((wrong.told(), wrong.got.len()), (["deferred", "mta-sts", "", "4.7.5"], 0), "{:?}", wrong.outcome);
    assert_eq!(host.requests(), 2, "one for each daemon");
}
