//! What a person sees: the page in a browser that runs no script and keeps no cookie.

use std::process::Command;

use hikyaku::state::suppression::Reason;
use serde_json::{Value, json};

use crate::skip;
use crate::stage::{HOST, Stage};

/// Names that Chromium has.
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

fn chromium() -> Option<&'static str> {
    let answers =
        |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    PROGRAMS.into_iter().find(answers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_without_scripts_and_cookies_presses_the_button_and_is_told() {
    let case = "a_person_without_scripts_and_cookies_presses_the_button_and_is_told";
    let Some(program) = chromium() else { return skip::skip(case, "there is no Chromium (apt-get install chromium)") };
    let stage = Stage::start().await;
    let path = stage.path_for("ann@sink.test", "news").await;
    let profile = stage.folder.path().join("profile");
    let url = format!("https://{HOST}{path}");
    let output = tokio::process::Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/unsubscribe/browser.py"))
        .arg(program)
        .arg(&profile)
        .args([HOST, &stage.address().to_string(), &url])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();

    assert_eq!(
        found["asked"]["tree"],
        json!([["RootWebArea", "Unsubscribe?"], ["main", ""], ["heading", "Unsubscribe?"], ["button", "Unsubscribe"]]),
        "{found}"
    );
    assert_eq!(
        found["done"]["tree"],
        json!([["RootWebArea", "You are unsubscribed"], ["main", ""], ["heading", "You are unsubscribed"]]),
        "{found}"
    );
    assert!(found["done"]["html"].as_str().unwrap().contains("The &lt;Shop&gt;"), "{found}");
    // The style is let in by its hash, and follows the system.
    assert_eq!([&found["asked"]["background"], &found["dark"]], ["rgb(255, 255, 255)", "rgb(22, 24, 28)"], "{found}");
    assert_eq!((&found["fits"], &found["cookies"], &found["log"]), (&json!(true), &json!([]), &json!([])), "{found}");
    let asked: Vec<[&str; 3]> = found["requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|request| [0, 1, 2].map(|part| request[part].as_str().unwrap()))
        .collect();
    assert_eq!(asked, [["GET", url.as_str(), ""], ["POST", url.as_str(), ""]], "nothing else is asked for");
    assert_eq!(stage.suppressed("ann@sink.test", "news"), Some(Reason::Unsubscribe));
    assert_eq!(stage.journal(1).await[0]["how"], "page");
    stage.stop().await;
}
