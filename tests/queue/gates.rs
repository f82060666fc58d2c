//! Windows of connections that sites share: who waits for which, and who is woken.

use std::sync::Arc;
use std::time::Duration;

use hikyaku::message::Envelope;
use hikyaku::queue::settings::Tenant;
use hikyaku::queue::{Egress, EgressPool, Settings, Source};

use crate::common::{Receiver, Stage};

/// Two connections altogether; tenant `a` has a source with one, everybody else one without a ceiling.
fn two_sources() -> Settings {
    let source = |name: &str, connections| {
        Arc::new(Source { name: Arc::from(name), connections, ..(*Egress::default().sources[0]).clone() })
    };
    let pool = |name: &str, member| EgressPool { name: name.into(), members: vec![(member, 1)] };
    let egress = Egress {
        sources: vec![source("narrow", Some(1)), source("wide", None)],
        pools: vec![pool("default", 1), pool("narrow", 0)],
        sender_domains: Default::default(),
    };
    let tenant = Tenant { pool: Some("narrow".into()), ..Tenant::default() };
    Settings { connections: 2, egress, tenants: [("a".into(), tenant)].into(), ..Settings::default() }
}

fn of_a(stage: &Stage, to: &str) -> Envelope {
    Envelope { tenant: "a".into(), ..stage.envelope(&[to]) }
}

/// One stalled connection by the narrow source, and one that ends soon by the wide one.
async fn fill(stage: &Stage) {
    stage.script.set("x.test", Receiver { is_stalled: true, ..Receiver::default() });
    let passing = Receiver { transaction: Duration::from_millis(300), idle: Duration::ZERO, ..Receiver::default() };
    stage.script.set("y.test", passing);
    stage.put(of_a(stage, "a@x.test"));
    stage.until("one", |stage| stage.queue.view().totals.connections == 1).await;
    stage.put(stage.envelope(&["a@y.test"]));
    stage.until("both", |stage| stage.queue.view().totals.connections == 2).await;
}

async fn stage() -> Stage {
    let stage = Stage::in_zone(two_sources(), |zone| {
        for (name, last) in [("x", 1), ("y", 2), ("s", 3)] {
            zone.mx(&format!("{name}.test"), 10, &format!("mx.{name}.test"));
            zone.address(&format!("mx.{name}.test"), [192, 0, 2, last]);
        }
        for n in 0..21 {
            let mx = format!("c{n}.mail.protection.outlook.com");
            zone.mx(&format!("c{n}.test"), 10, &mx).address(&mx, [192, 0, 2, 10 + n]);
        }
    })
    .await;
    stage.start();
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_waits_for_a_source_waits_for_the_global_window_too() {
    let stage = stage().await;
    fill(&stage).await;

    stage.put(of_a(&stage, "narrow@s.test"));
    stage.until("the first waits", |stage| stage.queue.view().totals.ready == 1).await;
    let wide = stage.put(stage.envelope(&["wide@s.test"]));

    stage.until("the one by the other source", |stage| stage.done().iter().any(|done| done.id == wide)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_paths_of_a_full_source_do_not_hide_one_of_a_free_source() {
    let stage = stage().await;
    fill(&stage).await;

    for n in 0..20 {
        stage.put(of_a(&stage, &format!("narrow@c{n}.test")));
    }
    stage.until("all wait", |stage| stage.queue.view().totals.ready == 20).await;
    let wide = stage.put(stage.envelope(&["wide@c20.test"]));

    stage.until("the one by the other source", |stage| stage.done().iter().any(|done| done.id == wide)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_site_leaves_a_place_to_a_site_without_connections() {
    let stage = Stage::started(Settings { connections: 10, ..Settings::default() });
    stage.script.set("d1.test", Receiver { is_stalled: true, ..Receiver::default() });
    for _ in 0..200 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.until("nine", |stage| stage.queue.view().totals.connections >= 9).await;
    // Time enough to take the last one, were it allowed to.
    tokio::time::sleep(Duration::from_millis(500)).await;

    for n in 2..6 {
        stage.put(stage.envelope(&[&format!("a@d{n}.test")]));
    }

    stage.until_done(4).await;
}
