//! What people see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hikyaku::demo::responder::Fault;
use hikyaku::message::{Envelope, Outcome, Report};
use hikyaku::queue::settings::BackOff;
use hikyaku::queue::{Filter, Settings};
use hikyaku::spool::{Pending, Recovered};
use hikyaku::state::{Action, Request, Selection};

use crate::common::{Receiver, Stage, deferred};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_past_their_time_are_counted_by_what_they_wait_for() {
    let long = Duration::from_secs(60);
    let back_off = BackOff { first: long, floor: long, most: long };
    let stage = Stage::started(Settings { back_off, ..Settings::default() });
    stage.script.set("d1.test", Receiver { is_down: true, ..Receiver::default() });
    stage.script.set("d2.test", Receiver { is_stalled: true, ..Receiver::default() });

    for _ in 0..10 {
        stage.put(Envelope { accepted_at: stage.ago(120), ..stage.envelope(&["a@d1.test"]) });
        stage.put(Envelope { accepted_at: stage.ago(120), ..stage.envelope(&["a@d2.test"]) });
        stage.put(Envelope { accepted_at: stage.ago(30), ..stage.envelope(&["a@d2.test"]) });
    }
    let overdue = |stage: &Stage, cause: &str| {
        let view = stage.queue.view();
        view.overdue.iter().find(|overdue| overdue.cause == cause).map_or(0, |overdue| overdue.entries)
    };

    stage.until("a back-off", |stage| overdue(stage, "back-off") == 9).await;
    assert!((8..=9).contains(&overdue(&stage, "busy")), "{:?}", stage.queue.view());
    stage
        .until("the gauge", |stage| {
            stage.registry.render().contains("hikyaku_queue_overdue_recipients{cause=\"back-off\"} 9")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_outlasts_its_time_outs_is_overdue_and_an_idle_connection_is_not() {
    let longest_attempt = Duration::from_millis(100);
    let stage = Stage::started(Settings { longest_attempt, ..Settings::default() });
    stage.script.set("d1.test", Receiver { is_stalled: true, ..Receiver::default() });
    stage.script.set("d2.test", Receiver { idle: Duration::from_secs(60), ..Receiver::default() });

    stage.put(stage.envelope(&["a@d1.test"]));
    stage.put(stage.envelope(&["a@d2.test"]));
    stage.until_done(1).await;

    let gauge = "hikyaku_queue_overdue_recipients{cause=\"in-flight\"} 1";
    stage.until("the gauge", |stage| stage.registry.render().contains(gauge)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_tenants_and_entries_are_shown() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", Receiver { outcome: Arc::new(|_, _| deferred("mailbox busy")), ..Receiver::default() });

    let id = stage.put(Envelope { campaign: "spring".into(), ..stage.envelope(&["a@d1.test"]) });
    stage.put(Envelope { tenant: "other".into(), ..stage.envelope(&["b@d1.test", "c@d1.test"]) });
    stage.until("deferrals", |stage| stage.queue.view().totals.scheduled == 3).await;

    let view = stage.queue.view();
    assert_eq!((view.totals.queued, view.totals.ready, view.sites[0].scheduled), (3, 0, 3));
    assert!(view.sites[0].last_reply.as_deref().unwrap().contains("451 4.3.0 mailbox busy"));
    assert_eq!((&*view.tenants[0].tenant, view.tenants[0].queued), ("other", 2));
    assert!(serde_json::to_string(&view).unwrap().contains("\"scheduled\":3"));
    let entries = stage.queue.list(&Filter {
        selection: Selection { recipient: Some("a@d1.test".into()), ..Selection::default() },
        limit: 9,
        ..Filter::default()
    });
    assert_eq!(entries.len(), 1);
    assert_eq!((&*entries[0].message_id, &*entries[0].campaign), (&*id.to_string(), "spring"));
    assert_eq!(
        stage
            .queue
            .list(&Filter {
                selection: Selection { tenant: Some("other".into()), ..Selection::default() },
                limit: 1,
                ..Filter::default()
            })
            .len(),
        1
    );
    assert!(
        stage
            .queue
            .list(&Filter {
                selection: Selection { domain: Some("d2.test".into()), ..Selection::default() },
                limit: 9,
                ..Filter::default()
            })
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipients_of_a_damaged_message_are_held_and_shown() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", Receiver { is_damaged: true, ..Receiver::default() });

    let id = stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.until("the held one", |stage| stage.queue.view().totals.held == 1).await;

    let totals = stage.queue.view().totals;
    assert_eq!((totals.queued, totals.in_flight, totals.scheduled), (1, 0, 0));
    let entries = stage.queue.list(&Filter {
        selection: Selection { message: Some(id.to_string().into()), ..Selection::default() },
        limit: 9,
        ..Filter::default()
    });
    assert_eq!(entries.iter().map(|entry| entry.state).collect::<Vec<_>>(), ["damaged"]);
    let gauge = "hikyaku_queue_depth_recipients{state=\"damaged\"} 1";
    stage.until("the gauge", |stage| stage.registry.render().contains(gauge)).await;
    assert_eq!(stage.spool.stat().messages, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipients_that_are_being_tried_are_listed_with_the_address_of_the_attempt() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", Receiver { is_stalled: true, ..Receiver::default() });
    let id = stage.submit(stage.envelope(&["a@d1.test", "b@d1.test"])).await;
    let all = Filter { limit: 9, ..Filter::default() };
    let is_in_flight =
        |stage: &Stage| stage.queue.list(&all).iter().filter(|entry| entry.state == "in-flight").count() == 2;
    stage.until("a transaction", is_in_flight).await;

    stage.spool.attempt(id, &[1], "192.0.2.1:25".parse().unwrap()).await.unwrap();

    let entries = stage.queue.list(&all);
    let seen: Vec<_> = entries.iter().map(|entry| (entry.recipient, entry.mx_address.as_deref())).collect();
    assert_eq!(seen, [(0, None), (1, Some("192.0.2.1:25"))]);
    assert!(entries.iter().all(|entry| entry.message_id == id.to_string() && entry.site.is_some()), "{entries:?}");
    assert!(entries.iter().all(|entry| entry.since.is_some_and(|since| since >= entry.accepted)), "{entries:?}");
    let of = |recipient: &str| Filter {
        selection: Selection { recipient: Some(recipient.into()), ..Selection::default() },
        ..all.clone()
    };
    assert_eq!(stage.queue.list(&of("b@d1.test")).len(), 1);
    assert!(stage.queue.list(&of("c@d1.test")).is_empty());
    assert!(
        stage
            .queue
            .list(&Filter {
                selection: Selection { tenant: Some("other".into()), ..Selection::default() },
                ..all.clone()
            })
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_that_end_without_a_reply_are_counted() {
    let stage = Stage::started(Settings::default());
    let unanswered = |_, _| match deferred("no reply") {
        Outcome::Deferred(report) => Outcome::Deferred(Report { in_doubt: true, ..report }),
        other => other,
    };
    stage.script.set("d1.test", Receiver { outcome: Arc::new(unanswered), ..Receiver::default() });
    stage.put(stage.envelope(&["a@d1.test", "b@d2.test"]));

    stage.until("one outcome that stays", |stage| stage.queue.view().totals.scheduled == 1).await;

    let counted = stage.registry.render();
    assert!(counted.contains("hikyaku_queue_unanswered_total 1\n"), "{counted}");
}

#[tokio::test]
async fn recipients_in_doubt_can_be_listed_alone_with_the_address_that_may_have_them() {
    let stage = Stage::new(Settings::default());
    let pending = |recipient, in_doubt: Option<&str>| Pending {
        recipient,
        attempts: 0,
        due: stage.ago(60),
        delay_reported: false,
        in_doubt: in_doubt.map(|address| address.parse().unwrap()),
    };
    let envelope = Arc::new(stage.envelope(&["a@d1.test", "b@d1.test"]));
    let id = stage.spool.next_id();
    let pending = vec![pending(0, None), pending(1, Some("192.0.2.1:25"))];
    stage.queue.recover(Recovered { id, envelope, pending });

    let entries = stage.queue.list(&Filter { in_doubt: true, limit: 9, ..Filter::default() });

    let seen: Vec<_> = entries.iter().map(|entry| (entry.recipient, entry.mx_address.as_deref())).collect();
    assert_eq!(seen, [(1, Some("192.0.2.1:25"))]);
    let all = stage.queue.list(&Filter { limit: 9, ..Filter::default() });
    assert_eq!(all.iter().filter(|entry| entry.in_doubt).count(), 1);
    assert_eq!(all.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_listed_as_in_flight_after_its_outcome() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d2.test", Receiver { outcome: Arc::new(|_, _| deferred("mailbox busy")), ..Receiver::default() });
    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.submit(stage.envelope(&["a@d2.test"])).await;

    stage.until("outcomes", |stage| stage.queue.in_flight() == 0 && stage.queue.view().totals.queued == 1).await;

    let states: Vec<_> =
        stage.queue.list(&Filter { limit: 9, ..Filter::default() }).iter().map(|entry| entry.state).collect();
    assert_eq!(states, ["scheduled"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_of_many_entries_does_not_stall_deliveries() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", Receiver { is_stalled: true, ..Receiver::default() });
    for _ in 0..100_000 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }

    let (queue, is_over) = (stage.queue.clone(), Arc::new(AtomicBool::new(false)));
    let views = tokio::task::spawn_blocking({
        let is_over = is_over.clone();
        move || {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = queue.view().totals.queued.max(most);
            }
            most
        }
    });
    for count in 1..=20 {
        stage.put(stage.envelope(&["a@d2.test"]));
        stage.until_done(count).await;
    }
    is_over.store(true, Ordering::Relaxed);

    assert!(views.await.unwrap() >= 100_000, "nothing was left out of the views");
    assert!(stage.done().iter().all(|done| done.domain == "d2.test"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_what_their_sites_wait_for_are_told() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", Receiver { is_stalled: true, ..Receiver::default() });
    stage.submit(Envelope { tenant: "acme".into(), ..stage.envelope(&["a@d1.test"]) }).await;
    stage
        .until("a connection", |stage| stage.queue.inspect("d1.test").is_some_and(|site| site.connections.len() == 1))
        .await;
    for _ in 0..3 {
        stage.put(Envelope { tenant: "acme".into(), ..stage.envelope(&["b@d1.test"]) });
    }

    let site = stage.queue.inspect("D1.Test.").expect("a domain leads to its site");
    let pools = stage.queue.pools();

    assert_eq!((site.summary.in_flight, site.summary.ready), (1, 3), "{site:?}");
    let depth = &site.depth[0];
    assert_eq!((&*depth.tenant, depth.lane, depth.ready, depth.in_flight), ("acme", "normal", 3, 1));
    assert_eq!((pools.all, pools.sources[0].connections, pools.pools[0].ready), (1, 1, 3), "{pools:?}");
    assert!(stage.queue.inspect("nobody.test").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_queue_can_be_looked_at_while_it_is_filled() {
    let is_full = std::env::var_os("HIKYAKU_FULL").is_some();
    let (sites, each) = if is_full { (10_000, 100) } else { (200, 5) };
    // Few connections, and none of them ends: nearly everything stays ready.
    let stage = Arc::new(Stage::wide(Settings { connections: 50, ..Settings::default() }, sites));
    stage.script.set("*", Receiver { is_stalled: true, ..Receiver::default() });
    stage.start();
    let fill = |sites: u16, each: usize| {
        for site in 0..sites {
            let envelope = Arc::new(stage.envelope(&[&format!("a@{site}.wide.test")]));
            (0..each).for_each(|_| stage.queue.put(stage.spool.next_id(), &envelope));
        }
    };
    fill(sites, each);
    let all = usize::from(sites) * each;
    stage.until("plans", |stage| stage.queue.outline().totals.waiting_for_dns == 0).await;
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (other, over) = (stage.clone(), is_over.clone());
    // What somebody who submits meanwhile waits at most.
    let putter = std::thread::spawn(move || {
        let envelope = Arc::new(other.envelope(&["a@7.wide.test"]));
        let (mut longest, mut count) = (Duration::ZERO, 0);
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            let begun = std::time::Instant::now();
            other.queue.put(other.spool.next_id(), &envelope);
            longest = longest.max(begun.elapsed());
            count += 1;
            std::thread::sleep(Duration::from_micros(200));
        }
        (longest, count)
    });

    let mut took = Vec::new();
    let mut timed = |name: &'static str, look: &mut dyn FnMut()| {
        let begun = std::time::Instant::now();
        look();
        took.push((name, begun.elapsed()));
    };
    let mut outline = None;
    timed("status", &mut || outline = Some(stage.queue.outline()));
    timed("sites", &mut || drop(stage.queue.view()));
    timed("queue show", &mut || drop(stage.queue.inspect("7.wide.test")));
    timed("pools", &mut || drop(stage.queue.pools()));
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    let (longest, count) = putter.join().unwrap();

    println!("{all} entries at {sites} sites: {took:?}; {count} puts meanwhile, the longest {longest:?}");
    let outline = outline.unwrap();
    assert!(outline.totals.queued >= all && outline.sites <= usize::from(sites), "{outline:?}");
    let site = stage.queue.inspect("7.wide.test").unwrap();
    assert_eq!(site.summary.ready + site.summary.in_flight, each + count, "{:?}", site.summary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_recipient_counts_though_an_order_keeps_it() {
    let stage = Stage::started(Settings::default());
    let (action, selection) = (Action::Suspend, Selection::default());
    let request = Request { action, selection, reason: "a reason".into(), by: "ops".into(), seconds: None };
    stage.queue.place(request).unwrap();

    stage.put(Envelope { accepted_at: stage.ago(40), ..stage.envelope(&["a@d1.test"]) });

    stage.until("it is suspended", |stage| stage.queue.view().totals.suspended == 1).await;
    assert!(stage.queue.view().totals.oldest_seconds >= 40, "{:?}", stage.queue.view().totals);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_that_is_all_in_flight_has_a_depth_an_age_and_an_end() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", Receiver { is_stalled: true, ..Receiver::default() });

    let envelope = Envelope { tenant: "acme".into(), accepted_at: stage.ago(40), ..stage.envelope(&["a@d1.test"]) };
    stage.submit(envelope).await;
    stage.until("a transaction", |stage| stage.queue.outline().totals.in_flight == 1).await;

    let site = stage.queue.inspect("d1.test").unwrap();
    let depth = &site.depth[0];
    assert_eq!((&*depth.tenant, depth.in_flight, depth.ready), ("acme", 1, 0), "{site:?}");
    assert!(depth.oldest_seconds >= 40, "{depth:?}");
    assert!(site.next.iter().any(|event| event.event.contains("timed out") && event.in_seconds.is_some()), "{site:?}");
    let view = stage.queue.view();
    assert!(view.sites[0].age_seconds >= 40 && view.totals.oldest_seconds >= 40, "{view:?}");
    assert!(stage.queue.outline().totals.oldest_seconds >= 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_and_tenants_are_as_old_as_their_oldest_mail_though_it_waits_for_its_time() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", Receiver { outcome: Arc::new(|_, _| deferred("no")), ..Receiver::default() });

    stage.put(Envelope { tenant: "acme".into(), accepted_at: stage.ago(40), ..stage.envelope(&["a@d1.test"]) });
    stage.until("it is deferred", |stage| stage.queue.view().totals.scheduled == 1).await;

    let view = stage.queue.view();
    assert!(view.sites[0].age_seconds >= 40 && view.tenants[0].age_seconds >= 40, "{view:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_tell_how_much_scheduled_mail_they_are_about() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", Receiver { outcome: Arc::new(|_, _| deferred("no")), ..Receiver::default() });
    for tenant in ["acme", "acme", "other"] {
        stage.put(Envelope { tenant: tenant.into(), ..stage.envelope(&["a@d1.test"]) });
    }
    stage.until("all are deferred", |stage| stage.queue.view().totals.scheduled == 3).await;

    let of_tenant = Selection { tenant: Some("acme".into()), ..Selection::default() };
    let site = stage.queue.inspect("d1.test").unwrap().summary.site;
    let of_site = Selection { site: Some(site.into()), ..Selection::default() };
    for selection in [of_tenant, of_site] {
        let request =
            Request { action: Action::Suspend, selection, reason: "".into(), by: "ops".into(), seconds: None };
        stage.queue.place(request).unwrap();
    }

    let orders = stage.queue.orders_in_full();
    let counts: Vec<_> = orders.iter().map(|order| (order.parked, order.scheduled)).collect();
    assert_eq!(counts, [(0, Some(2)), (0, Some(3))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_whose_dns_fails_is_shown_with_the_failure() {
    let stage = Stage::in_zone(Settings::default(), |zone| {
        zone.mx("broken.test", 10, "mx.broken.test").fault("broken.test", None, Fault::ServFail);
    })
    .await;
    stage.start();

    stage.put(stage.envelope(&["a@broken.test"]));
    stage.until("it is deferred", |stage| stage.queue.view().totals.scheduled == 1).await;

    let site = stage.queue.inspect("broken.test").unwrap();
    let reason = site.summary.last_reply.clone().unwrap_or_default();
    assert!(reason.contains("the resolver reported a failure"), "{site:?}");
    assert_eq!((site.summary.scheduled, site.summary.deferred), (1, 1), "{site:?}");
    assert!(
        site.next.iter().any(|event| event.cause.as_ref().is_some_and(|cause| cause.contains(&reason))),
        "{site:?}"
    );
    assert_eq!(stage.queue.view().sites[0].last_reply, Some(reason));
}
