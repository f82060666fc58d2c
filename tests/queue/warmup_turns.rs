//! Sites that share a warm-up and wait for it in turn: none keeps the others waiting.

use std::sync::Arc;
use std::time::Duration;

use hikyaku::limit::warmup::Plan;
use hikyaku::queue::settings::{Retry, Settings};
use hikyaku::queue::warmup::Rule;
use hikyaku::state::{Action, Request};

use crate::common::{Receiver, Stage};
use crate::orders::to_domain;
use crate::warmup::{HOUR, SECOND, at_dawn, from, plan, put, rule, settings};

/// So many messages in an hour.
fn hourly(volume: u32) -> Plan {
    Plan { spread: HOUR, ..plan(&[volume]) }
}

fn to(stage: &Stage, domain: &str) -> usize {
    stage.done().iter().filter(|done| done.domain == domain).count()
}

/// What `d1.test` gets from a plan of `volume` in an hour within `time` after what goes at once, with mail to ten sites that are down.
async fn beside_ten_that_are_down(volume: u32, time: Duration) -> usize {
    let retry = Retry { intervals: vec![SECOND * 20], ..Retry::default() };
    let stage = at_dawn(Settings { retry, ..settings(vec![rule(hourly(volume), None)]) }).await;
    for site in 10..20 {
        stage.script.set(&format!("d{site}.test"), Receiver { is_down: true, ..Receiver::default() });
    }
    let at_once = usize::try_from(volume / 20).unwrap().max(1);
    put(&stage, at_once, "a@d1.test");
    (10..20).for_each(|site| put(&stage, 1, &format!("a@d{site}.test")));
    put(&stage, 60, "a@d1.test");
    tokio::time::sleep(SECOND).await;

    tokio::time::sleep(time).await;

    from(&stage, "b1") - at_once
}

#[tokio::test(start_paused = true)]
async fn sites_that_are_down_keep_no_other_waiting() {
    // One in six seconds, and one in 100.
    let many = beside_ten_that_are_down(600, SECOND * 120).await;
    let few = beside_ten_that_are_down(36, SECOND * 1_000).await;

    assert!((18..=21).contains(&many), "{many} of 20");
    assert!((9..=11).contains(&few), "{few} of 10");
}

#[tokio::test(start_paused = true)]
async fn the_last_of_many_sites_is_served_when_there_is_room_though_the_others_have_no_mail_any_more() {
    // One an hour.
    let stage = at_dawn(settings(vec![rule(plan(&[24]), None)])).await;
    for site in 0..=20 {
        put(&stage, 1, &format!("a@d{site}.test"));
    }
    tokio::time::sleep(SECOND * 60).await;
    assert_eq!((stage.done().len(), to(&stage, "d0.test")), (1, 1));

    for site in 1..20 {
        let selection = to_domain(&format!("d{site}.test"));
        let (reason, by) = ("over".into(), "ops".into());
        // For a time: else the order waits for the disk until it is done.
        let request = Request { action: Action::Delete, selection, reason, by, seconds: Some(60) };
        assert_eq!(stage.queue.place(request).unwrap().ended, 1);
    }
    // Those that were before it might still have come for some seconds.
    tokio::time::sleep(HOUR - SECOND * 30).await;

    assert_eq!((stage.done().len(), to(&stage, "d20.test")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn sites_within_a_provider_wait_for_its_plan_in_turn() {
    // One an hour; each of these domains has a rule, and so is a site of its own at the provider.
    let provider = Some(Arc::from("127.0.2.1:2525"));
    let stage = at_dawn(settings(vec![Rule { provider, ..rule(plan(&[24]), None) }])).await;
    for _ in 0..6 {
        for site in 0..4 {
            put(&stage, 1, &format!("a@own{site}.big.test"));
        }
    }
    put(&stage, 3, "a@d1.test");

    tokio::time::sleep(HOUR * 12 + SECOND).await;

    let counts: Vec<usize> = (0..4).map(|site| to(&stage, &format!("own{site}.big.test"))).collect();
    let all: usize = counts.iter().sum();
    assert!((11..=13).contains(&all) && counts.iter().all(|count| (2..=4).contains(count)), "{counts:?}");
    assert_eq!(to(&stage, "d1.test"), 3, "what has no plan is not limited");
}
