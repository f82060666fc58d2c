//! Orders by site or source, and mail whose site or source is not known yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hikyaku::queue::settings::Retry;
use hikyaku::queue::{Placed, Settings};
use hikyaku::state::{Action, Request, Selection};

use crate::common::{Receiver, Stage, deferred};

/// Deferred recipients are tried again after so many seconds.
fn retry_after(seconds: u64) -> Settings {
    let retry = Retry { intervals: vec![Duration::from_secs(seconds)], jitter_percent: 0, ..Retry::default() };
    Settings { retry, ..Settings::default() }
}

fn refuses() -> Receiver {
    Receiver { outcome: Arc::new(|_, _| deferred("later")), ..Receiver::default() }
}

fn delete(stage: &Stage, selection: Selection) -> Placed {
    let (reason, by) = ("a reason".into(), "ops".into());
    let request = Request { action: Action::Delete, selection, reason, by, seconds: None };
    // It waits for the disk.
    tokio::task::block_in_place(|| stage.queue.place(request)).unwrap()
}

fn of_site(stage: &Stage) -> Selection {
    let sites = stage.queue.view().sites;
    Selection { site: Some(sites[0].site.as_str().into()), ..Selection::default() }
}

fn scheduled(stage: &Stage) -> usize {
    stage.queue.view().totals.scheduled
}

/// An order is begun again every ten seconds while some are unknown.
async fn until_no_order(stage: &Stage) {
    let begun = Instant::now();
    while !stage.queue.orders().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", stage.queue.orders());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_the_site_of_mail_by_a_route_is_known_at_once() {
    let stage = Stage::started(retry_after(3_600));
    stage.script.set("d1.test", refuses());
    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.until("a deferral", |stage| scheduled(stage) == 1).await;
    let selection = of_site(&stage);
    let stage = stage.again(retry_after(3_600));
    stage.until("recovered", |stage| scheduled(stage) == 1).await;

    let counts = stage.queue.count(&selection);
    let placed = delete(&stage, selection);

    assert_eq!((counts.get("scheduled"), placed.ended, placed.unknown), (Some(&1), 1, 0));
    stage.until_empty().await;
    stage.until("no order", |stage| stage.queue.orders().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_of_an_unknown_site_is_judged_when_it_is_due() {
    let settings = retry_after(4);
    let stage = Stage::in_zone(settings.clone(), |zone| {
        for domain in ["meant.test", "other.test"] {
            let mx = format!("mx.{domain}");
            zone.mx(domain, 10, &mx).address(&mx, [192, 0, 2, 1]);
        }
    })
    .await;
    stage.start();
    stage.script.set("*", refuses());
    stage.submit(stage.envelope(&["a@meant.test"])).await;
    stage.until("a deferral", |stage| scheduled(stage) == 1).await;
    let selection = of_site(&stage);
    stage.submit(stage.envelope(&["a@other.test"])).await;
    stage.until("two deferrals", |stage| scheduled(stage) == 2).await;
    stage.script.set("*", Receiver::default());
    stage.forget_plans(settings);

    let placed = delete(&stage, selection);

    assert_eq!((placed.ended, placed.unknown), (0, 2));
    stage.until("a look at it", |stage| stage.queue.orders().len() == 1).await;
    stage.until_empty().await;
    let delivered: Vec<String> = stage.done().into_iter().skip(2).map(|done| done.domain).collect();
    assert_eq!(delivered, ["other.test"]);
    until_no_order(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_mail_is_judged_by_its_source_when_it_is_due() {
    let stage = Stage::started(retry_after(4));
    stage.script.set("*", refuses());
    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.until("a deferral", |stage| scheduled(stage) == 1).await;
    let stage = stage.again(retry_after(4));
    stage.until("recovered", |stage| scheduled(stage) == 1).await;

    let placed = delete(&stage, Selection { source: Some("default".into()), ..Selection::default() });

    assert_eq!((placed.ended, placed.unknown), (0, 1));
    stage.until_empty().await;
    assert!(stage.done().is_empty(), "it was not tried");
    until_no_order(&stage).await;
}
