//! S5: what sessions take of the memory of the whole daemon, in the state that takes most. (What a session holds at each limit:
//! `tests/submission/limits.rs`.)

use crate::cases::{cases, sized};
use crate::process::{Client, Daemon};

/// Resident octets of a session beside content.
const MOST: u64 = 256 * 1024;

#[test]
fn a_session_takes_at_most_256_kib_beside_content_in_every_state() {
    measure("", "", Client::connect);
}

#[test]
fn a_session_under_tls_takes_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    std::fs::write(&key, include_bytes!("../data/tls/mx-key.pem")).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let certificate = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/good.pem");
    let section = format!("[[certificate]]\nchain = \"{certificate}\"\nkey = \"{}\"\n", key.display());
    measure("tls = \"implicit\"", &section, Client::connect_tls);
}

fn measure(listener: &str, sections: &str, connect: fn(std::net::SocketAddr) -> Client) {
    let count = sized(200, 2_000);
    for (name, prepare) in [
        ("recipients without end, then half a command", recipients as fn(&mut Client)),
        ("a command without end", endless_command),
        ("a hundred chunks of one octet", chunks),
    ] {
        let daemon = Daemon::start("mx.test", listener, sections);
        // Threads, buffers and tables have their sizes after the first one.
        let mut first = connect(daemon.address);
        prepare(&mut first);
        let before = daemon.memory();

        let mut clients: Vec<Client> = (0..count).map(|_| connect(daemon.address)).collect();
        clients.iter_mut().for_each(prepare);

        let open = daemon.metric("hikyaku_submission_sessions").unwrap();
        assert_eq!(open as usize, count + 1, "all of them are still there");
        let each = daemon.memory().saturating_sub(before) / count as u64;
        println!("{name}, {listener:?}: {count} sessions, {} KiB each", each >> 10);
        assert!(each <= MOST, "{name}, {listener:?}: {each} octets");
        cases(count);
    }
}

/// As many as a session takes, with the longest parameters, and an unfinished line.
fn recipients(client: &mut Client) {
    client.say(&format!("EHLO {}.test", "c".repeat(60)));
    client.say("MAIL FROM:<a@x.test>");
    let domain = ["d".repeat(47), "e".repeat(47), "f".repeat(47)].join(".");
    let line = format!("RCPT TO:<{}@{domain}.test> ORCPT=rfc822;{}\r\n", "l".repeat(60), "o".repeat(490));
    client.write(line.repeat(300).as_bytes());
    let replies: Vec<String> = (0..300).map(|_| client.reply()).collect();
    assert!(replies[0].starts_with("250") && replies[299].starts_with("452 4.5.3"), "{}", replies[299]);
    client.write(&[b'x'; 2_000]);
}

fn endless_command(client: &mut Client) {
    client.say("EHLO c.test");
    client.write(&vec![b'x'; 1 << 18]);
}

fn chunks(client: &mut Client) {
    client.say("EHLO c.test");
    client.say("MAIL FROM:<a@x.test>");
    client.say("RCPT TO:<b@y.test>");
    client.write("BDAT 1\r\nx".repeat(100).as_bytes());
    for _ in 0..100 {
        assert!(client.reply().starts_with("250"));
    }
}
