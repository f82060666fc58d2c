//! F14: a receiver that defers everything, then takes it; and one that refuses everything. What was deferred together does
//! not come back all at once, and each refused recipient is reported once.

use std::time::{Duration, Instant};

use super::letter::Kind;
use super::row::{Row, in_parallel, sized};
use super::world::client::{Numbers, Plan};
use super::world::sink::Mood;
use super::world::{Ending, World};

/// Retries are counted over a tenth of the wait: for a wait of ten minutes these are the 60 s of the promise.
const PART: u32 = 10;
/// A mass deferral is spread by a fifth either way: over so many parts.
const PARTS: f64 = 4.0;

/// A storm of deferrals.
#[derive(Clone, Copy, Debug)]
struct Storm {
    messages: u32,
    /// The first wait of the retry schedule.
    wait: Duration,
}

/// Most retries in any `part` of the time.
fn peak(retries: &[Instant], part: Duration) -> usize {
    let count_from = |start: &Instant| {
        let window = *start..*start + part;
        retries.iter().filter(|at| window.contains(*at)).count()
    };
    retries.iter().map(count_from).max().unwrap_or_default()
}

fn of_deferrals(storm: Storm) -> Ending {
    let Storm { messages, wait } = storm;
    let world = World::with(&format!("4xx storm, {wait:?}"), Numbers::of(Kind::Plain), |options| {
        let (first, then) = (format!("{}s", wait.as_secs()), "5s".to_owned());
        options.set("retry.schedule", vec![first, then]).set("retry.jitter_percent", 10);
    });
    let (daemon, address) = world.start();
    world.sink.set_mood(Mood::Defer);
    world.load(&Plan::of(messages, 8, &world.numbers), address).join();
    let all = messages as usize;
    assert!(world.until(|| world.sink.tried() == all), "{}: not everything was tried", world.name);
    assert_eq!(world.checker.places(), 0, "{}: something arrived", world.name);
    // From here on every retry is the last one.
    world.sink.set_mood(Mood::Normal);
    let limit = wait * 3 / 2 + super::world::PROGRESS;
    assert!(world.until_for(limit, || world.checker.is_settled()), "{}: something is left", world.name);
    let (part, mean) = (wait / PART, f64::from(messages) / PARTS);
    let peak = peak(&world.sink.retries(), part);
    println!("{}: {messages} retries, at most {peak} within {part:?}, {mean:.1} on average", world.name);
    assert!(peak as f64 <= mean * 2.0, "{}: {peak} retries within {part:?}, {mean:.1} on average", world.name);
    world.finish_with(daemon)
}

fn of_refusals(messages: u32) -> Ending {
    let world = World::new("5xx storm", Numbers::of(Kind::Refused));
    let (daemon, address) = world.start();
    world.sink.set_mood(Mood::Refuse);
    world.load(&Plan::of(messages, 8, &world.numbers), address).join();
    // Each sender has a DSN about its recipient; a second one is found by the check.
    assert!(world.until(|| world.checker.places() == messages as usize), "{}: DSNs are missing", world.name);
    let tried = world.sink.tried();
    assert_eq!((tried, world.sink.retries().len()), (messages as usize, 0), "{}: tried again", world.name);
    world.finish_with(daemon)
}

#[test]
fn deferred_mail_comes_back_spread_out_and_refused_mail_is_reported_once() {
    let mut row = Row::of("F14 4xx and 5xx storm");
    let cases = sized(2, 8);
    let waits = [20, 60, 120, 300].map(Duration::from_secs);

    let ending = in_parallel(sized(2, 4), cases, |number| match number % 2 {
        0 => of_deferrals(Storm { messages: sized(1_000, 2_000) as u32, wait: waits[number / 2] }),
        _ => of_refusals(sized(300, 3_000) as u32),
    });

    row.add(cases, ending);
    assert_eq!(row.sum().duplicates, 0, "{}", row.sum());
}
