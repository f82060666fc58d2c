//! F8: the disk is slow, or stands still for longer than a client may be kept waiting.

use std::thread;
use std::time::Duration;

use super::letter::Kind;
use super::row::{Row, in_parallel, sized};
use super::world::client::{Numbers, Plan};
use super::world::strace::{Fault, strace_obstacle};
use super::world::{Ending, World};

/// Connections: what can wait for one sync.
const CONNECTIONS: u32 = 40;
/// More than the time for which a stalled disk leaves a client without a word.
const PATIENCE: Duration = Duration::from_secs(200);

/// What happens to every sync.
#[derive(Clone, Copy, Debug)]
struct Slowness {
    delay: Duration,
    /// `spool.deadline`.
    deadline: Duration,
    /// For how long the disk is slow.
    lasts: Duration,
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// The three kinds; the full size has the times of an operator, the quick one those that a test can wait for.
fn kinds() -> [Slowness; 3] {
    let stalled = match sized(0, 1) {
        0 => Slowness { delay: seconds(4), deadline: seconds(2), lasts: seconds(1) },
        _ => Slowness { delay: seconds(65), deadline: seconds(60), lasts: seconds(1) },
    };
    let (deadline, lasts) = (seconds(60), seconds(sized(5, 20) as u64));
    [
        Slowness { delay: Duration::from_millis(200), deadline, lasts },
        Slowness { delay: seconds(2), deadline, lasts },
        stalled,
    ]
}

fn run(slowness: Slowness) -> Ending {
    let Slowness { delay, deadline, lasts } = slowness;
    let world = World::with(&format!("each sync takes {delay:?}"), Numbers::of(Kind::Plain), |options| {
        options.set("spool.deadline", format!("{}s", deadline.as_secs()));
    });
    let (mut daemon, address) = world.start();
    let state = |daemon: &super::world::daemon::Daemon| daemon.ask(&["spool", "stat", "--json"]);
    let action = format!("delay_enter={}", delay.as_micros());
    daemon.attach(&Fault::all("fdatasync", &action));
    let before = state(&daemon)["batches"].as_u64().unwrap();
    let plan = Plan { timeout: PATIENCE, ..Plan::endless(CONNECTIONS, &world.numbers) };
    let clients = world.load(&plan, address);
    thread::sleep(lasts);
    if delay > deadline {
        // What waits is refused once its deadline has passed.
        assert!(world.until_for(delay * 3, || world.checker.refused() > 0), "{}: nothing was refused", world.name);
    }
    let batches = state(&daemon)["batches"].as_u64().unwrap() - before;
    let stored = world.checker.accepted() + world.checker.refused();
    daemon.release();
    clients.stop();
    // Outcomes are committed, too, and alone when nothing else is.
    let mean = stored as f64 / batches.max(1) as f64;
    println!("{}: {stored} messages in {batches} batches, {mean:.1} each", world.name);
    if delay < deadline {
        assert!(mean > 4.0, "{}: batches do not grow: {mean:.1} messages each", world.name);
    }
    world.finish_with(daemon)
}

#[test]
fn a_slow_disk_makes_larger_batches_and_what_comes_too_late_is_refused_and_never_delivered() {
    let mut row = Row::of("F8 slow disk");
    if let Some(obstacle) = strace_obstacle() {
        let case = "a_slow_disk_makes_larger_batches_and_what_comes_too_late_is_refused_and_never_delivered";
        return row.skip(case, &obstacle);
    }
    let cases = sized(3, 9);

    let ending = in_parallel(3, cases, |number| run(kinds()[number % 3]));

    row.add(cases, ending);
    assert!(row.sum().refused > 0, "nothing came too late: {}", row.sum());
}
