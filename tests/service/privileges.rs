//! Root given up, as /proc shows it. Needs root.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::daemon::{Daemon, FOLDERS, Place, has, is_answering, is_root, submit};
use crate::skip::skip;

/// Debian's users that every machine has; they own nothing.
const NOBODY: u32 = 65534;
const DAEMON: u32 = 1;

/// The lines of /proc/PID/task/*/status that tell what a thread may do, the same for all.
fn rights(daemon: &Daemon<'_>) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let mut all: Vec<Vec<String>> = Vec::new();
    for task in tasks {
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        let is_right =
            |line: &&str| ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs"].iter().any(|key| line.starts_with(key));
        let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        all.push(status.lines().filter(is_right).map(line).collect());
    }
    assert!(all.len() > 3, "{all:?}");
    assert!(all.iter().all(|rights| *rights == all[0]), "{all:?}");
    all.swap_remove(0)
}

/// A loopback address nobody else uses, with a port for which one must be root.
fn privileged_address() -> SocketAddr {
    let [a, b, ..] = std::process::id().to_le_bytes();
    let mut tries = (1..255_u8).map(|c| SocketAddr::from((Ipv4Addr::new(127, 1 + a % 250, b, c), 25)));
    tries.find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

fn needs_privilege() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap().trim() == "1024"
}

fn give(place: &Place, user: u32) {
    for name in FOLDERS {
        chown(place.path(name), Some(user), Some(user)).unwrap();
    }
}

fn place(settings: &str, address: SocketAddr) -> Place {
    Place::new(settings, &format!("address = \"{address}\""), "[metrics]\nenabled = false")
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const NOTHING: &str = "0000000000000000";

#[test]
fn started_as_root_it_binds_a_low_port_becomes_its_user_and_keeps_no_capability() {
    if !is_root() || !needs_privilege() {
        return skip("started_as_root_it_binds_a_low_port", "not root, or low ports are for everybody");
    }
    let address = privileged_address();
    let place = place("user = \"nobody\"\ngroup = \"daemon\"", address);
    give(&place, NOBODY);

    let daemon = place.start(place.command());

    let rights = rights(&daemon);
    let mut expected = vec![
        format!("Uid: {NOBODY} {NOBODY} {NOBODY} {NOBODY}"),
        format!("Gid: {DAEMON} {DAEMON} {DAEMON} {DAEMON}"),
        format!("Groups: {DAEMON}"),
    ];
    expected.extend(["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}: {NOTHING}")));
    expected.push("NoNewPrivs: 1".to_owned());
    assert_eq!(rights, expected);
    submit(address);
    assert!(is_answering(&place.path("run/admin.sock")));
    assert_eq!(place.ask(&["status"]).status.code(), Some(0));
    for path in ["spool/lock", "spool/segments", "run/admin.sock"] {
        assert_eq!(fs::metadata(place.path(path)).unwrap().uid(), NOBODY, "{path}");
    }
    daemon.stop();
}

#[test]
fn started_as_root_without_a_user_it_stays_root_and_says_so() {
    if !is_root() {
        return skip("started_as_root_without_a_user_it_stays_root_and_says_so", "not root");
    }
    let place = place("", ANY);

    let daemon = place.start(place.command());

    assert!(rights(&daemon)[0].starts_with("Uid: 0 "));
    assert!(place.log().contains("it stays root"), "{}", place.log());
    daemon.stop();
}

#[test]
fn a_folder_that_the_user_cannot_use_ends_the_start_with_the_command_to_run() {
    if !is_root() {
        return skip("a_folder_that_the_user_cannot_use_ends_the_start_with_the_command_to_run", "not root");
    }
    let cases: [(&str, u32, &str); 4] = [
        (
            "journal",
            0,
            "journal.path: PLACE/journal does not belong to nobody; as root: chown -R nobody: PLACE/journal",
        ),
        ("spool", 0, "spool.path: PLACE/spool does not belong to nobody; as root: chown -R nobody: PLACE/spool"),
        ("run", 0, "admin.socket: nobody cannot use PLACE/run; as root: chown -R nobody: PLACE/run"),
        (
            "run",
            u32::MAX,
            "admin.socket: nobody cannot make PLACE/run; as root: install -d -o nobody -m 0700 PLACE/run",
        ),
    ];
    for (name, owner, expected) in cases {
        let place = place("user = \"nobody\"", ANY);
        give(&place, NOBODY);
        match owner {
            u32::MAX => fs::remove_dir(place.path(name)).unwrap(),
            owner => chown(place.path(name), Some(owner), Some(owner)).unwrap(),
        }

        let (code, said) = place.refusal(place.command());

        assert_eq!(code, Some(2), "{said}");
        let expected = expected.replace("PLACE", place.folder.path().to_str().unwrap());
        assert!(said.contains(&expected), "{expected}: {said}");
    }
}

#[test]
fn an_unsafe_spool_is_refused_by_the_user_that_root_became() {
    if !is_root() {
        return skip("an_unsafe_spool_is_refused_by_the_user_that_root_became", "not root");
    }
    let link = |place: &Place| {
        fs::rename(place.path("spool"), place.path("elsewhere")).unwrap();
        std::os::unix::fs::symlink(place.path("elsewhere"), place.path("spool")).unwrap();
        std::os::unix::fs::lchown(place.path("spool"), Some(NOBODY), None).unwrap();
    };
    let open = |place: &Place| fs::set_permissions(place.path("spool"), fs::Permissions::from_mode(0o777)).unwrap();
    let spoil: [&dyn Fn(&Place); 2] = [&link, &open];
    for (spoil, reason) in spoil.into_iter().zip(["symbolic link", "writable by others"]) {
        let place = place("user = \"nobody\"", ANY);
        give(&place, NOBODY);
        spoil(&place);

        let (code, said) = place.refusal(place.command());

        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(reason), "{reason}: {said}");
    }
}

#[test]
fn an_unknown_user_is_refused() {
    if !is_root() {
        return skip("an_unknown_user_is_refused", "not root");
    }
    let place = place("user = \"no-such-user\"", ANY);

    let (code, said) = place.refusal(place.command());

    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("user: there is no user no-such-user"), "{said}");
}

/// The program where every user can reach it. Another process copies it: a child that a test beside this one begins would
/// hold what is being written here open for a moment, and a file that is open for writing cannot be run (execve(2), ETXTBSY).
fn program(place: &Place) -> std::path::PathBuf {
    let path = place.path("hikyaku");
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_hikyaku")).arg(&path).status().unwrap();
    assert!(copied.success());
    path
}

#[test]
fn who_is_not_root_cannot_become_another_user() {
    if !is_root() {
        return skip("who_is_not_root_cannot_become_another_user", "not root");
    }
    let place = place("user = \"daemon\"", ANY);
    give(&place, NOBODY);
    let mut command = place.prepare(Command::new(program(&place)));
    command.uid(NOBODY).gid(NOBODY);

    let (code, said) = place.refusal(command);

    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("to become daemon, hikyaku must be started as root"), "{said}");
}

#[test]
fn the_right_to_bind_low_ports_is_given_up_once_they_are_bound() {
    if !is_root() || !needs_privilege() || !has("setpriv") {
        return skip("the_right_to_bind_low_ports_is_given_up", "not root, no setpriv, or low ports are for everybody");
    }
    let address = privileged_address();
    let place = place("user = \"nobody\"", address);
    give(&place, NOBODY);
    let program = program(&place);
    let run = |capabilities: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--bounding-set=-all,+net_bind_service"]);
        command.args([&format!("--inh-caps=-all{capabilities}"), &format!("--ambient-caps=-all{capabilities}")]);
        command.arg(&program);
        place.prepare(command)
    };

    let daemon = place.start(run(",+net_bind_service"));

    let rights = rights(&daemon);
    for set in ["Inh", "Prm", "Eff", "Amb"] {
        assert!(rights.contains(&format!("Cap{set}: {NOTHING}")), "{rights:?}");
    }
    submit(address);
    daemon.stop();
    let (code, said) = place.refusal(run(""));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("ports below 1024 need"), "{said}");
    assert!(!Path::new(&place.path("run/admin.sock")).exists());
}

/// Whether this kernel confines: tried by asking for nothing less.
fn confines(place: &Place) -> bool {
    place.log().contains("confined to its folders by Landlock\n")
}

#[test]
fn a_confined_daemon_reaches_its_own_folders_only() {
    let case = "a_confined_daemon_reaches_its_own_folders_only";
    let own = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    for folder in [&own, &other] {
        fs::write(folder.path().join("rules.toml"), "").unwrap();
    }
    let place = Place::new(
        "sandbox = \"auto\"",
        "address = \"127.0.0.1:0\"",
        &format!("[metrics]\nenabled = false\n[replies]\nrules = \"{}/rules.toml\"", own.path().display()),
    );
    let daemon = place.start(place.command());
    if !confines(&place) {
        daemon.stop();
        return skip(case, "this kernel has no Landlock, or an old one");
    }

    submit(place.listener());
    assert_eq!(place.ask(&["reload"]).status.code(), Some(0), "what was named at the start is read again");
    let config = fs::read_to_string(place.path("config.toml")).unwrap();
    let elsewhere = config.replace(own.path().to_str().unwrap(), other.path().to_str().unwrap());
    fs::write(place.path("config.toml"), elsewhere).unwrap();

    let refused = place.ask(&["reload"]);

    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("(os error 13)") && said.contains("`sandbox`): restart it"), "{said}");
    daemon.stop();
    // Another start names another folder.
    let daemon = place.start(place.command());
    assert_eq!(place.ask(&["reload"]).status.code(), Some(0));
    daemon.stop();
}

#[test]
fn without_a_sandbox_a_reload_may_name_any_folder() {
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("rules.toml"), "").unwrap();
    let place = Place::new("sandbox = \"off\"", "address = \"127.0.0.1:0\"", "[metrics]\nenabled = false");
    let daemon = place.start(place.command());
    let mut config = fs::read_to_string(place.path("config.toml")).unwrap();
    config.push_str(&format!("[replies]\nrules = \"{}/rules.toml\"\n", other.path().display()));
    fs::write(place.path("config.toml"), config).unwrap();

    assert_eq!(place.ask(&["reload"]).status.code(), Some(0));

    assert!(!place.log().contains("onfined"), "{}", place.log());
    daemon.stop();
}
