//! TLS reports (RFC 8460): what is counted of real handshakes, and what a domain that asks for it is told the day after.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/queue.rs"]
mod common;
#[path = "common/errand.rs"]
mod errand;
#[path = "common/fake_mx.rs"]
mod fake_mx;

use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{Receiver, Stage, delivered};
use errand::{Run, errand};
use fake_mx::{Act, Certificate, FakeMx, Running, Step};
use hikyaku::clock::Clock;
use hikyaku::daemon::TlsReports;
use hikyaku::demo::responder::{Fault, Zone};
use hikyaku::dkim::Signer;
use hikyaku::dns::security::{HostDane, Matching, Security, Tlsa};
use hikyaku::dns::sts::Policy;
use hikyaku::dns::{Plan, TlsPolicy};
use hikyaku::message::{Kind, Message, TlsWish};
use hikyaku::metrics::Registry;
use hikyaku::queue::Settings;
use hikyaku::tlsrpt::report::Reporter;
use hikyaku::tlsrpt::{DAY, Tally};
use parking_lot::Mutex;
use serde_json::{Value, json};

const CONTENT: &[u8] = b"Subject: x\r\n\r\nx\r\n";
const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn tally(registry: &Registry) -> Tally {
    let tally = Tally::new(Clock::system(), registry);
    let (organization, contact) = ("Post".into(), "tls@post.test".into());
    tally.apply(Some(Reporter { organization, contact, from: "reports@post.test".into() }));
    tally
}

fn sts(mode: &str, mx: &str) -> Security {
    let text = format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n");
    Security { sts: Policy::parse(text.as_bytes(), "1").map(Arc::new), ..Security::default() }
}

fn dane(known: HostDane) -> Security {
    Security { dane: [("mx0.example.test".into(), known)].into(), ..Security::default() }
}

fn foreign_record() -> HostDane {
    let record = Tlsa { is_authority: false, of_key: true, matching: Matching::Sha256, data: [0xab; 32].into() };
    HostDane::Records { base: "mx0.example.test".into(), records: [record].into() }
}

async fn receiver(certificate: Certificate, offers: bool, act: Option<Act>) -> Running {
    let extensions: &[&str] = if offers { &["STARTTLS", "PIPELINING"] } else { &["PIPELINING"] };
    let mx = FakeMx::with(extensions).certificate(certificate);
    match act {
        Some(act) => mx.always(Step::Handshake, act).start().await,
        None => mx.start().await,
    }
}

/// What is counted of one message to a receiver, for its domain.
async fn counted(mx: &Running, change: impl FnOnce(&mut Plan), wish: TlsWish) -> Vec<Value> {
    let tally = tally(&Registry::new().unwrap());
    let run = Run::to(&[mx]).plan(change).settings(|settings| settings.tally = Some(tally.clone()));
    run.ready([errand(1, CONTENT).asking(wish, false)]).go().await;
    let reports = tally.pending(None);
    assert!(reports.iter().all(|report| report["policies"][0]["policy"]["policy-domain"] == "example.test"));
    reports.into_iter().map(|report| report["policies"][0].clone()).collect()
}

#[tokio::test]
async fn each_way_to_fail_is_counted_under_the_policy_that_the_domain_publishes() {
    let (good, alert) = (Certificate::Good, || Some(Act::Raw(vec![0x15, 3, 3, 0, 2, 2, 40])));
    let (enforced, tested, other) =
        (sts("enforce", "*.example.test"), sts("testing", "*.example.test"), sts("enforce", "*.b.test"));
    let usual = TlsPolicy::Opportunistic;
    for (policy, security, certificate, offers, act, kind, result) in [
        (usual, enforced.clone(), Certificate::Expired, true, None, "sts", "certificate-expired"),
        (usual, enforced.clone(), Certificate::WrongName, true, None, "sts", "certificate-host-mismatch"),
        (usual, enforced.clone(), Certificate::SelfSigned, true, None, "sts", "certificate-not-trusted"),
        (usual, enforced.clone(), good, false, None, "sts", "starttls-not-supported"),
        (usual, enforced, good, true, alert(), "sts", "validation-failure"),
        (usual, other, good, true, None, "sts", "validation-failure"),
        (usual, tested.clone(), Certificate::Expired, true, None, "sts", "certificate-expired"),
        (usual, tested, good, false, None, "sts", "starttls-not-supported"),
        (usual, dane(foreign_record()), good, true, None, "tlsa", "validation-failure"),
        (usual, dane(foreign_record()), good, false, None, "tlsa", "starttls-not-supported"),
        (usual, dane(HostDane::Unknown), good, true, None, "tlsa", "dnssec-invalid"),
        (TlsPolicy::Dane, dane(HostDane::Unusable), good, true, None, "tlsa", "tlsa-invalid"),
        (TlsPolicy::Dane, Security::default(), good, true, None, "tlsa", "dane-required"),
        (usual, Security::default(), good, false, None, "no-policy-found", "starttls-not-supported"),
        (usual, Security::default(), good, true, alert(), "no-policy-found", "validation-failure"),
    ] {
        let mx = receiver(certificate, offers, act).await;
        let change = |plan: &mut Plan| {
            (plan.tls, plan.security) = (policy, (!security.is_empty()).then(|| Arc::new(security)));
        };

        let counted = counted(&mx, change, TlsWish::Unsaid).await;

        let case = format!("{policy:?} {certificate:?} {offers} {result}: {counted:?}");
        assert_eq!((counted.len(), &counted[0]["policy"]["policy-type"]), (1, &json!(kind)), "{case}");
        let summary = json!({"total-successful-session-count": 0, "total-failure-session-count": 1});
        let details = &counted[0]["failure-details"][0];
        assert_eq!((&counted[0]["summary"], &details["result-type"]), (&summary, &json!(result)), "{case}");
        let of_host = (&details["receiving-mx-hostname"], &details["receiving-ip"], &details["failed-session-count"]);
        assert_eq!(of_host, (&json!("mx0.example.test"), &json!(LOOPBACK), &json!(1)), "{case}");
        let is_dialled = mx.connections() > 0;
        assert_eq!(details.get("sending-mta-ip").is_some(), is_dialled, "{case}");
        match kind {
            "sts" => assert!(counted[0]["policy"]["policy-string"][0] == "version: STSv1", "{case}"),
            // Elsewhere nothing that is published is known, or of use.
            "tlsa" if ["validation-failure", "starttls-not-supported"].contains(&result) => {
                let line = format!("3 1 1 {}", "ab".repeat(32));
                assert_eq!(counted[0]["policy"]["policy-string"], json!([line]));
            }
            _ => assert!(counted[0]["policy"].get("policy-string").is_none(), "{case}"),
        }
    }
}

#[tokio::test]
async fn good_sessions_are_counted_and_those_of_other_assurances_and_of_the_operators_word_are_not() {
    for (security, kind) in [(Security::default(), "no-policy-found"), (sts("enforce", "*.example.test"), "sts")] {
        let mx = receiver(Certificate::Good, true, None).await;
        let change = |plan: &mut Plan| plan.security = (!security.is_empty()).then(|| Arc::new(security));
        let counted = counted(&mx, change, TlsWish::Unsaid).await;
        let summary = json!({"total-successful-session-count": 1, "total-failure-session-count": 0});
        assert_eq!((&counted[0]["policy"]["policy-type"], &counted[0]["summary"]), (&json!(kind), &summary));
        assert!(counted[0].get("failure-details").is_none());
    }
    for (policy, wish) in [
        (TlsPolicy::None, TlsWish::Unsaid),
        (TlsPolicy::Verified, TlsWish::Unsaid),
        (TlsPolicy::Opportunistic, TlsWish::Waived),
    ] {
        let mx = receiver(Certificate::Expired, true, None).await;
        assert_eq!(counted(&mx, |plan| plan.tls = policy, wish).await, Vec::<Value>::new(), "{policy:?}");
    }
}

/// A tally that has counted one session for each domain on the day before today, taken up at a start.
fn of_yesterday(registry: &Registry, domains: &[&str]) -> Tally {
    let before = tally(registry);
    let policy = hikyaku::tlsrpt::Policy { kind: hikyaku::tlsrpt::Kind::NotFound, lines: vec![], hosts: vec![] };
    domains.iter().for_each(|domain| before.count(domain, policy.clone(), None));
    let mut kept: Value = serde_json::from_slice(&before.changes().unwrap()).unwrap();
    let days = kept["days"].as_object_mut().unwrap();
    let (day, counts) = days.iter().next().map(|(day, counts)| (day.clone(), counts.clone())).unwrap();
    days.clear();
    days.insert((day.parse::<u32>().unwrap() - 1).to_string(), counts);
    let tally = tally(registry);
    tally.restore(&serde_json::to_vec(&kept).unwrap());
    tally
}

fn zone(zone: &mut Zone) {
    zone.mx("reports.test", 10, "mx.reports.test").address("mx.reports.test", [198, 51, 100, 7]);
    zone.txt("_smtp._tls.asks.test", "v=TLSRPTv1; rua=mailto:tls@reports.test");
    zone.txt("_smtp._tls.silent.test", "v=spf1 -all");
    zone.fault("_smtp._tls.broken.test", None, Fault::ServFail);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_day_after_who_asks_for_it_gets_a_report_by_a_message_of_our_own() {
    let stage = Stage::in_zone(Settings::default(), zone).await;
    stage.start();
    let caught = Arc::new(Mutex::new(Vec::<Message>::new()));
    let (seen, note) = (stage.spool.clone(), caught.clone());
    let outcome = Arc::new(move |id, _| {
        note.lock().push(seen.load(id).unwrap());
        delivered()
    });
    stage.script.set("reports.test", Receiver { outcome, ..Receiver::default() });
    let tally = of_yesterday(&stage.registry, &["asks.test", "silent.test", "broken.test"]);
    let signer = Signer::new(1, stage.clock, &stage.registry);
    let parts = (stage.spool.clone(), stage.queue.clone(), signer);
    let reports = TlsReports::new(tally.clone(), Duration::ZERO, parts, stage.clock, &stage.registry);

    reports.look().await;
    reports.look().await;

    stage.until("the report", |_| caught.lock().len() == 1).await;
    let message = caught.lock().pop().unwrap();
    let envelope = &message.envelope;
    assert_eq!((envelope.reverse_path.as_str(), envelope.kind), ("reports@post.test", Kind::TlsReport));
    assert_eq!((envelope.recipients[0].forward_path.as_str(), envelope.tls), ("tls@reports.test", TlsWish::Waived));
    let content = message.content.chunk(0, 1 << 20).unwrap();
    let parsed = mail_parser::MessageParser::default().parse(&content[..]).unwrap();
    assert_eq!(parsed.header_raw("TLS-Report-Domain").map(str::trim), Some("asks.test"));
    let attached = parsed.attachment(0).unwrap().contents();
    let mut json = String::new();
    flate2::read::GzDecoder::new(attached).read_to_string(&mut json).unwrap();
    let report: Value = serde_json::from_str(&json).unwrap();
    let day = hikyaku::tlsrpt::report::date(stage.clock.wall().0 / DAY - 1);
    assert_eq!(report["date-range"]["end-datetime"], format!("{day}T23:59:59Z"));
    assert_eq!(report["policies"][0]["summary"]["total-successful-session-count"], 1);
    assert_eq!((&report["organization-name"], &report["contact-info"]), (&json!("Post"), &json!("tls@post.test")));
    let left = tally.all(None);
    assert_eq!((left.len(), &*left[0].1), (1, "broken.test"), "of which nobody can tell now whether it asks");
    assert!(left[0].2.not_before > stage.clock.wall().0);
    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_reported_before_the_day_is_over_or_once_it_is_switched_off() {
    let stage = Stage::in_zone(Settings::default(), zone).await;
    stage.start();
    let today = tally(&stage.registry);
    let policy = hikyaku::tlsrpt::Policy { kind: hikyaku::tlsrpt::Kind::NotFound, lines: vec![], hosts: vec![] };
    today.count("asks.test", policy, None);
    let off = of_yesterday(&stage.registry, &["asks.test"]);
    off.apply(None);

    for tally in [today, off] {
        let signer = Signer::new(1, stage.clock, &Registry::new().unwrap());
        let parts = (stage.spool.clone(), stage.queue.clone(), signer);
        TlsReports::new(tally.clone(), Duration::ZERO, parts, stage.clock, &stage.registry).look().await;
        assert_eq!(tally.all(None).len(), 1);
    }
    assert_eq!(stage.spool.stat().messages, 0);
}
