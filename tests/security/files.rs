//! Certificates of the whole daemon: refused by name at the start and at a reload, renewed without either.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use hikyaku::config::Config;
use hikyaku::daemon::Daemon;
use hikyaku::tls::Files;
use rustls::HandshakeKind;

use crate::authority::{Authority, connect};

fn config(folder: &Path, files: &Files) -> Config {
    let place = folder.display();
    let text = format!(
        "[spool]\npath = \"{place}/spool\"\nreserve = \"1MiB\"\n[journal]\nenabled = false\n\
         [admin]\nsocket = \"{place}/admin.sock\"\n[metrics]\nenabled = false\n\
         [[certificate]]\nchain = {:?}\nkey = {:?}\n[[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"implicit\"\n",
        files.chain, files.key
    );
    Config::parse(&text, Path::new("hikyaku.toml")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_others_can_read_keeps_the_daemon_from_starting() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let files = authority.files(folder.path(), "mx.test");
    fs::set_permissions(&files.key, Permissions::from_mode(0o644)).unwrap();

    let said = Daemon::start(config(folder.path(), &files)).await.unwrap_err().to_string();

    assert!(said.contains("mx.test.key has mode 0644") && said.contains("chmod 0640"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_used_without_a_reload_and_one_that_is_gone_is_told() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let files = authority.files(folder.path(), "mx.test");
    let daemon = Daemon::start(config(folder.path(), &files)).await.unwrap();
    let (address, client) = (daemon.submission_addresses()[0], authority.client(None));
    let shown = async || {
        let secure = connect(address, "mx.test", &client).await;
        secure.stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let before = shown().await;

    authority.write(&files, "mx.test");
    eventually(async || shown().await != before).await;
    let renewed = shown().await;
    fs::remove_file(&files.chain).unwrap();
    eventually(async || daemon.registry().render().contains("hikyaku_tls_certificate_reload_failed 1")).await;

    assert_eq!(shown().await, renewed);
    daemon.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_stays_good_over_a_reload_that_changes_something_else() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let files = authority.files(folder.path(), "mx.test");
    let mut daemon = Daemon::start(config(folder.path(), &files)).await.unwrap();
    let (address, client) = (daemon.submission_addresses()[0], authority.client(None));
    let kind = async || {
        let mut secure = connect(address, "mx.test", &client).await;
        // Tickets come behind the handshake.
        assert!(secure.reply().await.starts_with("220 "));
        secure.stream.get_ref().1.handshake_kind().unwrap()
    };
    let before = kind().await;

    let mut other = config(folder.path(), &files);
    other.listeners[0].tenant = "other".to_owned();
    let (changed, _) = daemon.reload(other).await.unwrap();

    assert_eq!((before, changed.len(), kind().await), (HandshakeKind::Full, 1, HandshakeKind::Resumed));
    daemon.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_of_clients_are_read_again_by_each_reload() {
    let (authority, other, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let mut config = config(folder.path(), &authority.files(folder.path(), "mx.test"));
    let authorities = folder.path().join("ca.pem");
    fs::write(&authorities, authority.pem()).unwrap();
    config.listeners[0].client_certificates = true;
    config.listeners[0].client_ca = authorities.clone();
    let mut daemon = Daemon::start(config.clone()).await.unwrap();
    let address = daemon.submission_addresses()[0];
    let greeting = async |by: &Authority| {
        let client = authority.client(Some(by.certificate("client.test")));
        connect(address, "mx.test", &client).await.reply().await
    };
    assert!(greeting(&authority).await.starts_with("220 ") && greeting(&other).await.is_empty());
    assert_eq!(daemon.reload(config.clone()).await.unwrap().0.len(), 0);

    fs::write(&authorities, other.pem()).unwrap();
    let (changed, _) = daemon.reload(config).await.unwrap();

    assert_eq!(changed.iter().map(|change| change.key.as_str()).collect::<Vec<_>>(), ["listener.client_ca"]);
    assert!(greeting(&authority).await.is_empty() && greeting(&other).await.starts_with("220 "));
    daemon.stop(Duration::from_secs(5)).await;
}

async fn eventually(is_so: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "never");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
