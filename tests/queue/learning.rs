//! What the queue does with what it learns about a receiver.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hikyaku::message::{Outcome, Phase, Report};
use hikyaku::queue::Settings;
use hikyaku::queue::limit_views::PathFilter;
use hikyaku::smtp::reply::Reply;
use hikyaku::smtp::status::Status;

use crate::common::{Receiver, Stage, delivered};

fn refused(phase: Phase, code: u16, status: (u8, u16, u16), text: &str) -> Outcome {
    let status = Some(Status::new(status.0, status.1, status.2));
    let report = Report::local(phase, Status::new(4, 0, 0), "");
    Outcome::Deferred(Report { reply: Reply { code, status, text: text.into() }, ..report })
}

/// A receiver that takes so many messages, then answers the next `count` with `refusal`, then takes all.
fn receiver(first: usize, count: usize, refusal: impl Fn() -> Outcome + Send + Sync + 'static) -> Receiver {
    let seen = AtomicUsize::new(0);
    let outcome = move |_, _| {
        let number = seen.fetch_add(1, Ordering::Relaxed);
        if (first..first + count).contains(&number) { refusal() } else { delivered() }
    };
    Receiver { outcome: Arc::new(outcome), transaction: Duration::from_millis(20), ..Receiver::default() }
}

fn attempts(stage: &Stage) -> Vec<u16> {
    let page = stage.queue.list(&hikyaku::queue::Filter { limit: 1_000, ..hikyaku::queue::Filter::default() });
    page.iter().map(|entry| entry.attempts).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_for_its_rate_goes_back_uncharged_and_all_connections_pause() {
    let stage = Stage::in_runtime_time(Settings::default());
    let slow_down = || refused(Phase::Mail, 421, (4, 7, 28), "unusual rate of mail");
    stage.script.set("d1.test", receiver(40, 3, slow_down));
    for _ in 0..100 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.start();

    stage.until("the first refusal", |stage| stage.done().iter().any(|done| done.outcome != delivered())).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (view, paused_at) = (stage.queue.view(), stage.done().len());
    assert!(paused_at <= 60, "{paused_at}: those in flight, and none after them");
    assert!(matches!(view.sites[0].waiting_for, Some("pause" | "gate")), "{view:?}");
    let seen = stage.queue.inspect("d1.test").unwrap();
    let pause = seen.next.iter().find(|event| event.event.starts_with("the pause after a refusal ends")).unwrap();
    assert!(pause.in_seconds.is_some_and(|seconds| (0.1..=60.0).contains(&seconds)), "{pause:?}");
    assert!(pause.cause.as_deref().is_some_and(|cause| cause.contains("421 4.7.28 unusual rate of mail")), "{pause:?}");
    let learnt: Vec<_> = seen.limits.iter().filter(|limit| limit.of.ends_with(", learnt")).collect();
    let rate = learnt.iter().find(|limit| limit.what == "messages").unwrap();
    let path = stage.queue.path_limits(&PathFilter { limit: 1, ..PathFilter::default() }).remove(0);
    assert_eq!(rate.most.map(|most| most as f64), path.rate_per_minute.map(f64::round), "{path:?}");
    assert!(rate.per_seconds == Some(60) && rate.room_in_seconds.is_some(), "{rate:?}");
    let connections = learnt.iter().find(|limit| limit.what == "connections").unwrap();
    assert_eq!(connections.used, u64::try_from(seen.summary.connections).ok(), "{connections:?}");
    assert_eq!(view.totals.scheduled, 0, "nothing waits for the retry schedule");
    assert!(attempts(&stage).iter().all(|attempts| *attempts == 0), "no attempt is counted");

    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(stage.queue.view().totals.queued, 0);
    assert_eq!(stage.done().iter().filter(|done| done.outcome == delivered()).count(), 100);
}

#[tokio::test(start_paused = true)]
async fn one_refusal_tells_how_many_messages_a_connection_may_carry() {
    let stage = Stage::in_runtime_time(Settings::default());
    let used_up = || refused(Phase::Mail, 421, (4, 7, 0), "Max messages per connection");
    stage.script.set("d1.test", receiver(5, 1, used_up));
    for _ in 0..30 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.start();

    stage.until("delivered", |stage| stage.queue.view().totals.queued == 0).await;

    // 30 messages and the refused one, over connections that carry no more than five of them.
    let dispatched = stage.script.dispatched.load(Ordering::Relaxed);
    assert!(dispatched >= 6, "{dispatched}");
    let told = stage.registry.render();
    assert!(told.contains("hikyaku_limits_changes_total{limit=\"messages-per-connection\"} 1\n"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_changes_no_limit_and_waits_for_the_schedule() {
    let stage = Stage::in_runtime_time(Settings::default());
    let full = || refused(Phase::Rcpt, 452, (4, 2, 2), "mailbox full");
    stage.script.set("d1.test", receiver(0, 10, full));
    for _ in 0..20 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.start();

    stage.until("ten delivered", |stage| stage.done().len() == 20).await;

    assert_eq!(stage.queue.view().totals.scheduled, 10);
    assert!(attempts(&stage).iter().all(|attempts| *attempts == 1));
    assert!(!stage.registry.render().contains("hikyaku_limits_changes_total{limit=\"rate\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn where_work_waits_another_connection_than_was_refused_is_tried_again_later() {
    let stage = Stage::in_runtime_time(Settings::default());
    let receiver = |most| Receiver { most, transaction: Duration::from_secs(2), ..Receiver::default() };
    stage.script.set("d1.test", receiver(3));
    for _ in 0..5_000 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    let connections =
        |stage: &Stage| stage.queue.path_limits(&PathFilter { limit: 1, ..PathFilter::default() })[0].connections;
    stage.start();
    tokio::time::sleep(Duration::from_secs(100)).await;
    let found = connections(&stage);
    assert!(found <= 3, "{found}");

    stage.script.set("d1.test", receiver(100));
    tokio::time::sleep(Duration::from_secs(400)).await;

    assert!(stage.queue.view().totals.queued > 0, "work waits");
    assert!(connections(&stage) > found, "{found} is kept to for ever");
    assert!(stage.script.open.load(Ordering::Relaxed) > 3);
}

/// A transaction that ended by the connection alone.
fn cut_off(phase: Phase) -> Outcome {
    let report =
        Report::local(phase, Status::new(4, 4, 2), format!("connection closed by the receiver ({})", phase.as_str()));
    Outcome::Deferred(Report { in_doubt: phase == Phase::EndOfData, ..report })
}

/// What a receiver saw that answers everything from message 40 on in the same way for ten minutes: messages that it took or
/// refused, how many of them were charged, and whether a limit was learnt.
async fn seen_by(refusal: impl Fn() -> Outcome + Send + Sync + 'static) -> (usize, usize, bool) {
    let stage = Stage::in_runtime_time(Settings::default());
    stage.script.set("d1.test", receiver(40, usize::MAX - 40, refusal));
    for _ in 0..300 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.start();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let charged = attempts(&stage).into_iter().map(usize::from).sum();
    let paths = stage.queue.path_limits(&PathFilter { limit: 1, ..PathFilter::default() });
    (stage.done().len(), charged, paths.iter().any(|path| path.limit_per_minute.is_some()))
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_fails_under_what_it_gets_is_left_alone_and_messages_are_not_blamed() {
    for phase in [Phase::Mail, Phase::Rcpt, Phase::Data, Phase::Content, Phase::EndOfData] {
        let (seen, charged, has_limit) = seen_by(move || cut_off(phase)).await;

        assert!(seen < 80 && has_limit, "{}: {seen}, {charged} charged", phase.as_str());
        // What the receiver may have waits for its schedule.
        let most = if phase == Phase::EndOfData { 40 } else { 8 };
        assert!(charged <= most, "{}: {seen}, {charged} charged", phase.as_str());
    }
    let fault = |code, status, text| move || refused(Phase::Mail, code, status, text);
    for (code, status, text) in [
        (421, (4, 0, 0), "Service not available, closing transmission channel"),
        (421, (4, 0, 0), "mx closing connection"),
        (421, (4, 4, 2), "mx Error: timeout exceeded"),
        (451, (4, 7, 500), "Server busy. Please try again later"),
        (451, (4, 4, 5), "System congested"),
    ] {
        let (seen, charged, has_limit) = seen_by(fault(code, status, text)).await;

        assert!(seen < 80 && has_limit && charged <= 8, "{code} {text}: {seen}, {charged} charged");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_one_recipient_or_message_or_of_another_fault_slows_nobody_down() {
    let fault = |phase, code, status, text| move || refused(phase, code, status, text);
    for (phase, code, status, text) in [
        (Phase::Rcpt, 451, (4, 3, 0), "Temporary lookup failure"),
        (Phase::Mail, 450, (4, 7, 1), "greylisted"),
        (Phase::EndOfData, 451, (4, 7, 1), "content looks like spam"),
        (Phase::Mail, 451, (4, 7, 1), "Service unavailable - try again later"),
    ] {
        let (seen, _, has_limit) = seen_by(fault(phase, code, status, text)).await;

        assert!(seen >= 300 && !has_limit, "{code} {text}: {seen}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_5yz_about_the_rate_slows_the_path_down() {
    let report = |code, text: &'static str| {
        move || match refused(Phase::Mail, code, (5, 7, 1), text) {
            Outcome::Deferred(report) => Outcome::Bounced(report),
            other => other,
        }
    };

    let (seen, _, has_limit) = seen_by(report(554, "too many messages from you, slow down")).await;
    let (others, _, is_limited) = seen_by(report(554, "rejected by policy")).await;

    assert!(seen < 100 && has_limit, "{seen}");
    assert!(others >= 300 && !is_limited, "{others}");
}
