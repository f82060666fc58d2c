//! Which messages get a link, and that our signature covers it.

use std::fs;

use hikyaku::config::UnsubscribeScope;

use crate::skip;
use crate::stage::{HOST, Stage, field, link};
use crate::verifiers::Verifiers;

const POST: &str = "List-Unsubscribe=One-Click";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_one_recipient_gets_both_fields_in_short_lines() {
    let stage = Stage::with(|config| config.unsubscribe.tenants[0].mailto = "in.shop.test".to_owned()).await;

    let arrival = stage.arrival(&["ann@sink.test"], "X-Hikyaku-Class: News\r\nFrom: a@shop.test").await;

    let value = field(&arrival.content, "List-Unsubscribe").unwrap();
    let (link, mailto) = value.split_once(", ").unwrap();
    let token = link.strip_prefix(&format!("<https://{HOST}/u/")).unwrap().strip_suffix("-news>").unwrap();
    assert_eq!(token.len(), 50);
    let local = mailto.strip_prefix("<mailto:").unwrap().strip_suffix("@in.shop.test?subject=unsubscribe>").unwrap();
    assert!(local.starts_with("u+") && local.len() <= 64, "{local}");
    assert_eq!(field(&arrival.content, "List-Unsubscribe-Post").unwrap(), POST);
    assert!(!value.contains("ann"), "no address is in it: {value}");
    let text = String::from_utf8(arrival.content).unwrap();
    let lines = text.lines().skip_while(|line| !line.starts_with("List-Unsubscribe:"));
    let long: Vec<_> = lines.take(3).filter(|line| line.len() > 160).collect();
    assert_eq!(long, Vec::<&str>::new());
    stage.assert_metric("messages_total{link=\"added\"} 1");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_must_have_no_link_of_ours_have_none() {
    let stage = Stage::start().await;
    let own = "List-Unsubscribe: <mailto:own@shop.test>";

    let several = stage.arrival(&["ann@sink.test", "bob@sink.test"], "From: a@shop.test").await;
    let urgent = stage.arrival(&["ann@sink.test"], "X-Hikyaku-Lane: urgent\r\nFrom: a@shop.test").await;
    let other = stage.arrival(&["ann@sink.test"], "X-Hikyaku-Tenant: other\r\nFrom: a@shop.test").await;
    let with_own = stage.arrival(&["ann@sink.test"], &format!("From: a@shop.test\r\n{own}")).await;
    let post_only =
        stage.arrival(&["ann@sink.test"], &format!("From: a@shop.test\r\nList-Unsubscribe-Post: {POST}")).await;

    for message in [several, urgent, other] {
        assert_eq!(field(&message.content, "List-Unsubscribe"), None);
        assert_eq!(field(&message.content, "List-Unsubscribe-Post"), None);
    }
    assert_eq!(field(&with_own.content, "List-Unsubscribe").unwrap(), "<mailto:own@shop.test>");
    assert_eq!(field(&with_own.content, "List-Unsubscribe-Post"), None);
    assert_eq!(field(&post_only.content, "List-Unsubscribe"), None);
    for (link, count) in [("added", 0), ("own", 2), ("several-recipients", 1)] {
        stage.assert_metric(&format!("messages_total{{link=\"{link}\"}} {count}"));
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_tenant_is_the_scope_no_class_is_named() {
    let stage = Stage::with(|config| config.unsubscribe.tenants[0].scope = UnsubscribeScope::Tenant).await;

    let path = stage.path_for("ann@sink.test", "news").await;

    assert_eq!(path.len(), "/u/".len() + 50, "{path}");
    assert_eq!(stage.click(&path).await.status, 200);
    assert!(stage.suppressed("ann@sink.test", "offers").is_some() && stage.suppressed("ann@sink.test", "").is_some());
    stage.stop().await;
}

/// Signed, and what becomes of it when a field is changed, added or taken away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_signature_covers_both_fields() {
    let folder = tempfile::tempdir().unwrap();
    let verifiers = match Verifiers::prepare(folder.path()) {
        Ok(verifiers) => verifiers,
        Err(reason) => return skip::skip("our_signature_covers_both_fields", &reason),
    };
    let stage = Stage::start().await;
    let arrival = stage.arrival(&["ann@sink.test"], "X-Hikyaku-Class: news\r\nFrom: a@shop.test\r\nSubject: x").await;
    let record = stage.daemon.config().ring().unwrap().keys()[0].record();
    stage.stop().await;
    let text = String::from_utf8(arrival.content).unwrap();
    let url = link(text.as_bytes());
    let post = format!("List-Unsubscribe-Post: {POST}\r\n");
    let contents = [
        ("good", text.clone()),
        ("link", text.replace(&url, &format!("https://evil.test/{}", &url[14..]))),
        ("post", text.replace(&post, &post.replace("One-Click", "Two-Click"))),
        ("gone", text.replace(&post, "")),
        ("twice", format!("{post}{text}")),
        ("second", format!("List-Unsubscribe: <https://evil.test/>\r\n{text}")),
    ];
    let messages = folder.path().join("messages");
    fs::create_dir(&messages).unwrap();
    for (name, content) in &contents {
        assert!(*name == "good" || *content != text, "{name}");
        fs::write(messages.join(name), content).unwrap();
    }
    let keys = folder.path().join("keys");
    fs::write(&keys, format!("s._domainkey.shop.test {record}\n")).unwrap();

    for (who, verdicts) in
        [("dkimpy", verifiers.dkimpy(&keys, &messages)), ("OpenDKIM", verifiers.opendkim(&keys, &messages))]
    {
        for (name, _) in &contents {
            assert_eq!(verdicts[*name], [*name == "good"], "{who}: {name}");
        }
    }
}
