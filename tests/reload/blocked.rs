//! Reloads that meet what does not answer: they fail, and nothing else waits for them.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::Signal;

use super::daemon::{Daemon, until};

fn admin(socket: &Path) -> String {
    format!("[admin]\nsocket = \"{}\"\n", socket.display())
}

#[test]
fn a_configuration_that_is_a_pipe_is_refused_and_a_stop_is_heard() {
    let mut daemon = Daemon::start("");
    let file = daemon.folder.path().join("config.toml");
    fs::remove_file(&file).unwrap();
    mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();

    daemon.signal(Signal::HUP);
    until("the reload fails", || daemon.logged("the configuration was not reloaded").len() == 1);
    let refused = daemon.cli(&["reload"]);
    daemon.signal(Signal::TERM);

    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("config.toml: it is no regular file"), "{said}");
    assert_eq!(daemon.ended(), Some(0));
}

#[test]
fn an_admin_socket_of_somebody_who_does_not_accept_is_refused_and_a_stop_is_heard() {
    let mut daemon = Daemon::start("");
    let place = daemon.folder.path().join("other.sock");
    let deaf = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&deaf, &SocketAddrUnix::new(&place).unwrap()).unwrap();
    listen(&deaf, 0).unwrap();
    let _waiting = UnixStream::connect(&place).unwrap();

    daemon.configure(&admin(&place));
    let refused = daemon.cli(&["reload"]);
    daemon.signal(Signal::TERM);

    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("another daemon answers on it"), "{said}");
    assert_eq!(daemon.ended(), Some(0));
}

#[test]
fn an_admin_socket_can_be_had_again_while_a_request_from_before_is_open() {
    let daemon = Daemon::start("");
    let (first, second) = (daemon.folder.path().join("admin.sock"), daemon.folder.path().join("second.sock"));
    let mut half_sent = UnixStream::connect(&first).unwrap();
    half_sent.write_all(b"GET /readyz HTTP/1.1\r\nHo").unwrap();
    assert_eq!(daemon.ask("/readyz").0, 200, "accepted after that one");
    daemon.reload(&admin(&second));
    until("the first one is gone", || !first.exists());

    daemon.configure("");
    let back = daemon.cli_at(&second, &["reload"]);

    assert_eq!(back.status.code(), Some(0), "{}", String::from_utf8_lossy(&back.stderr));
    assert_eq!(daemon.ask("/readyz").0, 200);
}
