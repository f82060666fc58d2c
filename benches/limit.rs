//! The controller of learnt limits: what one message costs in it, and what a path takes.
//!
//! * `message`: `may_send`, `send` and `replied` with an acceptance, at a rate that is never reached;
//! * `message of 100,000 paths`: the same for one path after the other, so that none is in the processor's cache;
//! * `waiting`: `may_send` that says when;
//! * memory: a path at rest and one at work as counted, and what 100,000 that have come to rest make the process larger.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use hikyaku::limit::controller::{Answer, Bounds, Ceilings, Controller, Orders, Signal};

const PATHS: usize = 100_000;
const WALL: Duration = Duration::from_secs(1_800_000_000);

fn controller(rate: f64, now: Instant) -> Controller {
    let mut controller = Controller::new(Ceilings::default(), 1, now, WALL);
    controller.set_orders(Orders { rate: Bounds::pin(rate), ..Orders::default() });
    controller
}

/// A message that may go, goes and is taken.
fn message(controller: &mut Controller, answer: &Answer<'_>, now: Instant) {
    if controller.next_tick().is_some_and(|tick| tick <= now) {
        black_box(controller.tick(true, now));
    }
    if controller.may_send(black_box(now)).is_ok() {
        controller.send(now);
        black_box(controller.replied(answer, 3, now));
    }
}

/// Octets that the process has in memory.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Paths that have sent a message and come to rest; what each makes the process larger.
fn at_rest(answer: &Answer<'_>, origin: Instant) -> usize {
    let before = resident();
    let mut paths: Vec<Controller> = Vec::with_capacity(PATHS);
    for _ in 0..PATHS {
        let mut path = Controller::new(Ceilings::default(), 1, origin, WALL);
        message(&mut path, answer, origin);
        path.tick(false, origin + Duration::from_secs(200));
        assert_eq!(path.next_tick(), None);
        paths.push(path);
    }
    (resident() - before) / black_box(&paths).len()
}

fn main() {
    let origin = Instant::now();
    let latency = Duration::from_millis(150);
    let answer =
        Answer { signal: Signal::Accepted, reply: "250 2.0.0 Ok", count: 1, is_closed: false, latency, rest: None };

    // First of all: what another bench has given back would be used again, and the process would not become larger.
    let rest = at_rest(&answer, origin);
    let mut criterion = Criterion::default().configure_from_args();
    let mut fast = controller(1e6, origin);
    let mut now = origin;
    criterion.bench_function("message", |bench| {
        bench.iter(|| {
            now += Duration::from_millis(1);
            message(&mut fast, &answer, now);
        });
    });

    let mut paths: Vec<Controller> = (0..PATHS).map(|_| controller(1e6, origin)).collect();
    let mut place = 0;
    criterion.bench_function("message of 100,000 paths", |bench| {
        bench.iter(|| {
            now += Duration::from_micros(10);
            place = (place + 1) % PATHS;
            message(&mut paths[place], &answer, now);
        });
    });
    drop(paths);

    let mut slow = controller(0.01, origin);
    slow.send(origin);
    criterion.bench_function("waiting", |bench| bench.iter(|| black_box(slow.may_send(black_box(origin)))));

    println!("a path at rest: {} B, at work: {} B more", size_of::<Controller>(), slow.heap());
    println!("each of {PATHS} paths at rest makes the process {rest} B larger");
    criterion.final_summary();
}
