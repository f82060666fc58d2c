//! F18: SIGTERM and SIGHUP under load: nothing lost, nothing twice, no connection dropped.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::letter::{Kind, scrambled};
use super::row::{Row, in_parallel, seed, sized};
use super::world::World;
use super::world::client::{Numbers, Plan};

/// Signals in one life.
const HANGUPS: u32 = 100;
/// Between two of them.
const BETWEEN: Duration = Duration::from_millis(10);

#[test]
fn sigterm_under_load_finishes_what_is_under_way_and_repeats_nothing() {
    let mut row = Row::of("F18 SIGTERM");
    let rounds = sized(10, 30);
    let mut world = World::with("SIGTERM", Numbers::from(0), |options| {
        options.set("delivery.drain", "20s");
    });

    for round in 0..rounds {
        let (daemon, address) = world.start();
        let clients = world.endless_load(address);
        thread::sleep(Duration::from_millis(50 + scrambled(seed() ^ (0xf18 + round as u64)) % 300));
        let (status, used) = daemon.stop();
        assert_eq!(status.unwrap().code(), Some(0), "round {round}");
        world.count_usage(used);
        clients.join();
    }

    row.add(rounds, world.finish());
    let sum = row.sum();
    assert!(sum.accepted > rounds as u64 * 10, "hardly any load: {sum}");
    assert_eq!((sum.duplicates, sum.doubts), (0, 0), "a stop in good order leaves nothing in doubt: {sum}");
    assert_eq!((sum.unknown, sum.broken), (0, 0), "every client is told what became of its message: {sum}");
}

#[test]
fn a_hundred_sighups_under_load_change_nothing_that_a_client_or_receiver_sees() {
    let mut row = Row::of("F18 SIGHUP x 100");
    let lives = sized(1, 3);

    let ending = in_parallel(1, lives, |_| {
        let world = World::new("SIGHUP", Numbers::of(Kind::Mixed));
        let (daemon, address) = world.start();
        let clients = world.load(&Plan::endless(4, &world.numbers), address);
        for _ in 0..HANGUPS {
            daemon.signal(Signal::HUP);
            thread::sleep(BETWEEN);
        }
        clients.stop();
        world.finish_with(daemon)
    });

    row.add(lives, ending);
    let sum = row.sum();
    assert!(sum.accepted > 50, "hardly any load: {sum}");
    assert_eq!((sum.duplicates, sum.unknown, sum.refused, sum.broken), (0, 0, 0, 0), "{sum}");
}
