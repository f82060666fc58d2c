//! Telling systemd that the daemon is ready, reloading or stopping: the sd_notify protocol (one datagram to `NOTIFY_SOCKET`).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Listening: dependent units may start.
const READY: &str = "READY=1";
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

/// Stopping, with a line for `systemctl status`.
pub(super) fn stopping(status: &str) -> String {
    format!("{STOPPING}\nSTATUS={status}")
}

/// Sends `state` if systemd asked for it; nothing is done under another parent.
pub(super) fn notify(state: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) if !socket.is_empty() => send(socket.as_bytes(), state),
        _ => Ok(()),
    }
}

fn send(socket: &[u8], state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(socket))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

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
