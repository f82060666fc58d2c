//! The unit files: what systemd-analyze says of them, and whether the daemon keeps within what they allow.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::{Place, has, submit};
use crate::skip::skip;

/// The highest exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE: &str = "15";

/// Calls that the unit refuses and the daemon can do without: the journal is then compressed at the usual priority. To allow
/// it would cost more of the exposure than it is worth.
const MAY_FAIL: [&str; 1] = ["setpriority"];

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

/// Standard output and error of a command, and whether it succeeded.
fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn exposure_of_the_service_is_low() {
    if !has("systemd-analyze") {
        return skip("exposure_of_the_service_is_low", "systemd-analyze is missing");
    }
    let threshold = format!("--threshold={EXPOSURE}");
    let security =
        |path: &Path| run(Command::new("systemd-analyze").args(["security", "--offline=yes", &threshold]).arg(path));

    let (is_low, said) = security(&unit("hikyaku.service"));

    assert!(is_low, "{said}");
    let folder = tempfile::tempdir().unwrap();
    let weak = folder.path().join("hikyaku.service");
    fs::write(&weak, fs::read_to_string(unit("hikyaku.service")).unwrap().replace("ProtectSystem=strict", "")).unwrap();
    assert!(!security(&weak).0, "a line less is found");
}

#[test]
fn units_are_verified_without_a_word() {
    if !has("systemd-analyze") {
        return skip("units_are_verified_without_a_word", "systemd-analyze is missing");
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["hikyaku.service", "hikyaku.socket"] {
        // Programs must be there.
        let text = fs::read_to_string(unit(name)).unwrap();
        fs::write(folder.path().join(name), text.replace("/usr/bin/hikyaku", env!("CARGO_BIN_EXE_hikyaku"))).unwrap();
    }
    let verify = || {
        let mut command = Command::new("systemd-analyze");
        run(command.args(["verify", "--man=no", "hikyaku.service", "hikyaku.socket"]).current_dir(folder.path()))
    };

    assert_eq!(verify(), (true, String::new()));
    fs::write(folder.path().join("hikyaku.socket"), "[Socket]\nListenStrem=25\n").unwrap();
    assert_ne!(verify().1, "", "a mistake is found");
}

/// The settings of the service with this key, in order.
fn settings(key: &str) -> Vec<String> {
    let text = fs::read_to_string(unit("hikyaku.service")).unwrap();
    text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned).collect()
}

/// The system calls of a set, and of the sets in it.
fn members(set: &str, found: &mut BTreeSet<String>) {
    let (is_known, text) = run(Command::new("systemd-analyze").args(["syscall-filter", set]));
    assert!(is_known, "{text}");
    for name in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#') && *line != set) {
        if name.starts_with('@') {
            members(name, found);
        } else {
            found.insert(name.to_owned());
        }
    }
}

/// What `SystemCallFilter=` lets through.
fn allowed() -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    // systemd.exec(5): these are always allowed in an allow list.
    members("@default", &mut allowed);
    for setting in settings("SystemCallFilter") {
        let (is_denied, names) = setting.strip_prefix('~').map_or((false, &*setting), |names| (true, names));
        for name in names.split_whitespace() {
            let mut found = BTreeSet::new();
            if name.starts_with('@') {
                members(name, &mut found);
            } else {
                found.insert(name.to_owned());
            }
            if is_denied { allowed.retain(|call| !found.contains(call)) } else { allowed.append(&mut found) }
        }
    }
    allowed
}

#[test]
fn what_a_working_daemon_does_is_within_the_sandbox_of_its_unit() {
    let case = "what_a_working_daemon_does_is_within_the_sandbox_of_its_unit";
    if !has("systemd-analyze") || !has("strace") {
        return skip(case, "systemd-analyze or strace is missing");
    }
    let place = Place::new("", "address = \"127.0.0.1:0\"", "[metrics]\naddress = \"127.0.0.1:0\"");
    let trace = place.path("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(&trace).arg(env!("CARGO_BIN_EXE_hikyaku"));
    let daemon = place.start(place.prepare(strace));
    submit(place.listener());
    for arguments in [&["status"][..], &["queue", "list"], &["spool", "stat"]] {
        assert_eq!(place.ask(arguments).status.code(), Some(0), "{arguments:?}");
    }
    let status: serde_json::Value = serde_json::from_slice(&place.ask(&["status", "--json"]).stdout).unwrap();
    // Not strace, which is our child.
    let process = Pid::from_raw(status["pid"].as_i64().unwrap() as i32).unwrap();
    kill_process(process, Signal::TERM).unwrap();
    while place.heard() != "STOPPING=1" {}
    daemon.wait();

    let trace = fs::read_to_string(trace).unwrap();
    let allowed = allowed();
    assert!(allowed.contains("fdatasync") && !allowed.contains("chown"), "{allowed:?}");
    let mut seen = BTreeSet::new();
    for line in trace.lines() {
        // "123 name(arguments) = result", or "123 <... name resumed>".
        let Some((_, line)) = line.split_once(' ') else { continue };
        let line = line.trim_start();
        let Some((name, arguments)) = line.split_once('(').filter(|_| !line.starts_with('<')) else { continue };
        // A call that strace could not read any more, at the end of the process.
        if name != "???" {
            seen.insert(name.to_owned());
        }
        if name == "socket" {
            let families = settings("RestrictAddressFamilies").join(" ");
            let family = arguments.split(',').next().unwrap();
            assert!(families.split_whitespace().any(|allowed| allowed == family), "{line}");
        }
        if name == "mmap" || name == "mprotect" {
            assert!(!arguments.contains("PROT_WRITE|PROT_EXEC"), "MemoryDenyWriteExecute: {line}");
        }
    }
    assert!(seen.contains("fdatasync") && seen.contains("accept4") && seen.len() > 30, "{seen:?}");
    // execve is the service manager's.
    let is_refused =
        |name: &&String| !allowed.contains(*name) && *name != "execve" && !MAY_FAIL.contains(&name.as_str());
    let refused: Vec<_> = seen.iter().filter(is_refused).collect();
    assert_eq!(refused, Vec::<&String>::new());
}
