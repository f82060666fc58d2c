//! A daemon that is killed in the midst of changes, one that is told to reload by a signal, and what `audit` says of both.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

struct Running {
    process: Child,
    folder: PathBuf,
}

impl Running {
    fn start(folder: &Path) -> Self {
        let file = folder.join("config.toml");
        let mut config = crate::stage::daemon_config(folder);
        // A daemon that is confined must reach it there, too.
        config.admin.audit = folder.join("audit");
        if !config.admin.tokens.exists() {
            crate::stage::token(&config.admin.tokens, "ops", hikyaku::admin::Role::Operator, &[]);
        }
        std::fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.args(["run", "--config"]).arg(&file).stderr(Stdio::null());
        let running = Self { process: command.spawn().unwrap(), folder: folder.to_owned() };
        let end = Instant::now() + Duration::from_secs(60);
        while running.ask("GET", "/healthz", "").is_none() {
            assert!(Instant::now() < end, "the daemon does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        running
    }

    /// The status of an answer on the socket.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<u16> {
        let mut stream = UnixStream::connect(self.folder.join("admin.sock")).ok()?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: \
             close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text.split(' ').nth(1)?.parse().ok()
    }

    fn audit(&self, arguments: &[&str]) -> (i32, String) {
        let file = self.folder.join("config.toml");
        let output: Output = Command::new(env!("CARGO_BIN_EXE_hikyaku"))
            .arg("audit")
            .args(arguments)
            .args(["--config", file.to_str().unwrap()])
            .output()
            .unwrap();
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn every_change_that_was_answered_is_on_record_after_a_kill_and_the_chain_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut answered = 0;

    for turn in 0..3 {
        let running = Running::start(folder.path());
        let id = rustix::process::Pid::from_child(&running.process);
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(150 + 70 * turn));
            rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
        });
        while let Some(status) = running.ask("POST", "/v1/queue/flush", "{}") {
            assert_eq!(status, 200);
            answered += 1;
        }
        killer.join().unwrap();
        running.kill();
    }

    let running = Running::start(folder.path());
    let (code, said) = running.audit(&["verify"]);
    assert!(code == 0 && said.contains("all right"), "{said}");
    let (_, list) = running.audit(&["list", "--action", "queue.flush", "--json"]);
    let begun = list.lines().filter(|line| line.contains("\"kind\":\"begun\"")).count();
    let done = list.lines().filter(|line| line.contains("\"kind\":\"done\"")).count();
    assert!(answered > 0 && done >= answered && begun >= done, "{answered} answered, {begun} begun, {done} done");
    running.kill();
}

#[test]
fn a_reload_by_signal_and_another_tokens_file_are_on_record_and_an_alteration_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(folder.path());
    crate::stage::token(&folder.path().join("tokens"), "more", hikyaku::admin::Role::Viewer, &[]);
    let id = rustix::process::Pid::from_child(&running.process);
    rustix::process::kill_process(id, rustix::process::Signal::HUP).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    let list = loop {
        let (code, list) = running.audit(&["list"]);
        if code == 0 && list.contains("SIGHUP") && list.contains("tokens.read") {
            break list;
        }
        assert!(Instant::now() < end, "{list}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(list.contains("more"), "which token: {list}");
    assert_eq!(running.audit(&["verify"]).0, 0);
    let (_, none) = running.audit(&["list", "--who", "nobody"]);
    assert!(none.contains("nothing is on record"), "{none}");
    running.kill();

    let running = Running { process: Command::new("true").spawn().unwrap(), folder: folder.path().to_owned() };
    let file = folder.path().join("audit/audit-000001.jsonl");
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, whole.replace("SIGHUP", "SIGHUQ")).unwrap();
    let (code, said) = running.audit(&["verify"]);
    assert!(code == 1 && said.contains("BROKEN") && said.contains("it was altered"), "{said}");
    let cut: String = whole.lines().take(1).map(|line| format!("{line}\n")).collect();
    std::fs::write(&file, cut).unwrap();
    let (code, said) = running.audit(&["verify", "--json"]);
    assert!(code == 1 && said.contains("missing at the end"), "{said}");
    let begin = whole.lines().next().unwrap().to_owned();
    std::fs::remove_file(folder.path().join("spool/state/audit")).unwrap();
    let (code, said) = running.audit(&["verify"]);
    assert!(code == 1 && said.contains("no end of the log"), "{said}");
    let head: serde_json::Value = serde_json::from_str(&begin).unwrap();
    let head = format!("{}:{}", head["sequence"], head["hash"].as_str().unwrap());
    let (code, said) = running.audit(&["verify", "--head", &head]);
    assert!(code == 0 && said.contains("1 records, all right"), "{said}");
    running.kill();
}
