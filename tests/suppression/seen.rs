//! What is seen of the list: by roles, in the audit log, in the journal, and in the metrics.

use std::fs;

use hikyaku::admin::Role::{Admin, Operator, Viewer};
use hikyaku::audit::record::read;
use hikyaku::audit::{Kind, Record, files};
use hikyaku::config::MaskMode;
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::{json as command, ok};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_looks_changes_or_moves_whole_lists_as_far_as_it_goes() {
    let stage = Stage::start().await;
    let file = stage.folder.path().join("list");
    fs::write(&file, "a@x.test\n").unwrap();
    let file = file.to_str().unwrap();
    let out = stage.folder.path().join("out");

    for (role, arguments, needs) in [
        (Viewer, &["add", "a@x.test"][..], "operator"),
        (Viewer, &["remove", "a@x.test"], "operator"),
        (Viewer, &["import", file], "admin"),
        (Operator, &["import", file], "admin"),
        (Operator, &["export", out.to_str().unwrap()], "admin"),
    ] {
        let (code, said) = stage.command(role, &[&["suppress"], arguments].concat()).await;
        assert!(code == 1 && said.contains(&format!("needs the role {needs}")), "{role} {arguments:?}: {said}");
    }
    assert!(
        !out.exists()
            && fs::read_dir(stage.folder.path())
                .unwrap()
                .flatten()
                .all(|entry| { !entry.file_name().to_string_lossy().ends_with(".part") })
    );
    assert_eq!(crate::standing(&stage), 0);
    assert_eq!(ok(&stage, Admin, &["suppress", "import", file]).await, "1 lines: 1 added\n");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_see_addresses_sees_them_masked_as_everywhere() {
    let stage = Stage::with(|config, _| config.privacy.mask = MaskMode::Partial).await;
    let add = ["suppress", "add", "ann.lee@example.com", "--source", "bounce of ann.lee@example.com"];

    let added = ok(&stage, Operator, &add).await;
    let seen = ok(&stage, Viewer, &["suppress", "list"]).await
        + &ok(&stage, Viewer, &["suppress", "show", "ann.lee@example.com"]).await;

    assert!(added.contains("a***@example.com") && !(added + &seen).contains("ann.lee"), "{seen}");
    assert!(ok(&stage, Admin, &["suppress", "list"]).await.contains("ann.lee@example.com"));
    let stage = stage.restart().await;
    let event = &events(&stage)[0];
    assert_eq!(
        (&event["recipient"], &event["source"]),
        (&json!("a***@example.com"), &json!("bounce of a***@example.com"))
    );
    stage.stop().await;
}

/// The journal's events about the list; for what was told before a restart.
fn events(stage: &Stage) -> Vec<Value> {
    let journal = stage.folder.path().join("journal");
    let lines = std::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .args(["journal", "follow", "--from", "start", "--once", "--json", "--event", "suppression", "--path"])
        .arg(journal)
        .output()
        .unwrap();
    let lines = String::from_utf8(lines.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn records(stage: &Stage) -> Vec<Record> {
    let all = files(&stage.audit()).unwrap().into_iter().flat_map(|(_, path)| {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| read(line.as_bytes()).unwrap()).collect::<Vec<_>>()
    });
    all.filter(|record| record.kind == Kind::Done).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_on_record_in_the_journal_and_counted() {
    let stage = Stage::start().await;
    let list = stage.folder.path().join("list");
    fs::write(&list, "a@x.test\nb@x.test\nno mailbox\n").unwrap();
    ok(
        &stage,
        Operator,
        &["suppress", "add", "x.test", "--tenant", "shop", "--class", "news", "--until", "2090-01-01"],
    )
    .await;
    ok(&stage, Operator, &["suppress", "remove", "x.test", "--tenant", "shop", "--class", "news"]).await;
    let import =
        ["suppress", "import", list.to_str().unwrap(), "--tenant", "shop", "--reason", "complaint", "--source", "old"];
    assert_eq!(stage.command(Admin, &import).await.0, 1);
    let exported = ok(&stage, Admin, &["suppress", "export"]).await;
    assert_eq!(exported.lines().count(), 2, "{exported}");
    let metrics = stage.daemon.registry().render();

    let found = records(&stage);
    let told: Vec<_> = found.iter().map(|record| (&*record.action, &*record.who, &*record.outcome)).collect();
    let (operator, admin) = ("token operator", "token admin");
    assert_eq!(
        told,
        [
            ("suppression.add", operator, "ok"),
            ("suppression.remove", operator, "ok"),
            ("suppression.import", admin, "ok"),
            ("suppression.export", admin, "ok"),
        ]
    );
    assert_eq!(found[0].after["changes"][0]["outcome"], "added");
    assert_eq!(
        (&found[1].before[0]["target"], &found[1].before[0]["until"]),
        (&json!("@x.test"), &json!(3_786_912_000_u32))
    );
    assert!(found[2].request.contains("tenant=shop") && found[2].request.contains("reason=complaint"));
    assert_eq!((&found[2].after["added"], &found[2].after["bad"]), (&json!(2), &json!(1)));
    assert_eq!(found[3].after, json!({ "entries": 2 }), "and not the addresses");

    let stage = stage.restart().await;
    let mut events = events(&stage);
    let by = |event: &mut Value| {
        let fields = event.as_object_mut().unwrap();
        ["v", "id", "time"].iter().for_each(|name| drop(fields.remove(*name)));
        fields.remove("who").unwrap().as_str().unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(events.iter_mut().map(by).collect::<Vec<_>>(), ["operator)", "operator)", "admin)"]);
    let entry = |action: &str, source: &Value| {
        json!({"event": "suppression", "action": action, "tenant": "shop", "campaign_class": "news", "domain": "x.test",
            "reason": "operator", "until": "2090-01-01T00:00:00Z", "source": source})
    };
    assert_eq!(events[..2], [entry("add", &events[0]["source"]), entry("remove", &events[0]["source"])]);
    let import = json!({"event": "suppression", "action": "import", "tenant": "shop", "lines": 3, "added": 2, "bad": 1,
        "reason": "complaint", "source": "old"});
    assert_eq!(events[2], import);

    for line in [
        "added_total{reason=\"operator\",origin=\"operator\"} 1",
        "added_total{reason=\"complaint\",origin=\"import\"} 2",
        "added_total{reason=\"hard-bounce\",origin=\"daemon\"} 0",
        "removed_total{origin=\"operator\"} 1",
        "import_lines_total{outcome=\"added\"} 2",
        "import_lines_total{outcome=\"bad\"} 1",
        "errors_total{operation=\"change\"} 0",
    ] {
        assert!(metrics.contains(&format!("hikyaku_suppression_{line}\n")), "{line}: {metrics}");
    }
    // What an earlier run left is counted at the start.
    let begun = std::time::Instant::now();
    while !stage.daemon.registry().render().contains("hikyaku_suppression_entries{reason=\"complaint\"} 2\n") {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{}", stage.daemon.registry().render());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(command(&stage, &["suppress", "stats"]).await["shares"][0]["entries"], 2);
    stage.stop().await;
}
