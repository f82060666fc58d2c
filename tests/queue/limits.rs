//! Learnt limits as operators see and steer them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hikyaku::message::{Envelope, Outcome, Phase, Report};
use hikyaku::queue::Settings;
use hikyaku::queue::learning;
use hikyaku::queue::limit_views::{
    ChangeView, ExplainError, PathFilter, PathLimits, Question, Reset, UndoError, Unpin,
};
use hikyaku::queue::rules::{Ceiling, Name, Rule, Rules, Subject};
use hikyaku::smtp::reply::Reply;
use hikyaku::smtp::status::Status;
use hikyaku::state::{PinError, PinRequest, Pinned};

use crate::common::{Receiver, Stage, delivered};

const SITE: &str = "127.0.1.1:2525";

fn throttled() -> Outcome {
    let reply = Reply { code: 421, status: Some(Status::new(4, 7, 28)), text: "unusual rate of mail".into() };
    Outcome::Deferred(Report { reply, ..Report::local(Phase::Mail, Status::new(4, 0, 0), "") })
}

/// Takes so many messages, and then none.
fn taking(most: u32) -> Receiver {
    let taken = AtomicU32::new(0);
    let outcome = move |_, _| if taken.fetch_add(1, Ordering::Relaxed) < most { delivered() } else { throttled() };
    Receiver { outcome: Arc::new(outcome), ..Receiver::default() }
}

fn all() -> PathFilter {
    PathFilter { limit: 100, ..PathFilter::default() }
}

fn paths(stage: &Stage) -> Vec<PathLimits> {
    stage.queue.path_limits(&all())
}

fn changes(stage: &Stage) -> Vec<ChangeView> {
    stage.queue.limit_changes(&all())
}

fn pin(limit: Pinned, value: f64) -> PinRequest {
    let (least, most) = (None, None);
    let (reason, by) = ("ticket 4711".into(), "ops".into());
    PinRequest { site: "d1.test".into(), source: None, limit, value: Some(value), least, most, reason, by }
}

/// A stage whose receiver has just refused a message because of the rate.
async fn refused() -> Stage {
    let stage = Stage::started(Settings::default());
    stage.script.set("*", taking(20));
    for _ in 0..30 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    let is_told = |stage: &Stage| changes(stage).iter().any(|change| change.limit == "rate");
    stage.until("a change of the rate", is_told).await;
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_learnt_is_shown_with_the_reply_that_it_comes_from() {
    let stage = refused().await;

    let shown = paths(&stage);

    assert_eq!(shown.len(), 1, "{shown:?}");
    let path = &shown[0];
    assert_eq!((path.site.as_str(), path.source.as_str(), path.is_in_memory), (SITE, "default", true));
    let last = path.last_change.as_ref().unwrap();
    assert!(last.reason.contains("421 4.7.28 unusual rate of mail"), "{last:?}");
    assert!(path.rate_per_minute.is_some() && path.active_at > 0, "{path:?}");
    let nowhere = PathFilter { site: Some("d9.test".to_owned()), ..all() };
    assert_eq!((stage.queue.path_limits(&nowhere), stage.queue.limit_changes(&nowhere)), (vec![], vec![]));
    let by_domain = PathFilter { site: Some("D1.test.".to_owned()), source: Some("default".to_owned()), limit: 1 };
    assert_eq!((stage.queue.path_limits(&by_domain).len(), stage.queue.limit_changes(&by_domain).len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_holds_at_once_and_what_was_learnt_holds_again_without_it() {
    let stage = Stage::started(Settings::default());
    stage.put(stage.envelope(&["a@d1.test"]));
    stage.until_done(1).await;
    let before = paths(&stage)[0].clone();

    let pinned = stage.queue.pin(pin(Pinned::Rate, 90.0)).unwrap();
    stage.queue.pin(pin(Pinned::Connections, 3.0)).unwrap();
    let during = paths(&stage)[0].clone();
    let about = Unpin { site: "d1.test".to_owned(), source: None, limit: None, by: "ops".to_owned() };
    let ended = stage.queue.unpin(&about).unwrap();

    assert_eq!((pinned.site.as_str(), pinned.paths, pinned.changes[0].to), (SITE, 1, Some(90.0)));
    assert_eq!(pinned.changes[0].reason, "pinned by ops: ticket 4711");
    assert_eq!((during.rate_per_minute, during.connections, during.pins.len()), (Some(90.0), 3, 2));
    assert_eq!((ended.pins.len(), ended.changes[0].from), (2, Some(90.0)));
    let after = paths(&stage)[0].clone();
    assert_eq!((after.rate_per_minute, after.connections), (before.rate_per_minute, before.connections));
    assert!(changes(&stage).iter().all(|change| change.is_pin));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_rate_is_kept_to_from_the_first_message_on_and_ended_lets_go_what_waits() {
    let stage = Stage::started(Settings::default());
    stage.queue.pin(pin(Pinned::Rate, 60.0)).unwrap();
    for _ in 0..30 {
        stage.put(stage.envelope(&["a@d1.test"]));
    }
    stage.until_done(1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let under = stage.done().len();

    let about = Unpin { site: SITE.to_owned(), source: None, limit: Some(Pinned::Rate), by: "ops".to_owned() };
    stage.queue.unpin(&about).unwrap();
    stage.until_done(30).await;

    assert!(under < 5, "{under}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learnt_change_is_undone_by_its_id_and_a_pins_is_not() {
    let stage = refused().await;
    let change = changes(&stage).into_iter().rev().find(|change| change.limit == "rate").unwrap();

    let undone = stage.queue.undo_change(change.id, "ops").unwrap();

    assert_eq!(undone[0].to, change.from, "{undone:?}");
    assert!(undone[0].reason.starts_with(&format!("undone by ops, change {}: ", change.id)), "{undone:?}");
    let pinned = stage.queue.pin(pin(Pinned::Rate, 90.0)).unwrap().changes[0].id;
    assert_eq!(stage.queue.undo_change(pinned, "ops"), Err(UndoError::Pin(pinned)));
    assert_eq!(stage.queue.undo_change(9_999, "ops"), Err(UndoError::Unknown(9_999)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reset_begins_anew() {
    let stage = refused().await;
    assert_ne!(paths(&stage)[0].rate_per_minute, None, "a relay begins without a limit");

    let about = Reset { site: "d1.test".to_owned(), source: None, limit: None, by: "ops".to_owned() };
    let forgotten = stage.queue.reset_limits(&about).unwrap();

    assert_eq!((forgotten.site.as_str(), forgotten.paths), (SITE, 1));
    assert!(forgotten.changes.iter().any(|change| change.limit == "rate" && change.to.is_none()), "{forgotten:?}");
    assert!(forgotten.changes.iter().all(|change| change.reason == "reset by ops"), "{forgotten:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_explained_with_what_is_in_use_and_what_was_learnt() {
    let tenant = Subject::Tenant(Name::new("shop"));
    let hourly = Ceiling { messages: Some(vec![(1, Duration::from_secs(3_600))]), ..Ceiling::default() };
    let campaign = Subject::Campaign(Name::Any, Name::new("spring"));
    let rule = |subject, set_by: &str| Rule {
        subject,
        ceiling: hourly.clone(),
        set_by: Arc::from(set_by),
        is_provider: false,
    };
    let rules = Rules::new(vec![rule(tenant, "rule one"), rule(campaign, "rule two")]);
    let stage = Stage::started(Settings { rules, ..Settings::default() });
    stage.script.set("*", Receiver { transaction: Duration::from_millis(300), ..Receiver::default() });
    let envelope = stage.envelope(&["a@d1.test"]);
    stage.put(Envelope { tenant: "shop".into(), campaign: "spring".into(), ..envelope });
    stage.until("a connection", |stage| stage.queue.view().totals.connections == 1).await;
    let some = |text: &str| Some(text.to_owned());
    let question = Question { domain: "d1.test".into(), tenant: some("shop"), campaign: some("spring"), source: None };

    let explained = stage.queue.explain(&question).await.unwrap();

    let line = |scope: &str, what: &str| {
        explained.limits.iter().find(|line| line.scope == scope && line.what == what).unwrap()
    };
    assert_eq!((explained.site.as_str(), &explained.sources[..]), (SITE, &["default".to_owned()][..]));
    assert_eq!((line("site", "connections").used, line("site", "connections").room), (Some(1), Some(19)));
    assert_eq!(line("source at site", "connections").used, Some(1));
    let rate = line("source at site", "messages");
    assert_eq!((rate.most, rate.room_in_seconds, rate.waits_for), (None, Some(0.0), None));
    for (scope, set_by) in [("tenant", "rule one"), ("campaign", "rule two")] {
        let spent = line(scope, "messages");
        assert_eq!((spent.set_by.as_str(), spent.room, spent.per_seconds), (set_by, Some(0), Some(3_600.0)));
        assert!(spent.room_in_seconds.is_some_and(|seconds| seconds > 3_590.0), "{spent:?}");
    }
    let elsewhere = Question { domain: "nowhere.test".into(), ..Question::default() };
    assert!(matches!(stage.queue.explain(&elsewhere).await, Err(ExplainError::Plan(..))));
    let alone = Question { tenant: None, ..question };
    assert_eq!(stage.queue.explain(&alone).await, Err(ExplainError::Campaign));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_pinned_is_refused() {
    let stage = Stage::started(Settings::default());
    let unlearning = learning::Settings { is_on: false, ..learning::Settings::default() };
    let off = Stage::started(Settings { learning: unlearning, ..Settings::default() });

    let stranger = PinRequest { source: Some("x".into()), ..pin(Pinned::Rate, 1.0) };

    assert!(matches!(stage.queue.pin(stranger), Err(PinError::Source(_))));
    assert!(matches!(stage.queue.pin(pin(Pinned::Connections, 0.0)), Err(PinError::Value(_))));
    assert!(matches!(off.queue.pin(pin(Pinned::Rate, 1.0)), Err(PinError::NotLearnt)));
    let ahead = stage.queue.pin(pin(Pinned::Rate, 60.0)).unwrap();
    assert_eq!((ahead.paths, ahead.changes[0].source.as_str(), ahead.changes[0].to), (0, "*", Some(60.0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_why_nothing_goes_is_told_that_the_site_rests() {
    let blocked = |_, _| {
        let reply = Reply {
            code: 421,
            status: Some(Status::new(4, 7, 0)),
            text: "IP blocked because of poor reputation".into(),
        };
        Outcome::Deferred(Report { reply, ..Report::local(Phase::Mail, Status::new(4, 0, 0), "") })
    };
    let stage = Stage::started(Settings::default());
    stage.script.set("*", Receiver { outcome: Arc::new(blocked), ..Receiver::default() });
    stage.put(stage.envelope(&["a@d1.test"]));
    stage.until("a rest", |stage| paths(stage).iter().any(|path| path.is_resting)).await;

    let question = Question { domain: "d1.test".into(), ..Question::default() };
    let explained = stage.queue.explain(&question).await.unwrap();

    let waiting = explained.limits.iter().find(|line| line.waits_for == Some("breaker")).unwrap();
    assert!(waiting.set_by.contains("the receiver refuses us"), "{waiting:?}");
}
