//! Who is served next at a site.

use std::collections::HashMap;
use std::time::Duration;

use hikyaku::message::{Envelope, Lane};
use hikyaku::queue::Settings;
use hikyaku::queue::learning;
use hikyaku::queue::settings::{Limits, Tenant};

use crate::common::{Done, Receiver, Stage};

/// One connection, and a receiver that takes a little time, so that the order of dispatch is the order of outcomes.
fn narrow(connections: u32) -> Settings {
    let learning = learning::Settings { is_on: false, ..learning::Settings::default() };
    Settings { limits: Limits { connections, ..Limits::default() }, learning, ..Settings::default() }
}

/// Jain's index of fairness: 1 when all are equal.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), share| (sum + share, squares + share * share));
    sum * sum / (shares.len() as f64 * squares)
}

/// How many of the first `first` outcomes belong to each name.
fn shares(done: &[Done], names: &HashMap<hikyaku::message::MessageId, usize>, first: usize, of: usize) -> Vec<f64> {
    let mut counts = vec![0.0; of];
    for one in &done[..first] {
        counts[names[&one.id]] += 1.0;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_tenants_share_a_site_equally_whatever_they_queue() {
    let stage = Stage::new(narrow(3));
    stage.script.set("*", Receiver { transaction: Duration::from_micros(200), ..Receiver::default() });
    let mut names = HashMap::new();
    for (tenant, count) in [300, 500, 900, 2_000, 4_000].into_iter().enumerate() {
        for _ in 0..count {
            let envelope = Envelope { tenant: format!("t{tenant}").into(), ..stage.envelope(&["a@d1.test"]) };
            names.insert(stage.put(envelope), tenant);
        }
    }

    stage.start();
    stage.until_done(1_500).await;

    let index = jain(&shares(&stage.done(), &names, 1_400, 5));
    assert!(index >= 0.95, "{index}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_set_the_shares_of_tenants() {
    let heavy = Tenant { weight: 3, ..Tenant::default() };
    let stage = Stage::new(Settings { tenants: [("heavy".into(), heavy)].into(), ..narrow(1) });
    let mut names = HashMap::new();
    for _ in 0..800 {
        for (index, tenant) in ["heavy", "light"].into_iter().enumerate() {
            names.insert(stage.put(Envelope { tenant: tenant.into(), ..stage.envelope(&["a@d1.test"]) }), index);
        }
    }

    stage.start();
    stage.until_done(800).await;

    let shares = shares(&stage.done(), &names, 800, 2);
    assert!((590.0..=610.0).contains(&shares[0]), "{shares:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_light_tenant_is_served_at_once_beside_a_flood() {
    let stage = Stage::new(narrow(2));
    stage.script.set("*", Receiver { transaction: Duration::from_millis(1), ..Receiver::default() });
    for _ in 0..3_000 {
        stage.put(Envelope { tenant: "flood".into(), ..stage.envelope(&["a@d1.test"]) });
    }
    stage.start();
    stage.until_done(50).await;

    let before = stage.done().len();
    let light = stage.put(Envelope { tenant: "light".into(), ..stage.envelope(&["b@d1.test"]) });
    stage.until("the light tenant's message", |stage| stage.done().iter().any(|done| done.id == light)).await;

    let place = stage.done().iter().position(|done| done.id == light).unwrap() - before;
    assert!(place <= 8, "{place} messages of the flood came before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_of_a_tenant_share_sixteen_to_four_to_one() {
    let stage = Stage::new(narrow(1));
    let mut names = HashMap::new();
    for _ in 0..900 {
        for (index, lane) in [Lane::Bulk, Lane::Normal, Lane::Urgent].into_iter().enumerate() {
            names.insert(stage.put(Envelope { lane, ..stage.envelope(&["a@d1.test"]) }), index);
        }
    }

    stage.start();
    stage.until_done(1_050).await;

    let shares = shares(&stage.done(), &names, 1_050, 3);
    assert!((48.0..=52.0).contains(&shares[0]), "{shares:?}");
    assert!((198.0..=202.0).contains(&shares[1]), "{shares:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaigns_of_a_lane_take_turns_and_each_goes_by_time() {
    let stage = Stage::new(narrow(1));
    let mut order = Vec::new();
    for campaign in ["spring", "summer"] {
        for n in 0..100 {
            // Put in the wrong order of time.
            let accepted_at = stage.ago(500 - (n * 7) % 100);
            let campaign: Box<str> = campaign.into();
            let envelope = Envelope { campaign: campaign.clone(), accepted_at, ..stage.envelope(&["a@d1.test"]) };
            order.push((stage.put(envelope), campaign, accepted_at));
        }
    }

    stage.start();
    stage.until_done(200).await;

    let find = |done: &Done| order.iter().find(|(id, _, _)| *id == done.id).unwrap();
    let done = stage.done();
    let early = done[..100].iter().filter(|done| &*find(done).1 == "spring").count();
    assert!((49..=51).contains(&early), "{early}");
    let times: Vec<_> = done.iter().map(find).filter(|(_, name, _)| &**name == "spring").map(|(_, _, at)| at).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_over_many_mx_sets_of_a_provider_does_not_hold_up_a_tenant_with_one() {
    let stage = Stage::in_zone(narrow(2), |zone| {
        for n in 0..40 {
            let mx = format!("c{n}.mail.protection.outlook.com");
            zone.mx(&format!("c{n}.test"), 10, &mx).address(&mx, [192, 0, 2, n]);
        }
    })
    .await;
    stage.script.set("*", Receiver { transaction: Duration::from_millis(2), ..Receiver::default() });
    for n in 0..39 {
        for _ in 0..25 {
            let envelope = stage.envelope(&[&format!("a@c{n}.test")]);
            stage.put(Envelope { tenant: "flood".into(), ..envelope });
        }
    }
    stage.start();
    stage.until_done(100).await;

    let before = stage.done().len();
    let light = stage.put(Envelope { tenant: "light".into(), ..stage.envelope(&["b@c39.test"]) });
    stage.until("the light tenant's message", |stage| stage.done().iter().any(|done| done.id == light)).await;

    let place = stage.done().iter().position(|done| done.id == light).unwrap() - before;
    assert!(place <= 20, "{place} messages of the flood came before");
    assert!(stage.script.most_open.load(std::sync::atomic::Ordering::Relaxed) <= 2);
}
