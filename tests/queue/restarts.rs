//! Budgets and warm-ups over restarts, reloads and kills: nothing is forfeited by what only waited, and nothing is given twice.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hikyaku::message::{Envelope, Lane};
use hikyaku::queue::rules::{Ceiling, Name, Rule, Rules, Subject};
use hikyaku::queue::settings::{Limits, Retry};
use hikyaku::queue::warmup_views::WarmupFilter;
use hikyaku::queue::{Settings, learning};

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

/// Everybody who may be held to `ceiling`, with settings in which one is: everything, every site, and those of rules.
fn held_to(ceiling: &Ceiling, learns: bool) -> Vec<(&'static str, Settings)> {
    let site = || Name::new("127.0.1.1:2525");
    let settings = || Settings {
        limits: Limits { messages_per_connection: Some(1), ..Limits::default() },
        learning: learning::Settings { is_on: learns, ..learning::Settings::default() },
        ..Settings::default()
    };
    let by_rule = |subject: Subject| {
        let rule = Rule { subject, ceiling: ceiling.clone(), set_by: Arc::from("test"), is_provider: false };
        Settings { rules: Rules::new(vec![rule]), ..settings() }
    };
    let of_sites = Limits { allowance: ceiling.allowance(), ..settings().limits };
    vec![
        ("everything", Settings { allowance: ceiling.allowance(), ..settings() }),
        ("sites", Settings { limits: of_sites, ..settings() }),
        ("a site", by_rule(Subject::Site(site()))),
        ("a source", by_rule(Subject::Source(Name::new("default")))),
        ("a source at a site", by_rule(Subject::SourceSite(Name::new("default"), site()))),
    ]
}

/// The next start, after a stop or a kill.
fn next(stage: Stage, settings: Settings, is_kill: bool) -> Stage {
    let clock = stage.clock;
    if is_kill { stage.killed_at(settings, clock) } else { stage.again_at(settings, clock) }
}

#[tokio::test(start_paused = true)]
async fn restarts_without_end_open_no_more_connections_than_may_be() {
    for (learns, is_kill) in [(false, false), (false, true), (true, false), (true, true)] {
        for (of, settings) in held_to(&Ceiling { openings: Some(6), ..Ceiling::default() }, learns) {
            let mut stage = Stage::in_runtime_time(settings.clone());
            stage.start();
            let begun = tokio::time::Instant::now();
            let mut opened = 0;
            for _ in 0..10 {
                put(&stage, 5, "a@d1.test");
                tokio::time::sleep(Duration::from_millis(1_100)).await;
                quiet(&stage).await;
                opened += stage.script.dispatched.load(Ordering::Relaxed);
                stage = next(stage, settings.clone(), is_kill);
            }

            let due = 1 + usize::try_from(begun.elapsed().as_secs() / 10).unwrap();
            let least = if is_kill { 1 } else { due - 1 };
            assert!((least..=due).contains(&opened), "{of}, learning: {learns}, kills: {is_kill}: {opened} of {due}");
            // And it goes on.
            put(&stage, 5, "a@d1.test");
            tokio::time::sleep(SECOND * 21).await;
            assert!(stage.script.dispatched.load(Ordering::Relaxed) > 0, "{of}, kills: {is_kill}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn new_connections_of_an_earlier_minute_are_remembered_by_those_that_owe_for_long() {
    let ceiling = Ceiling { openings: Some(1), ..Ceiling::default() };
    for (of, settings) in held_to(&ceiling, false) {
        let stage = Stage::in_runtime_time(settings.clone());
        stage.start();
        put(&stage, 2, "a@d1.test");
        // Its file is written every ten seconds: of what was before then a kill forgets nothing, and adds nothing to it.
        tokio::time::sleep(SECOND * 15).await;
        quiet(&stage).await;
        let stage = next(stage, settings, true);
        put(&stage, 1, "a@d1.test");

        tokio::time::sleep(SECOND * 40).await;
        assert_eq!(stage.script.dispatched.load(Ordering::Relaxed), 0, "{of}");
        tokio::time::sleep(SECOND * 10).await;
        assert_eq!(stage.script.dispatched.load(Ordering::Relaxed), 1, "{of}");
    }
}

/// Messages of this many octets.
async fn submit(stage: &Stage, count: usize, octets: usize) {
    for _ in 0..count {
        let content = Bytes::from("x".repeat(octets));
        stage.submit_content(stage.spool.next_id(), stage.envelope(&["a@d1.test"]), content).await;
    }
}

#[tokio::test(start_paused = true)]
async fn restarts_without_end_send_no_more_octets_than_may_be() {
    for is_kill in [false, true] {
        for (of, settings) in held_to(&Ceiling { octets: Some(50_000), ..Ceiling::default() }, false) {
            let mut stage = Stage::in_runtime_time(settings.clone());
            submit(&stage, 150, 5_000).await;
            stage.start();
            let begun = tokio::time::Instant::now();
            let mut gone = 0;
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(1_700)).await;
                quiet(&stage).await;
                gone += stage.done().len() * 5_000;
                stage = next(stage, settings.clone(), is_kill);
            }

            let due = 50_000.0 * begun.elapsed().as_secs_f64();
            let least = if is_kill { 0.2 } else { 0.5 } * due;
            assert!((least..=due + 5_000.0).contains(&(gone as f64)), "{of}, kills: {is_kill}: {gone} of {due}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_large_message_owes_is_owed_after_a_restart() {
    for is_kill in [false, true] {
        let settings = held_to(&Ceiling { octets: Some(10_000), ..Ceiling::default() }, false).remove(2).1;
        let stage = Stage::in_runtime_time(settings.clone());
        submit(&stage, 2, 600_000).await;
        stage.start();
        tokio::time::sleep(SECOND * 15).await;
        assert_eq!(stage.done().len(), 1, "one that is larger than the budget passes");
        quiet(&stage).await;
        let stage = next(stage, settings, is_kill);

        tokio::time::sleep(SECOND * 40).await;
        assert_eq!(stage.done().len(), 0, "a minute has not passed; kill: {is_kill}");
        tokio::time::sleep(SECOND * 15).await;
        assert_eq!(stage.done().len(), 1, "kill: {is_kill}");
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
