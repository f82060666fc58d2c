//! The system that the package is installed into, and the daemon that is started from its unit file.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

pub const BINARY: &str = "/usr/bin/hikyaku";
pub const CONFIG: &str = "/etc/hikyaku/config.toml";
pub const SPOOL: &str = "/var/spool/hikyaku";
pub const LOG: &str = "/var/log/hikyaku";
pub const RUN: &str = "/run/hikyaku";
const UNIT: &str = "/usr/lib/systemd/system/hikyaku.service";

/// For another package manager to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// The standard output of a command that succeeds; what it said else.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() { Ok(out) } else { Err(format!("{}: {out}{error}", output.status)) }
}

/// The only one on this machine, as long as the file is open.
pub fn alone() -> Option<fs::File> {
    let path = std::env::temp_dir().join("hikyaku-package-test.lock");
    let file = fs::File::create(path).unwrap();
    let begun = Instant::now();
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if begun.elapsed() > PATIENCE {
            return None;
        }
        thread::sleep(Duration::from_millis(100));
    }
    Some(file)
}

/// The number of the daemon's user, if there is one.
pub fn user() -> Option<u32> {
    let entry = run(Command::new("getent").args(["passwd", "hikyaku"])).ok()?;
    entry.split(':').nth(2)?.parse().ok()
}

/// Restored when dropped, whatever happened.
pub struct System {
    /// Folders that were there and where they are meanwhile: daemons that root runs by hand leave them.
    aside: Vec<(&'static str, String)>,
}

impl System {
    pub fn new() -> Self {
        let mut aside = Vec::new();
        for path in [LOG, RUN].into_iter().filter(|path| Path::new(path).exists()) {
            let place = format!("{path}.aside-{}", std::process::id());
            fs::rename(path, &place).unwrap();
            aside.push((path, place));
        }
        Self { aside }
    }

    pub fn install(&self, package: &Path) {
        self.dpkg(&["--install", package.to_str().unwrap()]);
    }

    /// Everything that dpkg says.
    pub fn dpkg(&self, arguments: &[&str]) -> String {
        let begun = Instant::now();
        loop {
            let mut command = Command::new("dpkg");
            // Without it dpkg misses sbin where root has a user's PATH.
            command.args(["--force-confold"]).args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            let result = run(&mut command);
            match result {
                Ok(said) => return said,
                // Another one is at work.
                Err(said) if said.contains("lock") && begun.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(500));
                }
                Err(said) => panic!("dpkg {arguments:?}: {said}"),
            }
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = run(Command::new("dpkg").args(["--purge", "hikyaku"]));
            for path in [SPOOL, LOG, RUN, "/etc/hikyaku"] {
                let _ = fs::remove_dir_all(path);
            }
            let _ = run(Command::new("userdel").arg("hikyaku"));
        }
        for (path, place) in &self.aside {
            if let Err(error) = fs::rename(place, path) {
                println!("{place} could not be moved back to {path}: {error}");
            }
        }
    }
}

/// The daemon, started as its unit says: as its user, with its command.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    pub fn start(folder: &Path) -> Self {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        let unit = fs::read_to_string(UNIT).unwrap();
        let setting = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        let (user, group) = (setting("User="), setting("Group="));
        let (notify, log) = (folder.join("notify"), folder.join("log"));
        let notified = UnixDatagram::bind(&notify).unwrap();
        fs::set_permissions(&notify, fs::Permissions::from_mode(0o777)).unwrap();
        notified.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={group}"), "--init-groups"]);
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
        command.args(setting("ExecStart=").split_whitespace());
        command.env("NOTIFY_SOCKET", &notify).stdin(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let daemon = Self { child: command.spawn().unwrap(), log };
        let mut buffer = [0; 64];
        let told = notified.recv(&mut buffer).map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned());
        assert!(told.is_ok_and(|told| told.starts_with("READY=1")), "{}", daemon.log());
        daemon
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Where it listens, from its log.
    pub fn listener(&self) -> SocketAddr {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("listening for submissions")).unwrap();
        let (_, rest) = line.split_once("address=").unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
