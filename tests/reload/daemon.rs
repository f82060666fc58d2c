//! The daemon as a child process with a configuration that is rewritten, and clients of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Nothing takes this long, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a state that is waited for.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until `is_so`.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(LOOK);
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    pub folder: tempfile::TempDir,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Daemon {
    /// Starts it with `text` and what every test needs.
    pub fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        configure(folder.path(), text);
        let mut child = Command::new(env!("CARGO_BIN_EXE_hikyaku"))
            .args(["run", "--config"])
            .arg(folder.path().join("config.toml"))
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        let daemon = Self { child, folder, log };
        until("the daemon listens", || !daemon.addresses().is_empty());
        daemon
    }

    /// Rewrites its configuration.
    pub fn configure(&self, text: &str) {
        configure(self.folder.path(), text);
    }

    /// Rewrites its configuration and has it taken on; gives the answer.
    pub fn reload(&self, text: &str) -> Value {
        self.configure(text);
        let output = self.cli(&["reload", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command that talks to it.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_at(&self.folder.path().join("admin.sock"), arguments)
    }

    /// The same over another socket.
    pub fn cli_at(&self, socket: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.args(arguments).arg("--socket").arg(socket).output().unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Status code and body of the admin interface's answer.
    pub fn ask(&self, path: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.folder.path().join("admin.sock")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit code, once it has ended.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Log events with this message.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let is_it = |event: &&Value| event["message"].as_str().is_some_and(|said| said.starts_with(message));
        self.log.lock().iter().filter(is_it).cloned().collect()
    }

    /// Where it has begun to listen, in that order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let events = self.logged("listening for submissions");
        events.iter().map(|event| event["address"].as_str().unwrap().parse().unwrap()).collect()
    }

    /// A client of the first listener.
    pub fn client(&self) -> Client {
        Client::connect(self.addresses()[0])
    }

    /// Waits until nothing is left in the spool.
    pub fn until_empty(&self) {
        until("the spool is empty", || self.json(&["spool", "stat"])["messages"] == 0);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tables of `text` come first, so that options of the root can stand at its beginning. A whole file takes the place of the
/// one before: no reader meets half of one.
fn configure(folder: &Path, text: &str) {
    let place = folder.display();
    let mut whole = text.to_owned();
    let more = [
        ("[spool]", format!("path = \"{place}/spool\"\nsegment_size = \"1MiB\"\nreserve = \"1MiB\"\n")),
        ("[journal]", format!("path = \"{place}/journal\"\n")),
        ("[admin]", format!("socket = \"{place}/admin.sock\"\n")),
        ("[metrics]", "address = \"127.0.0.1:0\"\n".to_owned()),
        ("[log]", "format = \"json\"\n".to_owned()),
        ("[delivery]", "tls = \"none\"\n".to_owned()),
        ("[retry]", "schedule = [\"1s\"]\njitter_percent = 0\n".to_owned()),
    ];
    for (header, options) in more {
        match whole.find(header) {
            Some(at) => {
                let end = at + header.len();
                let own: Vec<&str> = whole[end..].split("\n[").next().unwrap().lines().collect();
                let key = |line: &str| line.split(" =").next().unwrap().to_owned();
                let own: Vec<String> = own.iter().map(|line| key(line)).collect();
                let missing: Vec<&str> = options.lines().filter(|line| !own.contains(&key(line))).collect();
                whole.insert_str(end, &format!("\n{}", missing.join("\n")));
            }
            None => whole.push_str(&format!("{header}\n{options}")),
        }
    }
    if !whole.contains("[[listener]]") {
        whole.push_str("[[listener]]\naddress = \"127.0.0.1:0\"\n");
    }
    let path: PathBuf = folder.join("config.toml");
    std::fs::write(folder.join("new.toml"), whole).unwrap();
    std::fs::rename(folder.join("new.toml"), path).unwrap();
}

/// A route of everything in `domain`.
pub fn route(domain: &str, to: SocketAddr) -> String {
    format!("[[route]]\ndomain = \"{domain}\"\nnext_hop = \"smtp://{to}\"\n")
}

/// An SMTP client that says one command at a time.
pub struct Client {
    stream: BufReader<TcpStream>,
    pub greeting: String,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream: BufReader::new(stream), greeting: String::new() };
        client.greeting = client.reply();
        client.say("EHLO client.test");
        client
    }

    fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "the session was dropped after {reply:?}");
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            reply.push_str(&line);
            if is_last {
                return reply;
            }
        }
    }

    /// Says a line and gives the whole reply.
    pub fn say(&mut self, line: &str) -> String {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        self.reply()
    }

    /// Sends a message with this subject; gives the last reply.
    pub fn send(&mut self, subject: &str, to: &str) -> String {
        self.say("MAIL FROM:<s@sender.test>");
        let accepted = self.say(&format!("RCPT TO:<{to}>"));
        if !accepted.starts_with("250") {
            return accepted;
        }
        assert!(self.say("DATA").starts_with("354"));
        self.say(&format!("Subject: {subject}\r\n\r\nx\r\n."))
    }
}
