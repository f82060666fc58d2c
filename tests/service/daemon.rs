//! A daemon as a child process with the environment of a service manager, and a client that submits to it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Nothing here takes long, but for a machine that is busy otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the daemon writes to.
pub const FOLDERS: [&str; 3] = ["spool", "run", "journal"];

/// A folder with a configuration, before a daemon is started on it.
pub struct Place {
    pub folder: tempfile::TempDir,
    notified: UnixDatagram,
}

impl Place {
    /// `settings` stand before every section. Nothing can be delivered: no resolver answers.
    pub fn new(settings: &str, listener: &str, sections: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Other users must be able to reach what is theirs in it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = folder.path().display();
        let text = format!(
            "hostname = \"mta.test\"\n{settings}\n[spool]\npath = \"{place}/spool\"\nreserve = \"1MiB\"\n\
             segment_size = \"1MiB\"\n[admin]\nsocket = \"{place}/run/admin.sock\"\n\
             [journal]\npath = \"{place}/journal\"\n[dns]\nresolvers = [\"127.0.0.1:1\"]\n[[listener]]\n{listener}\n{sections}\n"
        );
        fs::write(folder.path().join("config.toml"), text).unwrap();
        for name in FOLDERS {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o700)).unwrap();
        }
        let notified = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        fs::set_permissions(folder.path().join("notify"), fs::Permissions::from_mode(0o777)).unwrap();
        notified.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { folder, notified }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `hikyaku run`, ready to be spawned.
    pub fn command(&self) -> Command {
        self.prepare(Command::new(env!("CARGO_BIN_EXE_hikyaku")))
    }

    /// The arguments and environment of `run` for a command that ends in the program.
    pub fn prepare(&self, mut command: Command) -> Command {
        command.arg("run").arg("--config").arg(self.path("config.toml"));
        command.env("NOTIFY_SOCKET", self.path("notify")).stdin(Stdio::null());
        command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID").env_remove("WATCHDOG_USEC");
        command.stderr(fs::File::create(self.path("log")).unwrap());
        command
    }

    /// `hikyaku run` with sockets handed over as systemd does it: a shell puts them at 3 and 4.
    pub fn command_with(&self, sockets: &[TcpListener], names: &str) -> Command {
        let moves = ["", "3<&0 </dev/null", "3<&0 4<&1 </dev/null >&2"][sockets.len()];
        let script = format!("exec {moves}; LISTEN_PID=$$ exec \"$0\" \"$@\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_hikyaku")]);
        let mut command = self.prepare(shell);
        command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names);
        let mut sockets =
            sockets.iter().map(|socket| Stdio::from(std::os::fd::OwnedFd::from(socket.try_clone().unwrap())));
        command.stdin(sockets.next().unwrap());
        if let Some(socket) = sockets.next() {
            command.stdout(socket);
        }
        command
    }

    /// Runs a daemon that is to refuse to start; gives its exit code and what it said.
    pub fn refusal(&self, mut command: Command) -> (Option<i32>, String) {
        let status = command.status().unwrap();
        (status.code(), self.log())
    }

    pub fn start(&self, mut command: Command) -> Daemon<'_> {
        let daemon = Daemon { child: command.spawn().unwrap(), place: self };
        assert_eq!(self.heard(), "READY=1", "{}", self.log());
        daemon
    }

    /// What the daemon tells its service manager next.
    pub fn heard(&self) -> String {
        self.try_heard().unwrap_or_else(|| panic!("the daemon tells nothing: {}", self.log()))
    }

    pub fn try_heard(&self) -> Option<String> {
        let mut buffer = [0; 256];
        loop {
            match self.notified.recv(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
                // A line for people follows.
                Ok(length) => return Some(String::from_utf8_lossy(&buffer[..length]).lines().next()?.to_owned()),
            }
        }
    }

    /// How long to wait for what the daemon tells.
    pub fn set_patience(&self, patience: Duration) {
        self.notified.set_read_timeout(Some(patience)).unwrap();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Where it listens, from its log; in the order of the configuration.
    pub fn listener(&self) -> SocketAddr {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("listening for submissions")).unwrap();
        let (_, rest) = line.split_once("address=").unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// A hikyaku command on the daemon's admin socket.
    pub fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.args(arguments).arg("--socket").arg(self.path("run/admin.sock")).output().unwrap()
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon<'a> {
    child: Child,
    place: &'a Place,
}

impl Daemon<'_> {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its orderly end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        // The next daemon on this place speaks to the same socket.
        while self.place.heard() != "STOPPING=1" {}
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.place.log());
        status
    }
}

impl Daemon<'_> {
    /// Waits for the end of a daemon that was told to stop.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One SMTP session.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// The last line of the next reply.
    pub fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    pub fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Sends a message up to its end of data, the reply to which is not read.
    pub fn submit(&mut self) {
        assert!(self.reply().starts_with("220"));
        let commands = ["EHLO client.test", "MAIL FROM:<a@sender.test>", "RCPT TO:<b@receiver.test>", "DATA"];
        for command in commands {
            self.send(&format!("{command}\r\n"));
            let reply = self.reply();
            assert!(reply.starts_with('2') || reply.starts_with("354"), "{command}: {reply}");
        }
        self.send("Subject: x\r\n\r\nx\r\n.\r\n");
    }

    /// Whether a reply is there already.
    pub fn has_reply(&mut self) -> bool {
        self.stream.get_ref().set_nonblocking(true).unwrap();
        let is_there = self.stream.fill_buf().is_ok();
        self.stream.get_ref().set_nonblocking(false).unwrap();
        is_there
    }
}

/// Submits one message.
pub fn submit(address: SocketAddr) {
    let mut client = Client::connect(address);
    client.submit();
    let reply = client.reply();
    assert!(reply.starts_with("250"), "{reply}");
}

/// What /metrics shows of the parts that are watched: the longest time that `part` has stood still.
pub fn still_seconds(metrics: SocketAddr, part: &str) -> f64 {
    let begun = Instant::now();
    loop {
        match shown_still_seconds(metrics, part) {
            Ok(seconds) => return seconds,
            // The watchdog has not looked yet.
            Err(text) => assert!(begun.elapsed() < PATIENCE, "{part} is not in {text}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn shown_still_seconds(metrics: SocketAddr, part: &str) -> Result<f64, String> {
    let mut stream = TcpStream::connect(metrics).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let name = format!("hikyaku_watchdog_still_seconds{{part=\"{part}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map(|seconds| seconds.parse().unwrap()).ok_or(text.clone())
}

/// Whether a program can be run.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Waits for the admin socket to be answered on.
pub fn is_answering(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}
