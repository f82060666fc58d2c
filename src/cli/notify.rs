//! Telling systemd that the daemon is ready, reloading or stopping: the sd_notify protocol (one datagram to `NOTIFY_SOCKET`).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Listening: dependent units may start.
const READY: &str = "READY=1";
/// Everything that must move has moved; without it for `WatchdogSec=` we are killed and started again.
pub(super) const WATCHDOG: &str = "WATCHDOG=1";
/// Draining.
const STOPPING: &str = "STOPPING=1";

/// A reload has begun; [`READY`] follows. systemd wants the time too, to tell it from an earlier one (sd_notify(3)).
pub(super) fn reloading() -> String {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
    format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=Reading the configuration again")
}

/// Ready, with a line for `systemctl status`.
pub(super) fn ready(status: &str) -> String {
    format!("{READY}\nSTATUS={status}")
}

/// Stopping, with a line for `systemctl status`. `grace` and what follows it may be longer than the unit's
/// `TimeoutStopSec=`; one that is longer than this stays.
pub(super) fn stopping(status: &str, grace: Duration) -> String {
    let most = (grace + LAST_SYNC).as_micros();
    format!("{STOPPING}\nEXTEND_TIMEOUT_USEC={most}\nSTATUS={status}")
}

/// For closing the spool and the journal behind the drain; as much as the unit leaves by itself.
const LAST_SYNC: Duration = Duration::from_secs(30);
/// A manager that does not read must not hold the daemon up, least of all at its end.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends `state` if systemd asked for it; nothing is done under another parent.
pub(super) fn notify(state: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) if !socket.is_empty() => send(socket.as_bytes(), state),
        _ => Ok(()),
    }
}

/// How often [`WATCHDOG`] must be sent at least; `None`: nobody waits for it.
pub(super) fn watchdog() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    watchdog_of(variable("WATCHDOG_USEC").as_deref(), variable("WATCHDOG_PID").as_deref(), std::process::id())
}

/// sd_watchdog_enabled(3).
fn watchdog_of(microseconds: Option<&str>, process: Option<&str>, own: u32) -> Option<Duration> {
    let is_ours = process.is_none_or(|process| process.parse() == Ok(own));
    let microseconds = microseconds?.parse().ok().filter(|_| is_ours)?;
    (microseconds > 0).then(|| Duration::from_micros(microseconds))
}

fn send(socket: &[u8], state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(socket))?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(SEND_TIMEOUT))?;
    sender.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_only_by_the_process_that_it_waits_for() {
        assert_eq!(watchdog_of(Some("60000000"), Some("7"), 7), Some(Duration::from_secs(60)));
        assert_eq!(watchdog_of(Some("500000"), None, 7), Some(Duration::from_millis(500)));
        for (microseconds, process) in
            [(None, None), (Some("60000000"), Some("8")), (Some("0"), None), (Some("x"), None)]
        {
            assert_eq!(watchdog_of(microseconds, process, 7), None, "{microseconds:?} {process:?}");
        }
    }

    #[test]
    fn a_stop_asks_for_as_much_time_as_the_drain_may_take() {
        let said = stopping("Draining", Duration::from_secs(3_600));

        assert_eq!(said, "STOPPING=1\nEXTEND_TIMEOUT_USEC=3630000000\nSTATUS=Draining");
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).unwrap();

        let refused = (0..10_000).find_map(|_| send(path.as_os_str().as_bytes(), WATCHDOG).err());

        assert_eq!(refused.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    }

    #[test]
    fn state_reaches_a_socket_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("@{}", folder.path().display());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap()).unwrap();

        send(path.as_os_str().as_bytes(), READY).unwrap();
        send(name.as_bytes(), STOPPING).unwrap();

        let mut buffer = [0; 32];
        assert_eq!(by_path.recv(&mut buffer).map(|length| buffer[..length].to_vec()).unwrap(), READY.as_bytes());
        assert_eq!(by_name.recv(&mut buffer).map(|length| buffer[..length].to_vec()).unwrap(), STOPPING.as_bytes());
    }
}
