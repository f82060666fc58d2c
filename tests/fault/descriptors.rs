//! F9: no descriptor left, in the process and in the system, and not enough memory. Clients are turned away while there are few
//! descriptors, and accepting pauses, ever longer, where there is none; what is queued stays queued; it goes on by itself.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::letter::Kind;
use super::row::{Row, in_parallel, sized};
use super::world::client::{Numbers, Plan};
use super::world::daemon::{Daemon, Launch};
use super::world::strace::{Fault, strace_obstacle};
use super::world::usage::{open_descriptors, ticks};
use super::world::{Ending, World};

/// What the log says when accepting pauses.
const PAUSED: &str = "accepting connections pauses";
/// Clients that come while something is short.
const CLIENTS: u32 = 40;
/// Pauses grow from 10 ms to a second: eight of them, then one a second. Descriptors that deliveries give back let a client
/// in, which stays, and it begins anew.
const GROWING: u64 = 8;
/// For how long the fault lasts.
const LASTS: Duration = Duration::from_secs(3);
/// Descriptors left under the lowered limit: for the sessions of some clients, or for one.
const LEFT: [u64; 2] = [12, 1];
/// The memory of a control group, page cache included: the program, its runtime and some segments.
const GROUP: u64 = 64 << 20;

/// A thing that is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shortage {
    /// RLIMIT_NOFILE is lowered to so many more than are open.
    Descriptors(u64),
    /// A system call gives an error.
    Error(&'static str, &'static str),
    /// A control group holds the memory.
    Memory,
}

const SHORTAGES: [Shortage; 6] = [
    Shortage::Descriptors(LEFT[0]),
    Shortage::Descriptors(LEFT[1]),
    Shortage::Error("accept4", "error=ENFILE"),
    Shortage::Error("socket", "error=ENFILE"),
    Shortage::Error("accept4", "error=ENOMEM"),
    Shortage::Memory,
];

pub fn raw(id: Pid) -> u32 {
    u32::try_from(id.as_raw_nonzero().get()).unwrap()
}

/// Sets the soft limit; none: as high as it may be.
pub fn limit_descriptors(id: Pid, most: Option<u64>) {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", raw(id))).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let maximum = line.split_whitespace().nth(4).and_then(|hard| hard.parse().ok());
    prlimit(Some(id), Resource::Nofile, Rlimit { current: most.or(maximum), maximum }).unwrap();
}

/// What a new client is greeted with; nothing if it is not within a second.
fn greeting(address: SocketAddr) -> String {
    let mut line = String::new();
    let greeted = TcpStream::connect(address).and_then(|stream| {
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        BufReader::new(stream).read_line(&mut line)
    });
    if greeted.is_err() { String::new() } else { line }
}

/// Looks at what accepting did while something was short.
fn watch(world: &World, daemon: &Daemon, shortage: Shortage) {
    let (paused, accepted) = (daemon.log.count(PAUSED), world.checker.accepted());
    let before = ticks(raw(daemon.id()));
    thread::sleep(LASTS);
    let paused = daemon.log.count(PAUSED) - paused;
    let messages = world.checker.accepted() - accepted;
    println!("{shortage:?}: {paused} pauses, {} ticks, {messages} messages", ticks(raw(daemon.id())) - before);
    let most = GROWING * u64::from(CLIENTS + 1) + LASTS.as_secs();
    assert!(paused <= most, "{shortage:?}: accepting spins: {paused} failures");
    if matches!(shortage, Shortage::Error("accept4", _)) {
        assert!(paused > 0, "{shortage:?}: nothing was short");
    }
}

fn run(shortage: Shortage) -> Ending {
    let world = World::new(&format!("{shortage:?}"), Numbers::of(Kind::Plain));
    let (mut daemon, address) = world.start();
    let good = world.load(&Plan { pause: Duration::from_millis(5), ..Plan::endless(2, &world.numbers) }, address);
    assert!(world.until(|| world.checker.accepted() > 10));
    match shortage {
        Shortage::Descriptors(left) => {
            limit_descriptors(daemon.id(), Some(open_descriptors(raw(daemon.id())).unwrap() + left));
        }
        Shortage::Error(calls, action) => daemon.attach(&Fault::all(calls, action)),
        Shortage::Memory => unreachable!("it holds from the start"),
    }
    let more = world.load(&Plan::endless(CLIENTS, &world.numbers), address);
    if let Shortage::Descriptors(_) = shortage {
        assert!(world.until(|| greeting(address).starts_with("421 4.3.2")), "{shortage:?}: nobody is turned away");
    }
    watch(&world, &daemon, shortage);
    match shortage {
        Shortage::Descriptors(_) => limit_descriptors(daemon.id(), None),
        _ => daemon.release(),
    }
    let before = world.checker.accepted();
    assert!(world.until(|| world.checker.accepted() > before + 100), "{}: it does not go on", world.name);
    more.stop();
    good.stop();
    world.finish_with(daemon)
}

/// A control group of version 1 or 2, removed when dropped.
#[derive(Debug)]
struct Group {
    path: PathBuf,
}

impl Group {
    fn make(number: usize) -> Result<Self, String> {
        let name = format!("hikyaku-fault-{}-{number}", std::process::id());
        let places = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        for (place, limit) in places {
            let group = Self { path: PathBuf::from(place).join(&name) };
            if std::fs::create_dir(&group.path).is_ok()
                && std::fs::write(group.path.join(limit), GROUP.to_string()).is_ok()
            {
                return Ok(group);
            }
        }
        Err("no control group for memory can be made".to_owned())
    }

    /// A command that puts itself into the group and becomes what follows.
    fn enter(&self) -> Vec<String> {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.path.display());
        ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process may be gone only just now.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Large messages and many sessions in a group that has less memory than they have octets.
fn run_in(group: &Group) -> Ending {
    let world = World::new("little memory", Numbers::of(Kind::Mixed));
    let launch = Launch { through: group.enter(), ..Launch::default() };
    let (daemon, address) = world.launch(&launch);
    let clients = world.load(&Plan::of(800, 40, &world.numbers), address);
    clients.join();
    world.finish_with(daemon)
}

#[test]
fn without_descriptors_or_memory_accepting_pauses_and_nothing_is_lost() {
    let mut row = Row::of("F9 EMFILE, ENFILE, memory");
    let case = "without_descriptors_or_memory_accepting_pauses_and_nothing_is_lost";
    let obstacle = strace_obstacle();
    let group = Group::make(0);
    if let Err(reason) = &group {
        row.skip(&format!("{case} (memory)"), reason);
    }
    if let Some(obstacle) = &obstacle {
        row.skip(&format!("{case} (errors)"), obstacle);
    }
    let can_run = |shortage: &Shortage| match shortage {
        Shortage::Descriptors(_) => true,
        Shortage::Error(..) => obstacle.is_none(),
        Shortage::Memory => group.is_ok(),
    };
    let cases: Vec<Shortage> =
        (0..sized(6, 20)).map(|number| SHORTAGES[number % SHORTAGES.len()]).filter(can_run).collect();

    let ending = in_parallel(3, cases.len(), |number| match (cases[number], Group::make(number + 1)) {
        (Shortage::Memory, Ok(group)) => run_in(&group),
        (Shortage::Memory, Err(reason)) => panic!("{reason}"),
        (shortage, _) => run(shortage),
    });

    row.add(cases.len(), ending);
    assert_eq!(row.sum().unpredicted + row.sum().duplicates, 0, "{}", row.sum());
}
