//! What comes back: to whom it must come, what it costs, and what it cannot.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hikyaku::bounce::token::{Purpose, Token, day_of};
use hikyaku::clock::Clock;
use hikyaku::config::{self, Dsns};
use hikyaku::log::disk::Disk;
use hikyaku::message::{Content, Envelope, Kind, Recipient};
use hikyaku::metrics::Registry;
use hikyaku::smtp::address::ReversePath;
use hikyaku::spool::{NewMessage, Settings, Spool};
use tokio::task::JoinSet;

use crate::spool;
use crate::stage::{BOUNCES, FEEDBACK, GOOD, SENDER, Stage, bounce, feedback, said};

const UNKNOWN: &str = "550 5.1.1 User unknown";

fn ann() -> String {
    format!("ann@{GOOD}")
}

/// A stage whose message to ann is delivered, and its reverse-path.
async fn delivered() -> (Stage, String) {
    let stage = Stage::start(|_| {}).await;
    stage.submit(&[&ann()], "X-Hikyaku-Campaign: spring").await;
    let reverse_path = stage.reverse_path(&ann()).await;
    (stage, reverse_path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_recipient_has_a_transaction_and_a_reverse_path_of_its_own() {
    let stage = Stage::start(|_| {}).await;
    let bob = format!("bob@{GOOD}");
    stage.submit(&[&ann(), &bob], "Subject: x").await;
    let paths = [stage.reverse_path(&ann()).await, stage.reverse_path(&bob).await];

    assert_eq!(stage.good.transactions().len(), 2);
    assert_ne!(paths[0], paths[1]);
    for path in &paths {
        let (local, domain) = path.split_once('@').unwrap();
        assert!(local.starts_with("b+") && local.len() <= 64 && domain == BOUNCES, "{path}");
        assert_eq!(*path, path.to_lowercase());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounce_to_the_reverse_path_costs_the_address_and_is_passed_on() {
    let (stage, reverse_path) = delivered().await;

    // As some systems write it.
    let reply = stage.tell(&reverse_path.to_uppercase(), &bounce(&[&ann()], "failed", UNKNOWN)).await;
    let report = stage.told("report", 1).await.remove(0);

    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(stage.suppressed(), [(ann(), "hard-bounce", "shop".to_owned())].into());
    for (field, value) in [
        ("evidence", "token"),
        ("action", "suppressed"),
        ("report", "bounce"),
        ("class", "bad-mailbox"),
        ("campaign", "spring"),
        ("tenant", "shop"),
        ("enhanced_status", "5.1.1"),
    ] {
        assert_eq!(report[field], value, "{report}");
    }
    assert_eq!((&report["recipient"], &report["reply_code"]), (&ann().into(), &550.into()));
    assert_eq!(report["message_id"], stage.events("delivered")[0]["message_id"]);
    assert_eq!(report["delivered"], stage.events("delivered")[0]["time"]);
    stage.until("the sender has it", || !stage.sender.transactions().is_empty()).await;
    let passed = stage.sender.transactions().remove(0);
    let text = String::from_utf8(passed.content).unwrap();
    assert!(passed.mail.starts_with("MAIL FROM:<>") && passed.rcpts[0].contains(&format!("<ma@{SENDER}>")));
    assert!(text.contains("Final-Recipient: rfc822; ann@good.test"), "{text}");
    stage.until("nothing is left", || stage.metric("hikyaku_feedback_pending_reports 0")).await;
    assert_eq!(stage.daemon().spool().stat().messages, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounce_that_names_another_address_costs_the_one_that_it_came_back_for() {
    let (stage, reverse_path) = delivered().await;

    stage.tell(&reverse_path, &bounce(&["forwarded@elsewhere.test"], "failed", UNKNOWN)).await;
    let report = stage.told("report", 1).await.remove(0);

    // The address is the journal's.
    assert_eq!(stage.suppressed(), [(ann(), "hard-bounce", "shop".to_owned())].into());
    assert_eq!((&report["recipient"], &report["action"]), (&ann().into(), &"suppressed".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_journal_the_entry_is_made_by_the_hash_alone() {
    let stage = Stage::start(|config| config.journal.enabled = false).await;
    stage.submit(&[&ann()], "Subject: x").await;
    let reverse_path = stage.reverse_path(&ann()).await;

    stage.tell(&reverse_path, &bounce(&["forwarded@elsewhere.test"], "failed", UNKNOWN)).await;
    stage.until("she is suppressed", || !stage.suppressed().is_empty()).await;

    let (target, ..) = stage.suppressed().into_iter().next().unwrap();
    assert!(target.starts_with('#') && target.len() == 17, "{target}");
    assert!(stage.submit(&[&ann()], "Subject: x").await.starts_with("550 5.7.1 "));
    assert!(stage.submit(&[&format!("bob@{GOOD}")], "Subject: x").await.starts_with("250"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_failure_of_the_recipient_changes_nothing() {
    let (stage, reverse_path) = delivered().await;
    let contents = [
        bounce(&[&ann()], "delayed", "450 4.2.1 Try again"),
        bounce(&[&ann()], "failed", "550 5.7.1 Message rejected as spam"),
        bounce(&["a@elsewhere.test", "b@elsewhere.test"], "failed", UNKNOWN),
        feedback("not-spam", &reverse_path),
        "From: ann@good.test\nSubject: Out of office\nAuto-Submitted: auto-replied\n\nI am away.\n".to_owned(),
        "Subject: hello\n\nno report at all\n".to_owned(),
        String::new(),
    ];

    for content in &contents {
        let reply = stage.tell(&reverse_path, content).await;
        assert!(reply.starts_with("250"), "{content:?}: {reply}");
    }
    let reports = stage.told("report", contents.len()).await;

    assert_eq!(stage.suppressed(), [].into());
    assert!(reports.iter().all(|report| report["action"] == "none" && report["evidence"] == "token"), "{reports:?}");
    assert!(stage.submit(&[&ann()], "Subject: x").await.starts_with("250"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complaint_counts_only_with_proof_of_the_message() {
    let (stage, reverse_path) = delivered().await;
    let fbl = format!("fbl@{FEEDBACK}");
    let forged = reverse_path.replacen('a', "b", 1);
    let message_id = "0000000000001.00000000@mta.test";
    let quoting =
        feedback("abuse", "someone@else.test").replace("Subject: x\n", &format!("Message-ID: <{message_id}>\n"));

    stage.tell(&fbl, &feedback("abuse", &forged)).await;
    stage.tell(&fbl, &quoting).await;
    let before = stage.told("report", 2).await;
    assert_eq!(stage.suppressed(), [].into());
    stage.tell(&fbl, &feedback("abuse", &reverse_path)).await;
    let reports = stage.told("report", 3).await;

    assert_eq!((&before[0]["evidence"], &before[1]["evidence"]), (&"none".into(), &"message-id".into()));
    assert_eq!((&reports[2]["evidence"], &reports[2]["action"]), (&"quoted".into(), &"suppressed".into()));
    assert_eq!(stage.suppressed(), [(ann(), "complaint", "shop".to_owned())].into());
    assert_eq!(stage.sender.transactions(), [], "complaints are not passed on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_given_out_is_refused_and_counted() {
    let (stage, reverse_path) = delivered().await;
    let (local, _) = reverse_path.split_once('@').unwrap();
    let content = bounce(&[&ann()], "failed", UNKNOWN);
    let forged = reverse_path.replacen('a', "b", 1);
    let list = stage.daemon().suppression();
    let old = Token {
        message: stage.told("delivered", 1).await[0]["message_id"].as_str().unwrap().parse().unwrap(),
        mailbox: list.hash(&ann().parse().unwrap()).0,
        tenant: list.tenant_tag("shop"),
        day: day_of(Clock::system().wall()) - 31,
    };
    let stale = old.write(Purpose::ReversePath, b"", &|octets| list.seal(octets));

    for (to, reply) in [
        (format!("b+{stale}@{BOUNCES}").as_str(), "550 5.1.1 "),
        (forged.as_str(), "550 5.1.1 "),
        (&format!("b+abc@{BOUNCES}"), "550 5.1.1 "),
        (&format!("someone@{BOUNCES}"), "550 5.1.1 "),
        (&format!("postmaster@{BOUNCES}"), "550 5.1.1 "),
        (&format!("{local}@elsewhere.test"), "550 5.7.1 "),
        (&ann(), "550 5.7.1 "),
    ] {
        let said = stage.tell(to, &content).await;
        assert!(said.starts_with(reply), "{to}: {said}");
    }

    assert_eq!(stage.suppressed(), [].into());
    for line in [
        "hikyaku_submission_rejected_total{cause=\"forged\"} 1",
        "hikyaku_submission_rejected_total{cause=\"stale\"} 1",
        "hikyaku_submission_rejected_total{cause=\"relay\"} 2",
        "hikyaku_feedback_reports_total 0",
    ] {
        assert!(stage.metric(line), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn such_a_listener_offers_what_it_needs_and_takes_no_more_than_it_may() {
    let (stage, reverse_path) = delivered().await;
    let large = format!("Subject: x\n\n{}", format!("{}\n", "x".repeat(76)).repeat(20_000));

    let replies = said(stage.daemon().submission_addresses()[1], "", &reverse_path, &large).await;

    assert!(replies.last().unwrap().starts_with("250"), "{replies:?}");
    let offers = |keyword: &str| replies.iter().any(|line| line[4..].starts_with(keyword));
    assert!(offers("SIZE") && offers("8BITMIME") && offers("PIPELINING"));
    assert!(!offers("DSN") && !offers("AUTH") && !offers("MT-PRIORITY"));
    // It is passed on whole.
    stage.until("the sender has it", || !stage.sender.transactions().is_empty()).await;
    assert!(stage.sender.transactions()[0].content.len() > large.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_for_the_postmaster_goes_where_it_is_to() {
    let stage = Stage::start(|config| config.bounces.postmaster = format!("pm@{SENDER}")).await;

    let replies = said(
        stage.daemon().submission_addresses()[1],
        "someone@isp.test",
        &format!("Postmaster@{BOUNCES}"),
        "Subject: hello\n\nhello\n",
    )
    .await;

    assert!(replies.last().unwrap().starts_with("250"), "{replies:?}");
    stage.until("it arrives", || !stage.sender.transactions().is_empty()).await;
    let got = stage.sender.transactions().remove(0);
    assert!(got.mail.contains("<someone@isp.test>") && got.rcpts[0].contains(&format!("<pm@{SENDER}>")), "{got:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_reads_events_is_passed_on_nothing() {
    let stage = Stage::start(|config| config.bounces.tenants[0].dsn = Dsns::Events).await;
    stage.submit(&[&ann()], "Subject: x").await;
    let reverse_path = stage.reverse_path(&ann()).await;

    stage.tell(&reverse_path, &bounce(&[&ann()], "failed", UNKNOWN)).await;
    let report = stage.told("report", 1).await.remove(0);

    assert_eq!((&report["action"], report.get("passed_on")), (&"suppressed".into(), None));
    assert_eq!(stage.sender.transactions(), []);
}

/// Large enough to be kept in a file, with the header section apart: see `Content`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_returns_a_large_message_is_read_behind_its_header_section() {
    let (stage, reverse_path) = delivered().await;
    let returned = format!("--B\nContent-Type: message/rfc822\n\nSubject: x\n\n{}", "all of it\n".repeat(50_000));
    let content = bounce(&[&ann()], "failed", UNKNOWN).replace("\n--B--\n", &format!("\n{returned}\n--B--\n"));

    stage.tell(&reverse_path, &content).await;
    let report = stage.told("report", 1).await.remove(0);

    assert_eq!((&report["report"], &report["action"]), (&"bounce".into(), &"suppressed".into()));
    assert_eq!(stage.suppressed(), [(ann(), "hard-bounce", "shop".to_owned())].into());
}

/// More than is held in memory at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_reports_that_come_together_are_all_read() {
    let stage = Stage::start(|config| config.bounces.tenants[0].dsn = Dsns::Events).await;
    let people: Vec<String> = (0..12).map(|number| format!("user{number}@{GOOD}")).collect();
    stage.submit(&people.iter().map(String::as_str).collect::<Vec<_>>(), "Subject: x").await;
    let rest = format!("{}\n", "x".repeat(990)).repeat(6_200);
    let (server, mut telling) = (stage.daemon().submission_addresses()[1], JoinSet::new());
    for person in &people {
        let (to, report) = (stage.reverse_path(person).await, bounce(&[person], "failed", UNKNOWN));
        let content = report.replace("\n--B--\n", &format!("\n--B\n\n{rest}\n--B--\n"));
        telling.spawn(async move { said(server, "", &to, &content).await.pop().unwrap() });
    }

    let replies = telling.join_all().await;

    assert!(replies.iter().all(|reply| reply.starts_with("250")), "{replies:?}");
    stage.until("all are suppressed", || stage.suppressed().len() == people.len()).await;
    stage.told("report", people.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_has_a_recipient_as_it_was_given_and_whatever_tenant_left_is_refused() {
    let (stage, reverse_path) = delivered().await;
    let content = bounce(&["ANN@Good.Test"], "failed", UNKNOWN);

    stage.tell(&reverse_path, &content).await;
    let report = stage.told("report", 1).await.remove(0);
    assert_eq!(report["recipient"], ann());
    let counted = "hikyaku_suppression_added_total{reason=\"hard-bounce\",origin=\"daemon\"} 1";
    assert!(stage.metric(counted));

    let mut config = stage.daemon().config().clone();
    config.bounces.tenants[0].name = "post".to_owned();
    config.unsubscribe.url = "https://u.test/".to_owned();
    config.unsubscribe.tenants = vec![config::UnsubscribeTenant {
        name: "shop".to_owned(),
        scope: config::UnsubscribeScope::default(),
        sender: String::new(),
        mailto: String::new(),
    }];
    let stage = stage.restarted_as(config).await;
    let said = stage.tell(&reverse_path, &content).await;

    assert!(said.starts_with("550 5.1.1 "), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_a_crash_has_left_is_read_by_the_next_start() {
    let (mut stage, reverse_path) = delivered().await;
    stage.stop().await;
    // As it lies there between its 250 and its end.
    let settings = Settings { path: stage.folder.path().join("spool"), ..spool::settings() };
    let (clock, disk) = (Clock::system(), Arc::new(Disk::new(&settings.path)));
    let (spool, recovery) = Spool::open(settings, disk, clock, &Registry::new().unwrap()).unwrap();
    recovery.run(&mut |_| {});
    let recipient = Recipient::new(reverse_path.parse().unwrap());
    let envelope = Envelope { kind: Kind::Returned, ..Envelope::new(ReversePath::Null, vec![recipient], clock.wall()) };
    let content = Content::Memory(Bytes::from(bounce(&[&ann()], "failed", UNKNOWN).replace('\n', "\r\n")));
    let id = spool.next_id();
    let message = NewMessage { id, envelope: Arc::new(envelope), content, ended_at: Instant::now() };
    spool.accept(message).await.unwrap();
    spool.close().await;
    drop(spool);

    stage.restart().await;
    stage.until("she is suppressed", || !stage.suppressed().is_empty()).await;

    assert_eq!(stage.suppressed(), [(ann(), "hard-bounce", "shop".to_owned())].into());
    stage.until("it is done", || stage.daemon().spool().pending(id).is_empty()).await;
    stage.stop().await;
    stage.restart().await;
    assert_eq!(stage.suppressed().len(), 1, "it is done once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_unsubscribes_by_mail_and_a_machine_does_not() {
    let (stage, _) = delivered().await;
    let list = stage.daemon().suppression();
    let token = Token {
        message: stage.told("delivered", 1).await[0]["message_id"].as_str().unwrap().parse().unwrap(),
        mailbox: list.hash(&ann().parse().unwrap()).0,
        tenant: list.tenant_tag("shop"),
        day: day_of(Clock::system().wall()),
    };
    let purpose = Purpose::Unsubscribe;
    let to = format!("u+{}@{FEEDBACK}", token.write(purpose, b"", &|octets| list.seal(octets)));

    stage.tell(&to, "From: ann@good.test\nAuto-Submitted: auto-replied\nSubject: Away\n\nI am away.\n").await;
    stage.told("report", 1).await;
    assert_eq!(stage.suppressed(), [].into());
    stage.tell(&to, "From: ann@good.test\nSubject: unsubscribe\n\n").await;
    stage.told("report", 2).await;

    assert_eq!(stage.suppressed(), [(ann(), "unsubscribe", "shop".to_owned())].into());
}
