//! REQUIRETLS and TLS-Required at listeners (RFC 8689).

use hikyaku::message::TlsWish;
use hikyaku::submission::{Settings, TlsMode};

use crate::authority::{Authority, Secure, connect, handshake, one};
use crate::server::{Server, id_of};

async fn server(mode: TlsMode) -> (Server, Authority) {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let tls = one(&authority, folder.path(), mode);
    (Server::start(Settings { tls, ..Settings::default() }).await, authority)
}

async fn secure(server: &Server, authority: &Authority) -> Secure {
    let mut client = connect(server.address, "mx.test", &authority.client(None)).await;
    assert!(client.reply().await.starts_with("220 "));
    let hello = client.command("EHLO client.test").await;
    assert!(hello.contains("250-REQUIRETLS\r\n"), "{hello}");
    client
}

/// What is kept of a message whose MAIL has this parameter and whose header section begins so.
async fn kept(server: &Server, client: &mut Secure, parameter: &str, field: &str) -> TlsWish {
    client.send(format!("MAIL FROM:<a@x.test>{parameter}\r\nRCPT TO:<b@y.test>\r\nDATA\r\n")).await;
    let replies = [client.reply().await, client.reply().await, client.reply().await];
    assert!(replies[2].starts_with("354"), "{replies:?}");
    client.send(format!("{field}Subject: x\r\n\r\nTLS-Required: No\r\n.\r\n")).await;
    let id = id_of(&client.reply().await);
    let content = String::from_utf8(server.content(id)).unwrap();
    assert!(content.contains(field), "the field is passed on");
    server.spool.load(id).unwrap().envelope.tls
}

#[tokio::test]
async fn requiretls_is_offered_and_known_under_tls_only() {
    let (server, authority) = server(TlsMode::Offered).await;
    let mut client = server.client().await;
    let hello = client.command("EHLO client.test").await;
    assert!(hello.contains("STARTTLS") && !hello.contains("REQUIRETLS"), "{hello}");
    assert!(client.command("MAIL FROM:<a@x.test> REQUIRETLS").await.starts_with("555 5.5.4"));
    assert!(client.command("STARTTLS").await.starts_with("220"));

    let mut client = handshake(client.stream, "mx.test", &authority.client(None)).await.unwrap();

    assert!(client.command("EHLO client.test").await.contains("250-REQUIRETLS\r\n"));
    for bad in ["REQUIRETLS=YES", "REQUIRETLS=", "REQUIRETLS REQUIRETLS"] {
        assert!(client.command(&format!("MAIL FROM:<a@x.test> {bad}")).await.starts_with("501 5.5.4"), "{bad}");
    }
    assert!(client.command("MAIL FROM:<a@x.test> requiretls SIZE=10").await.starts_with("250"));
}

#[tokio::test]
async fn the_wish_is_kept_and_the_parameter_comes_before_the_field() {
    let (server, authority) = server(TlsMode::Implicit).await;
    let mut client = secure(&server, &authority).await;

    for (parameter, field, expected) in [
        ("", "", TlsWish::Unsaid),
        ("", "TLS-Required: No\r\n", TlsWish::Waived),
        ("", "tls-required:\r\n\tnO \r\n", TlsWish::Waived),
        ("", "TLS-Required: Yes\r\n", TlsWish::Unsaid),
        ("", "TLS-Required:\r\n", TlsWish::Unsaid),
        (" REQUIRETLS", "", TlsWish::Required),
        (" REQUIRETLS", "TLS-Required: No\r\n", TlsWish::Required),
    ] {
        assert_eq!(kept(&server, &mut client, parameter, field).await, expected, "{parameter:?} {field:?}");
    }
}
