//! F16: what becomes of a message under each policy when a receiver's TLS is well, or is wrong in one way or another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/errand.rs"]
mod errand;
#[path = "common/fake_mx.rs"]
mod fake_mx;

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest;
use errand::{Log, Run, errand};
use fake_mx::{Act, Certificate, FakeMx, Running, Step};
use hikyaku::dns::security::{HostDane, Matching, Security, Tlsa};
use hikyaku::dns::sts::Policy;
use hikyaku::dns::{MxProof, Plan, TlsPolicy, Transport};
use hikyaku::message::{Outcome, Phase, Proof, TlsWish};
use hikyaku::smtp::status::Status;
use rustls::server::ParsedCertificate;

const CONTENT: &[u8] = b"Subject: x\r\n\r\nx\r\n";

/// What is wrong with a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    Expired,
    Name,
    SelfSigned,
    /// handshake_failure(40): no cipher suite in common.
    NoCipher,
    /// Says nothing after 220.
    Stall,
    /// protocol_version(70): it speaks TLS 1.1 and older.
    OldProtocol,
    /// internal_error(80).
    Alert,
    /// FIN in place of a handshake.
    Closes,
    /// STARTTLS is answered by 454.
    Refuses,
    /// STARTTLS is answered by 554.
    RefusesForGood,
    /// EHLO does not list STARTTLS.
    NotOffered,
}

const ALL: [Wrong; 12] = [
    Wrong::Nothing,
    Wrong::Expired,
    Wrong::Name,
    Wrong::SelfSigned,
    Wrong::NoCipher,
    Wrong::Stall,
    Wrong::OldProtocol,
    Wrong::Alert,
    Wrong::Closes,
    Wrong::Refuses,
    Wrong::RefusesForGood,
    Wrong::NotOffered,
];

impl Wrong {
    fn is_of_certificate(self) -> bool {
        matches!(self, Self::Expired | Self::Name | Self::SelfSigned)
    }

    fn certificate(self) -> Certificate {
        match self {
            Self::Expired => Certificate::Expired,
            Self::Name => Certificate::WrongName,
            Self::SelfSigned => Certificate::SelfSigned,
            _ => Certificate::Good,
        }
    }

    async fn start(self) -> Running {
        let alert = |code| Act::Raw(vec![0x15, 3, 3, 0, 2, 2, code]);
        let extensions: &[&str] = if self == Self::NotOffered { &["PIPELINING"] } else { &["STARTTLS", "PIPELINING"] };
        let mx = FakeMx::with(extensions).certificate(self.certificate());
        let mx = match self {
            Self::NoCipher => mx.always(Step::Handshake, alert(40)),
            Self::OldProtocol => mx.always(Step::Handshake, alert(70)),
            Self::Alert => mx.always(Step::Handshake, alert(80)),
            Self::Stall => mx.always(Step::Handshake, Act::Silence),
            Self::Closes => mx.always(Step::Handshake, Act::Fin),
            Self::Refuses => mx.always(Step::StartTls, "454 4.7.0 not now"),
            Self::RefusesForGood => mx.always(Step::StartTls, "554 5.7.1 never"),
            _ => mx,
        };
        mx.start().await
    }
}

/// What became of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    InClear,
    Encrypted(Proof),
    Deferred(Status),
}

fn came(log: &Log, mx: &Running) -> Came {
    let got = mx.transactions();
    match (&log.reports[..], &log.failed[..]) {
        ([(1, outcomes)], []) => {
            let [Outcome::Delivered(report)] = &outcomes[..] else { panic!("{log:?}") };
            assert_eq!((got.len(), got[0].tls), (1, report.tls.is_some()));
            report.tls.map_or(Came::InClear, |tls| {
                assert!(tls.version == "TLSv1.3" && tls.cipher.starts_with("TLS13_"), "{tls:?}");
                Came::Encrypted(tls.proof)
            })
        }
        ([], [(1, Outcome::Deferred(report))]) => {
            assert_eq!((report.phase, report.reply.code), (Phase::StartTls, 0), "{report:?}");
            assert!(got.is_empty() && mx.connections() <= 1, "not in clear either");
            assert!(!mx.commands().iter().any(|command| command.starts_with("MAIL")));
            Came::Deferred(report.reply.status.unwrap())
        }
        _ => panic!("{log:?}"),
    }
}

async fn result(wrong: Wrong, change: impl FnOnce(&mut Plan)) -> Came {
    let mx = wrong.start().await;
    let log = Run::to(&[&mx]).plan(change).ready([errand(1, CONTENT)]).go().await;
    came(&log, &mx)
}

/// TLS was to be had, and failed or was not good enough.
const FAILED: Came = Came::Deferred(Status::new(4, 7, 5));
/// There is no TLS.
const NONE: Came = Came::Deferred(Status::new(4, 7, 4));

/// Where the certificate matters not but TLS is a must.
fn must(wrong: Wrong) -> Came {
    match wrong {
        Wrong::Nothing | Wrong::Expired | Wrong::Name | Wrong::SelfSigned => Came::Encrypted(Proof::None),
        Wrong::Refuses | Wrong::RefusesForGood | Wrong::NotOffered => NONE,
        _ => FAILED,
    }
}

/// Where the certificate must be good.
fn strict(wrong: Wrong, proof: Proof) -> Came {
    match wrong {
        Wrong::Nothing => Came::Encrypted(proof),
        _ if wrong.is_of_certificate() => FAILED,
        _ => must(wrong),
    }
}

fn sts(mode: &str, mx: &str) -> Option<Arc<Security>> {
    let text = format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n");
    let sts = Policy::parse(text.as_bytes(), "1").map(Arc::new);
    Some(Arc::new(Security { sts, ..Security::default() }))
}

/// A record of the certificate at `place` in a chain.
fn record(chain: Certificate, place: usize, is_authority: bool, of_key: bool, matching: Matching) -> Tlsa {
    let certificate = &chain.chain()[place];
    let octets = match of_key {
        true => ParsedCertificate::try_from(certificate).unwrap().subject_public_key_info().to_vec(),
        false => certificate.to_vec(),
    };
    let data = match matching {
        Matching::Exact => octets,
        Matching::Sha256 => digest::digest(&digest::SHA256, &octets).as_ref().to_vec(),
        Matching::Sha512 => digest::digest(&digest::SHA512, &octets).as_ref().to_vec(),
    };
    Tlsa { is_authority, of_key, matching, data: data.into() }
}

fn dane(base: &str, records: impl IntoIterator<Item = Tlsa>) -> Option<Arc<Security>> {
    let known = HostDane::Records { base: base.into(), records: records.into_iter().collect() };
    security(known)
}

fn security(known: HostDane) -> Option<Arc<Security>> {
    Some(Arc::new(Security { dane: [("mx0.example.test".into(), known)].into(), ..Security::default() }))
}

#[tokio::test]
async fn under_none_nothing_is_asked_and_nothing_fails() {
    for wrong in ALL {
        assert_eq!(result(wrong, |plan| plan.tls = TlsPolicy::None).await, Came::InClear, "{wrong:?}");
    }
}

#[tokio::test]
async fn under_opportunistic_every_message_comes_through() {
    for wrong in ALL {
        let expected = match must(wrong) {
            Came::Deferred(_) => Came::InClear,
            encrypted => encrypted,
        };
        assert_eq!(result(wrong, |_| {}).await, expected, "{wrong:?}");
    }
}

#[tokio::test]
async fn under_required_nothing_goes_in_clear_and_certificates_do_not_matter() {
    for wrong in ALL {
        assert_eq!(result(wrong, |plan| plan.tls = TlsPolicy::Required).await, must(wrong), "{wrong:?}");
    }
}

#[tokio::test]
async fn under_verified_only_a_good_certificate_will_do() {
    for wrong in ALL {
        let expected = strict(wrong, Proof::Pkix);
        assert_eq!(result(wrong, |plan| plan.tls = TlsPolicy::Verified).await, expected, "{wrong:?}");
    }
}

#[tokio::test]
async fn under_verified_a_rule_may_name_what_the_certificate_is_for() {
    let named = |names: &[&str]| {
        let names = names.iter().map(|&name| name.into()).collect();
        Some(Arc::new(Security { names, ..Security::default() }))
    };
    for (wrong, names, expected) in [
        (Wrong::Name, &["a.test", "other.test"][..], Came::Encrypted(Proof::Pkix)),
        (Wrong::Nothing, &["other.test"], FAILED),
    ] {
        let change = |plan: &mut Plan| (plan.tls, plan.security) = (TlsPolicy::Verified, named(names));
        assert_eq!(result(wrong, change).await, expected, "{names:?}");
    }
}

#[tokio::test]
async fn a_record_of_the_receivers_own_key_holds_whatever_its_name_and_dates() {
    let policies = [TlsPolicy::Opportunistic, TlsPolicy::Required, TlsPolicy::Dane];
    for policy in policies {
        for wrong in ALL {
            let own = record(wrong.certificate(), 0, false, true, Matching::Sha256);
            let expected = match must(wrong) {
                Came::Encrypted(_) => Came::Encrypted(Proof::Dane),
                deferred => deferred,
            };
            let change = |plan: &mut Plan| (plan.tls, plan.security) = (policy, dane("mx0.example.test", [own]));
            assert_eq!(result(wrong, change).await, expected, "{policy:?} {wrong:?}");
        }
    }
}

#[tokio::test]
async fn every_selector_and_matching_type_is_told_from_one_that_does_not_match() {
    for of_key in [false, true] {
        for matching in [Matching::Exact, Matching::Sha256, Matching::Sha512] {
            let own = record(Certificate::Good, 0, false, of_key, matching);
            let other = record(Certificate::SelfSigned, 0, false, of_key, matching);
            let with = |records: Vec<Tlsa>| move |plan: &mut Plan| plan.security = dane("mx0.example.test", records);

            let matched = result(Wrong::Nothing, with(vec![other.clone(), own])).await;
            let unmatched = result(Wrong::Nothing, with(vec![other])).await;

            assert_eq!((matched, unmatched), (Came::Encrypted(Proof::Dane), FAILED), "{of_key} {matching:?}");
        }
    }
}

#[tokio::test]
async fn a_record_of_an_authority_holds_for_names_and_dates_that_are_right() {
    let shown = Certificate::WithAuthority;
    let of = |place, of_key, matching| record(shown, place, true, of_key, matching);
    for (certificate, record, base, expected) in [
        (shown, of(1, false, Matching::Sha256), "mx0.example.test", Came::Encrypted(Proof::Dane)),
        (shown, of(1, true, Matching::Sha512), "mx0.example.test", Came::Encrypted(Proof::Dane)),
        // Not shown, but the record has the whole of it.
        (Certificate::Good, of(1, false, Matching::Exact), "mx0.example.test", Came::Encrypted(Proof::Dane)),
        (Certificate::Good, of(1, true, Matching::Sha256), "mx0.example.test", FAILED),
        (shown, of(1, true, Matching::Sha256), "mx9.example.test", FAILED),
        (Certificate::WrongName, of(1, false, Matching::Exact), "mx0.example.test", FAILED),
        (Certificate::Expired, of(1, false, Matching::Exact), "mx0.example.test", FAILED),
        (Certificate::SelfSigned, of(1, false, Matching::Exact), "mx0.example.test", FAILED),
    ] {
        let mx = FakeMx::with(&["STARTTLS"]).certificate(certificate).start().await;
        let plan = |plan: &mut Plan| plan.security = dane(base, [record.clone()]);

        let log = Run::to(&[&mx]).plan(plan).ready([errand(1, CONTENT)]).go().await;

        assert_eq!(came(&log, &mx), expected, "{certificate:?} {record:?} {base}");
    }
}

#[tokio::test]
async fn under_usage_2_the_certificate_may_be_for_the_domain_itself() {
    let authority = record(Certificate::WithAuthority, 1, true, true, Matching::Sha256);
    let mx = FakeMx::with(&["STARTTLS"]).certificate(Certificate::WithAuthority).start().await;
    let plan = |plan: &mut Plan| {
        plan.security = dane("mx9.example.test", [authority]);
        plan.domain = "mx1.example.test".into();
    };

    let log = Run::to(&[&mx]).plan(plan).ready([errand(1, CONTENT)]).go().await;

    assert_eq!(came(&log, &mx), Came::Encrypted(Proof::Dane));
}

#[tokio::test]
async fn records_that_cannot_be_used_ask_for_encryption_and_unknown_ones_keep_the_host_from_being_used() {
    for wrong in ALL {
        let came = result(wrong, |plan| plan.security = security(HostDane::Unusable)).await;
        assert_eq!(came, must(wrong), "{wrong:?}");
    }
    for policy in [TlsPolicy::Opportunistic, TlsPolicy::Required, TlsPolicy::Dane] {
        let change = |plan: &mut Plan| (plan.tls, plan.security) = (policy, security(HostDane::Unknown));
        assert_eq!(result(Wrong::Nothing, change).await, FAILED);
    }
    let change = |plan: &mut Plan| (plan.tls, plan.security) = (TlsPolicy::Dane, security(HostDane::Unusable));
    assert_eq!(result(Wrong::Nothing, change).await, FAILED);
    assert_eq!(result(Wrong::Nothing, |plan| plan.tls = TlsPolicy::Dane).await, FAILED, "no records at all");
}

#[tokio::test]
async fn an_enforced_mta_sts_policy_holds_under_every_policy_but_none_and_verified() {
    for policy in [TlsPolicy::Opportunistic, TlsPolicy::Required, TlsPolicy::MtaSts] {
        for wrong in ALL {
            let change = |plan: &mut Plan| (plan.tls, plan.security) = (policy, sts("enforce", "*.example.test"));
            assert_eq!(result(wrong, change).await, strict(wrong, Proof::Pkix), "{policy:?} {wrong:?}");
        }
        let change = |plan: &mut Plan| (plan.tls, plan.security) = (policy, sts("enforce", "mx7.example.test"));
        assert_eq!(result(Wrong::Nothing, change).await, FAILED, "not listed");
    }
    assert_eq!(result(Wrong::Nothing, |plan| plan.tls = TlsPolicy::MtaSts).await, FAILED, "no policy");
}

#[tokio::test]
async fn a_tested_mta_sts_policy_keeps_nothing_back() {
    for wrong in ALL {
        let expected = match must(wrong) {
            Came::Deferred(_) => Came::InClear,
            Came::Encrypted(_) if wrong.is_of_certificate() => Came::Encrypted(Proof::Failed),
            _ => Came::Encrypted(Proof::Pkix),
        };
        let came = result(wrong, |plan| plan.security = sts("testing", "*.example.test")).await;
        assert_eq!(came, expected, "{wrong:?}");
    }
    let unlisted = result(Wrong::Nothing, |plan| plan.security = sts("testing", "mx7.example.test")).await;
    assert_eq!(unlisted, Came::Encrypted(Proof::Failed));
}

#[tokio::test]
async fn dane_comes_before_mta_sts() {
    let own = record(Certificate::SelfSigned, 0, false, true, Matching::Sha256);
    let both = |record: Tlsa| {
        let (dane, sts) = (dane("mx0.example.test", [record]).unwrap(), sts("enforce", "*.example.test").unwrap());
        Some(Arc::new(Security { sts: sts.sts.clone(), ..(*dane).clone() }))
    };

    let by_dane = result(Wrong::SelfSigned, |plan| plan.security = both(own.clone())).await;
    let not_by_sts = result(Wrong::Nothing, |plan| plan.security = both(own)).await;

    assert_eq!((by_dane, not_by_sts), (Came::Encrypted(Proof::Dane), FAILED));
}

#[tokio::test]
async fn a_host_whose_tls_is_not_good_enough_is_left_for_the_next_one() {
    let address = |last| std::net::IpAddr::from([127, 5, 1, last]);
    let a = FakeMx::with(&["STARTTLS"]).certificate(Certificate::Expired).start_at(address(1), 0).await;
    let b = FakeMx::with(&["STARTTLS"]).certificate(Certificate::Good).start_at(address(2), a.address.port()).await;

    let run = Run::to(&[&a, &b]).plan(|plan| plan.tls = TlsPolicy::Verified);
    let log = run.ready([errand(1, CONTENT)]).go().await;

    assert_eq!(came(&log, &b), Came::Encrypted(Proof::Pkix));
    assert_eq!(a.transactions().len(), 0);
}

/// A receiver under TLS that announces REQUIRETLS, or does not.
async fn relay(certificate: Certificate, address: IpAddr, port: u16, knows_requiretls: bool) -> Running {
    let extensions: &[&str] =
        if knows_requiretls { &["STARTTLS", "REQUIRETLS", "PIPELINING"] } else { &["STARTTLS", "PIPELINING"] };
    FakeMx::with(extensions).certificate(certificate).start_at(address, port).await
}

/// What is done to the plan.
type Change = fn(&mut Plan);

fn loopback(last: u8) -> IpAddr {
    IpAddr::from([127, 5, 2, last])
}

fn known(plan: &mut Plan) {
    plan.mx_proof = MxProof::Known;
}

/// The status that the message bounced by.
fn bounced(log: &Log) -> (Phase, Status) {
    match (&log.reports[..], &log.failed[..]) {
        ([(1, outcomes)], []) => match &outcomes[..] {
            [Outcome::Bounced(report)] => (report.phase, report.reply.status.unwrap()),
            _ => panic!("{log:?}"),
        },
        ([], [(1, Outcome::Bounced(report))]) => (report.phase, report.reply.status.unwrap()),
        _ => panic!("{log:?}"),
    }
}

#[tokio::test]
async fn requiretls_goes_to_a_verified_host_of_a_known_name_that_offers_it_and_is_passed_on() {
    let ways: [(&str, Change, Certificate, Proof); 5] = [
        ("signed MX records", known, Certificate::Good, Proof::Pkix),
        ("MTA-STS", |plan| plan.security = sts("testing", "*.example.test"), Certificate::Good, Proof::Pkix),
        ("a route", |plan| plan.transport = Transport::Relay, Certificate::Good, Proof::Pkix),
        ("no MX records", |plan| plan.domain = "mx0.example.test".into(), Certificate::Good, Proof::Pkix),
        (
            "DANE",
            |plan| {
                let own = record(Certificate::SelfSigned, 0, false, true, Matching::Sha256);
                (plan.mx_proof, plan.security) = (MxProof::Known, dane("mx0.example.test", [own]));
            },
            Certificate::SelfSigned,
            Proof::Dane,
        ),
    ];
    for (way, change, certificate, proof) in ways {
        let mx = relay(certificate, IpAddr::from([127, 0, 0, 1]), 0, true).await;

        let asking = errand(1, CONTENT).asking(TlsWish::Required, false);
        let log = Run::to(&[&mx]).plan(change).ready([asking]).go().await;

        assert_eq!(came(&log, &mx), Came::Encrypted(proof), "{way}");
        assert!(mx.transactions()[0].mail.ends_with(" REQUIRETLS"), "{way}: {:?}", mx.transactions());
    }
    // Who does not ask for it does not say it.
    let mx = relay(Certificate::Good, IpAddr::from([127, 0, 0, 1]), 0, true).await;
    let log = Run::to(&[&mx]).plan(known).ready([errand(1, CONTENT)]).go().await;
    assert_eq!(came(&log, &mx), Came::Encrypted(Proof::None));
    assert!(!mx.transactions()[0].mail.contains("REQUIRETLS"));
}

#[tokio::test]
async fn where_tls_cannot_be_had_as_requiretls_wants_it_the_message_bounces_and_nothing_is_sent() {
    for wrong in ALL.into_iter().filter(|wrong| *wrong != Wrong::Nothing) {
        let mx = wrong.start().await;
        let asking = errand(1, CONTENT).asking(TlsWish::Required, false);
        let log = Run::to(&[&mx]).plan(known).ready([asking]).go().await;

        assert!(!mx.commands().iter().any(|command| command.starts_with("MAIL")), "{wrong:?}");
        match wrong {
            // What broke may work the next time.
            Wrong::Stall | Wrong::Closes => assert!(matches!(came(&log, &mx), Came::Deferred(_)), "{wrong:?}"),
            _ => assert_eq!(bounced(&log), (Phase::StartTls, Status::new(5, 7, 10)), "{wrong:?}"),
        }
    }
}

#[tokio::test]
async fn requiretls_needs_to_know_who_the_host_is() {
    let unproven: [Change; 3] =
        [|_| {}, |plan| plan.security = sts("enforce", "*.other.test"), |plan| plan.tls = TlsPolicy::None];
    for change in unproven {
        let mx = relay(Certificate::Good, IpAddr::from([127, 0, 0, 1]), 0, true).await;
        let asking = errand(1, CONTENT).asking(TlsWish::Required, false);
        let log = Run::to(&[&mx]).plan(change).ready([asking]).go().await;
        assert_eq!((bounced(&log), mx.connections()), ((Phase::StartTls, Status::new(5, 7, 10)), 0));
    }
    let mx = relay(Certificate::Good, IpAddr::from([127, 0, 0, 1]), 0, true).await;
    let asking = errand(1, CONTENT).asking(TlsWish::Required, false);
    let log = Run::to(&[&mx]).plan(|plan| plan.mx_proof = MxProof::Pending).ready([asking]).go().await;
    assert_eq!(came(&log, &mx), FAILED, "a policy that cannot be had now may be had later");
}

#[tokio::test]
async fn a_host_without_requiretls_is_left_for_the_next_one_and_when_there_is_none_the_message_bounces() {
    let a = relay(Certificate::Good, loopback(1), 0, false).await;
    let b = relay(Certificate::Good, loopback(2), a.address.port(), true).await;
    let asking = || errand(1, CONTENT).asking(TlsWish::Required, false);

    let log = Run::to(&[&a, &b]).plan(known).ready([asking()]).go().await;
    assert_eq!((came(&log, &b), a.transactions().len()), (Came::Encrypted(Proof::Pkix), 0));
    assert_eq!(a.commands().last().map(String::as_str), Some("QUIT"));

    let c = relay(Certificate::Good, loopback(3), a.address.port(), false).await;
    let log = Run::to(&[&a, &c]).plan(known).ready([asking()]).go().await;
    assert_eq!(bounced(&log), (Phase::Mail, Status::new(5, 7, 30)));
    assert_eq!(a.transactions().len() + c.transactions().len(), 0);
}

#[tokio::test]
async fn a_dsn_prefers_requiretls_and_goes_without_it_rather_than_not_at_all() {
    let asking = || errand(1, CONTENT).asking(TlsWish::Required, true);
    for (certificate, knows, plan, proof) in [
        (Certificate::Good, true, known as Change, Proof::Pkix),
        (Certificate::Good, false, known, Proof::Pkix),
        (Certificate::Expired, true, known, Proof::None),
        (Certificate::Good, true, |_| {}, Proof::None),
    ] {
        let mx = relay(certificate, IpAddr::from([127, 0, 0, 1]), 0, knows).await;
        let log = Run::to(&[&mx]).plan(plan).ready([asking()]).go().await;

        assert_eq!(came(&log, &mx), Came::Encrypted(proof));
        let says = mx.transactions()[0].mail.contains("REQUIRETLS");
        assert_eq!(says, knows && proof == Proof::Pkix, "only to whom is known for who they are");
    }
}

#[tokio::test]
async fn a_waiver_goes_through_whatever_is_wrong_unless_the_operator_says_no() {
    let asking = || errand(1, CONTENT).asking(TlsWish::Waived, false);
    let security = [sts("enforce", "mx7.example.test"), security(HostDane::Unknown), None];
    for (security, tls) in security.into_iter().zip([TlsPolicy::Opportunistic, TlsPolicy::Dane, TlsPolicy::Required]) {
        let strict = |plan: &mut Plan| (plan.tls, plan.security) = (tls, security.clone());
        for wrong in [Wrong::NotOffered, Wrong::Alert, Wrong::Expired] {
            let mx = wrong.start().await;
            let log = Run::to(&[&mx]).plan(strict).ready([asking()]).go().await;
            let expected = if wrong == Wrong::Expired { Came::Encrypted(Proof::None) } else { Came::InClear };
            assert_eq!(came(&log, &mx), expected, "{tls:?} {wrong:?}");
        }
        let mx = Wrong::NotOffered.start().await;
        let run = Run::to(&[&mx]).plan(strict).settings(|settings| settings.honors_waivers = false);
        assert!(matches!(came(&run.ready([asking()]).go().await, &mx), Came::Deferred(_)), "{tls:?}");
    }
}
