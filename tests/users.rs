//! The users file as operators see it: `hikyaku user`, `hikyaku check`, and a running daemon that reads it again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use hikyaku::config::Config;
use hikyaku::daemon::Daemon;

/// A folder with a configuration that names a users file.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(place.path("config.toml"), place.config()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> String {
        let place = self.folder.path().display();
        format!(
            "[users]\nfile = \"{place}/users.toml\"\n[spool]\npath = \"{place}/spool\"\nreserve = \"1MiB\"\n\
             segment_size = \"1MiB\"\n[journal]\npath = \"{place}/journal\"\n[admin]\nsocket = \"{place}/admin.sock\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\n[metrics]\naddress = \"127.0.0.1:0\"\n"
        )
    }

    /// Runs `hikyaku user` with `input` on standard input.
    fn user(&self, arguments: &[&str], input: &str) -> Output {
        let config = self.path("config.toml");
        self.run(&[&["user"], arguments, &["--config", config.to_str().unwrap()]].concat(), input)
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Who reads nothing closes it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn add(&self, name: &str) {
        let added =
            self.user(&["add", name, "--tenant", "shop", "--sender", "*@a.test", "--password-stdin"], "a good one\n");
        assert_eq!(code(&added), 0, "{}", errors(&added));
    }

    fn users(&self) -> String {
        std::fs::read_to_string(self.path("users.toml")).unwrap()
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_user_is_added_listed_disabled_and_removed() {
    let place = Place::new();
    place.add("ann");
    let made = place.user(&["add", "bob", "--tenant", "t", "--network", "192.0.2.0/24", "--scram", "--generate"], "");

    let mode = std::fs::metadata(place.path("users.toml")).unwrap().permissions().mode() & 0o7777;
    assert_eq!((code(&made), mode), (0, 0o640), "{}", errors(&made));
    assert_eq!(out(&made).trim().len(), 24, "the password alone is on standard output");
    assert!(errors(&made).contains("may send from no address yet"), "{}", errors(&made));
    assert!(!place.users().contains("a good one") && !place.users().contains(out(&made).trim()));
    assert_eq!(code(&place.user(&["disable", "ann"], "")), 0);
    let listed = out(&place.user(&["list", "--json"], ""));
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((listed[0]["name"].as_str(), listed[0]["disabled"].as_bool()), (Some("ann"), Some(true)));
    assert_eq!(listed[1]["ways"], serde_json::json!(["password", "scram"]));
    let table = out(&place.user(&["list"], ""));
    assert!(table.contains("disabled") && table.contains("*@a.test") && !table.contains("argon2"), "{table}");
    assert_eq!(code(&place.user(&["enable", "ann"], "")), 0);
    assert!(!place.users().contains("disabled"));
    assert_eq!(code(&place.user(&["remove", "bob"], "")), 0);
    assert!(!place.users().contains("bob"));
}

#[test]
fn another_password_changes_the_hash_and_takes_keys_away_unless_asked_for() {
    let place = Place::new();
    place.user(&["add", "ann", "--tenant", "t", "--scram", "--password-stdin"], "a good one\n");
    let before = place.users();

    let changed = place.user(&["passwd", "ann", "--password-stdin"], "another one\n");

    assert_eq!(code(&changed), 0, "{}", errors(&changed));
    assert!(before.contains("SCRAM-SHA-256$100000:") && !place.users().contains("SCRAM"));
    let hash = |text: &str| text.lines().find(|line| line.starts_with("password")).unwrap().to_owned();
    assert_ne!(hash(&before), hash(&place.users()));
}

#[test]
fn what_cannot_be_done_has_its_exit_code_and_changes_nothing() {
    let place = Place::new();
    place.add("ann");
    let before = place.users();
    let add = ["add", "bob", "--tenant", "t", "--password-stdin"];
    for (arguments, input, exit, words) in [
        (vec!["remove", "bob"], "", 1, "there is no user \"bob\""),
        (vec!["passwd", "bob", "--password-stdin"], "a good one\n", 1, "there is no user \"bob\""),
        (vec!["add", "ann", "--tenant", "t", "--password-stdin"], "a good one\n", 1, "\"ann\" already"),
        (add.to_vec(), "short\n", 2, "too short"),
        ([&add[..], &["--sender", "a.test"]].concat(), "a good one\n", 2, "user \"bob\": senders[0]"),
        ([&add[..], &["--network", "x"]].concat(), "a good one\n", 2, "user \"bob\": networks[0]"),
        (vec!["add", "b b", "--tenant", "t", "--password-stdin"], "a good one\n", 2, "name: allowed"),
        (vec!["add", "bob", "--tenant", "t", "--no-password"], "", 2, "--certificate"),
        (vec!["add", "bob", "--tenant", "t", "--generate", "--password-stdin"], "", 2, "cannot be used with"),
    ] {
        let refused = place.user(&arguments, input);

        assert_eq!(code(&refused), exit, "{arguments:?}: {}", errors(&refused));
        assert!(errors(&refused).contains(words), "{arguments:?}: {}", errors(&refused));
        assert_eq!(place.users(), before, "{arguments:?}");
    }
    let nowhere = place.run(&["user", "list", "--config", "/nonexistent.toml"], "");
    assert_eq!(code(&nowhere), 2, "{}", errors(&nowhere));
}

#[test]
fn a_users_file_that_others_can_read_or_that_has_a_mistake_is_told_by_check_and_refused_by_run() {
    let place = Place::new();
    place.add("ann");
    let config = place.path("config.toml");
    let check = |command: &str| {
        let mut arguments = vec![command, "--config", config.to_str().unwrap()];
        arguments.extend((command == "check").then_some("--offline"));
        place.run(&arguments, "")
    };
    assert_eq!(code(&check("check")), 0, "{}", errors(&check("check")));

    std::fs::set_permissions(place.path("users.toml"), PermissionsExt::from_mode(0o644)).unwrap();
    let open = [check("check"), check("run")];
    std::fs::set_permissions(place.path("users.toml"), PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::write(place.path("users.toml"), "[[user]]\nname = \"ann\"\ntenant = \"T\"\n").unwrap();
    let wrong = [check("check"), check("run")];

    for output in &open {
        assert!(code(output) != 0 && errors(output).contains("users.toml has mode 0644"), "{}", errors(output));
    }
    for output in &wrong {
        assert!(code(output) != 0 && errors(output).contains("user \"ann\": tenant: allowed"), "{}", errors(output));
    }
    assert!(!place.path("spool/segments").exists(), "a start that fails makes nothing");
}

/// Waits for a state of the running daemon.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn value(daemon: &Daemon, name: &str) -> String {
    let text = daemon.registry().render();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_default().to_owned();
    line.rsplit(' ').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_running_daemon_reads_a_file_that_has_changed_and_keeps_the_one_before_a_bad_one() {
    let place = Place::new();
    place.add("ann");
    let config = |text: String| Config::parse(&text, Path::new("x")).unwrap();
    let mut daemon = Daemon::start(config(place.config())).await.unwrap();
    assert_eq!(value(&daemon, "hikyaku_users"), "1");

    place.add("bob");
    until("the second user", || value(&daemon, "hikyaku_users") == "2").await;
    std::fs::write(place.path("users.toml"), "[[user]]\n").unwrap();
    until("the mistake", || value(&daemon, "hikyaku_users_file_valid") == "0").await;
    assert_eq!(value(&daemon, "hikyaku_users"), "2");
    let socket = place.path("admin.sock");
    let status = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_hikyaku")).arg("status").arg("--socket").arg(socket).output().unwrap()
    });
    let status = status.await.unwrap();
    assert!(code(&status) == 1 && out(&status).contains("the users file cannot be used"), "{}", out(&status));

    // A reload that names another file that is bad is refused; one that names none does without users.
    let other = place.config().replace("users.toml", "none.toml");
    assert!(daemon.reload(config(other)).await.is_err());
    assert_eq!(value(&daemon, "hikyaku_users"), "2");
    let none = place.config().replace(&place.path("users.toml").display().to_string(), "");
    daemon.reload(config(none)).await.unwrap();
    assert_eq!((value(&daemon, "hikyaku_users"), value(&daemon, "hikyaku_users_file_valid")), ("0".into(), "1".into()));
    daemon.stop(Duration::from_secs(5)).await;
}
