//! Warm-ups in the runtime's paused time: each day its volume, the rest by another source or later.

use std::sync::Arc;
use std::time::Duration;

use hikyaku::config::units::{Day, Share};
use hikyaku::limit::budget::Allowance;
use hikyaku::limit::warmup::Plan;
use hikyaku::message::{Envelope, Notify, Outcome};
use hikyaku::queue::rules::{Ceiling, Name, Rule as LimitRule, Rules, Subject};
use hikyaku::queue::settings::Settings;
use hikyaku::queue::warmup::Rule;
use hikyaku::queue::warmup_views::{SteerError, Steering, WarmupFilter, WarmupView};
use hikyaku::queue::{Egress, EgressPool, Source};
use hikyaku::smtp::reply::Reply;
use hikyaku::smtp::status::Status;

use crate::common::{Receiver, Stage, bounced};

pub const HOUR: Duration = Duration::from_secs(3_600);
pub const SECOND: Duration = Duration::from_secs(1);

/// The day after today: every test begins at its first second.
fn tomorrow() -> Day {
    Day::at(hikyaku::clock::Clock::of_runtime().wall_precise()).plus(1)
}

pub fn plan(volumes: &[u32]) -> Plan {
    Plan {
        start: tomorrow(),
        volumes: volumes.into(),
        spread: Day::LENGTH,
        pause_at: Share(300),
        pause_sample: 20,
        pause_for: Day::LENGTH,
    }
}

pub fn rule(plan: Plan, overflow: Option<&str>) -> Rule {
    Rule { source: Arc::from("b1"), provider: None, overflow: overflow.map(Arc::from), plan }
}

/// Mail leaves from `b1`; `a1` is there too.
pub fn settings(warmups: Vec<Rule>) -> Settings {
    let source = |name: &str| Arc::new(Source { name: Arc::from(name), ..(*Egress::default().sources[0]).clone() });
    let pools = vec![EgressPool { name: "default".into(), members: vec![(0, 1)] }];
    let egress = Egress { sources: vec![source("b1"), source("a1")], pools, ..Egress::default() };
    Settings { egress, warmups, ..Settings::default() }
}

/// A stage at the first second of the plan's first day.
pub async fn at_dawn(settings: Settings) -> Stage {
    let stage = Stage::in_runtime_time(settings);
    let wait = tomorrow().begin() - stage.clock.wall_precise();
    tokio::time::sleep(wait + Duration::from_millis(10)).await;
    stage.start();
    stage
}

/// A message whose failure nobody is told of.
fn silent(stage: &Stage, to: &str) -> Envelope {
    let mut envelope = stage.envelope(&[to]);
    envelope.recipients[0].notify = Notify::NEVER;
    envelope
}

pub fn put(stage: &Stage, count: usize, to: &str) {
    for _ in 0..count {
        stage.put(silent(stage, to));
    }
}

pub fn from(stage: &Stage, source: &str) -> usize {
    stage.done().iter().filter(|done| *done.source == *source).count()
}

pub fn view(stage: &Stage) -> WarmupView {
    stage.queue.warmups(&WarmupFilter::default()).remove(0)
}

fn waiting(stage: &Stage) -> usize {
    let view = stage.queue.view();
    view.waiting.iter().find(|waiting| waiting.cause == "warmup").map_or(0, |waiting| waiting.entries)
}

#[tokio::test(start_paused = true)]
async fn what_a_day_has_no_room_for_waits_for_the_next() {
    let stage = at_dawn(settings(vec![rule(plan(&[20, 40]), None)])).await;
    put(&stage, 70, "a@d1.test");

    tokio::time::sleep(SECOND).await;
    assert_eq!((stage.done().len(), waiting(&stage), view(&stage).held), (1, 69, 69), "a twentieth at once");
    tokio::time::sleep(HOUR * 12).await;
    assert!((10..=12).contains(&stage.done().len()), "{}", stage.done().len());
    tokio::time::sleep(HOUR * 12 - SECOND * 20).await;
    assert_eq!(stage.done().len(), 20);
    tokio::time::sleep(HOUR * 24).await;
    assert_eq!((stage.done().len(), from(&stage, "b1")), (60, 60));
    tokio::time::sleep(SECOND * 60).await;

    assert_eq!((stage.done().len(), view(&stage).state), (70, "done"));
}

#[tokio::test(start_paused = true)]
async fn what_has_no_room_now_leaves_from_the_other_source_at_once() {
    let stage = at_dawn(settings(vec![rule(plan(&[20, 40]), Some("a1"))])).await;

    put(&stage, 30, "a@d1.test");
    tokio::time::sleep(SECOND).await;
    assert_eq!((from(&stage, "b1"), from(&stage, "a1")), (1, 29));
    tokio::time::sleep(HOUR * 3).await;
    put(&stage, 5, "a@d2.test");
    tokio::time::sleep(SECOND).await;

    assert_eq!((from(&stage, "b1"), from(&stage, "a1")), (2, 33));
    let view = view(&stage);
    assert_eq!((view.sent, view.overflowed, view.overflowed_since_start, view.held), (2, 33, 33, 0));
    assert_eq!((view.day, view.days, view.volume, view.overflow.as_deref()), (1, 2, Some(20), Some("a1")));
}

#[tokio::test(start_paused = true)]
async fn before_the_first_day_a_source_is_not_used() {
    let late = Plan { start: tomorrow().plus(2), ..plan(&[20]) };
    let overflow = at_dawn(settings(vec![rule(late.clone(), Some("a1"))])).await;
    put(&overflow, 3, "a@d1.test");
    tokio::time::sleep(SECOND).await;
    assert_eq!((from(&overflow, "a1"), view(&overflow).state), (3, "waiting"));

    let hold = Stage::in_runtime_time(settings(vec![rule(late, None)]));
    hold.start();
    put(&hold, 1, "a@d1.test");
    let first = view(&hold).start.parse::<Day>().unwrap().begin();
    tokio::time::sleep(first - SECOND * 60 - hold.clock.wall_precise()).await;
    assert_eq!((hold.done().len(), waiting(&hold)), (0, 1));
    tokio::time::sleep(SECOND * 120).await;

    assert_eq!((from(&hold, "b1"), view(&hold).state), (1, "running"));
}

#[tokio::test(start_paused = true)]
async fn mail_that_still_waits_at_the_other_source_is_taken_back_as_room_comes() {
    // 288 a day are one in five minutes; a1 sends one a minute.
    let slow = Ceiling { messages: Some(vec![(1, SECOND * 60)]), ..Ceiling::default() };
    let limit = LimitRule {
        subject: Subject::Source(Name::new("a1")),
        ceiling: slow,
        set_by: Arc::from("test"),
        is_provider: false,
    };
    let settings = Settings {
        rules: Rules::new(vec![limit]),
        allowance: Allowance::default(),
        ..settings(vec![rule(plan(&[288]), Some("a1"))])
    };
    let stage = at_dawn(settings).await;
    put(&stage, 400, "a@d1.test");

    tokio::time::sleep(SECOND * 30).await;
    let at_once = from(&stage, "b1");
    tokio::time::sleep(HOUR * 2).await;

    assert!((10..=15).contains(&at_once), "{at_once}");
    let back = from(&stage, "b1") - at_once;
    assert!((22..=26).contains(&back), "{back} of 24");
    let view = view(&stage);
    assert_eq!(
        (usize::try_from(view.sent).unwrap(), usize::try_from(view.overflowed).unwrap()),
        (at_once + back, from(&stage, "a1"))
    );
}

/// Says that the sender has a bad name.
fn blocked() -> Receiver {
    let outcome = |_, _| {
        let Outcome::Bounced(mut report) = bounced("") else { unreachable!() };
        let text = "Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org".into();
        report.reply = Reply { code: 554, status: Some(Status::new(5, 7, 1)), text };
        Outcome::Bounced(report)
    };
    Receiver { outcome: Arc::new(outcome), ..Receiver::default() }
}

pub fn steering(pause: Option<Option<Duration>>) -> Steering {
    let text = |text: &str| text.to_owned();
    Steering { source: text("b1"), provider: text("default"), pause, by: text("ops"), reason: text("ticket 4711") }
}

#[tokio::test(start_paused = true)]
async fn bad_replies_pause_a_warm_up_until_its_time_or_an_operator_ends_that() {
    let stage = at_dawn(settings(vec![rule(plan(&[1_000; 9]), Some("a1"))])).await;
    stage.script.set("d1.test", blocked());

    put(&stage, 10, "a@d1.test");
    tokio::time::sleep(SECOND).await;
    put(&stage, 5, "a@d2.test");
    tokio::time::sleep(SECOND).await;

    let paused = view(&stage);
    let pause = paused.pause.clone().unwrap();
    assert_eq!((paused.state, pause.by, paused.own_pauses, paused.day), ("paused", None, 1, 1));
    assert!(pause.reason.contains("blocked using zen.spamhaus.org") && pause.reason.contains("3%"), "{}", pause.reason);
    assert_eq!(from(&stage, "a1") + from(&stage, "b1"), 15);
    assert!(stage.done().iter().filter(|done| done.domain == "d2.test").all(|done| &*done.source == "a1"));

    let resumed = stage.queue.steer_warmup(&steering(None)).unwrap();
    assert_eq!((resumed.state, resumed.bad, resumed.replies), ("running", 0, 0));
    assert!(matches!(stage.queue.steer_warmup(&steering(None)), Err(SteerError::NotPaused(..))));
    let before = from(&stage, "b1");
    put(&stage, 5, "a@d2.test");
    tokio::time::sleep(SECOND).await;
    assert_eq!(from(&stage, "b1"), before + 5);

    put(&stage, 10, "a@d1.test");
    tokio::time::sleep(SECOND).await;
    assert_eq!(view(&stage).state, "paused");
    tokio::time::sleep(HOUR * 24).await;
    let over = view(&stage);
    assert_eq!((over.state, over.day), ("running", 1), "the first day was not whole");
    tokio::time::sleep(HOUR * 24).await;
    assert_eq!((view(&stage).day, view(&stage).held_days), (1, 2), "nor was the second");
}

#[tokio::test(start_paused = true)]
async fn other_refusals_pause_nothing() {
    let stage = at_dawn(settings(vec![rule(plan(&[1_000]), Some("a1"))])).await;
    let unknown = Receiver { outcome: Arc::new(|_, _| bounced("5.1.1 no such user")), ..Receiver::default() };
    stage.script.set("d1.test", unknown);

    put(&stage, 40, "a@d1.test");
    tokio::time::sleep(SECOND).await;

    let view = view(&stage);
    assert_eq!((view.state, view.bad, view.replies, view.sent), ("running", 0, 40, 40));
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_did_not_come_about_takes_no_room() {
    let stage = at_dawn(settings(vec![rule(plan(&[20]), None)])).await;
    stage.script.set("d1.test", Receiver { is_down: true, ..Receiver::default() });

    put(&stage, 1, "a@d1.test");
    tokio::time::sleep(SECOND).await;

    assert_eq!((view(&stage).sent, view(&stage).replies), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_the_count_and_an_operator_s_pause() {
    let stage = at_dawn(settings(vec![rule(plan(&[100, 100]), None)])).await;
    put(&stage, 3, "a@d1.test");
    tokio::time::sleep(SECOND).await;
    stage.queue.steer_warmup(&steering(Some(None))).unwrap();
    let (before, clock) = (view(&stage), stage.clock);
    assert_eq!((before.sent, before.state), (3, "paused"));

    // Whatever has the spool is to be seen to before time stands still.
    stage.queue.stop_dispatch();
    stage.queue.settled().await;
    tokio::time::sleep(SECOND).await;
    let stage = stage.again_at(settings(vec![rule(before_plan(&before), None)]), clock);
    put(&stage, 3, "a@d1.test");
    tokio::time::sleep(HOUR * 2).await;

    let after = view(&stage);
    assert_eq!((after.sent, after.state, after.pause.unwrap().by.as_deref()), (3, "paused", Some("ops")));
    assert_eq!((stage.done().len(), waiting(&stage)), (0, 3));
    stage.queue.steer_warmup(&steering(None)).unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!((stage.done().len(), view(&stage).sent), (2, 5), "what a twentieth has left goes at once");
}

/// The plan of a view, whose first day is past by now.
fn before_plan(view: &WarmupView) -> Plan {
    Plan { start: view.start.parse().unwrap(), ..plan(&[100, 100]) }
}

#[tokio::test(start_paused = true)]
async fn sites_that_share_a_plan_wait_for_it_in_turn() {
    // One an hour.
    let stage = at_dawn(settings(vec![rule(plan(&[24]), None)])).await;
    for _ in 0..6 {
        for site in 0..4 {
            put(&stage, 1, &format!("a@d{site}.test"));
        }
    }

    tokio::time::sleep(HOUR * 12 + SECOND).await;

    let counts: Vec<usize> =
        (0..4).map(|site| stage.done().iter().filter(|done| done.domain == format!("d{site}.test")).count()).collect();
    let all: usize = counts.iter().sum();
    assert!((11..=13).contains(&all) && counts.iter().all(|count| (2..=4).contains(count)), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reload_holds_at_once_and_keeps_the_count_of_the_day() {
    let stage = at_dawn(settings(vec![rule(plan(&[20]), None)])).await;
    let first = view(&stage).start;
    put(&stage, 30, "a@d1.test");
    // Between two units, which are 72 minutes apart.
    tokio::time::sleep(HOUR * 13 / 2).await;
    let sent = stage.done().len();
    assert!((5..=7).contains(&sent), "{sent}");

    let with = |volumes: &[u32], overflow| {
        let plan = Plan { start: first.parse().unwrap(), ..plan(volumes) };
        settings(vec![rule(plan, overflow)])
    };
    stage.queue.apply(with(&[20], Some("a1")), None);
    tokio::time::sleep(SECOND).await;
    assert_eq!((stage.done().len(), from(&stage, "b1"), usize::try_from(view(&stage).sent).unwrap()), (30, sent, sent));
    stage.queue.apply(settings(Vec::new()), None);
    put(&stage, 30, "a@d1.test");
    tokio::time::sleep(SECOND).await;

    assert_eq!((stage.done().len(), from(&stage, "b1")), (60, sent + 30), "without a plan nothing is limited");
    assert!(stage.queue.warmups(&WarmupFilter::default()).is_empty());
}
