//! Opportunistic TLS towards scripted receivers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/errand.rs"]
mod errand;
#[path = "common/fake_mx.rs"]
mod fake_mx;

use errand::{Log, Run, errand};
use fake_mx::{Act, FakeMx, Step};
use hikyaku::dns::TlsPolicy;
use hikyaku::message::{Outcome, Phase};

const CONTENT: &[u8] = b"Subject: x\r\n\r\n.hidden\r\nend\r\n";

fn is_delivered(log: &Log, count: usize) -> bool {
    let outcomes = log.reports.iter().flat_map(|(_, outcomes)| outcomes);
    outcomes.filter(|outcome| matches!(outcome, Outcome::Delivered(_))).count() == count
}

#[tokio::test]
async fn an_offered_starttls_is_used_whatever_the_certificate() {
    for extensions in [&["STARTTLS", "PIPELINING"][..], &["STARTTLS", "PIPELINING", "CHUNKING"], &["STARTTLS"]] {
        let mx = FakeMx::with(extensions).start().await;

        let log = Run::to(&[&mx]).ready((1..=3).map(|number| errand(number, CONTENT))).go().await;

        assert!(is_delivered(&log, 3), "{log:?}");
        assert!(mx.transactions().iter().all(|received| received.tls && received.content == CONTENT));
        assert_eq!(mx.connections(), 1);
        let ehlos = mx.commands().iter().filter(|command| command.starts_with("EHLO")).count();
        assert_eq!(ehlos, 2, "what was said in clear is void");
    }
}

#[tokio::test]
async fn a_large_content_goes_through_tls_whole() {
    let mx = FakeMx::with(&["STARTTLS", "PIPELINING"]).start().await;
    let large = [CONTENT, &b".0123456789\r\n".repeat(200_000)].concat();

    let log = Run::to(&[&mx]).ready([errand(1, &large), errand(2, CONTENT)]).go().await;

    assert!(is_delivered(&log, 2), "{log:?}");
    assert!(mx.transactions()[0].content == large);
}

#[tokio::test]
async fn an_idle_connection_under_tls_is_used_again_and_its_end_is_noticed() {
    let mx =
        FakeMx::with(&["STARTTLS", "PIPELINING"]).on(Step::Idle, Act::Normal).on(Step::Idle, Act::Fin).start().await;

    let log = Run::to(&[&mx]).ready([errand(1, CONTENT)]).later([errand(2, CONTENT), errand(3, CONTENT)]).go().await;

    assert!(is_delivered(&log, 2) && log.failed.is_empty(), "{log:?}");
    assert_eq!((log.reports.len(), mx.connections()), (2, 1));
}

#[tokio::test]
async fn where_the_policy_is_none_starttls_is_not_used() {
    let mx = FakeMx::with(&["STARTTLS"]).start().await;

    let log = Run::to(&[&mx]).plan(|plan| plan.tls = TlsPolicy::None).ready([errand(1, CONTENT)]).go().await;

    assert!(is_delivered(&log, 1), "{log:?}");
    assert!(!mx.transactions()[0].tls && !mx.commands().contains(&"STARTTLS".to_owned()));
}

#[tokio::test]
async fn octets_injected_behind_the_reply_to_starttls_are_refused() {
    let injected = b"220 2.0.0 go ahead\r\n250-mx.test\r\n250 AUTH PLAIN\r\n".to_vec();
    let mx = FakeMx::with(&["STARTTLS"]).on(Step::StartTls, Act::Raw(injected)).start().await;

    let log = Run::to(&[&mx]).ready([errand(1, CONTENT)]).go().await;

    assert!(matches!(&log.failed[..], [(1, Outcome::Deferred(report))] if report.phase == Phase::StartTls), "{log:?}");
    assert_eq!((mx.connections(), mx.transactions().len()), (1, 0), "not sent in clear either");
}

#[tokio::test]
async fn a_receiver_that_fails_in_the_dialogue_after_the_handshake_is_left_for_the_next_one() {
    let address = |last| std::net::IpAddr::from([127, 5, 0, last]);
    let script = FakeMx::with(&["STARTTLS"]).on(Step::Ehlo, Act::Normal).on(Step::Ehlo, "421 4.3.2 not now");
    let a = script.start_at(address(1), 0).await;
    let b = FakeMx::new().start_at(address(2), a.address.port()).await;

    let log = Run::to(&[&a, &b]).ready([errand(1, CONTENT)]).go().await;

    assert!(is_delivered(&log, 1), "{log:?}");
    assert_eq!((a.transactions().len(), b.transactions().len()), (0, 1));
}
