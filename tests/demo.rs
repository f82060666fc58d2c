//! The demonstration as a test: the real command, few messages, every receiver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

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

    let result: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&result["success"], &result["lost"]), (&true.into(), &0.into()), "{result}");
    assert!(result["sites"].as_array().unwrap().len() > 5 && result["seconds"].is_f64(), "{result}");
    let told = String::from_utf8_lossy(&plain.stdout).into_owned();
    assert!(told.contains("demo --keep") && !told.contains("HIKYAKU_SOCKET"), "{told}");
}

/// The library that makes time pass faster, if it is here.
fn faketime() -> Option<std::path::PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.map_while(Result::ok).map(|folder| folder.path());
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.exists())
}

#[test]
fn demo_that_stays_up_shows_how_a_receivers_limits_are_found() {
    let place = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    command.args(["demo", "--keep", "--json", "--messages", "20", "--connections", "2", "--dir"]).arg(place.path());
    if let Some(library) = faketime() {
        // Else it takes ten times as long.
        command.env("LD_PRELOAD", library).env("FAKETIME", "+0 x10");
    }
    let mut demo = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut values = serde_json::Deserializer::from_reader(demo.stdout.take().unwrap()).into_iter::<Value>();
    let report = values.next().unwrap().unwrap();
    assert_eq!(report["success"], true, "{report}");

    let (mut seen, mut before) = (Value::Null, None);
    for look in values.by_ref().map(Result::unwrap).take_while(|look| look["limited"]["seconds"].as_f64() < Some(300.0))
    {
        let limited = &look["limited"];
        let (receiver, daemon) = (&limited["receiver"], &limited["daemon"]);
        before = before.or(daemon["rate_per_minute"].as_f64());
        let found =
            daemon["limit_per_minute"].as_f64().unwrap_or_default() / receiver["rate_per_minute"].as_f64().unwrap();
        let is_found = (0.9..=1.1).contains(&found) && daemon["connection_limit"] == receiver["connections"];
        seen = look;
        if is_found {
            break;
        }
    }
    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    // The rest is read, lest it meet a closed pipe.
    values.for_each(drop);
    let status = demo.wait().unwrap();
    // libfaketime leaves them behind.
    for kind in ["faketime_shm_", "sem.faketime_sem_"] {
        let _ = std::fs::remove_file(format!("/dev/shm/{kind}{}", demo.id()));
    }

    let limited = &seen["limited"];
    let found = limited["daemon"]["limit_per_minute"].as_f64().unwrap_or_default();
    assert!((216.0..=264.0).contains(&found), "{seen}");
    assert_eq!(limited["daemon"]["connection_limit"], 5, "{seen}");
    assert!(before.unwrap() < 150.0, "it begins slowly: {before:?}");
    assert!(limited["refusals"].as_u64() >= Some(2), "{seen}");
    assert!(limited["daemon"]["last_change"].as_str().unwrap().contains("421 4.7"), "{seen}");
    assert_eq!((&limited["duplicated"], &limited["altered"]), (&0.into(), &0.into()), "{seen}");
    assert!(status.success(), "{status}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "the folder is removed");
}
