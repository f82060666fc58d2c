//! The daemon as a child process, perhaps under strace, and what its log says.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::ledger::Ledger;

/// Listening is promised within a second; strace and a busy machine take more.
const START: Duration = Duration::from_secs(60);
/// Between two looks at a state that is waited for.
pub const LOOK: Duration = Duration::from_millis(20);

/// What strace does to the daemon's system calls.
#[derive(Clone, Debug)]
pub struct Fault<'a> {
    pub calls: &'a str,
    pub action: &'a str,
    /// Counted in each thread: a number, or `N+` for all from there on.
    pub when: String,
    /// Counting begins when the daemon listens.
    pub spares_start: bool,
}

/// Why cases at system calls cannot run here.
pub fn strace_obstacle() -> Option<String> {
    let mut command =
        strace(&Fault { calls: "openat", action: "signal=SIGKILL", when: "1".to_owned(), spares_start: false });
    match command.arg("-D").arg("cat").arg("/dev/null").output() {
        Err(error) => Some(format!("strace: {error}")),
        Ok(output) if output.status.success() => Some("strace injects nothing".to_owned()),
        Ok(output) if output.status.code().is_some() => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Ok(_) => None,
    }
}

fn strace(fault: &Fault<'_>) -> Command {
    let Fault { calls, action, when, .. } = fault;
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:{action}:when={when}")]);
    command
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Option<JoinHandle<()>>,
    tracer: Option<Child>,
    socket: PathBuf,
}

/// The configuration of a daemon whose every file is below `folder`.
pub fn configure(folder: &Path, sink: SocketAddr) {
    let place = folder.display();
    let text = format!(
        "hostname = \"daemon.test\"\nthreads = 2\n\
         [spool]\npath = \"{place}/spool\"\nsegment_size = \"1MiB\"\nreserve = \"1MiB\"\n\
         [journal]\npath = \"{place}/journal\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n\
         [retry]\nschedule = [\"1s\"]\njitter_percent = 0\n\
         [delivery]\ntls = \"none\"\n\
         [dns]\nallow_networks = [\"127.0.0.0/8\"]\n\
         [[route]]\ndomain = \"*\"\nnext_hop = \"smtp://{sink}\"\n\
         [admin]\nsocket = \"{place}/admin.sock\"\n\
         [metrics]\nenabled = false\n\
         [log]\nformat = \"json\"\n"
    );
    std::fs::write(folder.join("config.toml"), text).unwrap();
}

impl Daemon {
    /// Starts it; the address where it listens, or none if it ended before it did.
    pub fn start(folder: &Path, fault: Option<&Fault<'_>>, ledger: &Arc<Ledger>) -> (Self, Option<SocketAddr>) {
        let program = env!("CARGO_BIN_EXE_hikyaku");
        let mut command = match fault {
            Some(fault) => {
                let mut command = strace(fault);
                // The tracer is a grandchild, so that the child's id is the daemon's.
                command.arg("-D").arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("run").arg("--config").arg(folder.join("config.toml")).env_remove("NOTIFY_SOCKET");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (tell, told) = mpsc::channel();
        let ledger = Arc::clone(ledger);
        let log = thread::spawn(move || read_log(stderr, &ledger, &tell));
        let address = match told.recv_timeout(START) {
            Ok(address) => Some(address),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the daemon listens nowhere after {START:?}"),
        };
        (Self { child, log: Some(log), tracer: None, socket: folder.join("admin.sock") }, address)
    }

    /// Lets strace have all its threads.
    pub fn attach(&mut self, fault: &Fault<'_>) {
        let id = self.child.id();
        let mut command = strace(fault);
        command.arg("-p").arg(id.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.tracer = Some(command.spawn().unwrap());
        let end = Instant::now() + START;
        while self.is_running() && !is_traced(id) {
            assert!(Instant::now() < end, "strace does not attach");
            thread::sleep(LOOK);
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it without a warning; whether it still ran.
    pub fn kill(mut self) -> bool {
        let was_running = self.is_running();
        self.child.kill().unwrap();
        self.wait();
        was_running
    }

    /// Waits until the spool has no message left, then stops it in good order.
    pub fn drain(mut self, limit: Duration) -> Result<ExitStatus, String> {
        let end = Instant::now() + limit;
        while !self.is_empty() {
            if Instant::now() > end {
                return Err("messages are left in the spool".to_owned());
            }
            thread::sleep(LOOK);
        }
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        Ok(self.wait())
    }

    fn is_empty(&self) -> bool {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        let output = command.args(["spool", "stat", "--json", "--socket"]).arg(&self.socket).output().unwrap();
        let Ok(state) = serde_json::from_slice::<Value>(&output.stdout) else { return false };
        state["messages"] == 0 && state["recovering"] == false
    }

    /// Its log is read to its end, so that all doubts are known.
    fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        if let Some(log) = self.log.take() {
            log.join().unwrap();
        }
        // Nothing is left for it to trace.
        if let Some(mut tracer) = self.tracer.take() {
            tracer.wait().unwrap();
        }
        status
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_traced(id: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else { return false };
    threads.map_while(Result::ok).all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status"));
        status.is_ok_and(|status| !status.lines().any(|line| line == "TracerPid:\t0"))
    })
}

fn read_log(stderr: ChildStderr, ledger: &Ledger, tell: &mpsc::Sender<SocketAddr>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if line.contains("panicked") {
            ledger.note_panic(&line);
        }
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        let message = event["message"].as_str().unwrap_or_default();
        if message == "listening for submissions" {
            let _ = tell.send(event["address"].as_str().unwrap().parse().unwrap());
        } else if message.starts_with("in doubt") {
            ledger.note_doubt(event["recipient"].as_str().unwrap());
        }
    }
}
