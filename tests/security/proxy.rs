//! The PROXY protocol: balancers are believed, nobody else, and what they say decides who may submit.

use hikyaku::submission::{Settings, TlsMode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::authority::{Authority, handshake, one};
use crate::server::{Client, Server, id_of};

const CONTENT: &[u8] = b"Date: x\r\nMessage-ID: <x@x>\r\nSubject: x\r\n\r\nbody\r\n";
const HEADER: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 5000 25\r\n";

/// Loopback is a balancer; clients of 192.0.2.0/24 may submit.
fn behind_a_balancer() -> Settings {
    Settings {
        proxy_networks: vec!["127.0.0.0/8".parse().unwrap()],
        networks: vec!["192.0.2.0/24".parse().unwrap()],
        ..Settings::default()
    }
}

#[tokio::test]
async fn the_client_that_a_balancer_names_is_the_one_of_the_trace_field() {
    let server = Server::start(behind_a_balancer()).await;
    let mut client = Client::connect(server.address).await;
    // In pieces, and with a command behind it in the last one.
    for piece in ["PRO", "XY TCP4 192.0.2.7 198.51", ".100.1 5000 25\r", "\nEHLO client.test\r\n"] {
        client.send(piece).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(client.reply().await.starts_with("220 "));
    assert!(client.reply().await.starts_with("250-"));

    let id = id_of(&client.submit(CONTENT).await);

    let stored = String::from_utf8(server.content(id)).unwrap();
    assert!(stored.starts_with("Received: from client.test ([192.0.2.7])\r\n"), "{stored}");
}

#[tokio::test]
async fn who_a_balancer_names_must_be_of_an_allowed_network() {
    let server = Server::start(behind_a_balancer()).await;
    for header in [HEADER.replace("192.0.2.7", "203.0.113.9"), "PROXY UNKNOWN\r\n".to_owned()] {
        let mut client = Client::connect(server.address).await;
        client.send(header).await;

        assert!(client.reply().await.starts_with("554 5.7.1"));
    }
}

#[tokio::test]
async fn a_balancer_without_a_header_is_closed_without_a_word() {
    let server = Server::start(behind_a_balancer()).await;
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    binary.extend_from_slice(&u16::MAX.to_be_bytes());
    for bad in [
        &b"EHLO client.test\r\n"[..],
        b"PROXY TCP4 192.0.2.7\r\n",
        &binary,
        &[b"PROXY ", [b'x'; 200].as_slice()].concat(),
    ] {
        let mut client = Client::connect(server.address).await;
        client.send(bad).await;

        assert_eq!(client.reply().await, "", "{}", String::from_utf8_lossy(bad));
    }
    assert_eq!(server.metric("hikyaku_submission_rejected_total{cause=\"proxy\"}"), 4.0);
}

#[tokio::test]
async fn a_header_of_anybody_else_is_no_command() {
    let settings = Settings { proxy_networks: vec!["198.51.100.0/24".parse().unwrap()], ..Settings::default() };
    let server = Server::start(settings).await;
    let mut client = server.client().await;

    assert!(client.command(HEADER.trim_end()).await.starts_with("500 5.5.1"));
}

#[tokio::test]
async fn a_handshake_may_follow_the_header() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let tls = one(&authority, folder.path(), TlsMode::Implicit);
    let server = Server::start(Settings { tls, ..behind_a_balancer() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(HEADER.as_bytes()).await.unwrap();

    let mut client = handshake(stream, "mx.test", &authority.client(None)).await.unwrap();

    assert!(client.reply().await.starts_with("220 "));
}
