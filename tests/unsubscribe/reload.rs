//! What a reload takes on, and how a stop ends.

use std::time::Duration;

use hikyaku::config::UnsubscribeScope;
use tokio::io::AsyncWriteExt;

use crate::stage::{FORM, HOST, ONE_CLICK, Stage, answer, certify, field, link, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_tenants_and_addresses_change_without_a_restart() {
    let mut stage = Stage::start().await;
    let path = stage.path_for("ann@sink.test", "news").await;
    let first = stage.daemon.config().clone();
    let mut next = first.clone();
    next.unsubscribe.url = format!("https://{HOST}/shop/");
    next.unsubscribe.tenants[0].scope = UnsubscribeScope::Tenant;
    next.unsubscribe.listen.push("127.0.0.2:0".parse().unwrap());

    let (_, left) = stage.daemon.reload(next.clone()).await.unwrap();

    assert_eq!((left.len(), stage.daemon.unsubscribe_addresses().len()), (0, 2));
    let arrival = stage.arrival(&["bob@sink.test"], "From: a@shop.test").await;
    let moved = link(&arrival.content);
    let below = moved.strip_prefix(&format!("https://{HOST}/shop")).unwrap();
    // A proxy may take the path of the base away or leave it.
    assert_eq!((stage.get(below).await.status, stage.get(&format!("/shop{below}")).await.status), (200, 200));
    assert_eq!(stage.click(&path).await.status, 200, "links of before hold");
    assert!(stage.suppressed("ann@sink.test", "news").is_some() && stage.suppressed("ann@sink.test", "").is_none());
    next.unsubscribe.tenants.clear();
    stage.daemon.reload(next.clone()).await.unwrap();
    let arrival = stage.arrival(&["bob@sink.test"], "From: a@shop.test").await;
    assert_eq!(field(&arrival.content, "List-Unsubscribe"), None);
    next.unsubscribe.listen.clear();
    let address = stage.address();
    stage.daemon.reload(next).await.unwrap();
    assert_eq!(stage.daemon.unsubscribe_addresses(), []);
    let gone = async { while tokio::net::TcpStream::connect(address).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(60), gone).await.is_ok(), "nobody listens there");
    stage.daemon.reload(first).await.unwrap();
    assert_eq!(stage.get(&path).await.status, 200);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_renewed_is_used_without_a_reload() {
    let stage = Stage::start().await;
    assert!(stage.connect_as(HOST).await.is_ok());

    certify(stage.folder.path(), "other.test");

    let renewed = async {
        while stage.connect_as("other.test").await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), renewed).await.is_ok());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_it_is_spoken_in_clear_and_its_word_about_clients_is_taken() {
    let mut stage = Stage::start().await;
    let path = stage.path_for("ann@sink.test", "news").await;
    let mut next = stage.daemon.config().clone();
    next.unsubscribe.tls = false;
    stage.daemon.reload(next).await.unwrap();

    let mut stream = tokio::net::TcpStream::connect(stage.address()).await.unwrap();
    let octets = request("POST", &path, &format!("{FORM}\r\nX-Forwarded-For: 203.0.113.9, 198.51.100.7"), ONE_CLICK);
    stream.write_all(octets.as_bytes()).await.unwrap();

    assert_eq!(answer(&mut stream).await.unwrap().status, 200);
    assert_eq!(stage.journal(1).await[0]["client"], "198.51.100.7");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_with_idle_connections_open() {
    let stage = Stage::start().await;
    let path = stage.path_for("ann@sink.test", "news").await;
    let mut idle = stage.connect().await;
    let clicked = stage.click(&path);
    assert_eq!(clicked.await.status, 200);
    let folder = stage.folder;
    let begun = std::time::Instant::now();

    stage.daemon.stop(Duration::from_secs(60)).await;

    assert!(begun.elapsed() < Duration::from_secs(60), "no client holds it up");
    let _ = idle.write_all(b"GET / HTTP/1.1\r\n").await;
    assert!(answer(&mut idle).await.is_none());
    drop(folder);
}
