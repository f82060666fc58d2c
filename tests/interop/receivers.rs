//! The receivers: two Exims (with and without CHUNKING), one Postfix with a listener of each kind, and smtp-sink.
//!
//! All listen on one port of different loopback addresses, and keep what arrives in files below one folder. Their
//! processes end when [`Receivers`] is dropped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::packages;

/// Exim's account is compiled in; a private passwd file has it.
const EXIM: u32 = 64_990;
const NOBODY: u32 = 65_534;
/// Debian's static numbers of the accounts that Postfix runs as here.
const UUCP: u32 = 10;
const NEWS: u32 = 9;

/// Domains of the receivers, and which address of [`Receivers`] each one has.
pub const DOMAINS: [&str; 4] = ["chunks.exim.test", "data.exim.test", "chunks.postfix.test", "data.postfix.test"];
pub const SINK: &str = "sink.test";
/// Reverse-paths; DSNs come to the first Exim.
pub const SENDERS: &str = "senders.test";

/// A process that ends with SIGTERM, so that its children do too, when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        let end = Instant::now() + Duration::from_secs(5);
        while self.0.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > end {
                self.0.kill().ok();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Running receivers.
pub struct Receivers {
    _processes: Vec<Process>,
    folder: PathBuf,
    net: u8,
    pub port: u16,
}

impl Receivers {
    /// Starts all below `folder`, from the packages unpacked in `folder/root`.
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, "")
    }

    /// The same with these lines more in Postfix's master.cf.
    pub fn start_with(folder: &Path, more: &str) -> Self {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        let net = std::process::id() as u8;
        let mut receivers = Self { _processes: Vec::new(), folder: folder.to_owned(), net, port: 0 };
        receivers.port = receivers.free_port();
        for (index, chunking) in [(0, "*"), (1, "")] {
            let process = receivers.exim(index, chunking);
            receivers._processes.push(process);
        }
        let (postfix, sink) = (receivers.postfix(more), receivers.sink());
        receivers._processes.extend([postfix, sink]);
        (0..5).for_each(|index| receivers.wait_for(index));
        receivers
    }

    /// The address of a receiver: as in [`DOMAINS`], and 4 is smtp-sink.
    pub fn address(&self, index: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 88, self.net, index + 1)
    }

    /// A port that is free on all addresses.
    fn free_port(&self) -> u16 {
        (0..50)
            .map(|_| TcpListener::bind((self.address(0), 0)).unwrap().local_addr().unwrap().port())
            .find(|&port| (0..5).all(|index| TcpListener::bind((self.address(index), port)).is_ok()))
            .expect("a port that is free on all addresses")
    }

    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn exim(&self, index: u8, chunking: &str) -> Process {
        let folder = self.folder.join(format!("exim{index}"));
        make_folder(&folder, EXIM, EXIM, 0o755);
        for name in ["spool", "log", "out"] {
            make_folder(&folder.join(name), EXIM, EXIM, 0o755);
        }
        let program = self.root().join("usr/sbin/exim4");
        // Set-user-id makes the loader ignore LD_PRELOAD, and nothing here needs it.
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let passwd = extended("/etc/passwd", &format!("Debian-exim:x:{EXIM}:{EXIM}::/nonexistent:/usr/sbin/nologin"));
        let group = extended("/etc/group", &format!("Debian-exim:x:{EXIM}:"));
        let config = include_str!("exim.conf")
            .replace("{root}", path(&self.root()))
            .replace("{folder}", path(&folder))
            .replace("{address}", &self.address(index).to_string())
            .replace("{port}", &self.port.to_string())
            .replace("{chunking}", chunking);
        for (name, text) in [("passwd", passwd), ("group", group), ("conf", config)] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let mut command = Command::new(program);
        command
            .arg("-C")
            .arg(folder.join("conf"))
            .arg("-bdf")
            .env("NSS_WRAPPER_PASSWD", folder.join("passwd"))
            .env("NSS_WRAPPER_GROUP", folder.join("group"))
            .env("LD_PRELOAD", packages::library(&self.root(), "libnss_wrapper.so"));
        self.spawn(command)
    }

    /// It offers TLS if there is a certificate in `tls`.
    fn postfix(&self, more: &str) -> Process {
        let (folder, queue) = (self.folder.join("postfix"), self.folder.join("postfix/queue"));
        for path in [&folder, &folder.join("etc"), &queue, &queue.join("pid")] {
            make_folder(path, 0, 0, 0o755);
        }
        for name in ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "saved", "trace"]
        {
            make_folder(&queue.join(name), UUCP, 0, 0o700);
        }
        make_folder(&queue.join("private"), UUCP, 0, 0o700);
        make_folder(&queue.join("public"), UUCP, NEWS, 0o710);
        make_folder(&queue.join("maildrop"), UUCP, NEWS, 0o730);
        make_folder(&folder.join("data"), UUCP, 0, 0o700);
        make_folder(&folder.join("mail"), NOBODY, NOBODY, 0o755);
        let main = include_str!("postfix-main.cf").replace("{root}", path(&self.root()));
        let master = include_str!("postfix-master.cf")
            .replace("{with}", &self.address(2).to_string())
            .replace("{without}", &self.address(3).to_string())
            .replace("{port}", &self.port.to_string());
        let mut main = main.replace("{folder}", path(&folder));
        let certificate = self.folder.join("tls/chain.pem");
        if certificate.exists() {
            let key = self.folder.join("tls/key.pem");
            main += &format!("smtpd_tls_chain_files = {}, {}\n", path(&key), path(&certificate));
            main += "smtpd_tls_security_level = may\nsmtpd_tls_loglevel = 1\nsmtpd_tls_received_header = yes\n";
        }
        std::fs::write(folder.join("etc/main.cf"), main).unwrap();
        std::fs::write(folder.join("etc/master.cf"), master + more).unwrap();
        let refuse = "/^bad/ 550 5.1.1 no such user here\n/^later/ 451 4.7.1 come back later\n";
        std::fs::write(folder.join("etc/refuse"), refuse).unwrap();
        std::fs::write(folder.join("etc/refuse-content"), "/^after/ 550 5.1.1 no such user after all\n").unwrap();
        std::fs::write(folder.join("etc/transport"), "").unwrap();
        let mut command = Command::new(self.root().join("usr/lib/postfix/sbin/master"));
        command.arg("-c").arg(folder.join("etc")).arg("-d").env("MAIL_CONFIG", folder.join("etc"));
        self.spawn(command)
    }

    fn sink(&self) -> Process {
        let out = self.folder.join("sink");
        make_folder(&out, NOBODY, NOBODY, 0o755);
        let mut command = Command::new(self.root().join("usr/sbin/smtp-sink"));
        let address = SocketAddr::from((self.address(4), self.port)).to_string();
        command.args(["-u", "nobody", "-d"]).arg(out.join("m.")).args([&address, "100"]);
        self.spawn(command)
    }

    /// In a process group of its own: Postfix's master signals its whole group.
    fn spawn(&self, mut command: Command) -> Process {
        command.env("LD_LIBRARY_PATH", packages::library_path(&self.root())).current_dir("/").process_group(0);
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("stderr")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Process(command.spawn().unwrap())
    }

    fn wait_for(&self, index: u8) {
        let begun = Instant::now();
        while TcpStream::connect((self.address(index), self.port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(15), "receiver {index} does not listen:\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the temporary refusals.
    pub fn open(&self) {
        for index in 0..2 {
            std::fs::write(self.folder.join(format!("exim{index}/open")), "").unwrap();
        }
        std::fs::write(self.folder.join("postfix/etc/refuse"), "/^bad/ 550 5.1.1 no such user here\n").unwrap();
    }

    /// Has Postfix pass on what it has accepted for mailboxes that begin with `async` to a port of loopback, and send what is for `domain`
    /// to another. To be told before the first message.
    pub fn pass_on(&self, port: u16, (domain, to): (&str, u16)) {
        let domain = domain.replace('.', "\\.");
        let transport = format!("/^async/ smtp:[127.0.0.1]:{port}\n/@{domain}$/ smtp:[127.0.0.1]:{to}\n");
        std::fs::write(self.folder.join("postfix/etc/transport"), transport).unwrap();
    }

    /// Whether everything that they took is delivered.
    pub fn are_idle(&self) -> bool {
        let queues = ["exim0/spool/input", "exim1/spool/input", "postfix/queue/incoming", "postfix/queue/active"];
        queues.iter().all(|name| {
            let mut entries = std::fs::read_dir(self.folder.join(name)).into_iter().flatten();
            entries.next().is_none()
        })
    }

    /// Folders in which every file is one arrival.
    pub fn folders(&self) -> Vec<PathBuf> {
        ["exim0/out", "exim1/out", "postfix/mail/all/new", "sink"].iter().map(|name| self.folder.join(name)).collect()
    }

    /// What the receivers have logged, for failed assertions.
    pub fn logs(&self) -> String {
        ["stderr", "exim0/log/main", "exim0/log/panic", "exim1/log/main", "exim1/log/panic", "postfix/mail.log"]
            .iter()
            .map(|name| format!("{name}:\n{}", std::fs::read_to_string(self.folder.join(name)).unwrap_or_default()))
            .collect()
    }
}

fn make_folder(path: &Path, user: u32, group: u32, mode: u32) {
    std::fs::create_dir_all(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    chown(path, Some(user), Some(group)).unwrap();
}

fn extended(file: &str, line: &str) -> String {
    format!("{}{line}\n", std::fs::read_to_string(file).unwrap())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
