//! `hikyaku bounce parse` as scripts see it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::corpus;

const BOUNCE: &str = "From: MAILER-DAEMON@relay.test\nTo: sender@s.test\nSubject: failure notice\n\n\
    <ann@a.test>:\nRemote host said: 550 5.1.1 no such user\n\n--- Below this line is a copy of the message.\n\n\
    Message-ID: <1@s.test>\nX-Hikyaku-Tenant: shop\nX-Hikyaku-Campaign: spring\nTo: ann@a.test\n";

fn parse(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    command.args(["bounce", "parse"]).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that reads no standard input closes it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn files(objects: &[Value], folder: &Path) -> Vec<String> {
    let of = |object: &Value| object["file"].as_str().unwrap().to_owned();
    objects.iter().map(of).map(|file| file.replace(&format!("{}/", folder.display()), "")).collect()
}

#[test]
fn one_object_a_message_has_all_keys_and_no_other() {
    let objects = objects(&parse(&["--json", "-"], BOUNCE));

    let wanted = serde_json::json!({
        "file": "-",
        "kind": "bounce",
        "recipients": [{
            "address": "ann@a.test",
            "original": null,
            "status": "5.1.1",
            "reply_code": 550,
            "class": "bad-mailbox",
            "permanent": true,
            "action": "failed",
            "remote_mta": null,
            "diagnostic": "Remote host said: 550 5.1.1 no such user",
            "rule": "no-mailbox",
        }],
        "feedback_type": null,
        "message_id": "1@s.test",
        "tenant": "shop",
        "campaign": "spring",
    });
    assert_eq!(objects, [wanted]);
}

#[test]
fn messages_of_an_mbox_are_told_apart_and_a_single_message_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let mbox =
        format!("From MAILER-DAEMON Thu Nov 26 12:00:00 2026\n{BOUNCE}\nFrom x Thu Nov 26 12:00:01 2026\n{BOUNCE}");
    for name in ["both", "one.eml"] {
        std::fs::write(folder.path().join(name), &mbox).unwrap();
    }

    let objects = objects(&parse(&["--json", folder.path().to_str().unwrap()], ""));

    assert_eq!(files(&objects, folder.path()), ["both#1", "both#2", "one.eml"]);
    assert!(objects.iter().all(|object| object["recipients"][0]["address"] == "ann@a.test"), "{objects:?}");
}

#[test]
fn a_maildir_is_read_where_messages_are() {
    let folder = tempfile::tempdir().unwrap();
    for (place, name) in [("cur", "1:2,S"), ("new", "2"), ("tmp", "3"), (".", ".hidden")] {
        std::fs::create_dir_all(folder.path().join(place)).unwrap();
        std::fs::write(folder.path().join(place).join(name), BOUNCE).unwrap();
    }

    let objects = objects(&parse(&["--json", folder.path().to_str().unwrap()], ""));

    assert_eq!(files(&objects, folder.path()), ["cur/1:2,S", "new/2"]);
}

#[test]
fn people_get_a_line_for_each_recipient_and_nothing_raw() {
    let mail = BOUNCE.replace("<ann@a.test>:", "<a\u{1b}[2Jnn@a.test>:");

    let output = parse(&["-"], &mail);

    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.starts_with("bounce       bad-mailbox          yes  5.1.1    550  "), "{told}");
    assert!(!told.contains('\u{1b}') && told.lines().count() == 1, "{told:?}");
}

#[test]
fn a_path_that_is_not_there_ends_with_2() {
    for paths in [["/nowhere/at/all", "-"], ["-", "/nowhere/at/all"]] {
        let output = parse(&paths, BOUNCE);

        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/at/all"));
        // Wherever it stands, nothing is read.
        assert!(output.stdout.is_empty(), "{paths:?}");
    }
}

#[test]
fn a_link_that_leads_nowhere_is_told_and_the_others_are_read() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path().join("a-link")).unwrap();
    std::fs::write(folder.path().join("b.eml"), BOUNCE).unwrap();

    let output = parse(&[folder.path().to_str().unwrap()], "");

    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a-link"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("b.eml"));
}

#[test]
fn what_is_not_known_is_null() {
    let mail = "From: MAILER-DAEMON@relay.test\nSubject: failure notice\n\n<ann@a.test>\n";

    let objects = objects(&parse(&["--json", "-"], mail));

    let about = &objects[0]["recipients"][0];
    assert_eq!(about["address"], "ann@a.test");
    for key in ["original", "status", "reply_code", "remote_mta", "diagnostic"] {
        assert_eq!(about[key], Value::Null, "{key}: {about}");
    }
}

#[test]
fn every_message_of_the_corpora_has_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let mails = corpus::sisimai();
    for (name, mail) in &mails {
        std::fs::write(folder.path().join(name), mail).unwrap();
    }

    let objects = objects(&parse(&["--json", folder.path().to_str().unwrap()], ""));

    assert_eq!(files(&objects, folder.path()), mails.keys().cloned().collect::<Vec<_>>());
}
