//! Retries, expiry and look-ups.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hikyaku::demo::responder::Fault;
use hikyaku::message::{Envelope, MessageId, Phase};
use hikyaku::queue::settings::{InDoubt, Limits, Retry, Tenant};
use hikyaku::queue::{Filter, Settings};
use hikyaku::spool::{Pending, Recovered};

use crate::common::{Receiver, Stage, deferred, delivered};

fn every_second() -> Settings {
    let retry = Retry { intervals: vec![Duration::from_secs(1)], jitter_percent: 0, ..Retry::default() };
    Settings { retry, ..Settings::default() }
}

fn deferring() -> Receiver {
    Receiver { outcome: Arc::new(|_, _| deferred("try later")), ..Receiver::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_delivered_and_leaves_queue_and_spool() {
    let stage = Stage::started(Settings::default());

    stage.submit(stage.envelope(&["a@d1.test", "b@d1.test", "c@d2.test"])).await;
    stage.until_done(3).await;

    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipients_of_one_domain_share_a_transaction_up_to_the_limit() {
    let limits = Limits { recipients_per_message: 2, connections: 1, ..Limits::default() };
    let stage = Stage::started(Settings { limits, ..Settings::default() });

    stage.put(stage.envelope(&["a@d1.test", "x@d2.test", "b@d1.test", "c@d1.test"]));
    stage.until_done(4).await;

    let done = stage.done();
    let first: Vec<_> = done.iter().filter(|done| done.domain == "d1.test").collect();
    assert_eq!(first.iter().map(|done| done.recipient).collect::<Vec<_>>(), [0, 2, 3]);
    assert_eq!(first[0].transaction, first[1].transaction);
    assert_ne!(first[1].transaction, first[2].transaction);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deferred_recipient_is_tried_again_by_the_schedule() {
    let stage = Stage::started(every_second());
    let tries = AtomicUsize::new(0);
    let outcome = move |_, _| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => deferred("greylisted"),
        _ => delivered(),
    };
    stage.script.set("d1.test", Receiver { outcome: Arc::new(outcome), ..Receiver::default() });

    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.until_done(2).await;

    let done = stage.done();
    let wait = done[1].at.duration_since(done[0].at);
    // Buckets are whole seconds.
    assert!((Duration::from_millis(1)..Duration::from_millis(2_200)).contains(&wait), "{wait:?}");
    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_deferred_of_several_recipients_is_tried_again() {
    let stage = Stage::started(every_second());
    let tries = AtomicUsize::new(0);
    let outcome = move |_, recipient| match (recipient, tries.fetch_add(1, Ordering::Relaxed)) {
        (1, 0..3) => deferred("mailbox busy"),
        _ => delivered(),
    };
    stage.script.set("d1.test", Receiver { outcome: Arc::new(outcome), ..Receiver::default() });

    stage.submit(stage.envelope(&["a@d1.test", "b@d1.test", "c@d1.test"])).await;
    stage.until_done(4).await;

    assert_eq!(stage.done()[3].recipient, 1);
    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recipient_expires_at_the_end_of_its_time_while_scheduled() {
    let mut settings = every_second();
    settings.retry.max_age = Duration::from_secs(2);
    let stage = Stage::started(settings);
    stage.script.set("d1.test", deferring());

    let id = stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.until("the report of the failure", |stage| stage.done().iter().any(|done| done.domain == "d199.test")).await;

    let tries = stage.done().iter().filter(|done| done.id == id).count();
    assert!((1..=2).contains(&tries), "{tries}");
    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_entries_expire_too_while_their_site_is_in_back_off() {
    let mut settings = Settings::default();
    settings.retry.max_age = Duration::from_secs(2);
    let stage = Stage::started(settings);
    stage.script.set("d1.test", Receiver { is_down: true, ..Receiver::default() });

    for _ in 0..5 {
        stage.submit(stage.envelope(&["a@d1.test"])).await;
    }
    stage.until("five reports", |stage| stage.done().iter().filter(|d| d.domain == "d199.test").count() == 5).await;

    assert!(stage.script.dispatched.load(Ordering::Relaxed) <= 4, "one try, and connections for reports");
    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mass_deferral_is_spread_by_a_fifth_either_way() {
    let retry = Retry { intervals: vec![Duration::from_secs(1_000)], ..Retry::default() };
    let stage = Stage::started(Settings { retry, ..Settings::default() });
    stage.script.set("d1.test", deferring());

    for _ in 0..2_000 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.until("all deferred", |stage| stage.queue.view().totals.scheduled == 2_000).await;

    let now = stage.clock.wall();
    let entries = stage.queue.list(&Filter { limit: 3_000, ..Filter::default() });
    let waits: Vec<u32> = entries.iter().map(|entry| entry.due.saturating_sub(now.0)).collect();
    let count = |range: std::ops::Range<u32>| waits.iter().filter(|wait| range.contains(wait)).count();
    assert!(count(780..1_205) == 2_000, "{waits:?}");
    // The worst minute of the four hundred seconds has at most twice the mean.
    let worst = (780..1_200).map(|start| count(start..start + 60)).max().unwrap();
    assert!(worst <= 2 * 2_000 * 60 / 400, "{worst}");
    assert!(count(780..880) > 200 && count(1_120..1_205) > 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_that_does_not_exist_bounces_and_a_broken_one_is_deferred() {
    let stage = Stage::in_zone(Settings::default(), |zone| {
        zone.mx("broken.test", 10, "mx.broken.test").fault("broken.test", None, Fault::ServFail);
        zone.mx("d199.test", 10, "mx.d199.test").address("mx.d199.test", [192, 0, 2, 1]);
    })
    .await;
    stage.start();

    stage.submit(stage.envelope(&["a@missing.test", "b@broken.test"])).await;
    stage.until_done(1).await;

    assert_eq!(stage.done()[0].domain, "d199.test", "the report of the bounce");
    stage.until("a deferral", |stage| stage.queue.view().totals.scheduled == 1).await;
    let entries = stage.queue.list(&Filter { limit: 9, ..Filter::default() });
    assert_eq!((&*entries[0].domain, entries[0].attempts, entries[0].state), ("broken.test", 1, "scheduled"));
    assert_eq!(Phase::Dns.as_str(), "dns");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovered_recipients_go_on_where_they_were_those_in_doubt_first() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let stage = Stage::new(Settings { limits, ..Settings::default() });
    let now = stage.clock.wall();
    let address = "192.0.2.7:25".parse().unwrap();
    let pending = |recipient, due, in_doubt| Pending { recipient, attempts: 3, due, delay_reported: false, in_doubt };
    let envelope = Arc::new(Envelope { accepted_at: stage.ago(600), ..stage.envelope(&["a@d1.test"; 4]) });
    for n in 0..10 {
        let id = MessageId::new(9, n);
        stage.queue.recover(Recovered {
            id,
            envelope: envelope.clone(),
            pending: vec![pending(0, stage.ago(60), None)],
        });
    }
    let doubtful = vec![pending(1, now, None), pending(2, now.plus(Duration::from_secs(900)), Some(address))];
    stage.queue.recover(Recovered { id: MessageId::new(9, 99), envelope: envelope.clone(), pending: doubtful });
    let later = vec![pending(3, now.plus(Duration::from_secs(900)), None)];
    stage.queue.recover(Recovered { id: MessageId::new(9, 98), envelope, pending: later });

    stage.start();
    stage.until_done(12).await;
    // Recovery goes on while mail is delivered, in a thread outside the runtime.
    let late = Arc::new(stage.envelope(&["a@d1.test", "a@d2.test"]));
    let two = vec![pending(0, now, None), pending(1, now, None)];
    let queue = stage.queue.clone();
    let recovery = move || queue.recover(Recovered { id: MessageId::new(9, 97), envelope: late, pending: two });
    std::thread::spawn(recovery).join().unwrap();
    stage.until_done(14).await;

    let done = stage.done();
    assert_eq!((done[0].id, done[0].recipient, done[0].in_doubt), (MessageId::new(9, 99), 2, Some(address)));
    assert!(done[1..].iter().all(|done| done.in_doubt.is_none()));
    let entries = stage.queue.list(&Filter { limit: 9, ..Filter::default() });
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].recipient, entries[0].attempts), (3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovered_recipient_waits_no_longer_than_the_schedule_says_though_the_clock_was_set_back() {
    let stage = Stage::new(every_second());
    let tomorrow = stage.clock.wall().plus(Duration::from_secs(86_400));
    let pending = Pending { recipient: 0, attempts: 1, due: tomorrow, delay_reported: false, in_doubt: None };
    let envelope = Arc::new(Envelope { accepted_at: tomorrow, ..stage.envelope(&["a@d1.test"]) });

    stage.queue.recover(Recovered { id: MessageId::new(9, 1), envelope, pending: vec![pending] });
    stage.start();

    stage.until_done(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn domains_whose_resolver_is_silent_do_not_hold_up_one_that_answers() {
    let stage = Stage::in_zone(Settings { lookups: 4, ..Settings::default() }, |zone| {
        for n in 0..12 {
            zone.mx(&format!("s{n}.test"), 10, "mx.s.test").fault(&format!("s{n}.test"), None, Fault::Silent);
        }
        zone.mx("good.test", 10, "mx.good.test").address("mx.good.test", [192, 0, 2, 1]);
    })
    .await;
    stage.start();
    for n in 0..12 {
        stage.put(stage.envelope(&[&format!("a@s{n}.test")]));
    }

    stage.put(stage.envelope(&["a@good.test"]));

    // The silent ones take ten seconds each.
    stage.until_done(1).await;
    assert_eq!(stage.queue.view().totals.waiting_for_dns, 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recipient_expires_at_the_end_of_its_time_while_its_domain_is_looked_up() {
    let stage = Stage::in_zone(Settings::default(), |zone| {
        zone.mx("s.test", 10, "mx.s.test").fault("s.test", None, Fault::Silent);
        zone.mx("d199.test", 10, "mx.d199.test").address("mx.d199.test", [192, 0, 2, 1]);
    })
    .await;
    stage.start();

    stage.submit(Envelope { accepted_at: stage.ago(5 * 86_400), ..stage.envelope(&["a@s.test"]) }).await;

    stage.until("the report", |stage| stage.done().iter().any(|done| done.domain == "d199.test")).await;
    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipients_in_doubt_are_held_or_assumed_to_be_delivered_where_their_tenant_says_so() {
    let tenant = |in_doubt| Tenant { in_doubt: Some(in_doubt), ..Tenant::default() };
    let tenants = [("sure".into(), tenant(InDoubt::AssumeDelivered)), ("again".into(), tenant(InDoubt::Retry))];
    let stage = Stage::new(Settings { in_doubt: InDoubt::Hold, tenants: tenants.into(), ..Settings::default() });
    let in_doubt = Some("192.0.2.7:25".parse().unwrap());
    let pending = Pending { recipient: 0, attempts: 0, due: stage.clock.wall(), delay_reported: false, in_doubt };
    for (number, tenant) in (0..).zip(["sure", "again", "other"]) {
        let envelope = Arc::new(Envelope { tenant: tenant.into(), ..stage.envelope(&["a@d1.test"]) });
        stage.queue.recover(Recovered { id: MessageId::new(9, number), envelope, pending: vec![pending] });
    }

    stage.start();
    stage.until_done(1).await;

    assert_eq!(stage.done()[0].id, MessageId::new(9, 1));
    stage.until("the held one alone", |stage| stage.queue.view().totals.queued == 1).await;
    let entries = stage.queue.list(&Filter { limit: 9, ..Filter::default() });
    assert_eq!((&*entries[0].tenant, entries[0].state), ("other", "in-doubt"));
    assert!(stage.registry.render().contains("hikyaku_queue_assumed_delivered_total 1"));
}
