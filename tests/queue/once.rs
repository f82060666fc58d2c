//! Orders that end mail once: when they are done, and that they are done for good.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hikyaku::log::simulated::Simulated;
use hikyaku::queue::settings::Retry;
use hikyaku::queue::{Filter, Settings};
use hikyaku::state::{Action, Selection};

use crate::common::{Receiver, Stage, deferred};
use crate::orders::{held, place, sources_used, to_domain, two_sources};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_about_a_source_that_is_done_is_not_done_again_after_a_kill() {
    let retry = || Retry { intervals: vec![Duration::from_secs(600)], ..Retry::default() };
    let settings = || Settings { retry: retry(), ..two_sources() };
    let storage = Arc::new(Simulated::new(1));
    let stage = Stage::on(settings(), |_| storage.clone());
    let later = Receiver { outcome: Arc::new(|_, _| deferred("later")), ..Receiver::default() };
    stage.script.set("d1.test", later);
    for _ in 0..40 {
        stage.submit(stage.envelope(&["a@d1.test"])).await;
    }
    stage.until("all deferred", |stage| stage.queue.view().totals.scheduled == 40).await;
    let tried_from_one = stage.done().iter().filter(|done| &*done.source == "one").count();
    assert!((1..40).contains(&tried_from_one), "{tried_from_one}");

    let placed = place(&stage, Action::Delete, Selection { source: Some("one".into()), ..Selection::default() });
    stage.until("an end", |stage| stage.queue.orders().is_empty()).await;
    let killed = Arc::new(storage.after_kill());
    let again = Stage::on(settings(), |_| killed);

    assert_eq!(placed.ended, tried_from_one);
    assert!(again.queue.orders().is_empty(), "{:?}", again.queue.orders());
    let left = 40 - tried_from_one;
    again.until("what the order was not about", |stage| stage.queue.view().totals.scheduled == left).await;
    // Nobody knows any more where these were tried; some will be tried from the source that the order was about.
    again.queue.flush(&Selection::default(), false);
    again.until_empty().await;
    assert_eq!(again.done().len(), left);
    assert!(sources_used(&again).contains(&"one".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounce_is_not_done_before_its_dsns_are_stored() {
    let stage = Stage::on(Settings::default(), |_| Arc::new(Simulated::new(1)));
    place(&stage, Action::Hold, to_domain("d1.test"));
    for _ in 0..20 {
        stage.submit(stage.envelope(&["a@d1.test"])).await;
    }
    stage.until("all held", |stage| held(stage) == 20).await;

    let bounce = place(&stage, Action::Bounce, to_domain("d1.test")).order.id;
    stage.until("an end", |stage| stage.queue.orders().iter().all(|view| view.order.id != bounce)).await;

    // The DSNs themselves may still be queued; what they report is not.
    let about = stage.queue.list(&Filter { selection: to_domain("d1.test"), limit: 99, ..Filter::default() });
    assert!(about.is_empty(), "{about:?}");
    stage.until("the DSNs", |stage| stage.done().len() == 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_of_the_timers_that_an_order_has_emptied_holds_up_no_later_order() {
    let retry = Retry { intervals: vec![Duration::from_secs(1)], ..Retry::default() };
    let stage = Stage::started(Settings { retry, shards: 1, ..Settings::default() });
    let later = Receiver { outcome: Arc::new(|_, _| deferred("later")), ..Receiver::default() };
    stage.script.set("d1.test", later);
    stage.submit(stage.envelope(&["a@d1.test"])).await;
    stage.until("one deferred", |stage| stage.queue.view().totals.scheduled == 1).await;
    assert_eq!(place(&stage, Action::Delete, to_domain("d1.test")).ended, 1);
    // The second comes, and nothing else after it.
    tokio::time::sleep(Duration::from_millis(2_500)).await;

    let begun = Instant::now();
    place(&stage, Action::Delete, to_domain("d2.test"));
    stage.until("an end", |stage| stage.queue.orders().is_empty()).await;

    // The timers look at themselves ten seconds after they last had something to do.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
