//! The program as a child process: its addresses, its memory, its descriptors, its state.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::port::Port;

/// A running daemon; ended when dropped.
pub struct Daemon {
    child: Child,
    pub address: SocketAddr,
    metrics: Port,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// Starts it in `folder`; `more` is added to its configuration.
    pub fn start(folder: tempfile::TempDir, limits: &str, more: &str) -> Self {
        let place = folder.path().display();
        let metrics = Port::take();
        let text = format!(
            "hostname = \"daemon.test\"\nthreads = 2\n\
             [spool]\npath = \"{place}/spool\"\nreserve = \"1MiB\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\nmax_sessions = 5000\ntrust_headers = true\n\
             [limits]\n{limits}\n\
             [admin]\nsocket = \"{place}/admin.sock\"\n\
             [metrics]\naddress = \"{}\"\n\
             [journal]\npath = \"{place}/journal\"\n\
             [log]\nformat = \"json\"\nfilter = \"info\"\n{more}",
            metrics.address
        );
        std::fs::write(folder.path().join("config.toml"), text).unwrap();
        let program = std::env::var("HIKYAKU_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_hikyaku").to_owned());
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(folder.path().join("config.toml")).env_remove("NOTIFY_SOCKET");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                if event["message"] == "listening for submissions" {
                    let _ = tell.send(event["address"].as_str().unwrap().parse().unwrap());
                }
                if event["level"] == "ERROR" || event["level"].is_null() {
                    println!("{line}");
                }
            }
        });
        let address = told.recv_timeout(Duration::from_secs(60)).expect("the daemon listens nowhere");
        Self { child, address, metrics, folder }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Counts of the queue, by name.
    pub fn totals(&self) -> Value {
        let mut stream = UnixStream::connect(self.folder().join("admin.sock")).unwrap();
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<Value>(body).unwrap_or_else(|error| panic!("{error}: {answer}"))["queue"].clone()
    }

    pub fn total(&self, name: &str) -> u64 {
        self.totals()[name].as_u64().unwrap()
    }

    /// A metric without labels.
    pub fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(self.metrics.address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }

    /// What the journal's open file has, from its begin on.
    pub fn journal(&self) -> Vec<Value> {
        let files = std::fs::read_dir(self.folder().join("journal")).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
        files.sort();
        let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        // The last line may be under way.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Resident memory in octets.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Open sockets, and all other descriptors.
    pub fn descriptors(&self) -> (usize, usize) {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let (sockets, others): (Vec<_>, Vec<_>) = links.partition(|link| link.to_string_lossy().starts_with("socket:"));
        (sockets.len(), others.len())
    }

    /// Waits until `is_so`.
    pub fn until(&self, what: &str, within: Duration, is_so: impl Fn(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < within, "not within {within:?}: {what}; {}", self.totals());
            // A look at a large queue costs the daemon something too.
            thread::sleep(Duration::from_millis(if crate::is_full() { 500 } else { 20 }));
        }
        begun.elapsed()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing is left to lose, and a drain takes its time.
        let _ = kill_process(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
