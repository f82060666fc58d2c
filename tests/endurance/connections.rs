//! Many clients and many deliveries at once.

use std::time::Duration;

use crate::daemon::Daemon;
use crate::is_full;
use crate::probe::{Probe, Session};
use crate::sink::{self, Sink};

#[test]
fn a_session_and_a_connection_take_one_descriptor_each() {
    let count = if is_full() { 2_000 } else { 200 };
    let sink = Sink::start(false);
    let routes: String = (0..count)
        .map(|number| {
            let address = sink::address(number);
            format!("[[route]]\ndomain = \"d{number}.test\"\nnext_hop = \"smtp://{address}:{}\"\n", sink.port)
        })
        .collect();
    let more = format!(
        "[delivery]\ntls = \"none\"\nidle = \"1s\"\n[dns]\nallow_networks = [\"127.0.0.0/8\"]\n\
         [[route]]\ndomain = \"discard.test\"\nnext_hop = \"discard\"\n{routes}"
    );
    let daemon = Daemon::start(tempfile::tempdir().unwrap(), "", &more);
    // Before any session: a session's socket may still be open a moment after its client has gone.
    let (sockets, _) = daemon.descriptors();
    // The committer makes segments ahead; what it has open is there after the first message.
    let mut session = Session::open(daemon.address);
    session.submit(&["a@discard.test".to_owned()]);
    session.quit();
    daemon.until("quiet", Duration::from_secs(60), |daemon| daemon.total("queued") == 0);
    let (_, others) = daemon.descriptors();
    let memory = daemon.memory();

    let clients: Vec<Session> = (0..count).map(|_| Session::open(daemon.address)).collect();
    let mut session = Session::open(daemon.address);
    for number in 0..count {
        session.submit(&[format!("a@d{number}.test")]);
    }
    session.quit();
    let long = Duration::from_secs(120);
    daemon.until("all connections", long, |_| sink.open().0 == count);
    daemon.until("only these", long, |daemon| daemon.descriptors().0 == sockets + 2 * count);
    let (_, more_others) = daemon.descriptors();
    println!(
        "{count} sessions and {count} connections: {} sockets and {more_others} other descriptors; before {sockets} and \
         {others}; {} KiB a pair",
        sockets + 2 * count,
        (daemon.memory().saturating_sub(memory) >> 10) / count as u64
    );
    assert!(more_others <= others + 4, "{others} grew to {more_others}");
    let probe = Probe::start(daemon.address);
    std::thread::sleep(Duration::from_secs(if is_full() { 20 } else { 2 }));
    assert!(probe.end("with all of them open") > 0);

    sink.answer();
    daemon.until("all delivered", long, |_| sink.recipients() == count as u64);
    clients.into_iter().for_each(Session::quit);
    daemon.until("all closed", long, |daemon| daemon.descriptors().0 == sockets && daemon.total("queued") == 0);
}
