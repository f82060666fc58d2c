//! The listener on a real socket with the real spool: what is said 250 to is stored octet for octet, limits of the listener,
//! time-outs, faults of the disk, and stopping.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hikyaku::queue;
use hikyaku::submission::Settings;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use crate::server::{Client, Server, id_of, stuffed};

const RECEIVED: &str = "Received: from client.test ([127.0.0.1])\r\n\tby mx.test with ESMTP id ";

/// Header section and `lines` numbered lines.
fn content(lines: usize) -> Vec<u8> {
    let mut text = "Date: x\r\nMessage-ID: <x@x>\r\nSubject: x\r\n\r\n".to_owned();
    for line in 0..lines {
        text.push_str(&format!(".{line:08} abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz\r\n"));
    }
    text.into_bytes()
}

fn patient() -> Settings {
    Settings::default()
}

fn hasty(timeout: Duration) -> Settings {
    Settings { timeout, ..Settings::default() }
}

#[tokio::test]
async fn a_message_with_a_250_is_in_the_spool_and_in_the_queue() {
    let server = Server::start(patient()).await;
    let mut client = server.ready().await;

    let id = id_of(&client.submit(&content(150)).await);

    let stored = server.content(id);
    let text = String::from_utf8(stored.clone()).unwrap();
    assert!(text.starts_with(&format!("{RECEIVED}{id}\r\n\tfor <b@y.test>;\r\n\t")), "{text}");
    assert!(stored.ends_with(&content(150)));
    let envelope = server.spool.load(id).unwrap().envelope;
    assert_eq!((envelope.reverse_path.as_str(), envelope.recipients.len()), ("a@x.test", 1));
    assert_eq!(server.queue.view().totals.queued, 1);
    assert_eq!(client.command("QUIT").await, "221 2.0.0 Bye\r\n");
    assert_eq!(client.reply().await, "");
}

#[tokio::test]
async fn pipelined_replies_leave_in_one_write() {
    let server = Server::start(patient()).await;
    let mut client = server.ready().await;
    client.envelope().await;
    let next = [&stuffed(&content(3)), b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n".as_slice()].concat();

    client.send(next).await;
    let mut buffer = [0; 4_096];
    let read = client.stream.read(&mut buffer).await.unwrap();

    let replies = std::str::from_utf8(&buffer[..read]).unwrap();
    let codes: Vec<_> = replies.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["250", "250", "250", "354"], "{replies}");
}

#[tokio::test]
async fn large_contents_go_through_a_spill_file_octet_for_octet() {
    let server = Server::start(patient()).await;
    let mut client = server.ready().await;
    let large = content(60_000);

    let by_data = id_of(&client.submit(&large).await);
    client.send("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n").await;
    let (one, two) = large.split_at(1_234_567);
    client.send(format!("BDAT {}\r\n", one.len())).await;
    client.send(one).await;
    client.send(format!("BDAT {} LAST\r\n", two.len())).await;
    client.send(two).await;
    let mut last = String::new();
    for _ in 0..4 {
        last = client.reply().await;
    }
    let by_chunks = id_of(&last);

    for id in [by_data, by_chunks] {
        let stored = server.content(id);
        assert!(stored.starts_with(format!("{RECEIVED}{id}").as_bytes()));
        assert!(stored.ends_with(&large));
        assert!(stored.len() < large.len() + 300);
    }
    assert!(id_of(&client.submit(&content(1)).await) > by_chunks);
}

#[tokio::test]
async fn a_large_content_that_is_refused_leaves_the_session_usable() {
    let server = Server::start(Settings { max_message_size: 1_000_000, ..patient() }).await;
    let mut client = server.ready().await;
    let mut broken = content(10_000);
    broken.extend_from_slice(b"bare\nLF\r\n");

    assert!(client.submit(&content(60_000)).await.starts_with("552 5.3.4"));
    assert!(client.submit(&broken).await.starts_with("550 5.5.2"));
    let id = id_of(&client.submit(&content(10_000)).await);

    assert!(server.content(id).ends_with(&content(10_000)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_at_once_lose_and_mix_up_nothing() {
    let server = Arc::new(Server::start(patient()).await);
    let mut sessions = JoinSet::new();
    for number in 0..50 {
        let server = Arc::clone(&server);
        sessions.spawn(async move {
            let mut client = server.ready().await;
            let mut ids = Vec::new();
            for message in 0..10 {
                let text = format!("Date: x\r\nMessage-ID: <x@x>\r\n\r\nsession {number} message {message}\r\n");
                ids.push((id_of(&client.submit(text.as_bytes()).await), text));
            }
            ids
        });
    }

    let accepted = sessions.join_all().await.concat();

    assert_eq!(accepted.len(), 500);
    for (id, text) in &accepted {
        assert!(server.content(*id).ends_with(text.as_bytes()));
    }
    assert_eq!(server.metric("hikyaku_submission_messages_total"), 500.0);
    assert_eq!(server.metric("hikyaku_submission_recipients_total"), 500.0);
    assert_eq!(server.metric("hikyaku_submission_end_of_data_seconds_count"), 500.0);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_end_of_data_leaves_no_message() {
    let server = Server::start(patient()).await;
    let mut client = server.ready().await;
    client.envelope().await;
    client.send(content(10)).await;

    drop(client);
    server.idle().await;

    assert_eq!(server.metric("hikyaku_submission_messages_total"), 0.0);
    assert_eq!(server.queue.view().totals.queued, 0);
}

#[tokio::test]
async fn sessions_past_the_limit_get_421_and_places_come_back() {
    let server = Server::start(Settings { max_sessions: 2, ..patient() }).await;
    let (first, _second) = (server.client().await, server.client().await);

    let refused = Client::connect(server.address).await.reply().await;
    assert_eq!(refused, "421 4.3.2 Too many connections\r\n");
    drop(first);

    while !Client::connect(server.address).await.reply().await.starts_with("220") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn one_address_cannot_take_all_places_or_open_sessions_too_fast() {
    let limits = Settings { max_sessions_per_address: NonZeroU32::new(1), ..patient() };
    let server = Server::start(limits).await;
    let _first = server.client().await;
    assert!(Client::connect(server.address).await.reply().await.starts_with("421 4.7.0"));
    let server = Server::start(Settings { sessions_per_minute: NonZeroU32::new(1), ..patient() }).await;
    drop(server.client().await);

    assert!(Client::connect(server.address).await.reply().await.starts_with("421 4.7.0"));
    assert_eq!(server.metric("hikyaku_submission_rejected_total{cause=\"rate\"}"), 1.0);
}

#[tokio::test]
async fn messages_of_one_client_are_limited_by_the_minute() {
    let server = Server::start(Settings { messages_per_minute: NonZeroU32::new(2), ..patient() }).await;
    let mut client = server.ready().await;
    id_of(&client.submit(&content(1)).await);
    id_of(&client.submit(&content(1)).await);

    let replies = client.envelope().await;

    assert!(replies[0].starts_with("451 4.7.1"), "{replies:?}");
}

#[tokio::test]
async fn clients_of_other_networks_are_refused_at_the_greeting() {
    let networks = vec!["192.0.2.0/24".parse().unwrap()];
    let server = Server::start(Settings { networks, ..patient() }).await;
    let mut client = Client::connect(server.address).await;

    assert!(client.reply().await.starts_with("554 5.7.1"));
    assert!(client.command("MAIL FROM:<a@x.test>").await.starts_with("503 5.7.1"));
    assert!(client.command("QUIT").await.starts_with("221"));
}

/// A client that connects from this loopback address.
async fn client_from(address: [u8; 4], server: &Server) -> Client {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    Client::of(socket.connect(server.address).await.unwrap())
}

#[tokio::test]
async fn clients_of_other_networks_take_no_place_of_an_allowed_one() {
    let networks = vec!["127.0.0.2".parse().unwrap()];
    let server = Server::start(Settings { networks, max_sessions: 1, ..patient() }).await;
    let mut strangers = Vec::new();

    for _ in 0..80 {
        let mut stranger = client_from([127, 0, 0, 1], &server).await;
        assert!(stranger.reply().await.starts_with("554 5.7.1"));
        strangers.push(stranger);
    }
    let mut allowed = client_from([127, 0, 0, 2], &server).await;

    assert!(allowed.reply().await.starts_with("220 "));
    assert_eq!(strangers[79].reply().await, "", "only so many are kept until QUIT");
    assert!(strangers[0].command("QUIT").await.starts_with("221"));
}

#[tokio::test]
async fn a_silent_client_of_another_network_is_let_go() {
    let networks = vec!["192.0.2.0/24".parse().unwrap()];
    let server = Server::start(Settings { networks, ..hasty(Duration::from_millis(600)) }).await;
    let mut client = Client::connect(server.address).await;

    assert!(client.reply().await.starts_with("554 5.7.1"));

    assert!(client.reply().await.starts_with("421 4.4.2"));
}

#[tokio::test]
async fn an_idle_session_is_closed_with_421() {
    let server = Server::start(hasty(Duration::from_millis(600))).await;
    let mut client = server.ready().await;

    assert_eq!(client.reply().await, "421 4.4.2 Timeout\r\n");
    assert_eq!(client.reply().await, "");
}

#[tokio::test]
async fn octets_of_an_unfinished_command_do_not_prolong_its_time() {
    let server = Server::start(hasty(Duration::from_millis(600))).await;
    let mut client = server.ready().await;
    let begun = Instant::now();

    let mut buffer = [0; 64];
    let read = loop {
        let _ = client.stream.try_write(b"N");
        if let Ok(read) = tokio::time::timeout(Duration::from_millis(20), client.stream.read(&mut buffer)).await {
            break read.unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
    };

    assert_eq!(&buffer[..read], b"421 4.4.2 Timeout\r\n");
}

#[tokio::test]
async fn content_that_only_trickles_is_cut_off() {
    let server = Server::start(hasty(Duration::from_millis(600))).await;
    let mut client = server.ready().await;
    client.envelope().await;
    let begun = Instant::now();

    let mut buffer = [0; 64];
    let read = loop {
        let _ = client.stream.try_write(b"x");
        if let Ok(read) = tokio::time::timeout(Duration::from_millis(20), client.stream.read(&mut buffer)).await {
            break read.unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "each octet prolongs the time");
    };

    assert_eq!(&buffer[..read], b"421 4.4.2 Timeout\r\n");
    assert_eq!(server.metric("hikyaku_submission_rejected_total{cause=\"timeout\"}"), 1.0);
}

#[tokio::test]
async fn small_chunks_do_not_prolong_the_time_of_a_message() {
    let server = Server::start(hasty(Duration::from_millis(600))).await;
    let mut client = server.ready().await;
    client.send("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n").await;
    let begun = Instant::now();

    let mut replies = Vec::new();
    while !replies.ends_with(b"421 4.4.2 Timeout\r\n") {
        let _ = client.stream.try_write(b"BDAT 1\r\nx");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _ = tokio::time::timeout(Duration::from_millis(20), client.stream.read_buf(&mut replies)).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "each chunk prolongs the time");
    }
}

#[tokio::test]
async fn without_a_minimum_data_rate_content_may_trickle() {
    let server = Server::start(Settings { min_data_rate: None, ..hasty(Duration::from_secs(1)) }).await;
    let mut client = server.ready().await;
    client.envelope().await;

    for octet in content(0).iter().take(20) {
        client.send([*octet]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    client.send(b"\r\n.\r\n").await;

    id_of(&client.reply().await);
}

#[tokio::test]
async fn a_client_that_pauses_at_the_beginning_of_its_content_has_the_whole_time() {
    let server = Server::start(hasty(Duration::from_secs(10))).await;
    let mut client = server.ready().await;
    client.envelope().await;

    tokio::time::sleep(Duration::from_millis(1_200)).await;
    client.send(stuffed(&content(1))).await;

    id_of(&client.reply().await);
}

#[tokio::test]
async fn each_content_of_a_pipelining_client_has_its_own_time() {
    let server = Server::start(hasty(Duration::from_secs(2))).await;
    let mut client = server.ready().await;
    client.envelope().await;
    let next = [&stuffed(&content(1)), b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n".as_slice()].concat();

    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.send(&next).await;
        id_of(&client.reply().await);
        for _ in 0..3 {
            client.reply().await;
        }
    }

    client.send(stuffed(&content(1))).await;
    id_of(&client.reply().await);
}

#[tokio::test]
async fn a_client_that_reads_no_replies_is_let_go() {
    let settings = Settings { max_recipients: 1, ..hasty(Duration::from_millis(600)) };
    let server = Server::start(settings).await;
    let mut client = server.ready().await;
    client.send("MAIL FROM:<a@x.test>\r\n").await;

    let flood = "RCPT TO:<b@y.test>\r\n".repeat(10_000);
    let sent = async {
        use tokio::io::AsyncWriteExt;
        while client.stream.write_all(flood.as_bytes()).await.is_ok() {}
    };

    tokio::time::timeout(Duration::from_secs(20), sent).await.expect("the server closes");
    server.idle().await;
}

#[tokio::test]
async fn a_full_disk_refuses_mail_and_recovers() {
    let server = Server::start(patient()).await;
    let mut client = server.ready().await;
    id_of(&client.submit(&content(1)).await);

    server.storage.is_full.store(true, Ordering::SeqCst);
    assert_eq!(reply_to_mail(&server, "452").await, "452 4.3.1 Insufficient system storage\r\n");

    server.storage.is_full.store(false, Ordering::SeqCst);
    reply_to_mail(&server, "250").await;
    id_of(&client.submit(&content(1)).await);
}

/// Asks again until MAIL is answered with this code; the spool looks at the disk from time to time.
async fn reply_to_mail(server: &Server, code: &str) -> String {
    let begun = Instant::now();
    loop {
        let reply = server.ready().await.command("MAIL FROM:<a@x.test>").await;
        if reply.starts_with(code) {
            return reply;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{reply}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn when_storage_breaks_nothing_is_acknowledged() {
    let server = Server::start(patient()).await;
    let mut client = server.ready().await;
    client.envelope().await;

    server.storage.fails.store(true, Ordering::SeqCst);
    client.send(stuffed(&content(1))).await;
    let reply = client.reply().await;

    // Not even the withdrawal can be stored: whether the message is there is unknown, so nothing is said.
    assert_eq!(reply, "");
    let mut next = server.ready().await;
    assert!(next.command("MAIL FROM:<a@x.test>").await.starts_with("421 4.3.0"));
    assert_eq!(server.metric("hikyaku_submission_messages_total"), 0.0);
}

#[tokio::test]
async fn a_content_whose_file_cannot_be_made_is_refused_for_now_and_not_as_a_full_disk() {
    let server = Server::start(patient()).await;
    let mut client = server.ready().await;
    client.envelope().await;

    server.storage.spills_fail.store(true, Ordering::SeqCst);
    client.send(stuffed(&content(20_000))).await;

    assert_eq!(client.reply().await, "451 4.3.0 Not stored; try again later\r\n");
}

#[tokio::test]
async fn a_full_queue_is_told_at_rcpt() {
    let queue = queue::Settings { tenant_capacity: 2, ..queue::Settings::default() };
    let server = Server::with_queue(patient(), queue).await;
    let mut client = server.ready().await;
    id_of(&client.submit(&content(1)).await);
    client.command("MAIL FROM:<a@x.test>").await;

    let replies = [client.command("RCPT TO:<b@y.test>").await, client.command("RCPT TO:<c@y.test>").await];

    assert!(replies[0].starts_with("250"), "{replies:?}");
    assert!(replies[1].starts_with("452 4.3.1"), "{replies:?}");
}

#[tokio::test]
async fn a_tenant_from_the_header_has_its_own_queue_limit() {
    let tenants = [("small".into(), queue::settings::Tenant { capacity: Some(0), ..Default::default() })].into();
    let settings = Settings { trust_headers: true, ..patient() };
    let server = Server::with_queue(settings, queue::Settings { tenants, ..queue::Settings::default() }).await;
    let mut client = server.ready().await;

    assert!(client.submit(b"X-Hikyaku-Tenant: small\r\n\r\n").await.starts_with("452 4.3.1"));
    id_of(&client.submit(b"X-Hikyaku-Tenant: other\r\n\r\n").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_at_the_same_time_do_not_pass_a_tenants_cap() {
    let queue = queue::Settings { tenant_capacity: 5, ..queue::Settings::default() };
    let server = Server::with_queue(patient(), queue).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = server.ready().await;
        let recipients = "RCPT TO:<b@y.test>\r\n".repeat(5);
        client.send(format!("MAIL FROM:<a@x.test>\r\n{recipients}DATA\r\n")).await;
        for _ in 0..7 {
            client.reply().await;
        }
        clients.push(client);
    }

    let mut sessions = JoinSet::new();
    for mut client in clients {
        sessions.spawn(async move {
            client.send(stuffed(&content(1))).await;
            client.reply().await
        });
    }
    let replies = sessions.join_all().await;

    let accepted = replies.iter().filter(|reply| reply.starts_with("250")).count();
    let refused = replies.iter().filter(|reply| reply.starts_with("452 4.3.1")).count();
    assert_eq!((accepted, refused), (1, 19), "{replies:?}");
    assert_eq!(server.queue.view().totals.queued, 5);
}

#[tokio::test]
async fn room_taken_for_a_message_that_is_not_stored_comes_back() {
    let queue = queue::Settings { tenant_capacity: 1, ..queue::Settings::default() };
    let server = Server::with_queue(patient(), queue).await;
    let mut client = server.ready().await;
    client.envelope().await;

    server.storage.fails.store(true, Ordering::SeqCst);
    client.send(stuffed(&content(1))).await;
    assert_eq!(client.reply().await, "");

    assert_eq!(server.queue.view().totals.queued, 0);
}

#[tokio::test]
async fn where_headers_name_the_tenant_a_full_listener_tenant_refuses_nobody_at_rcpt() {
    let tenants = [("default".into(), queue::settings::Tenant { capacity: Some(0), ..Default::default() })].into();
    let settings = Settings { trust_headers: true, ..patient() };
    let server = Server::with_queue(settings, queue::Settings { tenants, ..queue::Settings::default() }).await;
    let mut client = server.ready().await;

    id_of(&client.submit(b"X-Hikyaku-Tenant: other\r\n\r\n").await);
    assert!(client.submit(&content(1)).await.starts_with("452 4.3.1"));
}

#[tokio::test]
async fn stopping_tells_idle_sessions_and_finishes_the_message_that_is_coming_in() {
    let server = Server::start(patient()).await;
    let (mut idle, mut busy) = (server.ready().await, server.ready().await);
    busy.envelope().await;
    busy.send(content(5)).await;

    server.stop.cancel();
    assert_eq!(idle.reply().await, "421 4.3.2 Service is shutting down\r\n");
    drop(idle);
    busy.send(".\r\n").await;
    let id = id_of(&busy.reply().await);

    assert!(busy.reply().await.starts_with("421 4.3.2"));
    drop(busy);
    server.running.await.unwrap();
    assert!(
        String::from_utf8(server.spool.load(id).unwrap().content.chunk(0, 9).unwrap().to_vec()).unwrap() == "Received:"
    );
}
