//! Who gets no mail: found at RCPT, when a message comes in, and right before it would be sent.

use hikyaku::config::{Dsns, Suppressed, SuppressionAction, SuppressionRule, Whose};
use hikyaku::state::suppression::{Reason, Scope};

use crate::stage::{FULL, GONE, GOOD, LATER, SENDER, SPAM, Stage};

fn at(mailbox: &str, domain: &str) -> String {
    format!("{mailbox}@{domain}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_for_good_costs_the_address_for_ever() {
    let stage = Stage::start(|_| {}).await;

    stage.submit(&[&at("ann", GONE)], "X-Hikyaku-Campaign: spring").await;
    stage.until("she is suppressed", || !stage.suppressed().is_empty()).await;
    let again = stage.submit(&[&at("ANN", GONE)], "Subject: x").await;

    assert_eq!(stage.suppressed(), [(at("ann", GONE), "hard-bounce", "shop".to_owned())].into());
    assert_eq!(again, "550 5.7.1 Suppressed recipient: hard bounce");
    let event = stage.told("suppressed", 1).await.remove(0);
    assert_eq!((&event["step"], &event["reason"]), (&"rcpt".into(), &"hard-bounce".into()));
    assert!(stage.metric("hikyaku_submission_rejected_total{cause=\"suppressed\"} 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_about_the_recipient_costs_nothing() {
    let stage = Stage::start(|_| {}).await;

    stage.submit(&[&at("ann", SPAM)], "Subject: x").await;
    stage.submit(&[&at("bob", GONE)], "Subject: x").await;
    stage.told("bounced", 2).await;
    stage.until("the other one is suppressed", || !stage.suppressed().is_empty()).await;

    assert_eq!(stage.suppressed(), [(at("bob", GONE), "hard-bounce", "shop".to_owned())].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_mailbox_costs_it_for_a_while_after_so_many_days() {
    let stage = Stage::start(|config| config.suppression.full_days = 1).await;
    let patient = Stage::start(|_| {}).await;

    for stage in [&stage, &patient] {
        stage.submit(&[&at("ann", FULL)], "Subject: x").await;
    }
    stage.until("she is suppressed", || !stage.suppressed().is_empty()).await;
    patient.told("deferred", 2).await;

    assert_eq!(stage.suppressed(), [(at("ann", FULL), "mailbox-full", "shop".to_owned())].into());
    let event = stage.told("suppression", 1).await.remove(0);
    assert!(event["until"].is_string(), "{event}");
    assert_eq!(patient.suppressed(), [].into());
    assert!(stage.submit(&[&at("ann", FULL)], "Subject: x").await.starts_with("550 5.7.1 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_changes_what_a_class_comes_to_and_tenants_can_share_what_they_learn() {
    let stage = Stage::start(|config| {
        let rule = |class: &str, action, lasting: Option<&str>| SuppressionRule {
            class: class.to_owned(),
            action,
            lasting: lasting.map(|lasting| lasting.parse().unwrap()),
        };
        config.suppression.bounces = Whose::AllTenants;
        config.suppression.rules = vec![
            rule("bad-mailbox", SuppressionAction::Suppress, Some("1d")),
            rule("mailbox-full", SuppressionAction::Ignore, None),
        ];
        config.suppression.full_days = 1;
    })
    .await;

    stage.submit(&[&at("full", FULL)], "Subject: x").await;
    stage.told("deferred", 1).await;
    stage.submit(&[&at("ann", GONE)], "Subject: x").await;
    stage.until("she is suppressed", || !stage.suppressed().is_empty()).await;

    assert_eq!(stage.suppressed(), [(at("ann", GONE), "hard-bounce", String::new())].into());
    assert!(stage.told("suppression", 1).await[0]["until"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_message_to_several_the_suppressed_are_left_out_and_their_sender_is_told() {
    let stage = Stage::start(|_| {}).await;
    // By its class: nobody knows that at RCPT.
    stage.add(&at("bob", GOOD), Scope::of("shop", "news").unwrap(), Reason::Unsubscribe);

    let taken = stage.submit(&[&at("ann", GOOD), &at("bob", GOOD)], "X-Hikyaku-Class: News").await;
    let other = stage.submit(&[&at("bob", GOOD)], "X-Hikyaku-Class: offers").await;
    let events = stage.told("suppressed", 1).await;
    stage.told("delivered", 3).await;

    assert!(taken.starts_with("250") && other.starts_with("250"), "{taken} {other}");
    assert_eq!((&events[0]["recipient"], &events[0]["step"]), (&at("bob", GOOD).into(), &"queue".into()));
    assert_eq!(events[0]["campaign_class"], "news");
    let got: Vec<_> = stage.good.transactions().into_iter().flat_map(|got| got.rcpts).collect();
    assert_eq!(got.len(), 2, "{got:?}");
    stage.until("a DSN comes", || !stage.sender.transactions().is_empty()).await;
    let dsn = String::from_utf8(stage.sender.transactions()[0].content.clone()).unwrap();
    assert!(dsn.contains("bob@good.test") && dsn.contains("5.7.1") && dsn.contains("suppressed recipient"), "{dsn}");
    assert!(stage.metric("hikyaku_queue_suppressed_total 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_clients_are_not_told_the_suppressed_are_taken_and_left_out() {
    let stage = Stage::start(|config| config.suppression.recipients = Suppressed::Accept).await;
    stage.add("@gone.test", Scope::Global, Reason::Operator);

    let taken = stage.submit(&[&at("ann", GONE), &at("ann", GOOD)], "Subject: x").await;
    let event = stage.told("suppressed", 1).await.remove(0);
    stage.told("delivered", 1).await;

    assert!(taken.starts_with("250"), "{taken}");
    assert_eq!(
        (&event["recipient"], &event["reply_text"]),
        (&at("ann", GONE).into(), &"suppressed domain: operator (global)".into())
    );
    assert_eq!((stage.events("dsn-sent").len(), stage.events("bounced").len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_made_while_a_message_waits_holds_it_back() {
    let stage = Stage::start(|_| {}).await;

    stage.submit(&[&at("ann", LATER)], "Subject: x").await;
    stage.told("deferred", 1).await;
    stage.add(&at("ann", LATER), Scope::Tenant("shop".into()), Reason::Complaint);
    let event = stage.told("suppressed", 1).await.remove(0);

    assert_eq!((&event["step"], &event["recipient"]), (&"queue".into(), &at("ann", LATER).into()));
    assert_eq!(stage.later.transactions(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_no_campaigns_still_gets_urgent_mail_but_never_a_dead_address() {
    let stage = Stage::start(|config| config.listeners[0].trust_headers = true).await;
    stage.add(&at("ann", GOOD), Scope::Global, Reason::Unsubscribe);
    stage.add(&at("bob", GOOD), Scope::Tenant("shop".into()), Reason::HardBounce);
    stage.add(&at("ann", LATER), Scope::Tenant("shop".into()), Reason::Unsubscribe);
    let lane = |lane: &str| format!("X-Hikyaku-Tenant: shop\r\nX-Hikyaku-Lane: {lane}");

    // Whether it is urgent is not known before the header section here.
    for (to, lane) in [(at("ann", GOOD), lane("urgent")), (at("bob", GOOD), lane("urgent"))] {
        assert!(stage.submit(&[&to], &lane).await.starts_with("250"));
    }
    stage.submit(&[&at("ann", LATER)], &lane("urgent")).await;
    stage.submit(&[&at("ann", GOOD)], &lane("bulk")).await;

    let held = stage.told("suppressed", 2).await;
    let is_urgent = |domain: &str| {
        let events = stage.events("delivered");
        events.iter().any(|event| event["recipient"] == at("ann", domain) && event["lane"] == "urgent")
    };
    stage.until("urgent mail is delivered", || is_urgent(GOOD) && is_urgent(LATER)).await;
    let of = |event: &serde_json::Value| (event["recipient"].clone(), event["lane"].clone());
    let held: Vec<_> = held.iter().map(of).collect();
    assert_eq!(held, [(at("bob", GOOD).into(), "urgent".into()), (at("ann", GOOD).into(), "bulk".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_reads_events_gets_no_dsn() {
    let stage = Stage::start(|config| config.bounces.tenants[0].dsn = Dsns::Events).await;

    stage.submit(&[&at("ann", GONE)], "Subject: x").await;
    stage.told("bounced", 1).await;
    stage.submit(&[&at("ann", SENDER)], "Subject: x").await;
    stage.told("delivered", 1).await;

    assert_eq!(stage.events("dsn-sent"), [] as [serde_json::Value; 0]);
    assert_eq!(stage.sender.transactions().len(), 1, "its own message alone");
}
