//! Spool, queue and delivery together, towards scripted receivers: nothing is lost, nothing comes twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/fake_mx.rs"]
mod fake_mx;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fake_mx::{Act, FakeMx, Running, Step};
use hikyaku::clock::Clock;
use hikyaku::delivery::{self, Deliverer, Timeouts};
use hikyaku::dns::settings::{Host, NextHop, Route};
use hikyaku::dns::{self, Planner};
use hikyaku::log::disk::Disk;
use hikyaku::message::{Content, ContentTraits, Envelope, MessageId, Recipient, Ret};
use hikyaku::metrics::Registry;
use hikyaku::panics::Probe;
use hikyaku::queue::settings::{BackOff, Limits, Retry};
use hikyaku::queue::{self, Filter, Queue};
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
        Self::probed(routes, cache, None)
    }

    /// The same with something called for each transaction.
    fn probed(routes: &[(&str, &Running)], cache: u64, probe: Option<Probe>) -> Self {
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
            keys: hikyaku::spool::Keys::default(),
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
            // The faults here are no receiver's limits.
            learning: queue::learning::Settings { is_on: false, ..Default::default() },
            ..queue::Settings::default()
        };
        let orders = Orders::open(disk, clock.wall()).unwrap();
        let queue = Queue::new(settings, spool.clone(), orders, planner, clock, &registry);
        let timeouts = Timeouts::all(Duration::from_secs(5));
        let idle = Duration::from_millis(100);
        let settings = delivery::Settings { timeouts, idle, probe, ..Default::default() };
        let deliverer = Deliverer::new(settings, spool.clone(), clock, &registry).unwrap();
        queue.start(deliverer.clone());
        Self { spool, queue, deliverer, registry, clock, _folder: folder }
    }

    async fn submit(&self, number: usize, recipients: &[String]) -> MessageId {
        let content = format!("X-Number: {number}\r\n\r\n.dot\r\n");
        self.submit_content(&format!("s{number}@sender.test"), recipients, content).await
    }

    async fn submit_content(&self, reverse_path: &str, recipients: &[String], content: String) -> MessageId {
        let recipient = |path: &String| Recipient::new(path.parse().unwrap());
        let envelope = Arc::new(Envelope {
            traits: ContentTraits { has_eight_bit: !content.is_ascii(), has_eight_bit_header: false },
            ret: Some(Ret::Full),
            ..Envelope::new(
                ReversePath::Mailbox(reverse_path.parse().unwrap()),
                recipients.iter().map(recipient).collect(),
                self.clock.wall(),
            )
        });
        let content = Content::Memory(content.into_bytes().into());
        let id = self.spool.next_id();
        let message = NewMessage { id, envelope: envelope.clone(), content, ended_at: Instant::now() };
        self.spool.accept(message).await.unwrap();
        self.queue.put(id, &envelope);
        id
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

/// Sends `count` messages to a receiver while one of them panics whenever its transaction begins; tells how many of the
/// others arrived, how many are held, and how often there was a panic.
async fn deliver_around_a_panic(extensions: &[&str], count: usize) -> (usize, usize, u64) {
    let receiver = FakeMx::with(extensions).start().await;
    let poison: Arc<OnceLock<MessageId>> = Arc::default();
    let known = poison.clone();
    let probe = Probe(Arc::new(move |id| assert!(known.get() != Some(&MessageId(id)), "a bug in this message")));
    let daemon = Daemon::probed(&[("x.test", &receiver)], 16 << 20, Some(probe));
    // Known before it can be tried: two more go before it, but hardly all of them.
    let mut sent = HashMap::new();
    for number in 0..count {
        if number == count / 2 {
            poison.set(MessageId(sent.keys().map(|id: &MessageId| id.0).max().unwrap() + 1)).unwrap();
        }
        sent.insert(daemon.submit(number, &["a@x.test".to_owned()]).await, number);
    }
    let poison = *poison.get().unwrap();
    assert!(sent.contains_key(&poison));

    let held = || daemon.queue.list(&Filter { limit: 100, ..Filter::default() });
    let begun = Instant::now();
    let is_over = || {
        let totals = daemon.queue.view().totals;
        totals.queued == totals.held && daemon.queue.in_flight() == 0
    };
    while !(is_over() && held().iter().any(|entry| entry.message_id == poison.to_string())) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?} {}", daemon.queue.view(), daemon.registry.render());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let held = held();
    assert!(held.iter().all(|entry| entry.state == "damaged"), "{held:?}");
    let reasons: Vec<_> = held.iter().map(|entry| entry.last_reply.as_deref().unwrap_or_default()).collect();
    assert!(reasons.iter().all(|reason| reason.contains("panic: a bug in this message")), "{reasons:?}");
    assert_eq!(daemon.spool.stat().messages as usize, held.len(), "held ones stay in the spool, the others leave it");
    let arrived = arrivals(&[&receiver]);
    let suspected: Vec<&str> = held.iter().map(|entry| entry.message_id.as_str()).collect();
    for (id, number) in &sent {
        let times =
            arrived.get(&(format!("s{number}@sender.test"), "a@x.test".to_owned())).copied().unwrap_or_default();
        // What was under way when the panic came may have arrived, and is held.
        let is_held = suspected.contains(&id.to_string().as_str());
        assert!(times == usize::from(!is_held) || (is_held && *id != poison && times <= 1), "{number}: {times}");
    }
    let text = daemon.registry.render();
    let counter = text.lines().find_map(|line| line.strip_prefix("hikyaku_task_panics_total{task=\"delivery\"} "));
    (sent.len() - held.len(), held.len(), counter.unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_holds_the_message_that_was_under_way_and_no_other() {
    assert_eq!(deliver_around_a_panic(&[], 40).await, (39, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_begun_ahead_that_panics_is_held_after_one_of_those_before_it_at_most() {
    let (arrived, held, panics) = deliver_around_a_panic(&["PIPELINING"], 40).await;

    assert!(arrived >= 38 && held as u64 == panics && (1..=2).contains(&panics), "{arrived} {held} {panics}");
}
