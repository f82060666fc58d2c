#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
//! The queue with a scripted courier: what is tried, when, in which order, and that nothing is lost.

#[path = "common/queue.rs"]
mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Receiver, Stage, bounced, deferred, delivered};
use hikyaku::message::{Lane, Outcome};
use hikyaku::queue::Settings;
use hikyaku::queue::settings::{Limits, Retry};

const TWO: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_delivered_and_leaves_queue_and_spool() {
    let stage = Stage::started(Settings::default());

    stage.submit(stage.envelope(&["a@d1.test", "b@d1.test", "c@d2.test"])).await;
    stage.until_done(3).await;

    stage.until("an empty queue", |stage| stage.queue.view().totals.queued == 0).await;
    assert_eq!(stage.spool.stat().messages, 0);
    assert_eq!(stage.queue.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipients_of_one_domain_share_a_transaction_up_to_the_limit() {
    let limits = Limits { recipients_per_message: TWO, ..Limits::default() };
    let stage = Stage::started(Settings { limits, ..Settings::default() });

    stage.put(stage.envelope(&["a@d1.test", "x@d2.test", "b@d1.test", "c@d1.test"]));
    stage.until_done(4).await;

    let done = stage.done();
    let to_first: Vec<u32> = done.iter().filter(|done| done.domain == "d1.test").map(|done| done.recipient).collect();
    assert_eq!(to_first, [0, 2, 3]);
    let times: Vec<_> = done.iter().filter(|done| done.domain == "d1.test").map(|done| done.at).collect();
    assert_eq!(times[0].duration_since(times[0]), Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deferred_recipient_is_tried_again_by_the_schedule() {
    let retry = Retry { intervals: vec![Duration::from_secs(1)], jitter_percent: 0, ..Retry::default() };
    let stage = Stage::started(Settings { retry, ..Settings::default() });
    let tries = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let outcome = move |_, _| match tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => deferred("greylisted"),
        _ => delivered(),
    };
    stage.script.set("d1.test", Receiver { outcome: Arc::new(outcome), ..Receiver::default() });

    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.until_done(1).await;
    assert_eq!(stage.queue.view().totals.queued, 1);
    stage.until_done(2).await;

    let done = stage.done();
    let wait = done[1].at.duration_since(done[0].at);
    assert!((Duration::from_millis(1)..Duration::from_millis(2_200)).contains(&wait), "{wait:?}");
    stage.until("an empty queue", |stage| stage.queue.view().totals.queued == 0).await;
    assert_eq!(stage.spool.stat().messages, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounce_is_reported_to_the_reverse_path_once() {
    let stage = Stage::started(Settings::default());
    let outcome = |_, _| bounced("no such user");
    stage.script.set("d1.test", Receiver { outcome: Arc::new(outcome), ..Receiver::default() });

    stage.submit(stage.envelope(&["a@d1.test", "b@d1.test"])).await;
    stage.until_done(3).await;

    stage.until("an empty queue", |stage| stage.queue.view().totals.queued == 0).await;
    let done = stage.done();
    assert_eq!(done.iter().filter(|done| done.domain == "d199.test").count(), 1);
    assert!(matches!(done[2].outcome, Outcome::Delivered(_)));
    assert_eq!(stage.spool.stat().messages, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_share_a_site_sixteen_to_four_to_one() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let stage = Stage::new(Settings { limits, ..Settings::default() });
    for lane in [Lane::Bulk, Lane::Normal, Lane::Urgent] {
        for _ in 0..420 {
            stage.put(hikyaku::message::Envelope { lane, ..stage.envelope(&["a@d1.test"]) });
        }
    }
    let _ = delivered();
    stage.start();
    stage.until_done(1260).await;
}
