//! F20: the soak: a load for minutes or hours, and faults at random times; the check over the whole, and whether memory grows.
//!
//! In the first third daemons are killed, stopped and started again. The last one lives for two thirds of the time, in which
//! everything goes wrong around it; the slope of its memory is taken over the last two thirds of its life.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hikyaku::log::simulated::Random;
use rustix::process::Signal;

use super::clock::{launch, library, set_clock};
use super::descriptors::{limit_descriptors, raw};
use super::letter::Kind;
use super::loris::{Counts, Slow, flood};
use super::row::{Row, seed};
use super::world::World;
use super::world::client::{Load, Numbers, Plan};
use super::world::daemon::{Daemon, Launch};
use super::world::doubts::Watch;
use super::world::sink::Mood;
use super::world::strace::{Fault, strace_obstacle};
use super::world::usage::open_descriptors;

/// How long a fault lasts.
const LASTS: Duration = Duration::from_secs(3);
/// Between two messages of a client.
const PAUSE: Duration = Duration::from_millis(40);
/// Clients that are slow at once.
const SLOW: usize = 120;
const CLOCK_STEPS: [i64; 3] = [0, 3_600, -3_600];

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// F1.
    Kill,
    /// F18.
    Stop,
    /// F7.
    SyncError,
    /// F8.
    SlowDisk,
    /// F9.
    Descriptors,
    /// F9.
    SystemDescriptors,
    /// F10.
    SlowClients,
    /// F12, F13.
    Silence(Mood),
    /// F14.
    Deferrals,
    /// F14.
    Refusals,
    /// F17.
    Clock,
    /// F18.
    Hangups,
}

/// After these there is another daemon, or perhaps one that closed its spool.
const FATAL: [Trouble; 3] = [Trouble::Kill, Trouble::Stop, Trouble::SyncError];
const BEARABLE: [Trouble; 11] = [
    Trouble::SlowDisk,
    Trouble::Descriptors,
    Trouble::SystemDescriptors,
    Trouble::SlowClients,
    Trouble::Silence(Mood::SilentInContent),
    Trouble::Silence(Mood::SilentAfterDot),
    Trouble::Silence(Mood::SilentAtMail),
    Trouble::Deferrals,
    Trouble::Refusals,
    Trouble::Clock,
    Trouble::Hangups,
];

/// A daemon and its load.
struct Life {
    daemon: Daemon,
    server: SocketAddr,
    clients: Load,
}

struct Soak {
    world: World,
    refused: Arc<Numbers>,
    random: Random,
    can_trace: bool,
    troubles: usize,
}

impl Soak {
    fn begin(&self) -> Life {
        let file = self.world.folder().join("clock");
        let launch = library().map_or_else(Launch::default, |library| launch(&library, &file));
        let (daemon, server) = self.world.launch(&launch);
        let clients = self.world.load(&Plan { pause: PAUSE, ..Plan::endless(4, &self.world.numbers) }, server);
        Life { daemon, server, clients }
    }

    fn end(&mut self, life: Life, by: Trouble) -> Life {
        if by == Trouble::Kill {
            assert!(self.world.kill(life.daemon), "the daemon ended by itself");
        } else {
            let (status, used) = life.daemon.stop();
            assert_eq!(status.unwrap().code(), Some(0), "stopped in good order");
            self.world.count_usage(used);
        }
        // Clients of a daemon that is gone end by themselves.
        life.clients.join();
        self.begin()
    }

    fn trace(&self, life: &mut Life, fault: &Fault<'_>) {
        if self.can_trace {
            life.daemon.attach(fault);
            thread::sleep(LASTS);
            life.daemon.release();
        }
    }

    fn make(&mut self, trouble: Trouble, mut life: Life) -> Life {
        self.troubles += 1;
        match trouble {
            Trouble::Kill | Trouble::Stop => return self.end(life, trouble),
            Trouble::SyncError => {
                let fault = Fault { when: "1".to_owned(), ..Fault::all("fdatasync", "error=EIO") };
                self.trace(&mut life, &fault);
                return self.end(life, Trouble::Kill);
            }
            Trouble::SlowDisk => self.trace(&mut life, &Fault::all("fdatasync", "delay_enter=200000")),
            Trouble::SystemDescriptors => self.trace(&mut life, &Fault::all("accept4,socket", "error=ENFILE")),
            Trouble::Descriptors => {
                let open = open_descriptors(raw(life.daemon.id())).unwrap();
                limit_descriptors(life.daemon.id(), Some(open + 2));
                let more = self.world.load(&Plan::of(200, 10, &self.world.numbers), life.server);
                thread::sleep(LASTS);
                limit_descriptors(life.daemon.id(), None);
                more.join();
            }
            Trouble::SlowClients => {
                let counts = Arc::new(Counts::default());
                assert!(flood(Slow::Content, SLOW, life.server, &counts), "slow clients are not thrown out");
            }
            Trouble::Silence(mood) => self.be(mood),
            Trouble::Deferrals => self.be(Mood::Defer),
            Trouble::Refusals => self.world.load(&Plan::of(100, 4, &self.refused), life.server).join(),
            Trouble::Clock => {
                let step = CLOCK_STEPS[self.random.below(3) as usize];
                set_clock(&self.world.folder().join("clock"), step);
            }
            Trouble::Hangups => (0..10).for_each(|_| life.daemon.signal(Signal::HUP)),
        }
        life
    }

    fn be(&self, mood: Mood) {
        self.world.sink.set_mood(mood);
        thread::sleep(LASTS);
        self.world.sink.set_mood(Mood::Normal);
    }

    /// Makes trouble until `end`; after each there must be progress.
    fn trouble(&mut self, mut life: Life, troubles: &[Trouble], end: Instant) -> Life {
        while Instant::now() < end {
            let trouble = troubles[self.random.below(troubles.len() as u64) as usize];
            life = self.make(trouble, life);
            let (accepted, places) = (self.world.checker.accepted(), self.world.checker.places());
            let pause = Duration::from_millis(1_000 + self.random.below(3_000));
            thread::sleep(pause);
            let checker = Arc::clone(&self.world.checker);
            let goes_on = self.world.until(|| checker.accepted() > accepted && checker.places() > places);
            assert!(goes_on, "after {trouble:?} it does not go on");
            let spool = life.daemon.admin().get("/v1/spool");
            let number = |name: &str| spool[name].as_u64().unwrap_or_default();
            let (segments, copied) = (number("segments"), number("copied"));
            println!("after {trouble:?}: {segments} segments, {copied} messages copied forward");
        }
        life
    }
}

/// Octets an hour that memory grows by, the straight line of least squares through the samples.
fn slope(samples: &[(Duration, u64)]) -> f64 {
    let count = samples.len() as f64;
    let points = || samples.iter().map(|(at, memory)| (at.as_secs_f64() / 3_600.0, *memory as f64));
    let (hours, octets) = points().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let (above, below) = points().fold((0.0, 0.0), |(above, below), (x, y)| {
        (above + (x - hours) * (y - octets), below + (x - hours) * (x - hours))
    });
    above / below
}

#[test]
#[ignore = "takes minutes: tests/faults --soak MINUTES runs it"]
fn after_hours_of_trouble_nothing_is_lost_and_memory_does_not_grow() {
    let mut row = Row::of("F20 soak");
    let minutes: u64 = std::env::var("HIKYAKU_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let total = Duration::from_secs(minutes * 60);
    let world = World::with("soak", Numbers::of(Kind::Mixed), |options| {
        for name in ["connect", "greeting", "ehlo", "mail", "rcpt", "data", "content", "end_of_data"] {
            options.set(&format!("delivery.{name}_timeout"), "2s");
        }
        options.set("retry.schedule", vec!["3s"]).set("retry.jitter_percent", 20);
        options.set("listener.timeout", "4s").set("listener.max_sessions_per_address", 100);
    });
    set_clock(&world.folder().join("clock"), 0);
    let can_trace = strace_obstacle().is_none();
    let (refused, random) = (Numbers::of(Kind::Refused), Random::new(seed()));
    let mut soak = Soak { world, refused, random, can_trace, troubles: 0 };
    let begun = Instant::now();

    let life = soak.begin();
    let watch = Watch::start(life.daemon.admin(), Arc::clone(&soak.world.checker));
    let life = soak.trouble(life, &[&FATAL[..], &BEARABLE[..]].concat(), begun + total / 3);
    let life = soak.end(life, Trouble::Stop);
    let life = soak.trouble(life, &BEARABLE, begun + total);

    let Life { daemon, clients, .. } = life;
    clients.stop();
    let samples = daemon.samples();
    let settled = &samples[samples.len() / 3..];
    let kib_an_hour = slope(settled) / 1_024.0;
    let (first, last) = (settled[0].1 >> 10, settled[settled.len() - 1].1 >> 10);
    row.note(&format!("{minutes} minutes, {} troubles", soak.troubles));
    row.note(&format!("memory {first} KiB, later {last} KiB, slope {kib_an_hour:+.0} KiB an hour"));
    let (troubles, world) = (soak.troubles, &mut soak.world);
    // Silent connections are noticed within their time-outs; nobody is named any more when the queue is empty.
    assert!(world.until(|| daemon.is_empty()), "messages are left");
    world.allow_duplicates(watch.stop());
    row.add(troubles, soak.world.finish_with(daemon));
}
