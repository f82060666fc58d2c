//! Single entries: adding, showing, listing and removing them.

use hikyaku::admin::Role::{Admin, Operator, Viewer};

use crate::stage::Stage;
use crate::{json, meets, ok};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_holds_mail_back_from_when_it_is_added_until_it_is_removed() {
    let stage = Stage::start().await;
    assert_eq!(ok(&stage, Viewer, &["suppress", "list"]).await, "nobody is suppressed\n");

    let said = ok(&stage, Operator, &["suppress", "add", "Ann@example.com", "example.org"]).await;
    assert!(said.contains("Ann@example.com [all tenants]: gets no mail from now on (operator)"), "{said}");
    assert!(said.contains("@example.org [all tenants]: gets no mail"), "{said}");
    assert_eq!(meets(&stage, ("shop", ""), "ann@EXAMPLE.com").as_deref(), Some("operator"));
    assert_eq!(meets(&stage, ("", ""), "anybody@example.org").as_deref(), Some("operator"));

    let listed = json(&stage, &["suppress", "list"]).await;
    let targets: Vec<_> = listed.as_array().unwrap().iter().map(|entry| entry["target"].as_str().unwrap()).collect();
    assert_eq!(targets, ["@example.org", "Ann@example.com"], "the newest first");
    assert!(listed[0]["source"].as_str().unwrap().ends_with("(token operator)"), "{listed}");
    assert!(listed[0]["until"].is_null() && listed[0]["added"].as_u64() > Some(1_700_000_000), "{listed}");
    let cut = ok(&stage, Viewer, &["suppress", "list", "--limit", "1"]).await;
    assert!(cut.contains("@example.org") && !cut.contains("Ann@") && cut.contains("cut at --limit 1"), "{cut}");

    let said = ok(&stage, Operator, &["suppress", "remove", "ann@example.com"]).await;
    assert!(said.contains("gets mail again; what stood was for operator"), "{said}");
    assert_eq!(meets(&stage, ("shop", ""), "ann@example.com"), None);
    let (code, said) = stage.command(Operator, &["suppress", "remove", "ann@example.com", "example.org"]).await;
    assert!(code == 1 && said.contains("nothing stands") && said.contains("gets mail again"), "{said}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown_is_what_a_message_meets() {
    let stage = Stage::start().await;
    let add = async |arguments: &[&str]| ok(&stage, Operator, &[&["suppress", "add"], arguments].concat()).await;
    add(&["bob@example.com", "--tenant", "shop", "--class", "news", "--reason", "unsubscribe", "--source", "<c@x>"])
        .await;
    add(&["@example.com", "--tenant", "post", "--reason", "hard-bounce", "--for", "30d"]).await;

    let show = async |arguments: &[&str]| {
        let (code, said) = stage.command(Viewer, &[&["suppress", "show"], arguments].concat()).await;
        (code, said)
    };
    let (code, said) = show(&["bob@example.com"]).await;
    assert!(code == 0 && said.contains("unsubscribe") && said.contains("<c@x>"), "{said}");
    assert!(said.contains("tenant post") && said.contains("30d 0h") && said.contains("other mail goes to"), "{said}");
    for (whose, stands) in [
        (("shop", "news"), Some("unsubscribe")),
        (("shop", "offers"), None),
        (("shop", ""), None),
        (("post", "any"), Some("hard-bounce")),
        (("club", ""), None),
    ] {
        let mut arguments = vec!["bob@example.com", "--tenant", whose.0];
        if !whose.1.is_empty() {
            arguments.extend(["--class", whose.1]);
        }
        let (code, said) = show(&arguments).await;

        assert_eq!(code, i32::from(stands.is_none()), "{whose:?}: {said}");
        assert_eq!(meets(&stage, whose, "bob@example.com").as_deref(), stands, "{whose:?}");
        let told = stands.map_or_else(|| "goes to bob".to_owned(), |reason| format!("bob@example.com: {reason}"));
        assert!(said.contains(&told), "{whose:?}: {said}");
    }
    let (code, said) = show(&["eve@example.net"]).await;
    assert_eq!((code, &*said), (1, "nothing stands against eve@example.net\n"));
    // The hash that stands for a mailbox outside is the mailbox.
    let hash = stage.daemon.suppression().hash(&"bob@example.com".parse().unwrap());
    let (code, said) = show(&[&format!("#{hash}"), "--tenant", "shop", "--class", "news"]).await;
    assert!(code == 0 && said.contains("unsubscribe"), "{said}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_weighs_more_stays_and_all_scopes_go_at_once() {
    let stage = Stage::start().await;
    let add =
        async |arguments: &[&str]| ok(&stage, Operator, &[&["suppress", "add", "a@x.test"], arguments].concat()).await;

    assert!(add(&["--reason", "complaint"]).await.contains("gets no mail from now on (complaint)"));
    assert!(add(&["--reason", "hard-bounce"]).await.contains("weighs no less (complaint)"));
    assert!(add(&["--reason", "unsubscribe"]).await.contains("takes the place of what stood before (unsubscribe)"));
    assert!(add(&["--for", "1h", "--reason", "unsubscribe"]).await.contains("for as long and a reason"));
    add(&["--tenant", "shop"]).await;
    add(&["--tenant", "shop", "--class", "news"]).await;
    let (code, said) = stage.command(Operator, &["suppress", "remove", "a@x.test", "--tenant", "post"]).await;
    assert!(code == 1 && said.contains("[tenant post]: nothing stands"), "{said}");

    let removed = json(&stage, &["suppress", "remove", "A@x.test", "--all-scopes"]).await;

    let changes = removed["changes"].as_array().unwrap();
    let told: Vec<_> = changes.iter().map(|change| [&change["tenant"], &change["class"], &change["outcome"]]).collect();
    assert_eq!(told, [["", "", "removed"], ["shop", "", "removed"], ["shop", "news", "removed"]]);
    assert_eq!(changes[0]["entry"]["reason"], "unsubscribe");
    assert_eq!(json(&stage, &["suppress", "stats"]).await["entries"], 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_narrowed_by_domain_tenant_and_reason() {
    let stage = Stage::start().await;
    for arguments in [
        &["a@x.test", "b@y.test", "@x.test"][..],
        &["c@X.test", "--tenant", "shop", "--class", "news", "--reason", "complaint"],
        &["d@y.test", "--tenant", "shop", "--reason", "complaint"],
    ] {
        ok(&stage, Operator, &[&["suppress", "add"], arguments].concat()).await;
    }
    let listed = async |arguments: &[&str]| {
        let listed = json(&stage, &[&["suppress", "list"], arguments].concat()).await;
        let targets = listed.as_array().unwrap().iter().map(|entry| entry["target"].as_str().unwrap().to_owned());
        targets.collect::<Vec<_>>()
    };

    assert_eq!(listed(&["--domain", "@X.TEST"]).await, ["c@x.test", "@x.test", "a@x.test"]);
    assert_eq!(listed(&["--tenant", "shop"]).await, ["d@y.test", "c@x.test"]);
    assert_eq!(listed(&["--reason", "complaint", "--domain", "x.test"]).await, ["c@x.test"]);
    assert_eq!(ok(&stage, Viewer, &["suppress", "list", "--tenant", "none"]).await, "no entry matches\n");
    let (code, said) = stage.command(Viewer, &["suppress", "list", "--domain", "a@x.test"]).await;
    assert!(code == 1 && said.contains("is not a domain"), "{said}");

    let stats = ok(&stage, Viewer, &["suppress", "stats"]).await;
    let row = |reason: &str| {
        let row = stats.lines().find(|line| line.starts_with(reason)).unwrap_or_else(|| panic!("{stats}"));
        row.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!([row("operator"), row("complaint")], ["2 0 0 1 0 0", "0 1 1 0 0 0"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_what_stands_and_what_was_removed() {
    let stage = Stage::start().await;
    ok(&stage, Operator, &["suppress", "add", "a@x.test", "b@x.test", "--for", "90d", "--source", "ticket 7"]).await;
    ok(&stage, Operator, &["suppress", "add", "c@x.test", "--tenant", "shop", "--class", "news"]).await;
    ok(&stage, Operator, &["suppress", "remove", "b@x.test"]).await;
    let before = json(&stage, &["suppress", "list"]).await;

    let stage = stage.restart().await;

    assert_eq!(json(&stage, &["suppress", "list"]).await, before);
    assert_eq!(meets(&stage, ("shop", "news"), "c@x.test").as_deref(), Some("operator"));
    // Scopes are known again, too.
    let shown = json(&stage, &["suppress", "show", "c@x.test"]).await;
    assert_eq!((&shown["entries"][0]["class"], &shown["met"]), (&"news".into(), &serde_json::Value::Null));
    assert!(json(&stage, &["suppress", "stats"]).await["changed"].as_u64() > Some(1_700_000_000));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_told_and_changes_nothing() {
    let stage = Stage::start().await;

    for (code, arguments, part) in [
        (1, &["add", "a@x.test", "b@"][..], "\"b@\" is neither a mailbox nor a domain"),
        (2, &["add", "a@x.test", "--class", "news"], "--tenant"),
        (2, &["add", "a@x.test", "--until", "2026-01-01"], "this time is over"),
        (2, &["add", "a@x.test", "--until", "2100-01-01", "--for", "1h"], "cannot be used with"),
        (2, &["add", "a@x.test", "--reason", "because"], "hard-bounce, mailbox-full"),
        (2, &["add", "a@x.test", "--tenant", ""], "--tenant"),
        (1, &["add", "*@x.test"], "the domain alone"),
        (1, &["add", "Email"], "no dot in it"),
        (2, &["add", "a@x.test", "--tenant", " shop"], "--tenant: 1 to 64 of a-z"),
        (1, &["add", "a@x.test", "--source", "x\u{202e}y"], "source: at most"),
        (2, &["add"], "TARGET"),
        (2, &["remove", "a@x.test", "--all-scopes", "--tenant", "shop"], "cannot be used with"),
        (1, &["show", "a b"], "neither a mailbox nor a domain"),
        (2, &["import", "/nowhere/at/all"], "cannot read /nowhere/at/all"),
        (2, &["export", "/nowhere/at/all"], "cannot write /nowhere/at/all"),
    ] {
        let (ended, said) = stage.command(Admin, &[&["suppress"], arguments].concat()).await;
        assert!(ended == code && said.contains(part), "{arguments:?}: {ended}: {said}");
    }
    for (path, body, part) in [
        ("add", "{\"entries\":[]}", "no entries"),
        ("add", "{\"entries\":[{\"target\":\"a@x.test\",\"until\":7}]}", "this time is over"),
        ("add", "{\"entries\":[{\"target\":\"a@x.test\",\"class\":\"news\"}]}", "a class is one of a tenant"),
        ("add", "{\"entries\":[{\"target\":\"a@x.test\",\"whom\":\"b\"}]}", "unknown field"),
        ("remove", "{\"targets\":[\"a@x.test\"],\"tenant\":\"shop\",\"all_scopes\":true}", "contradict"),
        ("export", "{\"reason\":\"because\"}", "is no reason"),
        ("import?until=7", "", "this time is over"),
        ("import?whom=b", "", "unknown field"),
    ] {
        let answer = stage.ask(Some(stage.secret(Admin)), "POST", &format!("/v1/suppression/{path}"), body).await;
        assert!((400..500).contains(&answer.status) && answer.body.to_string().contains(part), "{path}: {answer:?}");
    }
    assert_eq!(crate::standing(&stage), 0);

    let nowhere = tokio::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .args(["suppress", "show", "a@x.test", "--socket", "/nowhere/at/all"])
        .output();
    let nowhere = nowhere.await.unwrap();
    assert_eq!(nowhere.status.code(), Some(3), "{nowhere:?}");
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("is it running?"), "{nowhere:?}");
    stage.stop().await;
}
