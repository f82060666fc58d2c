//! The controller of learnt limits: what one message costs in it, and what a path takes.
//!
//! * `message`: `may_send`, `send` and `replied` with an acceptance, at a rate that is never reached;
//! * `waiting`: `may_send` that says when;
//! * memory: a path at rest, and one at work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use hikyaku::limit::controller::{Answer, Bounds, Ceilings, Controller, Orders, Signal};

const WALL: Duration = Duration::from_secs(1_800_000_000);

fn controller(rate: f64, now: Instant) -> Controller {
    let mut controller = Controller::new(Ceilings::default(), 1, now, WALL);
    controller.set_orders(Orders { rate: Bounds::pin(rate), ..Orders::default() });
    controller
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let origin = Instant::now();
    let latency = Duration::from_millis(150);
    let answer =
        Answer { signal: Signal::Accepted, reply: "250 2.0.0 Ok", count: 1, is_closed: false, latency, rest: None };

    let mut fast = controller(1e6, origin);
    let mut now = origin;
    criterion.bench_function("message", |bench| {
        bench.iter(|| {
            now += Duration::from_millis(1);
            if fast.next_tick().is_some_and(|tick| tick <= now) {
                black_box(fast.tick(true, now));
            }
            if fast.may_send(black_box(now)).is_ok() {
                fast.send(now);
                black_box(fast.replied(&answer, 3, now));
            }
        });
    });

    let mut slow = controller(0.01, origin);
    slow.send(origin);
    criterion.bench_function("waiting", |bench| bench.iter(|| black_box(slow.may_send(black_box(origin)))));

    println!("a path at rest: {} B, at work: {} B more", size_of::<Controller>(), slow.heap());
    criterion.final_summary();
}
