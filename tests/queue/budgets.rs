//! Budgets of sources, tenants and campaigns, and of everything: kept to, shared, and in nobody else's way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hikyaku::limit::budget::Allowance;
use hikyaku::message::{Envelope, Lane, Outcome, Phase};
use hikyaku::queue::rules::{Ceiling, Name, Rule, Rules, Subject};
use hikyaku::queue::settings::Limits;
use hikyaku::queue::{Settings, View};

use crate::common::{Receiver, Stage, bounced};

fn per_second(count: u32) -> Ceiling {
    Ceiling { messages: Some(vec![(count, Duration::from_secs(1))]), ..Ceiling::default() }
}

fn rules(rules: &[(Subject, Ceiling)]) -> Settings {
    let rule = |(subject, ceiling): &(Subject, Ceiling)| Rule {
        subject: subject.clone(),
        ceiling: ceiling.clone(),
        set_by: Arc::from("test"),
        is_provider: false,
    };
    Settings { rules: Rules::new(rules.iter().map(rule).collect()), ..Settings::default() }
}

fn of(stage: &Stage, tenant: &str, campaign: &str, lane: Lane, to: &str) -> Envelope {
    Envelope { tenant: tenant.into(), campaign: campaign.into(), lane, ..stage.envelope(&[to]) }
}

/// Delivered so far at a domain.
fn done_at(stage: &Stage, domain: &str) -> usize {
    stage.done().iter().filter(|done| done.domain == domain).count()
}

fn waits_for(view: &View, cause: &str) -> usize {
    view.waiting.iter().filter(|waiting| waiting.cause == cause).map(|waiting| waiting.entries).sum()
}

#[tokio::test(start_paused = true)]
async fn a_tenant_without_budget_leaves_its_site_to_the_others_and_keeps_to_its_rate_everywhere() {
    let stage = Stage::in_runtime_time(rules(&[(Subject::Tenant(Name::new("slow")), per_second(10))]));
    for _ in 0..20 {
        stage.put(of(&stage, "slow", "", Lane::Normal, "a@d1.test"));
        stage.put(of(&stage, "slow", "", Lane::Normal, "a@d2.test"));
    }
    for _ in 0..200 {
        stage.put(of(&stage, "free", "", Lane::Normal, "a@d1.test"));
    }
    stage.start();

    tokio::time::sleep(Duration::from_millis(950)).await;
    let first = stage.done().len();
    assert!((208..=210).contains(&first), "{first}: all of the other tenant, and one second's worth");
    assert_eq!(waits_for(&stage.queue.view(), "budget"), 240 - first);

    tokio::time::sleep(Duration::from_secs(2)).await;
    let third = stage.done().len();
    assert!((228..=230).contains(&third), "{third}");
    let (one, other) = (done_at(&stage, "d1.test") - 200, done_at(&stage, "d2.test"));
    assert!(one.abs_diff(other) <= 4, "both sites have their turns: {one}, {other}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.done().len(), 240);
}

#[tokio::test(start_paused = true)]
async fn a_campaign_is_held_to_its_rate_over_all_lanes_and_does_not_hold_up_its_tenant() {
    let spring = Subject::Campaign(Name::Any, Name::new("spring"));
    let stage = Stage::in_runtime_time(rules(&[(spring, per_second(5))]));
    for lane in [Lane::Urgent, Lane::Bulk] {
        for _ in 0..10 {
            stage.put(of(&stage, "t", "spring", lane, "a@d1.test"));
        }
    }
    for _ in 0..50 {
        stage.put(of(&stage, "t", "autumn", Lane::Bulk, "a@d1.test"));
    }
    stage.start();

    tokio::time::sleep(Duration::from_millis(950)).await;
    assert_eq!(stage.done().len(), 55);
    // One that comes while the others are away goes at once, if its campaign has no limit.
    stage.put(of(&stage, "t", "winter", Lane::Bulk, "a@d1.test"));
    stage.put(of(&stage, "t", "spring", Lane::Normal, "a@d1.test"));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(stage.done().len(), 56);

    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.done().len(), 72);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_at_a_site_is_limited_there_alone() {
    // The site of d1.test.
    let rule = Subject::TenantSite(Name::Any, Name::new("127.0.1.1:2525"));
    let stage = Stage::in_runtime_time(rules(&[(rule, per_second(4))]));
    for tenant in ["a", "b"] {
        for to in ["a@d1.test", "a@d2.test"] {
            for _ in 0..12 {
                stage.put(of(&stage, tenant, "", Lane::Normal, to));
            }
        }
    }
    stage.start();

    tokio::time::sleep(Duration::from_millis(980)).await;

    assert_eq!((done_at(&stage, "d1.test"), done_at(&stage, "d2.test")), (8, 24));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(done_at(&stage, "d1.test"), 24);
}

#[tokio::test(start_paused = true)]
async fn many_sites_take_turns_at_the_rate_of_everything_and_of_their_source() {
    for by_source in [false, true] {
        let settings = match by_source {
            true => rules(&[(Subject::Source(Name::new("default")), per_second(100))]),
            false => Settings {
                allowance: Allowance { messages: vec![(100, Duration::from_secs(1))], ..Allowance::default() },
                ..Settings::default()
            },
        };
        let stage = Stage::in_runtime_time(settings);
        for n in 0..50 {
            for _ in 0..8 {
                stage.put(stage.envelope(&[&format!("a@d{n}.test")]));
            }
        }
        stage.start();

        tokio::time::sleep(Duration::from_millis(1_990)).await;

        let done = stage.done().len();
        assert!((185..=200).contains(&done), "{done} by source: {by_source}");
        let served = (0..50).filter(|n| done_at(&stage, &format!("d{n}.test")) > 0).count();
        assert!(served >= 45, "{served} of 50 sites have had a turn; by source: {by_source}");
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(stage.done().len(), 400, "by source: {by_source}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_carries_no_more_recipients_than_it_may() {
    let limits = Limits { connections: 1, recipients_per_connection: Some(5), ..Limits::default() };
    let stage = Stage::in_runtime_time(Settings { limits, ..Settings::default() });
    for _ in 0..4 {
        stage.put(stage.envelope(&["a@d1.test", "b@d1.test", "c@d1.test"]));
    }
    stage.start();
    stage.until_done(12).await;

    // 3 and 2, then 1 left over of that message and 3 and 1, and so on: 5, 5, 2.
    assert_eq!(stage.script.dispatched.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_tenants_transactions_are_as_small_as_its_rule_says() {
    let ceiling = Ceiling { recipients_per_transaction: Some(2), ..Ceiling::default() };
    let stage = Stage::in_runtime_time(rules(&[(Subject::Tenant(Name::new("small")), ceiling)]));
    for tenant in ["small", "large"] {
        let to = ["a@d1.test", "b@d1.test", "c@d1.test", "d@d1.test"];
        stage.put(Envelope { tenant: tenant.into(), ..stage.envelope(&to) });
    }
    stage.start();
    stage.until_done(8).await;

    assert_eq!(stage.script.transactions.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_changed_rule_holds_at_once_and_whoever_was_away_comes_back() {
    let hourly = |count| Ceiling { messages: Some(vec![(count, Duration::from_secs(3_600))]), ..Ceiling::default() };
    let tenant = || Subject::Tenant(Name::new("t"));
    let stage = Stage::in_runtime_time(rules(&[(tenant(), hourly(1))]));
    for _ in 0..20 {
        stage.put(of(&stage, "t", "", Lane::Normal, "a@d1.test"));
    }
    stage.start();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.done().len(), 1);

    stage.queue.apply(rules(&[(tenant(), per_second(2))]), None);
    tokio::time::sleep(Duration::from_millis(4_900)).await;
    let after = stage.done().len();
    assert!((10..=11).contains(&after), "{after}");

    stage.queue.apply(Settings::default(), None);
    stage.until_done(20).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_fails_costs_no_message() {
    let hourly = Ceiling { messages: Some(vec![(1, Duration::from_secs(3_600))]), ..Ceiling::default() };
    let mut settings = rules(&[(Subject::Tenant(Name::new("t")), hourly)]);
    settings.retry.intervals = vec![Duration::from_secs(10)];
    let stage = Stage::in_runtime_time(settings);
    stage.script.set("d1.test", Receiver { is_down: true, ..Receiver::default() });
    stage.put(of(&stage, "t", "", Lane::Normal, "a@d1.test"));
    stage.start();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((stage.done().len(), stage.script.dispatched.load(Ordering::Relaxed)), (0, 1));

    stage.script.set("d1.test", Receiver::default());
    tokio::time::sleep(Duration::from_secs(60)).await;

    assert_eq!(stage.done().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_used_up_of_an_hour_stays_so_over_a_restart() {
    let hourly = || Ceiling { messages: Some(vec![(2, Duration::from_secs(3_600))]), ..Ceiling::default() };
    let name = Name::new;
    let settings = || {
        rules(&[
            (Subject::Tenant(name("a")), hourly()),
            (Subject::Campaign(name("b"), name("spring")), hourly()),
            (Subject::TenantSite(name("c"), name("127.0.1.3:2525")), hourly()),
            (Subject::SourceSite(name("default"), name("127.0.1.4:2525")), hourly()),
            (Subject::Site(name("127.0.1.5:2525")), hourly()),
        ])
    };
    let put = |stage: &Stage| {
        let mails = [("a", "", 1), ("b", "spring", 2), ("c", "", 3), ("d", "", 4), ("d", "", 5)];
        for (tenant, campaign, domain) in mails {
            stage.put(of(stage, tenant, campaign, Lane::Normal, &format!("a@d{domain}.test")));
        }
    };
    let stage = Stage::started(settings());
    put(&stage);
    stage.until_done(5).await;

    let stage = stage.again(settings());
    put(&stage);
    stage.put(of(&stage, "free", "", Lane::Normal, "a@d9.test"));
    stage.until_done(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;

    assert_eq!(stage.done().len(), 1, "only what no budget is about");
    let owed: u64 = stage.queue.view().waiting.iter().map(|waiting| waiting.entries as u64).sum();
    assert_eq!(owed, 5, "{:?}", stage.queue.view());
}

fn octets(count: u32) -> Ceiling {
    Ceiling { octets: Some(count), ..Ceiling::default() }
}

/// Everybody who may be held to octets a second.
fn held_to_octets(count: u32) -> Vec<Settings> {
    let (any, site) = (|| Name::Any, || Name::new("127.0.1.1:2525"));
    let subjects = [
        Subject::Site(site()),
        Subject::Source(any()),
        Subject::SourceSite(any(), site()),
        Subject::Tenant(any()),
        Subject::TenantSite(any(), site()),
        Subject::Campaign(any(), any()),
    ];
    let everything = Settings { allowance: octets(count).allowance(), ..Settings::default() };
    subjects.into_iter().map(|subject| rules(&[(subject, octets(count))])).chain([everything]).collect()
}

/// Messages of `length` octets for d1.test.
async fn submit_large(stage: &Stage, count: usize, length: usize) {
    for _ in 0..count {
        let envelope = of(stage, "t", "spring", Lane::Normal, "a@d1.test");
        stage.submit_content(stage.spool.next_id(), envelope, Bytes::from("x".repeat(length))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn octets_go_evenly_however_many_connections_carry_them() {
    for settings in held_to_octets(50_000) {
        let rules = format!("{:?}, {:?}", settings.rules, settings.allowance);
        let stage = Stage::in_runtime_time(settings);
        let slow = Receiver { transaction: Duration::from_secs(2), ..Receiver::default() };
        stage.script.set("d1.test", slow);
        submit_large(&stage, 150, 5_000).await;
        stage.start();
        let begun = tokio::time::Instant::now().into_std();
        tokio::time::sleep(Duration::from_millis(12_500)).await;

        let mut seconds = [0; 13];
        for done in stage.done() {
            seconds[usize::try_from((done.at - begun).as_secs()).unwrap()] += 1;
        }
        // Ten a second, and one message that began in the second before.
        assert!(seconds.iter().all(|count| *count <= 11), "{seconds:?}; {rules}");
        let all: usize = seconds.iter().sum();
        assert!((90..=106).contains(&all), "{all} in the ten seconds from the first reply on; {rules}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_larger_than_the_budget_goes_and_the_next_one_when_it_has_been_paid_for() {
    for settings in held_to_octets(10_000) {
        let rules = format!("{:?}, {:?}", settings.rules, settings.allowance);
        let stage = Stage::in_runtime_time(settings);
        // In a spill file.
        submit_large(&stage, 3, 400_000).await;
        stage.start();

        tokio::time::sleep(Duration::from_secs(39)).await;
        assert_eq!(stage.done().len(), 1, "{rules}");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(stage.done().len(), 2, "{rules}");
    }
}

#[tokio::test(start_paused = true)]
async fn octets_that_do_not_go_are_given_back() {
    for settings in held_to_octets(10_000) {
        let rules = format!("{:?}, {:?}", settings.rules, settings.allowance);
        let stage = Stage::in_runtime_time(settings);
        let refused = |_, _| {
            let mut refused = bounced("no such user");
            if let Outcome::Bounced(report) = &mut refused {
                report.phase = Phase::Rcpt;
            }
            refused
        };
        stage.script.set("d1.test", Receiver { outcome: Arc::new(refused), ..Receiver::default() });
        submit_large(&stage, 5, 400_000).await;
        stage.start();

        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(done_at(&stage, "d1.test"), 5, "{rules}");

        stage.script.set("d1.test", Receiver { is_down: true, ..Receiver::default() });
        submit_large(&stage, 1, 400_000).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        stage.script.set("d1.test", Receiver::default());
        submit_large(&stage, 1, 5_000).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(done_at(&stage, "d1.test"), 6, "the connection that failed costs no octets; {rules}");
    }
}
