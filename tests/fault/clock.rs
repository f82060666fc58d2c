//! F17: the system clock is set, forwards and backwards, while the daemon runs and while it does not. Retries come when they
//! are due by the time that passes, nothing expires for it, and no id is given twice.
//!
//! libfaketime tells the daemon another wall time; the monotonic clock is the real one.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::letter::Kind;
use super::row::{Row, in_parallel, sized};
use super::world::client::{Numbers, Plan};
use super::world::daemon::{Daemon, LOOK, Launch};
use super::world::sink::Mood;
use super::world::{Ending, World};

/// Messages before and after the step.
const FEW: u32 = 30;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
/// Said when SIGHUP comes.
const HANGUP: Duration = Duration::from_secs(20);

/// A step of the clock in seconds.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Under a running daemon.
    Running(i64),
    /// Between two daemons.
    Stopped(i64),
}

/// Beyond the age at which mail expires, where no daemon could tell a wrong clock from a long rest it is not stepped.
const STEPS: [Step; 12] = [
    Step::Running(HOUR),
    Step::Running(-HOUR),
    Step::Running(10 * DAY),
    Step::Running(-10 * DAY),
    Step::Stopped(HOUR),
    Step::Stopped(-HOUR),
    Step::Running(400 * DAY),
    Step::Running(-400 * DAY),
    Step::Stopped(2 * DAY),
    Step::Stopped(-2 * DAY),
    Step::Stopped(-60),
    Step::Stopped(-400 * DAY),
];

/// The library that changes the time, if it is here.
pub fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.map_while(Result::ok).map(|folder| folder.path());
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.exists())
}

/// What the daemon is started with, and the file that says how far its clock is off.
pub fn launch(library: &Path, file: &Path) -> Launch<'static> {
    let environment = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_DONT_RESET", "1".to_owned()),
    ];
    Launch { environment: environment.into(), ..Launch::default() }
}

pub fn set_clock(file: &Path, seconds: i64) {
    std::fs::write(file, format!("{seconds:+}\n")).unwrap();
}

/// The day that the daemon's log has on its last line, after a signal that makes it write one.
fn day(daemon: &Daemon) -> String {
    daemon.signal(Signal::HUP);
    thread::sleep(LOOK);
    daemon.log.last_time().chars().take(13).collect()
}

fn run(step: Step, library: &Path) -> Ending {
    let mut world = World::with(&format!("{step:?}"), Numbers::of(Kind::Plain), |options| {
        options.set("retry.schedule", vec!["3s"]);
    });
    let file = world.folder().join("clock");
    set_clock(&file, 0);
    let (mut daemon, mut address) = world.launch(&launch(library, &file));
    let before = day(&daemon);
    world.sink.set_mood(Mood::Defer);
    world.load(&Plan::of(FEW, 2, &world.numbers), address).join();
    assert!(world.until(|| world.sink.tried() == FEW as usize), "{}: not everything was tried", world.name);
    match step {
        Step::Running(seconds) => set_clock(&file, seconds),
        Step::Stopped(seconds) => {
            let (status, used) = daemon.stop();
            assert_eq!(status.unwrap().code(), Some(0), "{}", world.name);
            world.count_usage(used);
            set_clock(&file, seconds);
            (daemon, address) = world.launch(&launch(library, &file));
        }
    }
    let is_stepped = matches!(step, Step::Stopped(-60)) || world.until_for(HANGUP, || day(&daemon) != before);
    assert!(is_stepped, "{}: the clock is not stepped", world.name);
    world.load(&Plan::of(FEW, 2, &world.numbers), address).join();
    world.sink.set_mood(Mood::Normal);
    // Nothing may come back to a sender: that would be an expiry, and a phantom for the check.
    assert!(world.until(|| world.checker.is_settled()), "{}: something is late", world.name);
    world.finish_with(daemon)
}

#[test]
fn a_step_of_the_clock_neither_expires_nor_delays_anything() {
    let mut row = Row::of("F17 clock steps");
    let Some(library) = library() else {
        let case = "a_step_of_the_clock_neither_expires_nor_delays_anything";
        return row.skip(case, "libfaketime is not installed (Debian: faketime)");
    };
    let cases = sized(6, STEPS.len());

    let ending = in_parallel(6, cases, |number| run(STEPS[number], &library));

    row.add(cases, ending);
    assert_eq!(row.sum().duplicates, 0, "{}", row.sum());
}
