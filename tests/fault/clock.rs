//! F17: the system clock is set, forwards and backwards, while the daemon runs and while it does not. Retries come when they
//! are due by the time that passes, nothing expires for it, and no id is given twice.
//!
//! A day of a warm-up ends at midnight by the daemon's clock.
//!
//! libfaketime tells the daemon another wall time; the monotonic clock is the real one.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use hikyaku::config::units::Day;
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

/// The daemon begins so long before midnight, a day of a warm-up of which one message may go in three minutes.
const EVE: i64 = 15;
/// The next day has room for everything. At the pace of the day before it would take half an hour.
const NEXT_DAY: Duration = Duration::from_secs(120);

fn over_midnight(library: &Path) -> Ending {
    let world = World::with("midnight", Numbers::of(Kind::Plain), |_| {});
    let now = hikyaku::clock::Clock::system().wall_precise();
    let plan = format!(
        "[[source]]\nname = \"new\"\nipv4 = \"127.0.0.1\"\n[[pool]]\nname = \"default\"\n\
         sources = [{{ source = \"new\" }}]\n[[warmup]]\nsource = \"new\"\nstart = \"{}\"\n\
         volumes = [20, 1000000]\nspread = \"1h\"\n",
        Day::at(now)
    );
    let mut file = std::fs::OpenOptions::new().append(true).open(world.file()).unwrap();
    file.write_all(plan.as_bytes()).unwrap();
    let clock = world.folder().join("clock");
    set_clock(&clock, DAY - EVE - i64::try_from(now.as_secs()).unwrap() % DAY);
    let (daemon, address) = world.launch(&launch(library, &clock));
    let warmup = || daemon.admin().get("/v1/warmup")[0].clone();
    world.load(&Plan::of(10, 2, &world.numbers), address).join();
    assert!(world.until(|| world.sink.tried() > 0), "nothing was tried");

    let eve = warmup();
    assert!(eve["day"] == 2 || (eve["day"] == 1 && eve["sent"] == 1), "{eve}");
    assert!(world.until_for(NEXT_DAY, || world.checker.is_settled()), "{}", warmup());
    assert_eq!((&warmup()["day"], &warmup()["held"]), (&2.into(), &0.into()));
    world.finish_with(daemon)
}

#[test]
fn what_a_day_of_a_warm_up_has_no_room_for_goes_at_midnight() {
    let Some(library) = library() else {
        let case = "what_a_day_of_a_warm_up_has_no_room_for_goes_at_midnight";
        return crate::skip::skip(case, "libfaketime is not installed (Debian: faketime)");
    };

    let ending = over_midnight(&library);

    assert!(ending.failures.is_empty(), "{:#?}", ending.failures);
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
