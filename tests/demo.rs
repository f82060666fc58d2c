//! The demonstration as a test: the real command, 500 messages, every receiver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::process::Command;

#[test]
fn demo_delivers_or_reports_every_message_once_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();

    let output = Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .args(["demo", "--messages", "500", "--connections", "8", "--dir"])
        .arg(place.path())
        .output()
        .unwrap();

    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert!(text.contains("lost 0, duplicated 0, altered 0, left in the queue 0, unanswered 0"), "{text}");
    // Fifty go to the receiver that does not know one user in ten.
    assert!(text.lines().any(|line| line.starts_with("bounced") && line.contains(" 5 ")), "{text}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "the folder is removed");
}

#[test]
fn demo_gives_its_result_as_json_and_tells_no_socket_that_is_gone() {
    let place = tempfile::tempdir().unwrap();
    let demo = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.args(["demo", "--messages", "20", "--connections", "2", "--dir"]).arg(place.path()).args(more);
        command.output().unwrap()
    };

    let json = demo(&["--json"]);
    let plain = demo(&[]);

    let result: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&result["success"], &result["lost"]), (&true.into(), &0.into()), "{result}");
    assert!(result["sites"].as_array().unwrap().len() > 5 && result["seconds"].is_f64(), "{result}");
    let told = String::from_utf8_lossy(&plain.stdout).into_owned();
    assert!(told.contains("demo --keep") && !told.contains("HIKYAKU_SOCKET"), "{told}");
}
