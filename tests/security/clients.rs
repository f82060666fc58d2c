//! Certificates of clients, and what binds a session to its handshake.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use hikyaku::tls::Secured;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::{TcpListener, TcpStream};

use crate::authority::{Authority, Secure, acceptor, handshake};

/// Both ends of a handshake; an error is the listener's.
async fn meet(
    server: &Authority,
    clients: Option<Option<&Path>>,
    client: (&Authority, Option<(String, String)>),
) -> std::io::Result<(Secured, Secure)> {
    let folder = tempfile::tempdir().unwrap();
    let (acceptor, _) = acceptor(vec![server.files(folder.path(), "mx.test")], clients);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let config = client.0.client(client.1);
    let (ours, theirs) = tokio::join!(acceptor.accept(accepted), handshake(stream, "mx.test", &config));
    ours.map(|(_, secured)| (secured, theirs.unwrap()))
}

fn sha256(pem: &str) -> [u8; 32] {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    digest(&SHA256, &der).as_ref().try_into().unwrap()
}

#[tokio::test]
async fn without_authorities_a_certificate_counts_by_its_fingerprint_alone() {
    let authority = Authority::new();
    let own = Authority::new().certificate("client.test");
    let fingerprint = sha256(&own.0);

    let (secured, _) = meet(&authority, Some(None), (&authority, Some(own))).await.unwrap();

    let client = secured.client.unwrap();
    assert_eq!((client.sha256, client.names), (fingerprint, Vec::new()));
}

#[tokio::test]
async fn authorities_vouch_for_names_and_nobody_else_s_certificate_is_taken() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    let (own, foreign) = (authority.certificate("Client.test"), Authority::new().certificate("client.test"));

    let (secured, _) = meet(&authority, Some(Some(&path)), (&authority, Some(own))).await.unwrap();
    assert_eq!(secured.client.unwrap().names, ["client.test"]);

    assert!(meet(&authority, Some(Some(&path)), (&authority, Some(foreign))).await.is_err());
    let (secured, _) = meet(&authority, Some(Some(&path)), (&authority, None)).await.unwrap();
    assert_eq!(secured.client, None, "none is needed");
}

#[tokio::test]
async fn a_listener_that_does_not_ask_learns_of_no_certificate() {
    let authority = Authority::new();
    let own = authority.certificate("client.test");

    let (secured, _) = meet(&authority, None, (&authority, Some(own))).await.unwrap();

    assert_eq!(secured.client, None);
}

#[tokio::test]
async fn both_ends_compute_the_same_channel_bindings() {
    let authority = Authority::new();

    let (secured, client) = meet(&authority, None, (&authority, None)).await.unwrap();

    let connection = client.stream.get_ref().1;
    let exporter = connection.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[])).unwrap();
    assert_eq!(secured.exporter, Some(exporter));
    let certificate = &connection.peer_certificates().unwrap()[0];
    // Signed with ECDSA and SHA-256.
    assert_eq!(secured.server_end_point, digest(&SHA256, certificate).as_ref());
}
