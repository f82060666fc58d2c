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
