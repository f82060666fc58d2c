//! strace, which kills, delays or fails system calls of a daemon.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::daemon::LOOK;

/// Attaching takes a moment for each thread, on a busy machine more.
const ATTACH: Duration = Duration::from_secs(60);

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

impl<'a> Fault<'a> {
    /// Every call, from the moment when it is attached.
    pub fn all(calls: &'a str, action: &'a str) -> Self {
        Self { calls, action, when: "1+".to_owned(), spares_start: true }
    }

    /// A strace that does it.
    pub fn command(&self) -> Command {
        let Self { calls, action, when, .. } = self;
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:{action}:when={when}")]);
        command
    }
}

/// Why cases at system calls cannot run here.
pub fn strace_obstacle() -> Option<String> {
    let fault = Fault { calls: "openat", action: "signal=SIGKILL", when: "1".to_owned(), spares_start: false };
    match fault.command().arg("-D").arg("cat").arg("/dev/null").output() {
        Err(error) => Some(format!("strace: {error}")),
        Ok(output) if output.status.success() => Some("strace injects nothing".to_owned()),
        Ok(output) if output.status.code().is_some() => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Ok(_) => None,
    }
}

/// A strace that has all threads of a process, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
}

impl Tracer {
    /// Waits until every thread is traced, or the process has ended.
    pub fn attach(fault: &Fault<'_>, process: u32) -> Self {
        let mut command = fault.command();
        command.arg("-p").arg(process.to_string());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut tracer = Self { child };
        let end = Instant::now() + ATTACH;
        while !is_traced(process) && tracer.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "strace does not attach");
            thread::sleep(LOOK);
        }
        tracer
    }
}

impl Drop for Tracer {
    /// A strace that is told to end lets go of what it traces.
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
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
