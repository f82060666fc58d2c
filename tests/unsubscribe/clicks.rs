//! What those get who click, and what is written down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hikyaku::bounce::token::{Purpose, Token, day_of};
use hikyaku::clock::Clock;
use hikyaku::message::MessageId;
use hikyaku::smtp::address::Address;
use hikyaku::state::suppression::{Entry, Reason, Scope, Target};
use tokio::task::JoinSet;

use crate::stage::{Answer, FORM, ONE_CLICK, PATIENCE, Stage, field};

const OF_PAGE: &str = "confirm=page";

fn assert_page(answer: &Answer, status: u16, words: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.body.contains(words), "{answer:?}");
    let head = answer.head.to_lowercase();
    assert!(!head.contains("set-cookie") && !head.contains("location:"), "{head}");
    assert!(head.contains("default-src 'none'") && head.contains("referrer-policy: no-referrer"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_click_takes_the_recipient_off_that_class_once_and_for_all() {
    let stage = Stage::start().await;
    let path = stage.path_for("Ann@sink.test", "news").await;

    let looked = stage.get(&path).await;
    assert_page(&looked, 200, "of the kind <strong>news</strong> from <strong>The &lt;Shop&gt;</strong>");
    assert_eq!(stage.suppressed("ann@sink.test", "news"), None, "GET changes nothing");
    let (first, second) = (stage.click(&path).await, stage.click(&path).await);

    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.body, "unsubscribed\n");
    assert_eq!(stage.suppressed("ann@sink.test", "news"), Some(Reason::Unsubscribe));
    for (tenant, address, class) in [
        ("shop", "ann@sink.test", "offers"),
        ("shop", "ann@sink.test", ""),
        ("shop", "bob@sink.test", "news"),
        ("other", "ann@sink.test", "news"),
    ] {
        assert_eq!(stage.suppressed_of(tenant, address, class), None, "{tenant} {address} {class}");
    }
    let lines = stage.journal(1).await;
    assert_eq!(lines.len(), 1, "the second one has changed nothing: {lines:?}");
    let hash = stage.daemon.suppression().hash(&"ann@sink.test".parse::<Address>().unwrap());
    for (key, value) in [
        ("tenant", "shop"),
        ("campaign_class", "news"),
        ("recipient_hash", &hash.to_string()),
        ("how", "one-click"),
        ("client", "127.0.0.1"),
    ] {
        assert_eq!(lines[0][key], value, "{}", lines[0]);
    }
    let scope = Scope::of("shop", "news").unwrap();
    let now = Clock::system().wall();
    let entry = stage.daemon.suppression().entry(&Target::Hash(hash), &scope, now).unwrap().unwrap();
    assert_eq!((&*entry.source, entry.until), (lines[0]["message_id"].as_str().unwrap(), None));
    let told = &stage.journal_of("suppression", 1).await[0];
    assert_eq!((&told["action"], &told["recipient_hash"]), (&"add".into(), &hash.to_string().into()));
    // What the link does not say the journal does.
    let is_named = |entry: Entry| entry.target == Target::Address("Ann@sink.test".parse().unwrap());
    let begun = Instant::now();
    while !stage.daemon.suppression().entry(&Target::Hash(hash), &scope, now).unwrap().is_some_and(is_named) {
        assert!(begun.elapsed() < PATIENCE, "it stays by hash");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.assert_metric("requests_total{outcome=\"one-click\"} 2");
    stage.assert_metric("requests_total{outcome=\"asked\"} 1");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_clicked_gets_no_more_of_that_class_and_still_the_rest() {
    let stage = Stage::start().await;
    let path = stage.path_for("ann@sink.test", "news").await;
    assert_eq!(stage.click(&path).await.status, 200);
    let submission = stage.daemon.submission_addresses()[0];
    let header = |class: &str| format!("X-Hikyaku-Class: {class}\r\nFrom: a@shop.test\r\nSubject: {class}");

    // Its class is known too late for RCPT.
    crate::daemon::submit(submission, "b@shop.test", &["ann@sink.test"], &header("news")).await;
    let suppressed = stage.journal_of("suppressed", 1).await;
    crate::daemon::submit(submission, "b@shop.test", &["ann@sink.test"], &header("offers")).await;
    let arrived = |stage: &Stage| {
        let all = stage.sink.transactions();
        let hers = all.iter().filter(|arrived| arrived.rcpts.iter().any(|rcpt| rcpt.contains("ann@sink.test")));
        hers.map(|arrived| field(&arrived.content, "Subject").unwrap()).collect::<Vec<_>>()
    };
    let begun = Instant::now();
    while arrived(&stage).len() < 2 && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    assert_eq!((&suppressed[0]["recipient"], &suppressed[0]["tenant"]), (&"ann@sink.test".into(), &"shop".into()));
    assert_eq!(arrived(&stage), ["x", "offers"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_page_acts_when_its_button_is_pressed() {
    let stage = Stage::start().await;
    let path = stage.path_for("ann@sink.test", "").await;

    let done = stage.ask("POST", &path, FORM, OF_PAGE).await;

    assert_page(&done, 200, "You are unsubscribed");
    assert!(!done.body.contains("<form"), "{done:?}");
    assert_eq!(stage.suppressed("ann@sink.test", ""), Some(Reason::Unsubscribe));
    assert_eq!(stage.suppressed("ann@sink.test", "news"), Some(Reason::Unsubscribe), "all of the tenant's");
    let lines = stage.journal(1).await;
    assert_eq!((&lines[0]["how"], lines[0].get("campaign_class")), (&"page".into(), None));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multipart_and_links_in_another_case_are_understood() {
    let stage = Stage::start().await;
    let (path, other) = (stage.path_for("ann@sink.test", "a-b.c_d").await, stage.path_for("bob@sink.test", "").await);
    let body = "--x\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x--\r\n";

    let shouted = stage.ask("POST", &path.to_uppercase(), "multipart/form-data; boundary=x", body).await;
    let chunked = stage.ask("POST", &other, "", ONE_CLICK).await;

    assert_eq!((shouted.status, chunked.status), (200, 200), "{shouted:?}");
    assert!(stage.suppressed("ann@sink.test", "a-b.c_d").is_some() && stage.suppressed("bob@sink.test", "").is_some());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_link_of_ours_gets_one_and_the_same_page() {
    let stage = Stage::start().await;
    let path = stage.path_for("ann@sink.test", "news").await;
    let (token, class) = path.split_once('-').unwrap();
    let swapped = if token.ends_with('a') { "b" } else { "a" };
    let forged = format!("{}{swapped}-{class}", &token[..token.len() - 1]);
    let unknown = stage.get("/").await;
    assert_page(&unknown, 404, "This link is not known");

    for path in [
        forged.as_str(),
        token,
        &format!("{token}-offers"),
        &format!("{token}-"),
        &format!("{token}-{}", "x".repeat(1_000)),
        &path[..path.len() - 6],
        "/u/",
        "/u/-news",
        "/u",
        "/u/../etc/passwd",
        "/favicon.ico",
        &format!("{path}%20"),
        &format!("/u{path}"),
    ] {
        for answer in [stage.get(path).await, stage.click(path).await, stage.ask("POST", path, FORM, OF_PAGE).await] {
            assert_eq!((answer.status, &answer.body), (404, &unknown.body), "{path}");
        }
    }
    assert_eq!(stage.suppressed("ann@sink.test", "news"), None);
    assert_eq!(stage.get(&path).await.status, 200, "the link itself");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_asks_for_it_acts() {
    let stage = Stage::start().await;
    let path = stage.path_for("ann@sink.test", "news").await;

    for (method, kind, body, status) in [
        ("HEAD", "", "", 200),
        ("OPTIONS", "", "", 204),
        ("GET", FORM, ONE_CLICK, 200),
        ("POST", FORM, "", 400),
        ("POST", FORM, "List-Unsubscribe=Yes", 400),
        ("POST", "multipart/form-data; boundary=y", ONE_CLICK, 400),
        ("PUT", FORM, ONE_CLICK, 405),
        ("DELETE", "", "", 405),
        ("TRACE", "", "", 405),
    ] {
        let answer = stage.ask(method, &path, kind, body).await;

        assert_eq!(answer.status, status, "{method} {body}: {answer:?}");
        assert_eq!(
            answer.head.to_lowercase().contains("allow: get, head, post, options"),
            [204, 405].contains(&status)
        );
        assert!(method != "HEAD" || answer.body.is_empty() && answer.head.to_lowercase().contains("content-length: "));
    }
    assert_eq!(stage.suppressed("ann@sink.test", "news"), None);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_links_and_those_who_clicked() {
    let stage = Stage::start().await;
    let (clicked, later) =
        (stage.path_for("ann@sink.test", "news").await, stage.path_for("bob@sink.test", "news").await);
    assert_eq!(stage.click(&clicked).await.status, 200);

    let stage = stage.restarted().await;

    assert_eq!(stage.suppressed("ann@sink.test", "news"), Some(Reason::Unsubscribe));
    assert_eq!((stage.click(&clicked).await.status, stage.click(&later).await.status), (200, 200));
    assert_eq!(stage.suppressed("bob@sink.test", "news"), Some(Reason::Unsubscribe));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_click_at_once_are_all_taken_off() {
    let stage = Stage::start().await;
    let mut paths = Vec::new();
    for number in 0..40 {
        paths.push(stage.path_for(&format!("u{number}@sink.test"), "news").await);
    }

    let stage = Arc::new(stage);
    let mut clicks = JoinSet::new();
    for path in paths {
        let stage = Arc::clone(&stage);
        clicks.spawn(async move { stage.click(&path).await.status });
    }

    assert_eq!(clicks.join_all().await, vec![200; 40]);
    assert!((0..40).all(|number| stage.suppressed(&format!("u{number}@sink.test"), "news").is_some()));
    assert_eq!(stage.journal(40).await.len(), 40);
    Arc::into_inner(stage).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_too_old_says_so() {
    let stage = Stage::start().await;
    let list = stage.daemon.suppression();
    let today = day_of(Clock::system().wall());
    let path = |age: u16, purpose| {
        let mailbox = list.hash(&"ann@sink.test".parse::<Address>().unwrap()).0;
        let token = Token { message: MessageId(7), mailbox, tenant: list.tenant_tag("shop"), day: today - age };
        format!("/u/{}", token.write(purpose, b"", &|octets| list.seal(octets)))
    };
    let (young, old) = (path(179, Purpose::Unsubscribe), path(182, Purpose::Unsubscribe));

    assert_page(&stage.get(&old).await, 410, "This link is too old");
    assert_page(&stage.click(&old).await, 410, "Nothing was changed");
    assert_eq!(stage.get(&path(0, Purpose::ReversePath)).await.status, 404, "a reverse-path is no link");
    assert_eq!(stage.suppressed("ann@sink.test", ""), None);
    assert_eq!(stage.click(&young).await.status, 200);
    stage.assert_metric("requests_total{outcome=\"expired\"} 2");
    stage.stop().await;
}
