//! A daemon as a child process with a journal in a folder of its own, a client, and the journal's lines.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// Where everything is.
pub struct Stage {
    folder: tempfile::TempDir,
    pub journal: PathBuf,
}

impl Stage {
    /// Everything for `*.sink.test` goes to `sink`; for other domains there is no resolver that answers.
    pub fn new(sink: SocketAddr, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        Self::with_journal(folder, journal, sink, more)
    }

    /// The same with the journal at another place.
    pub fn with_journal(folder: tempfile::TempDir, journal: PathBuf, sink: SocketAddr, more: &str) -> Self {
        let place = folder.path().display();
        // `more` is in two parts: options of [journal], then other sections.
        let (journal_options, sections) = more.split_once("---\n").unwrap_or((more, ""));
        let text = format!(
            "hostname = \"mta.test\"\nthreads = 2\n\
             [spool]\npath = \"{place}/spool\"\nsegment_size = \"1MiB\"\nreserve = \"1MiB\"\n\
             [journal]\npath = \"{}\"\n{journal_options}\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntenant = \"shop\"\n\
             [delivery]\ntls = \"none\"\n\
             [dns]\nresolvers = [\"127.0.0.1:9\"]\nattempts = 1\ntimeout = \"1s\"\nallow_networks = [\"127.0.0.0/8\"]\n\
             [[route]]\ndomain = \"*.sink.test\"\nnext_hop = \"smtp://{sink}\"\n\
             [admin]\nsocket = \"{place}/admin.sock\"\n\
             [metrics]\naddress = \"127.0.0.1:0\"\nenabled = false\n\
             [log]\nformat = \"json\"\n{sections}",
            journal.display()
        );
        std::fs::write(folder.path().join("config.toml"), text).unwrap();
        Self { folder, journal }
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    pub fn spool(&self) -> PathBuf {
        self.folder.path().join("spool")
    }

    /// Starts the daemon and waits until it listens.
    pub fn start(&self) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.arg("run").arg("--config").arg(self.config()).env_remove("NOTIFY_SOCKET");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (tell, told) = mpsc::channel();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let kept = log.clone();
        thread::spawn(move || read_log(stderr, &tell, &kept));
        let address = told.recv_timeout(PATIENCE).expect("the daemon does not listen");
        Daemon { child, address, log }
    }

    /// Any command of the program.
    pub fn program(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_hikyaku")).args(arguments).env_remove("HIKYAKU_SOCKET").output().unwrap()
    }

    /// What `hikyaku status` shows.
    pub fn status(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        let output = command.arg("status").arg("--socket").arg(self.folder.path().join("admin.sock")).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `hikyaku journal ...` on this journal.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = self.reader(arguments);
        command.output().unwrap()
    }

    pub fn reader(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.arg("journal").args(arguments).arg("--path").arg(&self.journal);
        command
    }

    /// Every event there is now, as the command reads them.
    pub fn events(&self) -> Vec<Value> {
        let output = self.command(&["follow", "--from", "start", "--once", "--json"]);
        assert!(output.status.success(), "{output:?}");
        values(&output.stdout)
    }

    /// The events, once `is_enough` of them.
    pub fn until(&self, is_enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let events = self.events();
            if is_enough(&events) {
                return events;
            }
            let seen: Vec<String> = events.iter().map(ToString::to_string).collect();
            assert!(Instant::now() < end, "not enough: {seen:#?}");
            thread::sleep(LOOK);
        }
    }

    /// Every line of every file, read without our own code.
    pub fn raw(&self) -> Vec<Value> {
        let mut out = Vec::new();
        for path in files(&self.journal) {
            let bytes = std::fs::read(&path).unwrap();
            let bytes = if path.extension().unwrap() == "zst" { zstd::decode_all(&bytes[..]).unwrap() } else { bytes };
            out.extend(values(&bytes));
        }
        out
    }
}

/// The journal's files in the order of their names.
pub fn files(journal: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().contains("/journal-")).collect();
    paths.sort();
    paths
}

/// Waits until something is so.
pub fn wait(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: never");
        thread::sleep(LOOK);
    }
}

pub fn values(lines: &[u8]) -> Vec<Value> {
    let lines = lines.split(|octet| *octet == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

pub fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    pub address: SocketAddr,
    /// What it has logged so far.
    pub log: Arc<Mutex<String>>,
}

impl Daemon {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without a warning.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it in good order.
    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log.lock().unwrap());
    }

    pub fn client(&self) -> Client {
        Client::open(self.address).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_log(stderr: ChildStderr, tell: &mpsc::Sender<SocketAddr>, log: &Mutex<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        // Shown with the output of a test that fails.
        println!("{line}");
        log.lock().unwrap().push_str(&format!("{line}\n"));
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        if event["message"] == "listening for submissions" {
            let _ = tell.send(event["address"].as_str().unwrap().parse().unwrap());
        }
    }
}

/// A submission session.
pub struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Client {
    pub fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { writer: stream.try_clone()?, reader: BufReader::new(stream) };
        client.reply()?;
        client.say("EHLO client.test")?;
        Ok(client)
    }

    fn say(&mut self, command: &str) -> std::io::Result<String> {
        self.writer.write_all(format!("{command}\r\n").as_bytes())?;
        self.reply()
    }

    fn reply(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }

    /// Submits a message; its id. `to` may have parameters behind the path.
    pub fn submit(&mut self, from: &str, to: &[&str]) -> String {
        self.try_submit(from, to).unwrap()
    }

    pub fn try_submit(&mut self, from: &str, to: &[&str]) -> std::io::Result<String> {
        self.say(&format!("MAIL FROM:<{from}>"))?;
        for to in to {
            let (path, parameters) = to.split_once(' ').unwrap_or((to, ""));
            let said = self.say(format!("RCPT TO:<{path}> {parameters}").trim_end())?;
            assert!(said.starts_with("250"), "{said}");
        }
        self.say("DATA")?;
        let said = self.say("X-Hikyaku-Campaign: spring \"sale\"\r\nSubject: x\r\n\r\nbody-of-it\r\n.")?;
        assert!(said.starts_with("250"), "{said}");
        Ok(said.rsplit(' ').next().unwrap().to_owned())
    }
}
