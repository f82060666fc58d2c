//! The program as a child process: everything that it shows of what it was told.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::port::Port;

/// For everything that is waited for: a busy machine is no failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running daemon; ended when dropped.
pub struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
    metrics: Port,
    /// Where it takes submissions.
    pub address: SocketAddr,
}

impl Daemon {
    /// With one listener; `more` is added to its section, `sections` to the configuration.
    pub fn start(hostname: &str, listener: &str, sections: &str) -> Self {
        let (folder, port, metrics) = (tempfile::tempdir().unwrap(), Port::take(), Port::take());
        Self::at(folder, &port, metrics, hostname, listener, sections)
    }

    /// The same at a port that is known before.
    pub fn start_at(port: &Port, hostname: &str, listener: &str, sections: &str) -> Self {
        Self::at(tempfile::tempdir().unwrap(), port, Port::take(), hostname, listener, sections)
    }

    fn at(
        folder: tempfile::TempDir,
        port: &Port,
        metrics: Port,
        hostname: &str,
        listener: &str,
        sections: &str,
    ) -> Self {
        let place = folder.path().display();
        let text = format!(
            "hostname = \"{hostname}\"\nthreads = 2\n[spool]\npath = \"{place}/spool\"\nreserve = \"1MiB\"\n\
             [journal]\npath = \"{place}/journal\"\n[admin]\nsocket = \"{place}/admin.sock\"\n\
             [metrics]\naddress = \"{}\"\n[log]\nformat = \"json\"\nfilter = \"hikyaku=debug\"\n\
             [delivery]\ntls = \"none\"\n[dns]\nresolvers = [\"127.0.0.1:1\"]\nallow_networks = [\"127.0.0.0/8\"]\n\
             [[listener]]\naddress = \"{}\"\nmax_sessions = 5000\n{listener}\n{sections}",
            metrics.address, port.address
        );
        fs::write(folder.path().join("config.toml"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.arg("run").arg("--config").arg(folder.path().join("config.toml")).env_remove("NOTIFY_SOCKET");
        let log = File::create(folder.path().join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut daemon = Self { child, folder, metrics, address: port.address };
        daemon.until("it listens", |daemon| daemon.log().contains("listening for submissions"));
        daemon
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits for a state of it.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}; {}", self.log());
            assert!(self.child.try_wait().unwrap().is_none(), "it has ended: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Resident octets.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// What the admin interface answers to a request line's target: the status code and the body.
    pub fn admin(&self, method: &str, target: &[u8], body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.path("admin.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let rest = format!(
            " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let request = [method.as_bytes(), b" ", target, rest.as_bytes(), body.as_bytes()].concat();
        // It may refuse before it has read everything.
        let _ = stream.write_all(&request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).expect("answers are UTF-8");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default(), body.to_owned())
    }

    /// A count of the queue.
    pub fn total(&self, name: &str) -> u64 {
        let (_, body) = self.admin("GET", b"/v1/status", "");
        serde_json::from_str::<Value>(&body).unwrap()["queue"][name].as_u64().unwrap()
    }

    /// What Prometheus would read.
    pub fn metrics(&self) -> String {
        let mut stream = std::net::TcpStream::connect(self.metrics.address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// A metric with exactly these labels, if it is there.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.metrics();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(|value| value.parse().unwrap())
    }

    /// The journal's lines so far.
    pub fn journal(&self) -> String {
        let files = fs::read_dir(self.path("journal")).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
        files.sort();
        files.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    /// `hikyaku` with these arguments; its exit code and what it wrote to either stream.
    pub fn command(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.args(arguments).env("HIKYAKU_SOCKET", self.path("admin.sock")).stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let code = output.status.code().unwrap_or_else(|| panic!("{arguments:?} ended by a signal"));
        (code, String::from_utf8(said).unwrap_or_else(|error| panic!("{arguments:?}: {error}")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            println!("{}", log.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
        }
    }
}

fn tcp(address: SocketAddr) -> std::net::TcpStream {
    let stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn tls_config() -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(include_bytes!("../data/tls/ca.pem")).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A client that sends something and reads one reply to each line of it.
pub struct Client {
    stream: std::io::BufReader<Box<dyn Stream>>,
}

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

impl Client {
    /// Greeted.
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(Box::new(tcp(address)))
    }

    /// Greeted under TLS, which begins at once; `mx0.example.test`, vouched for by the tests' authority is at the other end.
    pub fn connect_tls(address: SocketAddr) -> Self {
        let session = rustls::ClientConnection::new(tls_config(), "mx0.example.test".try_into().unwrap()).unwrap();
        Self::over(Box::new(rustls::StreamOwned::new(session, tcp(address))))
    }

    fn over(stream: Box<dyn Stream>) -> Self {
        let mut client = Self { stream: std::io::BufReader::new(stream) };
        assert!(client.reply().starts_with("220"));
        client
    }

    pub fn write(&mut self, octets: &[u8]) {
        self.stream.get_mut().write_all(octets).unwrap();
        self.stream.get_mut().flush().unwrap();
    }

    /// The last line of the next reply; empty when the connection is closed.
    pub fn reply(&mut self) -> String {
        use std::io::BufRead;

        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).unwrap_or_default() == 0 {
                return String::new();
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    pub fn say(&mut self, line: &str) -> String {
        self.write(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// One message; the reply to its end, or the first that refuses it.
    pub fn submit(&mut self, mail: &str, rcpts: &[String], content: &str) -> String {
        let commands = std::iter::once(mail.to_owned()).chain(rcpts.iter().cloned()).chain(["DATA".to_owned()]);
        for line in commands {
            let reply = self.say(&line);
            if !reply.starts_with(['2', '3']) {
                self.say("RSET");
                return reply;
            }
        }
        self.write(content.as_bytes());
        self.say(".")
    }
}
