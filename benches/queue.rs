//! The queue without a network: what one message costs in it, and what a queued recipient takes.
//!
//! * `busy`: put, `try_take`, report, one recipient a message, to one connection that is never idle;
//! * `idle`: put, a waiting connection is woken and takes, report;
//! * `domains`: as `busy`, over 1,000 domains in turn;
//! * memory: a million recipients at 100 and at 10,000 sites, nothing started.
//!
//! The spool is real but does not know the messages, so its share is a failed look-up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "../tests/common/queue.rs"]
mod common;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use common::{Stage, delivered};
use criterion::{BatchSize, Criterion};
use hikyaku::message::Envelope;
use hikyaku::queue::{Assignment, Courier, Settings, Slot};
use parking_lot::Mutex;

/// Keeps what is dispatched.
#[derive(Default)]
struct Shelf(Mutex<Vec<(Slot, Assignment)>>);

impl Courier for Shelf {
    fn dispatch(&self, slot: Slot, first: Assignment) {
        self.0.lock().push((slot, first));
    }
}

struct Bench {
    stage: Stage,
    shelf: Arc<Shelf>,
}

impl Bench {
    fn new() -> Self {
        let stage = Stage::wide(Settings::default(), 10_000);
        let shelf = Arc::new(Shelf::default());
        stage.queue.start(shelf.clone());
        Self { stage, shelf }
    }

    fn envelope(&self, domain: &str) -> Arc<Envelope> {
        Arc::new(self.stage.envelope(&[&format!("someone@{domain}")]))
    }

    /// A connection to a domain, past its first message.
    fn connection(&self, domain: &str) -> Slot {
        self.stage.queue.put(self.stage.spool.next_id(), &self.envelope(domain));
        let (slot, first) = loop {
            let mut shelf = self.shelf.0.lock();
            if let Some(at) = shelf.iter().position(|(_, first)| first.domain() == domain) {
                break shelf.remove(at);
            }
            drop(shelf);
            // The first plan of a domain is looked up in a task.
            std::thread::sleep(Duration::from_millis(1));
        };
        slot.connected();
        slot.report(first, vec![delivered()]);
        slot
    }
}

fn busy(bench: &Bench, criterion: &mut Criterion) {
    let mut slot = bench.connection("d1.test");
    let (queue, envelope) = (&bench.stage.queue, bench.envelope("d1.test"));
    // One message more than is taken, so that the connection never finds nothing.
    queue.put(bench.stage.spool.next_id(), &envelope);
    criterion.bench_function("queue/busy", |b| {
        b.iter_batched(
            || vec![delivered()],
            |outcomes| {
                queue.put(bench.stage.spool.next_id(), &envelope);
                let assignment = slot.try_take().unwrap();
                slot.report(assignment, outcomes);
            },
            BatchSize::SmallInput,
        );
    });
}

fn idle(bench: &Bench, criterion: &mut Criterion) {
    let mut slot = bench.connection("d2.test");
    let (queue, envelope) = (&bench.stage.queue, bench.envelope("d2.test"));
    let mut task = Context::from_waker(Waker::noop());
    criterion.bench_function("queue/idle", |b| {
        b.iter_batched(
            || vec![delivered()],
            |outcomes| {
                let assignment = {
                    let mut take = std::pin::pin!(slot.take(Duration::from_secs(60)));
                    assert!(take.as_mut().poll(&mut task).is_pending());
                    queue.put(bench.stage.spool.next_id(), &envelope);
                    match take.poll(&mut task) {
                        Poll::Ready(Some(assignment)) => assignment,
                        other => panic!("no work was laid down: {other:?}; {:?}", bench.stage.queue.view()),
                    }
                };
                slot.report(assignment, outcomes);
            },
            BatchSize::SmallInput,
        );
    });
}

fn domains(bench: &Bench, criterion: &mut Criterion) {
    let names: Vec<String> = (0..1_000).map(|n| format!("{n}.wide.test")).collect();
    let mut slots: Vec<Slot> = names.iter().map(|name| bench.connection(name)).collect();
    let envelopes: Vec<Arc<Envelope>> = names.iter().map(|name| bench.envelope(name)).collect();
    let mut at = 0;
    criterion.bench_function("queue/domains", |b| {
        b.iter_batched(
            || vec![delivered()],
            |outcomes| {
                at = (at + 1) % names.len();
                bench.stage.queue.put(bench.stage.spool.next_id(), &envelopes[at]);
                let Some(assignment) = slots[at].try_take() else { return };
                slots[at].report(assignment, outcomes);
            },
            BatchSize::SmallInput,
        );
    });
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn memory(domains: usize) {
    const RECIPIENTS: usize = 1_000_000;
    let bench = Bench::new();
    // Without a courier's connections: everything becomes ready and stays.
    let envelopes: Vec<Arc<Envelope>> = (0..domains).map(|n| bench.envelope(&format!("{n}.wide.test"))).collect();
    let before = resident();
    let begun = Instant::now();
    for n in 0..RECIPIENTS {
        bench.stage.queue.put(bench.stage.spool.next_id(), &envelopes[n % domains]);
    }
    let took = begun.elapsed();
    while bench.stage.queue.view().totals.waiting_for_dns > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let bytes = resident() - before;
    println!(
        "queue/memory/{domains} domains: {RECIPIENTS} recipients take {} MB, {} octets each; put in {took:?}; view in {:?}",
        bytes / 1_000_000,
        bytes / RECIPIENTS,
        {
            let begun = Instant::now();
            bench.stage.queue.view();
            begun.elapsed()
        },
    );
    bench.stage.queue.stop_dispatch();
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _inside = runtime.enter();
    memory(100);
    memory(10_000);
    let mut criterion = Criterion::default().configure_from_args();
    let bench = Bench::new();
    busy(&bench, &mut criterion);
    idle(&bench, &mut criterion);
    domains(&bench, &mut criterion);
    criterion.final_summary();
    bench.stage.queue.stop_dispatch();
}
