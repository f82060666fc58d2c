//! The command as scripts see it: exit codes, what goes to which stream, and what a file or a missing daemon leads to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

fn hikyaku(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hikyaku")).args(arguments).env_remove("HIKYAKU_SOCKET").output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write(folder: &Path, text: &str) -> String {
    let path = folder.join("config.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn example_configuration_passes_the_check() {
    let output = hikyaku(&["check", "--config", concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml")]);

    assert_eq!(code(&output), 0, "{}", errors(&output));
}

#[test]
fn wrong_configuration_ends_with_2_and_names_file_key_and_range() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), "[delivery]\nport = 0\n");

    for command in ["check", "run"] {
        let output = hikyaku(&[command, "--config", &config]);

        let said = errors(&output);
        assert_eq!(code(&output), 2, "{command}: {said}");
        assert!(said.contains("config.toml: delivery.port") && said.contains("1 to 65535"), "{command}: {said}");
        assert!(output.stdout.is_empty());
    }
}

/// A configuration in a folder that has everything in it.
fn place(folder: &Path) -> String {
    let place = folder.display();
    write(
        folder,
        &format!(
            "[spool]\npath = \"{place}/spool\"\nreserve = \"1MiB\"\nsegment_size = \"1MiB\"\n[journal]\npath = \"{place}/journal\"\n\
             [admin]\nsocket = \"{place}/admin.sock\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[metrics]\naddress = \"127.0.0.1:0\"\n"
        ),
    )
}

fn segments(folder: &Path) -> usize {
    let Ok(files) = std::fs::read_dir(folder.join("spool/segments")) else { return 0 };
    files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "seg")).count()
}

#[test]
fn starts_that_fail_leave_no_segment_behind() {
    type Spoil = fn(&Path) -> Option<UnixListener>;
    let orders: Spoil = |folder| {
        std::fs::create_dir_all(folder.join("spool/state")).unwrap();
        for directory in ["spool", "spool/state"] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(folder.join(directory), mode).unwrap();
        }
        std::fs::write(folder.join("spool/state/orders"), "x").unwrap();
        None
    };
    let socket: Spoil = |folder| Some(UnixListener::bind(folder.join("admin.sock")).unwrap());
    let journal: Spoil = |folder| {
        std::fs::write(folder.join("journal"), "x").unwrap();
        None
    };
    for (spoil, word) in [(orders, "orders"), (socket, "admin.sock"), (journal, "journal")] {
        let folder = tempfile::tempdir().unwrap();
        let config = place(folder.path());
        let _spoilt = spoil(folder.path());

        for _ in 0..3 {
            let output = hikyaku(&["run", "--config", &config]);
            assert_eq!(code(&output), 2, "{}", errors(&output));
            assert!(errors(&output).contains(word), "{}", errors(&output));
        }

        assert_eq!(segments(folder.path()), 0, "{word}");
    }
}

#[test]
fn orders_and_pins_that_cannot_be_read_are_told_once_with_their_file_and_found_by_the_checks() {
    for (name, what) in [("orders", "the operators' orders"), ("pins", "the pins of limits")] {
        told_once_and_found(name, what);
    }
}

fn told_once_and_found(name: &str, what: &str) {
    type Spoil = fn(&Path);
    let spoils: [Spoil; 3] = [
        |file| std::fs::write(file, "x").unwrap(),
        |file| std::fs::create_dir(file).unwrap(),
        |file| std::os::unix::fs::symlink("/nonexistent/orders", file).unwrap(),
    ];
    for spoil in spoils {
        let folder = tempfile::tempdir().unwrap();
        let config = place(folder.path());
        let spool = folder.path().join("spool");
        for directory in ["", "segments", "spill", "quarantine", "state"] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::create_dir_all(spool.join(directory)).unwrap();
            std::fs::set_permissions(spool.join(directory), mode).unwrap();
        }
        let file = spool.join("state").join(name);
        spoil(&file);

        let run = hikyaku(&["run", "--config", &config]);
        let check = hikyaku(&["check", "--offline", "--config", &config]);
        let spool = hikyaku(&["spool", "check", "--spool", spool.to_str().unwrap()]);

        let found = String::from_utf8_lossy(&spool.stdout).into_owned();
        assert_eq!((code(&run), code(&check), code(&spool)), (2, 2, 1), "{}{found}", errors(&check));
        for said in [errors(&run), errors(&check), found.clone()] {
            let what = format!("{}: {what}", file.display());
            assert!(said.matches(&what).count() == 1 && said.contains("move it away"), "{said}");
            assert!(said.matches("os error").count() <= 1, "{said}");
        }
        assert!(!found.contains("sound"), "{found}");
    }
}

#[test]
fn wrong_words_of_an_order_are_wrong_usage_and_name_their_option() {
    let long = "x".repeat(120_000);
    let commands: [(&[&str], &str); 6] = [
        (&["queue", "hold", "--all", "--reason", "a\nb"], "--reason: "),
        (&["queue", "hold", "--all", "--reason", &long], "--reason: "),
        (&["message", "delete", "0000000000001", "--reason", &long], "--reason: "),
        (&["queue", "delete", "--yes", "--domain", "*."], "--domain: "),
        (&["queue", "delete", "--yes", "--domain", "*test"], "--domain: "),
        (&["bench", "--messages", "1", "--dir", "/nonexistent/folder"], "/nonexistent/folder"),
    ];
    for (command, word) in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_hikyaku"))
            .args(command)
            .env("HIKYAKU_SOCKET", "/nonexistent/none.sock")
            .output()
            .unwrap();

        assert_eq!(code(&output), 2, "{command:.60?}: {}", errors(&output));
        assert!(errors(&output).contains(word), "{}", errors(&output));
    }
}

#[test]
fn unknown_command_ends_with_2() {
    assert_eq!(code(&hikyaku(&["deliver"])), 2);
    assert_eq!(code(&hikyaku(&[])), 2);
}

#[test]
fn wrong_values_end_with_2_whether_the_daemon_can_be_reached_or_not() {
    for command in [&["message", "show", "abc"][..], &["queue", "list", "--limit", "0"]] {
        let output = hikyaku(&[command, &["--socket", "/nonexistent/none.sock"]].concat());

        assert_eq!(code(&output), 2, "{command:?}: {}", errors(&output));
    }
}

#[test]
fn absent_daemon_ends_with_3_and_says_where_it_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let socket = socket.to_str().unwrap();

    for command in [&["status"][..], &["queue", "list"], &["queue", "sites"], &["spool", "stat"]] {
        let output = hikyaku(&[command, &["--socket", socket]].concat());

        assert_eq!(code(&output), 3, "{command:?}");
        assert!(errors(&output).contains(socket), "{command:?}: {}", errors(&output));
        assert_eq!(errors(&output).matches("No such file").count(), 1, "{}", errors(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn without_a_daemon_the_spool_on_disk_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, spool) = (folder.path().join("none.sock"), folder.path().join("spool"));
    std::fs::create_dir_all(spool.join("segments")).unwrap();

    let output = hikyaku(&["spool", "stat", "--socket", socket.to_str().unwrap(), "--spool", spool.to_str().unwrap()]);

    assert_eq!(code(&output), 0);
    assert!(errors(&output).contains("without its lock"), "{}", errors(&output));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("unfinished messages"), "{shown}");
    let free = shown.lines().find(|line| line.starts_with("free on the disk")).unwrap();
    assert!(!free.ends_with(" 0 B"), "{free}");
}

#[test]
fn daemon_tells_systemd_that_it_is_ready_reloads_at_sighup_and_drains_at_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let config = write(
        folder.path(),
        &format!(
            "[spool]\npath = \"{place}/spool\"\nreserve = \"1MiB\"\n[journal]\npath = \"{place}/journal\"\n[admin]\nsocket = \"{place}/admin.sock\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\n[metrics]\naddress = \"127.0.0.1:0\"\n"
        ),
    );
    let notified = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    notified.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let heard = || {
        let mut buffer = [0; 256];
        // A signal may interrupt the wait.
        let length = loop {
            match notified.recv(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };

    let mut daemon = Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .args(["run", "--config", &config])
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = Pid::from_child(&daemon);
    let first = |said: String| said.lines().next().map(str::to_owned).unwrap();
    assert_eq!(first(heard()), "READY=1");
    let status = || hikyaku(&["status", "--socket", folder.path().join("admin.sock").to_str().unwrap()]);
    assert_eq!(code(&status()), 0);
    kill_process(process, Signal::HUP).unwrap();
    let reloading = heard();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    let micros = reloading.lines().nth(1).unwrap().trim_start_matches("MONOTONIC_USEC=");
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
    assert!((now - micros.parse::<i64>().unwrap() / 1_000_000).abs() < 60, "{reloading}");
    assert_eq!(heard(), "READY=1\nSTATUS=Accepting messages; configuration reloaded");
    assert_eq!(code(&status()), 0, "{}", errors(&status()));
    kill_process(process, Signal::TERM).unwrap();

    assert_eq!(first(heard()), "STOPPING=1");
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(!folder.path().join("admin.sock").exists(), "the socket is removed");
    assert_eq!(code(&status()), 3);
}

#[test]
fn every_shell_gets_its_completions_and_every_command_its_manual_page() {
    let folder = tempfile::tempdir().unwrap();

    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = hikyaku(&["completions", shell]);
        let script = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(code(&output) == 0 && script.contains("status") && script.contains("in-doubt"), "{shell}: {script}");
    }
    assert_eq!(code(&hikyaku(&["completions", "cmd"])), 2);
    assert_eq!(code(&hikyaku(&["man", "--dir", folder.path().to_str().unwrap()])), 0);
    let pages = std::fs::read_dir(folder.path()).unwrap().count();
    assert!(pages > 10, "{pages}");
    let page = hikyaku(&["man", "queue", "list"]);
    assert!(code(&page) == 0 && String::from_utf8_lossy(&page.stdout).contains("hikyaku\\-queue\\-list"));
    assert_eq!(code(&hikyaku(&["man", "queue", "nothing"])), 2);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let script =
        format!("{} completions zsh | head -n 1 >/dev/null; echo ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_hikyaku"));

    let output = Command::new("bash").args(["-c", &script]).output().unwrap();

    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0", "{}", errors(&output));
    assert!(output.stderr.is_empty(), "{}", errors(&output));
}

#[test]
fn a_reply_is_classified_without_daemon_and_dns() {
    let text = "550 5.1.1 <anna@example.com>: Recipient address rejected: User unknown";

    let plain = hikyaku(&["reply", "classify", text, "--step", "rcpt"]);
    let json = hikyaku(&["reply", "classify", "550 : User unknown", "--domain", "ezweb.ne.jp", "--json"]);

    let said = String::from_utf8_lossy(&plain.stdout).into_owned();
    assert_eq!(code(&plain), 0, "{}", errors(&plain));
    assert!(
        said.starts_with("class      bad-mailbox\npermanent  yes\nfault      recipient\nadvice     suppress\n"),
        "{said}"
    );
    let said: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&said["class"], &said["permanent"]), (&"recipient-rejected".into(), &false.into()), "{said}");
    assert_eq!((&said["provider"], &said["rule"], &said["code"]), (&"au".into(), &"au-filter".into(), &550.into()));
}

#[test]
fn replies_from_standard_input_give_a_line_each() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .args(["reply", "classify", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let long = [b"450 4.7.1 greylisted ".as_slice(), &vec![b'x'; 200_000], b"\n"].concat();
    std::io::Write::write_all(&mut input, &long).unwrap();
    std::io::Write::write_all(&mut input, b"421 4.7.0 Too many connections\n250 ok\n\n451 \xff\x00 try later").unwrap();
    drop(input);

    let output = child.wait_with_output().unwrap();

    let lines: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let classes: Vec<&serde_json::Value> = lines.iter().map(|line| &line["class"]).collect();
    assert_eq!(
        classes,
        [
            "greylisted".into(),
            "too-many-connections".into(),
            serde_json::Value::Null,
            "unknown".into(),
            "unknown".into()
        ]
        .iter()
        .collect::<Vec<_>>()
    );
    assert_eq!(lines[1]["wants_rest"], true);
}

#[test]
fn what_cannot_be_classified_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("replies.toml");
    std::fs::write(&rules, "[[rule]]\nid = \"mine\"\ncodes = [550]\nclass = \"spam\"\n").unwrap();
    let config = write(folder.path(), &format!("[replies]\nrules = \"{}\"\n", rules.display()));

    for (arguments, said) in [
        (vec!["550 no", "--step", "later"], "allowed: dns, connect"),
        (vec!["550 no", "--provider", "nobody"], "allowed: google, microsoft365"),
        (vec!["550 no", "--domain", "a b"], "is no domain"),
        (vec![" "], "TEXT is empty"),
        (vec!["550 no", "--config", &config], "replies.toml: mine: class: \"spam\": allowed: bad-mailbox"),
    ] {
        let output = hikyaku(&[vec!["reply", "classify"], arguments].concat());

        assert_eq!(code(&output), 2, "{said}");
        assert!(errors(&output).contains(said) && output.stdout.is_empty(), "{}", errors(&output));
    }
    assert!(errors(&hikyaku(&["check", "--offline", "--config", &config])).contains("mine: class"));
}

#[test]
fn wrong_usage_is_told_before_anything_is_asked_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = folder.path().join("admin.sock");
    let missing = folder.path().join("missing.toml");

    for wrong in [
        &["--site", "x.test"][..],
        &["--sender", "x.test"],
        &["--domain", "x.*.test"],
        &["--domain", "x.test", "--config", missing.to_str().unwrap()],
    ] {
        let output = hikyaku(&[&["message", "find", "--socket", nobody.to_str().unwrap()], wrong].concat());

        assert_eq!(code(&output), 2, "{wrong:?}: {}", errors(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_key_of_the_spool_is_made_once_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.key");
    let make = || {
        std::process::Command::new(env!("CARGO_BIN_EXE_hikyaku"))
            .args(["spool", "key", "generate"])
            .arg(&path)
            .output()
            .unwrap()
    };

    let (made, again) = (make(), make());

    let text = String::from_utf8(made.stdout).unwrap();
    assert_eq!(made.status.code(), Some(0));
    assert!(text.starts_with("key ") && text.contains(" in /"), "{text}");
    assert_eq!(again.status.code(), Some(2));
    assert!(hikyaku::trusted::key::read(&path).is_ok());
}
