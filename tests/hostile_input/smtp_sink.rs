//! S2: contents sent to Postfix's smtp-sink: what it dumps is what was sent. Its package is unpacked, not installed; SKIPPED
//! where it cannot be had.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use hikyaku::message::Outcome;

use crate::cases::cases;
use crate::errand::{Run, errand};
use crate::fake_mx::FakeMx;
use crate::{onward, packages, skip};

/// A running smtp-sink; killed when dropped.
struct Sink(Child);

impl Drop for Sink {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start(packages: &Path, folder: &Path) -> (Sink, SocketAddr) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(packages.join("usr/sbin/smtp-sink"));
    command.env("LD_LIBRARY_PATH", packages::library_path(packages));
    // As root it insists on giving up its privileges.
    if std::fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t")) {
        command.args(["-u", "nobody"]);
    }
    let dump = folder.join("m.").to_str().unwrap().to_owned();
    command.args(["-d", &dump, &address.to_string(), "100"]).current_dir("/");
    let sink = Sink(command.spawn().unwrap());
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "smtp-sink does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    (sink, address)
}

#[tokio::test]
async fn smtp_sink_gets_every_content_as_it_was_sent() {
    let unpacked = tempfile::tempdir().unwrap();
    if let Err(reason) = packages::unpack(unpacked.path(), "smtp-sink-packages", &["postfix", "libnss-wrapper"]) {
        return skip::skip("smtp_sink_gets_every_content_as_it_was_sent", &reason);
    }
    let folder = tempfile::tempdir().unwrap();
    let (_sink, address) = start(unpacked.path(), folder.path());
    let bodies = ["a", ".", "..", ".a", "a\r\n.", ".\r\n.\r\n..", "\r\n.\r\n", "...\r\nx", "a.\r\n.b"];
    let bodies = bodies.map(|body| format!("A: b\r\n\r\n{body}\r\n"));
    let accepted = onward::accepted().into_iter().map(|content| String::from_utf8(content).unwrap());
    let contents: Vec<String> = bodies
        .into_iter()
        .chain(accepted)
        .zip(0..)
        .map(|(text, number)| format!("X-Number: {number}\r\n{text}"))
        .collect();
    let errands = contents.iter().zip(0..).map(|(content, number)| errand(number, content.as_bytes()));
    // Only lends its form: the address is smtp-sink's.
    let form = FakeMx::new().start().await;

    let run = Run::to(&[&form]).ready(errands).plan(|plan| {
        plan.port = address.port();
        plan.hosts[0].addresses = [address.ip()].as_slice().into();
    });
    let log = run
        .settings(|settings| settings.timeouts = hikyaku::delivery::Timeouts::all(Duration::from_secs(5)))
        .go()
        .await;

    assert_eq!(log.reports.len(), contents.len(), "{log:?}");
    assert!(log.reports.iter().all(|(_, outcomes)| matches!(outcomes[..], [Outcome::Delivered(_)])), "{log:?}");
    let dumps: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    for (number, content) in contents.iter().enumerate() {
        let expected = content.replace("\r\n", "\n");
        let found: Vec<_> = dumps.iter().filter(|dump| dump.contains(&format!("X-Number: {number}\n"))).collect();
        assert_eq!(found.len(), 1, "{content:?} came once");
        let arrived = found[0].find("X-Number").map(|at| &found[0][at..]).unwrap();
        assert_eq!(arrived.trim_end_matches('\n'), expected.trim_end_matches('\n'));
    }
    assert_eq!(dumps.len(), contents.len());
    cases(contents.len());
}
