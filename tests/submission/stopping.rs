//! A whole daemon that is stopped while a client sends content: what is finished in time is kept, the rest gets 421.

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use hikyaku::config::Config;
use hikyaku::daemon::Daemon;
use hikyaku::submission::Settings;

use crate::daemon;
use crate::server::{Client, Server, id_of};

/// Nothing can be delivered: no resolver answers.
pub fn config(folder: &Path, drain: &str) -> Config {
    let mut config = daemon::config(folder);
    config.metrics.enabled = false;
    config.dns.resolvers = vec!["127.0.0.1:1".parse().unwrap()];
    config.delivery.drain = drain.parse().unwrap();
    config
}

/// A client of `daemon` that has got its 354.
async fn sender(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.submission_addresses()[0]).await;
    client.reply().await;
    client.command("EHLO client.test").await;
    assert!(client.envelope().await[2].starts_with("354"));
    client
}

pub async fn until_queued(daemon: &Daemon, recipients: usize) {
    let begun = Instant::now();
    while daemon.queue().view().totals.queued != recipients {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", daemon.queue());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_content_ends_within_the_grace_is_accepted_and_there_after_the_restart() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(config(folder.path(), "30s")).await.unwrap();
    let (mut busy, mut idle) = (sender(&daemon).await, Client::connect(daemon.submission_addresses()[0]).await);
    idle.reply().await;
    busy.send("Subject: half\r\n\r\nhalf a body\r\n").await;

    let stopping = tokio::spawn(daemon.stop(Duration::from_secs(30)));
    assert!(idle.reply().await.starts_with("421 4.3.2"));
    drop(idle);
    busy.send("the other half\r\n.\r\n").await;
    id_of(&busy.reply().await);
    assert!(busy.reply().await.starts_with("421 4.3.2"));
    drop(busy);
    stopping.await.unwrap();

    let daemon = Daemon::start(config(folder.path(), "30s")).await.unwrap();
    until_queued(&daemon, 1).await;
    daemon.stop(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_silent_in_its_content_is_told_before_the_grace_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(config(folder.path(), "1s")).await.unwrap();
    let mut silent = sender(&daemon).await;

    // The grace is long, so that only half of the configured drain can have ended it.
    let stopping = tokio::spawn(daemon.stop(Duration::from_secs(60)));

    assert_eq!(silent.reply().await, "421 4.3.2 Service is shutting down\r\n");
    assert_eq!(silent.reply().await, "");
    drop(silent);
    stopping.await.unwrap();
}

/// One thread, so that nobody accepts before the stop.
#[tokio::test]
async fn who_waits_to_be_accepted_when_the_stop_begins_is_greeted_with_421() {
    let server = Server::start(Settings::default()).await;
    let waiting: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(server.address).unwrap()).collect();

    server.stop.cancel();
    server.running.await.unwrap();

    for mut stream in waiting {
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("421 4.3.2 "), "{said:?}");
    }
    let refused = TcpStream::connect(server.address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
