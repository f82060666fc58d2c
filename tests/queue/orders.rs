//! Operators' orders, and flushes: what they are about, what they do, and when they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hikyaku::log::simulated::Simulated;
use hikyaku::message::{Envelope, Lane, MessageId, Outcome};
use hikyaku::queue::settings::Retry;
use hikyaku::queue::{Egress, EgressPool, Filter, Placed, Settings, Source};
use hikyaku::smtp::address::ReversePath;
use hikyaku::state::{Action, OrderId, Request, Selection};

use crate::common::{Receiver, Stage, deferred};

pub fn to_domain(domain: &str) -> Selection {
    Selection { domain: Some(domain.into()), ..Selection::default() }
}

fn request(action: Action, selection: Selection) -> Request {
    Request { action, selection, reason: "a reason".into(), by: "ops".into(), seconds: None }
}

pub fn place(stage: &Stage, action: Action, selection: Selection) -> Placed {
    // It waits for the disk.
    tokio::task::block_in_place(|| stage.queue.place(request(action, selection))).unwrap()
}

fn suspend_all(stage: &Stage) -> OrderId {
    place(stage, Action::Suspend, Selection::default()).order.id
}

fn suspended(stage: &Stage) -> usize {
    stage.queue.view().totals.suspended
}

pub fn held(stage: &Stage) -> usize {
    stage.queue.view().totals.held
}

fn of_tenant(stage: &Stage, tenant: &str, to: &[&str]) -> Envelope {
    Envelope { tenant: tenant.into(), ..stage.envelope(to) }
}

/// Two sources in one pool.
pub fn two_sources() -> Settings {
    let named = |name: &str| Arc::new(Source { name: name.into(), ..(*Egress::default().sources[0]).clone() });
    let egress = Egress {
        sources: vec![named("one"), named("two"), named("spare")],
        pools: vec![EgressPool { name: "default".into(), members: vec![(0, 1), (1, 1)] }],
        ..Egress::default()
    };
    Settings { egress, ..Settings::default() }
}

pub fn sources_used(stage: &Stage) -> Vec<String> {
    let mut used: Vec<String> = stage.done().iter().map(|done| done.source.to_string()).collect();
    used.sort();
    used.dedup();
    used
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspended_mail_waits_and_all_other_mail_goes() {
    let stage = Stage::started(Settings::default());
    let selection = Selection { tenant: Some("shop".into()), lane: Some("bulk".into()), ..to_domain("d1.test") };
    let order = place(&stage, Action::Suspend, selection).order.id;
    let bulk = |tenant, to: &[&str]| Envelope { lane: Lane::Bulk, ..of_tenant(&stage, tenant, to) };

    stage.submit(bulk("shop", &["a@d1.test"])).await;
    let others =
        [bulk("shop", &["b@d2.test"]), bulk("other", &["c@d1.test"]), of_tenant(&stage, "shop", &["d@d1.test"])];
    for envelope in others {
        stage.submit(envelope).await;
    }
    stage.until_done(3).await;

    assert_eq!((stage.done().len(), suspended(&stage)), (3, 1));
    let undone = stage.queue.undo(order).unwrap().unwrap();
    assert_eq!(undone.released, 1);
    stage.until_empty().await;
    assert_eq!(stage.done().len(), 4);
    assert!(stage.queue.undo(order).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ready_when_an_order_comes_is_stopped_too() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", Receiver { is_stalled: true, ..Receiver::default() });
    for _ in 0..50 {
        stage.submit(stage.envelope(&["a@d1.test"])).await;
    }
    stage.until("some in flight", |stage| stage.queue.view().totals.in_flight > 0).await;

    let placed = place(&stage, Action::Suspend, to_domain("d1.test"));

    let totals = stage.queue.view().totals;
    assert_eq!((totals.ready, totals.suspended + totals.in_flight), (0, 50));
    assert_eq!(placed.counts.values().sum::<usize>(), 50, "{:?}", placed.counts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_slips_past_an_order_that_is_placed_while_mail_streams_in() {
    let stage = Arc::new(Stage::started(Settings::default()));
    let goes_on = Arc::new(AtomicBool::new(true));
    let put = |domain: &'static str| {
        let (stage, goes_on) = (stage.clone(), goes_on.clone());
        tokio::task::spawn_blocking(move || {
            let mut count = 0;
            while goes_on.load(Ordering::Relaxed) && count < 20_000 {
                stage.put(stage.envelope(&[domain]));
                count += 1;
            }
            count
        })
    };
    let writers = [put("a@d1.test"), put("b@d1.test")];

    for _ in 0..50 {
        let stage = stage.clone();
        let check = move || {
            let order = suspend_all(&stage);
            // Whatever was under way has come to its site or was stopped; from here on nothing becomes ready.
            std::thread::sleep(Duration::from_millis(2));
            let ready = stage.queue.view().totals.ready;
            stage.queue.undo(order).unwrap();
            ready
        };
        assert_eq!(tokio::task::spawn_blocking(check).await.unwrap(), 0);
    }

    goes_on.store(false, Ordering::Relaxed);
    let mut all = 0;
    for writer in writers {
        all += writer.await.unwrap();
    }
    stage.until("an empty queue", |stage| stage.queue.view().totals.queued == 0).await;
    assert_eq!(stage.done().len(), all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspended_mail_expires_with_a_dsn_and_held_mail_does_not() {
    let retry = Retry { max_age: Duration::from_secs(100), ..Retry::default() };
    let stage = Stage::started(Settings { retry, ..Settings::default() });
    place(&stage, Action::Hold, to_domain("d1.test"));
    place(&stage, Action::Suspend, to_domain("d2.test"));
    let old = |to: &[&str]| Envelope { accepted_at: stage.ago(200), ..stage.envelope(to) };

    stage.submit(old(&["a@d1.test"])).await;
    stage.submit(old(&["b@d2.test"])).await;
    stage.until("the DSN", |stage| stage.done().iter().any(|done| done.domain == "d199.test")).await;

    stage.until("one held, none suspended", |stage| (held(stage), suspended(stage)) == (1, 0)).await;
    stage.until("only the held one", |stage| stage.queue.view().totals.queued == 1).await;
    assert_eq!(stage.done().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_mail_leaves_from_the_other_source_also_what_was_ready() {
    let stage = Stage::new(two_sources());
    for _ in 0..20 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }

    place(&stage, Action::Move { source: "spare".into() }, to_domain("d1.test"));
    for _ in 0..20 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.start();
    stage.until_done(40).await;

    assert_eq!(sources_used(&stage), ["spare"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_source_is_replaced_by_the_others_of_its_pool() {
    let stage = Stage::started(two_sources());
    let of_source = |source: &str| Selection { source: Some(source.into()), ..Selection::default() };
    place(&stage, Action::Suspend, of_source("one"));

    for _ in 0..20 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.until_done(20).await;
    place(&stage, Action::Suspend, of_source("two"));
    stage.put(stage.envelope(&["a@d1.test"]));

    assert_eq!((sources_used(&stage), suspended(&stage)), (vec!["two".to_owned()], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_mail_is_gone_without_a_dsn_wherever_it_waited() {
    let intervals = vec![Duration::from_secs(600)];
    let stage = Stage::started(Settings { retry: Retry { intervals, ..Retry::default() }, ..Settings::default() });
    let receiver = Receiver { outcome: Arc::new(|_, _| deferred("later")), ..Receiver::default() };
    stage.script.set("d1.test", receiver);
    stage.script.set(
        "d2.test",
        Receiver {
            transaction: Duration::from_millis(300),
            outcome: Arc::new(|_, _| deferred("later")),
            ..Receiver::default()
        },
    );
    place(&stage, Action::Suspend, to_domain("d3.test"));
    stage.submit(stage.envelope(&["scheduled@d1.test"])).await;
    stage.submit(stage.envelope(&["suspended@d3.test"])).await;
    stage.until("a scheduled one", |stage| stage.queue.view().totals.scheduled == 1).await;
    stage.submit(stage.envelope(&["in-flight@d2.test"])).await;
    stage.until("one in flight", |stage| stage.queue.view().totals.in_flight == 1).await;

    let placed = place(&stage, Action::Delete, Selection::default());

    assert_eq!(placed.ended, 2, "{:?}", placed.counts);
    assert_eq!(placed.counts.get("in-flight"), Some(&1));
    stage.until_empty().await;
    assert_eq!(stage.done().len(), 2, "no DSN, and no second attempt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounced_mail_is_reported_once_a_message() {
    let stage = Stage::started(Settings::default());
    place(&stage, Action::Suspend, to_domain("d1.test"));
    let id = stage.submit(stage.envelope(&["a@d1.test", "b@d1.test"])).await;
    stage.submit(stage.envelope(&["c@d1.test"])).await;

    let message = Selection { message: Some(id.to_string().into()), ..Selection::default() };
    let placed = place(&stage, Action::Bounce, message);

    assert_eq!(placed.ended, 2);
    stage.until("the DSN", |stage| stage.done().len() == 1).await;
    assert_eq!(stage.done()[0].domain, "d199.test");
    stage.until("the other one", |stage| suspended(stage) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_end_mail_once_leave_what_comes_later_alone() {
    let stage = Stage::started(Settings::default());
    place(&stage, Action::Delete, to_domain("d1.test"));

    // In the same second, most likely.
    stage.submit(stage.envelope(&["a@d1.test"])).await;

    stage.until_done(1).await;
    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_ends_when_its_time_is_over() {
    let stage = Stage::started(Settings::default());
    let order = Request { seconds: Some(1), ..request(Action::Suspend, to_domain("d1.test")) };
    let placed_at = Instant::now();
    stage.queue.place(order).unwrap();
    stage.submit(stage.envelope(&["a@d1.test"])).await;

    stage.until_done(1).await;

    stage.until_empty().await;
    assert!(stage.done()[0].at.duration_since(placed_at) >= Duration::from_secs(1));
    assert!(stage.queue.orders().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_are_told_apart_by_address_by_domain_and_the_null_one() {
    let stage = Stage::started(Settings::default());
    let from = |sender: &str, to: &str| {
        let reverse_path = match sender {
            "" => ReversePath::Null,
            address => ReversePath::Mailbox(address.parse().unwrap()),
        };
        Envelope { reverse_path, ..stage.envelope(&[to]) }
    };
    let order = suspend_all(&stage);
    let mut ids: Vec<MessageId> = Vec::new();
    for (sender, to) in
        [("a@x.test", "1@d1.test"), ("b@x.test", "2@d1.test"), ("", "3@d1.test"), ("a@y.test", "4@d2.test")]
    {
        ids.push(stage.submit(from(sender, to)).await);
    }
    // What is on its way from one place to another is seen in neither.
    stage.until("all parked", |stage| suspended(stage) == 4).await;
    let found = |sender: &str| {
        let selection = Selection { sender: Some(sender.into()), ..Selection::default() }.checked().unwrap();
        let entries = stage.queue.list(&Filter { selection, limit: 9, ..Filter::default() });
        let mut found: Vec<usize> =
            entries.iter().map(|entry| ids.iter().position(|id| id.to_string() == entry.message_id).unwrap()).collect();
        found.sort_unstable();
        found
    };

    assert_eq!((found("a@x.test"), found("@X.test"), found("<>")), (vec![0], vec![0, 1], vec![2]));
    let sender = Selection { sender: Some("@x.test".into()), ..Selection::default() };
    assert_eq!(place(&stage, Action::Delete, sender).ended, 2);
    stage.queue.undo(order).unwrap();
    stage.until_done(2).await;
    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_tries_deferred_and_held_mail_now() {
    let intervals = vec![Duration::from_secs(600)];
    let stage = Stage::started(Settings { retry: Retry { intervals, ..Retry::default() }, ..Settings::default() });
    let tries = Arc::new(AtomicBool::new(false));
    let is_well = tries.clone();
    let outcome = move |_: MessageId, _: u32| -> Outcome {
        if is_well.load(Ordering::Relaxed) { crate::common::delivered() } else { deferred("later") }
    };
    stage.script.set("d1.test", Receiver { outcome: Arc::new(outcome), ..Receiver::default() });
    stage.script.set("d2.test", Receiver { is_damaged: true, ..Receiver::default() });
    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.submit(stage.envelope(&["b@d2.test"])).await;
    stage
        .until("both aside", |stage| {
            let totals = stage.queue.view().totals;
            (totals.scheduled, totals.held) == (1, 1)
        })
        .await;
    tries.store(true, Ordering::Relaxed);
    stage.script.set("d2.test", Receiver::default());

    let flushed = stage.queue.flush(&Selection::default(), true);

    assert_eq!((flushed.scheduled, flushed.held), (1, 1));
    stage.until_done(3).await;
    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_source_is_no_place_to_move_to() {
    let stage = Stage::started(Settings::default());

    let refused = stage.queue.place(request(Action::Move { source: "none".into() }, Selection::default()));

    assert!(refused.is_err() && stage.queue.orders().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_stand_after_a_restart_for_what_is_recovered() {
    let stage = Stage::started(Settings::default());
    place(&stage, Action::Suspend, to_domain("d1.test"));
    stage.submit(stage.envelope(&["a@d1.test"])).await;

    let stage = stage.again(Settings::default());

    stage.until("the recovered one", |stage| suspended(stage) == 1).await;
    let id = stage.queue.orders()[0].order.id;
    assert_eq!(stage.queue.undo(id).unwrap().unwrap().released, 1);
    stage.until_done(1).await;
    stage.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_ends_mail_once_waits_for_what_is_being_stored() {
    let stage = Arc::new(Stage::started(Settings::default()));
    place(&stage, Action::Hold, to_domain("d1.test"));
    let (arrival, early) = (stage.queue.arrival(), stage.spool.next_id());

    let placing = {
        let stage = stage.clone();
        tokio::task::spawn_blocking(move || place(&stage, Action::Delete, to_domain("d1.test")))
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!placing.is_finished());
    stage.submit_as(early, stage.envelope(&["early@d1.test"])).await;
    drop(arrival);
    let placed = placing.await.unwrap();

    let late = stage.submit(stage.envelope(&["late@d1.test"])).await;

    assert_eq!(placed.ended, 1);
    stage.until("the late one", |stage| held(stage) == 1).await;
    let left: Vec<String> =
        stage.queue.list(&Filter { limit: 9, ..Filter::default() }).into_iter().map(|entry| entry.message_id).collect();
    assert_eq!(left, [late.to_string()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_ends_mail_once_ends_when_nothing_that_it_is_about_is_being_tried() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", Receiver { is_stalled: true, ..Receiver::default() });
    let outcome = Arc::new(|_, _| deferred("later"));
    stage.script.set("d2.test", Receiver { transaction: Duration::from_secs(4), outcome, ..Receiver::default() });
    stage.submit(stage.envelope(&["stalled@d1.test"])).await;
    stage.submit(stage.envelope(&["tried@d2.test"])).await;
    stage.until("both in flight", |stage| stage.queue.view().totals.in_flight == 2).await;

    place(&stage, Action::Delete, to_domain("d3.test"));
    stage.until("an end, since it is about nothing that is tried", |stage| stage.queue.orders().is_empty()).await;
    place(&stage, Action::Delete, to_domain("d2.test"));
    assert_eq!(stage.queue.orders().len(), 1);

    stage.until("only the stalled one", |stage| stage.queue.view().totals.queued == 1).await;
    stage.until("no order", |stage| stage.queue.orders().is_empty()).await;
    assert_eq!(stage.done().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_a_restart_interrupts_is_done_then_and_spares_what_is_new() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", Receiver { transaction: Duration::from_secs(1), ..Receiver::default() });
    stage.submit(stage.envelope(&["old@d1.test"])).await;
    stage.until("one in flight", |stage| stage.queue.view().totals.in_flight == 1).await;
    place(&stage, Action::Delete, to_domain("d1.test"));
    stage.submit(stage.envelope(&["new@d1.test"])).await;

    let stage = stage.again(Settings::default());

    stage.until_done(1).await;
    stage.until_empty().await;
    stage.until("no order", |stage| stage.queue.orders().is_empty()).await;
    assert_eq!(stage.done().len(), 1, "only the new one was tried");
}

fn no_older_than(seconds: u64) -> Settings {
    Settings { retry: Retry { max_age: Duration::from_secs(seconds), ..Retry::default() }, ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hold_kept_beyond_its_age_is_tried_once_before_it_expires() {
    let stage = Stage::started(no_older_than(100));
    stage.script.set("d2.test", Receiver { outcome: Arc::new(|_, _| deferred("later")), ..Receiver::default() });
    let order = place(&stage, Action::Hold, Selection::default()).order.id;
    for path in ["a@d1.test", "b@d2.test"] {
        stage.submit(Envelope { accepted_at: stage.ago(200), ..stage.envelope(&[path]) }).await;
    }
    stage.until("both held", |stage| held(stage) == 2).await;

    stage.queue.undo(order).unwrap();

    stage.until_done(3).await;
    stage.until_empty().await;
    let mut tried: Vec<String> = stage.done().into_iter().map(|done| done.domain).collect();
    tried.sort();
    assert_eq!(tried, ["d1.test", "d199.test", "d2.test"], "one attempt each, and one DSN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_held_as_damaged_beyond_its_age_is_tried_when_it_is_flushed() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d2.test", Receiver { is_damaged: true, ..Receiver::default() });
    stage.submit(Envelope { accepted_at: stage.ago(200), ..stage.envelope(&["b@d2.test"]) }).await;
    stage.until("one held", |stage| held(stage) == 1).await;
    stage.queue.apply(no_older_than(100), None);
    stage.script.set("d2.test", Receiver::default());

    stage.queue.flush(&Selection::default(), true);

    stage.until_empty().await;
    let tried: Vec<String> = stage.done().into_iter().map(|done| done.domain).collect();
    assert_eq!(tried, ["d2.test"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_moves_to_a_source_that_is_no_more_says_so() {
    let stage = Stage::started(two_sources());
    place(&stage, Action::Move { source: "spare".into() }, to_domain("d1.test"));
    assert!(!stage.queue.orders()[0].is_source_missing);

    stage.queue.apply(Settings::default(), None);

    assert!(stage.queue.orders()[0].is_source_missing);
    stage.put(stage.envelope(&["a@d1.test"]));
    stage.until_done(1).await;
    assert_eq!(sources_used(&stage), ["default"]);
    stage.queue.apply(two_sources(), None);
    assert!(!stage.queue.orders()[0].is_source_missing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_tells_how_many_an_order_keeps() {
    let stage = Stage::started(Settings::default());
    stage.script.set("*", Receiver { outcome: Arc::new(|_, _| deferred("later")), ..Receiver::default() });
    for path in ["a@d1.test", "b@d1.test", "a@d2.test"] {
        stage.submit(stage.envelope(&[path])).await;
    }
    stage.until("all deferred", |stage| stage.queue.view().totals.scheduled == 3).await;
    place(&stage, Action::Hold, to_domain("d1.test"));

    let flushed = stage.queue.flush(&Selection::default(), false);

    assert_eq!((flushed.scheduled, flushed.kept), (3, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_tells_what_orders_keep_of_its_mail() {
    let stage = Stage::started(Settings::default());
    let first = place(&stage, Action::Hold, to_domain("d1.test")).order.id;
    let suspend = Request { seconds: Some(3_600), ..request(Action::Suspend, Selection::default()) };
    stage.queue.place(suspend).unwrap();
    for path in ["a@d1.test", "b@d1.test", "a@d2.test"] {
        stage.submit(stage.envelope(&[path])).await;
    }
    stage.until("all kept", |stage| held(stage) + suspended(stage) == 3).await;

    let kept: Vec<usize> = stage.queue.view().sites.iter().map(|site| site.kept).collect();
    let of = |domain| stage.queue.inspect(domain).unwrap();
    let (one, two) = (of("d1.test"), of("d2.test"));

    assert_eq!(kept.iter().sum::<usize>(), 3, "{kept:?}");
    assert_eq!((one.summary.kept, one.depth[0].kept, one.depth[0].ready), (2, 2, 0));
    assert_eq!(one.next[0].event, "the order ends that keeps 2 recipients");
    assert_eq!(one.next[0].cause.as_deref(), Some(&*format!("hold order {first}: a reason")));
    assert_eq!((one.next[0].in_seconds, two.summary.kept), (None, 1));
    assert!(two.next[0].in_seconds.is_some_and(|seconds| seconds > 3_000.0), "{:?}", two.next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_find_a_recipient_among_many_reads_the_envelopes_of_those_found_only() {
    let storage = Arc::new(Simulated::new(1));
    let stage = Stage::on(Settings::default(), |_| storage.clone());
    place(&stage, Action::Hold, to_domain("d1.test"));
    for message in 0..200 {
        let paths: Vec<String> = (0..100).map(|recipient| format!("r{recipient}-{message}@d1.test")).collect();
        stage.submit(stage.envelope(&paths.iter().map(String::as_str).collect::<Vec<_>>())).await;
    }
    stage.until("all held", |stage| held(stage) == 20_000).await;

    let selection = Selection { recipient: Some("r7-123@d1.test".into()), ..Selection::default() };
    let filter = Filter { selection, limit: 50, ..Filter::default() };
    let calls_to_find = |_| {
        let before = storage.calls();
        assert_eq!(stage.queue.list(&filter).len(), 1);
        storage.calls() - before
    };
    // The spool's own threads may call in between.
    let calls = (0..3).map(calls_to_find).min().unwrap();

    assert!(calls <= 4, "{calls} calls to the disk for one envelope");
}
