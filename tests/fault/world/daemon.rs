//! The daemon as a child process, perhaps under strace or another program, what its log says and what it uses.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::strace::{Fault, Tracer};
use super::usage::{Monitor, Usage};
use crate::checker::Checker;

/// Listening is promised within a second; strace and a busy machine take more, ten million messages a minute to read.
const START: Duration = Duration::from_secs(60);
/// For an answer of the admin interface.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two looks at a state that is waited for.
pub const LOOK: Duration = Duration::from_millis(20);

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    pub log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    tracer: Option<Tracer>,
    monitor: Monitor,
    socket: PathBuf,
}

/// The admin interface without the command line: quick enough for what is gone soon.
#[derive(Clone, Debug)]
pub struct Admin {
    socket: PathBuf,
}

impl Admin {
    /// What it answers; null if it does not.
    pub fn get(&self, path: &str) -> Value {
        let answer = || -> std::io::Result<Vec<u8>> {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(ANSWER))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: daemon\r\nConnection: close\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        let answer = answer().unwrap_or_default();
        let body = memchr::memmem::find(&answer, b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
        serde_json::from_slice(&answer[body..]).unwrap_or(Value::Null)
    }
}

/// What it has logged.
#[derive(Debug)]
pub struct Log {
    started: Instant,
    /// By message: how often, and when first.
    events: Mutex<HashMap<String, (u64, Duration)>>,
    /// The wall time of the last line.
    last: Mutex<String>,
}

impl Log {
    /// How often a message was logged.
    pub fn count(&self, message: &str) -> u64 {
        self.events.lock().get(message).map(|(count, _)| *count).unwrap_or_default()
    }

    /// How long after the start a message was logged first.
    pub fn first(&self, message: &str) -> Option<Duration> {
        self.events.lock().get(message).map(|(_, at)| *at)
    }

    /// The wall time of the last line, as RFC 3339 writes it.
    pub fn last_time(&self) -> String {
        self.last.lock().clone()
    }

    fn note(&self, event: &Value, message: &str) {
        let at = self.started.elapsed();
        self.events.lock().entry(message.to_owned()).or_insert((0, at)).0 += 1;
        if let Some(time) = event["timestamp"].as_str() {
            time.clone_into(&mut self.last.lock());
        }
    }
}

/// How a daemon is started.
#[derive(Debug, Default)]
pub struct Launch<'a> {
    /// A fault from its first system call on.
    pub fault: Option<&'a Fault<'a>>,
    /// A program with arguments that starts it, such as `ip netns exec`.
    pub through: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
}

impl Launch<'_> {
    fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_hikyaku");
        let mut command = match (self.fault, self.through.split_first()) {
            (Some(fault), _) => {
                let mut command = fault.command();
                // The tracer is a grandchild, so that the child's id is the daemon's.
                command.arg("-D").arg(program);
                command
            }
            (None, Some((first, rest))) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            (None, None) => Command::new(program),
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Daemon {
    /// Starts it; the address where it listens, or none if it ended before it did.
    pub fn start(folder: &Path, launch: &Launch<'_>, checker: &Arc<Checker>) -> (Self, Option<SocketAddr>) {
        let mut command = launch.command();
        command.arg("run").arg("--config").arg(folder.join("config.toml")).env_remove("NOTIFY_SOCKET");
        let started = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Log { started, events: Mutex::default(), last: Mutex::default() });
        let (tell, told) = mpsc::channel();
        let reader = {
            let (checker, log) = (Arc::clone(checker), Arc::clone(&log));
            thread::spawn(move || read_log(stderr, &checker, &log, &tell))
        };
        let address = match told.recv_timeout(START) {
            Ok(address) => Some(address),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the daemon listens nowhere after {START:?}"),
        };
        let monitor = Monitor::start(child.id());
        let socket = folder.join("admin.sock");
        (Self { child, log, reader: Some(reader), tracer: None, monitor, socket }, address)
    }

    pub fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Lets strace have all its threads, until it ends or [`Daemon::release`].
    pub fn attach(&mut self, fault: &Fault<'_>) {
        self.tracer = Some(Tracer::attach(fault, self.child.id()));
    }

    /// Takes strace away.
    pub fn release(&mut self) {
        self.tracer = None;
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).unwrap();
    }

    /// Stops it where it is, and waits until no thread of it runs.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let threads = format!("/proc/{}/task", self.child.id());
        loop {
            let stopped = std::fs::read_dir(&threads).unwrap().map_while(Result::ok).all(|thread| {
                let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with('T'))
            });
            if stopped {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What it uses, and used at most.
    pub fn usage(&self) -> Usage {
        self.monitor.usage()
    }

    /// Samples of its memory since it was started.
    pub fn samples(&self) -> Vec<(Duration, u64)> {
        self.monitor.samples()
    }

    /// Ends it without a warning; whether it still ran, and what it used.
    pub fn kill(mut self) -> (bool, Usage) {
        let was_running = self.is_running();
        self.child.kill().unwrap();
        self.wait();
        self.tell_descriptors();
        (was_running, self.usage())
    }

    /// Waits until the spool has no message left, then stops it in good order; gives up when none has left for `limit`.
    pub fn drain(self, limit: Duration) -> (Result<ExitStatus, String>, Usage) {
        let (mut last, mut end) = (u64::MAX, Instant::now() + limit);
        loop {
            let state = self.ask(&["spool", "stat", "--json"]);
            if is_empty(&state) {
                break;
            }
            let messages = state["messages"].as_u64().unwrap_or(u64::MAX);
            // A recovery finds more and more.
            if messages < last || state["recovering"] == true {
                end = Instant::now() + limit;
            }
            last = messages;
            if Instant::now() > end {
                let left = self.ask(&["queue", "list", "--json", "--limit", "3"]);
                return (Err(format!("messages are left in the spool: {left}")), self.usage());
            }
            thread::sleep(LOOK);
        }
        self.stop()
    }

    /// Stops it in good order.
    pub fn stop(mut self) -> (Result<ExitStatus, String>, Usage) {
        if self.is_running() {
            self.signal(Signal::TERM);
        }
        let status = self.wait();
        self.tell_descriptors();
        (Ok(status), self.usage())
    }

    fn tell_descriptors(&self) {
        let open = self.monitor.open();
        if !open.is_empty() {
            println!("descriptors: {open:?}");
        }
    }

    /// Whether its spool has no message left.
    pub fn is_empty(&self) -> bool {
        is_empty(&self.ask(&["spool", "stat", "--json"]))
    }

    /// What a command answers that asks the daemon; null if it does not answer.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        let output = command.args(arguments).arg("--socket").arg(&self.socket).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Its admin interface.
    pub fn admin(&self) -> Admin {
        Admin { socket: self.socket.clone() }
    }

    /// Its log is read to its end, so that all doubts are known.
    fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.tracer = None;
        status
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_log(stderr: ChildStderr, checker: &Checker, log: &Log, tell: &mpsc::Sender<SocketAddr>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if line.contains("panicked") {
            checker.note_panic(&line);
        }
        let Ok(event) = serde_json::from_str::<Value>(&line) else {
            if std::env::var_os("HIKYAKU_SHOW_LOG").is_some() {
                eprintln!("{line}");
            }
            continue;
        };
        let message = event["message"].as_str().unwrap_or_default();
        log.note(&event, message);
        if message == "listening for submissions" {
            let _ = tell.send(event["address"].as_str().unwrap().parse().unwrap());
        } else if message.starts_with("in doubt: the receiver") {
            checker.note_doubt(event["recipient"].as_str().unwrap());
        }
    }
}

/// Whether a spool of this state has no message left.
fn is_empty(state: &Value) -> bool {
    state["messages"] == 0 && state["recovering"] == false
}
