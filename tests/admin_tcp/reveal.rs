//! Masked addresses are shown to admins, who say why; the audit log has who and why, and not what was shown.

use std::fs;
use std::path::Path;

use hikyaku::admin::Role;
use hikyaku::config::MaskMode;
use hikyaku::mask::Mask;
use hikyaku::trusted::key;

use crate::stage::Stage;

const ADDRESS: &str = "ada.canary@example.com";

async fn stage() -> (Stage, String) {
    let mut token = String::new();
    let stage = Stage::with(|config, folder| {
        let path = folder.join("mask.key");
        let secret = key::generate(&path).unwrap();
        token = Mask::hash(&secret).masked(ADDRESS).into_owned();
        (config.privacy.mask, config.privacy.key_file) = (MaskMode::Hash, path);
    });
    let stage = stage.await;
    (stage, token)
}

/// All that the audit log says.
fn audit(folder: &Path) -> String {
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    files.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_sees_masked_addresses_and_the_record_tells_why_and_not_what() {
    let (stage, token) = stage().await;
    let other =
        Mask::hash(&key::generate(&stage.folder.path().join("other.key")).unwrap()).masked(ADDRESS).into_owned();

    let asked = ["reveal", &token, "--reason", "a complaint of Ada"];
    let (code, shown) = stage.command(Role::Admin, &asked).await;
    let (low, refused) = stage.command(Role::Operator, &asked).await;
    let (foreign, told) = stage.command(Role::Admin, &["reveal", &other, "--reason", "x"]).await;
    let (unseen, why) = stage.command(Role::Admin, &["reveal", &token, "--reason", "a\u{1b}b"]).await;
    let (silent, missing) = stage.command(Role::Admin, &["reveal", &token]).await;

    assert_eq!((code, shown.trim()), (0, ADDRESS));
    assert!(low == 1 && refused.contains("needs the role admin") && !refused.contains("ada."), "{low}: {refused}");
    assert!(foreign == 2 && told.contains("not made with this key"), "{foreign}: {told}");
    assert!(unseen == 1 && why.contains("not seen"), "{unseen}: {why}");
    assert!(silent == 2 && missing.contains("--reason"), "{silent}: {missing}");
    let record = audit(&stage.audit());
    assert!(
        record.contains("a complaint of Ada") && record.contains("\"reveal\"") && record.contains(&token),
        "{record}"
    );
    assert!(!record.contains("ada.canary"), "{record}");
    for outcome in ["ok: 1 revealed, 0 made with another key", "ok: 0 revealed, 1 made with another key"] {
        assert!(record.contains(outcome), "{outcome}: {record}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_makes_no_tokens_reveals_none() {
    let stage = Stage::start().await;

    let (code, told) = stage.command(Role::Admin, &["reveal", "~abc@example.com", "--reason", "x"]).await;

    assert!(code == 1 && told.contains("privacy.mask"), "{code}: {told}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_masked_for_roles_that_may_not_reveal() {
    let (stage, token) = stage().await;
    let hold = ["queue", "hold", "--recipient", ADDRESS, "--reason", "asked by ada.canary@example.com"];

    let (code, said) = stage.command(Role::Operator, &hold).await;
    let (_, by_viewer) = stage.command(Role::Viewer, &["orders", "--json"]).await;
    let (_, by_admin) = stage.command(Role::Admin, &["orders", "--json"]).await;

    assert!(code == 0 && !said.contains("ada.canary"), "{code}: {said}");
    assert!(by_viewer.matches(&token).count() >= 2 && !by_viewer.contains("ada.canary"), "{by_viewer}");
    assert!(by_admin.contains(ADDRESS) && !by_admin.contains(&token), "{by_admin}");
    stage.stop().await;
}
