//! Budgets and warm-ups over restarts, reloads and kills: nothing is forfeited by what only waited, and nothing is given twice.

use std::sync::Arc;
use std::time::Duration;

use hikyaku::message::{Envelope, Lane};
use hikyaku::queue::Settings;
use hikyaku::queue::rules::{Ceiling, Name, Rule, Rules, Subject};
use hikyaku::queue::settings::Retry;
use hikyaku::queue::warmup_views::WarmupFilter;

use crate::common::Stage;
use crate::warmup::{HOUR, SECOND, from, plan, put, rule, settings as warming};

/// Where many sites wait for a rate.
const SITES: usize = 10;

fn hourly(subject: Subject, count: u32) -> Settings {
    let ceiling = Ceiling { messages: Some(vec![(count, HOUR)]), ..Ceiling::default() };
    let rule = Rule { subject, ceiling, set_by: Arc::from("test"), is_provider: false };
    Settings { rules: Rules::new(vec![rule]), ..Settings::default() }
}

/// Subjects that mail of tenant `default` to many sites shares.
fn shared() -> Vec<Subject> {
    vec![Subject::Source(Name::new("default")), Subject::Tenant(Name::new("default"))]
}

fn put_everywhere(stage: &Stage, count: usize) {
    for site in 0..SITES {
        for _ in 0..count {
            let to = format!("a@d{site}.test");
            stage.put(Envelope { tenant: "default".into(), lane: Lane::Normal, ..stage.envelope(&[&*to]) });
        }
    }
}

/// Whatever has the spool is to be seen to before time stands still.
async fn quiet(stage: &Stage) {
    stage.queue.stop_dispatch();
    stage.queue.settled().await;
    tokio::time::sleep(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn restarts_forfeit_nothing_of_a_rate_that_many_sites_wait_for() {
    for subject in shared() {
        // One in ten seconds.
        let settings = || hourly(subject.clone(), 360);
        let mut stage = Stage::in_runtime_time(settings());
        stage.start();
        let begun = tokio::time::Instant::now();
        let mut gone = 0;
        for _ in 0..5 {
            put_everywhere(&stage, 3);
            tokio::time::sleep(SECOND * 2).await;
            quiet(&stage).await;
            gone += stage.done().len();
            let clock = stage.clock;
            stage = stage.again_at(settings(), clock);
        }
        put_everywhere(&stage, 3);
        tokio::time::sleep(SECOND * 100).await;

        gone += stage.done().len();
        let due = usize::try_from(begun.elapsed().as_secs() / 10).unwrap() + 1;
        assert!((due - 2..=due).contains(&gone), "{subject:?}: {gone} of {due}");
    }
}

#[tokio::test(start_paused = true)]
async fn reloads_forfeit_nothing_of_a_rate_that_many_sites_wait_for() {
    for subject in shared() {
        let stage = Stage::in_runtime_time(hourly(subject.clone(), 360));
        stage.start();
        let begun = tokio::time::Instant::now();
        put_everywhere(&stage, 3);
        for round in 1..=5 {
            tokio::time::sleep(SECOND * 2).await;
            let retry = Retry { max_age: HOUR * (100 + round), ..Retry::default() };
            stage.queue.apply(Settings { retry, ..hourly(subject.clone(), 360) }, None);
        }
        tokio::time::sleep(SECOND * 100).await;

        let (gone, due) = (stage.done().len(), usize::try_from(begun.elapsed().as_secs() / 10).unwrap() + 1);
        assert!((due - 1..=due).contains(&gone), "{subject:?}: {gone} of {due}");
        // What waits has its turns one after another, also at another pace: one in two seconds.
        stage.queue.apply(hourly(subject.clone(), 1_800), None);
        tokio::time::sleep(SECOND * 20).await;
        let more = stage.done().len() - gone;
        assert!((9..=11).contains(&more), "{subject:?}: {more} of 10");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_site_waited_for_that_has_no_mail_any_more_is_for_others() {
    let stage = Stage::in_runtime_time(hourly(Subject::Source(Name::new("default")), 360));
    stage.start();
    let begun = tokio::time::Instant::now();
    put_everywhere(&stage, 1);
    tokio::time::sleep(SECOND).await;
    for site in 1..SITES {
        let selection = crate::orders::to_domain(&format!("d{site}.test"));
        let action = hikyaku::state::Action::Delete;
        let (reason, by) = ("over".into(), "ops".into());
        let request = hikyaku::state::Request { action, selection, reason, by, seconds: Some(5) };
        stage.queue.place(request).unwrap();
    }
    tokio::time::sleep(SECOND * 30).await;
    put_everywhere(&stage, 3);

    tokio::time::sleep(SECOND * 60).await;

    let gone = stage.done().len();
    // Three slots passed before there was mail again.
    let due = usize::try_from(begun.elapsed().as_secs() / 10).unwrap() + 1;
    assert!((due - 4..=due).contains(&gone), "{gone} of {due}");
}

#[tokio::test(start_paused = true)]
async fn kills_without_end_exceed_no_rate() {
    let subjects = [
        Subject::Source(Name::new("default")),
        Subject::Tenant(Name::new("default")),
        Subject::Site(Name::new("127.0.1.1:2525")),
    ];
    for subject in subjects {
        for count in [20, 1_200] {
            let settings = || hourly(subject.clone(), count);
            let mut stage = Stage::in_runtime_time(settings());
            stage.start();
            let begun = tokio::time::Instant::now();
            let mut gone = 0;
            for _ in 0..12 {
                put(&stage, 20, "a@d1.test");
                tokio::time::sleep(Duration::from_millis(1_700)).await;
                quiet(&stage).await;
                gone += stage.done().len();
                let clock = stage.clock;
                stage = stage.killed_at(settings(), clock);
            }

            let due = begun.elapsed().as_secs_f64() * f64::from(count) / 3_600.0;
            assert!((1.0..=due + 1.0).contains(&(gone as f64)), "{subject:?}, {count} an hour: {gone} of {due}");
            // And it goes on, one burst later.
            put(&stage, 20, "a@d1.test");
            tokio::time::sleep(HOUR / count * 2 + SECOND).await;
            assert!(!stage.done().is_empty(), "{subject:?}, {count} an hour");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_site_owes_that_has_no_mail_meanwhile_is_remembered_over_two_restarts() {
    let settings = || hourly(Subject::Site(Name::new("127.0.1.1:2525")), 2);
    let stage = Stage::in_runtime_time(settings());
    stage.start();
    put(&stage, 1, "a@d1.test");
    tokio::time::sleep(SECOND).await;
    assert_eq!(stage.done().len(), 1);
    quiet(&stage).await;

    let clock = stage.clock;
    let stage = stage.again_at(settings(), clock);
    put(&stage, 1, "a@d2.test");
    tokio::time::sleep(SECOND * 15).await;
    quiet(&stage).await;
    let stage = stage.again_at(settings(), clock);
    put(&stage, 1, "a@d1.test");
    tokio::time::sleep(SECOND * 15).await;

    assert_eq!(stage.done().len(), 0, "half an hour has not passed");
    tokio::time::sleep(HOUR / 2).await;
    assert_eq!(stage.done().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn kills_without_end_give_a_warm_up_no_second_volume() {
    let mut stage = crate::warmup::at_dawn(warming(vec![rule(plan(&[400; 3]), Some("a1"))])).await;
    let start = stage.queue.warmups(&WarmupFilter::default()).remove(0).start;
    let mut gone = 0;
    for _ in 0..6 {
        put(&stage, 40, "a@d1.test");
        tokio::time::sleep(Duration::from_millis(1_700)).await;
        quiet(&stage).await;
        gone += from(&stage, "b1");
        let clock = stage.clock;
        let plan = hikyaku::limit::warmup::Plan { start: start.parse().unwrap(), ..plan(&[400; 3]) };
        stage = stage.killed_at(warming(vec![rule(plan, Some("a1"))]), clock);
    }

    let sent = usize::try_from(stage.queue.warmups(&WarmupFilter::default()).remove(0).sent).unwrap();
    assert!((20..=22).contains(&gone) && (gone..=22).contains(&sent), "{gone} went, and {sent} count");
}
