//! F18: SIGTERM and SIGHUP under load: nothing lost, nothing twice, no connection dropped.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::letter::{Kind, scrambled};
use super::row::{Row, in_parallel, seed, sized};
use super::world::client::{Numbers, Plan};
use super::world::{Ending, World};

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

/// What the log says of a reload.
const RELOADED: &str = "configuration reloaded";
const REFUSED: &str = "the configuration was not reloaded; the one before holds";
/// Files that no daemon takes.
const BAD: [&str; 4] = ["", "no TOML", "[limits]\nsite_connections = 0\n", "[nonsense]\n"];

/// A file with other limits than the one before.
fn change(world: &mut World, number: u32) {
    let (number, file) = (i64::from(number), world.file());
    world.options.set("limits.site_connections", 5 + number % 16).set("listener.max_hops", 50 + number);
    world.options.set("delivery.idle", format!("{}s", 1 + number % 9)).write(&file);
}

/// A file that is refused: one of those, or a good one that is cut off.
fn spoil(world: &World, number: u32) {
    let whole = std::fs::read_to_string(world.file()).unwrap();
    let text = match BAD[number as usize % BAD.len()] {
        "" => format!("{}\n[limits", &whole[..whole.len() / 2]),
        bad => bad.to_owned(),
    };
    std::fs::write(world.file(), text).unwrap();
}

fn hang_up() -> Ending {
    let mut world = World::new("SIGHUP", Numbers::of(Kind::Mixed));
    let (daemon, address) = world.start();
    let clients = world.load(&Plan::endless(4, &world.numbers), address);
    for number in 0..HANGUPS {
        // Every fifth file is bad; of the others, some come while the one before is worked on.
        let is_bad = number % 5 == 4;
        let refused = daemon.log.count(REFUSED);
        if is_bad {
            spoil(&world, number / 5);
        } else {
            change(&mut world, number);
        }
        daemon.signal(Signal::HUP);
        if is_bad {
            assert!(world.until(|| daemon.log.count(REFUSED) > refused), "bad file {number} is not told");
        }
        thread::sleep(BETWEEN);
    }
    let reloaded = daemon.log.count(RELOADED);
    change(&mut world, HANGUPS);
    daemon.signal(Signal::HUP);
    assert!(world.until(|| daemon.log.count(RELOADED) > reloaded), "a good file is not taken after bad ones");
    clients.stop();
    assert_eq!(daemon.log.count(REFUSED), u64::from(HANGUPS / 5), "bad files that were refused");
    assert!(reloaded > u64::from(HANGUPS / 5), "good files are taken: {reloaded}");
    world.finish_with(daemon)
}

#[test]
fn a_hundred_sighups_with_good_and_bad_files_under_load_are_seen_by_no_client_or_receiver() {
    let mut row = Row::of("F18 SIGHUP x 100, bad files");
    let lives = sized(1, 3);

    row.add(lives, in_parallel(1, lives, |_| hang_up()));

    let sum = row.sum();
    assert!(sum.accepted > 50, "hardly any load: {sum}");
    assert_eq!((sum.duplicates, sum.unknown, sum.refused, sum.broken), (0, 0, 0, 0), "{sum}");
}
