//! Spool, queue and delivery together, towards scripted receivers: nothing is lost, nothing comes twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/fake_mx.rs"]
mod fake_mx;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fake_mx::{Act, FakeMx, Running, Step};
use hikyaku::clock::Clock;
use hikyaku::delivery::{self, Deliverer, Timeouts};
use hikyaku::dns::settings::{Host, NextHop, Route};
use hikyaku::dns::{self, Planner};
use hikyaku::log::disk::Disk;
use hikyaku::message::{BodyType, Content, ContentTraits, Envelope, Kind, Lane, Notify, Recipient, Ret};
use hikyaku::metrics::Registry;
use hikyaku::queue::settings::{BackOff, Limits, Retry};
use hikyaku::queue::{self, Queue};
use hikyaku::smtp::address::ReversePath;
use hikyaku::spool::{Attempts, NewMessage, Spool};
use hikyaku::state::Orders;

/// Everything between the spool and the receivers.
struct Daemon {
    spool: Spool,
    queue: Queue,
    deliverer: Arc<Deliverer>,
    registry: Registry,
    clock: Clock,
    _folder: tempfile::TempDir,
}

impl Daemon {
    /// Delivers each domain to its receiver.
    fn start(routes: &[(&str, &Running)], cache: u64) -> Self {
        let (clock, registry, folder) = (Clock::system(), Registry::new().unwrap(), tempfile::tempdir().unwrap());
        let disk = Arc::new(Disk::new(folder.path().join("spool")));
        let settings = hikyaku::spool::Settings {
            path: "unused".into(),
            segment_size: 16 << 20,
            reserve: 0,
            sync: false,
            attempts: Attempts::Write,
            deadline: Duration::from_secs(60),
            cache,
        };
        let (spool, _) = Spool::open(settings, disk.clone(), clock, &registry).unwrap();
        let route = |(pattern, receiver): &(&str, &Running)| Route {
            pattern: (*pattern).to_owned(),
            next_hop: NextHop::Smtp { host: Host::Address(receiver.address.ip()), port: Some(receiver.address.port()) },
        };
        let routes = routes.iter().map(route).collect();
        let dns = dns::settings::Settings { routes, ..Default::default() };
        let planner = Arc::new(Planner::new(dns, clock, &registry).unwrap());
        let second = Duration::from_secs(1);
        let settings = queue::Settings {
            retry: Retry { intervals: vec![second], jitter_percent: 0, ..Retry::default() },
            back_off: BackOff { first: second, floor: second, most: second },
            limits: Limits { connections: 3, ..Limits::default() },
            ..queue::Settings::default()
        };
        let orders = Orders::open(disk, clock.wall()).unwrap();
        let queue = Queue::new(settings, spool.clone(), orders, planner, clock, &registry);
        let timeouts = Timeouts::all(Duration::from_secs(5));
        let settings = delivery::Settings { timeouts, idle: Duration::from_millis(100), ..Default::default() };
        let deliverer = Deliverer::new(settings, spool.clone(), clock, &registry).unwrap();
        queue.start(deliverer.clone());
        Self { spool, queue, deliverer, registry, clock, _folder: folder }
    }

    async fn submit(&self, number: usize, recipients: &[String]) {
        let content = format!("X-Number: {number}\r\n\r\n.dot\r\n");
        self.submit_content(&format!("s{number}@sender.test"), recipients, content).await;
    }

    async fn submit_content(&self, reverse_path: &str, recipients: &[String], content: String) {
        let recipient =
            |path: &String| Recipient { forward_path: path.parse().unwrap(), notify: Notify::UNSPECIFIED, orcpt: None };
        let envelope = Arc::new(Envelope {
            reverse_path: ReversePath::Mailbox(reverse_path.parse().unwrap()),
            recipients: recipients.iter().map(recipient).collect(),
            accepted_at: self.clock.wall(),
            tenant: "default".into(),
            campaign: "".into(),
            lane: Lane::Normal,
            body: BodyType::SevenBit,
            smtputf8: false,
            traits: ContentTraits { has_eight_bit: !content.is_ascii(), has_eight_bit_header: false },
            ret: Some(Ret::Full),
            envid: None,
            kind: Kind::Submitted,
        });
        let content = Content::Memory(content.into_bytes().into());
        let id = self.spool.next_id();
        let message = NewMessage { id, envelope: envelope.clone(), content, ended_at: Instant::now() };
        self.spool.accept(message).await.unwrap();
        self.queue.put(id, &envelope);
    }

    async fn until_empty(&self) {
        let begun = Instant::now();
        while self.spool.stat().messages > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?} {}", self.queue.view(), self.registry.render());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// How often each (reverse-path, recipient) pair arrived.
fn arrivals(receivers: &[&Running]) -> HashMap<(String, String), usize> {
    let mut counts = HashMap::new();
    for received in receivers.iter().flat_map(|receiver| receiver.transactions()) {
        let mail = received.mail.split(['<', '>']).nth(1).unwrap().to_owned();
        let number = mail.strip_prefix('s').and_then(|rest| rest.split('@').next()).unwrap_or_default().to_owned();
        if !mail.is_empty() {
            let expected = format!("X-Number: {number}\r\n\r\n.dot\r\n");
            assert_eq!(String::from_utf8_lossy(&received.content), expected, "the content of this reverse-path");
        }
        for rcpt in &received.rcpts {
            let rcpt = rcpt.split(['<', '>']).nth(1).unwrap().to_owned();
            *counts.entry((mail.clone(), rcpt)).or_default() += 1;
        }
    }
    counts
}

async fn every_message_arrives_once_through_faults(extensions: &[&str], cache: u64) {
    let flaky = FakeMx::with(extensions)
        .on(Step::Greeting, "421 4.3.2 busy")
        .on(Step::Mail, Act::Fin)
        .on(Step::Rcpt, "450 4.2.0 greylisted")
        .on(Step::Rcpt, "550 5.1.1 no such user")
        .on(Step::EndOfData, "451 4.3.0 not now")
        .on(Step::EndOfData, Act::Normal)
        .on(Step::EndOfData, "421 4.7.0 too many")
        .start()
        .await;
    let steady = FakeMx::with(extensions).on(Step::Idle, Act::Normal).on(Step::Idle, Act::Fin).start().await;
    let daemon = Daemon::start(&[("flaky.test", &flaky), ("steady.test", &steady), ("sender.test", &steady)], cache);

    for number in 0..60 {
        let recipients = [format!("a{number}@flaky.test"), format!("b{number}@steady.test")];
        daemon.submit(number, &recipients).await;
    }
    daemon.until_empty().await;
    daemon.queue.stop_dispatch();
    daemon.deliverer.drain(Duration::from_secs(5)).await;

    let arrived = arrivals(&[&flaky, &steady]);
    let dsns: usize = arrived.iter().filter(|((mail, _), _)| mail.is_empty()).map(|(_, count)| count).sum();
    assert_eq!(dsns, 1, "one recipient was refused: {arrived:?}");
    let messages: Vec<usize> =
        arrived.iter().filter(|((mail, _), _)| !mail.is_empty()).map(|(_, count)| *count).collect();
    assert_eq!(messages.len(), 119, "120 recipients, one of them refused");
    assert!(messages.iter().all(|&count| count == 1), "{arrived:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_arrives_once_with_look_aheads() {
    every_message_arrives_once_through_faults(&["PIPELINING"], 16 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_arrives_once_by_bdat() {
    every_message_arrives_once_through_faults(&["PIPELINING", "CHUNKING"], 16 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_arrives_once_without_pipelining_and_from_the_disk() {
    every_message_arrives_once_through_faults(&[], 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dsn_reaches_a_next_hop_without_8bitmime() {
    let refusing =
        FakeMx::with(&["PIPELINING", "8BITMIME"]).on(Step::Rcpt, "550 5.1.1 kein Empf\u{e4}nger").start().await;
    let old = FakeMx::with(&[]).start().await;
    let daemon = Daemon::start(&[("refusing.test", &refusing), ("sender.test", &old)], 16 << 20);

    let content = "Subject: x\r\n\r\nGr\u{fc}\u{df}e\r\n".to_owned();
    daemon.submit_content("ann@sender.test", &["bob@refusing.test".to_owned()], content).await;
    daemon.until_empty().await;

    let arrived = old.transactions();
    assert_eq!((arrived.len(), arrived[0].mail.as_str()), (1, "MAIL FROM:<>"));
    assert!(arrived[0].content.is_ascii());
}
