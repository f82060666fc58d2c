//! A8: mail that goes in a circle stops at the hop limit, with one DSN, and none about a DSN. (One DSN for each recipient and
//! kind: `tests/queue/notices.rs`.)

use crate::cases::cases;
use crate::fake_mx::{FakeMx, Running};
use crate::port::Port;
use crate::process::{Client, Daemon};

const HOPS: usize = 6;

/// Two daemons that send `loop.test` to each other, and everything else to a sink.
fn circle(sink: &Running) -> [Daemon; 2] {
    let ports = [Port::take(), Port::take()];
    let route =
        |domain: &str, port: u16| format!("[[route]]\ndomain = \"{domain}\"\nnext_hop = \"smtp://127.0.0.1:{port}\"\n");
    [0, 1].map(|which: usize| {
        let other = ports[1 - which].address.port();
        let sections = route("loop.test", other) + &route("*", sink.address.port());
        Daemon::start_at(&ports[which], &format!("d{which}.test"), &format!("max_hops = {HOPS}"), &sections)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_ends_at_the_hop_limit_with_one_dsn_and_none_about_a_dsn() {
    for (reverse_path, dsns) in [("s@sender.test", 1), ("s@loop.test", 0), ("", 0)] {
        let sink = FakeMx::with(&["PIPELINING", "8BITMIME"]).start().await;
        let mut daemons = circle(&sink);
        let mut client = Client::connect(daemons[0].address);
        client.say("EHLO c.test");

        let reply = client.submit(
            &format!("MAIL FROM:<{reverse_path}>"),
            &["RCPT TO:<a@loop.test>".to_owned(), "RCPT TO:<b@loop.test>".to_owned()],
            "Subject: round\r\n\r\nbody\r\n",
        );
        assert!(reply.starts_with("250"), "{reply}");
        // Each DSN of a message that is over is queued before it is over.
        let is_over =
            |daemon: &Daemon| daemon.total("queued") == 0 && daemon.journal().contains("\"event\":\"bounced\"");
        let [first, second] = &mut daemons;
        first.until("the circle ends", |first| {
            first.total("queued") == 0 && second.total("queued") == 0 && (is_over(first) || is_over(second))
        });

        let received = sink.transactions();
        assert_eq!(received.len(), dsns, "{reverse_path:?}: {received:?}");
        for dsn in &received {
            assert_eq!(dsn.mail.split(' ').nth(1), Some("FROM:<>"), "{}", dsn.mail);
            assert_eq!(dsn.rcpts, [format!("RCPT TO:<{reverse_path}>")]);
            let text = String::from_utf8_lossy(&dsn.content);
            assert!(text.contains("5.4.6"), "{text}");
            assert_eq!(text.matches("Final-Recipient:").count(), 2, "both recipients in one");
            let returned =
                text.split("text/rfc822-headers").nth(1).or_else(|| text.split("message/rfc822").nth(1)).unwrap();
            assert_eq!(returned.matches("Received: from").count(), HOPS, "{returned}");
        }
        cases(1);
    }
}
