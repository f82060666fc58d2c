//! Connections, rates and who gets them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hikyaku::limit::budget::Allowance;
use hikyaku::message::{Envelope, Outcome, Phase, Report};
use hikyaku::queue::learning;
use hikyaku::queue::settings::{BackOff, Limits};
use hikyaku::queue::{Egress, EgressPool, Settings, Source};
use hikyaku::smtp::reply::Reply;

use crate::common::{Receiver, Stage, deferred};

fn with(limits: Limits) -> Settings {
    Settings { limits, ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_gets_no_more_connections_than_its_ceiling_and_as_many_when_it_is_slow() {
    let stage = Stage::started(with(Limits { connections: 7, ..Limits::default() }));
    stage.script.set("*", Receiver { transaction: Duration::from_millis(20), ..Receiver::default() });

    for _ in 0..400 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.until_done(400).await;

    assert_eq!(stage.script.most_open.load(Ordering::Relaxed), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_receiver_is_served_by_one_connection() {
    let stage = Stage::started(Settings::default());

    for _ in 0..200 {
        stage.put(stage.envelope(&["a@d1.test"]));
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    stage.until_done(200).await;

    assert_eq!(stage.script.dispatched.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_after_its_number_of_messages() {
    let stage = Stage::started(with(Limits { connections: 1, messages_per_connection: Some(5), ..Limits::default() }));

    for _ in 0..23 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.until_done(23).await;

    assert_eq!(stage.script.dispatched.load(Ordering::Relaxed), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_keep_to_the_rate_of_their_site() {
    let allowance = Allowance { messages: vec![(100, Duration::from_secs(1))], ..Allowance::default() };
    let stage = Stage::new(with(Limits { allowance, ..Limits::default() }));
    for tenant in ["one", "two"] {
        for _ in 0..75 {
            stage.put(Envelope { tenant: tenant.into(), ..stage.envelope(&["a@d1.test"]) });
        }
    }

    let begun = Instant::now();
    stage.start();
    stage.until_done(150).await;

    // A burst of half a second's worth passes at once.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(950), "{took:?}");
    assert!(took < Duration::from_millis(2_500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_connections_keep_to_their_rate() {
    let limits = Limits {
        connections: 10,
        allowance: Allowance { openings: Some(120), ..Allowance::default() },
        messages_per_connection: Some(1),
        ..Limits::default()
    };
    let stage = Stage::started(with(limits));

    let begun = Instant::now();
    for _ in 0..4 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.until_done(4).await;

    // Two a second: the second one after half a second, and so on.
    assert!(begun.elapsed() >= Duration::from_millis(1_450), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mx_sets_of_a_provider_share_its_ceiling_and_take_over_idle_connections() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let stage = Stage::in_zone(with(limits), |zone| {
        for n in 0..6 {
            let mx = format!("c{n}.mail.protection.outlook.com");
            zone.mx(&format!("c{n}.test"), 10, &mx).address(&mx, [192, 0, 2, n]);
        }
    })
    .await;
    stage.start();
    // Without a take-over each would hold the only place for a minute.
    stage.script.set("*", Receiver { idle: Duration::from_secs(60), ..Receiver::default() });

    for n in 0..6 {
        stage.put(stage.envelope(&[&format!("a@c{n}.test")]));
    }
    stage.until_done(6).await;

    assert_eq!(stage.script.most_open.load(Ordering::Relaxed), 1);
    let view = stage.queue.view();
    assert_eq!(view.sites.iter().map(|site| &*site.site).collect::<Vec<_>>(), ["microsoft365"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_share_the_connections_there_are() {
    let stage = Stage::started(Settings { connections: 3, ..Settings::default() });
    stage.script.set("*", Receiver { idle: Duration::from_secs(60), ..Receiver::default() });

    for round in 0..3 {
        for n in 0..30 {
            stage.put(stage.envelope(&[&format!("a{round}@d{n}.test")]));
        }
    }
    stage.until_done(90).await;

    assert!(stage.script.most_open.load(Ordering::Relaxed) <= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlogged_site_lets_others_have_shared_connections() {
    let stage = Stage::new(Settings { connections: 2, ..Settings::default() });
    stage.script.set("*", Receiver { transaction: Duration::from_millis(1), ..Receiver::default() });
    for _ in 0..5_000 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.start();
    stage.until_done(100).await;

    let other = stage.put(stage.envelope(&["a@d2.test"]));
    stage.until("the other site's message", |stage| stage.done().iter().any(|done| done.id == other)).await;

    assert!(stage.done().len() < 3_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_connection_charges_one_message_and_the_others_stay_ready() {
    let short = Duration::from_millis(300);
    let back_off = BackOff { first: short, floor: short, most: short };
    let stage = Stage::started(Settings { back_off, ..Settings::default() });
    stage.script.set("d1.test", Receiver { is_down: true, ..Receiver::default() });

    for _ in 0..50 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.until("a back-off", |stage| stage.queue.view().sites.iter().any(|s| s.back_off_seconds.is_some())).await;

    let view = stage.queue.view();
    assert!(view.totals.ready >= 48 && view.totals.scheduled <= 2, "{view:?}");
    assert!(view.sites[0].back_off_reason.as_deref().unwrap().contains("no route to host"));
    assert_eq!(view.sites[0].waiting_for, Some("back-off"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(stage.script.dispatched.load(Ordering::Relaxed) <= 4, "probes only");

    stage.script.set("d1.test", Receiver::default());
    stage.until("all but the charged", |stage| stage.queue.view().totals.ready == 0).await;
    assert!(stage.done().len() >= 46);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_global_window_is_not_a_place_to_sleep_in() {
    let stage = Stage::started(Settings { connections: 1, ..Settings::default() });
    stage.script.set("*", Receiver { idle: Duration::ZERO, ..Receiver::default() });

    for n in 0..150 {
        stage.put(stage.envelope(&[&format!("a@d{n}.test")]));
    }

    stage.until_done(150).await;
}

fn source(name: &str, connections: Option<u32>) -> Arc<Source> {
    Arc::new(Source { name: Arc::from(name), connections, ..(*Egress::default().sources[0]).clone() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_are_chosen_by_weight_in_the_pool_of_the_sender_domain() {
    let pool = |name: &str, members| EgressPool { name: name.into(), members };
    let egress = Egress {
        sources: vec![source("a", None), source("b", None), source("c", None)],
        pools: vec![pool("default", vec![(0, 1)]), pool("pair", vec![(1, 3), (2, 1)])],
        sender_domains: [("shop.test".into(), "pair".into())].into(),
    };
    let stage = Stage::started(Settings { egress, ..Settings::default() });

    for _ in 0..40 {
        stage.put(stage.envelope(&["a@d1.test"]));
        let reverse_path = hikyaku::smtp::address::ReversePath::Mailbox("news@shop.test".parse().unwrap());
        stage.put(Envelope { reverse_path, ..stage.envelope(&["a@d1.test"]) });
    }
    stage.until_done(80).await;

    let count = |name: &str| stage.done().iter().filter(|done| &*done.source == name).count();
    assert_eq!((count("a"), count("b"), count("c")), (40, 30, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_keeps_to_its_ceiling() {
    let pools = vec![EgressPool { name: "default".into(), members: vec![(0, 1)] }];
    let egress = Egress { sources: vec![source("a", Some(2))], pools, sender_domains: Default::default() };
    let stage = Stage::started(Settings { egress, ..Settings::default() });
    stage.script.set("*", Receiver { transaction: Duration::from_millis(5), ..Receiver::default() });

    for n in 0..100 {
        stage.put(stage.envelope(&[&format!("a@d{}.test", n % 10)]));
    }
    stage.until_done(100).await;

    assert!(stage.script.most_open.load(Ordering::Relaxed) <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttle_reply_begins_a_back_off_where_nothing_is_learnt_and_charges_nobody_else() {
    let learning = learning::Settings { is_on: false, ..learning::Settings::default() };
    let limits = Limits { messages_per_connection: Some(1), ..Limits::default() };
    let stage = Stage::started(Settings { learning, ..with(limits) });
    let outcome = |_, _| match deferred("slow down") {
        Outcome::Deferred(report) => Outcome::Deferred(Report {
            phase: Phase::Mail,
            reply: Reply { code: 421, status: None, text: "slow down".into() },
            ..report
        }),
        other => other,
    };
    stage.script.set("d1.test", Receiver { outcome: Arc::new(outcome), ..Receiver::default() });

    for _ in 0..50 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.until("a back-off", |stage| stage.queue.view().sites.iter().any(|s| s.back_off_seconds.is_some())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let view = stage.queue.view();
    assert!(stage.script.dispatched.load(Ordering::Relaxed) <= 4, "{view:?}");
    assert!(view.totals.ready >= 46 && view.sites[0].waiting_for == Some("back-off"), "{view:?}");
}
