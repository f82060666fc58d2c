//! Warm-ups in a chain: the overflow of one is warmed up there, too. And mail that was tried from where it went.

use std::sync::Arc;

use hikyaku::limit::warmup::Plan;
use hikyaku::queue::rules::{Ceiling, Name, Rule as LimitRule, Rules, Subject};
use hikyaku::queue::settings::{Retry, Settings};
use hikyaku::queue::warmup::Rule;
use hikyaku::queue::warmup_views::{WarmupFilter, WarmupView};
use hikyaku::queue::{Egress, Source};

use crate::common::{Receiver, Stage, deferred};
use crate::warmup::{HOUR, SECOND, at_dawn, from, plan, put, rule, settings};

/// What has no room at `b1` leaves from `a1`, and what has none there from `c1`, which sends one message in so many seconds.
fn chain(volumes: [u32; 2], seconds: u32) -> Settings {
    let first = rule(plan(&[volumes[0]]), Some("a1"));
    let second = Rule { source: Arc::from("a1"), ..rule(plan(&[volumes[1]]), Some("c1")) };
    let mut settings = Settings { rules: slow("c1", seconds), ..settings(vec![first, second]) };
    let last = Source { name: Arc::from("c1"), ..(*Egress::default().sources[0]).clone() };
    settings.egress.sources.push(Arc::new(last));
    settings
}

fn slow(source: &str, seconds: u32) -> Rules {
    Rules::new(vec![LimitRule {
        subject: Subject::Source(Name::new(source)),
        ceiling: Ceiling { messages: Some(vec![(1, SECOND * seconds)]), ..Ceiling::default() },
        set_by: Arc::from("test"),
        is_provider: false,
    }])
}

fn of(stage: &Stage, source: &str) -> WarmupView {
    stage.queue.warmups(&WarmupFilter { source: Some(source.to_owned()), provider: None }).remove(0)
}

fn usize_of(count: u32) -> usize {
    usize::try_from(count).unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_plan_of_a_chain_counts_what_goes_and_what_it_has_no_room_for() {
    let stage = at_dawn(Settings { rules: Rules::default(), ..chain([40, 100], 1) }).await;

    put(&stage, 30, "a@d1.test");
    tokio::time::sleep(SECOND).await;

    // A twentieth at once.
    assert_eq!(["b1", "a1", "c1"].map(|source| from(&stage, source)), [2, 5, 23]);
    let (first, second) = (of(&stage, "b1"), of(&stage, "a1"));
    assert_eq!((first.sent, first.overflowed, first.overflowed_since_start), (2, 28, 28));
    assert_eq!((second.sent, second.overflowed, second.overflowed_since_start), (5, 23, 23));
}

#[tokio::test(start_paused = true)]
async fn every_plan_of_a_chain_takes_mail_back_as_it_has_room() {
    // One in ten minutes, one in five, and at the end one an hour.
    let stage = at_dawn(chain([144, 288], 3_600)).await;
    put(&stage, 400, "a@d1.test");
    tokio::time::sleep(SECOND * 30).await;
    let at_once = ["b1", "a1"].map(|source| from(&stage, source));
    assert_eq!(at_once, [7, 14]);

    tokio::time::sleep(HOUR * 4).await;

    let [first, second] = ["b1", "a1"].map(|source| from(&stage, source));
    assert!((22..=26).contains(&(first - at_once[0])), "{first} of 24 more");
    assert!((44..=50).contains(&(second - at_once[1])), "{second} of 48 more");
    let (last, plans) = (from(&stage, "c1"), ["b1", "a1"].map(|source| of(&stage, source)));
    assert_eq!(plans.clone().map(|plan| usize_of(plan.sent)), [first, second]);
    // What left from the second had no room at the first only.
    let overflowed = plans.map(|plan| usize_of(plan.overflowed));
    assert_eq!(overflowed, [second + last, last]);
}

#[tokio::test(start_paused = true)]
async fn what_was_tried_from_the_other_source_is_not_taken_back() {
    let retry = Retry { intervals: vec![SECOND * 60 * 20], ..Retry::default() };
    // The plan has room after 72 minutes, the other source after four hours.
    let with = |rules: Vec<Rule>| Settings { retry: retry.clone(), rules: slow("a1", 14_400), ..settings(rules) };
    let stage = at_dawn(with(vec![rule(plan(&[20]), Some("a1"))])).await;
    stage.script.set("d1.test", Receiver { outcome: Arc::new(|_, _| deferred("not now")), ..Receiver::default() });

    put(&stage, 1, "a@d2.test");
    tokio::time::sleep(SECOND).await;
    put(&stage, 1, "a@d1.test");
    tokio::time::sleep(HOUR * 3).await;
    assert_eq!(tried(&stage), ["a1"], "it waits there");
    tokio::time::sleep(HOUR * 2).await;

    assert_eq!(tried(&stage), ["a1", "a1"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_tried_from_the_end_of_a_chain_is_tried_there_again() {
    let retry = Retry { intervals: vec![HOUR * 3], ..Retry::default() };
    let stage = at_dawn(Settings { retry, rules: Rules::default(), ..chain([20, 20], 1) }).await;
    stage.script.set("d1.test", Receiver { outcome: Arc::new(|_, _| deferred("not now")), ..Receiver::default() });

    put(&stage, 2, "a@d2.test");
    tokio::time::sleep(SECOND).await;
    put(&stage, 1, "a@d1.test");
    // By then each of the plans has room.
    tokio::time::sleep(HOUR * 5).await;

    assert_eq!(tried(&stage), ["c1", "c1"]);
}

/// From where mail to `d1.test` was tried.
fn tried(stage: &Stage) -> Vec<String> {
    let done = stage.done();
    done.iter().filter(|done| done.domain == "d1.test").map(|done| done.source.to_string()).collect()
}

/// A plan whose first day is that of a view.
fn again(view: &WarmupView, volumes: &[u32]) -> Plan {
    Plan { start: view.start.parse().unwrap(), ..plan(volumes) }
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_is_taken_out_and_put_back_goes_on_where_it_was() {
    let stage = at_dawn(settings(vec![rule(plan(&[100; 9]), None)])).await;
    put(&stage, 5, "a@d1.test");
    tokio::time::sleep(SECOND).await;
    stage.queue.steer_warmup(&crate::warmup::steering(Some(None))).unwrap();
    let before = of(&stage, "b1");
    assert_eq!((before.sent, before.state), (5, "paused"));

    stage.queue.apply(settings(Vec::new()), None);
    put(&stage, 3, "a@d1.test");
    tokio::time::sleep(HOUR).await;
    assert_eq!(stage.done().len(), 8, "nothing is limited meanwhile");
    stage.queue.apply(settings(vec![rule(again(&before, &[100; 9]), None)]), None);

    let after = of(&stage, "b1");
    assert_eq!((after.sent, after.state, after.pause), (5, "paused", before.pause));
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_is_taken_out_is_remembered_over_restarts_and_for_two_days() {
    for (days, sent) in [(0, 5), (2, 0)] {
        let stage = at_dawn(settings(vec![rule(plan(&[100; 9]), None)])).await;
        put(&stage, 5, "a@d1.test");
        tokio::time::sleep(SECOND).await;
        stage.queue.steer_warmup(&crate::warmup::steering(Some(None))).unwrap();
        let (before, clock) = (of(&stage, "b1"), stage.clock);
        stage.queue.apply(settings(Vec::new()), None);
        // Whatever has the spool is to be seen to before time stands still.
        stage.queue.stop_dispatch();
        stage.queue.settled().await;
        tokio::time::sleep(SECOND).await;

        let stage = stage.again_at(settings(Vec::new()), clock);
        tokio::time::sleep(HOUR * 24 * days + SECOND * 60).await;
        stage.queue.stop_dispatch();
        stage.queue.settled().await;
        tokio::time::sleep(SECOND).await;
        let stage = stage.again_at(settings(vec![rule(again(&before, &[100; 9]), None)]), clock);

        let after = of(&stage, "b1");
        assert_eq!((after.sent, after.pause.is_some()), (sent, days < 2), "{days}");
    }
}
