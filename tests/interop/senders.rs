//! The clients: Python's smtplib, swaks and Postfix's smtp-source, each with messages for every receiver.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::packages::{self, run};
use super::receivers::{DOMAINS, SENDERS, SINK};

/// Bodies that have broken mail systems: dots, line lengths, octets, sizes.
fn bodies() -> Vec<Vec<u8>> {
    let lines = |number: usize, line: &[u8]| [line, b"\r\n"].concat().repeat(number);
    let all_octets: Vec<u8> = (1..=255_u8).filter(|octet| !b"\r\n".contains(octet)).collect();
    vec![
        b"one line\r\n".to_vec(),
        b".\r\n..\r\n...\r\n.x\r\n\r\n.\r\n".to_vec(),
        b"\r\n\r\n\r\nempty lines around\r\n\r\n\r\n".to_vec(),
        lines(1, &[b'x'; 998]),
        lines(3, &[b".".as_slice(), &[b'y'; 997]].concat()),
        lines(1, &all_octets),
        "\u{7532}\u{3089} \u{df}\u{e9} trailing blanks \t \r\nFrom the start of a line\r\n>From\r\n"
            .as_bytes()
            .to_vec(),
        // Large enough to be read in pieces, and three octets a line: some piece begins with each of them.
        lines(110_000, b"."),
        b"no final line".iter().copied().chain(*b"\r\n").collect(),
        b"Not-A-Header: x\r\n folded\r\n\tmore\r\n".to_vec(),
        Vec::new(),
    ]
}

/// Message `tag` to all receivers: accepted, refused and deferred recipients between each other.
fn recipients(tag: &str) -> Vec<String> {
    let at = |domain| ["first", "bad", "later", "last"].map(|kind| format!("{kind}-{tag}@{domain}"));
    DOMAINS.into_iter().flat_map(at).chain([format!("first-{tag}@{SINK}")]).collect()
}

fn content(tag: &str, body: &[u8]) -> Vec<u8> {
    let header = format!(
        "Subject: message {tag}\r\n\twhose subject is folded\r\nFrom: {tag}@{SENDERS}\r\nTo: undisclosed-recipients:;\r\n\
         Date: Sun, 22 Nov 2026 05:00:00 +0000\r\nMessage-ID: <{tag}@{SENDERS}>\r\nX-Odd:   spaces  kept \r\n\r\n"
    );
    [header.as_bytes(), body].concat()
}

pub fn python(server: SocketAddr, folder: &Path) {
    for (index, body) in bodies().iter().enumerate() {
        let tag = format!("python{index}");
        std::fs::write(folder.join(format!("{index}.eml")), content(&tag, body)).unwrap();
        std::fs::write(folder.join(format!("{index}.rcpt")), recipients(&tag).join(" ")).unwrap();
    }
    let program = include_str!("smtplib_client.py");
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    run(Command::new("python3").args(["-c", program, &host, &port]).arg(folder)).unwrap();
}

pub fn swaks(server: SocketAddr, folder: &Path) {
    for (index, body) in bodies().iter().enumerate().take(3) {
        let tag = format!("swaks{index}");
        let path = folder.join(&tag);
        // With LF line ends and unstuffed: swaks makes the rest.
        let text = String::from_utf8(content(&tag, body)).unwrap().replace("\r\n", "\n");
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("swaks");
        command.args(["--server", &server.to_string(), "--ehlo", "swaks.test", "--from", &format!("{tag}@{SENDERS}")]);
        command.args(["--to", &recipients(&tag).join(","), "--data", &format!("@{}", path.display())]);
        run(&mut command).unwrap();
    }
}

/// Two sessions with messages of several recipients, for one domain after the other.
pub fn smtp_source(server: SocketAddr, root: &Path) {
    for domain in DOMAINS.into_iter().chain([SINK]) {
        let mut command = Command::new(root.join("usr/sbin/smtp-source"));
        command.env("LD_LIBRARY_PATH", packages::library_path(root));
        command.args(["-s", "2", "-m", "6", "-r", "3", "-l", "5000", "-f", &format!("source@{SENDERS}")]);
        command.args(["-M", "source.test", "-t", &format!("source@{domain}"), &server.to_string()]);
        run(&mut command).unwrap();
    }
}
