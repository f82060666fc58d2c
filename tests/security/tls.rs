//! STARTTLS and implicit TLS (A3 of the table of bad input): nothing from before the handshake survives it.

use hikyaku::submission::{Settings, TlsMode};
use rustls::HandshakeKind;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::authority::{Authority, acceptor, connect, handshake, one};
use crate::server::{Client, Server, id_of};

const CONTENT: &str = "Date: x\r\nMessage-ID: <x@x>\r\nSubject: x\r\n\r\nbody\r\n";

/// A listener with TLS, and who signed its certificate.
async fn server(mode: TlsMode) -> (Server, Authority) {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let tls = one(&authority, folder.path(), mode);
    (Server::start(Settings { tls, ..Settings::default() }).await, authority)
}

/// A client that has been told to begin the handshake.
async fn about_to_begin(server: &Server) -> TcpStream {
    let mut client = server.ready().await;
    assert_eq!(client.command("STARTTLS").await, "220 2.0.0 Ready to start TLS\r\n");
    client.stream
}

#[tokio::test]
async fn starttls_is_offered_used_once_and_told_in_the_trace_field() {
    let (server, authority) = server(TlsMode::Offered).await;
    let mut client = server.client().await;
    assert!(client.command("EHLO client.test").await.contains("250-STARTTLS\r\n"));
    assert_eq!(client.command("STARTTLS").await, "220 2.0.0 Ready to start TLS\r\n");

    let mut client = handshake(client.stream, "mx.test", &authority.client(None)).await.unwrap();

    let hello = client.command("EHLO client.test").await;
    assert!(hello.starts_with("250-mx.test\r\n") && !hello.contains("STARTTLS"), "{hello}");
    assert!(client.command("STARTTLS").await.starts_with("503 5.5.1"), "a second one");
    let id = id_of(&client.submit(CONTENT).await);
    let stored = String::from_utf8(server.content(id)).unwrap();
    let expected = format!("with ESMTPS id {id}\r\n\tfor <b@y.test>\r\n\ttls TLS_AES_256_GCM_SHA384;\r\n");
    assert!(stored.contains(&expected), "{stored}");
    assert_eq!(server.metric("hikyaku_submission_tls_handshakes_total{result=\"TLSv1.3\"}"), 1.0);
    assert_eq!(client.command("QUIT").await, "221 2.0.0 Bye\r\n");
    assert_eq!(client.reply().await, "");
}

#[tokio::test]
async fn a_large_message_goes_through_tls_whole() {
    let (server, authority) = server(TlsMode::Implicit).await;
    let mut client = connect(server.address, "mx.test", &authority.client(None)).await;
    assert!(client.reply().await.starts_with("220 "));
    client.command("EHLO client.test").await;
    let content =
        format!("{CONTENT}{}", "0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n".repeat(40_000));

    let id = id_of(&client.submit(&content).await);

    assert!(server.content(id).ends_with(content.as_bytes()));
}

#[tokio::test]
async fn nothing_said_before_the_handshake_holds_after_it() {
    let (server, authority) = server(TlsMode::Offered).await;
    let mut client = server.ready().await;
    assert!(client.command("MAIL FROM:<a@x.test>").await.starts_with("250"));
    assert!(client.command("RCPT TO:<b@y.test>").await.starts_with("250"));
    assert!(client.command("STARTTLS").await.starts_with("220"));

    let mut client = handshake(client.stream, "mx.test", &authority.client(None)).await.unwrap();

    assert!(client.command("DATA").await.starts_with("503"), "no transaction");
    assert!(client.command("MAIL FROM:<a@x.test>").await.starts_with("503 5.5.1 Send EHLO first"), "no EHLO");
}

#[tokio::test]
async fn what_is_injected_behind_starttls_is_never_carried_out() {
    let (server, authority) = server(TlsMode::Offered).await;
    let mut client = server.ready().await;
    client.send("STARTTLS\r\nEHLO evil.test\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<b@y.test>\r\n").await;
    assert!(client.reply().await.starts_with("220"));

    let mut client = handshake(client.stream, "mx.test", &authority.client(None)).await.unwrap();

    // A reply to what was injected would come first.
    assert_eq!(client.command("NOOP").await, "250 2.0.0 Ok\r\n");
    assert!(client.command("RCPT TO:<c@y.test>").await.starts_with("503"));
    assert!(client.command("MAIL FROM:<a@x.test>").await.starts_with("503 5.5.1 Send EHLO first"));
}

#[tokio::test]
async fn starttls_out_of_order_or_with_an_argument_is_refused_and_the_session_goes_on_in_clear() {
    let (server, _) = server(TlsMode::Offered).await;
    let mut client = server.client().await;
    assert!(client.command("STARTTLS").await.starts_with("503 5.5.1"), "before EHLO");
    client.command("HELO client.test").await;
    assert!(client.command("STARTTLS").await.starts_with("503 5.5.1"), "after HELO nothing was offered");
    client.command("EHLO client.test").await;
    assert!(client.command("STARTTLS now").await.starts_with("501 5.5.4"));

    assert!(client.submit(CONTENT.as_bytes()).await.starts_with("250"));
}

#[tokio::test]
async fn where_tls_is_required_no_transaction_begins_in_clear() {
    let (server, authority) = server(TlsMode::Required).await;
    let mut client = server.ready().await;
    assert!(client.command("MAIL FROM:<a@x.test>").await.starts_with("530 5.7.0"));
    client.command("STARTTLS").await;
    let mut client = handshake(client.stream, "mx.test", &authority.client(None)).await.unwrap();
    client.command("EHLO client.test").await;

    assert!(client.submit(CONTENT).await.starts_with("250"));
}

#[tokio::test]
async fn a_client_that_speaks_clear_text_where_a_handshake_is_due_is_closed() {
    for mode in [TlsMode::Offered, TlsMode::Implicit] {
        let (server, _) = server(mode).await;
        let stream = match mode {
            TlsMode::Implicit => TcpStream::connect(server.address).await.unwrap(),
            _ => about_to_begin(&server).await,
        };
        let mut client = Client::of(stream);

        client.send("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n").await;

        let mut rest = Vec::new();
        let _ = client.stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"250") && !rest.starts_with(b"220"), "an alert at most: {rest:?}");
        server.idle().await;
        assert_eq!(server.metric("hikyaku_submission_tls_handshakes_total{result=\"failed\"}"), 1.0);
    }
}

#[tokio::test]
async fn each_name_gets_its_certificate_and_a_replaced_file_the_next_handshake() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let files = ["mx.test", "other.test"].map(|name| authority.files(folder.path(), name));
    let (acceptor, certificates) = acceptor(files.to_vec(), None);
    let tls = Some(hikyaku::submission::Tls { acceptor, mode: TlsMode::Implicit });
    let server = Server::start(Settings { tls, ..Settings::default() }).await;
    let client = authority.client(None);
    let shown = async |name: &str| {
        let secure = connect(server.address, name, &client).await;
        secure.stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };

    let before = [shown("mx.test").await, shown("other.test").await];
    assert_ne!(before[0], before[1]);
    // No name of ours: the first.
    assert!(handshake(TcpStream::connect(server.address).await.unwrap(), "third.test", &client).await.is_err());
    assert_eq!(certificates.refresh().0, 0, "nothing has changed");

    authority.write(&files[1], "other.test");
    std::fs::File::options().write(true).open(&files[1].chain).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    std::fs::write(&files[0].chain, "half of it").unwrap();
    let (read, errors) = certificates.refresh();
    assert_eq!((read, errors.len()), (1, 1), "one that is spoilt stops no other: {errors:?}");

    assert_eq!(shown("mx.test").await, before[0]);
    assert_ne!(shown("other.test").await, before[1]);
}

#[tokio::test]
async fn a_certificate_that_is_spoilt_leaves_the_one_before_in_use() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let files = authority.files(folder.path(), "mx.test");
    let (acceptor, certificates) = acceptor(vec![files.clone()], None);
    let tls = Some(hikyaku::submission::Tls { acceptor, mode: TlsMode::Implicit });
    let server = Server::start(Settings { tls, ..Settings::default() }).await;

    let (_, other_key) = authority.certificate("mx.test");
    std::fs::write(&files.key, other_key + "\n").unwrap();
    let (read, errors) = certificates.refresh();

    assert_eq!((read, errors.len()), (0, 1), "{errors:?}");
    assert!(errors[0].to_string().contains("mx.test.key is not the key of the certificate in"), "{errors:?}");
    let mut client = connect(server.address, "mx.test", &authority.client(None)).await;
    assert!(client.reply().await.starts_with("220 "));
}

#[tokio::test]
async fn a_ticket_is_good_at_its_listener_and_nowhere_else() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let files = authority.files(folder.path(), "mx.test");
    let mut servers = Vec::new();
    for _ in 0..2 {
        let (acceptor, _) = acceptor(vec![files.clone()], None);
        let tls = Some(hikyaku::submission::Tls { acceptor, mode: TlsMode::Implicit });
        servers.push(Server::start(Settings { tls, ..Settings::default() }).await);
    }
    let config = authority.client(None);
    let kind = async |server: &Server| {
        let mut client = connect(server.address, "mx.test", &config).await;
        // Tickets come behind the handshake.
        assert!(client.reply().await.starts_with("220 "));
        client.stream.get_ref().1.handshake_kind().unwrap()
    };

    assert_eq!(kind(&servers[0]).await, HandshakeKind::Full);
    assert_eq!(kind(&servers[0]).await, HandshakeKind::Resumed);
    assert_eq!(kind(&servers[1]).await, HandshakeKind::Full);
}
