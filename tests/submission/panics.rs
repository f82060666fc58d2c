//! A panic in a session is its client's affair alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hikyaku::panics::Probe;
use hikyaku::submission::Settings;

use crate::server::{Server, id_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_closes_its_session_without_a_reply_and_touches_no_other() {
    let seen = Arc::new(AtomicU64::new(0));
    let count = seen.clone();
    // The second message that is admitted.
    let probe = Probe(Arc::new(move |_| assert_ne!(count.fetch_add(1, Ordering::SeqCst), 1, "a bug in this message")));
    let server = Server::start(Settings { probe: Some(probe), ..Settings::default() }).await;
    let (mut other, mut unlucky) = (server.ready().await, server.ready().await);
    let first = id_of(&unlucky.submit(b"Subject: one\r\n\r\n").await);
    other.envelope().await;

    assert_eq!(unlucky.submit(b"Subject: two\r\n\r\n").await, "", "closed: its client still has the message");

    other.send("Subject: three\r\n\r\n.\r\n").await;
    let third = id_of(&other.reply().await);
    assert_eq!(server.queue.view().totals.queued, 2);
    assert!(server.spool.load(first).is_ok() && server.spool.load(third).is_ok());
    assert_eq!(server.metric("hikyaku_task_panics_total{task=\"submission\"}"), 1.0);
    drop((other, unlucky));
    server.idle().await;
    assert!(server.ready().await.submit(b"Subject: four\r\n\r\n").await.starts_with("250 "), "the listener goes on");
}
