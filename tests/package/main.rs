//! The Debian package: built from the program of this test run, looked at, installed, used, removed and purged.
//!
//! Installs into the system it runs on, and leaves it as it was. As root only, with dpkg, and where there is no hikyaku yet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "../service/daemon.rs"]
#[allow(dead_code)]
mod daemon;
#[path = "../common/skip.rs"]
mod skip;
mod system;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use daemon::{has, is_root, submit};
use skip::skip;
use system::{BINARY, CONFIG, LOG, RUN, SPOOL, System, run};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Why the test cannot run here.
fn obstacle() -> Option<String> {
    if !is_root() {
        return Some("not root".to_owned());
    }
    for program in ["dpkg", "dpkg-deb", "setpriv", "strip"] {
        if !has(program) {
            return Some(format!("{program} is missing"));
        }
    }
    if !has("cargo-deb") && !repository().join("target/tools/bin/cargo-deb").exists() {
        return Some("cargo-deb is missing; tests/run installs it".to_owned());
    }
    let there: Vec<_> = [BINARY, CONFIG, SPOOL].into_iter().filter(|path| Path::new(path).exists()).collect();
    if !there.is_empty() || system::user().is_some() {
        return Some(format!("hikyaku is or was installed here: user or {there:?}"));
    }
    None
}

/// Mode, owner and path of everything in the package.
fn contents(package: &Path) -> Vec<(String, String, String)> {
    let text = run(Command::new("dpkg-deb").arg("--contents").arg(package)).unwrap();
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[0].to_owned(), words[1].to_owned(), words[5].trim_start_matches('.').to_owned())
    };
    text.lines().map(entry).collect()
}

fn look_at(package: &Path) {
    let field =
        |name: &str| run(Command::new("dpkg-deb").arg("--field").arg(package).arg(name)).unwrap().trim().to_owned();
    assert_eq!(field("Package"), "hikyaku");
    assert_eq!(field("Version"), concat!(env!("CARGO_PKG_VERSION"), "-1"));
    assert!(field("Depends").contains("libc6"), "{}", field("Depends"));
    let contents = contents(package);
    for (mode, owner, path) in &contents {
        assert_eq!(owner, "0/0", "{path}");
        let is_folder = path.ends_with('/');
        let expected = if is_folder || path == BINARY { "rwxr-xr-x" } else { "rw-r--r--" };
        assert_eq!(&mode[1..], expected, "{path}");
    }
    let has = |wanted: &str| contents.iter().any(|(_, _, path)| path == wanted);
    for path in [
        BINARY,
        CONFIG,
        "/usr/lib/systemd/system/hikyaku.service",
        "/usr/lib/systemd/system/hikyaku.socket",
        "/usr/lib/sysusers.d/hikyaku.conf",
        "/usr/lib/tmpfiles.d/hikyaku.conf",
        "/usr/share/doc/hikyaku/config.example.toml",
        "/usr/share/doc/hikyaku/install.md",
        "/usr/share/doc/hikyaku/alerts.yml",
        "/usr/share/doc/hikyaku/grafana.json",
        "/usr/share/doc/hikyaku/copyright",
        "/usr/share/doc/hikyaku/changelog.gz",
    ] {
        assert!(has(path), "{path} is not in {contents:?}");
    }
    // Made by the program where it can make them.
    let knows = |command: &str| {
        Command::new(env!("CARGO_BIN_EXE_hikyaku")).args([command, "--help"]).output().unwrap().status.success()
    };
    for (command, path) in [
        ("man", "/usr/share/man/man1/hikyaku.1.gz"),
        ("completions", "/usr/share/bash-completion/completions/hikyaku"),
        ("completions", "/usr/share/zsh/vendor-completions/_hikyaku"),
        ("completions", "/usr/share/fish/vendor_completions.d/hikyaku.fish"),
    ] {
        assert_eq!(has(path), knows(command), "{path}");
    }
}

/// What the installation has made.
fn look_at_the_installed(owner: u32) {
    for (path, mode) in [(SPOOL, 0o700), (LOG, 0o750), (RUN, 0o700)] {
        let metadata = fs::metadata(path).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (owner, mode), "{path}");
    }
    let version = run(Command::new(BINARY).arg("--version")).unwrap();
    assert_eq!(version.trim(), concat!("hikyaku ", env!("CARGO_PKG_VERSION")));
    let said = run(Command::new(BINARY).arg("check")).unwrap();
    // There may be a warning about this machine's limits.
    assert!(said.starts_with(&format!("{CONFIG}: ")), "{said}");
}

#[test]
fn the_package_installs_a_daemon_that_works_and_takes_no_mail_away_when_it_is_purged() {
    let case = "the_package_installs_a_daemon_that_works_and_takes_no_mail_away_when_it_is_purged";
    let Some(_alone) = system::alone() else { return skip(case, "another run of this test does not end") };
    if let Some(reason) = obstacle() {
        return skip(case, &reason);
    }
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("hikyaku.deb");
    let build = repository().join("packaging/build");
    run(Command::new(build).args(["--binary", env!("CARGO_BIN_EXE_hikyaku")]).arg(&package)).unwrap();
    look_at(&package);
    let system = System::new();

    system.install(&package);
    let user = system::user().unwrap();
    look_at_the_installed(user);
    // As its operator would: other ports, since these may be taken on a machine that runs tests.
    let packaged = fs::read_to_string(CONFIG).unwrap();
    assert!(packaged.contains("address = \"127.0.0.1:2525\""));
    let changed = packaged.replace("127.0.0.1:2525", "127.0.0.1:0")
        + "\n[metrics]\naddress = \"127.0.0.1:0\"\n[spool]\nreserve = \"1MiB\"\n[dns]\nresolvers = [\"127.0.0.1:1\"]\n";
    fs::write(CONFIG, &changed).unwrap();
    let daemon = system::Running::start(folder.path());
    submit(daemon.listener());
    let status = run(Command::new(BINARY).args(["status", "--json"])).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["queue"]["queued"], 1, "{status}");
    daemon.stop();

    system.install(&package);
    assert_eq!(fs::read_to_string(CONFIG).unwrap(), changed, "what the operator wrote stays");
    system.dpkg(&["--remove", "hikyaku"]);
    assert!(!Path::new(BINARY).exists() && Path::new(CONFIG).exists() && system::user().is_some());
    let said = system.dpkg(&["--purge", "hikyaku"]);
    assert!(said.contains("may hold mail and is left as it is"), "{said}");
    for path in ["/etc/hikyaku", LOG, RUN] {
        assert!(!Path::new(path).exists(), "{path}");
    }
    assert_eq!(fs::metadata(SPOOL).unwrap().uid(), user);
    let stat = run(Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .args(["spool", "stat", "--json", "--spool", SPOOL])
        .args(["--socket", "/nonexistent/none.sock"]));
    assert!(stat.as_ref().is_ok_and(|stat| stat.contains("\"messages\": 1")), "the mail is there: {stat:?}");

    system.install(&package);
    assert_eq!(system::user(), Some(user), "it has its mail back");
    fs::remove_dir_all(SPOOL).unwrap();
    system.dpkg(&["--purge", "hikyaku"]);
    assert!(!Path::new(SPOOL).exists() && !Path::new("/etc/hikyaku").exists());
    assert_eq!(system::user(), None, "nothing belongs to it any more");
}
