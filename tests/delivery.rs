//! Delivery against scripted receivers: the transaction on the wire.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/errand.rs"]
mod errand;
#[path = "common/fake_mx.rs"]
mod fake_mx;

use errand::{Run, errand, errand_to};
use fake_mx::{FakeMx, Step};
use hikyaku::message::Outcome;

const CONTENT: &[u8] = b"Subject: x\r\n\r\n.hidden\r\n..\r\n.\r\nend\r\n";

#[tokio::test]
async fn messages_follow_each_other_with_one_round_trip_each() {
    let mx = FakeMx::new().start().await;

    let log = Run::to(&[&mx]).ready((1..=3).map(|number| errand(number, CONTENT))).go().await;

    assert!(log.reports.iter().all(|(_, outcomes)| matches!(outcomes[..], [Outcome::Delivered(_)])), "{log:?}");
    assert_eq!(log.reports.iter().map(|report| report.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(mx.transactions().iter().all(|received| received.content == CONTENT));
    let reads: Vec<String> = mx.reads().iter().map(|(_, read)| String::from_utf8_lossy(read).into_owned()).collect();
    assert_eq!(reads.len(), 6, "EHLO, the first envelope, three contents, QUIT: {reads:?}");
    let next = format!("MAIL FROM:<s2@sender.test> SIZE={}\r\nRCPT TO:<r0@example.test>\r\nDATA\r\n", CONTENT.len());
    assert!(reads[2].ends_with(&format!("\r\n.\r\n{next}")), "{:?}", reads[2]);
}

#[tokio::test]
async fn each_refused_recipient_has_its_own_outcome() {
    let mx = FakeMx::new().on(Step::Rcpt, "550 5.1.1 no").on(Step::Rcpt, "452 4.2.2 full").start().await;

    let recipients = ["a@example.test", "b@example.test", "c@example.test"];
    let log = Run::to(&[&mx]).ready([errand_to(1, CONTENT, &recipients)]).go().await;

    let outcomes = &log.reports[0].1;
    assert!(matches!(outcomes[..], [Outcome::Bounced(_), Outcome::Deferred(_), Outcome::Delivered(_)]), "{outcomes:?}");
    assert_eq!(mx.transactions()[0].rcpts, ["RCPT TO:<c@example.test>"]);
}
