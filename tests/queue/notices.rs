//! Which DSNs are made.

use std::sync::Arc;
use std::time::Duration;

use hikyaku::log::disk::Disk;
use hikyaku::log::simulated::{Operation, Simulated};
use hikyaku::message::{Envelope, MessageId, Notify, Outcome};
use hikyaku::queue::settings::{BackOff, Retry};
use hikyaku::queue::{Filter, Settings};
use hikyaku::smtp::address::ReversePath;
use hikyaku::state::Selection;
use parking_lot::Mutex;

use crate::common::{Receiver, Stage, bounced, deferred, delivered};

fn answering(outcome: impl Fn(u32) -> Outcome + Send + Sync + 'static) -> Receiver {
    Receiver { outcome: Arc::new(move |_, recipient| outcome(recipient)), ..Receiver::default() }
}

fn notified(stage: &Stage, to: &[&str], notify: Notify) -> Envelope {
    let mut envelope = stage.envelope(to);
    envelope.recipients.iter_mut().for_each(|recipient| recipient.notify = notify);
    envelope
}

/// DSNs go to the sender's domain.
fn reports(stage: &Stage) -> usize {
    stage.done().iter().filter(|done| done.domain == "d199.test").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipients_bounced_by_one_transaction_share_a_dsn() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", answering(|_| bounced("no such user")));

    stage.submit(stage.envelope(&["a@d1.test", "b@d1.test"])).await;
    stage.until_done(3).await;

    stage.until_empty().await;
    assert_eq!(reports(&stage), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_null_reverse_path_and_notify_never_get_no_dsn() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", answering(|_| bounced("no such user")));

    stage.submit(Envelope { reverse_path: ReversePath::Null, ..stage.envelope(&["a@d1.test"]) }).await;
    stage.submit(notified(&stage, &["a@d1.test"], Notify::NEVER)).await;
    stage.submit(notified(&stage, &["a@d1.test"], Notify::SUCCESS)).await;
    stage.until_done(3).await;

    stage.until_empty().await;
    assert_eq!(reports(&stage), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bouncing_dsn_ends_there() {
    let stage = Stage::started(Settings::default());
    stage.script.set("*", answering(|_| bounced("no such user")));

    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.until_done(2).await;

    stage.until_empty().await;
    assert_eq!(stage.done().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn success_is_reported_only_when_asked_for_and_not_passed_on() {
    let stage = Stage::started(Settings::default());
    stage.script.set(
        "d2.test",
        answering(|_| match delivered() {
            Outcome::Delivered(mut report) => {
                report.relayed_dsn = true;
                Outcome::Delivered(report)
            }
            other => other,
        }),
    );

    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.submit(notified(&stage, &["a@d1.test"], Notify::SUCCESS)).await;
    stage.submit(notified(&stage, &["a@d2.test"], Notify::SUCCESS)).await;
    stage.until_done(4).await;

    stage.until_empty().await;
    assert_eq!(reports(&stage), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_is_reported_once_and_the_attempts_go_on() {
    let retry = Retry { intervals: vec![Duration::from_secs(1)], jitter_percent: 0, ..Retry::default() };
    let stage = Stage::started(Settings { retry, delay_after: Duration::ZERO, ..Settings::default() });
    stage.script.set("d1.test", answering(|_| deferred("not now")));

    let id = stage.submit(notified(&stage, &["a@d1.test"], Notify(Notify::DELAY.0 | Notify::FAILURE.0))).await;
    stage.submit(stage.envelope(&["b@d1.test"])).await;
    stage.until("three attempts", |stage| stage.done().iter().filter(|done| done.id == id).count() == 3).await;

    assert_eq!(reports(&stage), 1);
    stage.script.set("d1.test", Receiver::default());
    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dsn_waits_while_the_reported_message_cannot_be_read() {
    let storage = Arc::new(Simulated::new(1));
    let stage = Stage::on(Settings::default(), |_| storage.clone());
    stage.script.set("d1.test", answering(|_| bounced("no such user")));
    let mut failures = 1;
    storage.inject(move |operation, _| {
        let fails = operation == Operation::Read && failures > 0;
        failures -= u32::from(fails);
        fails.then_some(std::io::ErrorKind::Other)
    });

    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.until("the report", |stage| reports(stage) == 1).await;

    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounce_of_a_damaged_message_is_reported_from_its_envelope() {
    let stage = Stage::on(Settings::default(), |path| Arc::new(Disk::new(path)));
    stage
        .script
        .set("d1.test", Receiver { transaction: Duration::from_millis(100), ..answering(|_| bounced("no such user")) });

    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.damage(b"Hello", b"Jello");
    stage.until("the report", |stage| reports(stage) == 1).await;

    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounce_of_a_message_with_a_damaged_envelope_is_held() {
    let stage = Stage::on(Settings::default(), |path| Arc::new(Disk::new(path)));
    stage
        .script
        .set("d1.test", Receiver { transaction: Duration::from_millis(100), ..answering(|_| bounced("no such user")) });

    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.damage(b"sender@d199", b"sander@d199");
    stage.until("the held one", |stage| stage.queue.view().totals.held == 1).await;

    assert_eq!((reports(&stage), stage.spool.stat().messages), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_can_wait_for_the_dsns_of_what_was_delivered() {
    let storage = Arc::new(Simulated::new(1));
    let stage = Stage::on(Settings::default(), |_| storage.clone());
    stage.script.set("d199.test", Receiver { is_stalled: true, ..Receiver::default() });
    storage.inject(|operation, _| {
        if operation == Operation::SyncData {
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    });
    let count = 20;
    let mut ids = Vec::new();
    for _ in 0..count {
        let envelope = notified(&stage, &["a@d1.test"], Notify::SUCCESS);
        ids.push(stage.submit(envelope).await);
    }
    stage.until_done(count).await;

    stage.queue.stop_dispatch();
    stage.queue.settled().await;

    assert!(ids.iter().all(|id| matches!(stage.spool.load(*id), Err(hikyaku::spool::LoadError::Unknown))));
    assert_eq!(stage.spool.stat().messages, count as u64, "the reports");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_is_reported_of_recipients_that_wait_for_the_end_of_a_back_off() {
    let long = Duration::from_secs(300);
    let back_off = BackOff { first: long, floor: long, most: long };
    let settings = Settings { back_off, delay_after: Duration::from_secs(60), ..Settings::default() };
    let stage = Stage::started(settings);
    stage.script.set("d1.test", Receiver { is_down: true, ..Receiver::default() });
    for _ in 0..3 {
        let envelope = notified(&stage, &["a@d1.test"], Notify::DELAY);
        stage.submit(Envelope { accepted_at: stage.ago(120), ..envelope }).await;
    }

    // One by the attempt that failed.
    stage.until("three reports", |stage| reports(stage) == 3).await;

    stage.until("the others ready again", |stage| stage.queue.view().totals.ready == 2).await;
    // The reports are counted out a moment after their receiver has said what it has to say.
    stage.until("the reports gone", |stage| stage.queue.view().totals.queued == 3).await;
}

/// What the reports said.
fn texts(stage: &Stage) -> Arc<Mutex<Vec<String>>> {
    let texts: Arc<Mutex<Vec<String>>> = Arc::default();
    let (seen, spool) = (texts.clone(), stage.spool.clone());
    let outcome = move |id: MessageId, _| {
        let content = spool.load(id).unwrap().content.chunk(0, 1 << 20).unwrap();
        seen.lock().push(String::from_utf8(content.to_vec()).unwrap());
        delivered()
    };
    stage.script.set("d199.test", Receiver { outcome: Arc::new(outcome), ..Receiver::default() });
    texts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_recipient_is_told_its_own_last_reply_and_nobody_elses() {
    let retry = Retry { intervals: vec![Duration::from_secs(60)], max_age: Duration::from_secs(4), ..Retry::default() };
    let stage = Stage::started(Settings { retry, ..Settings::default() });
    let texts = texts(&stage);
    let first: Arc<Mutex<Option<MessageId>>> = Arc::default();
    let known = first.clone();
    let outcome = move |id: MessageId, _| match *known.lock() {
        Some(first) if first == id => deferred("words for the one"),
        _ => deferred("words for the other"),
    };
    stage.script.set("d1.test", Receiver { outcome: Arc::new(outcome), ..Receiver::default() });

    let envelope = stage.envelope(&["one@d1.test"]);
    let id = stage.spool.next_id();
    *first.lock() = Some(id);
    stage.submit_as(id, envelope).await;
    stage.until_done(1).await;
    stage.submit(Envelope { tenant: "b".into(), ..stage.envelope(&["other@d1.test"]) }).await;
    stage.until_done(2).await;
    let entries = stage.queue.list(&Filter {
        selection: Selection { message: Some(id.to_string().into()), ..Selection::default() },
        limit: 9,
        ..Filter::default()
    });
    assert_eq!(entries[0].last_reply.as_deref(), Some("end-of-data at -: 451 4.3.0 words for the one"));
    stage.until("both reports", |_| texts.lock().len() == 2).await;

    let texts = texts.lock();
    let of = |recipient: &str| texts.iter().find(|text| text.contains(recipient)).unwrap().replace("\r\n", "");
    assert!(of("<one@d1.test>").contains("for the one") && !of("<one@d1.test>").contains("for the other"));
    assert!(of("<other@d1.test>").contains("for the other"));
}
