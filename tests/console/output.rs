//! What becomes of commands whose output nobody reads or that cannot be written.

use std::fs::File;
use std::io::pipe;
use std::process::Stdio;

use crate::running::{Character, Running};

/// Runs the command with these ends; its exit code, and its standard error if it is piped.
async fn run(running: &Running, arguments: &[&str], out: Stdio, err: Stdio) -> (i32, String) {
    let command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .args(arguments)
        .env("HIKYAKU_SOCKET", running.socket())
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .unwrap();
    let output = command.wait_with_output().await.unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn unread() -> Stdio {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_minds_a_reader_that_has_gone_or_panics_at_a_full_disk() {
    let running = Running::start(&[("defers.test", Character::Defers)]).await;
    running.submit(&["a@defers.test"]).await;
    let queued = |answer: &serde_json::Value| answer[0]["state"] == "scheduled";
    let id = running.until_json(&["queue", "list"], queued).await[0]["message_id"].as_str().unwrap().to_owned();
    running.command(&["queue", "suspend", "--domain", "kept.test"]).await;
    let (journal, spool) = (running.folder.path().join("journal"), running.folder.path().join("spool"));
    let (journal, spool) = (journal.to_str().unwrap(), spool.to_str().unwrap());
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");
    let commands: [&[&str]; 25] = [
        &["status"],
        &["status", "--json"],
        &["sites"],
        &["pools"],
        &["queue", "list"],
        &["queue", "list", "--domain", "nothing.test"],
        &["queue", "sites"],
        &["queue", "show", "defers.test"],
        &["queue", "hold", "--domain", "p.test"],
        &["queue", "hold", "--all", "--dry-run"],
        &["queue", "flush", "--domain", "p.test"],
        &["queue", "delete", "--domain", "p.test", "--yes"],
        &["orders"],
        &["orders", "list"],
        &["orders", "show", "1"],
        &["message", "show", &id],
        &["message", "find", "--recipient", "a@defers.test", "--path", journal],
        &["journal", "search", "--path", journal],
        &["journal", "search", "--path", journal, "--json"],
        &["journal", "search", "--path", journal, "--message", "0000000000001"],
        &["spool", "stat"],
        &["spool", "check", "--spool", spool],
        &["check", "--offline", "--config", example],
        &["completions", "bash"],
        &["man"],
    ];

    for command in commands {
        let (code, errors) = run(&running, command, unread(), Stdio::piped()).await;
        assert!(code == 0 && !errors.contains("panicked"), "{command:?}: {code}, {errors}");
        let (code, errors) = run(&running, command, full(), Stdio::piped()).await;
        assert!(code == 1 && errors.contains("cannot write the output: "), "{command:?}: {code}, {errors}");
        let (code, _) = run(&running, command, Stdio::null(), full()).await;
        assert_eq!(code, 0, "{command:?}");
    }
    for wrong in
        [&["orders", "undo", "99"][..], &["queue", "show", "nobody.test"], &["message", "show", "0000000000001"]]
    {
        assert_eq!(run(&running, wrong, unread(), full()).await.0, 1, "{wrong:?}");
    }
    running.stop().await;
}
