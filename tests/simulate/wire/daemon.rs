//! The daemon as a process whose time passes faster.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::PACE;

/// On a busy machine.
const START: Duration = Duration::from_secs(60);

/// The library that changes the time, if it is here.
pub fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.map_while(Result::ok).map(|folder| folder.path());
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.exists())
}

/// A running daemon; ended when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    reader: Option<JoinHandle<Vec<String>>>,
    /// Where it takes mail.
    pub address: SocketAddr,
    /// When its clock hour began.
    pub hour: Instant,
}

impl Daemon {
    /// Starts it with the configuration in a folder.
    pub fn start(folder: &Path, library: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hikyaku"))
            .arg("run")
            .arg("--config")
            .arg(folder.join("config.toml"))
            .env("LD_PRELOAD", library)
            .env("FAKETIME", format!("@2026-01-01 06:00:00 x{PACE}"))
            .env("TZ", "UTC")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (tell, told) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut panics = Vec::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                if event["message"] == "listening for submissions" {
                    let address = event["address"].as_str().unwrap().parse().unwrap();
                    let _ = tell.send((address, Instant::now(), since_the_hour(event["timestamp"].as_str().unwrap())));
                } else if line.contains("panicked") {
                    panics.push(line);
                } else if event["level"] != "INFO" {
                    // A busy machine's disk may well be called slow.
                    println!("{line}");
                }
            }
            panics
        });
        let (address, at, since): (SocketAddr, Instant, Duration) = told.recv_timeout(START).unwrap();
        let hour = at - since / PACE;
        Self { child, socket: folder.join("admin.sock"), reader: Some(reader), address, hour }
    }

    /// What a command answers that asks the daemon.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        let output = command.args(arguments).arg("--json").arg("--socket").arg(&self.socket).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    /// Stops it in good order; what its log has of panics.
    pub fn stop(mut self) -> Vec<String> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // libfaketime leaves them behind.
        for kind in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = std::fs::remove_file(format!("/dev/shm/{kind}{}", self.child.id()));
        }
    }
}

/// Of a time such as 2026-01-01T06:00:01.5Z.
fn since_the_hour(time: &str) -> Duration {
    let (minutes, seconds) = time[14..].trim_end_matches('Z').split_once(':').unwrap();
    Duration::from_secs(60 * minutes.parse::<u64>().unwrap()) + Duration::from_secs_f64(seconds.parse().unwrap())
}
